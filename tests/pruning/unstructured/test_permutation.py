from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

import laconic as lc
from laconic.core.errors import BadInput
from laconic.pruning.unstructured.patterns import Pattern
from laconic.pruning.unstructured.permutation import better_order, permuted
from tests.core.models import ConvNet
from tests.pruning.unstructured import nets

TWO_OF_FOUR = Pattern.read("2:4")


def kept(sizes: Tensor) -> float:
    return float((sizes * TWO_OF_FOUR.best_of_each(sizes)).sum())


def test_large_channels_that_stand_together_are_parted() -> None:
    sizes = torch.tensor([[4.0, 4, 4, 4, 1, 1, 1, 1]]).repeat(3, 1)
    order = better_order(sizes, TWO_OF_FOUR)
    assert kept(sizes[:, order]) == 3 * 16
    assert sorted(order.tolist()) == list(range(8))


@pytest.mark.parametrize("seed", range(4))
def test_an_order_is_not_worse_and_near_the_best_of_all(seed: int) -> None:
    """Of eight channels there are 35 ways to part them in two groups."""
    sizes = torch.rand(6, 8, generator=torch.Generator().manual_seed(seed)) ** 2
    best = 0.0
    for chosen in itertools.combinations(range(1, 8), 3):
        first = [0, *chosen]
        best = max(best, kept(sizes[:, first + [i for i in range(8) if i not in first]]))
    found = kept(sizes[:, better_order(sizes, TWO_OF_FOUR)])
    assert kept(sizes) <= found * (1 + 1e-6)
    assert found >= 0.98 * best


@pytest.mark.parametrize("make", [nets.net, ConvNet], ids=["chain", "residual"])
def test_the_program_answers_as_before_and_keeps_more(make: object) -> None:
    torch.manual_seed(0)
    net = make().eval()  # type: ignore[operator]
    with torch.no_grad():
        for p in net.parameters():
            p.mul_(torch.rand(p.shape[:2] if p.dim() > 1 else p.shape).reshape(*p.shape[:2], *[1] * (p.dim() - 2)) + 0.1)
    x = torch.randn(5, 1, 8, 8) if isinstance(net, ConvNet) else torch.randn(5, 1, 6, 6)
    program = lc.capture(net, x[:2])
    found, moved = permuted(program, TWO_OF_FOUR)
    assert moved > 0
    with torch.no_grad():
        torch.testing.assert_close(found(x), program(x), atol=1e-5, rtol=1e-4)
    ours, plain = (lc.sparsify(each, lc.Sparsify(pattern="2:4", recovery={"epochs": 0}))[0] for each in (found, program))
    sizes = [
        sum(float(p.detach().abs().sum()) for name, p in each.named_parameters() if name in each.interface.sparse) for each in (ours, plain)
    ]
    assert sizes[0] > sizes[1]


def test_the_option_says_how_many_groups_moved_and_goes_with_n_of_m() -> None:
    _, outcome = lc.sparsify(nets.program(), lc.Sparsify(pattern="2:4", permute=True, recovery={"epochs": 0}), nets.context())
    assert 1 <= outcome.changed["moved"] <= 3
    with pytest.raises(BadInput, match="permute goes with a pattern N:M"):
        lc.Sparsify(permute=True)
