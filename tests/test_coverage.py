"""Rows of the pages of architectures: kept, gone on with, computed anew where they are named."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from benchmarks import architectures, coverage, trained


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """Names whose cells were computed, of the architectures a, b and c; none takes a process."""
    names: list[str] = []

    def one(compute: coverage.Cells, name: str, columns: int, limit_s: float) -> list[str]:
        names.append(name)
        if name == "b" and len(names) < 3:
            raise KeyboardInterrupt
        return [f"{name}{len(names)}"] * columns

    monkeypatch.setattr(trained, "FOLDER", tmp_path / "bench")
    monkeypatch.setattr(architectures, "ARCHITECTURES", dict.fromkeys("abc"))
    monkeypatch.setattr(coverage, "apart", one)
    return names


def covered(names: Sequence[str] = ()) -> dict[str, list[str]]:
    return coverage.covered("page", cells, 2, names, 1.0)


def test_a_run_that_was_stopped_goes_on_and_named_rows_are_computed_anew(computed: list[str]) -> None:
    with pytest.raises(KeyboardInterrupt):
        covered()
    assert covered() == {"a": ["a1", "a1"], "b": ["b3", "b3"], "c": ["c4", "c4"]}
    assert covered(["a"]) == {"a": ["a5", "a5"]}
    assert covered()["a"] == ["a5", "a5"]
    assert computed == ["a", "b", "b", "c", "a"]


def cells(name: str) -> list[str]:
    if name == "dies":
        os._exit(3)
    if name == "hangs":
        time.sleep(60)
    return [name, "yes"]


@pytest.mark.parametrize(
    ("name", "told"), [("good", ["good", "yes"]), ("dies", ["no: its process ended with 3"] * 2), ("hangs", ["no: more than 0 s"] * 2)]
)
def test_a_process_that_ends_or_hangs_is_a_row_that_says_so(name: str, told: list[str]) -> None:
    assert coverage.apart(cells, name, 2, 0.2 if name == "hangs" else 60.0) == told


def test_a_page_has_a_line_for_each_architecture(computed: list[str], tmp_path: Path) -> None:
    coverage.write_page(tmp_path / "page.md", "# Head\n", ["holds"], {"b": ["no: why"], "a": ["yes"]})
    wanted = ["# Head", "", "| architecture | holds |", "| --- | --- |", "| a | yes |", "| b | no: why |", "| c | not tried |"]
    assert (tmp_path / "page.md").read_text().splitlines() == wanted
