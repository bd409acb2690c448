"""What a way to write a layer's weight as a chain of smaller ones is: the ranks it has, what a rank loses, and the chain of that rank.

All minimize `tr((W − W̃) Σ (W − W̃)ᵀ)`, the mean square by which the outputs move, over what they can vary in closed form; Σ are the second moments of the
layer's inputs (`moments`), the unit matrix where there is no data. At full rank each is exact.

Shapes: G groups; O, I output and input channels of one group; K places of the kernel, all axes together; R rank.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor

from laconic.factorize.chain import Chain, Factor
from laconic.factorize.moments import Moment

Ranks = tuple[int, ...]
Form = tuple[tuple[int, ...], int, tuple[int, ...]]  # the shape of a weight, its groups, its axes: see `Factor`


class Method(ABC):
    """One way for one layer.

    Args:
        weight: (G, O, I, *kernel), in float64.
        moment: of the layer's inputs.
    """

    def __init__(self, weight: Tensor, moment: Moment) -> None:
        self.weight, self.moment = weight, moment
        self.groups, self.outputs, self.inputs, *self.kernel = weight.shape
        self.ones = (1,) * len(self.kernel)
        self.axes = tuple(range(len(self.kernel)))

    def fits(self) -> bool:
        """Return whether the layer allows it."""
        return True

    @property
    @abstractmethod
    def full(self) -> Ranks:
        """The ranks at which the chain is exact."""

    @abstractmethod
    def lost(self, ranks: Ranks) -> float:
        """Return the share of the output's mean square that ranks lose, as far as it is known before the chain is made."""

    @abstractmethod
    def shapes(self, ranks: Ranks) -> tuple[Form, ...]:
        """Return for each layer of the chain the shape of its weight, its groups, and its axes, as `Factor` has them."""

    @abstractmethod
    def cut(self, ranks: Ranks) -> Chain:
        """Return the chain of these ranks."""

    def ladder(self, ladder: Callable[[Ranks], list[Ranks]]) -> list[Ranks]:
        """Return the ranks to choose from: by default those of a ladder below the full ones."""
        return ladder(self.full)

    def at(self, share: float, rounded: Callable[[float, int], int]) -> Ranks:
        """Return the ranks that are a share of the full ones, rounded."""
        return tuple(full if share == 1 else rounded(share, full) for full in self.full)

    def chain(self, ranks: Ranks, *weights: Tensor) -> Chain:
        """Return weights of any form as the chain's."""
        rows = zip(self.shapes(ranks), weights, strict=True)
        return tuple(Factor(weight.reshape(shape), groups, axes) for (shape, groups, axes), weight in rows)


def basis(moment: Moment, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Return the principal components of what a weight puts out, and what is lost without the last ones.

    These are the left singular vectors of W Σ^½, (G, M, R), and the shares of the squares by rank, (R + 1,).

    Args:
        moment: Σ.
        weight: (G, M, I, *kernel).
    """
    if weight.shape[1] <= weight[0, 0].numel():
        squares, vectors = torch.linalg.eigh(moment.products(weight))
        squares, vectors = squares.clamp(min=0).flip(-1), vectors.flip(-1)
    else:
        vectors, values, _ = torch.linalg.svd(moment.weigh(weight), full_matrices=False)
        squares = values.square()
    squares = squares.sum(0)
    total = squares.sum().clamp(min=torch.finfo(squares.dtype).tiny)
    return vectors, torch.cat([squares.flip(0).cumsum(0).flip(0), squares.new_zeros(1)]) / total


def fitted(weight: Tensor, features: Tensor, matrix: Tensor) -> Tensor:
    """Return the C (G, O, R) that makes `C · features` the nearest to the weight on the inputs: W Σ Aᵀ (A Σ Aᵀ)⁻¹.

    Args:
        weight: (G, O, N).
        features: A (G, R, N), of full row rank.
        matrix: Σ (G, N, N).
    """
    seen = features @ matrix
    return torch.linalg.solve(seen @ features.mT, seen @ weight.mT).mT


def orthonormal(rows: Tensor) -> Tensor:
    """Return orthonormal rows (G, R, N) that span the given ones."""
    return torch.linalg.qr(rows.mT).Q.mT
