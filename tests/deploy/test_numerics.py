"""An artifact is called by the numbers that its file computes with."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
import torch
from onnx import TensorProto, helper
from torch import nn

import laconic as lc
from laconic.deploy.artifact import Artifact
from laconic.deploy.numerics import bits_of
from laconic.run.bench import bench


def program() -> lc.Program:
    torch.manual_seed(0)
    return lc.capture(
        nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 4)).eval(), (torch.randn(4, 64),)
    )


def quantized(**options: object) -> lc.Program:
    data = torch.utils.data.TensorDataset(torch.randn(64, 64), torch.zeros(64).long())
    task = lc.Task(nn.Linear(64, 4), data, data)
    return lc.quantize(program(), lc.Quantize(target="onnxruntime", **options), task)[0]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "numerics", "bits"),
    [(None, "fp32", None), ({}, "int8", 8), ({"mode": "weights"}, "int8", 8), ({"mode": "dynamic"}, "int8", 8)],
    ids=["float", "static", "weights", "dynamic"],
)
def test_a_file_shows_what_it_computes_with(options: dict[str, object] | None, numerics: str, bits: int | None, tmp_path: Path) -> None:
    made = program() if options is None else quantized(**options)
    artifact = lc.export(made, tmp_path / "a" / "model.onnx")
    assert (artifact.numerics, bits_of(artifact.file)) == (numerics, bits)
    bare = artifact.save(tmp_path / "bare" / "model.onnx")
    assert Artifact.open(bare).numerics == numerics  # without a card too


def test_the_fewest_bits_name_a_file(tmp_path: Path) -> None:
    """Codes in 4 bits beside codes in 8, as ONNX has them."""
    codes = [helper.make_tensor(f"w{bits}", kind, [2], [1, -2]) for bits, kind in ((4, TensorProto.INT4), (8, TensorProto.INT8))]
    scale = helper.make_tensor("s", TensorProto.FLOAT, [], [0.5])
    nodes = [helper.make_node("DequantizeLinear", [tensor.name, "s"], [f"y{tensor.name}"]) for tensor in codes]
    outputs = [helper.make_tensor_value_info(f"y{tensor.name}", TensorProto.FLOAT, [2]) for tensor in codes]
    onnx.save(helper.make_model(helper.make_graph(nodes, "g", [], outputs, [*codes, scale])), tmp_path / "m.onnx")
    assert bits_of(tmp_path / "m.onnx") == 4


def test_a_comparison_calls_it_so(tmp_path: Path) -> None:
    artifact = lc.export(quantized(), tmp_path / "model.onnx", threads=1)
    found = bench(artifact, rounds=1, turn_seconds=0.01, threads=1)
    assert found.timings[0].name == "artifact (onnxruntime, int8)"
