"""The table and the page of a comparison."""

from __future__ import annotations

import base64
import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from laconic.report.comparison import _png, caption, charts, columns, page, rows, table

FIGURE = {"value": 91.234, "unit": "%", "n": 3, "low": 90.5, "high": 92.0, "device": "", "note": ""}
MISSING = {"value": None, "unit": "%", "n": 0, "low": None, "high": None, "device": "", "note": "<b>the loss is nan</b>"}
EPOCHS = {**FIGURE, "value": 2.0, "unit": "epochs"}


def row(name: str, **more: Any) -> dict[str, Any]:
    gain = {**FIGURE, "value": 0.5, "low": -0.001, "high": 1.0}
    plain = {
        "name": name,
        "lr": 0.01,
        "peak_lr": 0.1,
        "rank": 1,
        "p": 0.034,
        "valid": FIGURE,
        "valid_gain": gain,
        "epochs_to_first": EPOCHS,
    }
    plain |= {"final": {**FIGURE, "value": 90.0}, "gain": gain}
    return {**plain, "curves": [[1.0, 3.0], [2.0, 5.0]], "losses": [[1.0, 0.5], [1.0, 0.25]], "stopped": [], **more}


FOUND: dict[str, Any] = {
    "kind": "augment",
    "task": "a & b",
    "dataset_note": "",
    "metric": {"name": "accuracy", "unit": "%", "direction": "max"},
    "examples": 5500,
    "epochs": 4,
    "seeds": 2,
    "scored_on": "test",
    "rows": [
        row("none"),
        row(
            "<crop>",
            **dict.fromkeys(("valid", "valid_gain", "final", "gain", "epochs_to_first"), MISSING),
            rank=None,
            p=None,
            stopped=["<b>the loss is nan</b>"],
            curves=[[], []],
        ),
    ],
    "verdict": {"winner": None, "text": "Nothing won: <crop> comes nearest."},
    "range_test": {"rates": [1e-4, 1e-3, 1e-2], "losses": [2.0, 1.0, 3.0], "proposal": 1e-3},
    "pictures": [
        {"name": "crop", "kind": "image", "before": [[[0, 255], [7, 9]]], "after": [[[1, 2], [3, 4]]]},
        {"name": "jitter", "kind": "series", "before": [[1.0, 2.0]], "after": [[1.5, 2.5]]},
        {"name": "swap", "kind": "text", "before": ["who <are> you"], "after": ["who you are"]},
    ],
    "command": "laconic compare augment digits",
}


def test_cells_are_rounded_with_their_intervals() -> None:
    """What rounds to zero has no minus."""
    gain, valid = "+0.50 [0.00, +1.00]", "91.23 [90.50, 92.00]"
    assert rows(FOUND)[0] == ("none", "0.01 → 0.1", "2.0 of 4", "1", valid, gain, "0.034", "90.00 [90.50, 92.00]", gain)
    assert rows(FOUND)[1][2:5] == ("–", "–", "not measured: <b>the loss is nan</b>")


def test_a_small_error_keeps_its_digits() -> None:
    small = {**FIGURE, "unit": "", "value": 0.00123, "low": 0.001, "high": 0.0015}
    found = {**FOUND, "rows": [row("none", valid=small)]}
    assert rows(found)[0][4] == "0.00123 [0.00100, 0.00150]"


def test_without_test_data_no_column_tells_of_it() -> None:
    found = {**FOUND, "scored_on": "valid"}
    assert columns(found)[-1] == "p"
    assert all(len(cells) == len(columns(found)) for cells in rows(found))
    assert "Test data" not in caption(found)
    assert "Test data was scored once" in caption(FOUND)


def test_curves_are_means_over_the_seeds_that_trained() -> None:
    drawn = charts(FOUND)
    assert [(trace["name"], trace["x"], trace["y"]) for trace in drawn["curves"]["data"]] == [("none", [1.0, 2.0], [1.5, 4.0])]
    assert drawn["range"]["layout"]["xaxis"]["type"] == "log"
    assert [trace["y"] for trace in drawn["picture-1"]["data"]] == [[1.0, 2.0], [1.5, 2.5]]
    assert [trace["name"] for trace in drawn["losses"]["data"]] == ["none", "&lt;crop&gt;"]


def test_the_terminal_shows_the_table_and_what_stopped() -> None:
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(table(FOUND))
    told = console.export_text()
    assert "5,500 training examples, 4 epochs, 2 seeds" in told
    assert "<crop>: <b>the loss is nan</b>" in told
    assert "proposes a peak rate of 0.001" in told
    assert "Nothing won: <crop> comes nearest." in told


def test_the_page_is_whole_and_escaped() -> None:
    text = page(FOUND)
    assert "Augmentation of a &amp; b" in text
    assert "<b>the loss" not in text
    assert "Nothing won: &lt;crop&gt; comes nearest." in text
    assert "who &lt;are&gt; you" in text
    assert text.count('<img src="data:image/png;base64,') == 2


@pytest.mark.parametrize("shape", [(5, 7), (5, 7, 3)], ids=["grey", "color"])
def test_a_picture_is_a_png_of_these_pixels(shape: tuple[int, ...]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    data = base64.b64decode(_png(pixels.tolist()).partition(",")[2])
    assert data.startswith(b"\x89PNG\r\n\x1a\n")
    chunks, place = {}, 8
    while place < len(data):
        (size,) = struct.unpack(">I", data[place : place + 4])
        kind, body = data[place + 4 : place + 8], data[place + 8 : place + 8 + size]
        assert struct.unpack(">I", data[place + 8 + size : place + 12 + size])[0] == zlib.crc32(kind + body)
        chunks[kind], place = body, place + 12 + size
    assert struct.unpack(">IIBB", chunks[b"IHDR"][:10]) == (7, 5, 8, 2 if len(shape) == 3 else 0)
    lines = np.frombuffer(zlib.decompress(chunks[b"IDAT"]), np.uint8).reshape(5, -1)
    assert (lines[:, 0] == 0).all()
    assert np.array_equal(lines[:, 1:].reshape(shape), pixels)
