"""Biases of integer kernels: the file answers as the rounded program, however small the weights beside the bias, for every operator that has one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from onnx import numpy_helper
from torch import Tensor, nn

import laconic as lc
from laconic.core.capture import capture
from laconic.core.fake_quant import quantizer_of
from laconic.core.graph import get_tensor
from laconic.core.integer_bias import LARGEST, bound_steps, integer_layers, least_steps, round_biases
from laconic.core.program import Program
from laconic.core.target import Target
from laconic.deploy.export import write_model
from laconic.deploy.runtime import runtime
from laconic.quantization.qat import Schedule, prepare, settle
from laconic.quantization.quantize import Quantize, quantize
from tests.quantization.nets import task_of
from tests.reference.quantize import sqnr_db

RUNTIMES = ("openvino", "onnxruntime")
# channel -> how many times smaller its weights are than the others', and its bias
TINY_CHANNELS = {1: (1e-5, 3.0), 3: (1e-9, -2.0), 5: (0.0, 1.0)}


class Same(nn.Module):
    """A convolution with `padding="same"`, then one that reads it."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 6, 3, padding="same"), nn.Conv2d(6, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.first(x).relu())


class Added(nn.Module):
    """`addmm`, which keeps its weight the other way round."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(12, 6), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.addmm(self.first.bias, x, self.first.weight.t()).relu())


def net_of(first: nn.Module, last: nn.Module) -> nn.Module:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = first, last

        def forward(self, x: Tensor) -> Tensor:
            return self.last(self.first(x).relu())

    return Net()


# operator -> net whose layer `first` is looked at, and its input (positive: u8 with zero point 0; signed: with an input zero point)
LAYERS: dict[str, tuple[Callable[[], nn.Module], Callable[[], Tensor]]] = {
    "conv1d": (lambda: net_of(nn.Conv1d(3, 6, 5), nn.Conv1d(6, 2, 1)), lambda: torch.rand(24, 3, 16)),
    "conv2d": (lambda: net_of(nn.Conv2d(3, 6, 3), nn.Conv2d(6, 2, 1)), lambda: torch.randn(24, 3, 8, 8)),
    "conv3d": (lambda: net_of(nn.Conv3d(2, 6, 3), nn.Conv3d(6, 2, 1)), lambda: torch.rand(16, 2, 5, 5, 5)),
    "same": (Same, lambda: torch.randn(24, 3, 7, 7) + 0.5),
    "groups": (lambda: net_of(nn.Conv2d(4, 6, 3, groups=2), nn.Conv2d(6, 2, 1)), lambda: torch.randn(24, 4, 8, 8)),
    "depthwise": (lambda: net_of(nn.Conv2d(6, 6, 3, groups=6), nn.Conv2d(6, 2, 1)), lambda: torch.rand(24, 6, 8, 8) - 0.2),
    "transposed": (lambda: net_of(nn.ConvTranspose2d(3, 6, 2, stride=2), nn.Conv2d(6, 2, 1)), lambda: torch.rand(24, 3, 5, 5)),
    "transposed groups": (lambda: net_of(nn.ConvTranspose2d(4, 6, 2, groups=2), nn.Conv2d(6, 2, 1)), lambda: torch.randn(24, 4, 5, 5)),
    "linear": (lambda: net_of(nn.Linear(12, 6), nn.Linear(6, 2)), lambda: torch.randn(48, 12)),
    "linear of sequences": (lambda: net_of(nn.Linear(12, 6), nn.Linear(6, 2)), lambda: torch.rand(24, 5, 12)),
    "addmm": (Added, lambda: torch.randn(48, 12)),
}


def subject(name: str, bias: float = 1.0) -> tuple[nn.Module, Tensor]:
    """A net with three channels whose weights are tiny or 0 beside their biases, which are `bias` times those of the table."""
    torch.manual_seed(0)
    make, inputs = LAYERS[name]
    net, x = make().eval(), inputs()
    layer: Any = net.first
    groups = layer.groups if isinstance(layer, nn.ConvTranspose2d) else 1
    turned = isinstance(layer, nn.ConvTranspose2d)
    kernel = layer.weight.data.unflatten(0, (groups, -1)).transpose(1, 2).flatten(0, 1).clone() if turned else layer.weight.data
    for channel, (factor, size) in TINY_CHANNELS.items():
        kernel[channel] *= factor
        layer.bias.data[channel] = size * bias
    if turned:
        layer.weight.data = kernel.unflatten(0, (groups, -1)).transpose(1, 2).flatten(0, 1).contiguous()
    return net, x


def answers(program: Program, x: Tensor, folder: Path, name: str) -> np.ndarray:
    file = folder / "model.onnx"
    if not file.exists():
        write_model(program, folder, "onnx")
    return np.array(runtime(name).load(file, Target(name, threads=1)).run([x.numpy()])[0])


def worst_channel_db(expected: np.ndarray, found: np.ndarray, axis: int) -> float:
    """Of the output channels, the one that is farthest off."""
    pairs = zip(np.moveaxis(expected, axis, 0), np.moveaxis(found, axis, 0), strict=True)
    return min(sqnr_db(a, b) for a, b in pairs)


def codes_fit(program: Program) -> bool:
    """Whether every bias is a whole number of at most 2^30 steps, as an independent computation in double precision sees it."""
    for layer in integer_layers(program):
        if layer.bias is None:
            continue
        x, w = (quantizer_of(program.graph_module, node).scale.double().numpy() for node in (layer.input, layer.weight))
        codes = get_tensor(program, layer.bias).detach().double().numpy() / (x * w)
        if np.abs(codes).max() > LARGEST * 1.01 or (np.abs(codes - np.round(codes)) > np.maximum(np.abs(codes), 1) * 2.0**-22).any():
            return False
    return True


@pytest.mark.parametrize(
    ("name", "target", "correct_bias"),
    [
        pytest.param(name, target, corrected, id=f"{name}-{target}{'-corrected' if corrected else ''}")
        for name in LAYERS
        for target, corrected in (("openvino", True), ("onnxruntime", False), ("onnxruntime", True))
        if target == "openvino" or not name.startswith("transposed")
    ],
)
def test_the_file_answers_as_the_rounded_program(name: str, target: str, correct_bias: bool, tmp_path: Path) -> None:
    net, x = subject(name)
    found, _ = quantize(capture(net, x), Quantize(target=target, correct_bias=correct_bias), task_of(x))
    assert codes_fit(found)
    file = answers(found, x, tmp_path, target)
    axis = -1 if x.dim() < 3 or name == "linear of sequences" else 1
    assert worst_channel_db(found(x).detach().numpy(), file, axis) >= 40.0
    assert worst_channel_db(net(x).detach().numpy(), file, axis) >= 20.0


@pytest.mark.parametrize("bias", [1e-4, 4e4])
def test_small_and_large_biases_of_dead_channels(bias: float, tmp_path: Path) -> None:
    """The dead channel comes out alone."""
    net, x = subject("linear", bias)
    net.last = nn.Identity()
    found, _ = quantize(capture(net, x), Quantize(target="onnxruntime"), task_of(x))
    file = answers(found, x, tmp_path, "onnxruntime")
    np.testing.assert_allclose(file[:, 5], net(x).detach().numpy()[:, 5], rtol=1e-5)


@pytest.mark.parametrize(
    "correction", [{"equalize": True}, {"rounding": "adaptive"}, {"per_channel": False}], ids=["equalized", "adaptive", "per tensor"]
)
def test_the_bound_holds_after_every_correction(correction: dict[str, Any], tmp_path: Path) -> None:
    net, x = subject("conv2d")
    found, _ = quantize(capture(net, x), Quantize(target="onnxruntime", **correction), task_of(x))
    assert codes_fit(found)
    file = answers(found, x, tmp_path, "onnxruntime")
    assert sqnr_db(found(x).detach().numpy(), file) >= 40.0
    assert sqnr_db(net(x).detach().numpy(), file) >= 25.0


def test_the_bound_holds_after_smoothing(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.LayerNorm(16), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 4)).eval()
    net[0].weight.data *= torch.logspace(-2, 2, 16)
    net[1].weight.data[[2, 5]] *= 1e-8
    net[1].bias.data[[2, 5]] = torch.tensor([20.0, -7.0])
    x = torch.randn(32, 16)
    found, outcome = quantize(capture(net, x), Quantize(target="onnxruntime"), task_of(x))
    assert outcome.changed["smoothed_norms"] == 1
    assert codes_fit(found)
    assert sqnr_db(found(x).detach().numpy(), answers(found, x, tmp_path, "onnxruntime")) >= 40.0


def test_mixed_precision_too(tmp_path: Path) -> None:
    net, x = subject("conv2d")
    found, _ = lc.quantize_mixed(capture(net, x), lc.Mixed(target="onnxruntime", float_operators=1), task_of(x))
    assert codes_fit(found)
    assert sqnr_db(found(x).detach().numpy(), answers(found, x, tmp_path, "onnxruntime")) >= 40.0


class Normed(nn.Module):
    """A convolution before a batch-norm with factors that are nearly or quite 0: its weights are dead only once they are folded."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.norm, self.last = nn.Conv2d(3, 6, 3, bias=False), nn.BatchNorm2d(6), nn.Conv2d(6, 2, 1)
        with torch.no_grad():
            self.norm.weight.copy_(torch.tensor([1.0, 1e-8, 0.0, -1e-6, 0.5, -2.0]))
            self.norm.bias.copy_(torch.tensor([0.1, 3.0, 2.0, 4.0, 0.0, 0.3]))
            self.norm.running_mean.normal_()
            self.norm.running_var.uniform_(0.5, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.norm(self.first(x)).relu())


