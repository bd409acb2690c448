"""What a row of the tables is, how labels follow a mixture, and where random numbers come from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Augmentation:
    """One way to alter a batch.

    Attributes:
        function: `(batch, strength) -> batch`; never changes the batch given. The batch is a floating-point tensor, or `text.Text`.
        strength: what a strength means, with its unit.
        source: the paper and section, or the package.
        mixes: returns `(batch, Mix)`, because targets are mixed too.
        synonyms: needs a source of synonyms.
        kinds: of data that a row of another package is for: ``image``, ``series``, ``text``; rows of this one stand in their kind's table.
    """

    function: Callable[[Any, float], Any]
    strength: str
    source: str
    mixes: bool = False
    synonyms: bool = False
    kinds: tuple[str, ...] = ()


@dataclass(frozen=True)
class Mix:
    """The label rule of a mixture: the loss is `share * L(out, t) + (1 - share) * L(out, t[order])`.

    Attributes:
        order: (B,), whose target is mixed in; on the batch's device.
        share: weight of the example's own target.
    """

    order: Tensor
    share: float


# All random numbers are drawn on the processor by torch's global generator, in float32: one saved state tells all that follows, and a seed gives the
# same batch in any precision and on any device, as far as the arithmetic does.


def uniform(shape: Sequence[int], low: float, high: float, like: Tensor) -> Tensor:
    """Draw numbers in [low, high), in the dtype and on the device of `like`."""
    return (low + (high - low) * torch.rand(*shape)).to(like)


def normal(shape: Sequence[int], like: Tensor) -> Tensor:
    """Draw numbers of mean 0 and deviation 1, in the dtype and on the device of `like`."""
    return torch.randn(*shape).to(like)


def beta(a: float) -> float:
    """Draw one number of Beta(a, a)."""
    return float(torch.distributions.Beta(a, a).sample())


_MIXUP = 0.2


def mixup(x: Tensor, strength: float) -> tuple[Tensor, Mix]:
    """Mix each example with another, all in one share (Zhang et al. 2018, section 2): `share * x + (1 - share) * x[order]`.

    The share is the larger of λ and 1 − λ, λ ~ Beta(a, a), a = 0.2 · strength: the pairs are as likely either way round, so the mixtures are those of the
    paper, and an example's own target leads.
    """
    share = beta(_MIXUP * strength)
    share = max(share, 1 - share)
    order = torch.randperm(len(x)).to(x.device)
    return share * x + (1 - share) * x[order], Mix(order, share)


MIXUP = Augmentation(
    mixup,
    "Beta(0.2 · strength, 0.2 · strength) is the law of the share; the larger part keeps its place",
    "Zhang et al. 2018, section 2",
    mixes=True,
)
