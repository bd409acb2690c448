"""Masks that follow the weights while a model trains: gradual pruning, and dynamic network surgery. Each is a hook of `fit`."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from laconic.core.hook import StatefulHook
from laconic.pruning.unstructured.choice import Chooser
from laconic.pruning.unstructured.masks import Masks
from laconic.pruning.unstructured.patterns import best
from laconic.pruning.unstructured.progression import GATHERED, Gathered, Progression, cubic, part, prefixed

_SHADOW, _GATHERED = "shadow.", "gathered."


class Gradual(StatefulHook):
    """More and more weights become zero, by a cubic schedule (Zhu & Gupta 2017, section 3). What is zero stays so.

    Args:
        chooser: of the masks.
        updates: how often masks are made.
        until: progress of the training from which they stay.
    """

    def __init__(self, chooser: Chooser, updates: int = 100, until: float = 0.75) -> None:
        self.chooser, self.progression = chooser, Progression(chooser, updates, until)
        make = GATHERED.get(chooser.criterion.needs)
        self.gathered: Gathered | None = None if make is None else make(chooser.weights)

    @property
    def masks(self) -> Masks:
        """The masks as they are now; after a training, those of the result."""
        return self.progression.masks

    @torch.no_grad()
    def __call__(self, model: nn.Module, progress: float) -> None:
        """See `StatefulHook`."""
        if self.gathered is not None:
            self.gathered.add()
        if self.progression.due(progress):
            self._choose(self.progression.position(progress))
        self.progression.apply(model)
        if self.gathered is not None:
            self.gathered.settle()

    def _choose(self, position: float) -> None:
        scores = self.chooser.scores(gathered=None if self.gathered is None else self.gathered.total)
        for weight in self.chooser.weights:
            scores[weight.name] = scores[weight.name].masked_fill(~weight.matrix(self.progression.kept(weight)), -math.inf)
        self.progression.masks.kept = self.chooser.kept(scores, cubic(position))
        if self.gathered is not None and not self.chooser.criterion.sums:
            self.gathered.clear()

    def state(self) -> dict[str, Tensor]:
        """See `StatefulHook`."""
        return self.progression.state() | prefixed(_GATHERED, {} if self.gathered is None else self.gathered.state())

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """See `StatefulHook`."""
        self.progression.restore(state)
        if self.gathered is not None:
            self.gathered.restore(part(_GATHERED, state))


class Surgery(StatefulHook):
    """Dynamic network surgery: weights go below one threshold and come back above a higher one (Guo et al. 2016, eq. 3 and algorithm 1).

    Behind each masked weight a dense one goes on: the forward sees the masked weight, and the step that its gradient makes is added to the dense one. The
    thresholds lie a margin below and above the score at which the wanted number stays; the paper's come from the mean and deviation of a layer's weights.
    There, masks change with a probability that falls; here, so many times until a progress of the training. In the end exactly the wanted number stays.

    Nothing answers a weight behind its mask, so it would drift on and come back far larger than anything that the others have learned to live with. In the
    authors' solver weight decay acts on dense weights. Here one behind its mask loses a share at each step, whatever the plan's decay, so that what brings
    it back is the gradient of late; and it comes back no larger than the upper threshold.

    Args:
        chooser: of the wanted number, and of the scores of dense weights.
        updates: how often masks are made.
        until: progress of the training from which they stay.
        margin: of the thresholds, relative; 0.1 in the authors' code.
        decay: share of a weight behind its mask that goes at each step.
    """

    def __init__(self, chooser: Chooser, updates: int = 100, until: float = 0.75, margin: float = 0.1, decay: float = 0.02) -> None:
        self.chooser, self.progression, self.margin, self.decay = chooser, Progression(chooser, updates, until), margin, decay
        self.shadow = {weight.name: weight.parameter.detach().clone() for weight in chooser.weights}

    @property
    def masks(self) -> Masks:
        """The masks as they are now; after a training, those of the result."""
        return self.progression.masks

    @torch.no_grad()
    def __call__(self, model: nn.Module, progress: float) -> None:
        """See `StatefulHook`."""
        for weight in self.chooser.weights:
            now = weight.parameter.detach()
            # what stood at zero is the step alone
            behind = (1 - self.decay) * self.shadow[weight.name].to(now.device) + now
            self.shadow[weight.name] = torch.where(self.progression.kept(weight), now, behind)
        if self.progression.due(progress):
            self._operate(self.progression.position(progress))
        for weight in self.chooser.weights:
            weight.parameter.copy_(self.shadow[weight.name])
        self.progression.apply(model)

    def _operate(self, position: float) -> None:
        before, edges = self.progression.masks.kept, dict[str, Tensor]()
        scores, _ = self.chooser.read(self.chooser.scores(self.shadow), before)
        self.progression.masks.kept = self.chooser.settled(scores, lambda scores: self._chosen(scores, position, before, edges))
        for weight in self.chooser.weights:
            edge, shadow = edges[weight.name], self.shadow[weight.name]
            if 0 < edge < math.inf:
                back = weight.matrix(self.progression.kept(weight) & ~before[weight.name].to(shadow.device))
                share = ((1 + self.margin) * edge / self.chooser.pattern.units(scores[weight.name])).clamp(max=1)
                shadow *= weight.tensor(torch.where(back, self.chooser.pattern.spread(share).to(shadow.dtype), 1))

    def _chosen(
        self, scores: Mapping[str, Tensor], position: float, before: Mapping[str, Tensor], edges: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        """Return masks, and note the score at which the wanted number of each weight's units stays."""
        counts, kept = self.chooser.counts(scores, cubic(position)), {}
        for weight in self.chooser.weights:
            units = self.chooser.pattern.units(scores[weight.name])
            chosen = best(units, counts[weight.name])
            edge = edges[weight.name] = units[chosen].min()
            if position < 1:
                unsure = (units >= (1 - self.margin) * edge) & (units <= (1 + self.margin) * edge)
                chosen = torch.where(unsure, self.chooser.pattern.units(weight.matrix(before[weight.name].to(units))) > 0, chosen)
            kept[weight.name] = self.chooser.spread(weight, chosen)
        return kept

    def state(self) -> dict[str, Tensor]:
        """See `StatefulHook`."""
        return self.progression.state() | prefixed(_SHADOW, self.shadow)

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """See `StatefulHook`."""
        self.progression.restore(state)
        self.shadow = part(_SHADOW, state)
