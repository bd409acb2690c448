"""Chains through fewer channels: principal components of what a layer puts out, of what it reads, and of one axis of its kernel.

Shapes as in `method`.
"""

from __future__ import annotations

import math
from functools import cached_property

import torch
from torch import Tensor

from laconic.factorize.chain import Chain
from laconic.factorize.method import Form, Method, Ranks, basis, fitted, orthonormal
from laconic.factorize.moments import Moment


class Output(Method):
    """The kernel to R channels, then 1×1: the optimum, from the principal components of the outputs (Zhang et al. 2016, section 3.1; Denil et al. 2013).

    With P the first left singular vectors of W Σ^½, W̃ = P Pᵀ W; no root is inverted. Of a linear layer the two are linear.
    """

    @cached_property
    def _basis(self) -> tuple[Tensor, Tensor]:
        return basis(self.moment, self.weight)

    @property
    def full(self) -> Ranks:
        """The smaller side of the weight."""
        return (min(self.outputs, self.inputs * math.prod(self.kernel)),)

    def lost(self, ranks: Ranks) -> float:
        """Return what the weighed singular values beyond the rank hold."""
        return float(self._basis[1][ranks[0]])

    def shapes(self, ranks: Ranks) -> tuple[Form, ...]:
        """Return a kernel and a 1×1."""
        g, (rank,) = self.groups, ranks
        return ((g * rank, self.inputs, *self.kernel), g, self.axes), ((g * self.outputs, rank, *self.ones), g, ())

    def cut(self, ranks: Ranks) -> Chain:
        """Return P and Pᵀ W."""
        left = self._basis[0][..., : ranks[0]]
        return self.chain(ranks, left.mT @ self.weight.flatten(2), left)


class Input(Output):
    """1×1 to R channels, then the kernel: the principal components of the inputs' channels, and the kernel fitted to them."""

    @cached_property
    def _basis(self) -> tuple[Tensor, Tensor]:
        across = self.weight.flatten(3).transpose(2, 3).flatten(1, 2)  # (G, O·K, I)
        return basis(self.moment.part(()), across)

    @property
    def full(self) -> Ranks:
        """The smaller side of the weight."""
        return (min(self.inputs, self.outputs * math.prod(self.kernel)),)

    def shapes(self, ranks: Ranks) -> tuple[Form, ...]:
        """Return a 1×1 and a kernel."""
        g, (rank,) = self.groups, ranks
        return ((g * rank, self.inputs, *self.ones), g, ()), ((g * self.outputs, rank, *self.kernel), g, self.axes)

    def cut(self, ranks: Ranks) -> Chain:
        """Return Pᵀ W, orthonormal, and what fits it."""
        across = self.weight.flatten(3).transpose(2, 3).flatten(1, 2)
        right = orthonormal(self._basis[0][..., : ranks[0]].mT @ across)  # (G, R, I)
        return self.chain(ranks, right, reduced(self.weight, right, self.moment))


def reduced(weight: Tensor, right: Tensor, moment: Moment) -> Tensor:
    """Return the kernel (G, O, R, *kernel) behind a projection of the channels that puts out what is nearest to the whole layer's output.

    Args:
        weight: (G, O, I, *kernel).
        right: (G, R, I), orthonormal rows.
        moment: of the layer's inputs.
    """
    g, o, _, *kernel = weight.shape
    r, size = right.shape[1], math.prod(kernel)
    if moment.patches is None:  # of channels, or white: the projection that is nearest by the channels
        matrix = moment.matrix
        seen = right if matrix is None else right @ matrix
        across = weight.flatten(3).transpose(2, 3).flatten(1, 2)
        core = torch.linalg.solve(seen @ right.mT, seen @ across.mT).mT.reshape(g, o, size, r)
        return core.transpose(2, 3).reshape(g, o, r, *kernel)
    features = torch.einsum("gri,kl->grkil", right, torch.eye(size, dtype=right.dtype)).reshape(g, r * size, -1)
    return fitted(weight.flatten(2), features, moment.patches).reshape(g, o, r, *kernel)


