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
from laconic.report.charts import Json, escape, lines_chart
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


def columns(found: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the table's head; without test data, without what it would say."""
    return COLUMNS if found["scored_on"] == "test" else COLUMNS[:-_TESTED]


def rows(found: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Return the table's cells, in the order of `columns`."""
    return [_cells(row, found["epochs"])[: len(columns(found))] for row in found["rows"]]


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


def caption(found: Mapping[str, Any]) -> str:
    """Return what the table's numbers are."""
    metric = found["metric"]
    runs = f"{found['seeds']} seed{'s' * (found['seeds'] > 1)}"
    spread = _SPREAD if found["seeds"] > 1 else "; one seed has no interval and no p"
    tested = " Test data was scored once and chose nothing." if found["scored_on"] == "test" else ""
    unit = f" in {metric['unit']}" if metric["unit"] else ""
    return (
        f"{found['examples']:,} training examples, {found['epochs']} epochs, {runs}. {metric['name']}{unit} at the end{spread}. "
        f"Ranks, p and epochs are of valid data.{tested}"
    )


def table(found: Mapping[str, Any]) -> RenderableType:
    """Return the table for a terminal."""
    made = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for index, column in enumerate(columns(found)):
        made.add_column(column, justify="right" if index else "left", overflow="fold")
    for cells in rows(found):
        made.add_row(*map(Text, cells))
    notes = [f"{row['name']}: {text}" for row in found["rows"] for text in row["stopped"]]
    test = found["range_test"]
    if test is not None:
        notes.append(
            f"the range test proposes a peak rate of {test['proposal']:.2g}" if "proposal" in test else f"the range test: {test['stopped']}"
        )
    head = Text.assemble((f"{_TITLES[found['kind']]} of {found['task']}", "bold"))
    said = Text(found["verdict"]["text"])
    return Group(head, Text(caption(found), "dim"), Text(), made, Text(), said, *(Text(f"note: {note}", "dim") for note in notes))


def charts(found: Mapping[str, Any]) -> dict[str, Json]:
    """Draw curves of the metric and of the loss, means over seeds; and of the range test."""
    name, unit = found["metric"]["name"], found["metric"]["unit"]
    made = {
        "curves": lines_chart(_means(found["rows"], "curves"), "Epoch", escape(f"{name}, {unit}" if unit else name)),
        "losses": lines_chart(_means(found["rows"], "losses"), "Epoch", "Training loss"),
    }
    test = found["range_test"]
    if test is not None and "rates" in test:
        made["range"] = lines_chart({"loss": (test["rates"], test["losses"])}, "Learning rate", "Smoothed loss", log=True)
    for index, picture in enumerate(found.get("pictures") or ()):
        if picture["kind"] == "series":
            places = list(range(len(picture["before"][0])))
            lines = {"before": (places, picture["before"][0]), "after": (places, picture["after"][0])}
            made[f"picture-{index}"] = lines_chart(lines, "Step", escape(picture["name"]))
    return made


def _means(found: Sequence[Mapping[str, Any]], key: str) -> dict[str, tuple[list[float], list[float | None]]]:
    lines: dict[str, tuple[list[float], list[float | None]]] = {}
    for row in found:
        runs = [run for run in row[key] if run]
        if runs:
            lines[row["name"]] = (
                [float(e) for e in range(1, len(runs[0]) + 1)],
                [float(np.mean(values)) for values in zip(*runs, strict=True)],
            )
    return lines


def page(found: Mapping[str, Any]) -> str:
    """Return one self-contained HTML file."""
    pictures = [{**picture, "shown": [[_png(p) for p in picture[side]] for side in ("before", "after")]} if picture["kind"] == "image" else picture
                for picture in found.get("pictures") or ()]  # fmt: skip
    return render(
        "comparison.html",
        charts(found),
        title=f"{_TITLES[found['kind']]} of {found['task']}",
        caption=caption(found),
        verdict=found["verdict"]["text"],
        columns=columns(found),
        rows=rows(found),
        stopped=[(row["name"], text) for row in found["rows"] for text in row["stopped"]],
        test=found["range_test"],
        pictures=pictures,
        note=found["dataset_note"],
        command=found.get("command", ""),
    )


def write_page(found: Mapping[str, Any], path: Path) -> Path:
    """Write the page whole; returns its path."""
    return write_whole(path, page(found))


def _png(pixels: Any) -> str:
    """Return gray or color bytes (H, W) or (H, W, 3) as the address of a picture inside the page."""
    found = np.asarray(pixels, np.uint8)
    height, width = found.shape[:2]
    lines = b"".join(b"\0" + row.tobytes() for row in found)

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 2 if found.ndim == 3 else 0, 0, 0, 0)
    whole = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")
    return f"data:image/png;base64,{base64.b64encode(whole).decode()}"
