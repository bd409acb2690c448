"""The frontier: what each candidate costs against what it is worth, in the coordinates that suit the objective."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from laconic.core import quantities
from laconic.core.quantities import Quantity
from laconic.report.candidates import Candidate
from laconic.report.units import Amount, given, joined, number, shared_unit
from laconic.report.words import Words, asked, goal, placed


@dataclass(frozen=True)
class Axis:
    """A label with its unit, which end is better, the range to show, and `log` where the values span more than a factor of four."""

    label: str
    unit: str
    better: str
    low: float
    high: float
    log: bool = False


@dataclass(frozen=True)
class Point:
    """One candidate in axis units, with the ends of its 95 % intervals (equal to the value where there is none).

    `shown` is where it is drawn: `y`, or the edge of the plot where `off` says that it lies far outside.
    """

    key: str
    title: str
    role: str
    x: float
    y: float
    x_low: float
    x_high: float
    y_low: float
    y_high: float
    shown: float
    off: bool
    frontier: bool
    facts: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Limit:
    """A line of the budget on an axis."""

    axis: str
    value: float
    text: str


@dataclass(frozen=True)
class Frontier:
    """The plot's data. `undrawn` names the candidates that lack a coordinate, `outside` those drawn at the edge; `alt` says in words what the plot shows."""

    x: Axis
    y: Axis
    points: tuple[Point, ...]
    limits: tuple[Limit, ...]
    undrawn: tuple[str, ...]
    outside: tuple[str, ...]
    alt: str
    x_interval: str
    y_interval: str


def frontier(
    candidates: Sequence[Candidate],
    metric: Mapping[str, Any],
    words: Words,
    budget: Mapping[str, Any],
    measured: Mapping[str, Quantity],
    chosen: str,
) -> Frontier:
    """Return points, axes and budget lines: the metric against what is to be best, or where that is a comparison, what it compares.

    Args:
        candidates: all, the baselines first.
        metric: of the task, as the result has it.
        words: of the task.
        budget: of the result.
        measured: its quantities by name.
        chosen: the key of the best or the nearest miss.
    """
    best, axis = goal(budget), across(budget)
    drawn = [c for c in candidates if c.amount(axis.name).raw and c.amount("metric").raw is not None]
    size, unit = shared_unit(axis, (c.amount(axis.name) for c in drawn))
    base = next((c for c in candidates if c.status == "baseline"), None)
    higher = metric.get("direction") != "min"
    limits = _limits(budget, axis, (size, unit), base, higher, words)
    rows = placed("points", budget, measured)
    points = [_point(c, best, axis, size, higher, chosen, _facts(c, base, rows, words)) for c in drawn]
    low, high = _range(points, [limit.value for limit in limits if limit.axis == "y"])
    points = [_placed(point, low, high) for point in points]
    metric_unit = str(metric.get("unit") or "")
    return Frontier(
        x=_x_axis(axis, words.label(axis), unit, points, [limit.value for limit in limits if limit.axis == "x"]),
        y=Axis(words.metric, metric_unit, "higher" if higher else "lower", low, high),
        points=tuple(points),
        limits=tuple(limits),
        undrawn=tuple(c.title for c in candidates if c not in drawn),
        outside=tuple(f"{p.title} ({joined(number(p.y, 4), metric_unit)})" for p in points if p.off),
        alt=_alt(points, words.label(axis), words.metric, unit, metric_unit),
        x_interval=_x_said(best, words, drawn, axis),
        y_interval="the 95 % interval of the difference to the baseline on the same examples",
    )


def across(budget: Mapping[str, Any]) -> Quantity:
    """Return what is across: what is to be best, or where that is a comparison, what it compares."""
    best = goal(budget)
    return quantities.row(best.compares) if best.compares else best


def _x_said(best: Quantity, words: Words, drawn: Sequence[Candidate], axis: Quantity) -> str:
    """Return what the bars along the axis are; empty where there are none."""
    if best is not axis:
        return f"the relative width of the {words.label(best).lower()}'s 95 % interval"
    return "the 95 % interval" if any(c.amount(axis.name).interval for c in drawn) else ""


def _point(
    one: Candidate, best: Quantity, axis: Quantity, size: float, higher: bool, chosen: str, told: tuple[tuple[str, str], ...]
) -> Point:
    x, y = (one.amount(axis.name).raw or 0.0) / size, one.amount("metric").raw or 0.0
    x_low, x_high = _own_interval(one.amount(axis.name), x, size) if best is axis else _ratio_interval(best, one.amount(best.name), x)
    y_low, y_high = _y_interval(one.amount("drop"), y, higher)
    role = "chosen" if one.key == chosen else one.status
    return Point(one.key, one.title, role, x, y, x_low, x_high, y_low, y_high, y, False, one.frontier, told)


def _own_interval(amount: Amount, x: float, size: float) -> tuple[float, float]:
    return (x, x) if amount.low is None or amount.high is None else (amount.low / size, amount.high / size)


