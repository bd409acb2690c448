from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper
from torch import Tensor, fx, nn

from laconic.core.capture import capture
from laconic.core.fake_quant import (
    LEARNED_CHANNEL,
    LEARNED_TENSOR,
    PER_CHANNEL,
    PER_TENSOR,
    Quantizer,
    fake_quants,
    insert,
    insert_dynamic,
    is_dynamic,
    is_fake_quant,
    quantizer_of,
    register,
    weight_of,
)
from laconic.core.program import Program, aten


def tensor_grid(scale: float = 0.1, zero: int = 7, low: int = 0, high: int = 255) -> Quantizer:
    return Quantizer(torch.tensor([scale]), torch.tensor([zero], dtype=torch.int32), low, high)


def channel_grid(channels: int, axis: int = 0, low: int = -127, high: int = 127, group: int = 0) -> Quantizer:
    scale = torch.linspace(0.01, 0.05, channels)
    return Quantizer(scale, torch.zeros(channels, dtype=torch.int32), low, high, axis, group)


def node_of(program: Program, target: object) -> fx.Node:
    return next(node for node in program.graph.nodes if node.target == target)


def attribute(program: Program, name: str) -> fx.Node:
    return next(node for node in program.graph.nodes if node.op == "get_attr" and node.target == name)


def linear_program() -> Program:
    return capture(nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 3)), torch.randn(4, 8))


def put(program: Program, source: fx.Node, reader: fx.Node, quantizer: Quantizer, name: str) -> fx.Node:
    node = insert(program.graph_module, source, quantizer, name)
    reader.replace_input_with(source, node)
    program.recompile()
    return node


# The grid itself -------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("zero", [0, 7, 255], ids=["zero first", "zero inside", "zero last"])
def test_a_quantizer_is_pytorchs_per_tensor(zero: int) -> None:
    x = torch.randn(50, 40) * 20
    found = tensor_grid(0.1, zero)(x)
    assert torch.equal(found, torch.fake_quantize_per_tensor_affine(x, 0.1, zero, 0, 255))


@pytest.mark.parametrize("axis", [0, 1, 2], ids=["first", "second", "third"])
def test_a_quantizer_is_pytorchs_per_channel(axis: int) -> None:
    x = torch.randn(5, 5, 5)
    grid = channel_grid(5, axis)
    assert torch.equal(grid(x), torch.fake_quantize_per_channel_affine(x, grid.scale, grid.zero_point, axis, -127, 127))


def test_codes_are_pytorchs_quantized_tensors() -> None:
    x = torch.randn(30, 8)
    expected = torch.clamp(torch.round(x.double() / np.float64(np.float32(0.1))) + 7, 0, 255)
    codes = tensor_grid()(x), tensor_grid().codes(x)
    assert codes[1].dtype is torch.int32
    assert torch.equal(codes[1].double(), expected)
    torch.testing.assert_close(codes[0], ((expected - 7) * 0.1).float())


def test_groups_are_rows_of_a_reshaped_weight() -> None:
    weight = torch.randn(6, 8)
    grid = channel_grid(12, low=-7, high=7, group=4)
    expected = torch.fake_quantize_per_channel_affine(weight.reshape(12, 4), grid.scale, grid.zero_point, 0, -7, 7).reshape(6, 8)
    assert torch.equal(grid(weight), expected)
    assert torch.equal(replace(grid, axis=None)(weight), expected)


@pytest.mark.parametrize(
    ("low", "high", "bits"), [(-8, 7, 4), (0, 15, 4), (-127, 127, 8), (0, 255, 8), (0, 256, 32)], ids=["s4", "u4", "s8", "u8", "wide"]
)
def test_bits_of_a_stored_code(low: int, high: int, bits: int) -> None:
    assert tensor_grid(low=low, high=high).bits == bits


# Nodes -----------------------------------------------------------------------------------------------------------------------------------------


