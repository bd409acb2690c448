"""Charts of a search: when the time was spent on whom, and candidates as lines over the choices that mattered."""

from __future__ import annotations

from laconic.report.drawing import LEGEND, LINES, PLAIN_AXIS, Json, escape, layout_of, named_axis, titled
from laconic.report.parallel import Line, Parallel, Upright
from laconic.report.timeline import Timeline
from laconic.report.waterfall import Waterfall

# role: (legend, color, width, opacity); the first lies below the others
_LINES_OF: dict[str, tuple[str, str, float, float]] = {
    "rejected": ("Rejected", "var(--muted)", 1.0, 0.45),
    "passed": ("Passed", "var(--second)", 1.4, 0.75),
    "chosen": ("", "var(--accent)", 3.5, 1.0),
}
_LETTERS, _NAME = 16, 22  # of a label on an axis, of a candidate's name
_NAMED = 40  # rows that are named


def timeline_chart(data: Timeline) -> Json:
    """Draw a row for each candidate, the first on top, with a bar for each stretch of time; each part has its color."""
    traces = [_part(data, part, LINES[place % len(LINES)]) for place, part in enumerate(data.parts)]
    names = named_axis([_short(row.title, _NAME) for row in data.rows], "rows", _NAMED)
    layout = layout_of({**PLAIN_AXIS, "title": titled("Seconds since the run began"), "rangemode": "tozero", "nticks": 8}, names)
    layout.update(barmode="overlay", bargap=0.25, legend={**LEGEND, "traceorder": "normal"})
    return {"data": traces, "layout": layout}


def _part(data: Timeline, part: str, color: str) -> Json:
    own = [stretch for stretch in data.stretches if stretch.part == part]
    return {
        "type": "bar", "orientation": "h", "name": part, "y": [one.row for one in own], "x": [one.seconds for one in own],
        "base": [one.start_s for one in own], "marker": {"color": color, "line": {"width": 0}},
        "customdata": [f"<b>{escape(data.rows[one.row].title)}</b><br>{one.text}" for one in own],
        "hovertemplate": "%{customdata}<extra></extra>", "showlegend": True,
    }  # fmt: skip


def parallel_chart(data: Parallel, label: str) -> Json:
    """Draw upright axes with their labels, and each candidate as a line over them.

    Args:
        data: of the plot.
        label: what the chosen one is called.
    """
    places = list(range(len(data.axes)))
    traces = []
    for role, (legend, color, width, opacity) in _LINES_OF.items():
        own = [line for line in data.lines if (line.role if line.role in _LINES_OF else "rejected") == role]
        if own:
            traces.append(_role(own, data.axes, legend or label, color, width, opacity))
    x = {**PLAIN_AXIS, "gridcolor": "var(--muted)", "tickvals": places, "ticktext": [escape(_short(axis.title)) for axis in data.axes]}
    x |= {"range": [-0.35, len(places) - 0.35], "side": "top", "tickangle": 0}
    y = {**PLAIN_AXIS, "showgrid": False, "showticklabels": False, "ticks": "", "linecolor": "rgba(0,0,0,0)", "range": [-0.06, 1.06]}
    layout = layout_of(x, y)
    layout.update(annotations=[_tick(place, at, text) for place, axis in enumerate(data.axes) for at, text in axis.ticks])
    layout.update(legend={**LEGEND, "y": -0.02, "yanchor": "top", "traceorder": "reversed"})
    return {"data": traces, "layout": layout}


def _role(own: list[Line], axes: tuple[Upright, ...], name: str, color: str, width: float, opacity: float) -> Json:
    """Return the lines of one role as one trace, with gaps between them."""
    xs, ys, texts = list[int | None](), list[float | None](), list[str]()
    for line in own:
        xs += [*range(len(axes)), None]
        ys += [*line.heights, None]
        texts += [
            f"<b>{escape(line.title)}</b><br>{escape(axis.title)}: {escape(text)}" for axis, text in zip(axes, line.texts, strict=True)
        ]
        texts.append("")
    return {
        "type": "scatter", "mode": "lines+markers", "name": name, "x": xs, "y": ys, "opacity": opacity, "line": {"color": color, "width": width},
        "marker": {"color": color, "size": 5 + width}, "customdata": texts, "hovertemplate": "%{customdata}<extra></extra>", "showlegend": True,
    }  # fmt: skip


def _tick(place: int, at: float, text: str) -> Json:
    """Write a label to the right of its axis, on a ground that lines do not shine through."""
    return {
        "x": place, "y": at, "text": escape(_short(text)), "showarrow": False, "xanchor": "left", "xshift": 6, "bgcolor": "var(--paper)",
        "borderpad": 1, "font": {"color": "var(--ink)", "size": 11.5},
    }  # fmt: skip


def _short(text: str, letters: int = _LETTERS) -> str:
    """Shorten a text from the right: how a candidate begins says what was done to it."""
    return text if len(text) <= letters else text[: letters - 1].rstrip() + "…"


def waterfall_chart(data: Waterfall) -> Json:
    """Draw the baseline, a bar for each part where the one before it ends, and the end; the first on top."""
    down, up = ("var(--accent)", "var(--warn)") if data.less else ("var(--warn)", "var(--accent)")
    trace = {
        "type": "waterfall", "orientation": "h", "y": list(range(len(data.bars))), "x": [None if bar is data.bars[-1] else bar.value for bar in data.bars],
        "measure": ["absolute", *["relative"] * (len(data.bars) - 2), "total"], "connector": {"line": {"color": "var(--line)", "width": 1}},
        "decreasing": {"marker": {"color": down}}, "increasing": {"marker": {"color": up}},
        "totals": {"marker": {"color": "var(--second)"}},
        "customdata": [f"<b>{escape(bar.title)}</b><br>{escape(bar.text)}" for bar in data.bars], "hovertemplate": "%{customdata}<extra></extra>",
    }  # fmt: skip
    unit = f", {escape(data.unit)}" if data.unit else ""
    layout = layout_of(
        {**PLAIN_AXIS, "title": titled(f"{escape(data.label)}{unit}"), "nticks": 6},
        named_axis([_short(bar.title) for bar in data.bars], "bars"),
    )
    layout["xaxis"].update(zeroline=True, zerolinecolor="var(--muted)", zerolinewidth=1)
    layout.update(showlegend=False, waterfallgap=0.35)
    return {"data": [trace], "layout": layout}
