"""Sums of rank-one terms: 1×1, one depthwise kernel for each channel, 1×1 (canonical polyadic decomposition, CP).

The nearest sum of so many terms need not exist: terms may grow without bound against each other while the sum gets nearer (de Silva and Lim 2008), and neither
a training nor integers survive that. So how much the terms cancel is measured, and a rank at which they do is not offered.

Shapes as in `method`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from laconic.factorize.chain import Chain
from laconic.factorize.method import Form, Method, Ranks, fitted
from laconic.factorize.moments import Moment

_TURNS = 30
_RIDGE = 1e-6
_MOVED = 0.1
_CANCELS = 10.0  # times the square of the sum that the terms' squares may be together
_RULES = ("goik,gir,gkr->gor", "goik,gor,gkr->gir", "goik,gor,gir->gkr")
_RUNGS = (0.125, 0.25, 0.375, 0.5)  # of the rank at which the chain costs what the layer does


@dataclass(frozen=True)
class Terms:
    """Terms a ∘ b ∘ c of a weight.

    Attributes:
        outputs: a (G, O, R).
        inputs: b (G, I, R).
        places: c (G, K, R).
        lost: the share of the squares that the sum leaves.
        cancel: the terms' squares over that of their sum.
    """

    outputs: Tensor
    inputs: Tensor
    places: Tensor
    lost: float
    cancel: float


class Canonical(Method):
    """1×1 to R channels, a kernel for each, 1×1 (Lebedev et al. 2015, with all axes of the kernel as one), by alternating least squares.

    The terms are fitted to the weight as the moments of the channels weigh it, and the last 1×1 then to those of whole patches.
    """

    def __init__(self, weight: Tensor, moment: Moment) -> None:
        super().__init__(weight, moment)
        self._made: dict[int, Terms] = {}

    def fits(self) -> bool:
        """Return whether there is a kernel."""
        return math.prod(self.kernel) > 1

    @property
    def full(self) -> Ranks:
        """The least number of terms of which two sides are single numbers: the smallest product of two of O, I and K."""
        size = math.prod(self.kernel)
        return (min(self.outputs * self.inputs, self.inputs * size, self.outputs * size),)

    def ladder(self, ladder: Callable[[Ranks], list[Ranks]]) -> list[Ranks]:
        """Return a few ranks, for each is fitted anew."""
        size = math.prod(self.kernel)
        even = self.outputs * self.inputs * size // (self.outputs + self.inputs + size)
        rungs = [rung[0] for rung in ladder((even,))]
        nearest = (min(rungs, key=lambda rank: abs(rank - share * even)) for share in _RUNGS if rungs)
        return [(rank,) for rank in dict.fromkeys(nearest)]

    def lost(self, ranks: Ranks) -> float:
        """Return what the terms leave; all of it where they cancel each other."""
        if ranks == self.full:
            return 0.0
        terms = self.terms(ranks[0])
        return terms.lost if terms.cancel <= _CANCELS else 1.0

    def shapes(self, ranks: Ranks) -> tuple[Form, ...]:
        """Return a 1×1, a depthwise kernel and a 1×1."""
        g, (rank,) = self.groups, ranks
        kernel = ((g * rank, 1, *self.kernel), g * rank, self.axes)
        return ((g * rank, self.inputs, *self.ones), g, ()), kernel, ((g * self.outputs, rank, *self.ones), g, ())

    def cut(self, ranks: Ranks) -> Chain:
        """Return the terms as layers."""
        if ranks == self.full:
            outputs, inputs, places = self._exact()
            return self.chain(ranks, inputs.mT, places.mT, outputs)
        terms = self.terms(ranks[0])
        outputs, matrix = terms.outputs, self.moment.patches
        if matrix is not None or self.moment.matrix is None:
            features = torch.einsum("gir,gkr->grik", terms.inputs, terms.places).flatten(2)
            eye = torch.eye(features.shape[-1], dtype=features.dtype).expand(self.groups, -1, -1)
            outputs = fitted(self.weight.flatten(2), features, eye if matrix is None else matrix)
        return self.chain(ranks, terms.inputs.mT, terms.places.mT, outputs)

    def terms(self, rank: int) -> Terms:
        """Return the terms of a rank, fitted in turns."""
        if rank not in self._made:
            self._made[rank] = self._fitted(rank)
        return self._made[rank]

    def _fitted(self, rank: int) -> Terms:
        matrix = self.moment.part(()).matrix
        root = (
            torch.eye(self.inputs, dtype=self.weight.dtype).expand(self.groups, -1, -1) if matrix is None else torch.linalg.cholesky(matrix)
        )
        weight = torch.einsum("goik,gij->gojk", self.weight.flatten(3), root)
        sides = [_start(weight.movedim(1 + side, 1).flatten(2), rank, side) for side in range(3)]
        for side in [*range(3)] * _TURNS + [0]:
            sides[side] = _side(weight, sides, side)
        outputs, inputs, places = sides
        whole = torch.einsum("gor,gir,gkr->goik", outputs, inputs, places)
        squares = (outputs.square().sum(1) * inputs.square().sum(1) * places.square().sum(1)).sum()
        lost = float((weight - whole).square().sum() / weight.square().sum().clamp(min=1e-300))
        back = torch.linalg.solve_triangular(root.mT, inputs, upper=True)
        return Terms(outputs, back, places, lost, float(squares / whole.square().sum().clamp(min=1e-300)))

    def _exact(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return terms (G, O, R), (G, I, R), (G, K, R) of which two sides are single numbers."""
        flat = self.weight.flatten(3)
        sizes = dict(zip("oik", flat.shape[1:], strict=True))
        orders = (("o", "i", "k"), ("o", "k", "i"), ("i", "k", "o"))
        first, second, third = min(orders, key=lambda order: sizes[order[0]] * sizes[order[1]])
        eye = {side: torch.eye(sizes[side], dtype=flat.dtype) for side in (first, second)}
        sides = {
            first: eye[first].repeat_interleave(sizes[second], 1).expand(self.groups, -1, -1),
            second: eye[second].repeat(1, sizes[first]).expand(self.groups, -1, -1),
            third: torch.einsum(f"goik->g{third}{first}{second}", flat).flatten(2),
        }
        return sides["o"], sides["i"], sides["k"]


def _side(weight: Tensor, sides: list[Tensor], side: int) -> Tensor:
    """Return one side of the terms by least squares, given the others; but for the outputs, of length 1."""
    one, two = (sides[i] for i in range(3) if i != side)
    gram = (one.mT @ one) * (two.mT @ two)
    ridge = _RIDGE * gram.diagonal(dim1=-2, dim2=-1).mean() * torch.eye(gram.shape[-1], dtype=gram.dtype)
    found = torch.linalg.solve(gram + ridge, torch.einsum(_RULES[side], weight, one, two).mT).mT
    return found if side == 0 else found / found.norm(dim=1, keepdim=True).clamp(min=1e-12)


def _start(unfolded: Tensor, rank: int, seed: int) -> Tensor:
    """Return a side to begin with (G, N, R): left singular vectors of (G, N, …), moved a little from where turns may stand still, then drawn ones."""
    vectors = torch.linalg.svd(unfolded, full_matrices=False).U[..., :rank]
    drawn = torch.randn(*vectors.shape[:2], rank, generator=torch.Generator().manual_seed(seed), dtype=vectors.dtype)
    drawn = drawn / drawn.norm(dim=1, keepdim=True)
    count = vectors.shape[-1]
    return torch.cat([vectors + _MOVED * drawn[..., :count], drawn[..., count:]], -1)