class Spatial(Output):
    """The first axis of the kernel to R channels, then the others: k×1 and 1×k (Jaderberg et al. 2014, scheme 2, in the closed form of Tai et al. 2016).

    The first is the optimum by the moments along its own axis; the second is then fitted by least squares to the moments of whole patches.
    """

    def fits(self) -> bool:
        """Return whether the kernel has two sides."""
        return len(self.kernel) > 1 and self.kernel[0] > 1 and math.prod(self.kernel[1:]) > 1

    @cached_property
    def _basis(self) -> tuple[Tensor, Tensor]:
        return basis(self.moment.part((0,)), self._across)

    @property
    def _across(self) -> Tensor:
        """The weight as (G, O·k₂…, I, k₁)."""
        g, o, i, first, *_ = self.weight.shape
        return self.weight.reshape(g, o, i, first, -1).permute(0, 1, 4, 2, 3).reshape(g, -1, i, first)

    @property
    def full(self) -> Ranks:
        """The smaller of I·k₁ and O·k₂…."""
        first, *rest = self.kernel
        return (min(self.inputs * first, self.outputs * math.prod(rest)),)

    def shapes(self, ranks: Ranks) -> tuple[Form, ...]:
        """Return the first axis alone, and the others."""
        g, (rank,), (first, *rest) = self.groups, ranks, self.kernel
        column = (g * rank, self.inputs, first, *self.ones[1:])
        return (column, g, (0,)), ((g * self.outputs, rank, 1, *rest), g, self.axes[1:])

    def cut(self, ranks: Ranks) -> Chain:
        """Return the columns, orthonormal, and what fits them."""
        g, o, rank, rest = self.groups, self.outputs, ranks[0], math.prod(self.kernel[1:])
        left = self._basis[0][..., :rank]
        columns = orthonormal(left.mT @ self._across.flatten(2))  # (G, R, I·k₁)
        if self.moment.patches is None:
            part = self.moment.part((0,)).weigh(torch.cat([columns.reshape(g, rank, self.inputs, -1), self._across], 1))
            seen, wanted = part[:, :rank], part[:, rank:]
            rows = torch.linalg.solve(seen @ seen.mT, seen @ wanted.mT).mT  # (G, O·k₂…, R)
            return self.chain(ranks, columns, rows.reshape(g, o, rest, rank).transpose(2, 3))
        eye = torch.eye(rest, dtype=columns.dtype)
        features = torch.einsum("grik,xy->grxiky", columns.reshape(g, rank, self.inputs, -1), eye).reshape(g, rank * rest, -1)
        return self.chain(ranks, columns, fitted(self.weight.flatten(2), features, self.moment.patches))


class Tucker(Output):
    """1×1 to R₁ channels, the kernel to R₂, then 1×1 (Tucker-2: Kim et al. 2016), the inputs' side first and the outputs' side fitted to it."""

    @cached_property
    def _sides(self) -> tuple[Input, Output]:
        return Input(self.weight, self.moment), Output(self.weight, self.moment)

    @property
    def full(self) -> Ranks:
        """The full ranks of both sides."""
        return self._sides[0].full + self._sides[1].full

    def lost(self, ranks: Ranks) -> float:
        """Return what either side loses, together."""
        return sum(side.lost((rank,)) for side, rank in zip(self._sides, ranks, strict=True))

    def shapes(self, ranks: Ranks) -> tuple[Form, ...]:
        """Return a 1×1, a kernel and a 1×1."""
        g, (r, s) = self.groups, ranks
        s = min(s, r * math.prod(self.kernel))
        outer = ((g * r, self.inputs, *self.ones), g, ()), ((g * self.outputs, s, *self.ones), g, ())
        return outer[0], ((g * s, r, *self.kernel), g, self.axes), outer[1]

    def cut(self, ranks: Ranks) -> Chain:
        """Return both projections and the core between them."""
        right, kernel = (factor.weight for factor in self._sides[0].cut(ranks[:1]))
        right = right.reshape(self.groups, ranks[0], self.inputs)
        core = kernel.reshape(self.groups, self.outputs, ranks[0], *self.kernel)
        left = basis(self._projected(right), core)[0][..., : ranks[1]]
        return self.chain(ranks, right, left.mT @ core.flatten(2), left)

    def _projected(self, right: Tensor) -> Moment:
        """Return the moments of what the core reads."""
        moment = self.moment
        if moment.matrix is None or not moment.whole:
            return Moment(moment.kernel, None if moment.matrix is None else right @ moment.matrix @ right.mT, whole=False)
        g, r, size = self.groups, right.shape[1], math.prod(self.kernel)
        features = torch.einsum("gri,kl->grkil", right, torch.eye(size, dtype=right.dtype)).reshape(g, r * size, -1)
        return Moment(moment.kernel, features @ moment.matrix @ features.mT)
