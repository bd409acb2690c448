"""The files of quantized programs: what stands in them, and that runtimes answer as the rounded graph does."""

from __future__ import annotations

import math
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, numpy_helper
from torch import Tensor, fx, nn

from laconic.core.capture import capture
from laconic.core.fake_quant import PER_CHANNEL, Quantizer, fake_quants, insert, quantizer_of, weight_of
from laconic.core.program import Program, aten
from laconic.core.target import Target
from laconic.deploy import qdq
from laconic.deploy.export import write_model
from laconic.deploy.runtime import runtime
from laconic.quantization.quantize import Quantize, quantize
from laconic.quantization.scheme import WEIGHT_INT4, Scheme, weight_grid
from tests.quantization.nets import Residual, TiedWords, images, mlp, task_of, with_statistics
from tests.reference.quantize import sqnr_db

RUNTIMES = ("openvino", "onnxruntime")


class Small(nn.Module):
    """A convolution, a linear layer whose weight ONNX wants turned, and an embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 8, 3), nn.Linear(8, 4)
        self.table = nn.Embedding(3, 8)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.conv(x).relu().mean((2, 3)) + self.table(x.mean((2, 3)).argmax(1)))


def quantized(net: nn.Module, x: Tensor, **options: Any) -> Program:
    return quantize(capture(net.eval(), x), Quantize(**{"target": "openvino", **options}), task_of(x))[0]


@cache
def small(target: str = "openvino") -> tuple[Program, onnx.ModelProto]:
    """`Small` quantized, and its file."""
    torch.manual_seed(0)
    program = quantized(Small(), images(16), target=target)
    with tempfile.TemporaryDirectory() as folder:
        return program, written(program, Path(folder))


def written(program: Program, folder: Path) -> onnx.ModelProto:
    model = onnx.load(write_model(program, folder, "onnx"))
    onnx.checker.check_model(model)
    return model


def operators(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node]


def initializers(model: onnx.ModelProto) -> dict[str, TensorProto]:
    return {item.name: item for item in model.graph.initializer}


def answers(folder: Path, x: Tensor, name: str) -> np.ndarray:
    return np.array(runtime(name).load(folder / "model.onnx", Target(name, threads=1)).run([x.numpy()])[0])


# Weights ------------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", RUNTIMES)
def test_weights_are_integers_under_their_own_names(target: str) -> None:
    program, model = small(target)
    found = initializers(model)
    for node in fake_quants(program.graph):
        weight = weight_of(node)
        if weight is None:
            continue
        stored = found[str(weight.target)]
        assert stored.data_type == TensorProto.INT8
        codes = quantizer_of(program.graph_module, node).codes(program.state_dict()[str(weight.target)]).numpy()
        array = numpy_helper.to_array(stored)
        # linear layers are stored as ONNX multiplies them
        assert np.array_equal(array, codes) or np.array_equal(array, codes.T)
    assert not [name for name in found if "#" in name or "~" in name]


@pytest.mark.parametrize("target", RUNTIMES)
def test_nothing_is_done_to_weights_at_run_time(target: str) -> None:
    _, model = small(target)
    constants = set(initializers(model))
    assert not {"Clip", "Transpose"} & set(operators(model))
    for node in model.graph.node:
        if node.op_type == "QuantizeLinear":
            assert node.input[0] not in constants
        if node.op_type == "DequantizeLinear" and node.input[0] in constants:
            gemm = any(user.op_type == "Gemm" and node.output[0] in user.input for user in model.graph.node)
            assert len([name for name in node.input if name]) == (3 if gemm else 2)  # a zero point of 0 is left out elsewhere
    # three weights, and the bias of the one Gemm
    assert operators(model).count("DequantizeLinear") == operators(model).count("QuantizeLinear") + 4


def test_an_embedding_looks_integers_up_and_scales_only_what_it_found() -> None:
    _, model = small()
    (gather,) = [node for node in model.graph.node if node.op_type == "Gather" and node.input[0] == "table.weight"]
    assert initializers(model)["table.weight"].data_type == TensorProto.INT8
    (reader,) = [node for node in model.graph.node if gather.output[0] in node.input]
    assert reader.op_type == "DequantizeLinear"
    assert len(numpy_helper.to_array(initializers(model)[reader.input[1]])) == 8


def test_a_tied_table_is_stored_once_for_each_way_it_is_rounded(tmp_path: Path) -> None:
    ids = torch.randint(0, 20, (16, 5))
    program = quantized(TiedWords(), ids)
    found = {
        name: item
        for name, item in initializers(written(program, tmp_path)).items()
        if item.data_type == TensorProto.INT8 and len(item.dims) == 2
    }
    assert sorted(math.prod(item.dims) for item in found.values()) == [64, 160, 160]
    assert {"mix.weight", "out.weight"} < set(found)
    for name in RUNTIMES:
        assert sqnr_db(program(ids).detach().numpy(), answers(tmp_path, ids, name)) > 40


@pytest.mark.parametrize(("target", "kind"), [("openvino", TensorProto.INT8), ("onnxruntime", TensorProto.UINT8)], ids=RUNTIMES)
def test_what_lies_around_0_is_int8_for_openvino_and_uint8_for_onnx_runtime(target: str, kind: int) -> None:
    _, model = small(target)
    (first,) = [node for node in model.graph.node if node.op_type == "QuantizeLinear" and node.input[0] == "x"]
    assert initializers(model)[first.input[2]].data_type == kind


# What the runtimes make of it ---------------------------------------------------------------------------------------------------------------


def optimized(program: Program, folder: Path) -> list[str]:
    """The operators that ONNX Runtime runs."""
    write_model(program, folder, "onnx")
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(folder / "optimized.onnx")
    options.log_severity_level = 3
    onnxruntime.InferenceSession(folder / "model.onnx", options, providers=["CPUExecutionProvider"])
    return operators(onnx.load(folder / "optimized.onnx"))


def test_onnx_runtime_computes_convolutions_and_sums_in_integers(tmp_path: Path) -> None:
    found = optimized(quantized(with_statistics(Residual()), images(16), target="onnxruntime"), tmp_path)
    assert (found.count("QLinearConv"), found.count("QLinearAdd"), found.count("Conv"), found.count("Add")) == (3, 1, 0, 0)


def test_onnx_runtime_computes_linear_layers_of_sequences_in_integers(tmp_path: Path) -> None:
    found = optimized(quantized(mlp(16, 32, 8), torch.randn(16, 5, 16), target="onnxruntime"), tmp_path)
    assert found.count("MatMulIntegerToFloat") == 2


def test_onnx_runtime_computes_linear_layers_of_rows_in_integers(tmp_path: Path) -> None:
    found = optimized(quantized(mlp(16, 32, 8), torch.randn(16, 16), target="onnxruntime"), tmp_path)
    assert "Gemm" not in found
    assert found.count("QGemm") == 2


def test_openvino_computes_in_integers(tmp_path: Path) -> None:
    program = quantized(with_statistics(Residual()), images(16), target="openvino")
    write_model(program, tmp_path, "onnx")
    session: Any = runtime("openvino").load(tmp_path / "model.onnx", Target("openvino", threads=1))
    rows = [op.get_rt_info() for op in session.compiled.get_runtime_model().get_ordered_ops()]
    kinds = [(row["layerType"].astype(str), row["runtimePrecision"].astype(str)) for row in rows]
    heavy = [precision for kind, precision in kinds if kind in ("Convolution", "FullyConnected", "MatMul")]
    assert len(heavy) == 4
    assert set(heavy) <= {"i8", "u8"}


# Four bits --------------------------------------------------------------------------------------------------------------------------------------


def four_bits(net: nn.Module, x: Tensor, group: int) -> Program:
    """Every linear layer's weight in 4 bits, put in by hand."""
    program = capture(net.eval(), x)
    for node in [n for n in program.graph.nodes if n.target is aten.linear.default]:
        source: fx.Node = node.args[1]
        weight = program.state_dict()[str(source.target)]
        grid = weight_grid(weight, Scheme(WEIGHT_INT4.low, WEIGHT_INT4.high, axis=0, group=group))
        node.update_arg(1, insert(program.graph_module, source, grid, str(source.target).replace(".", "_")))
    program.recompile()
    return program


