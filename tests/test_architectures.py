"""The table of architectures in the docs, made again in part."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from benchmarks.architectures import ARCHITECTURES, DOCS, check, line

pytest.importorskip("transformers", reason="the architectures of transformers need the hf extra")
TABLE = {row.split("|")[1].strip(): row for row in DOCS.read_text(encoding="utf-8").splitlines() if row.startswith("| ")}


def without_differences(row: str) -> str:
    return re.sub(r"\| \S+ \| \S+ \| \S+ \| (yes|no: .*) \|$", r"| \1 |", row)


def test_the_table_has_a_row_for_each_and_at_least_25_hold() -> None:
    assert set(ARCHITECTURES) <= set(TABLE)
    assert sum(row.endswith("| yes |") for row in TABLE.values()) >= 25


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("name", ["ResNet-20", "MobileNetV2", "GRU (series)", "ConvNeXt", "Swin", "DistilBERT", "Llama (grouped queries)"])
def test_a_row_holds_today(name: str, tmp_path: Path) -> None:
    row = check(name, tmp_path)
    assert without_differences(line(row)) == without_differences(TABLE[name])
    assert max(row.differences.values()) < 1e-4
