"""The best allocation for a time, and for a whole ladder of times: of each part one choice, so that the loss is least and the layers keep to the time.

A knapsack with several choices for each part (multiple-choice knapsack), in which the time of a layer depends on the choices at both of its ends, and on its
own rank and bits. A joint choice of all of these is a variable of its own; those that agree in one part's choice add up to it (the local polytope of graphical
models: Wainwright and Jordan 2008, section 4.1). So the whole is linear, and solved exactly by branch and bound (HiGHS, through `scipy.optimize.milp`).

Shapes: N variables, R conditions.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from laconic.core.choices import Cost, Table
from laconic.core.errors import BadInput

_SECONDS = 20.0  # of branch and bound for one time; the best that was found until then is good enough
_GAP = 1e-4  # of the loss: what is nearer to the optimum counts as it
_TIE = 1e-4  # by how much of the largest loss all of the time counts: of equal losses, the faster


@dataclass(frozen=True)
class Allocation:
    """A choice for each part, by its position, and what is predicted of it.

    Attributes:
        chosen: of each part of the table.
        ms: time of the layers, as the table has it.
        share: of the time of the layers as they are.
        loss: by how much the loss rises before anything recovers.
    """

    chosen: tuple[int, ...]
    ms: float
    share: float
    loss: float


def solve(table: Table, shares: Sequence[float], precision: str) -> list[Allocation]:
    """Return the allocation of least predicted loss for each of several times.

    Args:
        table: what choices lose and layers take.
        shares: of the time of the layers as they are, each of which is kept to.
        precision: in which the layers will compute; one of the table's.

    Raises:
        BadInput: a share that cannot be reached, with the least that can; a precision that was not timed; a table without parts.
    """
    if not table.parts:
        raise BadInput("there is nothing to choose: the table has no parts")
    if precision not in table.precisions:
        raise BadInput(f"layers were timed in {', '.join(table.precisions) or 'no precision'}; not in {precision}")
    program = _Program(table, precision)
    return [program.solved(share) for share in shares]


class _Program:
    """The linear program of a table, of which only the right side changes with the time."""

    def __init__(self, table: Table, precision: str) -> None:
        self.table, self.precision = table, precision
        self.start = np.concatenate([[0], np.cumsum([len(part.values) for part in table.parts])]).astype(int)
        self.joint = [cost for cost in table.costs if len(cost.parts) > 1]
        self.joint_start = self.start[-1] + np.concatenate([[0], np.cumsum([cost.ms[precision].size for cost in self.joint])]).astype(int)
        self.whole_ms = table.ms(table.whole, precision)

    def solved(self, share: float) -> Allocation:
        """Return the allocation for a share of the time.

        Raises:
            BadInput: it cannot be reached.
        """
        from scipy.optimize import Bounds, LinearConstraint, milp

        limit = share * self.whole_ms
        result = milp(
            self._objective,
            integrality=self._whole_numbers,
            bounds=Bounds(0, 1),
            constraints=[LinearConstraint(*self._ties), LinearConstraint(self._ms[None], -np.inf, limit)],
            options={"time_limit": _SECONDS, "mip_rel_gap": _GAP},
        )
        if result.x is None:
            raise BadInput(f"{share:.2f} of the layers' time cannot be reached: {self.least:.2f} is the least with these choices")
        chosen = tuple(int(np.argmax(result.x[a:b])) for a, b in zip(self.start, self.start[1:], strict=False))
        return self.told(chosen)

    def told(self, chosen: tuple[int, ...]) -> Allocation:
        """Return a choice with its predictions."""
        ms = self.table.ms(chosen, self.precision)
        return Allocation(chosen, ms, ms / self.whole_ms, self.table.loss(chosen))

    @cached_property
    def least(self) -> float:
        """The least share of the time that any choices reach."""
        from scipy.optimize import Bounds, LinearConstraint, milp

        result = milp(self._ms, integrality=self._whole_numbers, bounds=Bounds(0, 1), constraints=LinearConstraint(*self._ties))
        return float(self._ms @ result.x) / self.whole_ms

    @property
    def _size(self) -> int:
        return int(self.joint_start[-1])

    @property
    def _whole_numbers(self) -> Any:
        """Of each variable whether it is a whole number, (N,): choices are, and joint ones follow from them."""
        return (np.arange(self._size) < self.start[-1]).astype(int)

    @cached_property
    def _ms(self) -> Any:
        """The time of each variable, (N,); what depends on nothing is shared out over the choices of the first part, of which there is always one."""
        result = np.zeros(self._size)
        for cost in self.table.costs:
            ms = cost.ms[self.precision]
            if not cost.parts:
                result[: self.start[1]] += float(ms)
            elif len(cost.parts) == 1:
                (part,) = cost.parts
                result[self.start[part] : self.start[part + 1]] += ms
        for cost, begin in zip(self.joint, self.joint_start, strict=False):
            ms = cost.ms[self.precision]
            result[begin : begin + ms.size] += ms.ravel()
        return result

    @cached_property
    def _objective(self) -> Any:
        """The loss of each variable, (N,), relative to the largest, and a little for its time."""
        losses = np.concatenate([part.loss for part in self.table.parts])
        result = _TIE * self._ms / self.whole_ms
        result[: self.start[-1]] += losses / (np.abs(losses).max() or 1.0)
        return result

    @cached_property
    def _ties(self) -> tuple[Any, Any, Any]:
        """One choice for each part, and joint ones that agree with the choices for each of their parts: a matrix (R, N) and its two sides."""
        from scipy.sparse import csr_array

        rows = [
            *self._one_each(),
            *(row for cost, begin in zip(self.joint, self.joint_start, strict=False) for row in self._agreeing(cost, int(begin))),
        ]
        entries = [(r, column, value) for r, (row, _) in enumerate(rows) for column, value in row.items()]
        r, columns, values = (np.array(each) for each in zip(*entries, strict=True))
        right = np.array([side for _, side in rows])
        return csr_array((values, (r, columns)), shape=(len(rows), self._size)), right, right

    def _one_each(self) -> Iterator[tuple[dict[int, float], float]]:
        for a, b in zip(self.start, self.start[1:], strict=False):
            yield dict.fromkeys(range(int(a), int(b)), 1.0), 1.0

    def _agreeing(self, cost: Cost, begin: int) -> Iterator[tuple[dict[int, float], float]]:
        variables: Any = begin + np.arange(cost.ms[self.precision].size).reshape(cost.ms[self.precision].shape)
        for axis, part in enumerate(cost.parts):
            for k, those in enumerate(np.moveaxis(variables, axis, 0)):
                yield {**dict.fromkeys(those.ravel().tolist(), 1.0), int(self.start[part]) + k: -1.0}, 0.0
