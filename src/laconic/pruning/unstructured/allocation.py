"""How many units of each layer stay: a table of functions of the layers' shapes and scores.

Shapes: U units of a layer, the numbers of its unit scores.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Layer:
    """A layer whose units are shared out: its weight's shape (O, I, kernel …), and the score of each unit."""

    shape: tuple[int, ...]
    scores: Tensor

    @property
    def units(self) -> int:
        """U."""
        return self.scores.numel()


Allocation = Callable[[Sequence[Layer], float, Sequence[int]], list[int]]


def uniform(layers: Sequence[Layer], density: float, least: Sequence[int]) -> list[int]:
    """Keep the same share of every layer."""
    return [max(low, round(density * layer.units)) for layer, low in zip(layers, least, strict=True)]


def ranked(layers: Sequence[Layer], density: float, least: Sequence[int]) -> list[int]:
    """Keep the highest scores of all layers together; the `least` best of each in any case."""
    rest = [_without_best(layer.scores, low) for layer, low in zip(layers, least, strict=True)]
    total = sum(map(len, rest))
    left = min(total, max(0, round(density * sum(layer.units for layer in layers)) - sum(least)))
    if left in (0, total):
        return [low + (len(scores) if left else 0) for low, scores in zip(least, rest, strict=True)]
    edge = torch.cat(rest).kthvalue(total - left + 1).values
    counts = [int((scores > edge).sum()) for scores in rest]
    left -= sum(counts)
    for i, scores in enumerate(rest):  # equal scores, in the order of the layers
        equal = min(left, int((scores == edge).sum()))
        counts[i] += equal
        left -= equal
    return [low + count for low, count in zip(least, counts, strict=True)]


def _without_best(scores: Tensor, n: int) -> Tensor:
    """Return the scores of a layer but for the `n` highest, flat."""
    flat = scores.flatten()
    left = torch.ones_like(flat, dtype=torch.bool)
    left[flat.topk(n).indices] = False
    return flat[left]


def erdos_renyi(layers: Sequence[Layer], density: float, least: Sequence[int]) -> list[int]:
    """Keep of a layer a share that falls with its width: in proportion to (I + O) / (I · O) (Mocanu et al. 2018, eq. 3)."""
    return _in_proportion(layers, density, least, [sum(layer.shape[:2]) / math.prod(layer.shape[:2]) for layer in layers])


def erdos_renyi_kernel(layers: Sequence[Layer], density: float, least: Sequence[int]) -> list[int]:
    """Keep a share in proportion to (I + O + k₁ + k₂) / (I · O · k₁ · k₂), kernels of size k₁ by k₂ (Evci et al. 2020, section 3)."""
    return _in_proportion(layers, density, least, [sum(layer.shape) / math.prod(layer.shape) for layer in layers])


def _in_proportion(layers: Sequence[Layer], density: float, least: Sequence[int], weights: Sequence[float]) -> list[int]:
    """Share out in proportion; a layer that would have more than all its units is whole, and the others share what is left."""
    whole: set[int] = set()
    total = density * sum(layer.units for layer in layers)
    while True:
        rest = [i for i in range(len(layers)) if i not in whole]
        left = total - sum(layers[i].units for i in whole)
        factor = left / sum(weights[i] * layers[i].units for i in rest) if rest else 0.0
        over = {i for i in rest if factor * weights[i] > 1}
        if not over:
            break
        whole |= over
    shares = [1.0 if i in whole else max(0.0, factor * weights[i]) for i in range(len(layers))]
    return [min(layer.units, max(low, round(share * layer.units))) for layer, low, share in zip(layers, least, shares, strict=True)]


ALLOCATIONS: dict[str, Allocation] = {
    "uniform": uniform,
    "global": ranked,
    "erdos_renyi": erdos_renyi,
    "erdos_renyi_kernel": erdos_renyi_kernel,
}
