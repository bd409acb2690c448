"""Facts as Plotly figures: plain dicts of data and layout, so that plotly's Python half is needed only for its script.

Colors are written `var(--name)`: page.js puts in the page's own value, and again whenever the color scheme changes.
Whatever a user named is escaped, because Plotly reads markup in texts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import ceil, floor, log10
from typing import Any

from laconic.report.drawing import (
    DASHES,
    LEGEND,
    LINES,
    PLAIN_AXIS,
    Json,
    escape,
    layout_of,
    named_axis,
    titled,
)
from laconic.report.facts import Facts
from laconic.report.frontier import Axis, Frontier, Limit, Point
from laconic.report.pruning import Cut, Cuts, Pruning
from laconic.report.quantization import Quantization, Ranges, Sensitive, Sensitivity
from laconic.report.search_charts import parallel_chart, timeline_chart, waterfall_chart
from laconic.report.sections import Layer, Layers, Training
from laconic.report.sparsity import Sparsity
from laconic.report.units import joined, number

# role: (legend, color, symbol, size). Shape and filling differ too, so that nothing hangs on color alone.
ROLES: dict[str, tuple[str, str, str, int]] = {
    "chosen": ("", "var(--accent)", "circle", 15),
    "frontier": ("On the frontier", "var(--accent)", "circle", 9),
    "passed": ("Passed", "var(--accent)", "circle-open", 10),
    "baseline": ("Baseline", "var(--ink)", "diamond", 12),
    "rejected": ("Rejected", "var(--muted)", "x-thin-open", 9),
}
_MANY = 14  # layers: from here on they are not named on the axis
_CROWD = 24  # points: from here on only those on the frontier have error bars, and labels are short


def charts(facts: Facts) -> dict[str, Json]:
    """Return the figures of a report by the id of their place in the page; a figure with nothing to compare is left out."""
    made: dict[str, Json] = {}
    if len(facts.frontier.points) > 1:
        made["frontier"] = frontier_chart(facts.frontier, facts.label)
    if any(row.macs or row.params for row in facts.layers.rows):
        made["layers"] = layers_chart(facts.layers)
    for section in facts.steps:
        if section.name in _OF_STEPS:
            made.update(_OF_STEPS[section.name](section.facts))
    made |= {one.id: waterfall_chart(one) for one in facts.waterfalls}
    if facts.parallel is not None:
        made["parallel"] = parallel_chart(facts.parallel, facts.label)
    if facts.timeline is not None:
        made["timeline"] = timeline_chart(facts.timeline)
    if facts.spread is not None:
        made["spread"] = lines_chart(
            facts.spread.lines, "Latency of one call, ms", "Share of calls, %", ticks=_ticks(*_ends(facts.spread.lines))
        )
    if facts.curve is not None:
        lines = {name: (facts.curve.batches, each) for name, each in facts.curve.lines.items()}
        made["curve"] = lines_chart(lines, "Batch size", "ms for one example", ticks=facts.curve.batches)
    if facts.training is not None:
        made["loss"] = loss_chart(facts.training)
        if facts.training.scored:
            made["score"] = score_chart(facts.training)
    return made


def _pruning(data: Pruning) -> dict[str, Json]:
    made = {"pruning": pruning_chart(data.cuts)} if data.cuts.drawn else {}
    return made | _curves("prune", data.epochs)


def _sparsity(data: Sparsity) -> dict[str, Json]:
    made = {"sparsity": pruning_chart(data.cuts, "Weights that are not zero, %", "layers")} if data.cuts.drawn else {}
    return made | _curves("sparsity", data.epochs)


def _curves(name: str, epochs: Training | None) -> dict[str, Json]:
    """Return the curves of a step's training: the loss, and the score where there is one."""
    if epochs is None:
        return {}
    return {f"{name}-loss": loss_chart(epochs)} | ({f"{name}-score": score_chart(epochs)} if epochs.scored else {})


def _quantization(data: Quantization) -> dict[str, Json]:
    made: dict[str, Json] = {}
    if data.ranges.drawn:
        made["ranges"] = ranges_chart(data.ranges)
    if data.sensitivity is not None and data.sensitivity.drawn:
        made["sensitivity"] = sensitivity_chart(data.sensitivity)
    return made | _curves("qat", data.epochs)


