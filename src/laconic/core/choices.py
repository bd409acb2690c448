"""What the choices for each part of a model cost, by themselves: a table of milliseconds and loss from which allocations are solved.

A part is a group of coupled channels, of which so many are kept; a layer, of which the rank or the bits are chosen, would be another kind. What choices lose
is added up over the parts. What they take is not: a layer's time depends on the choices at both of its ends, so times are kept by pairs.

Shapes: K choices of a part.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

Milliseconds = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True)
class Part:
    """Something that is chosen, and its choices.

    Attributes:
        name: of the group of channels.
        values: the K choices; the first one is what the model has.
        loss: for each of them, by how much the mean loss on examples of the train data rises where it alone is made, and nothing recovers.
    """

    name: str
    values: tuple[int, ...]
    loss: tuple[float, ...]


@dataclass(frozen=True, eq=False)
class Cost:
    """Milliseconds that depend on the choices for no part, one or two.

    Attributes:
        layers: whose time it is.
        parts: positions in `Table.parts`.
        ms: by precision, of the shape (), (K,) or (K, K).
    """

    layers: tuple[str, ...]
    parts: tuple[int, ...]
    ms: Mapping[str, Milliseconds]


@dataclass(frozen=True)
class Row:
    """One choice by itself, all else as it is: what it takes and what it loses."""

    name: str
    value: int
    ms: Mapping[str, float]
    loss: float


@dataclass(frozen=True, eq=False)
class Table:
    """The parts of a model, what their choices lose, and what the layers between them take.

    Attributes:
        parts: what is chosen.
        costs: their sum is the time of the layers.
        runtime: on which layers were timed.
        made: how it was made, for the reader: the criterion, examples, the mean loss of the whole model.
    """

    parts: tuple[Part, ...]
    costs: tuple[Cost, ...]
    runtime: str = ""
    made: Mapping[str, Any] = field(default_factory=dict)

    @property
    def precisions(self) -> tuple[str, ...]:
        """In which layers were timed."""
        return tuple(self.costs[0].ms) if self.costs else ()

    @property
    def whole(self) -> tuple[int, ...]:
        """The choice that leaves everything as it is."""
        return (0,) * len(self.parts)

    def ms(self, chosen: Sequence[int], precision: str) -> float:
        """Return the time of the layers, with a choice (its position) for each part."""
        return float(sum(cost.ms[precision][tuple(chosen[part] for part in cost.parts)] for cost in self.costs))

    def loss(self, chosen: Sequence[int]) -> float:
        """Return the rise of the loss, as the sum of what each choice alone makes it rise."""
        return sum(part.loss[k] for part, k in zip(self.parts, chosen, strict=True))

    def values(self, chosen: Sequence[int]) -> dict[str, int]:
        """Return the choices by name, without those that leave their part as it is."""
        return {part.name: part.values[k] for part, k in zip(self.parts, chosen, strict=True) if k}

    def rows(self) -> Iterator[Row]:
        """Return each choice by itself."""
        for index, part in enumerate(self.parts):
            for k, value in enumerate(part.values):
                chosen = tuple(k if i == index else 0 for i in range(len(self.parts)))
                yield Row(part.name, value, {name: self.ms(chosen, name) for name in self.precisions}, part.loss[k])

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            "runtime": self.runtime,
            "made": dict(self.made),
            "parts": [{"name": part.name, "values": list(part.values), "loss": list(part.loss)} for part in self.parts],
            "costs": [
                {"layers": list(c.layers), "parts": list(c.parts), "ms": {name: ms.tolist() for name, ms in c.ms.items()}}
                for c in self.costs
            ],
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Table:
        """Read back what `to_json` wrote."""
        parts = tuple(Part(item["name"], tuple(item["values"]), tuple(item["loss"])) for item in data["parts"])
        costs = (
            Cost(tuple(c["layers"]), tuple(c["parts"]), {name: np.asarray(ms, np.float64) for name, ms in c["ms"].items()})
            for c in data["costs"]
        )
        return cls(parts, tuple(costs), data["runtime"], data["made"])
