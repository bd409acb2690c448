from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, fx, nn

import laconic as lc
from laconic.core.calibrate import observe
from laconic.core.capture import capture
from laconic.core.fake_quant import Quantizer
from laconic.core.folding import reestimate_batch_norm
from laconic.core.graph import get_tensor, set_parameter
from laconic.core.operators import argument, groups_of, is_layer, row_of
from laconic.core.program import Program
from laconic.core.progress import silent
from laconic.quantization import correct
from laconic.quantization.observers import ChannelMean
from laconic.quantization.scheme import WEIGHT_INT4, weight_grid
from laconic.tasks.data import ArrayDataset
from tests.quantization.nets import Attention, Residual, with_statistics


def uneven(net: nn.Module) -> nn.Module:
    """Output channels of every layer differ by up to a thousand times."""
    for module in net.modules():
        if isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Linear)):
            factor = torch.logspace(-1.5, 1.5, len(module.weight))[torch.randperm(len(module.weight))]
            module.weight.data *= factor.reshape(-1, *[1] * (module.weight.dim() - 1))
    return net.eval()


def relative(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).detach().abs().max() / expected.detach().abs().max())


# Cross-layer equalization -------------------------------------------------------------------------------------------------------------------


PAIRS = {
    "conv": (lambda: nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3)), (2, 3, 9, 9), 1),
    "conv without relu": (lambda: nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), nn.Conv2d(8, 4, 3)), (2, 3, 9, 9), 1),
    "conv1d": (lambda: nn.Sequential(nn.Conv1d(3, 8, 3), nn.ReLU(), nn.Conv1d(8, 4, 3)), (2, 3, 9), 1),
    "depthwise second": (lambda: nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU(), nn.Conv2d(8, 8, 3, groups=8)), (2, 3, 9, 9), 1),
    "depthwise first": (lambda: nn.Sequential(nn.Conv2d(8, 8, 3, groups=8), nn.ReLU(), nn.Conv2d(8, 4, 1)), (2, 8, 9, 9), 1),
    "grouped second": (lambda: nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU(), nn.Conv2d(8, 6, 3, groups=2)), (2, 3, 9, 9), 1),
    "grouped both": (lambda: nn.Sequential(nn.Conv2d(4, 8, 1, groups=2), nn.ReLU(), nn.Conv2d(8, 12, 3, groups=4)), (2, 4, 9, 9), 1),
    "linear": (lambda: nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 4)), (6, 5), 1),
}


def layers(program: Program) -> list[fx.Node]:
    return [n for n in program.graph.nodes if is_layer(n)]


