"""How much goes where: budgets are kept, shares are what they say, and what is slow goes first where time counts."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import laconic as lc
from laconic.core.errors import BadInput
from laconic.core.macs import LayerShape
from laconic.pruning import allocation
from laconic.pruning.allocation import Limits
from laconic.pruning.collect import score
from laconic.pruning.coupling import couple
from laconic.pruning.criteria import named
from laconic.pruning.sizes import Sizes, keep_of
from laconic.pruning.surgery import remove
from tests.core.models import ConvNet, Recurrent
from tests.quantization.nets import Attention, Residual

NETS = {
    "convolutions": (ConvNet, (2, 1, 8, 8)),
    "residual": (Residual, (2, 3, 6, 6)),
    "recurrent": (Recurrent, (2, 5, 6)),
    "attention": (Attention, None),
}


def program_of(name: str) -> lc.Program:
    torch.manual_seed(0)
    make, shape = NETS[name]
    net = make().eval()
    if shape is None:
        return lc.capture(net, torch.randn(2, 6, next(iter(net.parameters())).shape[-1]))
    return lc.capture(net, torch.randn(shape))


def wide() -> lc.Program:
    """Two hidden layers of 64 units."""
    net = nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 4))
    return lc.capture(net.eval(), torch.randn(2, 16))


@pytest.mark.parametrize("name", NETS)
def test_sizes_are_those_of_the_program_that_is_cut(name: str) -> None:
    coupling = couple(program_of(name))
    sizes = Sizes(coupling)
    generator = np.random.default_rng(0)
    for _ in range(3):
        counts = [int(generator.integers(1, n + 1)) for n in sizes.full]
        scores = [torch.rand(n) for n in sizes.full]
        pruned = remove(coupling, keep_of(coupling, scores, counts))
        found = lc.count(pruned)
        assert (sizes.params(counts), sizes.macs(counts)) == (sum(p.numel() for p in pruned.parameters()), found.macs)
        assert [len(group) for group in couple(pruned).groups] == [n for n in counts if n > 1] or min(counts) == 1


def test_the_highest_scores_stay() -> None:
    coupling = couple(wide())
    scores = [torch.arange(64.0), torch.arange(64.0).flip(0)]
    keep = keep_of(coupling, scores, [2, 3])
    first, second = (group.components for group in coupling.groups)
    assert np.flatnonzero(keep[first]).tolist() == [62, 63]
    assert np.flatnonzero(keep[second]).tolist() == [0, 1, 2]


@pytest.mark.parametrize("share", [0.25, 0.5, 0.9, 1.0])
def test_uniform_takes_the_same_share_and_all_that_the_budget_allows(share: float) -> None:
    sizes = Sizes(couple(wide()))
    full = sizes.macs(sizes.full)
    first, second = allocation.uniform(sizes, sizes.macs, share * full, Limits(floor=0.01))
    assert first == second
    assert sizes.macs([first, second]) <= share * full
    assert first == 64 or sizes.macs([first + 1, second + 1]) > share * full


def test_ranked_leaves_more_where_scores_stand_out() -> None:
    sizes = Sizes(couple(wide()))
    flat, steep = torch.ones(64), torch.cat([torch.full((16,), 4.0), torch.full((48,), 0.01)])
    first, second = allocation.ranked(sizes, sizes.params, 0.5 * sizes.params(sizes.full), Limits(), [flat, steep])
    assert second <= 16 < first
    assert sizes.params([first, second]) <= 0.5 * sizes.params(sizes.full)


def published_lamp(powers: list[float]) -> list[float]:
    """Lee et al. 2021, section 2.1: each square over the sum of those that are not smaller."""
    return [p / sum(q for q in powers if q >= p) for p in powers]


@pytest.mark.parametrize("kept", [8, 26, 50, 100])
def test_lamp_keeps_what_the_published_one_keeps(kept: int) -> None:
    """All scores of both layers in one list, of which the highest stay."""
    torch.manual_seed(3)
    program = wide()
    with torch.no_grad():
        program.get_parameter("0.weight").mul_(torch.linspace(0.1, 3, 64)[:, None])
    coupling = couple(program)
    weights = {name: p.detach().double().numpy() for name, p in program.named_parameters()}
    powers = [
        [
            float((weights[f"{i}.weight"][c] ** 2).sum() + weights[f"{i}.bias"][c] ** 2 + (weights[f"{i + 2}.weight"][:, c] ** 2).sum())
            for c in range(64)
        ]
        for i in (0, 2)
    ]
    scores = [published_lamp(layer) for layer in powers]
    order = sorted(((score, layer, c) for layer in (0, 1) for c, score in enumerate(scores[layer])), reverse=True)[:kept]
    expected = [sum(layer == i for _, layer, _ in order) for i in (0, 1)]
    found = score(coupling, "lamp", lc.Context())
    for own, reference in zip(found, scores, strict=True):
        np.testing.assert_allclose(own.numpy(), reference, rtol=1e-9)
    counts = allocation.ranked(
        Sizes(coupling), lambda counts: float(sum(counts)), kept, Limits(floor=0.01), found, named("lamp").comparable
    )
    assert counts == expected
    assert min(expected) > 0


def test_scores_that_are_comparable_are_not_normalized() -> None:
    sizes = Sizes(couple(wide()))
    scores = [torch.linspace(1, 2, 64), torch.linspace(0.1, 1.9, 64)]
    budget = 0.5 * sizes.params(sizes.full)
    raw, relative = (allocation.ranked(sizes, sizes.params, budget, Limits(), scores, comparable) for comparable in (True, False))
    assert raw[0] > raw[1]
    assert relative[0] < relative[1] or raw[0] - raw[1] > relative[0] - relative[1]
    threshold = sorted(torch.cat(scores).tolist())[-sum(raw)]
    assert raw == [int((score >= threshold).sum()) for score in scores]


def test_by_latency_compares_scores_as_they_are_where_they_are_comparable() -> None:
    """The first layer's channels cost the same and matter ten times as much; relative to their mean, nothing tells them apart."""
    sizes = Sizes(couple(wide()))
    scores = [torch.full((64,), 10.0), torch.ones(64)]

    def price(layer: LayerShape) -> float:
        return float(layer.output[-1])

    raw, relative = (allocation.by_latency(sizes, price, 0.7, Limits(multiple=8), scores, comparable=choice) for choice in (True, False))
    assert raw == [64, raw[1]]
    assert raw[1] < 64
    assert relative[0] < 64


