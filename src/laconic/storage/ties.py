"""Numbers of a tensor that are equal stay equal while it trains: what is trained is the values that they share (Han et al. 2016, section 3.3).

The gradient of a shared value is the sum of its numbers' gradients (eq. 3). Each number is given that sum in place of its own, so that any optimizer that
works number by number moves all of them as it would move the one value that they share, its state and weight decay included; no operator is added to
the graph. Zeros stay zero: they are no shared value, but pruned.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class Tie:
    """The ties of one parameter: of the numbers that are equal now.

    Attributes:
        parameter: whose.
        codes: for each number of it, flat, which of the shared values it has.
    """

    def __init__(self, parameter: nn.Parameter) -> None:
        values, codes = torch.unique(parameter.detach(), return_inverse=True)
        self.parameter, self.codes = parameter, codes.flatten()
        self.counts = torch.bincount(self.codes, minlength=len(values))
        self.zeros = values == 0

    def summed(self, gradient: Tensor) -> Tensor:
        """Return the gradient with each number's replaced by the sum over those that it is tied to; 0 for zeros."""
        return self._shared(gradient, torch.ones_like(self.counts))

    @torch.no_grad()
    def hold(self) -> None:
        """Give tied numbers their mean: nothing changes where the optimizer worked number by number."""
        self.parameter.copy_(self._shared(self.parameter, self.counts))

    def _shared(self, numbers: Tensor, divisors: Tensor) -> Tensor:
        if self.codes.device != numbers.device:
            self.codes, self.counts, self.zeros = (each.to(numbers.device) for each in (self.codes, self.counts, self.zeros))
        # in float64: the mean of equal numbers of float32 is that number
        totals = torch.bincount(self.codes, numbers.detach().flatten().double(), len(self.counts)) / divisors.to(numbers.device)
        totals[self.zeros] = 0.0
        return totals.to(numbers.dtype)[self.codes].view(numbers.shape)


class Ties:
    """Called as `(model, progress)` after each optimizer step, a hook of `fit`: holds the ties of some parameters."""

    def __init__(self, ties: Iterable[Tie]) -> None:
        self.ties = tuple(ties)

    def __call__(self, model: nn.Module, progress: float) -> None:
        """Give tied numbers their mean."""
        self.hold()

    def hold(self) -> None:
        """Give tied numbers their mean, in all parameters."""
        for tie in self.ties:
            tie.hold()


@contextmanager
def tied(parameters: Iterable[nn.Parameter]) -> Iterator[Ties]:
    """Tie the numbers of each parameter that are equal now while the context is open: their gradients are summed, in any training loop.

    Yields:
        A hook of `fit`; loops of one's own call it after each optimizer step. Whatever moved the parameters last (an average of weights), when the context
        closes the ties hold.
    """
    ties = Ties(Tie(parameter) for parameter in parameters)
    handles = [tie.parameter.register_hook(tie.summed) for tie in ties.ties]
    try:
        yield ties
        ties.hold()
    finally:
        for handle in handles:
            handle.remove()
