"""The frontier: what each contender costs against what it is worth, in the coordinates that suit the objective."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from laconic.report.contenders import Candidate
from laconic.report.units import BYTES, TIME, Quantity, Scale, finite, given, joined, number, shared


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
    """One contender in axis units, with the ends of its 95 % intervals (equal to the value where there is none).

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
    """The plot's data. `undrawn` names the contenders that lack a coordinate, `outside` those drawn at the edge; `alt` says in words what the plot shows."""

    x: Axis
    y: Axis
    points: tuple[Point, ...]
    limits: tuple[Limit, ...]
    undrawn: tuple[str, ...]
    outside: tuple[str, ...]
    alt: str
    x_interval: str
    y_interval: str


@dataclass(frozen=True)
class _Objective:
    label: str
    scale: Scale
    read: Callable[[Candidate], Quantity]


OBJECTIVES: dict[str, _Objective] = {
    "latency": _Objective("Median latency", TIME, lambda c: c.p50),
    "size": _Objective("File size", BYTES, lambda c: c.size),
    "memory": _Objective("Peak memory", BYTES, lambda c: c.memory),
}
_MB, _MS = 1e6, 1e-3


def frontier(
    contenders: Sequence[Candidate], metric: Mapping[str, object], label: str, budget: Mapping[str, object], chosen: str
) -> Frontier:
    """Points, axes and budget lines for the objective of the budget (latency where it names none that is known)."""
    name = str(budget.get("objective") or "latency")
    objective = OBJECTIVES.get(name, OBJECTIVES["latency"])
    drawn = [c for c in contenders if objective.read(c).raw and c.metric.raw is not None]
    size, unit = shared(objective.scale, (objective.read(c).raw for c in drawn))
    base = next((c for c in contenders if c.status == "baseline"), None)
    higher = metric.get("direction") != "min"
    limits = _limits(budget, name if name in OBJECTIVES else "latency", size, unit, base, higher)
    points = [_point(c, objective, size, base, higher, chosen) for c in drawn]
    low, high = _range(points, [limit.value for limit in limits if limit.axis == "y"])
    points = [_placed(point, low, high) for point in points]
    return Frontier(
        x=_x_axis(objective.label, unit, points, [limit.value for limit in limits if limit.axis == "x"]),
        y=Axis(label, str(metric.get("unit") or ""), "higher" if higher else "lower", low, high),
        points=tuple(points),
        limits=tuple(limits),
        undrawn=tuple(c.title for c in contenders if c not in drawn),
        outside=tuple(f"{p.title} ({joined(number(p.y, 4), str(metric.get('unit') or ''))})" for p in points if p.off),
        alt=_alt(points, objective.label, label, unit, str(metric.get("unit") or "")),
        x_interval="the relative width of the speed-up's 95 % interval" if objective.read is OBJECTIVES["latency"].read else "",
        y_interval="the 95 % interval of the difference to the baseline on the same examples",
    )


def _point(one: Candidate, objective: _Objective, size: float, base: Candidate | None, higher: bool, chosen: str) -> Point:
    x = (objective.read(one).raw or 0.0) / size
    y = one.metric.raw or 0.0
    x_low, x_high = _x_interval(one, x) if objective is OBJECTIVES["latency"] else (x, x)
    y_low, y_high = _y_interval(one, y, higher)
    return Point(
        one.key, one.title, "chosen" if one.key == chosen else one.status, x, y, x_low, x_high, y_low, y_high, y, False, one.frontier, _facts(one, base, higher)
    )  # fmt: skip


def _x_interval(one: Candidate, x: float) -> tuple[float, float]:
    """The speed-up's interval as one of latency: latency = baseline / speed-up, so a relative width carries over inverted."""
    speed, low, high = one.speedup.raw, one.speedup.low, one.speedup.high
    if not speed or not low or not high or low <= 0:
        return x, x
    return x * speed / high, x * speed / low


def _y_interval(one: Candidate, y: float, higher: bool) -> tuple[float, float]:
    """The paired interval of the drop, laid around the metric: far tighter than the metric's own, and the one that the gate reads."""
    if one.drop.raw is None or one.drop.low is None or one.drop.high is None:
        return y, y
    worse, gain = one.drop.high - one.drop.raw, one.drop.raw - one.drop.low
    return (y - worse, y + gain) if higher else (y - gain, y + worse)


def _x_axis(label: str, unit: str, points: Sequence[Point], limits: Sequence[float]) -> Axis:
    """From the least to the greatest of what is drawn, with some air; on a log axis the air is a factor."""
    values = [v for p in points for v in (p.x_low, p.x_high)] + list(limits)
    low, high = (min(values), max(values)) if values else (0.0, 1.0)
    if low > 0 and high > 4 * low:
        air = (high / low) ** 0.08
        return Axis(label, unit, "lower", low / air, high * air, log=True)
    air = 0.12 * (high - low) or 0.1 * high or 1.0
    return Axis(label, unit, "lower", max(0.0, low - air), high + air)


def _range(points: Sequence[Point], limits: Sequence[float]) -> tuple[float, float]:
    """The part of the metric's axis that matters: everything that is not rejected, the budget, and what lies within two spans of them."""
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


def _limits(budget: Mapping[str, object], objective: str, size: float, unit: str, base: Candidate | None, higher: bool) -> list[Limit]:
    made: list[Limit] = []
    drop, speed, latency, megabytes = (finite(budget.get(name)) for name in ("max_drop", "min_speedup", "max_latency_ms", "max_size_mb"))
    if drop is not None and base is not None and base.metric.raw is not None:
        made.append(
            Limit("y", base.metric.raw - drop if higher else base.metric.raw + drop, f"max {'drop' if higher else 'rise'} {given(drop)}")
        )
    if objective == "latency" and latency is not None:
        made.append(Limit("x", latency * _MS / size, f"max latency {joined(given(latency), 'ms')}"))
    if objective == "latency" and speed and base is not None and base.p50.raw is not None:
        made.append(Limit("x", base.p50.raw / speed / size, f"min speed-up {joined(given(speed), '×')}"))
    if objective == "size" and megabytes is not None:
        made.append(Limit("x", megabytes * _MB / size, f"max size {joined(given(megabytes), 'MB')}"))
    return made


def _facts(one: Candidate, base: Candidate | None, higher: bool) -> tuple[tuple[str, str], ...]:
    """What hovering shows: the recipe first, then what was measured."""
    rows = [
        ("Recipe", one.recipe),
        ("Latency", one.p50.text + (f", 95 % under {one.p95.text}" if one.p95.raw is not None else "")),
        ("Speed-up", "reference" if one is base else one.speedup.full),
        ("Metric", one.metric.full),
        ("Drop" if higher else "Rise", "reference" if one is base else one.drop.full),
        ("File", one.size.text),
        ("Status", one.state + (f": {one.why}" if one.why else "")),
    ]
    return tuple((label, text) for label, text in rows if text)


def _alt(points: Sequence[Point], x: str, y: str, x_unit: str, y_unit: str) -> str:
    if len(points) < 2:
        who = f"Only {points[0].title}" if points else "No contender"
        return f"{who} has both {x.lower()} and {y.lower()}, so there is nothing to compare."
    best = sorted((p for p in points if p.frontier), key=lambda p: p.x)
    named = "; ".join(f"{p.title} at {joined(number(p.x), x_unit)} and {joined(number(p.y, 4), y_unit)}" for p in best)
    return f"{x} against {y.lower()} for {len(points)} contenders." + (
        f" On the frontier: {named}." if named else " None is on the frontier."
    )
