from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

import laconic as lc
from laconic.measure.counts import UNUSED
from laconic.tasks.data import ArrayDataset
from laconic.tasks.models import DataShape, build
from tests.core.models import ConvNet, Recurrent

IMAGE, LARGE = DataShape("image", (3, 32, 32), 10), DataShape("image", (3, 224, 224), 1000)
TEXT = DataShape("text", (16,), 3, vocabulary=50)


def example(shape: DataShape, n: int) -> Any:
    if shape.kind == "text":
        return {"input_ids": torch.randint(1, 50, (n, *shape.shape)), "attention_mask": torch.ones(n, *shape.shape, dtype=torch.long)}
    return torch.randn(n, *shape.shape)


@functools.cache
def captured(name: str, shape: DataShape) -> tuple[nn.Module, lc.Program]:
    """A net and its program, for several tests."""
    model = build(name, shape).eval()
    return model, lc.capture(model, example(shape, 2))


def flops(model: nn.Module, inputs: Any) -> int:
    # the counter has no row for the processor's fused attention kernel
    with FlopCounterMode(display=False) as counter, torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        model(**inputs) if isinstance(inputs, dict) else model(inputs)
    return int(counter.get_total_flops())


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("lenet5", IMAGE),
        ("resnet20", IMAGE),
        ("mobilenet_v1", IMAGE),
        ("mobilenet_v2", LARGE),
        ("resnet50", LARGE),
        ("cnn1d", TEXT),
        ("bert", TEXT),
    ],
)
def test_multiply_adds_are_half_of_pytorchs_flops(name: str, shape: DataShape) -> None:
    model, program = captured(name, shape)
    for batch in (1, 3):
        assert 2 * lc.count(program, batch).macs == flops(model, example(shape, batch))
    counts = lc.count(program)
    assert counts.params == sum(p.numel() for p in model.parameters())
    assert sum(layer.params for layer in counts.layers) == counts.params
    assert not counts.unknown


def test_published_counts() -> None:
    """ResNet-50: 4.09 G at 224² (torchvision's table); MobileNetV2: 300 M (Sandler et al. 2018, table 4)."""
    for name, expected in (("resnet50", 4.09e9), ("mobilenet_v2", 300e6)):
        found = lc.count(captured(name, LARGE)[1])
        assert found.macs == pytest.approx(expected, rel=0.005)


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_a_recurrent_net_by_hand(cell: str) -> None:
    gates, hidden, length, width = {"lstm": 4, "gru": 3}[cell], 64, 40, 6
    program = lc.capture(build(cell, DataShape("series", (width, length), 4)).eval(), torch.randn(2, width, length))
    by_hand = 2 * length * gates * hidden * (width + hidden) + 2 * hidden * 4
    assert lc.count(program).macs == by_hand


def test_layers_carry_path_and_type() -> None:
    counts = lc.count(lc.capture(build("resnet8", IMAGE).eval(), torch.randn(2, 3, 32, 32)))
    rows = {layer.path: layer for layer in counts.layers}
    assert (rows["conv1"].type, rows["conv1"].params, rows["conv1"].macs) == ("Conv2d", 432, 432 * 1024)
    assert (rows["layer2.0.shortcut.0"].type, rows["fc"].type, rows["bn1"].macs) == ("Conv2d", "Linear", 0)


def test_parameters_that_nobody_reads_are_told() -> None:
    counts = lc.count(lc.capture(ConvNet().eval(), torch.randn(2, 1, 8, 8)))
    assert [(layer.path, layer.params) for layer in counts.layers if layer.type == UNUSED] == [("unused", 12)]
    assert (counts.unused_params, counts.params) == (12, sum(layer.params for layer in counts.layers if layer.type != UNUSED))
    assert counts.notes() == ["12 parameters reach no output in evaluation (unused): they are left out of files and sizes"]


class Strange(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cdist(self.fc(x), x) + torch.special.bessel_j0(x).sum() + torch.special.bessel_j0(x).mean()


def test_an_operator_without_a_row_is_listed() -> None:
    counts = lc.count(lc.capture(Strange(), torch.randn(2, 4)))
    assert counts.unknown["aten.special_bessel_j0.default"] == 2
    assert any("cdist" in name for name in counts.unknown)
    assert counts.macs == 16


class Attention(nn.Module):
    def forward(self, q: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
        return nn.functional.scaled_dot_product_attention(q, k, k) + torch.einsum("bhld,bhmd->bhlm", q, k).sum()


def test_attention_and_einsum() -> None:
    q, k = torch.randn(2, 3, 5, 8), torch.randn(2, 3, 7, 8)
    counts = lc.count(lc.capture(Attention(), (q, k)), batch=2)
    assert counts.macs == 2 * (2 * 3 * 5 * 7 * 8) + 2 * 3 * 5 * 7 * 8


def test_other_dynamic_dimensions_are_given_by_name() -> None:
    program = lc.capture(
        build("cnn1d", TEXT).eval(), example(TEXT, 2), dynamic={"input_ids": {1: "length"}, "attention_mask": {1: "length"}}
    )
    head = 64 * 3
    short, long = (lc.count(program, length=length).macs - head for length in (10, 40))
    assert long == 4 * short


def test_zeros_of_kernels_and_matrices_are_counted_by_layer() -> None:
    net = ConvNet().eval()
    with torch.no_grad():
        net.head.weight[2:4] = 0
        net.stem.bias.zero_()  # type: ignore[union-attr]
    zeros = {layer.path: layer.zeros for layer in lc.count(lc.capture(net, torch.randn(2, 1, 8, 8))).layers}
    assert zeros.pop("head") == 16
    assert set(zeros.values()) == {0}


@pytest.mark.parametrize("target", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("mode", ["static", "dynamic", "weights"])
def test_what_is_rounded_multiplies_as_often(mode: Any, target: str) -> None:
    x = torch.randn(8, 5, 6)
    task = lc.Task(Recurrent(), data := ArrayDataset(x.numpy(), np.zeros(8, np.int64)), data, batch_size=4)
    program = lc.capture(task.build(), x)
    rounded, _ = lc.quantize(program, lc.Quantize(mode=mode, target=target), task)
    found = lc.count(rounded)
    assert (found.macs, found.unknown) == (lc.count(program).macs, {})
    conv = lc.capture(ConvNet(), torch.randn(2, 1, 8, 8))
    images = ArrayDataset(torch.randn(8, 1, 8, 8).numpy(), np.zeros(8, np.int64))
    rounded, _ = lc.quantize(conv, lc.Quantize(mode=mode, target=target), lc.Task(ConvNet(), images, images, batch_size=4))
    assert lc.count(rounded).macs == lc.count(conv).macs
