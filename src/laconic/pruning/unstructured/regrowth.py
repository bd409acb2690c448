"""Sparse from the first step to the last: the least weights go, as many others grow, and each layer keeps its number."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor, nn

from laconic.core.hook import StatefulHook
from laconic.pruning.unstructured.choice import Chooser
from laconic.pruning.unstructured.masks import Masks
from laconic.pruning.unstructured.patterns import best
from laconic.pruning.unstructured.progression import Progression
from laconic.pruning.unstructured.weights import Weight

Growth = Literal["gradient", "random"]


class Regrow(StatefulHook):
    """At each update a share of each layer's weights goes, those of least magnitude, and as many grow, from zero.

    RigL (Evci et al. 2020, algorithm 1) grows where the gradient is largest: it is there for all weights, masked ones too. SET (Mocanu et al. 2018, section 2)
    grows at random. The share falls by half a cosine wave to 0 at `until`; SET's paper keeps it. As in the authors' code of RigL, a weight that went may grow
    at once again, and then keeps its value. An optimizer's moments have seen the gradients of masked weights too.

    Args:
        chooser: whose masks it begins with, and whose pattern says what grows as one.
        growth: where weights grow: ``gradient`` or ``random``.
        updates: how often.
        until: progress of the training from which masks stay.
        share: of each layer's weights that goes at first.
    """

    def __init__(self, chooser: Chooser, growth: Growth = "gradient", updates: int = 30, until: float = 0.75, share: float = 0.3) -> None:
        self.chooser, self.growth, self.share = chooser, growth, share
        self.progression = Progression(chooser, updates, until, chooser.kept(chooser.scores()))

    @property
    def masks(self) -> Masks:
        """The masks as they are now; after a training, those of the result."""
        return self.progression.masks

    @torch.no_grad()
    def __call__(self, model: nn.Module, progress: float) -> None:
        """See `StatefulHook`."""
        self.progression.apply(model)
        if self.progression.due(progress):
            share = self.share / 2 * (1 + math.cos(math.pi * self.progression.position(progress)))
            self.progression.masks.kept |= {weight.name: self._regrown(weight, share) for weight in self.chooser.weights}
            self.progression.apply(model)

    def _regrown(self, weight: Weight, share: float) -> Tensor:
        """Return the new mask of a weight."""
        magnitude = self.chooser.pattern.units(weight.matrix(weight.parameter.detach().abs()))
        kept = self.progression.units(weight)
        count = int(kept.sum())
        going = round(share * count)
        staying = best(magnitude.masked_fill(~kept, -1), count - going)
        growing = best(self._growth(weight, kept).masked_fill(staying, -1), going)
        return self.chooser.spread(weight, staying | growing)

    def _growth(self, weight: Weight, like: Tensor) -> Tensor:
        """Return the score by which units grow, 0 or more."""
        gradient = weight.parameter.grad
        if self.growth == "random" or gradient is None:
            return torch.rand(like.shape, generator=self.chooser.generator).to(like.device)
        return self.chooser.pattern.units(weight.matrix(gradient.abs()))

    def state(self) -> dict[str, Tensor]:
        """See `StatefulHook`."""
        return self.progression.state()

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """See `StatefulHook`."""
        self.progression.restore(state)