@pytest.mark.parametrize(("floor", "multiple", "counts"), [(0.5, 1, [32, 32]), (0.1, 8, [8, 8]), (0.3, 16, [32, 32])])
def test_limits_hold(floor: float, multiple: int, counts: list[int]) -> None:
    sizes = Sizes(couple(wide()))
    limits = Limits(floor, multiple)
    assert [limits.lowest(n) for n in sizes.full] == counts
    found = allocation.uniform(sizes, sizes.macs, sizes.macs(counts), limits)
    assert found == counts


def test_what_cannot_be_kept_is_refused() -> None:
    sizes = Sizes(couple(wide()))
    with pytest.raises(BadInput, match=r"fewest that may be left.*Lower `floor`"):
        allocation.uniform(sizes, sizes.macs, 0.1 * sizes.macs(sizes.full), Limits(floor=0.5))
    with pytest.raises(BadInput, match=r"cannot be reached.*floor 0.5"):
        allocation.by_latency(sizes, lambda layer: float(np.prod(layer.output)), 0.1, Limits(floor=0.5), [torch.ones(64)] * 2)


def test_by_latency_takes_from_what_is_slow_at_equal_scores() -> None:
    sizes = Sizes(couple(wide()))

    def price(layer: LayerShape) -> float:
        """Only the layer that reads the input costs."""
        return float(layer.output[-1]) if layer.inputs[0][-1] == 16 else 0.0

    counts = allocation.by_latency(sizes, price, 0.5, Limits(multiple=8), [torch.ones(64)] * 2)
    assert counts == [32, 64]


def test_by_latency_spares_what_scores_high() -> None:
    sizes = Sizes(couple(wide()))
    scores = [torch.ones(64), torch.cat([torch.full((8,), 8.0), torch.full((56,), 1e-3)])]
    counts = allocation.by_latency(sizes, lambda layer: float(layer.output[-1]), 0.6, Limits(multiple=8), scores)
    assert counts[1] < counts[0]
    assert all(count % 8 == 0 for count in counts)


def test_a_layers_shape_is_for_one_example_and_names_its_weights() -> None:
    coupling = couple(program_of("convolutions"))
    sizes = Sizes(coupling)
    node = next(n for n in sizes.layers if "conv2d" in str(n.target))
    layer = sizes.layer(node, sizes.full)
    assert layer.family == "convolution"
    assert layer.inputs[0] == (1, 1, 8, 8)
    assert layer.weights[0] == 1
    assert layer.output[0] == 1
    assert hash(layer) == hash(sizes.layer(node, sizes.full))