def channel_ranges(program: Program) -> tuple[np.ndarray, np.ndarray]:
    """Largest weight of each channel between the two layers: where it goes out of the first, and where it comes into the second; channel by channel."""
    first, second = layers(program)
    one, two = (get_tensor(program, n.args[1]).detach().numpy() for n in (first, second))
    groups = groups_of(second)
    per_group, outputs = len(one) // groups, len(two) // groups
    incoming = [np.abs(two[(c // per_group) * outputs : (c // per_group + 1) * outputs, c % per_group]).max() for c in range(len(one))]
    return np.array([np.abs(row).max() for row in one]), np.array(incoming)


@pytest.mark.parametrize("name", PAIRS)
def test_equalization_keeps_the_function_and_makes_ranges_alike(name: str) -> None:
    make, shape, pairs = PAIRS[name]
    x = torch.randn(*shape)
    program = capture(uneven(make()), x)
    expected, before = program(x), channel_ranges(program)
    assert correct.equalize(program) == pairs
    assert relative(program(x), expected) < 1e-5
    one, two = channel_ranges(program)
    np.testing.assert_allclose(one, two, rtol=1e-4)
    np.testing.assert_allclose(one * two, before[0] * before[1], rtol=1e-4)  # what one gives the other takes
    assert one.max() / one.min() < 0.5 * before[0].max() / before[0].min()


def test_a_chain_is_equalized_pair_by_pair() -> None:
    net = uneven(nn.Sequential(nn.Conv2d(3, 6, 1), nn.ReLU(), nn.Conv2d(6, 6, 3, groups=6), nn.ReLU(), nn.Conv2d(6, 4, 1)))
    x = torch.randn(2, 3, 9, 9)
    program = capture(net, x)
    expected = program(x)
    assert correct.equalize(program) == 2
    assert relative(program(x), expected) < 1e-5


def test_dead_channels_stay_dead_and_harm_nobody() -> None:
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3)).eval()
    net[0].weight.data[2] = 0
    net[2].weight.data[:, 5] = 0
    x = torch.randn(2, 3, 9, 9)
    program = capture(net, x)
    expected = program(x)
    correct.equalize(program)
    state = program.state_dict()
    assert bool((state["0.weight"][2] == 0).all())
    assert all(bool(tensor.isfinite().all()) for tensor in state.values())
    assert relative(program(x), expected) < 1e-5


class ReadTwice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x).relu()
        return self.b(y) + y


def shared_layer() -> nn.Module:
    layer = nn.Conv2d(3, 3, 1)
    return nn.Sequential(layer, nn.ReLU(), layer)


@pytest.mark.parametrize(
    "make",
    [ReadTwice, shared_layer, lambda: nn.Sequential(nn.Conv2d(3, 3, 1), nn.Sigmoid(), nn.Conv2d(3, 3, 1))],
    ids=["read elsewhere too", "shared weights", "sigmoid between"],
)
def test_what_does_not_scale_through_is_left_alone(make: Callable[[], nn.Module]) -> None:
    program = capture(make(), torch.randn(2, 3, 4, 4))
    before = program.fingerprint()
    assert correct.equalize(program) == 0
    assert program.fingerprint() == before


# SmoothQuant ------------------------------------------------------------------------------------------------------------------------------------


class PostNorm(nn.Module):
    """The norm's output is also the residual, and read by two linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.a, self.b = nn.LayerNorm(8), nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(x)
        return y + self.a(y) * self.b(y).sigmoid()


def spread(net: nn.Module) -> nn.Module:
    """Norms whose channels differ by far, as those of large Transformers."""
    for module in net.modules():
        if isinstance(module, nn.LayerNorm):
            module.weight.data = torch.logspace(-1, 1.5, module.weight.numel())[torch.randperm(module.weight.numel())]
            module.bias.data.normal_()
    return net.eval()


def smoothed(program: Program, x: Tensor, alpha: float) -> int:
    watchers = correct.smoothing_watchers(program)
    observe(program, watchers, [(part,) for part in x.split(2)], silent)
    return correct.smooth(program, watchers, alpha)


@pytest.mark.parametrize("alpha", [0.2, 0.5, 0.8])
@pytest.mark.parametrize(
    ("make", "shape", "norms"),
    [(Attention, (6, 5, 16), 2), (PostNorm, (6, 5, 8), 1), (lambda: nn.Sequential(nn.LayerNorm(8), nn.Linear(8, 3)), (6, 8), 1)],
    ids=["pre-norm attention", "residual of the norm", "one layer"],
)
def test_smoothing_keeps_the_function(make: Callable[[], nn.Module], shape: tuple[int, ...], norms: int, alpha: float) -> None:
    x = torch.randn(*shape)
    program = capture(spread(make()), x)
    expected, before = program(x), program.fingerprint()
    assert smoothed(program, x, alpha) == norms
    assert relative(program(x), expected) < 1e-5
    assert program.fingerprint() != before
    nodes, further = len(program.graph.nodes), 4.0 * x
    assert smoothed(program, further, 0.7) == norms, "again, by other examples"
    assert relative(program(x), expected) < 1e-5
    assert len(program.graph.nodes) == nodes, "what multiplied by the first factors multiplies by both"


def test_smoothing_again_leaves_factors_of_the_model_itself_alone() -> None:
    """A tensor that something else reads too, and one of another shape, are not multiplied."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.fc = nn.LayerNorm(8), nn.Linear(8, 8)
            self.scale, self.gate = nn.Parameter(torch.rand(8) + 0.5), nn.Parameter(torch.rand(1) + 0.5)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.norm(x)
            return self.fc(y) + y * self.scale + y * self.gate + x * self.scale

    x = torch.randn(6, 8)
    program = capture(spread(Net()), x)
    expected = program(x)
    assert smoothed(program, x, 0.5) == smoothed(program, 2 * x, 0.7) == 1
    assert relative(program(x), expected) < 1e-5


@pytest.mark.parametrize("alpha", [0.3, 0.5], ids=["less", "half"])
def test_smoothing_moves_alpha_of_the_range_into_the_weights(alpha: float) -> None:
    x = torch.randn(40, 8)
    net = spread(nn.Sequential(nn.LayerNorm(8), nn.Linear(8, 3)))
    seen, weight = net[0](x).detach().abs().amax(0), net[1].weight.detach().abs().amax(0)
    program = capture(net, x)
    smoothed(program, x, alpha)
    state = program.state_dict()
    after = nn.functional.layer_norm(x, (8,), state["0.weight"], state["0.bias"]).abs().amax(0)
    # eq. 4: s = max|x|^α / max|w|^(1−α), here up to a factor common to all channels
    factor = (seen / after) / (seen.pow(alpha) / weight.pow(1 - alpha))
    torch.testing.assert_close(factor, factor.mean().expand(8), rtol=1e-4, atol=0)
    assert float(after.max() / after.min()) < float(seen.max() / seen.min())


@pytest.mark.parametrize(
    "make",
    [lambda: nn.Sequential(nn.LayerNorm(8, elementwise_affine=False), nn.Linear(8, 3)), lambda: nn.Sequential(nn.LayerNorm(8), nn.ReLU())],
    ids=["norm without weights", "no linear layer"],
)
def test_what_cannot_be_smoothed_is_left_alone(make: Callable[[], nn.Module]) -> None:
    x = torch.randn(6, 8)
    program = capture(make().eval(), x)
    before = program.fingerprint()
    assert smoothed(program, x, 0.5) == 0
    assert program.fingerprint() == before


def test_smoothing_as_a_step_is_what_quantization_does_by_itself() -> None:
    x = torch.randn(40, 8)
    program = capture(spread(nn.Sequential(nn.LayerNorm(8), nn.Linear(8, 3))), x)
    task = lc.Task(program, ArrayDataset(x.numpy(), np.zeros(40)), ArrayDataset(x.numpy(), np.zeros(40)))
    before = program.fingerprint()
    found, outcome = lc.smooth_norms(program, lc.SmoothNorms(alpha=0.4, examples=40, batch_size=40), task)
    assert outcome.changed == {"norms": 1}
    assert program.fingerprint() == before
    assert smoothed(program, x, 0.4) == 1
    torch.testing.assert_close(found.state_dict(), program.state_dict())
    plain = capture(nn.Linear(8, 3).eval(), x)
    assert lc.smooth_norms(plain)[1].changed == {"norms": 0}  # and needs no data for that
    with pytest.raises(lc.BadInput, match="alpha: 1 must lie between 0 and 1"):
        lc.SmoothNorms(alpha=1)


# Bias correction -------------------------------------------------------------------------------------------------------------------------------


class Twins(nn.Module):
    """Two linear layers with one bias."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(8, 4), nn.Linear(8, 4)
        self.b.bias = self.a.bias

    def forward(self, x: Tensor) -> Tensor:
        return self.a(x) + self.b(x)


def corrected(program: Program, x: Tensor) -> tuple[bool, Tensor, Tensor]:
    """Correct the first layer; whether that was done, and its mean error per output channel before and after, over the calibration data."""
    node = layers(program)[0]
    axis = row_of(node).channels
    mean = ChannelMean(axis)
    row = row_of(node)
    source = argument(node, row.weight)
    observe(program, {argument(node, row.inputs[0]): [mean]}, [(part,) for part in x.split(4)], silent)
    weight = get_tensor(program, source).detach().clone()
    rounded = weight_grid(weight, WEIGHT_INT4)(weight)
    rest = [i for i in range(program(x).dim()) if i != axis % program(x).dim()]
    expected = program(x).detach()

    def error() -> Tensor:
        return (program(x).detach().double() - expected.double()).mean(rest)

    set_parameter(program, str(source.target), rounded)
    program.recompile()
    before = error()
    done = correct.correct_bias(program, node, rounded - weight, mean)
    program.recompile()
    return done, before, error()


class Added(nn.Module):
    """`addmm`, whose weight is (I, O)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(inputs, outputs)), nn.Parameter(torch.zeros(outputs))

    def forward(self, x: Tensor) -> Tensor:
        return torch.addmm(self.bias, x, self.weight)


