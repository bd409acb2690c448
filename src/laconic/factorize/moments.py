"""The second moments of a layer's inputs, by which an error in its weights is worth what it does to the output.

An output is `w · p` with p the patch (or the columns) that it reads, so changing the weights by D moves the outputs by `tr(D Σ Dᵀ)` on average, with
Σ = E[p pᵀ]. Σ is folded batch by batch, products in the layer's precision and their sum in float64; of patches that are too large for that, the moments of
the channels stand for it, as if the places of the kernel saw uncorrelated values.

Shapes: G groups; O, I output and input channels of one group; K places of the kernel, all axes together.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, fx

from laconic.core.gram import patches, squares, step_of
from laconic.core.operators import row_of

# Of larger patches the channels alone are looked at: 3,072² numbers are 75 MB. Of more channels than that nothing is.
LARGEST, MOST_CHANNELS = 3072, 8192
# Rows of each batch: in proportion to the numbers of a patch, within bounds.
_ROWS, _FEWEST, _MOST = 1.5, 1024, 4096


class Fold:
    """Folds the inputs of a layer: patches, or the channels alone where patches are too large or the layer is a transposed convolution.

    Args:
        node: the layer.
        groups: of its channels.
        inputs: channels of one group.
        kernel: sizes of its kernel.
        counting: batch by batch, which places count, (B·L,); all where it is empty. See `reached`.
    """

    def __init__(self, node: fx.Node, groups: int, inputs: int, kernel: tuple[int, ...], counting: Sequence[Tensor] = ()) -> None:
        self.node, self.groups, self.kernel, self.counting = node, groups, kernel, counting
        size = math.prod(kernel)
        self.whole = not row_of(node).transposed and (size == 1 or inputs * size <= LARGEST)
        self.watched = inputs <= MOST_CHANNELS
        self.most = min(_MOST, max(_FEWEST, int(_ROWS * inputs * (size if self.whole else 1))))
        self.batch = 0
        self.total: Tensor | None = None
        self.n = 0

    def fold(self, x: Tensor) -> None:
        """Take in one batch of the layer's input."""
        if self.watched:
            self.add(self.rows(x, self.batch))
        self.batch += 1

    def add(self, rows: Tensor) -> None:
        """Take in rows (G, n, I·K).

        Raises:
            FloatingPointError: they are not finite.
        """
        if not bool(rows.isfinite().all()):
            raise FloatingPointError("not finite")
        products = squares(rows).cpu().double()
        self.total = products if self.total is None else self.total + products
        self.n += rows.shape[1]

    def rows(self, x: Tensor, batch: int) -> Tensor:
        """Return what the outputs at some of the places of a batch are computed from: (G, n, I·K), or the channels (G, n, I); in float32 at least."""
        found = self._places(x, batch) if not self.kernel or not self.whole else patches(self.node, x, self.kernel, self.most)
        return _wide(found).unflatten(1, (self.groups, -1)).transpose(0, 1)

    def matching(self, output: Tensor, batch: int) -> Tensor:
        """Return the outputs of the layer that belong to `rows` of its input: (n, O)."""
        return _wide(self._places(output, batch))

    def _places(self, x: Tensor, batch: int) -> Tensor:
        """Return the channels at some of the places, (n, C)."""
        if row_of(self.node).family != "linear":
            x = x.movedim(x.dim() - 1 - len(self.kernel), -1)
        rows = x.reshape(-1, x.shape[-1])
        rows = rows[self.counting[batch]] if self.counting else rows
        return rows[:: step_of(len(rows), self.most)]

    @property
    def power(self) -> float:
        """The mean of the second moments themselves."""
        assert self.total is not None
        return float((self.total / self.n).diagonal(dim1=-2, dim2=-1).mean())

    def moment(self, damping: float) -> Moment:
        """Return what was seen, damped. Nothing seen counts as white noise."""
        if self.total is None or not bool(self.total.any()):
            return Moment(self.kernel)
        mean = self.total / self.n
        eye = torch.eye(mean.shape[-1], dtype=mean.dtype)
        return Moment(self.kernel, mean + damping * self.power * eye, self.whole)


