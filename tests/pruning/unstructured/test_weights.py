from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import laconic as lc
from laconic.core.errors import BadInput
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
    ],
    ids=["linear", "addmm", "grouped", "transposed", "one dimension"],
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
