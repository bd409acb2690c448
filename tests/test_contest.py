"""The benchmarks' contest of model files, which workers of the package run: what these ask of a file, its entries tell."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from benchmarks.contest import Entry, contest
from torch import nn

import laconic as lc


def test_files_are_timed_beside_each_other(tmp_path: Path) -> None:
    x = torch.randn(4, 6)
    artifact = lc.export(lc.capture(nn.Linear(6, 3).eval(), x), tmp_path / "model.onnx")
    entries = {name: Entry(artifact.file, lc.Target("onnxruntime", threads=1)) for name in ("one", "other")}
    results = contest(entries, [np.zeros((1, 6), np.float32)], tmp_path, "one", rounds=2, seconds=0.01)
    assert set(results) == {"one", "other"}
    assert all(result.p50_ms > 0 for result in results.values())
    assert results["one"].ratio == 1
