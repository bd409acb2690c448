"""Weights in few bits, and activations rounded by their own range: files against the rounded graph and against ONNX Runtime's own tool."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

import laconic as lc
from laconic.core.target import Target
from laconic.deploy.export import parity, write_onnx
from laconic.deploy.runtime import runtime
from tests.core.models import ConvNet, Recurrent

RNG = np.random.default_rng(0)


class Words(nn.Module):
    """An embedding, two linear layers that read the same tensor, and one with a kernel of 64 inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(50, 64)
        self.left, self.right, self.head = nn.Linear(64, 64), nn.Linear(64, 64), nn.Linear(64, 5)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.table(ids)
        return self.head((self.left(x).relu() + self.right(x).tanh()).mean(1))


def words() -> tuple[lc.Program, np.ndarray]:
    torch.manual_seed(0)
    ids = RNG.integers(0, 50, (6, 7))
    return lc.capture(Words().eval(), torch.from_numpy(ids[:2])), ids


def written(program: lc.Program, folder: Path) -> onnx.ModelProto:
    write_onnx(program, folder / "m.onnx", "m.onnx")
    return onnx.load(folder / "m.onnx")


def operators(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node]


def kinds(model: onnx.ModelProto) -> dict[str, int]:
    return {item.name: item.data_type for item in model.graph.initializer}


def test_dynamic_linear_layers_are_integer_products(tmp_path: Path) -> None:
    program, ids = words()
    found, outcome = lc.quantize(program, lc.Quantize(mode="dynamic", target="onnxruntime"))
    model = written(found, tmp_path)
    assert operators(model).count("MatMulInteger") == 3
    assert operators(model).count("DynamicQuantizeLinear") == 2  # left and right read the same tensor
    assert "Transpose" not in operators(model)
    assert [kinds(model)[f"{name}.weight"] for name in ("table", "left", "right", "head")] == [onnx.TensorProto.INT8] * 4
    assert outcome.changed["operators"] == ["left", "right", "head", "table"]
    with torch.no_grad():
        expected = found(torch.from_numpy(ids)).numpy()
    assert parity(runtime("onnxruntime").load(tmp_path / "m.onnx", Target("onnxruntime")).run([ids]), [expected])["sqnr_db"] > 35


def test_as_exact_as_onnx_runtimes_own_tool(tmp_path: Path) -> None:
    quantization = pytest.importorskip("onnxruntime.quantization")
    program, ids = words()
    with torch.no_grad():
        exact = program(torch.from_numpy(ids)).numpy()
    write_onnx(program, tmp_path / "float.onnx", "float.onnx")
    quantization.quantize_dynamic(tmp_path / "float.onnx", tmp_path / "tool.onnx", per_channel=True)
    found, _ = lc.quantize(program, lc.Quantize(mode="dynamic", target="onnxruntime"))
    write_onnx(found, tmp_path / "ours.onnx", "ours.onnx")
    ours, tool = (
        parity(runtime("onnxruntime").load(tmp_path / f"{name}.onnx", Target("onnxruntime")).run([ids]), [exact])["sqnr_db"]
        for name in ("ours", "tool")
    )
    assert ours > tool - 1


@pytest.mark.parametrize("half", [False, True], ids=["whole range", "half range"])
def test_an_lstm_becomes_dynamic_and_a_gru_says_why_not(half: bool, tmp_path: Path) -> None:
    torch.manual_seed(0)
    program = lc.capture(Recurrent(nn.LSTM).eval(), torch.randn(2, 5, 6))
    found, _ = lc.quantize(program, lc.Quantize(mode="dynamic", target="onnxruntime", reduce_range=half))
    model = written(found, tmp_path)
    assert operators(model).count("DynamicQuantizeLSTM") == 2
    x = RNG.standard_normal((4, 5, 6)).astype(np.float32)
    with torch.no_grad():
        expected = found(torch.from_numpy(x)).numpy()
    answer = runtime("onnxruntime").load(tmp_path / "m.onnx", Target("onnxruntime")).run([x])
    assert parity(answer, [expected])["sqnr_db"] > 30
    gru = lc.capture(Recurrent(nn.GRU).eval(), torch.randn(2, 5, 6))
    _, outcome = lc.quantize(gru, lc.Quantize(mode="dynamic", target="onnxruntime"))
    assert "no runtime has a GRU" in outcome.skipped[0].reason
    _, outcome = lc.quantize(program, lc.Quantize(mode="dynamic", target="openvino"))
    assert "only ONNX Runtime's dynamic LSTM" in outcome.skipped[0].reason
    assert outcome.notes


@pytest.mark.parametrize("kind", ["openvino", "onnxruntime"])
def test_four_bits_in_groups_are_packed_and_answer_alike(kind: str, tmp_path: Path) -> None:
    program, ids = words()
    found, _ = lc.quantize(program, lc.Quantize(mode="weights", bits=4, group=32, target=kind))
    model = written(found, tmp_path)
    assert kinds(model)["left.weight"] == onnx.TensorProto.INT4
    assert kinds(model)["table.weight"] == onnx.TensorProto.INT8  # tables keep 8 bits
    blocks = [a.i for node in model.graph.node for a in node.attribute if a.name == "block_size"]
    assert blocks == [32] * 3
    with torch.no_grad():
        expected = found(torch.from_numpy(ids)).numpy()
    assert parity(runtime(kind).load(tmp_path / "m.onnx", Target(kind)).run([ids]), [expected])["sqnr_db"] > 25


def test_groups_round_closer_than_rows() -> None:
    program, ids = words()
    with torch.no_grad():
        exact = program(torch.from_numpy(ids)).numpy()
        ratios = {}
        for group in (0, 16):
            found, _ = lc.quantize(program, lc.Quantize(mode="weights", bits=4, group=group, target="openvino", embeddings=False))
            ratios[group] = parity([found(torch.from_numpy(ids)).numpy()], [exact])["sqnr_db"]
    assert ratios[16] > ratios[0] + 1


def test_convolutions_are_stored_in_8_bits_by_weights_and_left_alone_by_dynamic(tmp_path: Path) -> None:
    program = lc.capture(ConvNet().eval(), torch.randn(2, 1, 8, 8))
    found, _ = lc.quantize(program, lc.Quantize(mode="weights", target="openvino"))
    assert kinds(written(found, tmp_path))["stem.weight"] == onnx.TensorProto.INT8
    _, outcome = lc.quantize(program, lc.Quantize(mode="dynamic", target="onnxruntime"))
    assert {s.name for s in outcome.skipped if "slower than in float" in s.reason} == {"stem", "layers.0.conv", "layers.1.conv"}


def test_what_is_to_stay_float_does() -> None:
    program, _ = words()
    _, outcome = lc.quantize(program, lc.Quantize(mode="weights", target="openvino", keep=("left",)))
    assert outcome.changed["operators"] == ["right", "head", "table"]
    assert ("left", "it is to stay float") in {(s.name, s.reason) for s in outcome.skipped}