@pytest.mark.parametrize("learned", [False, True], ids=["fixed steps", "learned steps"])
@pytest.mark.parametrize("target", RUNTIMES)
def test_training_keeps_the_bound(target: str, learned: bool, tmp_path: Path) -> None:
    net, x = Normed().eval(), torch.randn(32, 3, 8, 8)
    task = task_of(x)
    program = capture(net, x)
    found, _ = prepare(program, lc.Qat(target=target, learned=learned, examples=32), task)
    hook, optimizer = Schedule(), torch.optim.SGD(found.parameters(), 1e-3)
    for index in range(4):
        found.train()
        loss = F.mse_loss(found(x), net(x).detach())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        hook(found, (index + 1) / 4)
    found.eval()
    settled = settle(found)
    assert codes_fit(settled)
    assert bool(torch.isfinite(settled(x)).all())
    assert sqnr_db(settled(x).detach().numpy(), answers(settled, x, tmp_path / "settled", target)) >= 40.0
    # and exported as it is, where a sum may fall to the next code
    assert sqnr_db(found(x).detach().numpy(), answers(found, x, tmp_path / "found", target)) >= 25.0


def test_a_convolution_that_is_called_twice_has_a_bias_for_each_input(tmp_path: Path) -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.layer = nn.Conv2d(3, 3, 3, padding=1)
            self.layer.weight.data[1] *= 1e-7
            self.layer.bias.data[1] = 2.0

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(self.layer(x).relu() * 100)

    net, x = Twice().eval(), torch.rand(24, 3, 8, 8)
    found, _ = quantize(capture(net, x), Quantize(target="onnxruntime", correct_bias=False), task_of(x))
    assert codes_fit(found)
    assert sqnr_db(found(x).detach().numpy(), answers(found, x, tmp_path, "onnxruntime")) >= 40.0


