"""What exporters stumble over is out of the way: writes that no input reaches, and pieces of a dynamic dimension."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import openvino
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import orthogonal

import laconic as lc
from laconic.core.operators import plain_name
from laconic.core.program import Program
from laconic.deploy import recurrent
from laconic.deploy.export import write_model
from laconic.deploy.simplify import simplified
from laconic.tasks.data import ArrayDataset
from tests.pruning.nets import Net, randomized

WINDOW, SIDE, BATCHES = 4, 8, (2, 6)
Middle = Callable[[Tensor], Tensor]


def maps(batch: int) -> Tensor:
    return torch.randn(batch, 3, SIDE, SIDE)


def net(middle: Middle) -> nn.Module:
    return randomized(Net(lambda m, x: m.h(middle(m.a(x)).mean((2, 3))), a=nn.Conv2d(3, 8, 3, padding=1), h=nn.Linear(8, 5)))


def windowed(shifts: tuple[int, int]) -> Middle:
    """Attention in windows, as Swin in torchvision has it: pixels of other regions are masked. Without a shift, some regions are empty."""

    def middle(x: Tensor) -> Tensor:
        batch, channels = x.shape[:2]
        regions = [((0, -WINDOW), (-WINDOW, -shift), (-shift, None)) for shift in shifts]
        mask = x.new_zeros((SIDE, SIDE))
        for number, (row, column) in enumerate((row, column) for row in regions[0] for column in regions[1]):
            mask[row[0] : row[1], column[0] : column[1]] = number
        n = SIDE // WINDOW
        mask = mask.view(n, WINDOW, n, WINDOW).permute(0, 2, 1, 3).reshape(n * n, WINDOW**2)
        mask = mask.unsqueeze(1) - mask.unsqueeze(2)
        mask = mask.masked_fill(mask != 0, -100.0).masked_fill(mask == 0, 0.0)
        tokens = x.view(batch, channels, n, WINDOW, n, WINDOW).permute(0, 2, 4, 3, 5, 1).reshape(-1, WINDOW**2, channels)
        scores = (tokens @ tokens.mT).view(batch, n * n, WINDOW**2, WINDOW**2) + mask.unsqueeze(0)
        tokens = scores.softmax(-1).view(-1, WINDOW**2, WINDOW**2) @ tokens
        return tokens.view(batch, n, n, WINDOW, WINDOW, channels).permute(0, 5, 1, 3, 2, 4).reshape(x.shape)

    return middle


def paired(cut: Callable[[Tensor, int], tuple[Tensor, ...]]) -> Middle:
    """Two images of an example go through in one batch, as in RAFT, and part again."""

    def middle(x: Tensor) -> Tensor:
        first, second = cut(torch.cat([x, x.flip(-1).relu()]), x.shape[0])
        return first * second

    return middle


MIDDLES: dict[str, Middle] = {
    "mask, one axis unshifted": windowed((0, 2)),
    "mask, shifted": windowed((2, 2)),
    "chunk": paired(lambda x, n: torch.chunk(x, 2)),
    "split": paired(lambda x, n: torch.split(x, n)),
    "split, sizes": paired(lambda x, n: torch.split(x, [n, n])),
    "tensor_split": paired(lambda x, n: torch.tensor_split(x, 2)),
}
each = pytest.mark.parametrize("name", MIDDLES)


def captured(middle: Middle) -> Program:
    torch.manual_seed(0)
    return lc.capture(net(middle), maps(4))


def names(program: Program) -> set[str]:
    return {plain_name(node) for node in program.graph.nodes if node.op == "call_function"}


@each
@torch.no_grad()
def test_it_computes_the_same_without_them(name: str) -> None:
    program = captured(MIDDLES[name])
    result = simplified(program)
    assert not names(result) & {"copy", "fill", "chunk", "split", "split_with_sizes", "new_zeros"}
    for batch in BATCHES:
        x = maps(batch)
        torch.testing.assert_close(result(x), program(x), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("name", "quantized"),
    [("mask, one axis unshifted", False), ("mask, one axis unshifted", True), ("chunk", False), ("chunk", True), ("split", False)],
)
@torch.no_grad()
def test_both_runtimes_agree_at_two_batch_sizes(name: str, quantized: bool, tmp_path: Path) -> None:
    program = captured(MIDDLES[name])
    if quantized:
        data = ArrayDataset(maps(16).numpy(), np.zeros(16, np.int64))
        context = lc.Context(lc.Task(nn.Identity(), data, data))
        program = lc.quantize(program, lc.Quantize(mode="static", target="openvino", min_sqnr_db=0), context)[0]
    path = str(write_model(program, tmp_path, "onnx"))
    session = onnxruntime.InferenceSession(path)
    compiled = openvino.Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    limit = 0.1 if quantized else 1e-4  # of the largest number; a rounding tips to the next of 255 steps here and there
    for batch in BATCHES:
        x = maps(batch)
        expected = program(x).numpy()
        for found in (session.run(None, {program.inputs[0].name: x.numpy()})[0], compiled([x.numpy()])[0]):
            assert np.abs(found - expected).max() <= limit * np.abs(expected).max()


def test_what_has_neither_is_left_as_it_is() -> None:
    program = captured(lambda x: x.relu())
    assert simplified(program) is program


def test_what_a_write_returns_may_be_read() -> None:
    def middle(x: Tensor) -> Tensor:
        table = torch.zeros(SIDE, SIDE)
        table[0] = 1.0
        return x * table.add_(2.0)

    program, x = captured(middle), maps(3)
    result = simplified(program)
    assert not names(result) & {"copy", "fill", "zeros"}
    torch.testing.assert_close(result(x), program(x), rtol=0, atol=0)


def test_activations_in_place_are_no_reason_to_copy() -> None:
    program = captured(lambda x: x.mul(2).relu_())
    assert any("relu_" in str(node.target) for node in program.graph.nodes)
    assert simplified(program) is program


def test_pieces_of_a_fixed_dimension_stay() -> None:
    program = captured(lambda x: torch.cat(x.chunk(2, 1)[::-1], 1))
    assert simplified(program) is program


def written_by_inputs(x: Tensor) -> Tensor:
    """The first row is the input's."""
    table = x.new_zeros((SIDE, SIDE))
    table[0] = x.mean((0, 1, 2))
    return x * table


