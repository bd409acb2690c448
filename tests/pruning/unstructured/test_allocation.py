from __future__ import annotations

import math

import pytest
import torch

from laconic.pruning.unstructured.allocation import ALLOCATIONS, Layer

SHAPES = [(16, 1, 3, 3), (32, 16, 3, 3), (64, 32, 1, 1), (10, 64)]
LAYERS = [Layer(shape, torch.rand(math.prod(shape), generator=torch.Generator().manual_seed(i))) for i, shape in enumerate(SHAPES)]
NUMBERS = [layer.units for layer in LAYERS]


def test_uniform_keeps_the_same_share_everywhere() -> None:
    assert ALLOCATIONS["uniform"](LAYERS, 0.1, [1] * 4) == [round(0.1 * n) for n in NUMBERS]


def test_global_keeps_the_highest_scores_of_all() -> None:
    edge = torch.cat([layer.scores for layer in LAYERS]).sort(descending=True).values[round(0.1 * sum(NUMBERS)) - 1]
    assert ALLOCATIONS["global"](LAYERS, 0.1, [0] * 4) == [int((layer.scores >= edge).sum()) for layer in LAYERS]


def test_global_keeps_the_least_of_each_layer_and_the_number_of_all() -> None:
    low = Layer(SHAPES[0], LAYERS[0].scores / 1000)
    kept = ALLOCATIONS["global"]([low, *LAYERS[1:]], 0.1, [14, 10, 10, 10])
    assert kept[0] == 14
    assert sum(kept) == round(0.1 * sum(NUMBERS))


def test_global_keeps_the_number_where_scores_are_equal() -> None:
    equal = [Layer((4, 5), torch.ones(20)), Layer((2, 5), torch.cat([torch.ones(5), torch.zeros(5)]))]
    assert ALLOCATIONS["global"](equal, 0.5, [1, 1]) == [14, 1]
    assert sum(ALLOCATIONS["global"](equal, 0.9, [1, 1])) == 27


@pytest.mark.parametrize("density", [0.3, 0.1, 0.02])
@pytest.mark.parametrize("kind", ["erdos_renyi", "erdos_renyi_kernel"])
def test_erdos_renyi_by_its_formula(kind: str, density: float) -> None:
    """A layer's density is ε times the sum over the product of its sizes, at most 1, with the ε at which all together have the density; found by bisection."""
    sizes = [shape if kind.endswith("kernel") else shape[:2] for shape in SHAPES]
    raw = [sum(size) / math.prod(size) for size in sizes]

    def total(epsilon: float) -> float:
        return sum(min(1.0, epsilon * r) * n for r, n in zip(raw, NUMBERS, strict=True))

    low, high = 0.0, 1e6
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if total(middle) < density * sum(NUMBERS) else (low, middle)
    expected = [round(min(1.0, low * r) * n) for r, n in zip(raw, NUMBERS, strict=True)]
    kept = ALLOCATIONS[kind](LAYERS, density, [1] * 4)
    assert all(abs(a - b) <= 1 for a, b in zip(kept, expected, strict=True))
    assert abs(sum(kept) - density * sum(NUMBERS)) <= 2


@pytest.mark.parametrize("kind", ALLOCATIONS)
def test_nothing_goes_where_all_may_stay(kind: str) -> None:
    assert ALLOCATIONS[kind](LAYERS, 1.0, [1] * 4) == NUMBERS
