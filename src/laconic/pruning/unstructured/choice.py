"""Which weights stay: scores, how many of each layer, and the masks that follow.

Shapes: O output channels, C = K · I columns, U units of a pattern.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor

from laconic.pruning.unstructured.allocation import Allocation, Layer
from laconic.pruning.unstructured.criteria import Seen, WeightCriterion, magnitude
from laconic.pruning.unstructured.patterns import Pattern, best
from laconic.pruning.unstructured.weights import Weight

_ROUNDS = 3  # in which weights that nobody reads make place for others
Unit = Literal["sparsity", "threshold", "deviations"]


@dataclass(frozen=True)
class Amount:
    """How much goes: the share of all weights that can be sparse, those below a number, or those below so many deviations of their layer's weights."""

    unit: Unit
    value: float

    def at(self, fraction: float) -> Amount:
        """Return that part of it."""
        return replace(self, value=self.value * fraction)


@dataclass
class Chooser:
    """Chooses masks of some weights by one rule.

    Attributes:
        weights: that can be sparse.
        criterion: scores them.
        pattern: where zeros may stand.
        allocation: how many units of each layer stay.
        amount: how much goes in the end.
        floor: share of each layer that stays in any case.
        seen: by name, what is known of a weight beside itself.
        generator: of random choices.
        unread: by masks, which of the weights that stay make what nobody reads; others stay in their place.
    """

    weights: Sequence[Weight]
    criterion: WeightCriterion
    pattern: Pattern
    allocation: Allocation
    amount: Amount
    floor: float = 0.0
    seen: Mapping[str, Seen] = field(default_factory=dict)
    generator: torch.Generator = field(default_factory=torch.Generator)
    unread: Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]] | None = None

    def __post_init__(self) -> None:
        # once: of what is left of a layer, deviations grow from one choice to the next
        self._deviations = {w.name: float(w.parameter.detach().std()) for w in self.weights if self.amount.unit == "deviations"}

    def scores(self, values: Mapping[str, Tensor] | None = None, gathered: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
        """Return the score of each weight (O, C), by name.

        Args:
            values: that stand for the parameters; None: their own.
            gathered: what the criterion needs, of the parameters' shapes, as a training gathered it; None: what was seen.
        """
        result = {}
        for weight in self.weights:
            value = weight.parameter.detach() if values is None else values[weight.name]
            seen = replace(self.seen.get(weight.name, Seen(value)), weight=weight.matrix(value), generator=self.generator)
            if gathered is not None:
                told: Any = {self.criterion.needs: weight.matrix(gathered[weight.name])}
                seen = replace(seen, **told)
            blind = self.criterion.needs and getattr(seen, self.criterion.needs) is None
            result[weight.name] = (magnitude if blind else self.criterion.score)(seen)
        return result

    def counts(self, scores: Mapping[str, Tensor], fraction: float = 1.0) -> dict[str, int]:
        """Return how many units of each weight stay where this part of the amount goes."""
        units = {weight.name: self.pattern.units(scores[weight.name]) for weight in self.weights}
        amount = self.amount.at(fraction)
        if amount.unit == "sparsity":
            layers = [Layer(weight.shape, units[weight.name]) for weight in self.weights]
            least = [max(1, round(self.floor * layer.units)) for layer in layers]
            return dict(zip(units, self.allocation(layers, 1 - amount.value, least), strict=True))
        edges = {weight.name: amount.value * self._deviations.get(weight.name, 1.0) for weight in self.weights}
        return {name: max(1, int((unit >= edges[name]).sum())) for name, unit in units.items()}

    def kept(self, scores: Mapping[str, Tensor], fraction: float = 1.0) -> dict[str, Tensor]:
        """Return which weights stay: booleans of the parameters' shapes, by name."""
        if self.pattern.grouped:
            keep = self.pattern.of - round((self.pattern.of - self.pattern.keep) * fraction)
            return {weight.name: weight.tensor(self.pattern.best_of_each(scores[weight.name], keep)) for weight in self.weights}
        return self.settled(scores, lambda scores: self._chosen(scores, fraction))

    def settled(self, scores: Mapping[str, Tensor], choose: Callable[[Mapping[str, Tensor]], dict[str, Tensor]]) -> dict[str, Tensor]:
        """Return what is chosen by these scores once weights that make what nobody reads have made place for others."""
        kept = choose(scores)
        for _ in range(_ROUNDS):
            scores, idle = self.read(scores, kept)
            if not idle:
                break
            kept = choose(scores)
        return kept

    def _chosen(self, scores: Mapping[str, Tensor], fraction: float) -> dict[str, Tensor]:
        counts = self.counts(scores, fraction)
        return {weight.name: self.spread(weight, self._best(scores[weight.name], counts[weight.name])) for weight in self.weights}

    def read(self, scores: Mapping[str, Tensor], kept: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], bool]:
        """Return the scores with those of weights that make what nobody reads under these masks at the least, and whether there are any."""
        if self.unread is None or self.pattern != Pattern():  # whole blocks stay or go
            return dict(scores), False
        idle = self.unread(kept)
        result = {w.name: scores[w.name].masked_fill(w.matrix(idle[w.name]).to(scores[w.name].device), -math.inf) for w in self.weights}
        return result, any(bool(mask.any()) for mask in idle.values())

    def _best(self, scores: Tensor, count: int) -> Tensor:
        return best(self.pattern.units(scores), count, self.criterion.by_output)

    def spread(self, weight: Weight, units: Tensor) -> Tensor:
        """Return a mask of the parameter's shape, of which units stay."""
        return weight.tensor(self.pattern.spread(units))

    def solved(self) -> dict[str, Tensor]:
        """Return the new values of the weights whose zeros the others make up for, by name; those without what that needs are left out."""
        solve: Callable[..., Tensor] | None = self.criterion.solve
        if solve is None:
            return {}
        counts = {} if self.pattern.grouped else self.counts(self.scores())
        result = {}
        for weight in self.weights:
            seen = self.seen.get(weight.name)
            if seen is not None and seen.gram is not None:
                matrix = weight.matrix(weight.parameter.detach())
                density = counts[weight.name] / self.pattern.units(matrix).numel() if counts else 0.0
                result[weight.name] = weight.tensor(solve(matrix, seen.gram, density, self.pattern))
        return result
