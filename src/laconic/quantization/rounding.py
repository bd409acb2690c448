"""AdaRound: which way each weight is rounded, chosen so that the layer's output changes least, not the weight.

The layer's squared output error over the calibration data is `tr(ΔW · G · ΔWᵀ)` with `G` the Gram matrix of its inputs (Nagel et al. 2020, eq. 13
with the Hessian of the loss approximated as in section 3.3). G is folded batch by batch, so no activation is stored, and one pass serves all layers.
"""

from __future__ import annotations

import torch
from torch import Tensor

from laconic.core.fake_quant import Quantizer


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
