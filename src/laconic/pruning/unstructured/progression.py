"""What masks that change while a model trains have in common: when they are due, what holds between, and what a checkpoint keeps."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

from laconic.pruning.unstructured.choice import Chooser
from laconic.pruning.unstructured.criteria import Need
from laconic.pruning.unstructured.masks import Masks
from laconic.pruning.unstructured.weights import Weight

_LAST, _RANDOM, _MASK = "last", "random", "mask."
_MEMORY = 0.999  # of a squared gradient's mean at each step


def cubic(position: float) -> float:
    """Return which part of the final sparsity holds: 1 − (1 − t)³, fast at first, while there is much to choose from (Zhu & Gupta 2017, eq. 1).

    >>> [cubic(t) for t in (0.0, 0.5, 1.0)]
    [0.0, 0.875, 1.0]
    """
    return 1.0 - (1.0 - position) ** 3


class Progression:
    """Masks, and when they are made anew: so many times, at equal distances, until a progress of the training.

    Args:
        chooser: of masks.
        updates: how often masks are made; the last time is at `until`.
        until: progress of the training from which they stay.
        kept: the masks at the beginning; None: all stays.
    """

    def __init__(self, chooser: Chooser, updates: int, until: float, kept: Mapping[str, Tensor] | None = None) -> None:
        whole = {weight.name: torch.ones_like(weight.parameter, dtype=torch.bool) for weight in chooser.weights}
        self.chooser, self.updates, self.until, self.last = chooser, updates, until, 0
        self.masks = Masks(whole if kept is None else kept)

    def position(self, progress: float) -> float:
        """Return how much of its way is done, in [0, 1]."""
        return min(1.0, progress / self.until)

    def due(self, progress: float) -> bool:
        """Return whether masks are due now; True once for each time."""
        now = int(self.position(progress) * self.updates + 1e-9)
        due, self.last = now > self.last, max(now, self.last)
        return due

    def apply(self, model: nn.Module) -> None:
        """Set what is masked to zero."""
        self.masks.apply(model)

    def kept(self, weight: Weight) -> Tensor:
        """Return the mask of a weight, where its parameter is."""
        return self.masks.kept[weight.name].to(weight.parameter.device)

    def units(self, weight: Weight) -> Tensor:
        """Return which of a weight's units stay."""
        return self.chooser.pattern.units(weight.matrix(self.kept(weight)).to(torch.float32)) > 0

    def state(self) -> dict[str, Tensor]:
        """Return what a checkpoint keeps."""
        return {_LAST: torch.tensor(self.last), _RANDOM: self.chooser.generator.get_state(), **prefixed(_MASK, self.masks.state())}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Continue from what `state` returned."""
        self.last = int(state[_LAST])
        self.chooser.generator.set_state(state[_RANDOM])
        self.masks.restore(part(_MASK, state))


class Gathered(Protocol):
    """What is gathered over the steps of a training for a criterion that looks at gradients.

    Attributes:
        total: of each weight, by name, of its parameter's shape.
    """

    total: dict[str, Tensor]

    def add(self) -> None:
        """Take in the step that was just made."""

    def settle(self) -> None:
        """Note the weights as the next step finds them."""

    def clear(self) -> None:
        """Begin anew behind new masks, as far as it is about what masks change."""

    def state(self) -> dict[str, Tensor]:
        """Return what a checkpoint keeps."""

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Continue from what `state` returned."""


class Slopes:
    """Sums gradient times weight over the steps of a training; the weights are those that the gradients were taken at."""

    def __init__(self, weights: Sequence[Weight]) -> None:
        self.weights = weights
        self.before = {weight.name: weight.parameter.detach().clone() for weight in weights}
        self.total = {name: torch.zeros_like(value) for name, value in self.before.items()}

    def add(self) -> None:
        """See `Gathered`."""
        for weight in self.weights:
            gradient = weight.parameter.grad
            if gradient is not None:
                total, before = (table[weight.name].to(gradient.device) for table in (self.total, self.before))
                self.total[weight.name] = total + gradient * before

    def settle(self) -> None:
        """See `Gathered`."""
        self.before = {weight.name: weight.parameter.detach().clone() for weight in self.weights}

    def clear(self) -> None:
        """See `Gathered`."""
        self.total = {name: torch.zeros_like(value) for name, value in self.total.items()}

    def state(self) -> dict[str, Tensor]:
        """See `Gathered`."""
        return prefixed("before.", self.before) | prefixed("total.", self.total)

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """See `Gathered`."""
        self.before, self.total = part("before.", state), part("total.", state)


class Bends:
    """Averages squared gradients over the late steps of a training: a thousand or so, in which they change little."""

    def __init__(self, weights: Sequence[Weight]) -> None:
        self.weights = weights
        self.total = {weight.name: torch.zeros_like(weight.parameter, requires_grad=False) for weight in weights}

    def add(self) -> None:
        """See `Gathered`."""
        for weight in self.weights:
            gradient = weight.parameter.grad
            if gradient is not None:
                total = self.total[weight.name].to(gradient.device)
                self.total[weight.name] = _MEMORY * total + (1 - _MEMORY) * gradient.to(total.dtype).square()

    def settle(self) -> None:
        """See `Gathered`."""

    def clear(self) -> None:
        """See `Gathered`: squared gradients are about all weights, those behind masks too."""

    def state(self) -> dict[str, Tensor]:
        """See `Gathered`."""
        return dict(self.total)

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """See `Gathered`."""
        self.total = dict(state)


# What a criterion needs -> what gathers it while a model trains.
GATHERED: Mapping[Need, Callable[[Sequence[Weight]], Gathered]] = {"slope": Slopes, "bend": Bends}


def prefixed(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors under names with a prefix."""
    return {prefix + name: value for name, value in tensors.items()}


def part(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return those with a prefix, under the names behind it."""
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
