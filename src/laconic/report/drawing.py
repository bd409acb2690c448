"""What charts share: axes, legends, colors, texts. A chart is a Plotly figure as plain dicts, so that plotly's Python half is needed only for its script."""

from __future__ import annotations

import html
from collections.abc import Mapping
from functools import partial
from typing import Any

from laconic.core.records import Measurement

Json = dict[str, Any]
escape = partial(html.escape, quote=False)  # Plotly shows &quot; as it is written

PLAIN_AXIS: Json = {
    "showgrid": True, "gridcolor": "var(--line)", "gridwidth": 1, "zeroline": False, "linecolor": "var(--line)", "tickcolor": "var(--line)",
    "tickfont": {"color": "var(--muted)", "size": 12}, "automargin": True, "fixedrange": True, "exponentformat": "SI",
}  # fmt: skip
LEGEND: Json = {
    "orientation": "h", "x": 0, "y": 1.02, "xanchor": "left", "yanchor": "bottom", "traceorder": "reversed",
    "font": {"color": "var(--muted)", "size": 12},
}  # fmt: skip
LONG = 30  # bars that lie: from here on they are not named on the axis

# Lines that are told apart in both schemes and, by their dashes, without color.
LINES = ("var(--accent)", "#c0643c", "#5b8c3a", "#8a63a8", "#b08a1e", "#3f8f8f", "#b3507a", "#6b7686")
DASHES = ("solid", "dash", "dot", "dashdot")


def layout_of(x: Json, y: Json) -> Json:
    """Return the layout of a chart with these axes."""
    return {
        "xaxis": x, "yaxis": y, "paper_bgcolor": "rgba(0,0,0,0)", "plot_bgcolor": "rgba(0,0,0,0)", "dragmode": False, "hovermode": "closest",
        "font": {"color": "var(--ink)", "size": 13}, "margin": {"l": 8, "r": 12, "t": 8, "b": 8}, "autosize": True,
        "hoverlabel": {"align": "left", "bgcolor": "var(--card)", "bordercolor": "var(--line)", "font": {"color": "var(--ink)", "size": 13}},
    }  # fmt: skip


def titled(text: str) -> Json:
    """Return the title of an axis."""
    return {"text": text, "font": {"color": "var(--muted)", "size": 12.5}, "standoff": 8}


def named_axis(names: list[str], what: str, most: int = LONG, letters: int = 22) -> Json:
    """Return an upright axis of names, the first on top; more than `most` are only counted."""
    ticks = {"tickvals": list(range(len(names))), "ticktext": [escape(tail(name, letters)) for name in names]}
    made: Json = {**PLAIN_AXIS, "showgrid": False, "range": [len(names) - 0.4, -0.6], **ticks}
    if len(names) > most:
        made.update(showticklabels=False, ticks="", title=titled(f"{len(names)} {what}, in the order of the table"))
    return made


def spread_chart(figures: Mapping[str, Measurement], what: str) -> Json:
    """Draw figures that lie below each other as points with their intervals, from zero.

    Args:
        figures: by name; each has a value.
        what: stands along, with its unit.
    """
    names, known = list(figures), list(figures.values())
    values = [one.value or 0.0 for one in known]
    ends = [(v if one.low is None else one.low, v if one.high is None else one.high) for v, one in zip(values, known, strict=True)]
    points: Json = {
        "type": "scatter", "mode": "markers", "x": values, "y": list(range(len(names))), "marker": {"color": LINES[0], "size": 9},
        "text": [f"<b>{escape(name)}</b><br>{v:.4g} ({low:.4g} to {high:.4g})" for name, v, (low, high) in zip(names, values, ends, strict=True)],
        "hovertemplate": "%{text}<extra></extra>",
        "error_x": {
            "type": "data", "symmetric": False, "color": LINES[0], "thickness": 1.5, "width": 4,
            "array": [high - v for v, (_, high) in zip(values, ends, strict=True)],
            "arrayminus": [v - low for v, (low, _) in zip(values, ends, strict=True)],
        },
    }  # fmt: skip
    across: Json = {**PLAIN_AXIS, "title": titled(what), "rangemode": "tozero", "nticks": 6}
    return {"data": [points], "layout": {**layout_of(across, named_axis(names, "figures", letters=64)), "showlegend": False}}


def tail(name: str, most: int) -> str:
    """Shorten a name from the left: the end of a path says which it is."""
    return name if len(name) <= most else "…" + name[1 - most :]