@pytest.mark.parametrize("group", [32, 0], ids=["groups", "rows"])
def test_four_bits_are_int4_in_blocks_and_answered_alike(group: int, tmp_path: Path) -> None:
    x = torch.randn(6, 64)
    program = four_bits(mlp(64, 96, 32), x, group)
    model = written(program, tmp_path)
    found = initializers(model)
    assert {found[name].data_type for name in ("0.weight", "2.weight")} == {TensorProto.INT4}
    assert not {"Transpose", "Reshape", "Clip"} & set(operators(model))
    for node in model.graph.node:
        if node.op_type == "DequantizeLinear":
            attributes = {a.name: a.i for a in node.attribute}
            assert attributes.get("block_size", 0) == group
            scale, codes = (found[name].dims for name in (node.input[1], node.input[0]))
            assert math.prod(scale) == (math.prod(codes) // group if group else codes[attributes["axis"]])
            assert len(node.input) == 2
    for name in RUNTIMES:
        # OpenVINO rounds the inputs of products with compressed weights to 8 bits at run time
        assert sqnr_db(program(x).detach().numpy(), answers(tmp_path, x, name)) > {"openvino": 35, "onnxruntime": 60}[name], name


def test_a_group_that_is_a_whole_row_is_a_row(tmp_path: Path) -> None:
    """The exporter leaves out the reshape of a weight into groups where it changes nothing."""
    x = torch.randn(6, 64)
    program = four_bits(mlp(64, 96), x, 64)
    found = initializers(written(program, tmp_path))
    assert found["0.weight"].data_type == TensorProto.INT4
    assert sqnr_db(program(x).detach().numpy(), answers(tmp_path, x, "onnxruntime")) > 60


def test_many_groups_keep_their_zero_points_out_of_the_file(tmp_path: Path) -> None:
    """The exporter casts the zero points of so many groups at run time instead of folding the cast."""
    x = torch.randn(6, 256)
    program = four_bits(mlp(256, 1024), x, 16)
    model = written(program, tmp_path)
    assert "Cast" not in operators(model)
    assert sqnr_db(program(x).detach().numpy(), answers(tmp_path, x, "onnxruntime")) > 60


def test_a_group_of_8_bits_keeps_8_bits(tmp_path: Path) -> None:
    x = torch.randn(6, 64)
    program = capture(mlp(64, 32).eval(), x)
    (node,) = [n for n in program.graph.nodes if n.target is aten.linear.default]
    grid = weight_grid(program.state_dict()["0.weight"], Scheme(-127, 127, axis=0, group=16))
    node.update_arg(1, insert(program.graph_module, node.args[1], grid, "0_weight"))
    program.recompile()
    model = written(program, tmp_path)
    assert initializers(model)["0.weight"].data_type == TensorProto.INT8
    assert sqnr_db(program(x).detach().numpy(), answers(tmp_path, x, "onnxruntime")) > 60


# Batch-norms behind rounded weights ---------------------------------------------------------------------------------------------------------------


def behind_rounded(gamma: Tensor) -> tuple[Program, Tensor]:
    net = with_statistics(nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 4, 1)))
    net[1].weight.data = gamma
    x = images(4)
    program = capture(net, x)
    for node in [n for n in program.graph.nodes if n.target is aten.conv2d.default]:
        source: fx.Node = node.args[1]
        grid = weight_grid(program.state_dict()[str(source.target)], Scheme(-127, 127, axis=0))
        node.update_arg(1, insert(program.graph_module, source, grid, str(source.target).replace(".", "_")))
    program.recompile()
    return program, x