def test_inputs_of_any_magnitude(tmp_path: Path) -> None:
    """Volts in billionths or euros in billions: only the ratio of the columns matters, not their unit."""
    torch.manual_seed(0)
    for power in (1e-9, 1e9):
        net = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4)).eval()
        net[0].weight.data /= power
        x = torch.randn(64, 8) * power
        found, outcome = quantize(capture(net, x), Quantize(target="onnxruntime"), task_of(x))
        assert outcome.changed["operators"] == ["0", "2"]
        file = answers(found, x, tmp_path / f"{power}", "onnxruntime")
        assert sqnr_db(net(x).detach().numpy(), file) >= 30.0


def test_the_bound_is_the_one_of_the_formula() -> None:
    bias = torch.tensor([3.0, -1e-3, 0.0])
    np.testing.assert_allclose(least_steps(bias, 0.02).numpy(), np.abs(bias.double().numpy()) / (0.02 * 2.0**30), rtol=1e-12)


def test_steps_are_widened_where_they_must_be_and_nowhere_else() -> None:
    net, x = subject("conv2d")
    found, _ = quantize(capture(net, x), Quantize(target="onnxruntime", correct_bias=False), task_of(x))
    first = next(integer_layers(found))
    steps = quantizer_of(found.graph_module, first.weight).scale.double()
    kernel = net.first.weight.detach().double()
    for channel in range(6):
        plain = float(kernel[channel].abs().max()) / 127
        if channel in TINY_CHANNELS:
            least = float(net.first.bias.detach()[channel].abs()) / (float(quantizer_of(found.graph_module, first.input).scale) * 2.0**30)
            assert float(steps[channel]) == pytest.approx(least, rel=1e-4)
            assert plain < least
        else:
            assert float(steps[channel]) in (pytest.approx(plain, rel=1e-5), pytest.approx(plain * 127 / 63, rel=1e-5))
    assert bound_steps(found) == 0  # once is enough
    before = found.fingerprint()
    round_biases(found)
    assert found.fingerprint() == before


