"""The budget, line by line: what was asked, what was reached, and what remains of it at the bad end of each interval."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from laconic.report.contenders import Candidate
from laconic.report.units import Quantity, finite, fixed, given, joined, number

DATA = {"valid": "validation data", "test": "test data"}


@dataclass(frozen=True)
class Loss:
    """How a loss of the metric is told: of a score that is better when higher it is a drop, of an error a rise; and its unit."""

    noun: str
    unit: str

    @classmethod
    def of(cls, metric: Mapping[str, Any]) -> Loss:
        """From the metric as the result has it; percentages are lost in points."""
        unit = str(metric.get("unit") or "")
        points = unit == "%" or metric.get("scale") == 100
        return cls("rise" if metric.get("direction") == "min" else "drop", "points" if points else unit)


@dataclass(frozen=True)
class Rule:
    """One line of the budget: what was asked, what was reached, and whether the gate let it pass (None: nothing was measured).

    `worst` is what the bad end of the interval says, `surely` whether the limit holds there too (None: no interval is known, or nothing was measured).
    """

    name: str
    asked: str
    reached: str
    held: bool | None
    worst: str = ""
    surely: bool | None = None


def rules(result: Mapping[str, Any], chosen: Candidate | None, metric: str, loss: Loss) -> tuple[Rule, ...]:
    """What was asked, in the words of the command line, and what was reached."""
    budget: Mapping[str, Any] = result.get("budget") or {}
    drop, speed, latency, size = (finite(budget.get(name)) for name in ("max_drop", "min_speedup", "max_latency_ms", "max_size_mb"))
    rows: list[Rule] = []
    if drop is not None:
        rows.append(_drop_rule(drop, chosen, metric, loss, bool(result.get("met"))))
    if speed is not None:
        asked = f"Speed-up at least {given(speed)}×, also by the lower end of its interval"
        rows.append(_rule("min_speedup", asked, chosen, chosen.speedup.full if chosen and chosen.speedup.raw else ""))
    if latency is not None:
        reached = f"{number(chosen.p50.raw * 1e3)} ms" if chosen and chosen.p50.raw else ""
        rows.append(_rule("max_latency_ms", f"Median latency at most {given(latency)} ms", chosen, reached))
    if size is not None:
        reached = f"{number(chosen.size.raw / 1e6)} MB" if chosen and chosen.size.raw else ""
        rows.append(_rule("max_size_mb", f"File at most {given(size)} MB", chosen, reached))
    return tuple(_read_twice(row, result.get("readings") or ()) for row in rows)


def _read_twice(rule: Rule, readings: Sequence[Mapping[str, Any]]) -> Rule:
    """The line with its second reading; what is exact, or was not read, has none."""
    found = [
        r for r in readings if r.get("limit") == rule.name and finite(r.get("bad_end")) is not None and r["bad_end"] != r.get("measured")
    ]
    if not found:
        return rule
    told = [_bad_end(rule.name, reading) for reading in found]
    return replace(rule, worst=", ".join(told), surely=all(bool(reading.get("bad_end_held")) for reading in found))


def _bad_end(name: str, reading: Mapping[str, Any]) -> str:
    value, unit, data = float(reading["bad_end"]), str(reading.get("unit") or ""), DATA.get(str(reading.get("data")))
    text = fixed(value, 2) if name == "min_speedup" or unit == "points" else number(value)
    return joined(text, unit) + (f" on {data}" if data else "")


def _drop_rule(limit: float, chosen: Candidate | None, metric: str, loss: Loss, met: bool) -> Rule:
    """The drop decides twice: on validation data, and once more on test data before anything is handed over."""
    found: list[tuple[Quantity, str]] = [] if chosen is None else [(chosen.drop, DATA["valid"]), (chosen.test_drop, DATA["test"])]
    reached = ", ".join(f"{drop.full} on {data}" for drop, data in found if drop.raw is not None)
    rule = _rule("max_drop", f"{metric} {loss.noun} at most {given(limit)} {loss.unit}".rstrip(), chosen, reached)
    late = chosen is not None and not met and chosen.test_drop.raw is not None and chosen.test_drop.raw > limit + 1e-9
    return replace(rule, held=False) if late else rule


def _rule(name: str, asked: str, chosen: Candidate | None, reached: str) -> Rule:
    """Whether a line held is the gate's word, never judged again here."""
    broken = chosen is not None and broke(chosen, name)
    held = None if not reached and not broken else not broken
    return Rule(name, asked, f"reached {reached}" if reached else "nothing was measured", held)


def broke(chosen: Candidate, name: str) -> bool:
    """Whether the gate named this line of the budget; it calls the drop `metric` too."""
    return chosen.broke(name) or (name == "max_drop" and chosen.broke("metric"))
