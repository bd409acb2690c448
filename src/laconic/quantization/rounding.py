"""AdaRound: which way each weight is rounded, chosen so that the layer's output changes least, not the weight.

The layer's squared output error over the calibration data is `tr(ΔW · G · ΔWᵀ)` with `G` the Gram matrix of its inputs (Nagel et al. 2020, eq. 13
with the Hessian of the loss approximated as in section 3.3). G is folded batch by batch, so no activation is stored, and one pass serves all layers.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, fx

from laconic.core.fake_quant import Quantizer
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
    """Return whether AdaRound has a form for this operator.

    It has for linear layers and for ungrouped convolutions of one or two dimensions, of at most 4,096 inputs per output.
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


def adaptive(weight: Tensor, quantizer: Quantizer, gram: Tensor, steps: int = 150, lr: float = 2e-2) -> Tensor:
    """Return the weights moved by less than a step each, so that rounding to nearest then goes the chosen way.

    Args:
        weight: (O, I, …), before rounding.
        quantizer: its grid.
        gram: (I·K, I·K), the mean of the inputs' outer products.
        steps: of Adam.
        lr: its learning rate.
    """
    shape = weight.shape
    scale = _steps(weight, quantizer)
    flat, scale = weight.flatten(1), scale.flatten(1)
    floor = torch.floor(flat / scale)
    rest = (flat / scale - floor).clamp(1e-3, 1 - 1e-3)
    # h = clip(1.2 · sigmoid(v) − 0.1) begins at the weight itself (eqs. 23 and 24)
    v = torch.log((rest + 0.1) / (1.1 - rest)).requires_grad_()
    gram = gram / gram.diagonal().mean().clamp(min=1e-12)
    optimizer = torch.optim.Adam([v], lr=lr)
    with torch.enable_grad():
        for step in range(steps):
            h = (1.2 * torch.sigmoid(v) - 0.1).clamp(0, 1)
            error = (floor + h) * scale - flat
            loss = (error @ gram * error).sum() / scale.square().mean()
            progress = step / steps
            if progress > 0.2:
                beta = 2 + 18 * (1 + torch.cos(torch.tensor((progress - 0.2) / 0.8 * torch.pi))) / 2
                loss = loss + 0.01 * (1 - (2 * h - 1).abs().pow(beta)).sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    up = (1.2 * torch.sigmoid(v.detach()) - 0.1).clamp(0, 1) >= 0.5
    chosen = (floor + up) * scale
    # kept only for rows whose output error is smaller than that of rounding to nearest
    better = _row_errors(chosen, flat, gram) < _row_errors(quantizer(weight).flatten(1), flat, gram)
    return torch.where(better.unsqueeze(1), chosen, flat).reshape(shape)


def _row_errors(rounded: Tensor, flat: Tensor, gram: Tensor) -> Tensor:
    error = rounded - flat
    return (error @ gram * error).sum(1)


def _steps(weight: Tensor, quantizer: Quantizer) -> Tensor:
    """Return the step of each weight's grid, in the shape of the weight."""
    if quantizer.group:
        return quantizer.scale.repeat_interleave(quantizer.group).reshape(weight.shape)
    return quantizer.scale.reshape(-1, *[1] * (weight.dim() - 1)).expand_as(weight)
