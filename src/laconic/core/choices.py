"""What the choices for each part of a model cost, by themselves: a table of milliseconds and loss from which allocations are solved.

A part is a group of coupled channels, of which so many are kept; a layer that becomes a chain of some rank, or stays in floats among integers; a block that may
go. What choices lose is added up over the parts. What they take is not: a layer's time depends on the choices at both of its ends and on its own, so times are
kept by all parts that a layer depends on.

Shapes: K choices of a part.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

Kind = Literal["channels", "rank", "bits", "block"]
Milliseconds = np.ndarray[Any, np.dtype[np.float64]]
WHOLE = "whole"  # a layer that is no chain
FLOATS = 32  # bits of a layer in floats among layers in integers


@dataclass(frozen=True)
class Part:
    """Something that is chosen, and its choices.

    Attributes:
        name: of the group of channels, of the layer or of the block.
        values: the K choices; the first one is what the model has in the precision that is solved for: all its channels, its rank (`WHOLE`), 8 bits, 1 block.
        loss: for each of them, by how much the mean loss on examples of the train data rises where it alone is made, and nothing recovers. Of a layer in floats
            it falls.
        kind: of what is chosen.
    """

    name: str
    values: tuple[int | str, ...]
    loss: tuple[float, ...]
    kind: Kind = "channels"


@dataclass(frozen=True, eq=False)
class Cost:
    """Milliseconds that depend on the choices for some parts, or for none.

    Attributes:
        layers: whose time it is.
        parts: positions in `Table.parts`.
        ms: by precision, with a dimension (K) for each of the parts.
    """

    layers: tuple[str, ...]
    parts: tuple[int, ...]
    ms: Mapping[str, Milliseconds]

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {"layers": list(self.layers), "parts": list(self.parts), "ms": {name: ms.tolist() for name, ms in self.ms.items()}}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Cost:
        """Read back what `to_json` wrote."""
        return cls(tuple(data["layers"]), tuple(data["parts"]), {name: np.asarray(ms, np.float64) for name, ms in data["ms"].items()})


@dataclass(frozen=True)
class Row:
    """One choice by itself, all else as it is: what it takes and what it loses."""

    name: str
    value: int | str
    ms: Mapping[str, float]
    loss: float


@dataclass(frozen=True, eq=False)
class Table:
    """The parts of a model, what their choices lose, and what the layers between them take.

    Attributes:
        parts: what is chosen.
        costs: their sum is the time of the layers, and of the call where that was timed.
        runtime: on which layers were timed.
        made: how it was made, for the reader: the criterion, examples, the mean loss of the whole model.
        beside: what the model takes beside all of these, in the precisions in which it was timed: norms, sums, what is rounded. It is predicted, and not
            chosen about.
    """

    parts: tuple[Part, ...]
    costs: tuple[Cost, ...]
    runtime: str = ""
    made: Mapping[str, Any] = field(default_factory=dict)
    beside: tuple[Cost, ...] = ()

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
        return _sum(self.costs, chosen, precision)

    def beside_ms(self, chosen: Sequence[int], precision: str) -> float:
        """Return the time of all else, with a choice for each part; 0 where it is not known."""
        return _sum([cost for cost in self.beside if precision in cost.ms], chosen, precision)

    def loss(self, chosen: Sequence[int]) -> float:
        """Return the rise of the loss, as the sum of what each choice alone makes it rise."""
        return sum(part.loss[k] for part, k in zip(self.parts, chosen, strict=True))

    def values(self, chosen: Sequence[int], kind: Kind = "channels") -> dict[str, Any]:
        """Return the choices for parts of a kind by name, without those that leave their part as it is."""
        return {part.name: part.values[k] for part, k in zip(self.parts, chosen, strict=True) if k and part.kind == kind}

    def only(self, kinds: Collection[Kind]) -> Table:
        """Return the table of the parts of these kinds, all others as they are."""
        places = [i for i, part in enumerate(self.parts) if part.kind in kinds]
        costs, beside = (
            tuple(
                Cost(
                    cost.layers,
                    tuple(places.index(i) for i in cost.parts if i in places),
                    {name: ms[tuple(slice(None) if i in places else 0 for i in cost.parts)] for name, ms in cost.ms.items()},
                )
                for cost in those
            )
            for those in (self.costs, self.beside)
        )
        return Table(tuple(self.parts[i] for i in places), costs, self.runtime, self.made, beside)

    def among_all(self, chosen: Sequence[int], kinds: Collection[Kind]) -> tuple[int, ...]:
        """Return choices of `only(kinds)` as choices of this table, all others as they are."""
        left = iter(chosen)
        return tuple(next(left) if part.kind in kinds else 0 for part in self.parts)

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
            "parts": [{"name": part.name, "kind": part.kind, "values": list(part.values), "loss": list(part.loss)} for part in self.parts],
            "costs": [cost.to_json() for cost in self.costs],
            "beside": [cost.to_json() for cost in self.beside],
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Table:
        """Read back what `to_json` wrote."""
        parts = tuple(Part(item["name"], tuple(item["values"]), tuple(item["loss"]), item["kind"]) for item in data["parts"])
        costs, beside = (tuple(map(Cost.from_json, data.get(name, ()))) for name in ("costs", "beside"))
        return cls(parts, costs, data["runtime"], data["made"], beside)


def _sum(costs: Sequence[Cost], chosen: Sequence[int], precision: str) -> float:
    return float(sum(cost.ms[precision][tuple(chosen[part] for part in cost.parts)] for cost in costs))
