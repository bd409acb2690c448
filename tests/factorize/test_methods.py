"""The closed forms by themselves: exact at full rank, as near as their plain twins, and never worse for looking at data."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from laconic.factorize import canonical
from laconic.factorize.chain import Factor, balanced, by_group, composed, count
from laconic.factorize.methods import METHODS, allowed
from laconic.factorize.moments import Moment
from laconic.factorize.ranks import Limits, Option, by_budget, by_energy
from tests.reference import factorize as twin

SHAPES = {
    "plain": (1, 6, 5, 3, 3),
    "oblong": (1, 4, 7, 3, 2),
    "grouped": (2, 5, 4, 3, 3),
    "line": (1, 6, 4, 5),
    "volume": (1, 4, 3, 2, 3, 2),
}


def weight_and_moment(shape: tuple[int, ...], whole: bool = True) -> tuple[Tensor, Moment]:
    torch.manual_seed(0)
    groups, _, inputs, *kernel = shape
    n = inputs * (math.prod(kernel) if whole else 1)
    x = torch.randn(groups, 200, n, dtype=torch.float64) @ torch.randn(groups, n, n, dtype=torch.float64)
    return torch.randn(shape, dtype=torch.float64), Moment(tuple(kernel), x.mT @ x / 200, whole)


@pytest.mark.parametrize("seen", ["patches", "channels", "nothing"])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_each_is_exact_at_full_rank_and_loses_what_it_says(shape: tuple[int, ...], seen: str) -> None:
    weight, moment = weight_and_moment(shape, seen == "patches")
    moment = Moment(moment.kernel) if seen == "nothing" else moment
    for name, method in allowed(weight, False, tuple(METHODS), moment).items():
        found = by_group(composed(balanced(method.cut(method.full), moment)), shape[0])
        torch.testing.assert_close(found, weight, rtol=1e-7, atol=1e-7, msg=name)
        assert method.lost(method.full) < 1e-12
        half = tuple(max(1, rank // 2) for rank in method.full)
        chain = method.cut(half)
        assert count(chain) == sum(math.prod(form[0]) for form in method.shapes(half))
        share = moment.power(weight - by_group(composed(chain), shape[0])) / moment.power(weight)
        assert 0 < share < 1
        if name == "output" or (seen == "nothing" and name in ("input", "spatial", "depthwise")):
            assert share <= method.lost(half) * (1 + 1e-9) + 1e-12
        if name == "output":
            assert share == pytest.approx(method.lost(half))


@pytest.mark.parametrize("shape", [(1, 6, 8), (1, 9, 4), (1, 6, 5, 3, 3)], ids=["wide", "tall", "convolution"])
def test_the_output_side_is_the_optimum_by_the_data(shape: tuple[int, ...]) -> None:
    weight, moment = weight_and_moment(shape)
    assert moment.matrix is not None
    flat, sigma = weight[0].flatten(1).numpy(), moment.matrix[0].numpy()
    for rank in (1, 3):
        found = composed(METHODS["output"](weight, moment).cut((rank,))).flatten(1).numpy()
        np.testing.assert_allclose(
            found, twin.weighted_low_rank(flat, sigma, rank), atol=1e-8 * np.abs(flat).max() * np.linalg.cond(sigma) ** 0.5
        )
        plain = composed(METHODS["output"](weight, Moment(moment.kernel)).cut((rank,))).flatten(1).numpy()
        np.testing.assert_allclose(plain, twin.weighted_low_rank(flat, np.eye(len(sigma)), rank), atol=1e-10)
        assert twin.error(flat, found, sigma) < 0.95 * twin.error(flat, plain, sigma)


def test_columns_and_rows_without_data_are_the_singular_value_decomposition() -> None:
    weight, moment = weight_and_moment((1, 6, 5, 3, 2))
    across = weight[0].permute(0, 3, 1, 2).reshape(12, 15).numpy()  # (O, k₂) by (I, k₁)
    nearest = twin.weighted_low_rank(across, np.eye(15), 4).reshape(6, 2, 5, 3).transpose(0, 2, 3, 1)
    found = composed(METHODS["spatial"](weight, Moment(moment.kernel)).cut((4,)))
    np.testing.assert_allclose(found.numpy(), nearest, atol=1e-10)


@pytest.mark.parametrize("name", ["input", "spatial", "tucker", "depthwise"])
def test_data_make_the_error_on_them_smaller(name: str) -> None:
    weight, moment = weight_and_moment((1, 8, 6, 3, 3))
    method, blind = METHODS[name](weight, moment), METHODS[name](weight, Moment(moment.kernel))
    ranks = (2,) if name == "depthwise" else tuple(rank // 2 for rank in method.full)
    errors = [moment.power(weight - composed(one.cut(ranks))[None]) for one in (method, blind)]
    assert errors[0] < 0.9 * errors[1]


def test_the_layer_behind_columns_is_the_least_squares_fit() -> None:
    weight, _ = weight_and_moment((1, 6, 5, 3, 3))
    x = torch.randn(4, 5, 8, 8, dtype=torch.float64)
    rows = twin.patches(x.numpy(), (3, 3))
    moment = Moment((3, 3), torch.from_numpy(rows.T @ rows / len(rows))[None])
    columns, behind = METHODS["spatial"](weight, moment).cut((4,))
    seen = torch.conv2d(x, columns.weight)  # (B, R, 6, 8)
    features = twin.patches(seen.numpy(), (1, 3))
    wanted = torch.conv2d(x, weight[0]).movedim(1, -1).flatten(0, 2).numpy()
    fit = np.linalg.lstsq(features, wanted, rcond=None)[0].T
    np.testing.assert_allclose(behind.weight.flatten(1).numpy(), fit, atol=1e-8)


def test_separable_without_data_begins_as_the_first_singular_pair_of_each_channel_and_gets_nearer() -> None:
    weight, moment = weight_and_moment((1, 8, 6, 3, 3))
    method = METHODS["depthwise"](weight, Moment(moment.kernel))
    start = twin.separable_rank_one(weight[0].flatten(2).numpy())
    norm = float(weight.square().sum())
    assert method.lost((1,)) == pytest.approx(((weight[0].flatten(2).numpy() - start) ** 2).sum() / norm)
    found = composed(method.cut((1,))).flatten(2).numpy()
    np.testing.assert_allclose(found, start, atol=1e-8)  # channel by channel that is the optimum, so the turns change nothing
    fitted = METHODS["depthwise"](weight, moment)
    assert moment.matrix is not None
    sigma, flat = moment.matrix[0].numpy(), weight[0].flatten(1).numpy()
    once = twin.error(flat, start.reshape(8, -1), sigma)
    assert twin.error(flat, composed(fitted.cut((1,))).flatten(1).numpy(), sigma) < once


def test_a_separable_kernel_is_found() -> None:
    depthwise, pointwise = torch.randn(6, 1, 3, 3, dtype=torch.float64), torch.randn(8, 6, 1, 1, dtype=torch.float64)
    weight = composed((Factor(depthwise, 6, (0, 1)), Factor(pointwise)))[None]
    _, moment = weight_and_moment((1, 8, 6, 3, 3))
    found = METHODS["depthwise"](weight, moment).cut((1,))
    assert [tuple(factor.weight.shape) for factor in found] == [(6, 1, 3, 3), (8, 6, 1, 1)]
    torch.testing.assert_close(composed(found)[None], weight, rtol=1e-8, atol=1e-8)


def test_balanced_channels_have_one_size_on_the_data() -> None:
    weight, moment = weight_and_moment((2, 5, 4, 3, 3))
    for method in allowed(weight, False, tuple(METHODS), moment).values():
        chain = balanced(method.cut(tuple(max(1, rank // 2) for rank in method.full)), moment)
        for i in range(1, len(chain)):
            sizes = moment.sizes(composed(chain[:i]))
            torch.testing.assert_close(sizes, sizes.mean().expand_as(sizes))


def test_terms_that_are_there_are_found_and_terms_that_cancel_are_not_offered(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    sides = [torch.randn(size, 3, dtype=torch.float64) for size in (8, 6, 9)]
    weight = torch.einsum("or,ir,kr->oik", *sides).reshape(1, 8, 6, 3, 3)
    _, moment = weight_and_moment((1, 8, 6, 3, 3))
    method = METHODS["canonical"](weight, moment)
    torch.testing.assert_close(composed(method.cut((3,)))[None], weight, rtol=1e-4, atol=1e-4)
    assert method.lost((3,)) < 1e-8
    # the classical tensor of rank 3 whose best approximation by 2 terms is not there: a∘a∘b + a∘b∘a + b∘a∘a
    a, b = torch.eye(2, dtype=torch.float64)
    tensor = sum(torch.einsum("o,i,k->oik", *three) for three in ((a, a, b), (a, b, a), (b, a, a)))
    assert isinstance(tensor, Tensor)
    monkeypatch.setattr(canonical, "_TURNS", 1000)  # they grow slowly
    none = METHODS["canonical"](tensor.reshape(1, 2, 2, 2), Moment((2,)))
    assert none.lost((2,)) == 1.0
    assert none.terms(2).lost < 1e-3  # type: ignore[attr-defined]


# Ranks -------------------------------------------------------------------------------------------------------------------------------------


def test_ranks_are_multiples_up_to_the_full_one() -> None:
    limits = Limits(multiple=8, floor=0.2)
    assert limits.ladder((44,)) == [(16,), (24,), (32,), (40,)]
    assert limits.ladder((4,)) == []
    assert limits.rounded(0.5, 44) == 24
    assert all(rank % 8 == 0 for pair in limits.ladder((64, 128)) for rank in pair)


def test_energy_takes_the_cheapest_that_keeps_it() -> None:
    choices = [Option("output", (8,), 10, 0.2), Option("spatial", (8,), 20, 0.04), Option("tucker", (8, 8), 15, 0.05)]
    assert by_energy(choices, 0.95) == choices[2]
    assert by_energy(choices, 0.99) is None


def test_a_budget_is_kept_with_the_least_loss_there_is() -> None:
    generator = np.random.default_rng(0)
    choices = []
    for _ in range(4):
        costs = np.sort(generator.uniform(1, 9, 5))
        choices.append([Option("output", (8 * i,), float(c), float(0.9 * math.exp(-c / 3))) for i, c in enumerate(costs, 1)])
    whole = [10.0] * 4
    chosen = by_budget(choices, whole, 0.6, rest=5.0)

    def told(picked: list[Option | None]) -> tuple[float, float]:
        costs = [10.0 if option is None else option.cost for option in picked]
        return sum(costs) + 5, sum(0.0 if option is None else -math.log(1 - option.lost) for option in picked)

    spent, lost = told(chosen)
    assert spent <= 0.6 * 45
    every = [[None, *own] for own in choices]
    all_of_them = [told([a, b, c, d]) for a in every[0] for b in every[1] for c in every[2] for d in every[3]]
    assert lost == pytest.approx(min(loss for cost, loss in all_of_them if cost <= spent + 1e-9))