def read_before(x: Tensor) -> Tensor:
    """An input meets the table between two writes."""
    table = x.new_zeros((SIDE, SIDE))
    table[0] = 1.0
    y = x * table
    table[1] = 2.0
    return y + x * table


def random_table(x: Tensor) -> Tensor:
    table = torch.zeros(SIDE, SIDE)
    table[0] = torch.rand(SIDE)
    return x * table


@pytest.mark.parametrize("middle", [written_by_inputs, read_before, random_table], ids=["inputs write", "read between writes", "random"])
def test_what_may_change_is_not_stored(middle: Middle) -> None:
    program = captured(middle)
    result = simplified(program)
    assert names(result) & {"copy", "fill"}
    x = maps(3)
    torch.manual_seed(1)
    expected = program(x)
    torch.manual_seed(1)
    torch.testing.assert_close(result(x), expected, rtol=0, atol=0)


def test_two_writes_of_what_no_input_reaches_are_one_tensor() -> None:
    """Beside writes that an input reaches, which stay."""

    def middle(x: Tensor) -> Tensor:
        fixed, moving = torch.zeros(SIDE, SIDE), x.new_zeros((SIDE, SIDE))
        fixed[0], fixed[:, 1] = 1.0, 3.0
        moving[0] = x.mean((0, 1, 2))
        return x * (fixed + 1) + moving

    result = simplified(captured(middle))
    stored = [value for name, value in result.named_buffers() if "folded" in name]
    assert len(stored) == 1
    expected = torch.zeros(SIDE, SIDE)
    expected[0], expected[:, 1] = 1.0, 3.0
    torch.testing.assert_close(stored[0], expected + 1)


@pytest.mark.parametrize("way", ["matrix_exp", "cayley", "householder"])
def test_weights_of_operators_that_no_file_has_are_stored(way: str, tmp_path: Path) -> None:
    net = nn.Sequential(orthogonal(nn.Linear(6, 6), orthogonal_map=way), nn.ReLU(), nn.Linear(6, 2)).eval()
    x = torch.randn(3, 6)
    file = write_model(lc.capture(net, x), tmp_path, "onnx")
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    np.testing.assert_allclose(found, net(x).detach().numpy(), atol=1e-5)


def test_a_complex_output_is_refused_by_name(tmp_path: Path) -> None:
    net = Net(lambda m, x: torch.complex(m.a(x), m.a(x)), a=nn.Linear(6, 2))
    with pytest.raises(lc.ExportError, match="complex64, which ONNX files do not hold"):
        write_model(lc.capture(net, torch.randn(3, 6)), tmp_path, "onnx")


@pytest.mark.parametrize(
    "options", [{}, {"bias": False}, {"bidirectional": True, "num_layers": 2}], ids=["plain", "no biases", "both ways, two"]
)
def test_an_lstm_with_projections_is_refused_instead_of_written_without_them(options: dict[str, Any], tmp_path: Path) -> None:
    for size, fits in ((0, True), (2, False)):
        net = Net(lambda m, x: m.lstm(x)[0], lstm=nn.LSTM(3, 4, batch_first=True, proj_size=size, **options))
        graph = lc.capture(net, torch.randn(2, 5, 3)).graph
        if fits:
            recurrent.check(graph)
        else:
            with pytest.raises(lc.ExportError, match=r"'lstm' is an LSTM with projections \(proj_size\), which ONNX does not have"):
                recurrent.check(graph)
    with pytest.raises(lc.ExportError, match="projections"):
        write_model(lc.capture(net, torch.randn(2, 5, 3)), tmp_path, "onnx")
