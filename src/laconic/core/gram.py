"""What a layer's inputs look like together: the Gram matrix of what its outputs are computed from, folded batch by batch, so that no activation is stored."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, fx

from laconic.core.operators import argument, family_of, groups_of, outputs_first, paddings, row_of, spread

# Larger Gram matrices cost more memory than they are worth here: 4,096² floats are 64 MB.
LARGEST = 4096
_ROWS = 4096
_DAMP = 0.01  # of the mean of a Gram matrix's diagonal is added to it before it is inverted
_SPLIT = 512  # smaller matrices are multiplied at once


class Gram:
    """Folds `Σ x xᵀ` over the inputs of a layer: columns (I,) of a linear layer, patches (I·K,) of a convolution."""

    def __init__(self, node: fx.Node, kernel: tuple[int, ...] = ()) -> None:
        self.node, self.kernel = node, kernel
        self.total: Tensor | None = None
        self.n = 0

    def fold(self, x: Tensor) -> None:
        """Take in one batch of the layer's input."""
        rows = patches(self.node, x, self.kernel, _ROWS)
        products = squares(rows)
        self.total = products if self.total is None else self.total + products
        self.n += len(rows)

    @property
    def mean(self) -> Tensor:
        """Shape (I, I)."""
        assert self.total is not None
        return self.total / self.n


def squares(rows: Tensor) -> Tensor:
    """Return `rowsᵀ · rows`, (…, n, N) to (…, N, N), with half of the work where it is large: what lies above the diagonal is what lies below it."""
    size = rows.shape[-1]
    if size < _SPLIT:
        return rows.mT @ rows
    left, right = rows[..., : size // 2], rows[..., size // 2 :]
    across = left.mT @ right
    return torch.cat([torch.cat([squares(left), across], -1), torch.cat([across.mT, squares(right)], -1)], -2)


def inverse_factor(gram: Tensor, damp: float = _DAMP) -> Tensor:
    """Return the upper factor U (C, C), float64, of the damped inverse: H⁻¹ = Uᵀ · U. A column that no input reaches counts as one of the mean power."""
    h = gram.double().clone()
    dead = h.diagonal() == 0
    level = h.diagonal().mean() if bool((~dead).any()) else torch.ones((), dtype=h.dtype)
    h.diagonal().add_(damp * level + dead * level)
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(h))
    return torch.linalg.cholesky(inverse, upper=True)


def step_of(count: int, most: int) -> int:
    """Return n so that every n-th of `count` places is taken and about `most` are.

    It has no factor in common with the count, so that all columns and rows of a map are seen alike: every 49th place of maps of 28 × 28 would be the same
    sixteen of each.

    >>> step_of(100, 200), step_of(64 * 28 * 28, 1024), step_of(20, 7)
    (1, 51, 3)
    """
    step = max(1, count // most)
    while math.gcd(step, count) > 1:
        step += 1
    return step


def fits(node: fx.Node, weight: Tensor) -> bool:
    """Return whether the inputs of a layer are folded into one Gram matrix of moderate size.

    Those of linear layers are, and of ungrouped convolutions of one or two dimensions, of at most 4,096 inputs per output.
    """
    form = family_of(node) == "linear" or (family_of(node) == "convolution" and groups_of(node) == 1 and weight.dim() <= 4)
    return form and outputs_first(weight, node)[0].numel() <= LARGEST


def patches(node: fx.Node, x: Tensor, kernel: tuple[int, ...] = (), most: int | None = None) -> Tensor:
    """Return the inputs of a layer as rows, each of what the outputs at one place are computed from, those of all groups side by side.

    Args:
        node: a linear layer or a convolution of any number of dimensions that is not transposed.
        x: (…, I) or (B, I, …).
        kernel: sizes of the convolution's kernel.
        most: rows that are wanted; of more than that, every n-th is taken (`step_of`), which leaves fewer than twice as many.

    Returns:
        (rows, I) or (rows, I · K), ordered as `weight.flatten(1)` is.
    """
    row = row_of(node)
    if row.family == "linear":
        rows = x.reshape(-1, x.shape[-1])
        return rows if most is None else rows[:: step_of(len(rows), most)]
    rank = len(kernel)
    x = x if x.dim() == rank + 2 else x.unsqueeze(0)
    stride, dilation = (spread(argument(node, i), rank) for i in (row.stride, row.dilation))
    x = F.pad(x, [amount for pair in reversed(paddings(node, kernel)) for amount in pair])
    for axis, size in enumerate(kernel):
        x = x.unfold(2 + axis, dilation[axis] * (size - 1) + 1, stride[axis])[..., :: dilation[axis]]
    x = x.permute(0, *range(2, 2 + rank), 1, *range(2 + rank, 2 + 2 * rank))  # (B, places…, I, kernel…)
    count = math.prod(x.shape[: 1 + rank])
    step = 1 if most is None else step_of(count, most)
    if step == 1:
        return x.reshape(count, -1)
    chosen = torch.unravel_index(torch.arange(0, count, step, device=x.device), x.shape[: 1 + rank])
    return x[chosen].flatten(1)
