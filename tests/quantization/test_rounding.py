from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, fx, nn

from laconic.core.capture import capture
from laconic.core.context import Context
from laconic.core.fake_quant import Quantizer
from laconic.core.gram import LARGEST, Gram, fits, patches
from laconic.core.operators import is_layer
from laconic.quantization.quantize import Quantize, quantize
from laconic.quantization.rounding import adaptive
from laconic.quantization.scheme import WEIGHT_INT4, WEIGHT_INT8, weight_grid
from tests.quantization.nets import task_of
from tests.reference import quantize as twin

CONVOLUTIONS = {
    "plain": {"kernel_size": 3},
    "strided": {"kernel_size": 3, "stride": 2},
    "padded": {"kernel_size": 3, "padding": 1},
    "dilated": {"kernel_size": 3, "dilation": 2, "padding": 2},
    "oblong": {"kernel_size": (1, 3)},
    "same": {"kernel_size": 3, "padding": "same"},
}


def layer(net: nn.Module, x: Tensor) -> fx.Node:
    return next(node for node in capture(net, x).graph.nodes if is_layer(node))


def correlated(n: int, inputs: int) -> Tensor:
    """Inputs that go together, so that rounding errors of one column can be made up for in another."""
    return (torch.randn(n, 3) @ torch.randn(3, inputs) + 0.1 * torch.randn(n, inputs)).relu()


def row_errors(weight: Tensor, before: Tensor, x: Tensor) -> Tensor:
    """Squared output error of each output, over the data themselves."""
    return (x.double() @ (weight - before).double().T).square().sum(0)


# The Gram matrix ------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(40, 6), (8, 5, 6)], ids=["rows", "sequences"])
def test_the_gram_of_a_linear_layer_is_the_mean_outer_product(shape: tuple[int, ...]) -> None:
    x = torch.randn(*shape)
    gram = Gram(layer(nn.Linear(6, 3), x))
    for part in x.split([3, len(x) - 3]):
        gram.fold(part)
    rows = x.reshape(-1, 6).double().numpy()
    np.testing.assert_allclose(gram.mean.numpy(), rows.T @ rows / len(rows), rtol=1e-4, atol=1e-5)


def test_the_gram_of_a_convolution_in_one_dimension_is_that_of_its_windows() -> None:
    x, net = torch.randn(4, 2, 9), nn.Conv1d(2, 3, 3, padding="same", bias=False)
    rows = patches(layer(net, x), x, (3,))
    expected = torch.nn.functional.pad(x, (1, 1)).unfold(2, 3, 1).permute(0, 2, 1, 3).reshape(-1, 6)
    torch.testing.assert_close(rows, expected)


@pytest.mark.parametrize("options", CONVOLUTIONS.values(), ids=CONVOLUTIONS)
def test_the_gram_of_a_convolution_is_that_of_its_patches(options: dict[str, int]) -> None:
    x, net = torch.randn(4, 2, 7, 7), nn.Conv2d(2, 3, bias=False, **options)
    node = layer(net, x)
    kernel = tuple(net.weight.shape[2:])
    padding = {"same": 1}[net.padding] if isinstance(net.padding, str) else net.padding[0] if net.padding[0] == net.padding[1] else 0
    expected = twin.patches(x.numpy(), kernel, net.stride[0], padding, net.dilation[0])
    rows = patches(node, x, kernel)
    np.testing.assert_allclose(rows.numpy(), expected)
    flat = (rows @ net.weight.flatten(1).T).unflatten(0, (4, -1)).transpose(1, 2)
    torch.testing.assert_close(flat.reshape(net(x).shape), net(x))
    gram = Gram(node, kernel)
    for part in x.split(3):
        gram.fold(part)
    np.testing.assert_allclose(gram.mean.numpy(), expected.T @ expected / len(expected), rtol=1e-4, atol=1e-5)


def test_a_large_batch_is_sampled() -> None:
    x = torch.randn(20_000, 4)
    gram = Gram(layer(nn.Linear(4, 2), x[:2]))
    gram.fold(x)
    assert 2048 <= gram.n <= 4096, "a stride that shares no factor with the places"
    torch.testing.assert_close(gram.mean, torch.eye(4), atol=0.1, rtol=0)


@pytest.mark.parametrize(
    ("net", "shape", "expected"),
    [
        (nn.Linear(6, 3), (2, 6), True),
        (nn.Conv2d(4, 4, 3), (2, 4, 5, 5), True),
        (nn.Conv2d(4, 4, 3, groups=2), (2, 4, 5, 5), False),
        (nn.Linear(LARGEST + 1, 1), (2, LARGEST + 1), False),
    ],
    ids=["linear", "convolution", "grouped", "too large"],
)
def test_which_layers_have_a_form(net: nn.Module, shape: tuple[int, ...], expected: bool) -> None:
    assert fits(layer(net, torch.randn(*shape)), net.weight) is expected


# AdaRound ---------------------------------------------------------------------------------------------------------------------------------------


def settled(weight: Tensor, grid: Quantizer, x: Tensor, **options: float) -> Tensor:
    rows = x.reshape(-1, x.shape[-1])
    return adaptive(weight, grid, rows.T @ rows / len(rows), **options)  # type: ignore[arg-type]