# section of steps -> its charts; one without a row has none
_OF_STEPS: dict[str, Callable[[Any], dict[str, Json]]] = {"pruning": _pruning, "sparsity": _sparsity, "quantization": _quantization}


def frontier_chart(data: Frontier, chosen: str) -> Json:
    """Draw cost against metric: one trace for each role, the frontier as steps, the budget as lines."""
    on = sorted((p for p in data.points if p.frontier and not p.off), key=lambda p: p.x)
    xs, ys = _staircase(on, data)
    line: Json = {
        "type": "scatter", "mode": "lines", "name": "Frontier", "hoverinfo": "skip", "x": xs, "y": ys,
        "line": {"shape": "hv" if data.x.better == "lower" else "vh", "color": "var(--accent)", "width": 2}, "showlegend": False,
    }  # fmt: skip
    crowd = len(data.points) > _CROWD
    groups: dict[str, list[Point]] = {role: [] for role in reversed(ROLES)}
    for point in data.points:
        groups[_role(point)].append(point)
    traces = [
        _points(points, role, chosen, bars=not crowd or role not in ("passed", "rejected")) for role, points in groups.items() if points
    ]
    middle = (data.x.low * data.x.high) ** 0.5 if data.x.log else (data.x.low + data.x.high) / 2
    named = [
        _label(p, data.x.log, p.x > middle, {"chosen": chosen, "baseline": "Baseline"}[p.role] if crowd else p.title)
        for p in data.points
        if p.role in ("chosen", "baseline")
    ]
    layout = layout_of(_title_axis(data.x), _title_axis(data.y))
    layout.update(
        shapes=[_limit_line(limit) for limit in data.limits],
        annotations=[_limit_text(limit, data) for limit in data.limits] + named,
        legend=LEGEND,
    )
    return {"data": [line, *traces], "layout": layout}


def _staircase(on: Sequence[Point], data: Frontier) -> tuple[list[float], list[float]]:
    """Return the corners of the frontier, to the edges of the plot: what is worse than it in both lies on one side."""
    if not on:
        return [], []
    xs, ys = [p.x for p in on], [p.shown for p in on]
    floor_of_y = data.y.low if data.y.better == "higher" else data.y.high
    if data.x.better == "lower":
        return [xs[0], *xs, data.x.high], [floor_of_y, *ys, ys[-1]]
    return [data.x.low, *xs, xs[-1]], [ys[0], *ys, floor_of_y]


def layers_chart(data: Layers) -> Json:
    """Draw two rows of bars over the layers in the order of the network: multiply-adds above, parameters below."""
    names = [escape(row.path) for row in data.rows]
    bars = [
        _bars(data.rows, names, [row.macs for row in data.rows], "Multiply-adds", "y", "var(--accent)"),
        _bars(data.rows, names, [row.params for row in data.rows], "Parameters", "y2", "var(--second)"),
    ]
    x = {**PLAIN_AXIS, "showgrid": False, "anchor": "y2", "tickvals": list(range(len(names))), "ticktext": names, "tickangle": -40}
    if len(names) > _MANY:
        x.update(showticklabels=False, ticks="", title=titled(f"{len(names)} layers, from input to output"))
    layout = layout_of(x, {**PLAIN_AXIS, "domain": [0.56, 1], "title": titled("Multiply-adds"), "rangemode": "tozero", "nticks": 4})
    layout["yaxis2"] = {**PLAIN_AXIS, "domain": [0, 0.44], "title": titled("Parameters"), "rangemode": "tozero", "nticks": 4}
    layout.update(bargap=0.25, showlegend=False)
    return {"data": bars, "layout": layout}


def loss_chart(data: Training) -> Json:
    """Draw the training loss by epoch."""
    return _curve(data, [e.loss for e in data.epochs], "Loss", "", "var(--second)")


def score_chart(data: Training) -> Json:
    """Return the metric by epoch, where it was scored."""
    return _curve(data, [e.metric for e in data.epochs], escape(data.metric), escape(data.unit), "var(--accent)")


