"""Chains with a depthwise kernel: depthwise and pointwise (separable convolution).

Shapes as in `method`; J depthwise channels for each input channel.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cached_property

import torch
from torch import Tensor

from laconic.factorize.chain import Chain
from laconic.factorize.method import Form, Method, Ranks, fitted, orthonormal
from laconic.factorize.moments import LARGEST

_ROUNDS = 4
_MOST = 3  # kernels for each channel that are looked at
_RIDGE = 1e-10


class Depthwise(Method):
    """J kernels for each input channel, then 1×1 (Guo et al. 2018, section 3): for each channel the principal components of its kernels, in closed form.

    Then both are fitted in turns to what the whole layer puts out, each in closed form by least squares: the 1×1 given the kernels, the kernels given the 1×1.
    """

    @cached_property
    def _basis(self) -> tuple[Tensor, Tensor]:
        """The principal kernels by input channel (G, I, J, K), and the share that is lost by their number."""
        kernels = self.weight.flatten(3).transpose(1, 2)  # (G, I, O, K)
        blocks = self.moment.blocks()
        weighed = kernels if blocks is None else kernels @ torch.linalg.cholesky(blocks)
        left, values, _ = torch.linalg.svd(weighed, full_matrices=False)
        squares = values.square().sum((0, 1))
        lost = torch.cat([squares.flip(0).cumsum(0).flip(0), squares.new_zeros(1)]) / squares.sum().clamp(min=1e-300)
        return left.mT @ kernels, lost

    @property
    def full(self) -> Ranks:
        """The smaller of O and K."""
        return (min(self.outputs, math.prod(self.kernel)),)

    def ladder(self, ladder: Callable[[Ranks], list[Ranks]]) -> list[Ranks]:
        """Return a few kernels for each channel: those that may pay."""
        return [(count,) for count in range(1, min(_MOST, *self.full) + 1)]

    def at(self, share: float, rounded: Callable[[float, int], int]) -> Ranks:
        """Return a share of the kernels, at least one."""
        return (max(1, round(share * self.full[0])),)

    def lost(self, ranks: Ranks) -> float:
        """Return what the kernels beyond the first J hold, channel by channel."""
        return float(self._basis[1][ranks[0]])

    def shapes(self, ranks: Ranks) -> tuple[Form, ...]:
        """Return a depthwise kernel and a 1×1."""
        g, i, (j,) = self.groups, self.inputs, ranks
        return ((g * i * j, 1, *self.kernel), g * i, self.axes), ((g * self.outputs, i * j, *self.ones), g, ())

    def cut(self, ranks: Ranks) -> Chain:
        """Return the kernels and what fits them, after some turns."""
        kernels = orthonormal(self._basis[0][:, :, : ranks[0]])
        matrix = self.moment.patches
        matrix = (
            torch.eye(self.inputs * math.prod(self.kernel), dtype=kernels.dtype).expand(self.groups, -1, -1) if matrix is None else matrix
        )
        flat = self.weight.flatten(2)
        point = fitted(flat, _features(kernels), matrix)
        if kernels[0].numel() <= LARGEST:
            for _ in range(_ROUNDS):
                kernels = orthonormal(_kernels(flat, point, matrix, kernels))
                point = fitted(flat, _features(kernels), matrix)
        return self.chain(ranks, kernels, point)


def _features(kernels: Tensor) -> Tensor:
    """Return what depthwise kernels (G, I, J, K) make of a patch, as a matrix (G, I·J, I·K)."""
    g, i, j, k = kernels.shape
    eye = torch.eye(i, dtype=kernels.dtype)
    return torch.einsum("gijk,il->gijlk", kernels, eye).reshape(g, i * j, i * k)


def _kernels(flat: Tensor, point: Tensor, matrix: Tensor, before: Tensor) -> Tensor:
    """Return the kernels (G, I, J, K) that are nearest given the 1×1: the normal equations of least squares.

    Args:
        flat: W (G, O, I·K).
        point: P (G, O, I·J).
        matrix: Σ (G, I·K, I·K).
        before: kernels, of the shape wanted; an unused one stays.
    """
    g, i, j, k = before.shape
    products = (point.mT @ point).reshape(g, i, j, 1, i, j, 1)
    sigma = matrix.reshape(g, i, 1, k, i, 1, k)
    normal = (products * sigma).reshape(g, i * j * k, i * j * k)
    wanted = torch.einsum("goij,goik->gijk", point.reshape(g, -1, i, j), (flat @ matrix).reshape(g, -1, i, k)).reshape(g, -1, 1)
    ridge = _RIDGE * normal.diagonal(dim1=-2, dim2=-1).mean() * torch.eye(i * j * k, dtype=flat.dtype)
    root = torch.linalg.cholesky(normal + ridge)
    return torch.cholesky_solve(wanted + ridge @ before.reshape(g, -1, 1), root).reshape(before.shape)