def activation(program: Program) -> tuple[fx.Node, Quantizer]:
    relu = node_of(program, aten.relu.default)
    return put(program, relu, next(iter(relu.users)), tensor_grid(0.02), "relu"), tensor_grid(0.02)


def network_input(program: Program) -> tuple[fx.Node, Quantizer]:
    source = node_of(program, "flat_0")
    return put(program, source, next(iter(source.users)), tensor_grid(0.03, 128), "input"), tensor_grid(0.03, 128)


def weight(axis: int, group: int) -> Callable[[Program], tuple[fx.Node, Quantizer]]:
    def change(program: Program) -> tuple[fx.Node, Quantizer]:
        source = attribute(program, "0.weight")
        grid = channel_grid(12 if group else (6, 8)[axis], axis, group=group)
        return put(program, source, node_of(program, aten.linear.default), grid, "0_weight"), grid

    return change


def learned_tensor(program: Program) -> tuple[fx.Node, Quantizer]:
    relu = node_of(program, aten.relu.default)
    reader = next(iter(relu.users))
    with program.graph.inserting_after(relu):
        scale = program.graph.get_attr(register(program.graph_module, "relu.scale", torch.tensor([0.02]), trainable=True))
        zero = program.graph.get_attr(register(program.graph_module, "relu.zero_point", torch.tensor([3.4]), trainable=True))
    with program.graph.inserting_before(reader):
        node = program.graph.call_function(LEARNED_TENSOR, (relu, scale, zero, 0, 255, 0.5))
    reader.replace_input_with(relu, node)
    program.recompile()
    return node, Quantizer(torch.tensor([0.02]), torch.tensor([3]), 0, 255)


def learned_channel(program: Program) -> tuple[fx.Node, Quantizer]:
    source, reader = attribute(program, "0.weight"), node_of(program, aten.linear.default)
    grid = channel_grid(6)
    with program.graph.inserting_before(reader):
        scale = program.graph.get_attr(register(program.graph_module, "0_weight.scale", grid.scale, trainable=True))
        zero = program.graph.get_attr(register(program.graph_module, "0_weight.zero_point", grid.zero_point.float()))
        node = program.graph.call_function(LEARNED_CHANNEL, (source, scale, zero, 0, -127, 127, 0.5))
    reader.replace_input_with(source, node)
    program.recompile()
    return node, grid


CHANGES = {
    "activation": activation,
    "input": network_input,
    "rows": weight(0, 0),
    "columns": weight(1, 0),
    "groups": weight(0, 4),
    "learned tensor": learned_tensor,
    "learned channel": learned_channel,
}


def rounding_node(node: fx.Node) -> fx.Node:
    """Behind a reshape of groups, the node that rounds."""
    return node if is_fake_quant(node) else node.args[0]  # type: ignore[return-value]


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_what_was_inserted_reads_back(change: Callable[[Program], tuple[fx.Node, Quantizer]]) -> None:
    program = linear_program()
    node, expected = change(program)
    found = quantizer_of(program.graph_module, rounding_node(node))
    torch.testing.assert_close(found.scale, expected.scale)
    assert torch.equal(found.zero_point, expected.zero_point.to(torch.int32))
    assert (found.low, found.high, found.axis, found.group) == (expected.low, expected.high, expected.axis, expected.group)
    assert [*fake_quants(program.graph)] == [rounding_node(node)]
    assert not is_dynamic(rounding_node(node))


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_rounded_program_runs_as_its_quantizer_says(change: Callable[[Program], tuple[fx.Node, Quantizer]]) -> None:
    net = nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 3)).eval()
    x = torch.randn(4, 8)
    program = capture(net, x)
    node, grid = change(program)
    source = weight_of(rounding_node(node))
    state = {k: v.detach().clone() for k, v in net.state_dict().items()}
    with torch.no_grad():
        if source is not None:
            state[str(source.target)] = grid(state[str(source.target)])
        h = grid(x) if rounding_node(node).args[0].op == "placeholder" else x  # type: ignore[union-attr]
        h = (h @ state["0.weight"].T + state["0.bias"]).relu()
        h = grid(h) if source is None and rounding_node(node).args[0].op == "call_function" else h  # type: ignore[union-attr]
        torch.testing.assert_close(program(x), h @ state["2.weight"].T + state["2.bias"])
        assert not torch.equal(program(x), net(x))


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_rounded_program_saves_and_loads(change: Callable[[Program], tuple[fx.Node, Quantizer]], tmp_path: Path) -> None:
    program = linear_program()
    before = program.fingerprint()
    change(program)
    loaded = Program.load(program.save(tmp_path / "p.pt2"))
    assert loaded.fingerprint() == program.fingerprint() != before
    x = torch.randn(3, 8)
    assert torch.equal(loaded(x), program(x))
    (node,), (again,) = fake_quants(program.graph), fake_quants(loaded.graph)
    first, second = quantizer_of(program.graph_module, node), quantizer_of(loaded.graph_module, again)
    assert torch.equal(first.scale, second.scale)
    assert (first.group, first.axis) == (second.group, second.axis)