def lines_chart(
    lines: Mapping[str, tuple[Sequence[float], Sequence[float | None]]], x: str, y: str, log: bool = False, ticks: Sequence[float] = ()
) -> Json:
    """Draw named lines over one axis, logarithmic on demand.

    Args:
        lines: name -> (places along, heights); a height that is None leaves a gap.
        x: what is along.
        y: what is upright.
        log: whether the axis along is logarithmic.
        ticks: where such an axis has its numbers; given, it is one.
    """
    traces: list[Json] = [
        {
            "type": "scatter", "mode": "lines", "name": escape(name), "x": list(xs), "y": list(ys),
            "line": {"color": LINES[i % len(LINES)], "dash": DASHES[i // len(LINES) % len(DASHES)], "width": 2},
            "hovertemplate": f"<b>{escape(name)}</b><br>%{{x:.3g}}: %{{y:.4g}}<extra></extra>",
        }
        for i, (name, (xs, ys)) in enumerate(lines.items())
    ]  # fmt: skip
    most = max((len(xs) for xs, _ in lines.values()), default=1)
    scale: Json = {"type": "log"} if log or ticks else {"tickformat": "d", "nticks": min(9, most + 1)}
    if ticks:
        scale |= {"tickvals": list(ticks), "ticktext": [f"{tick:g}" for tick in ticks]}
    across: Json = {**PLAIN_AXIS, "title": titled(x), "showgrid": False, **scale}
    layout = layout_of(across, {**PLAIN_AXIS, "title": titled(y), "nticks": 6})
    layout.update(showlegend=len(lines) > 1, legend={**LEGEND, "traceorder": "normal"})
    return {"data": traces, "layout": layout}


def pruning_chart(data: Cuts, title: str = "Components kept, %", rows_are: str = "groups") -> Json:
    """Draw two bars for each row, one over the other: all it had, pale, and what is kept of that, strong; both counts stand beside.

    Bars are shares: a dozen heads and thousands of neurons are to be seen side by side.
    """
    rows = data.drawn
    traces = [
        _components(rows, [100.0] * len(rows), "Before", "y", "var(--pale)"),
        _components(rows, [row.kept for row in rows], "After", "y2", "var(--accent)"),
    ]
    names = named_axis([row.name for row in rows], rows_are, len(rows), 24)
    texts = [f"{row.before_text} → {row.after_text}" for row in rows]
    counts = {"ticktext": texts, "ticks": "outside", "ticklen": 6, "tickcolor": "rgba(0,0,0,0)", "showline": False}
    x = {**PLAIN_AXIS, "showgrid": False, "title": titled(title), "tickvals": [0, 25, 50, 75, 100]}
    x["range"] = [0, max(100.0, *(row.kept for row in rows))]
    layout = layout_of(x, names)
    layout["yaxis2"] = {**names, **counts, "overlaying": "y", "side": "right"}
    layout.update(bargap=0.4, barmode="overlay", legend={**LEGEND, "traceorder": "normal"})
    return {"data": traces, "layout": layout}


def _components(rows: tuple[Cut, ...], values: list[float], name: str, axis: str, color: str) -> Json:
    return {
        "type": "bar", "orientation": "h", "name": name, "y": list(range(len(rows))), "x": values, "yaxis": axis, "marker": {"color": color},
        "customdata": [f"<b>{escape(row.name)}</b><br>{row.before_text} → {row.after_text}<br>{row.kept_text} kept" for row in rows],
        "hovertemplate": "%{customdata}<extra></extra>", "showlegend": True,
    }  # fmt: skip


def ranges_chart(data: Ranges) -> Json:
    """Draw a bar from low to high for each activation, the first on top."""
    lows, highs = [row.low or 0.0 for row in data.drawn], [row.high or 0.0 for row in data.drawn]
    trace: Json = {
        "type": "bar", "orientation": "h", "name": "Range", "y": list(range(len(lows))), "base": lows,
        "x": [high - low for low, high in zip(lows, highs, strict=True)],
        "marker": {"color": "var(--second)", "line": {"color": "var(--second)", "width": 1}},
        "customdata": [
            f"<b>{escape(row.name)}</b><br>{row.low_text} to {row.high_text}<br>zero point {row.zero_text}" for row in data.drawn
        ],
        "hovertemplate": "%{customdata}<extra></extra>",
    }  # fmt: skip
    layout = layout_of({**PLAIN_AXIS, "title": titled("Value"), "nticks": 7}, named_axis([row.name for row in data.drawn], "activations"))
    layout["xaxis"].update(zeroline=True, zerolinecolor="var(--muted)", zerolinewidth=1)
    layout.update(bargap=0.4, showlegend=False)
    return {"data": [trace], "layout": layout}


def sensitivity_chart(data: Sensitivity) -> Json:
    """Draw bars of signal-to-noise ratio, the most harmful on top; what was kept float has a color of its own and says so."""
    rows = list(enumerate(data.drawn))
    rounded, kept = [(i, row) for i, row in rows if not row.kept], [(i, row) for i, row in rows if row.kept]
    label = "Rounded or not recorded" if any(row.kept is None for row in data.drawn) else "Rounded"
    traces = [_sensitive(rounded, label, "var(--accent)"), _sensitive(kept, "Kept float", "var(--warn)"), _words(kept)]
    ends = [0.0, *(row.sqnr_db or 0.0 for row in data.drawn)]
    room = 0.25 * (max(ends) - min(ends) or 1.0)  # for the words beside the longest bar
    x = {**PLAIN_AXIS, "title": titled("Signal to noise, dB"), "nticks": 7, "range": [min(ends) - 0.1 * room, max(ends) + room]}
    layout = layout_of(x, named_axis([row.name for row in data.drawn], "operators"))
    layout.update(bargap=0.4, barmode="overlay", legend={**LEGEND, "traceorder": "normal"})
    return {"data": [trace for trace in traces if trace["y"]], "layout": layout}


def _sensitive(rows: list[tuple[int, Sensitive]], name: str, color: str) -> Json:
    return {
        "type": "bar", "orientation": "h", "name": name, "y": [i for i, _ in rows], "x": [row.sqnr_db for _, row in rows],
        "marker": {"color": color}, "customdata": [f"<b>{escape(row.name)}</b><br>{row.text}<br>{row.fate}" for _, row in rows],
        "hovertemplate": "%{customdata}<extra></extra>", "showlegend": True,
    }  # fmt: skip


def _words(rows: list[tuple[int, Sensitive]]) -> Json:
    """Write `kept float` to the right of each bar, of those that point left too: on their left are the names."""
    return {
        "type": "scatter", "mode": "text", "name": "Words", "y": [i for i, _ in rows], "x": [max(row.sqnr_db or 0.0, 0.0) for _, row in rows],
        "text": [f" {row.fate}" for _, row in rows], "textposition": "middle right", "textfont": {"color": "var(--warn)", "size": 12},
        "hoverinfo": "skip", "showlegend": False, "cliponaxis": False,
    }  # fmt: skip


def _curve(data: Training, values: list[float | None], name: str, unit: str, color: str) -> Json:
    epochs = [e.epoch for e in data.epochs]
    texts = ["" if v is None else f"{name} {joined(number(v, 4), unit)}<br>epoch {e}" for e, v in zip(epochs, values, strict=True)]
    trace: Json = {
        "type": "scatter", "mode": "lines+markers", "name": name, "x": epochs, "y": values, "line": {"color": color, "width": 2},
        "marker": {"color": color, "size": 6}, "customdata": texts, "hovertemplate": "%{customdata}<extra></extra>",
    }  # fmt: skip
    x = {**PLAIN_AXIS, "title": titled("Epoch"), "showgrid": False, "tickformat": "d", "nticks": min(9, len(epochs) + 1)}
    layout = layout_of(x, {**PLAIN_AXIS, "title": titled(f"{name}, {unit}" if unit else name), "nticks": 6})
    layout["showlegend"] = False
    return {"data": [trace], "layout": layout}


def _title_axis(axis: Axis) -> Json:
    unit = f", {escape(axis.unit)}" if axis.unit else ""
    made = {**PLAIN_AXIS, "title": titled(f"{escape(axis.label)}{unit} ({axis.better} is better)")}
    if axis.log:
        ticks = _ticks(axis.low, axis.high)
        made.update(type="log", tickvals=ticks, ticktext=[f"{tick:g}" for tick in ticks])
    made["range"] = [_place(axis.low, axis.log), _place(axis.high, axis.log)]
    return made


def _ticks(low: float, high: float) -> list[float]:
    """Return the numbers 1, 2 and 5 times a power of ten within the range; only powers where that would be more than nine."""
    exponents = range(floor(log10(low)), ceil(log10(high)) + 1)
    ticks = [step * 10.0**exponent for exponent in exponents for step in (1, 2, 5)]
    within = [tick for tick in ticks if low <= tick <= high]
    return within if len(within) <= 9 else [tick for tick in within if log10(tick).is_integer()]


def _ends(lines: Mapping[str, tuple[Sequence[float], Sequence[float]]]) -> tuple[float, float]:
    """Return the least and the greatest place along, more than 0."""
    places = [place for xs, _ in lines.values() for place in xs if place > 0] or [1.0]
    return min(places), max(places)


def _role(point: Point) -> str:
    if point.role == "passed" and point.frontier:
        return "frontier"
    return point.role if point.role in ROLES else "rejected"


def _points(points: list[Point], role: str, chosen: str, bars: bool) -> Json:
    legend, color, symbol, size = ROLES[role]
    made: Json = {
        "type": "scatter", "mode": "markers", "name": legend or chosen, "x": [p.x for p in points], "y": [p.shown for p in points],
        "ids": [p.key for p in points], "meta": {"symbol": symbol, "size": size},
        "marker": {
            "color": color, "size": [11 if p.off else size for p in points], "opacity": 1, "line": {"width": 2, "color": color},
            "symbol": ["triangle-down-open" if p.off else symbol for p in points],
        },
        "customdata": [_hover(p) for p in points], "hovertemplate": "%{customdata}<extra></extra>",
    }  # fmt: skip
    if bars:
        style: Json = {"type": "data", "symmetric": False, "color": color, "thickness": 1.25, "width": 4}
        made["error_x"] = {**style, "array": [p.x_high - p.x for p in points], "arrayminus": [p.x - p.x_low for p in points]}
        made["error_y"] = {**style, "array": [p.y_high - p.shown for p in points], "arrayminus": [p.shown - p.y_low for p in points]}
    return made


def _hover(point: Point) -> str:
    rows = [f"<b>{escape(point.title)}</b>", *(f"{escape(label)}: {escape(_cut(text))}" for label, text in point.facts)]
    return "<br>".join(rows + ["far outside the plot: drawn at its edge"] * point.off)


def _cut(text: str, most: int = 72) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"


def _label(point: Point, log: bool, right: bool, text: str) -> Json:
    """Write a name beside the two points that matter: clear of their error bars, the best above and the baseline below."""
    best = point.role == "chosen"
    return {
        "x": _place(point.x, log), "y": point.shown, "text": escape(_cut(text, 32)), "showarrow": False, "yshift": 14 if best else -15,
        "xshift": -9 if right else 9, "xanchor": "right" if right else "left",
        "font": {"color": "var(--accent)" if best else "var(--ink)", "size": 12.5},
    }  # fmt: skip


def _limit_line(limit: Limit) -> Json:
    along: Json = {"x0": 0, "x1": 1, "xref": "paper", "y0": limit.value, "y1": limit.value, "yref": "y"}
    up: Json = {"y0": 0, "y1": 1, "yref": "paper", "x0": limit.value, "x1": limit.value, "xref": "x"}
    return {
        "type": "line",
        "layer": "below",
        "line": {"color": "var(--warn)", "width": 1.25, "dash": "dash"},
        **(along if limit.axis == "y" else up),
    }


def _limit_text(limit: Limit, data: Frontier) -> Json:
    """Write a word on the line: along it for the metric; upright for the cost, left of the leftmost of two so that they never meet."""
    text = {"text": escape(limit.text), "showarrow": False, "font": {"color": "var(--warn)", "size": 12}}
    if limit.axis == "y":
        return {**text, "x": 1, "xref": "paper", "xanchor": "right", "y": limit.value, "yanchor": "bottom"}
    others = [other.value for other in data.limits if other.axis == "x" and other is not limit]
    side = "right" if any(limit.value < value for value in others) else "left"
    return {**text, "x": _place(limit.value, data.x.log), "xanchor": side, "y": 0, "yref": "paper", "yanchor": "bottom", "textangle": -90}


def _place(value: float, log: bool) -> float:
    """Return a place on an axis: Plotly gives ranges and annotations of a log axis by the exponent."""
    return log10(value) if log else value


def _bars(rows: tuple[Layer, ...], names: list[str], values: list[float | None], what: str, axis: str, color: str) -> Json:
    texts = [
        f"<b>{name}</b><br>{escape(row.type)}<br>{row.macs_text} multiply-adds<br>{row.params_text} parameters"
        for name, row in zip(names, rows, strict=True)
    ]
    return {
        "type": "bar", "name": what, "x": list(range(len(names))), "y": values, "yaxis": axis, "marker": {"color": color}, "customdata": texts,
        "hovertemplate": "%{customdata}<extra></extra>",
    }  # fmt: skip