def _ratio_interval(best: Quantity, ratio: Amount, x: float) -> tuple[float, float]:
    """Return a ratio's interval as one of what it compares: latency = baseline / speed-up, so a relative width carries over inverted."""
    if not ratio.raw or not ratio.low or not ratio.high or ratio.low <= 0:
        return x, x
    ends = (
        (x * ratio.raw / ratio.high, x * ratio.raw / ratio.low)
        if best.direction == "max"
        else (x * ratio.low / ratio.raw, x * ratio.high / ratio.raw)
    )
    return ends


def _y_interval(drop: Amount, y: float, higher: bool) -> tuple[float, float]:
    """Return the paired interval of the drop, laid around the metric: far tighter than the metric's own, and the one that the gate reads."""
    if drop.raw is None or drop.low is None or drop.high is None:
        return y, y
    worse, gain = drop.high - drop.raw, drop.raw - drop.low
    return (y - worse, y + gain) if higher else (y - gain, y + worse)


def _x_axis(row: Quantity, label: str, unit: str, points: Sequence[Point], limits: Sequence[float]) -> Axis:
    """From the least to the greatest of what is drawn, with some air; on a log axis the air is a factor."""
    better = "lower" if row.direction == "min" else "higher"
    values = [p.x for p in points] + list(limits)
    low, high = (min(values), max(values)) if values else (0.0, 1.0)
    # Bars widen the range, but no more than twofold on either side: those of a busy machine span decades.
    low = max(low / 2, min([low, *(p.x_low for p in points)]))
    high = min(2 * high, max([high, *(p.x_high for p in points)]))
    if low > 0 and high > 4 * low:
        air = (high / low) ** 0.08
        return Axis(label, unit, better, low / air, high * air, log=True)
    air = 0.12 * (high - low) or 0.1 * high or 1.0
    return Axis(label, unit, better, max(0.0, low - air), high + air)


def _range(points: Sequence[Point], limits: Sequence[float]) -> tuple[float, float]:
    """Return the part of the metric's axis that matters: everything that is not rejected, the budget, and what lies within two spans of them."""
    kept = [v for p in points if p.role != "rejected" for v in (p.y_low, p.y_high)] + list(limits)
    if not kept:
        return 0.0, 1.0
    low, high = min(kept), max(kept)
    span = (high - low) or abs(high) * 0.01 or 1.0
    near = [v for p in points if low - 2 * span <= p.y <= high + 2 * span for v in (p.y_low, p.y_high)]
    low, high = min([low, *near]), max([high, *near])
    pad = 0.12 * ((high - low) or span)
    return low - pad, high + pad


def _placed(point: Point, low: float, high: float) -> Point:
    if low <= point.y <= high:
        return point
    edge = low + 0.03 * (high - low) if point.y < low else high - 0.03 * (high - low)
    return replace(point, shown=edge, off=True, y_low=edge, y_high=edge)


def _limits(
    budget: Mapping[str, Any], axis: Quantity, unit: tuple[float, str], base: Candidate | None, higher: bool, words: Words
) -> list[Limit]:
    """Return the lines of the budget: on the axis those of its quantity and of what compares that with the baseline's, across it that of the drop."""
    made: list[Limit] = []
    for limit, value in asked(budget):
        row = quantities.limited(limit.name)[0]
        most = "max" if row.direction == "min" else "min"
        reference = None if base is None or not row.compares else base.amount(row.compares).raw
        if row.compares == "metric" and reference is not None:
            made.append(Limit("y", reference - value if higher else reference + value, f"{most} {words.loss} {given(value)}"))
        elif row.name == axis.name:
            made.append(Limit("x", value * limit.per / unit[0], f"{most} {row.noun} {joined(given(value), limit.unit)}"))
        elif row.compares == axis.name and reference is not None:
            there = reference / value if row.direction == "max" else reference * value
            made.append(Limit("x", there / unit[0], f"{most} {row.noun} {joined(given(value), limit.unit)}"))
    return made


def _facts(one: Candidate, base: Candidate | None, rows: Sequence[Quantity], words: Words) -> tuple[tuple[str, str], ...]:
    """Return what hovering shows: the recipe first, then what was measured."""
    told = [(words.heading(row), "reference" if one is base and row.reference is not None else one.amount(row.name).full) for row in rows]
    state = one.state + (f": {one.why}" if one.why else "")
    return tuple((label, text) for label, text in (("Recipe", one.recipe), *told, ("Status", state)) if text)


def _alt(points: Sequence[Point], x: str, y: str, x_unit: str, y_unit: str) -> str:
    if len(points) < 2:
        who = f"Only {points[0].title}" if points else "No candidate"
        return f"{who} has both {x.lower()} and {y.lower()}, so there is nothing to compare."
    best = sorted((p for p in points if p.frontier), key=lambda p: p.x)
    named = "; ".join(f"{p.title} at {joined(number(p.x), x_unit)} and {joined(number(p.y, 4), y_unit)}" for p in best)
    return f"{x} against {y.lower()} for {len(points)} candidates." + (
        f" On the frontier: {named}." if named else " None is on the frontier."
    )