def _wide(x: Tensor) -> Tensor:
    """Return a tensor in float32, or as it is in float64."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


@dataclass(frozen=True)
class Moment:
    """Second moments of a layer's inputs.

    Attributes:
        kernel: sizes of the layer's kernel.
        matrix: (G, I·K, I·K) of patches, or (G, I, I) of channels; None: white noise.
        whole: the matrix is that of patches.
    """

    kernel: tuple[int, ...] = ()
    matrix: Tensor | None = None
    whole: bool = True

    @property
    def patches(self) -> Tensor | None:
        """The matrix of patches, (G, I·K, I·K); None where only that of channels is known, or nothing is."""
        return self.matrix if self.whole else None

    @cached_property
    def root(self) -> Tensor:
        """The lower triangular root of the matrix."""
        assert self.matrix is not None
        return torch.linalg.cholesky(self.matrix)

    def weigh(self, weight: Tensor) -> Tensor:
        """Return the weight times a root of Σ, so that its squares are what it does to the output.

        Args:
            weight: (G, O, I, *kernel).

        Returns:
            (G, O, I·K).
        """
        if self.matrix is None:
            return weight.flatten(2)
        if self.whole:
            return weight.flatten(2) @ self.root
        return torch.einsum("goik,gij->gojk", weight.flatten(3), self.root).flatten(2)

    def products(self, weight: Tensor) -> Tensor:
        """Return the second moments of what a weight (G, O, I, *kernel) puts out, W Σ Wᵀ: (G, O, O)."""
        if self.whole and self.matrix is not None:
            flat = weight.flatten(2)
            return flat @ self.matrix @ flat.mT
        weighed = self.weigh(weight)
        return weighed @ weighed.mT

    def part(self, axes: tuple[int, ...]) -> Moment:
        """Return the moments of some axes of the kernel, summed over the places along the others: (G, I·k, I·k) with k the places along `axes`."""
        kernel = tuple(self.kernel[axis] for axis in axes)
        if self.matrix is None:
            return Moment(kernel)
        if not self.whole:
            return Moment(kernel, self.matrix, not kernel)
        rank, size = len(self.kernel), math.prod(self.kernel)
        groups, inputs = self.matrix.shape[0], self.matrix.shape[1] // size
        places = self.matrix.reshape(groups, inputs, *self.kernel, inputs, *self.kernel)
        # letters: g, then input channel and places on either side; the summed axes have the same letter on both
        left, right = list(range(2, 2 + rank)), [2 + rank + axis if axis in axes else 2 + axis for axis in range(rank)]
        kept = [0, 1, *(left[axis] for axis in axes), 2 + 2 * rank, *(right[axis] for axis in axes)]
        summed = torch.einsum(places, [0, 1, *left, 2 + 2 * rank, *right], kept)
        n = inputs * math.prod(kernel)
        return Moment(kernel, summed.reshape(groups, n, n))

    def blocks(self) -> Tensor | None:
        """Return for each input channel the moments of its own patch, (G, I, K, K); None where they are not known."""
        if self.matrix is None or not self.whole:
            return None
        size = math.prod(self.kernel)
        groups, inputs = self.matrix.shape[0], self.matrix.shape[1] // size
        return torch.einsum("gikil->gikl", self.matrix.reshape(groups, inputs, size, inputs, size))

    def power(self, weight: Tensor) -> float:
        """Return the mean square of what a weight (G, O, I, *kernel) puts out, summed over the channels."""
        return float(self.products(weight).diagonal(dim1=-2, dim2=-1).sum().clamp(min=0))

    def sizes(self, weight: Tensor) -> Tensor:
        """Return the root of the mean square of each output of a dense weight (O, G·I, *kernel), a kernel of 1 standing at the first place: (O,)."""
        if self.matrix is None:
            return weight.flatten(1).square().sum(1).sqrt()
        groups = self.matrix.shape[0]
        if not self.whole:
            cut = weight.reshape(len(weight), groups, weight.shape[1] // groups, -1)
            return torch.einsum("ogik,gij,ogjk->o", cut, self.matrix, cut).clamp(min=0).sqrt()
        full = weight.new_zeros(*weight.shape[:2], *self.kernel)
        places = tuple(slice(size) for size in weight.shape)
        full[places] = weight
        cut = full.reshape(len(full), groups, -1)
        return torch.einsum("ogn,gnm,ogm->o", cut, self.matrix, cut).clamp(min=0).sqrt()
