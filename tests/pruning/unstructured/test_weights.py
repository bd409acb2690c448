from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import laconic as lc
from laconic.core.errors import BadInput
from laconic.core.records import Skipped
from laconic.core.weights import check_paths
from laconic.pruning.unstructured.weights import weights_of
from tests.core.models import Recurrent, Tied
from tests.pruning.unstructured import nets

NAMES = ["stem.weight", "conv.weight", "depthwise.weight", "hidden.weight", "head.weight"]


@pytest.mark.parametrize("make", [nets.net, nets.program], ids=["module", "program"])
def test_kernels_and_matrices_can_be_sparse_norms_and_biases_not(make: object) -> None:
    weights, skipped = weights_of(make())  # type: ignore[operator]
    assert [weight.name for weight in weights] == NAMES
    assert [weight.path for weight in weights] == [name.removesuffix(".weight") for name in NAMES]
    assert skipped == []


class Added(nn.Module):
    """`addmm` has its weight inputs first."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(12, 6)), nn.Parameter(torch.randn(6))

    def forward(self, x: Tensor) -> Tensor:
        return torch.addmm(self.bias, x, self.weight)


@pytest.mark.parametrize(
    ("layer", "shape", "of"),
    [
        (nn.Linear(6, 3), (2, 6), (3, 6)),
        (Added(), (2, 12), (6, 12)),
        (nn.Conv2d(4, 6, (3, 2), groups=2), (2, 4, 5, 5), (6, 2, 3, 2)),
        (nn.ConvTranspose2d(4, 6, 3, groups=2), (2, 4, 5, 5), (6, 2, 3, 3)),
        (nn.Conv1d(4, 6, 3), (2, 4, 5), (6, 4, 3)),
        (nn.Conv3d(4, 6, 2), (2, 4, 3, 3, 3), (6, 4, 2, 2, 2)),
    ],
    ids=["linear", "addmm", "grouped", "transposed", "one dimension", "three dimensions"],
)
def test_a_weight_is_a_matrix_with_a_row_for_each_output(layer: nn.Module, shape: tuple[int, ...], of: tuple[int, ...]) -> None:
    """A row at zero (and the bias) makes that output channel zero, whatever comes in."""
    (weight,) = weights_of(lc.capture(layer.eval(), torch.randn(*shape)))[0]
    assert weight.shape == of
    value = torch.randn(weight.parameter.shape)
    matrix = weight.matrix(value)
    assert matrix.shape == (of[0], value.numel() // of[0])
    assert torch.equal(weight.tensor(matrix), value)
    matrix[1] = 0
    with torch.no_grad():
        weight.parameter.copy_(weight.tensor(matrix))
        layer.weight.copy_(weight.parameter)  # type: ignore[operator, union-attr]
        layer.bias.zero_()  # type: ignore[operator, union-attr]
        answer = layer(torch.randn(*shape)).movedim(1, 0)
    assert bool((answer[1] == 0).all())
    assert bool((answer[[0, 2]] != 0).all())


class Product(nn.Module):
    """A matrix, or several, that the model multiplies with itself, in one of the ways to write it."""

    def __init__(self, way: Callable[[Tensor, Tensor], Tensor], *shape: int) -> None:
        super().__init__()
        self.way, self.weight = way, nn.Parameter(torch.randn(shape))

    def forward(self, x: Tensor) -> Tensor:
        return self.way(x, self.weight)


@pytest.mark.parametrize(
    ("way", "shape", "of"),
    [
        (lambda x, w: x @ w, (8, 6), (6, 8)),
        (lambda x, w: x @ w.T, (6, 8), (6, 8)),
        (lambda x, w: x @ w.transpose(0, 1), (6, 8), (6, 8)),
        (lambda x, w: (w @ x.T).T, (6, 8), (6, 8)),
        (lambda x, w: torch.bmm(x.expand(3, -1, -1), w).movedim(0, 1).flatten(1), (3, 8, 2), (6, 8)),
        (lambda x, w: (w @ x.T).flatten(0, 1).T, (3, 2, 8), (6, 8)),
    ],
    ids=["right", "right, turned", "right, transposed", "left", "experts", "stacked, left"],
)
def test_a_matrix_of_a_product_has_a_row_for_each_output(way: Any, shape: tuple[int, ...], of: tuple[int, ...]) -> None:
    (weight,), skipped = weights_of(lc.capture(Product(way, *shape).eval(), torch.randn(2, 8)))
    assert (weight.shape, skipped) == (of, [])
    value = torch.randn(shape)
    x, matrix = torch.randn(5, 8), weight.matrix(value)
    assert torch.equal(weight.tensor(matrix), value)
    torch.testing.assert_close(way(x, value), x @ matrix.T)  # what the rows of a linear layer compute


class Cells(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gru, self.lstm, self.plain = nn.GRUCell(8, 4), nn.LSTMCell(4, 4), nn.RNNCell(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        state = x.new_zeros(x.shape[0], 4)
        for frame in x.unbind(1):
            state = self.plain(self.lstm(self.gru(frame, state), (state, state))[0], state)
        return state


class Attention(nn.Module):
    def __init__(self, **options: int) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True, **options)

    def forward(self, x: Tensor) -> Tensor:
        return self.attention(x, x, x, need_weights=False)[0]


class Own(nn.Linear):
    """A layer of one's own, by inheritance."""


