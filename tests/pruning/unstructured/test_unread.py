"""Weights that make what nobody reads: found, given to others, and set to zero without any output changing."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import laconic as lc
from laconic.pruning.unstructured.unread import Unread
from laconic.pruning.unstructured.weights import weights_of
from tests.pruning.unstructured import nets


class Convs(nn.Module):
    """Two convolutions with a norm, a residual and a matrix whose columns are channels times places."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.norm = nn.Conv2d(1, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.a, self.b = nn.Conv2d(6, 4, 3, padding=1), nn.Conv2d(4, 6, 1)
        self.wide, self.head = nn.Linear(6 * 4, 10), nn.Linear(10, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.stem(x)).relu()
        x = x + self.b(self.a(x).relu())
        return self.head(self.wide(F.max_pool2d(x, 3).flatten(1)).relu())


class Normed(nn.Module):
    """A layer norm over the channels between two matrices."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.one, self.norm, self.two = nn.Linear(5, 8), nn.LayerNorm(8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.two(self.norm(self.one(x)))


def masks(program: lc.Program) -> dict[str, Tensor]:
    return {weight.name: weight.parameter.detach() != 0 for weight in weights_of(program)[0]}


def convs() -> tuple[lc.Program, Tensor]:
    net = Convs().eval()
    with torch.no_grad():
        net.head.weight[:, 2:5] = 0  # three units of `wide` are read by nothing,
        net.wide.weight[[0, 1, 5, 6, 7, 8, 9], 4:8] = 0  # so channel 1 of the sum is not,
        net.b.weight[:, 3] = 0  # nor channel 3 of `a`
        net.a.weight[:, 1] = 0
    x = torch.randn(2, 1, 6, 6)
    return lc.capture(net, x), x


def test_what_makes_unread_channels_is_found_through_whole_chains() -> None:
    program, _ = convs()
    found = Unread(program, weights_of(program)[0]).of(masks(program))
    assert {name: mask.flatten(1).any(1).nonzero().flatten().tolist() for name, mask in found.items()} == {
        "stem.weight": [1], "a.weight": [3], "b.weight": [1], "wide.weight": [2, 3, 4], "head.weight": [],
    }  # fmt: skip


def test_silencing_changes_no_output_and_takes_biases_along() -> None:
    program, x = convs()
    before, kept = program(x), masks(program)
    numbers = Unread(program, weights_of(program)[0]).silence(kept)
    assert torch.equal(program(x), before)
    assert numbers == (9 + 1) + (5 * 9 + 1) + (3 + 1) + 3 * (24 + 1)
    assert {name: torch.equal(mask, program.get_parameter(name) != 0) for name, mask in kept.items()} == dict.fromkeys(kept, True)
    assert program.get_parameter("wide.bias").nonzero().flatten().tolist() == [0, 1, 5, 6, 7, 8, 9]


def test_a_channel_that_a_norm_compares_with_others_is_read() -> None:
    net = Normed().eval()
    with torch.no_grad():
        net.two.weight[:, 3] = 0
    program = lc.capture(net, torch.randn(2, 5))
    assert Unread(program, weights_of(program)[0]).silence(masks(program)) == 0


def test_a_unit_that_a_dense_weight_makes_stays() -> None:
    program, _ = convs()
    others = [weight for weight in weights_of(program)[0] if weight.name != "wide.weight"]
    kept = {weight.name: weight.parameter.detach() != 0 for weight in others}
    Unread(program, others).silence(kept)
    assert bool((program.get_parameter("wide.weight")[2:5] != 0).any())


@pytest.mark.parametrize("schedule", ["one_shot", "gradual", "surgery", "iterative"])
def test_no_weight_that_stays_is_unread_and_the_number_is_still_that_asked_for(schedule: str) -> None:
    program = nets.program()
    with torch.no_grad():
        program.get_parameter("head.weight")[:, :6] *= 1e-3  # these units of `hidden` will be read by nothing
    config = lc.Sparsify(0.8, schedule=schedule, recovery={"epochs": 3, "lr": 1e-4, "batch_size": 12})
    found, outcome = lc.sparsify(program, config, nets.context())
    weights = weights_of(found)[0]
    assert not any(bool(mask.any()) for mask in Unread(found, weights).of(masks(found)).values())
    assert bool((found.get_parameter("hidden.weight")[:6] == 0).all())
    assert outcome.changed["sparsity"] == pytest.approx(0.8, abs=0.004)