def test_scales_are_buffers_under_a_prefix_of_their_own() -> None:
    program = linear_program()
    before = set(program.state_dict())
    weight(0, 0)(program)
    activation(program)  # one scale for all is a number in the graph
    assert set(program.state_dict()) - before == {"quantizers.0_weight.scale", "quantizers.0_weight.zero_point"}
    buffers = dict(program.named_buffers())
    assert buffers["quantizers.0_weight.zero_point"].dtype is torch.int32
    assert "quantizers.0_weight.scale" in buffers


def test_registering_again_replaces_and_may_make_a_parameter() -> None:
    module = linear_program().graph_module
    value = torch.ones(2)
    assert register(module, "a.scale", value) == "quantizers.a.scale"
    assert register(module, "a.scale", value * 2, trainable=True) == "quantizers.a.scale"
    assert "quantizers.a.scale" not in dict(module.named_buffers())
    found = dict(module.named_parameters())["quantizers.a.scale"]
    assert torch.equal(found, value * 2)
    assert found.requires_grad
    assert torch.equal(value, torch.ones(2))


@pytest.mark.parametrize(
    ("change", "name"),
    [(weight(0, 0), "0.weight"), (weight(0, 4), "0.weight"), (activation, None), (network_input, None)],
    ids=["weight", "grouped weight", "activation", "input"],
)
def test_weights_are_told_from_activations(change: Callable[[Program], tuple[fx.Node, Quantizer]], name: str | None) -> None:
    node, _ = change(linear_program())
    found = weight_of(rounding_node(node))
    assert (None if found is None else found.target) == name


def test_a_node_belongs_to_the_module_of_its_source() -> None:
    program = linear_program()
    node, _ = activation(program)
    assert node.meta["nn_module_stack"] == node.args[0].meta["nn_module_stack"]  # type: ignore[union-attr]


def test_an_input_is_rounded_behind_all_inputs() -> None:
    class Two(nn.Module):
        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            return a + b

    program = capture(Two(), (torch.randn(2, 3), torch.randn(2, 3)))
    first = next(iter(program.graph.nodes))
    put(program, first, node_of(program, aten.add.Tensor), tensor_grid(), "a")
    assert [node.op for node in program.graph.nodes] == ["placeholder", "placeholder", "call_function", "call_function", "output"]
    a, b = torch.randn(2, 3), torch.randn(2, 3)
    torch.testing.assert_close(program(a, b), tensor_grid()(a) + b)