EXACT = {
    "linear": (lambda: nn.Linear(8, 6), (16, 8)),
    "linear without bias": (lambda: nn.Linear(8, 6, bias=False), (16, 8)),
    "linear of sequences": (lambda: nn.Linear(8, 6), (16, 5, 8)),
    "1x1 convolution": (lambda: nn.Conv2d(8, 6, 1), (16, 8, 5, 5)),
    "1x1 convolution without bias": (lambda: nn.Conv2d(8, 6, 1, bias=False), (16, 8, 5, 5)),
    "grouped 1x1 convolution": (lambda: nn.Conv2d(8, 6, 1, groups=2), (16, 8, 5, 5)),
    "1x1 convolution of pairs": (lambda: nn.Conv2d(8, 8, 1, groups=4), (16, 8, 5, 5)),
    "1x1 convolution in 1d": (lambda: nn.Conv1d(8, 6, 1), (16, 8, 5)),
    "1x1 convolution, same": (lambda: nn.Conv2d(8, 6, 1, padding="same"), (16, 8, 5, 5)),
    "transposed convolution": (lambda: nn.ConvTranspose2d(8, 6, 2, stride=2), (16, 8, 5, 5)),
    "transposed convolution, grouped": (lambda: nn.ConvTranspose1d(8, 6, 3, stride=3, groups=2, bias=False), (16, 8, 5)),
    "addmm": (lambda: Added(8, 6), (16, 8)),
}


