"""Where a zero is time: the benchmark that measures it, the page that it writes, and what the runtimes say of themselves by it."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
from benchmarks import zeros
from benchmarks.zeros import DOCS, KINDS, Kind, measured
from benchmarks.zeros_page import CHANNELS, DENSE, ORT, TITLES, TORCH, Gap, Row, page

from laconic.deploy.runtime import names, runtime

MACHINE = {"processor": "a processor", "instructions": ["avx2"], "versions": {"torch": "2"}}


def tables(text: str) -> dict[str, dict[str, list[str]]]:
    """Return the figures of each pattern, by section."""
    result: dict[str, dict[str, list[str]]] = {}
    for section in text.split("\n## ")[1:]:
        title, _, rest = section.partition("\n")
        rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in rest.splitlines() if line.startswith("| ")]
        if rows:
            columns = list(zip(*(row[2:] for row in rows if "---" not in row), strict=True))
            result[title] = {column[0]: " ".join(column[1:]).split() for column in columns}
    return result


@pytest.mark.parametrize("name", names())
def test_a_runtime_is_fast_in_patterns_that_were_measured_to_be(name: str) -> None:
    one = runtime(name)
    measured = tables(DOCS.read_text(encoding="utf-8")).get(one.title, {})
    fast = {pattern for pattern, cells in measured.items() if sum(cell.startswith("**") for cell in cells) > len(cells) / 2}
    assert set(one.fast_zeros) == fast - {"whole channels"}
    assert not measured or "whole channels" in fast  # where a zero is time for sure


def test_zeros_are_timed_beside_the_dense_net(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zeros, "FOLDER", tmp_path)
    monkeypatch.setitem(KINDS, "tiny", Kind("tiny", partial(zeros._linear, 64, 1), (64,), 128))
    monkeypatch.setattr(zeros, "cells", lambda quick: [("2:4", 0.5)])
    for way in (ORT, TORCH):  # that the file has the zeros, and that rows without them answer alike, is checked there
        rows = measured(way, "tiny", "fp32", quick=True)
        assert [(row.pattern, row.density) for row in rows] == [(DENSE, 1.0), ("2:4", 0.5)]
        assert rows[0].ratio == 1
        assert all(row.ms > 0 and row.low <= row.ratio <= row.high for row in rows)


def test_the_page_marks_what_is_surely_faster() -> None:
    def row(way: str, pattern: str, density: float, ratio: float) -> dict[str, object]:
        return vars(Row("conv-1x1", way, "fp32", pattern, density, 0.5, ratio, ratio - 0.1, ratio + 0.1))

    rows = [row(ORT, DENSE, 1, 1), row(ORT, "unstructured", 0.5, 1.1), row(ORT, "unstructured", 0.1, 0.98), row(ORT, CHANNELS, 0.5, 2)]
    rows += [row(TORCH, DENSE, 1, 1), row(TORCH, "unstructured", 0.5, 0.4), row(TORCH, "unstructured", 0.1, 2.5)]
    gaps = [vars(Gap("xnnpack", "", "", "it is not here")), vars(Gap(ORT, "lstm", "int8", "no kernel"))]
    text = "\n".join(page({"machine": MACHINE, "rows": rows, "gaps": gaps}, {name: kind.title for name, kind in KINDS.items()}))
    assert tables(text) == {
        TITLES[ORT]: {"unstructured": ["1.10", "0.98"], "whole channels": ["**2.00**"]},
        TITLES[TORCH]: {"unstructured": ["0.40", "**2.50**"]},
    }
    few, many = "where 50 % are not zero (median of the ratios {})", "where 10 % are not zero (median of the ratios {})"
    assert f"are 0 of 1 {few.format('1.10')}, 0 of 1 {many.format('0.98')}; ratios go from 0.98 to 1.10." in text
    assert f"are 0 of 1 {few.format('0.40')}, 1 of 1 {many.format('2.50')}; ratios go from 0.40 to 2.50." in text
    assert "- XNNPACK: it is not here." in text
    assert "LSTM of 128 features and 256 states, 16 steps, int8: not measured: no kernel." in text