class Squares(nn.Bilinear):
    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(x, x)


@pytest.mark.parametrize(
    ("make", "shape", "names"),
    [
        (Cells, (2, 3, 8), [f"{cell}.weight_{side}" for cell in ("gru", "lstm", "plain") for side in ("ih", "hh")]),
        (Attention, (2, 5, 8), ["attention.in_proj_weight", "attention.out_proj.weight"]),
        (lambda: nn.Sequential(Own(8, 4)), (2, 8), ["0.weight"]),
        (lambda: nn.Sequential(Squares(8, 8, 4)), (2, 8), ["0.weight"]),
    ],
    ids=["cells", "attention", "an own class", "bilinear"],
)
def test_a_module_and_its_program_have_the_same_weights(make: Any, shape: tuple[int, ...], names: list[str]) -> None:
    module = make().eval()
    program = lc.capture(module, torch.randn(*shape))
    for model in (module, program):
        weights, skipped = weights_of(model)
        assert ([weight.name for weight in weights], skipped) == (names, [])
    assert [weight.shape for weight in weights_of(module)[0]] == [weight.shape for weight in weights_of(program)[0]]


def test_attention_with_matrices_of_their_own_is_sparse_in_each() -> None:
    names = [f"attention.{one}_proj_weight" for one in "qkv"]
    assert [weight.name for weight in weights_of(Attention(kdim=6, vdim=6))[0]] == [*names, "attention.out_proj.weight"]


class Other(nn.Module):
    """Places are added, a matrix is in an einsum: neither is a layer."""

    def __init__(self) -> None:
        super().__init__()
        self.places, self.mix = nn.Parameter(torch.randn(5, 8)), nn.Parameter(torch.randn(8, 8))
        self.head = nn.utils.parametrizations.weight_norm(nn.Linear(8, 4))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.einsum("blc,cd->bld", x + self.places, self.mix))


def test_what_cannot_be_sparse_is_told_with_the_reason() -> None:
    weights, skipped = weights_of(lc.capture(Other().eval(), torch.randn(2, 5, 8)))
    assert weights == []
    assert {item.name: item.reason for item in skipped} == {
        "head": "its weight is computed, not stored",
        "places": "add does not multiply with it as with a matrix",
        "mix": "einsum does not multiply with it as with a matrix",
    }
    assert weights_of(Other()) == ([], [Skipped("head", "its weight is computed, not stored")])


def test_neighbors_in_a_row_are_input_channels_at_one_place_of_the_kernel() -> None:
    (weight,) = weights_of(nn.Sequential(nn.Conv2d(4, 2, 3)))[0]
    value = weight.parameter.detach()
    assert torch.equal(weight.matrix(value)[1, 4:8], value[1, :, 0, 1])


def test_a_recurrent_layer_has_all_its_matrices_and_a_shared_one_counts_once() -> None:
    weights, _ = weights_of(lc.capture(Recurrent().eval(), torch.randn(2, 7, 6)))
    assert len(weights) == 9
    assert len(weights_of(Recurrent())[0]) == 9
    assert len(weights_of(lc.capture(Tied().eval(), torch.zeros(2, 3, dtype=torch.long)))[0]) == 1


def test_a_path_that_names_nothing_is_told() -> None:
    weights, _ = weights_of(nets.net())
    check_paths(weights, ("stem", "head.weight"), "freeze")
    with pytest.raises(BadInput, match=r"freeze: .* 'stm'\. Did you mean 'stem'"):
        check_paths(weights, ("stm",), "freeze")
