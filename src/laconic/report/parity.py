"""How far the outputs of an artifact are from its program's, in words: on the whole, and output by output."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from laconic.report.units import finite, given, number

_MOST_CHANNELS = 8


def summary(data: Mapping[str, Any] | None) -> str:
    """Return the figures of the worst output, what was allowed, and on how many inputs; empty where nothing was compared."""
    if not data:
        return ""
    absolute, relative = (finite(data.get(name)) for name in ("max_abs", "max_rel"))
    shown = [f"{number(value, 2)} {name}" for value, name in ((absolute, "absolute"), (relative, "relative")) if value is not None]
    n = finite(data.get("n"))
    parts = (
        f"largest difference to the program {' and '.join(shown) or 'unknown'}" + (f" over {n:.0f} outputs" if n is not None else ""),
        *_allowed(data),
        *_inputs(data),
    )
    return ", ".join(parts)


def _allowed(data: Mapping[str, Any]) -> Iterator[str]:
    relative, decibels, channel = (finite(data.get(name)) for name in ("tolerance", "tolerance_sqnr_db", "tolerance_channel_db"))
    if relative is not None:
        yield f"tolerance {given(relative)}"
    if decibels is not None:
        yield (
            f"{_decibels(data)} dB signal to noise, at least {given(decibels)} dB" if _decibels(data) else f"at least {given(decibels)} dB"
        )
    if channel is not None:
        yield f"of each channel at least {given(channel)} dB"


def _decibels(data: Mapping[str, Any]) -> str:
    shown = finite(data.get("sqnr_db"))
    return "" if shown is None else number(shown)


def _inputs(data: Mapping[str, Any]) -> Iterator[str]:
    batches = finite(data.get("batches"))
    if batches is not None:
        yield f"{batches:.0f} batch{'es' if batches != 1 else ''} of validation data"
    for name, sizes in (data.get("sizes") or {}).items():
        yield f"{name} {' and '.join(map(str, sizes))}"


def outputs(data: Mapping[str, Any] | None) -> tuple[str, ...]:
    """Return one line for each output, with its worst channel; nothing where there is one output without channels, which the summary tells.

    >>> outputs({"outputs": [{"name": "boxes", "max_rel": 2e-7, "sqnr_db": 131.0}, {"name": "ids", "equal": 0.995}]})
    ('boxes: 2.0e−7 of the largest value, 131 dB', 'ids: 99.5\xa0% of the whole numbers are equal')
    """
    rows = (data or {}).get("outputs") or ()
    lines = tuple(f"{row.get('name') or 'output'}: {', '.join(_output(row))}" for row in rows)
    left_out = tuple(f"not compared, since the model itself does not answer it: {text}" for text in (data or {}).get("left_out") or ())
    return (lines if len(lines) > 1 or any("worst_channel" in row for row in rows) else ()) + left_out


def _output(row: Mapping[str, Any]) -> Iterator[str]:
    equal = finite(row.get("equal"))
    if equal is not None:
        yield f"{number(100 * equal)}\u00a0% of the whole numbers are equal"
        if lost := list(row.get("lost_values") or ())[:_MOST_CHANNELS]:
            yield f"lost in the file: {', '.join(map(str, lost))}"
        return
    relative, channel = finite(row.get("max_rel")), finite(row.get("worst_channel_db"))
    yield f"{number(relative, 2)} of the largest value" if relative is not None else "no finite difference"
    if decibels := _decibels(row):
        yield f"{decibels} dB"
    if "worst_channel" in row and channel is not None:
        yield f"worst channel {row['worst_channel']} of {row.get('channels')} (dimension {row.get('channel_axis')}) {number(channel)} dB"
    if row.get("constant"):
        yield "constant in the file alone"
    dead = list(row.get("dead_channels") or ())[:_MOST_CHANNELS]
    if dead:
        yield f"constant in the file alone: {', '.join(map(str, dead))}"
