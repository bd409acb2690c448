"""What `studies.compare` found: a table for a terminal, and a page with the table, the curves and pictures of what augmentation does."""

from __future__ import annotations

import base64
import struct
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from laconic.core.files import write_whole
from laconic.core.wording import decimals, fixed, signed
from laconic.report.charts import lines_chart
from laconic.report.drawing import Json, escape
from laconic.report.page import render

_SPREAD = (
    "; intervals are Student's, 95 % over seeds, each by itself; gains are paired by seed; p is of no gain on valid data, "
    "after Holm's correction for all variants"
)
_TITLES = {"lr": "Learning rates", "augment": "Augmentation", "regularize": "Regularization"}


COLUMNS = (
    "Variant",
    "Rate at first → peak",
    "Epochs until as good as the first",
    "Rank",
    "On valid data",
    "Gain on valid data",
    "p",
    "On test data",
    "Gain on test data",
)
_NONE = "–"
_TESTED = 2  # columns, the last ones


def columns(comparison: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the table's head; without test data, without what it would say."""
    return COLUMNS if comparison["scored_on"] == "test" else COLUMNS[:-_TESTED]


def rows(comparison: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Return the table's cells, in the order of `columns`."""
    return [_cells(row, comparison["epochs"])[: len(columns(comparison))] for row in comparison["rows"]]


def _cells(row: Mapping[str, Any], epochs: int) -> tuple[str, ...]:
    at = row["epochs_to_first"]
    return (
        row["name"],
        f"{row['lr']:.2g} → {row['peak_lr']:.2g}",
        _NONE if at["value"] is None else f"{at['value']:.1f} of {epochs}",
        _NONE if row["rank"] is None else str(row["rank"]),
        _measured(row["valid"], fixed),
        _measured(row["valid_gain"], signed),
        _NONE if row["p"] is None else f"{row['p']:.2g}",
        _measured(row["final"], fixed),
        _measured(row["gain"], signed),
    )


def _measured(figure: Mapping[str, Any], told: Callable[[float, int], str]) -> str:
    if figure["value"] is None:
        return f"not measured: {figure['note']}"
    numbers = [figure[name] for name in ("value", "low", "high") if figure[name] is not None]
    places = 2 if figure["unit"] in ("%", "points") else decimals(max(map(abs, numbers)), 3)
    value, *ends = (told(number, places) for number in numbers)
    return f"{value} [{', '.join(ends)}]" if ends else value


def caption(comparison: Mapping[str, Any]) -> str:
    """Return what the table's numbers are."""
    metric = comparison["metric"]
    runs = f"{comparison['seeds']} seed{'s' * (comparison['seeds'] > 1)}"
    spread = _SPREAD if comparison["seeds"] > 1 else "; one seed has no interval and no p"
    tested = " Test data was scored once and chose nothing." if comparison["scored_on"] == "test" else ""
    unit = f" in {metric['unit']}" if metric["unit"] else ""
    return (
        f"{comparison['examples']:,} training examples, {comparison['epochs']} epochs, {runs}. {metric['name']}{unit} at the end{spread}. "
        f"Ranks, p and epochs are of valid data.{tested}"
    )


def table(comparison: Mapping[str, Any]) -> RenderableType:
    """Return the table for a terminal."""
    made = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for index, column in enumerate(columns(comparison)):
        made.add_column(column, justify="right" if index else "left", overflow="fold")
    for cells in rows(comparison):
        made.add_row(*map(Text, cells))
    notes = [f"{row['name']}: {text}" for row in comparison["rows"] for text in row["stopped"]]
    test = comparison["range_test"]
    if test is not None:
        notes.append(
            f"the range test proposes a peak rate of {test['proposal']:.2g}" if "proposal" in test else f"the range test: {test['stopped']}"
        )
    head = Text.assemble((f"{_TITLES[comparison['kind']]} of {comparison['task']}", "bold"))
    said = Text(comparison["verdict"]["text"])
    return Group(head, Text(caption(comparison), "dim"), Text(), made, Text(), said, *(Text(f"note: {note}", "dim") for note in notes))


def charts(comparison: Mapping[str, Any]) -> dict[str, Json]:
    """Draw curves of the metric and of the loss, means over seeds; and of the range test."""
    name, unit = comparison["metric"]["name"], comparison["metric"]["unit"]
    made = {
        "curves": lines_chart(_means(comparison["rows"], "curves"), "Epoch", escape(f"{name}, {unit}" if unit else name)),
        "losses": lines_chart(_means(comparison["rows"], "losses"), "Epoch", "Training loss"),
    }
    test = comparison["range_test"]
    if test is not None and "rates" in test:
        made["range"] = lines_chart({"loss": (test["rates"], test["losses"])}, "Learning rate", "Smoothed loss", log=True)
    for index, picture in enumerate(comparison.get("pictures") or ()):
        if picture["kind"] == "series":
            places = list(range(len(picture["before"][0])))
            lines = {"before": (places, picture["before"][0]), "after": (places, picture["after"][0])}
            made[f"picture-{index}"] = lines_chart(lines, "Step", escape(picture["name"]))
    return made


def _means(variants: Sequence[Mapping[str, Any]], key: str) -> dict[str, tuple[list[float], list[float | None]]]:
    lines: dict[str, tuple[list[float], list[float | None]]] = {}
    for row in variants:
        runs = [run for run in row[key] if run]
        if runs:
            lines[row["name"]] = (
                [float(e) for e in range(1, len(runs[0]) + 1)],
                [float(np.mean(values)) for values in zip(*runs, strict=True)],
            )
    return lines


def page(comparison: Mapping[str, Any]) -> str:
    """Return one self-contained HTML file."""
    pictures = [{**picture, "shown": [[_png(p) for p in picture[side]] for side in ("before", "after")]} if picture["kind"] == "image" else picture
                for picture in comparison.get("pictures") or ()]  # fmt: skip
    return render(
        "comparison.html",
        charts(comparison),
        title=f"{_TITLES[comparison['kind']]} of {comparison['task']}",
        caption=caption(comparison),
        verdict=comparison["verdict"]["text"],
        columns=columns(comparison),
        rows=rows(comparison),
        stopped=[(row["name"], text) for row in comparison["rows"] for text in row["stopped"]],
        test=comparison["range_test"],
        pictures=pictures,
        note=comparison["dataset_note"],
        command=comparison.get("command", ""),
    )


def write_page(comparison: Mapping[str, Any], path: Path) -> Path:
    """Write the page whole; returns its path."""
    return write_whole(path, page(comparison))


def _png(pixels: Any) -> str:
    """Return gray or color bytes (H, W) or (H, W, 3) as the address of a picture inside the page."""
    image = np.asarray(pixels, np.uint8)
    height, width = image.shape[:2]
    lines = b"".join(b"\0" + row.tobytes() for row in image)

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 2 if image.ndim == 3 else 0, 0, 0, 0)
    whole = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")
    return f"data:image/png;base64,{base64.b64encode(whole).decode()}"