@pytest.mark.parametrize(
    "gamma",
    [
        torch.linspace(0.5, 2, 6),
        torch.tensor([0.5, -2.0, 1.0, -1.0, 3.0, -0.1]),
        torch.tensor([0.5, 0.0, 1.0, -1.0, 0.0, -0.1]),
    ],
    ids=["positive", "negative too", "zeros too"],
)
def test_a_batch_norm_behind_a_rounded_weight_goes_into_its_scales(gamma: Tensor, tmp_path: Path) -> None:
    program, x = behind_rounded(gamma)
    before = program.fingerprint()
    model = written(program, tmp_path)
    assert program.fingerprint() == before
    assert "BatchNormalization" not in operators(model)
    assert initializers(model)["0.weight"].data_type == TensorProto.INT8
    codes = next(n for n in fake_quants(program.graph) if weight_of(n).target == "0.weight")  # type: ignore[union-attr]
    expected = quantizer_of(program.graph_module, codes).codes(program.state_dict()["0.weight"]).numpy() * np.sign(gamma.numpy()).reshape(
        -1, 1, 1, 1
    )
    live = gamma.numpy() != 0
    assert np.array_equal(numpy_helper.to_array(initializers(model)["0.weight"])[live], expected[live])
    for name in RUNTIMES:
        np.testing.assert_allclose(answers(tmp_path, x, name), program(x).detach().numpy(), rtol=1e-4, atol=1e-5)


# Float programs ----------------------------------------------------------------------------------------------------------------------------------


def test_a_float_program_never_meets_the_lowering(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = capture(Small().eval(), images(4))
    assert not qdq.is_quantized(program)
    first = write_model(program, tmp_path / "a", "onnx").read_bytes()

    def refused(*_: object) -> None:
        raise AssertionError("a float program was lowered")

    monkeypatch.setattr(qdq, "lower", refused)
    monkeypatch.setattr(qdq, "finish", refused)
    assert write_model(program, tmp_path / "b", "onnx").read_bytes() == first


def test_the_program_that_is_written_is_not_changed(tmp_path: Path) -> None:
    program = quantized(mlp(6, 8, 3), torch.randn(8, 6))
    before = program.fingerprint()
    written(program, tmp_path)
    assert program.fingerprint() == before
    assert qdq.is_quantized(program)


def test_a_file_is_the_same_each_time(tmp_path: Path) -> None:
    program, _ = small()
    first = write_model(program, tmp_path / "a", "onnx").read_bytes()
    assert write_model(Program.load(program.save(tmp_path / "p.pt2")), tmp_path / "b", "onnx").read_bytes() == first


def test_a_quantizer_that_is_not_symmetric_keeps_its_zero_point(tmp_path: Path) -> None:
    x = torch.randn(6, 8)
    program = capture(mlp(8, 4).eval(), x)
    (node,) = [n for n in program.graph.nodes if n.target is aten.linear.default]
    grid = Quantizer(torch.full((4,), 0.01), torch.tensor([0, 3, -2, 0], dtype=torch.int32), -128, 127, 0)
    node.update_arg(1, insert(program.graph_module, node.args[1], grid, "0_weight"))
    program.recompile()
    assert next(fake_quants(program.graph)).target is PER_CHANNEL
    written(program, tmp_path)
    for name in RUNTIMES:
        assert sqnr_db(program(x).detach().numpy(), answers(tmp_path, x, name)) > 60, name
