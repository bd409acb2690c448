"""Where a budget ends along one number: the smallest model that holds it lies between one that does and one that does not."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from laconic.run.record import Record
from laconic.search.budget import Budget
from laconic.search.lever import Range

Choices = Mapping[str, Any]


@dataclass(frozen=True)
class _Line:
    """Candidates that differ in one number.

    Attributes:
        name: of the number.
        varied: where it lies.
        held: those that hold the budget.
        lost: those that lose too much.
    """

    name: str
    varied: Range
    held: list[tuple[Choices, Record]]
    lost: list[tuple[Choices, Record]]

    def nearest(self) -> tuple[Choices | None, Choices | None]:
        """Return the smallest model that holds the budget, and the largest of those smaller than it that does not."""
        smallest, largest = (max, min) if self.varied.rises else (min, max)
        held = smallest((choices for choices, _ in self.held), key=self._number, default=None)
        lost = [choices for choices, _ in self.lost if held is None or (choices[self.name] > held[self.name]) is self.varied.rises]
        return held, largest(lost, key=self._number, default=None)

    def _number(self, choices: Choices) -> float:
        return float(choices[self.name])

    def next(self) -> dict[str, Any] | None:
        """Return the choices of a candidate between the two; None where the boundary is known."""
        held, lost = self.nearest()
        value = self.varied.between(*(None if one is None else one[self.name] for one in (held, lost)))
        return None if value is None else {**(held or lost or {}), self.name: value}

    def promise(self, budget: Budget) -> tuple[bool, float]:
        """Return what the most promising has the least of: one that holds the budget comes first, by the objective; others by what they lack."""
        if self.held:
            return False, min(budget.order(record) for _, record in self.held)
        return True, min(budget.shortfall(record) for _, record in self.lost)


def boundary(
    points: Sequence[tuple[Choices, Record]], budget: Budget, varied: Callable[[str], Range | None], same: Iterable[str]
) -> Iterator[dict[str, Any]]:
    """Yield choices of candidates that may be the smallest within the budget, the most promising first.

    Looked at are the best candidate within the budget, and those that are better than it by the objective and lose too much.

    Args:
        points: what was chosen, and what was measured of it after a whole recovery.
        budget: what may be lost.
        varied: of the name of a choice, where it lies; None of one that is no number of which less is a smaller model.
        same: names of choices in which candidates of one line agree; in others they may differ.
    """
    known = [(choices, record) for choices, record in points if record.status in ("passed", "rejected")]
    fitting = {record.key for _, record in known if record.status == "passed" and budget.shortfall(record) == 0}
    best = min((budget.order(record) for _, record in known if record.key in fitting), default=float("inf"))
    lines = dict[tuple[Any, ...], _Line]()
    for choices, record in known:
        fits = record.key in fitting
        if not fits and budget.drop_reason(record, "valid") is None:
            continue
        for name in choices:
            if (span := varied(name)) is not None:
                line = lines.setdefault((name, *(choices.get(one) for one in same)), _Line(name, span, [], []))
                (line.held if fits else line.lost).append((choices, record))
    promising = [line for line in lines.values() if any(budget.order(record) <= best for _, record in (*line.held, *line.lost))]
    for line in sorted(promising, key=lambda one: one.promise(budget)):
        if (found := line.next()) is not None:
            yield found