def test_no_bias_is_lost_to_another_tensor_of_its_name(tmp_path: Path) -> None:
    """A tensor called `bias` that is not the layer's stays what it is when correction gives the layer one."""

    class Late(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.weight, self.bias = nn.Parameter(torch.randn(6, 12)), nn.Parameter(torch.full((6,), 5.0))

        def forward(self, x: Tensor) -> Tensor:
            return F.linear(x, self.weight).relu() + self.bias

    net, x = Late().eval(), torch.rand(32, 12)
    found, _ = quantize(capture(net, x), Quantize(target="onnxruntime"), task_of(x))
    assert torch.equal(found.state_dict()["bias"], net.bias)
    assert sqnr_db(net(x).detach().numpy(), answers(found, x, tmp_path, "onnxruntime")) >= 30.0


def test_the_stored_bias_of_a_gemm_is_the_programs(tmp_path: Path) -> None:
    net, x = subject("linear")
    found, _ = quantize(capture(net, x), Quantize(target="onnxruntime"), task_of(x))
    model = onnx.load(write_model(found, tmp_path, "onnx"))
    stored = {item.name: numpy_helper.to_array(item) for item in model.graph.initializer}
    integers = [array for array in stored.values() if array.dtype == np.int32 and array.any()]
    assert len(integers) == 2
    assert max(int(np.abs(array).max()) for array in integers) <= LARGEST + 1


def test_a_gemm_with_many_dead_channels_computes_in_integers(tmp_path: Path) -> None:
    """The bias of a dead channel takes all the room that there is, and not a rounding more: else ONNX Runtime computes the layer in floats."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 4)).eval()
    net[0].weight.data[::2] = 0
    x = torch.randn(32, 16)
    found, _ = quantize(capture(net, x), Quantize(target="onnxruntime", correct_bias=False), task_of(x))
    stored = [numpy_helper.to_array(item) for item in onnx.load(write_model(found, tmp_path, "onnx")).graph.initializer]
    codes = [array for array in stored if array.dtype == np.int32 and array.any()]
    assert sorted(len(array) for array in codes) == [4, 64]
    assert LARGEST / 2 < max(int(np.abs(array).max()) for array in codes) <= LARGEST
