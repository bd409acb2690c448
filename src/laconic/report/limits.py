"""The budget, line by line: what was asked, what was reached, and what remains of it at the bad end of each interval."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from laconic.core import quantities
from laconic.core.quantities import Limit, Quantity
from laconic.report.candidates import Candidate
from laconic.report.units import Amount, finite, given, in_unit, joined
from laconic.report.words import DATA, Words, asked, unknown

_HAIR = 1e-9  # of rounding, forgiven


@dataclass(frozen=True)
class LimitLine:
    """One line of the budget: what was asked, what was reached, and whether the gate let it pass (None: nothing was measured).

    `worst` is what the bad end of the interval says, `surely` whether the limit holds there too (None: no interval is known, or nothing was measured).
    """

    name: str
    asked: str
    reached: str
    held: bool | None
    worst: str = ""
    surely: bool | None = None


def rules(result: Mapping[str, Any], chosen: Candidate | None, words: Words) -> tuple[LimitLine, ...]:
    """Return what was asked, and what was reached."""
    budget: Mapping[str, Any] = result.get("budget") or {}
    lines = [_rule(limit, value, chosen, words, bool(result.get("met"))) for limit, value in asked(budget)]
    lines += [
        LimitLine(name, f"{name} {given(value)}", "the package that brings this limit is not installed here", None)
        for name, value in unknown(budget)
    ]
    return tuple(_read_twice(line, result.get("readings") or ()) for line in lines)


def _rule(limit: Limit, value: float, chosen: Candidate | None, words: Words, met: bool) -> LimitLine:
    """Return one limit. Whether it held is the gate's word, never judged again here; but test data decide after the gate, before anything is handed over."""
    rows = quantities.limited(limit.name)
    first = rows[0]
    unit = limit.unit or (words.unit if first.data else "")
    most = "at most" if first.direction == "min" else "at least"
    text = f"{words.label(first)} {most} {joined(given(value), unit)}"
    text += f", also by the {'lower' if first.direction == 'max' else 'upper'} end of its interval" if limit.surely else ""
    amounts = [] if chosen is None else [(row, chosen.amount(row.name)) for row in rows]
    reached = ", ".join(_reached(row, limit, one) for row, one in amounts if one.raw is not None)
    broken = chosen is not None and chosen.broke(limit.broken)
    late = not met and any(row.data == "test" and one.raw is not None and _over(row, limit, one.raw, value) for row, one in amounts)
    held = None if not reached and not broken else not broken and not late
    return LimitLine(limit.name, text, f"reached {reached}" if reached else "nothing was measured", held)


def _reached(row: Quantity, limit: Limit, one: Amount) -> str:
    """Write what was reached, in the limit's unit, with its interval."""
    low, high = (None if end is None else end / limit.per for end in (one.low, one.high))
    assert one.raw is not None
    told = in_unit(one.raw / limit.per, low, high, limit.unit or one.unit)
    return told.full + (f" on {DATA[row.data]}" if row.data else "")


def _over(row: Quantity, limit: Limit, raw: float, value: float) -> bool:
    return row.cost(raw / limit.per) > row.cost(value) + _HAIR


def _read_twice(rule: LimitLine, readings: Sequence[Mapping[str, Any]]) -> LimitLine:
    """Return the line with its second reading; what is exact, or was not read, has none."""
    result = [
        r for r in readings if r.get("limit") == rule.name and finite(r.get("bad_end")) is not None and r["bad_end"] != r.get("measured")
    ]
    if not result:
        return rule
    told = [_bad_end(reading) for reading in result]
    return replace(rule, worst=", ".join(told), surely=all(bool(reading.get("bad_end_held")) for reading in result))


def _bad_end(reading: Mapping[str, Any]) -> str:
    data = DATA.get(str(reading.get("data")))
    return in_unit(float(reading["bad_end"]), None, None, str(reading.get("unit") or "")).text + (f" on {data}" if data else "")