@pytest.mark.parametrize("name", EXACT)
def test_the_mean_error_of_each_output_becomes_0(name: str) -> None:
    make, shape = EXACT[name]
    x = torch.randn(*shape) + torch.linspace(0, 3, 8).reshape(
        [-1 if i == (1 if "conv" in name else len(shape) - 1) else 1 for i in range(len(shape))]
    )
    done, before, after = corrected(capture(nn.Sequential(make()).eval(), x), x)
    assert done
    assert float(before.abs().max()) > 1e-2
    assert float(after.abs().max()) < 1e-6  # float32 outputs around 1, averaged over 16 examples or more


@pytest.mark.parametrize("groups", [1, 2, 8], ids=["whole", "grouped", "depthwise"])
def test_the_mean_error_of_a_padded_convolution_becomes_small(groups: int) -> None:
    x = torch.randn(16, 8, 12, 12) + torch.linspace(0, 3, 8).reshape(-1, 1, 1)
    done, before, after = corrected(capture(nn.Sequential(nn.Conv2d(8, 8, 3, padding=1, groups=groups)).eval(), x), x)
    assert done
    assert float(after.abs().max()) < 0.25 * float(before.abs().max())  # the border sees zeros instead of means


def test_a_bias_that_others_read_is_left_alone() -> None:
    x = torch.randn(16, 8) + 1
    program = capture(Twins().eval(), x)
    done, before, after = corrected(program, x)
    assert not done
    assert torch.equal(before, after)


# Batch-norm re-estimation ------------------------------------------------------------------------------------------------------------------------


def test_statistics_become_the_mean_over_the_batches() -> None:
    x = torch.randn(24, 3, 8, 8) * 2 + 1
    net = with_statistics(nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 4, 1)))
    program = capture(net, x[:2])
    batches = [(part,) for part in x.split(8)]
    assert reestimate_batch_norm(program, batches) == 1
    data = [part.double().numpy() for (part,) in batches]
    state = program.state_dict()
    np.testing.assert_allclose(state["0.running_mean"], np.mean([d.mean((0, 2, 3)) for d in data], 0), rtol=1e-5)
    np.testing.assert_allclose(state["0.running_var"], np.mean([d.var((0, 2, 3), ddof=1) for d in data], 0), rtol=1e-5)


def test_statistics_are_those_of_pytorchs_cumulative_average() -> None:
    net = with_statistics(Residual())
    x = torch.randn(24, 3, 8, 8)
    program = capture(net, x[:2])
    assert reestimate_batch_norm(program, [(part,) for part in x.split(8)]) == 2
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # the mean over all batches since the reset
            module.reset_running_stats()
    net.train()
    with torch.no_grad():
        for part in x.split(8):
            net(part)
    for name, value in net.state_dict().items():
        if "running" in name:
            torch.testing.assert_close(program.state_dict()[name], value, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("breaks", [False, True], ids=["finishes", "breaks off"])
def test_reestimation_gives_back_modes_and_momentum(breaks: bool) -> None:
    x = torch.randn(8, 3, 8, 8)
    program = capture(with_statistics(Residual()), x[:2])
    code, fresh = program.graph_module.code, program.state_dict()["norm.running_mean"].clone()
    batches = [(x[:4],), (x[4:, :2] if breaks else x[4:],)]
    if breaks:
        with pytest.raises(RuntimeError):
            reestimate_batch_norm(program, batches)
    else:
        reestimate_batch_norm(program, batches)
    assert program.graph_module.code == code
    assert not program.training
    assert not torch.equal(program.state_dict()["norm.running_mean"], fresh)
    torch.testing.assert_close(program(x[:3]), program(x)[:3])  # an example's answer does not hang on its batch


def test_a_program_without_batch_norms_has_none_to_re_estimate() -> None:
    program = capture(nn.Linear(4, 2), torch.randn(2, 4))
    before = program.fingerprint()
    assert reestimate_batch_norm(program, [(torch.randn(2, 4),)]) == 0
    assert program.fingerprint() == before


def test_a_grid_that_fits_needs_no_correction() -> None:
    """The error given is what counts: none of it, none of the bias."""
    x = torch.randn(8, 4)
    program = capture(nn.Linear(4, 2), x)
    node, mean = layers(program)[0], ChannelMean(-1)
    mean.fold(x)
    before = program(x)
    exact = Quantizer(torch.ones(2), torch.zeros(2, dtype=torch.int32), -127, 127, 0)
    assert correct.correct_bias(program, node, exact(torch.ones(2, 4)) - 1, mean)
    assert torch.equal(program(x), before)
