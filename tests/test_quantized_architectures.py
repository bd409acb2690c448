"""The table of quantized architectures in the docs, made again in part."""

from __future__ import annotations

from pathlib import Path

import pytest
from benchmarks.architectures import ARCHITECTURES
from benchmarks.quantization import DOCS, rounded_row

TABLE = {row.split("|")[1].strip(): row for row in DOCS.read_text(encoding="utf-8").splitlines() if row.startswith("| ")}


def test_the_table_has_a_row_for_each_and_at_least_25_hold() -> None:
    assert set(ARCHITECTURES) <= set(TABLE)
    assert sum(row.endswith("| yes |") for row in TABLE.values()) >= 25


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("name", ["ResNet-8", "LSTM (text)", "ConvNeXt", "DistilBERT"])
def test_a_row_holds_today(name: str, tmp_path: Path) -> None:
    if name not in ("ResNet-8", "LSTM (text)"):
        pytest.importorskip("transformers", reason="needs the hf extra")
    found, reason = rounded_row(name, tmp_path)
    assert reason == ""
    assert min(found["openvino"], found["onnxruntime"]) > 20