SCHEMES = {"int8": WEIGHT_INT8, "int4": WEIGHT_INT4, "int4 groups": replace(WEIGHT_INT4, group=8)}


@pytest.mark.parametrize("scheme", SCHEMES.values(), ids=SCHEMES)
def test_no_row_gets_worse_than_by_rounding_to_nearest(scheme: object) -> None:
    weight, x = torch.randn(12, 24), correlated(300, 24)
    grid = weight_grid(weight, scheme)  # type: ignore[arg-type]
    found = grid(settled(weight, grid, x))
    errors, nearest = row_errors(found, weight, x), row_errors(grid(weight), weight, x)
    assert bool((errors <= nearest * (1 + 1e-6)).all())
    assert float(errors.sum()) < 0.99 * float(nearest.sum())


@pytest.mark.parametrize("scheme", SCHEMES.values(), ids=SCHEMES)
def test_each_weight_moves_by_less_than_a_step(scheme: object) -> None:
    weight, x = torch.randn(12, 24), correlated(300, 24)
    grid = weight_grid(weight, scheme)  # type: ignore[arg-type]
    steps = grid.scale.repeat_interleave(8).reshape(12, 24) if grid.group else grid.scale.reshape(-1, 1).expand(12, 24)
    found = settled(weight, grid, x)
    assert bool(((found - weight).abs() < steps).all())
    assert not torch.equal(found, weight)
    # rounding to nearest then goes the chosen way
    assert bool(((grid(found) - weight).abs() < steps * (1 + 1e-5)).all())


def test_inputs_that_have_nothing_to_do_with_each_other_leave_rounding_to_nearest() -> None:
    weight = torch.randn(6, 10)
    grid = weight_grid(weight, WEIGHT_INT4)
    assert torch.equal(grid(adaptive(weight, grid, torch.eye(10))), grid(weight))


def test_kernels_keep_their_shape() -> None:
    weight = torch.randn(5, 2, 3, 3)
    grid = weight_grid(weight, WEIGHT_INT4)
    x = correlated(300, 18)
    found = adaptive(weight, grid, x.T @ x / 300)
    assert found.shape == weight.shape
    flat = row_errors(grid(found).flatten(1), weight.flatten(1), x)
    nearest = row_errors(grid(weight).flatten(1), weight.flatten(1), x)
    assert bool((flat <= nearest * (1 + 1e-6)).all())
    assert float(flat.sum()) < 0.99 * float(nearest.sum())


def test_dead_inputs_are_no_trouble() -> None:
    weight = torch.randn(4, 6)
    grid = weight_grid(weight, WEIGHT_INT4)
    assert bool(adaptive(weight, grid, torch.zeros(6, 6)).isfinite().all())


@pytest.mark.parametrize("seed", range(3))
def test_the_largest_weight_does_not_leave_the_grid(seed: int) -> None:
    """Its code is the last one; rounding it up would be undone, and the others would have relied on it."""
    torch.manual_seed(seed)
    weight = torch.cat([torch.full((16, 1), 1.0), (torch.randint(1, 7, (16, 7)) + 0.45) / 7], 1)
    grid = weight_grid(weight, WEIGHT_INT4)
    x = torch.ones(50, 8) + 0.05 * torch.randn(50, 8)
    found = grid(settled(weight, grid, x))
    assert bool((row_errors(found, weight, x) <= row_errors(grid(weight), weight, x) * (1 + 1e-6)).all())


def test_zeros_stay_zeros() -> None:
    """What was pruned stays pruned."""
    weight = torch.randn(8, 24)
    weight[:, ::3] = 0
    grid = weight_grid(weight, WEIGHT_INT4)
    found = settled(weight, grid, correlated(300, 24))
    assert bool((found[:, ::3] == 0).all())


@pytest.mark.parametrize("kind", ["linear", "addmm", "same"])
@torch.no_grad()
def test_every_spelling_of_a_layer_is_rounded_adaptively(kind: str) -> None:
    """`addmm` has its weight the other way round: its error on the data is not larger than that of rounding to nearest, and something went the other way."""

    class Added(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight, self.bias = nn.Parameter(torch.randn(12, 6)), nn.Parameter(torch.randn(6))

        def forward(self, x: Tensor) -> Tensor:
            return torch.addmm(self.bias, x, self.weight)

    nets: dict[str, nn.Module] = {"linear": nn.Linear(12, 6), "addmm": Added(), "same": nn.Conv2d(3, 6, 3, padding="same")}
    x = torch.randn(64, 3, 6, 6).cumsum(3) if kind == "same" else correlated(64, 12)
    task = task_of(x, nets[kind])
    program = capture(nets[kind].eval(), x[:2])
    common = {"mode": "weights", "bits": 8 if kind == "same" else 4, "correct_bias": False, "target": "openvino", "group": 0}
    nearest, adaptive = (quantize(program, Quantize(rounding=rounding, **common), Context(task))[0] for rounding in ("nearest", "adaptive"))  # type: ignore[arg-type]
    errors = [float((rounded(x) - program(x)).square().mean()) for rounded in (nearest, adaptive)]
    assert 0 < errors[1] < errors[0]
