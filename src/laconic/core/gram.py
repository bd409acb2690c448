"""What a layer's inputs look like together: the Gram matrix of what its outputs are computed from, folded batch by batch, so that no activation is stored."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, fx

from laconic.core.operators import argument, family_of, groups_of, outputs_first, paddings, row_of, spread

# Larger Gram matrices cost more memory than they are worth here: 4,096² floats are 64 MB.
LARGEST = 4096
_ROWS = 4096


class Gram:
    """Folds `Σ x xᵀ` over the inputs of a layer: columns (I,) of a linear layer, patches (I·K,) of a convolution."""

    def __init__(self, node: fx.Node, kernel: tuple[int, ...] = ()) -> None:
        self.node, self.kernel = node, kernel
        self.total: Tensor | None = None
        self.n = 0

    def fold(self, x: Tensor) -> None:
        """Take in one batch of the layer's input."""
        rows = patches(self.node, x, self.kernel)
        if len(rows) > _ROWS:
            rows = rows[:: len(rows) // _ROWS]
        products = rows.T @ rows
        self.total = products if self.total is None else self.total + products
        self.n += len(rows)

    @property
    def mean(self) -> Tensor:
        """Shape (I, I)."""
        assert self.total is not None
        return self.total / self.n


def fits(node: fx.Node, weight: Tensor) -> bool:
    """Return whether the inputs of a layer are folded into one Gram matrix of moderate size.

    Those of linear layers are, and of ungrouped convolutions of one or two dimensions, of at most 4,096 inputs per output.
    """
    form = family_of(node) == "linear" or (family_of(node) == "convolution" and groups_of(node) == 1 and weight.dim() <= 4)
    return form and outputs_first(weight, node)[0].numel() <= LARGEST


def patches(node: fx.Node, x: Tensor, kernel: tuple[int, ...] = ()) -> Tensor:
    """Return the inputs of a layer as rows, each of what one output is computed from.

    Args:
        node: a linear layer or convolution that `fits`.
        x: (…, I) or (B, I, L) or (B, I, H, W).
        kernel: sizes of the convolution's kernel.

    Returns:
        (rows, I) or (rows, I · kernel).
    """
    row = row_of(node)
    if row.family == "linear":
        return x.reshape(-1, x.shape[-1])
    stride, dilation = (spread(argument(node, i), len(kernel)) for i in (row.stride, row.dilation))
    x = F.pad(x, [amount for pair in reversed(paddings(node, kernel)) for amount in pair])
    if len(kernel) == 1:
        x, kernel, stride, dilation = x.unsqueeze(2), (1, *kernel), (1, *stride), (1, *dilation)
    columns = F.unfold(x, kernel, dilation, 0, stride)  # (B, I·K, positions)
    return columns.transpose(1, 2).reshape(-1, columns.shape[1])
