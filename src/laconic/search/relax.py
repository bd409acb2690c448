"""Where no budget is met: which single limit to relax, by how much, and what would be delivered then."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from laconic.core import quantities
from laconic.run.record import Record
from laconic.search.budget import Budget
from laconic.search.select import judged_by

_DIGITS = 3  # of a relaxed limit


@dataclass(frozen=True)
class Relaxed:
    """A limit by name, the nearest number at which the budget is met (in the limit's unit, rounded to the generous side), and what is the best then."""

    limit: str
    asked: float
    enough: float
    key: str
    title: str
    speedup: float | None


def relaxations(records: Sequence[Record], budget: Budget) -> list[Relaxed]:
    """Return each limit that alone stands in the way, in the budget's order.

    Args:
        records: all, measured, the baselines first.
        budget: that none of them meets; nothing is returned where one does, and test data said no.
    """
    if any(record.status == "passed" for record in judged_by(records, budget)):
        return []
    found = (_relaxed(records, budget, name) for name in budget.asked)
    return [one for one in found if one is not None]


def _relaxed(records: Sequence[Record], budget: Budget, name: str) -> Relaxed | None:
    free = budget.at(name, math.inf)
    held = [record for record in judged_by(records, free) if record.status == "passed"]
    needs = [(_needed(record, budget, name), free.order(record), record) for record in held]
    known = [need for need in needs if need[0] is not None]
    if not known:
        return None
    row = quantities.limited(name)[0]
    enough, _, record = min(known, key=lambda need: (row.cost(need[0]), need[1]))  # type: ignore[arg-type]
    assert enough is not None
    return Relaxed(name, budget.asked[name], enough, record.key, record.title, record.value("speedup"))


def _needed(record: Record, budget: Budget, name: str) -> float | None:
    """Return the number at which a limit would hold for a record, rounded so that it does; None where it was not measured."""
    worst: list[float] = []
    for row in quantities.limited(name):
        measured = record.measured.get(row.name)
        if row.limit is None or (row.data == "test" and measured is None):
            continue
        value = None if measured is None else row.bad_end(measured) if budget.confident or row.limit.surely else measured.value
        if value is None:
            return None
        worst.append(_generous(value / row.limit.per, row.direction == "min"))
    if not worst:
        return None
    return max(worst) if quantities.limited(name)[0].direction == "min" else min(worst)


def _generous(value: float, up: bool) -> float:
    """Round to a few digits, upwards or downwards.

    >>> _generous(0.83412, True), _generous(1.2399, False), _generous(-0.2, True)
    (0.835, 1.23, -0.2)
    """
    if value == 0:
        return 0.0
    places = _DIGITS - 1 - math.floor(math.log10(abs(value)))
    scaled = round(value * 10.0**places, 6)
    return (math.ceil(scaled) if up else math.floor(scaled)) / 10.0**places


def told_relaxed(relaxed: Sequence[Relaxed], unit: str) -> Iterator[str]:
    """Yield a sentence that says which single limit would do; nothing where none would. `unit` is that of the drop."""
    known = quantities.limits()
    ways = [f"{known[one.limit].told(one.enough, unit)} ({_what(one)})" for one in relaxed]
    if ways:
        yield f"Relaxing one limit would do: {', or '.join(ways)}."


def _what(one: Relaxed) -> str:
    return one.title if one.speedup is None else f"{one.title}, {one.speedup:.2f}× as fast"