# Gradients ------------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", [PER_TENSOR, PER_CHANNEL], ids=["per tensor", "per channel"])
def test_the_gradient_is_straight_through_and_0_where_clipped(target: object) -> None:
    class Identity(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x * 1.0

    program = capture(Identity(), torch.randn(4, 5))
    source = node_of(program, "flat_0")
    low, high = -0.7, 24.8  # (0 − 7) · 0.1 and (255 − 7) · 0.1
    grid = tensor_grid() if target is PER_TENSOR else Quantizer(torch.full((5,), 0.1), torch.full((5,), 7), 0, 255, 1)
    node = put(program, source, node_of(program, aten.mul.Tensor), grid, "x")
    assert node.target is target
    x = (torch.randn(4, 5) * 20).requires_grad_()
    upstream = torch.randn(4, 5)
    program(x).backward(upstream)
    inside = (x > low - 0.05) & (x < high + 0.05)  # half a step beyond the ends still rounds to them
    assert 0 < int(inside.sum()) < 20
    assert torch.equal(x.grad, torch.where(inside, upstream, 0.0))


def test_weights_behind_their_rounding_learn() -> None:
    program = linear_program()
    weight(0, 4)(program)
    program(torch.randn(4, 8)).square().sum().backward()
    assert float(dict(program.named_parameters())["0.weight"].grad.abs().sum()) > 0


# Dynamic ---------------------------------------------------------------------------------------------------------------------------------------


def onnx_dynamic(x: np.ndarray) -> np.ndarray:
    """What ONNX Runtime restores of what its DynamicQuantizeLinear makes."""
    nodes = [
        helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"]),
    ]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, x.shape) for name in "xy"]
    model = helper.make_model(helper.make_graph(nodes, "g", ends[:1], ends[1:]), opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    onnx.checker.check_model(model)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"]).run(None, {"x": x})[0]


class Doubled(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * 2.0


def dynamic_program() -> Program:
    program = capture(Doubled(), torch.randn(4, 5), dynamic={"x": {1: "length"}})
    source, reader = node_of(program, "flat_0"), node_of(program, aten.mul.Tensor)
    reader.replace_input_with(source, insert_dynamic(program.graph_module, source))
    program.recompile()
    return program


@pytest.mark.parametrize(
    "x",
    [
        torch.linspace(-1.37, 2.11, 200).reshape(10, 20),
        torch.linspace(0.3, 2.11, 200).reshape(10, 20),
        torch.linspace(-2.11, -0.3, 200).reshape(10, 20),
        torch.linspace(-1e4, 1e-3, 20).reshape(4, 5),
        torch.full((3, 3), 1.7),
        torch.zeros(3, 3),
    ],
    ids=["mixed", "positive", "negative", "large", "constant", "zeros"],
)
def test_dynamic_rounding_is_onnx_runtimes(x: Tensor) -> None:
    expected = 2 * onnx_dynamic(x.numpy())
    step = float(max(x.max(), 0) - min(x.min(), 0)) / 255
    found = dynamic_program()(x).numpy()
    # one rounds x / scale and the other x · (1 / scale): where that is a half, they may differ by a step
    assert np.abs(found - expected).max() <= 2 * step * (1 + 1e-4)
    assert (np.abs(found - expected) > 1e-3 * step).mean() < 0.02


def test_a_dynamic_node_says_so_and_survives_saving(tmp_path: Path) -> None:
    program = dynamic_program()
    (node,) = fake_quants(program.graph)
    assert is_dynamic(node)
    loaded = Program.load(program.save(tmp_path / "p.pt2"))
    assert loaded.fingerprint() == program.fingerprint()
    x = torch.randn(7, 3)
    assert torch.equal(loaded(x), program(x))
    (again,) = fake_quants(loaded.graph)
    assert is_dynamic(again)


def test_a_dynamic_gradient_is_straight_through() -> None:
    x = torch.randn(4, 5).requires_grad_()
    dynamic_program()(x).backward(torch.ones(4, 5))
    middle = (x > x.min()) & (x < x.max())  # the extremes also move the grid
    assert torch.equal(x.grad[middle], torch.full((int(middle.sum()),), 2.0))
