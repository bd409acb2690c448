"""Optimal brain surgeon, layer by layer: weights become zero column by column, and those right of them change so that the layer's output errs least.

The layer's squared output error is tr(ΔW · H · ΔWᵀ) with H the Gram matrix of its inputs. Removing one weight and changing the others of its row is solved in
closed form (Hassibi & Stork 1993, eq. 5); going through all rows in one order of columns lets them share one inverse (Frantar & Alistarh 2023, SparseGPT,
algorithm 1): of the upper Cholesky factor of H⁻¹, row j holds what column j does to those behind it.

Shapes: O output channels, C columns.
"""

from __future__ import annotations

import torch
from torch import Tensor

from laconic.core.gram import inverse_factor
from laconic.pruning.unstructured.patterns import Pattern, best

BLOCK = 128  # columns for which a mask is chosen at once


def solve(weight: Tensor, gram: Tensor, density: float, pattern: Pattern, block: int = BLOCK) -> Tensor:
    """Return a layer's weight with zeros, the others changed so that its output errs least.

    Args:
        weight: (O, C).
        gram: (C, C).
        density: share of each block of columns that stays; N:M says it itself.
        pattern: where zeros may stand.
        block: columns for which a mask is chosen at once, rounded down to whole units of the pattern.
    """
    factor, left = inverse_factor(gram), weight.double().clone()
    unit = max(pattern.columns, pattern.of)
    block = max(unit, block - block % unit)
    for start in range(0, left.shape[1], block):
        columns = slice(start, min(start + block, left.shape[1]))
        errors = _columns(left[:, columns], factor[columns, columns], density, pattern)
        left[:, columns.stop :] -= errors @ factor[columns, columns.stop :]
    return left.to(weight.dtype)


def _columns(part: Tensor, factor: Tensor, density: float, pattern: Pattern) -> Tensor:
    """Set zeros in a block of columns (O, B), in place; returns by how much each column errs, in units of its diagonal."""
    errors, scale = torch.zeros_like(part), factor.diagonal()
    kept = torch.ones_like(part, dtype=torch.bool)
    if not pattern.grouped:
        units = pattern.units((part / scale).square())
        kept = pattern.spread(best(units, round(density * units.numel())))
    for j in range(part.shape[1]):
        if pattern.grouped and j % pattern.of == 0:  # chosen when it is their turn: what went before has changed them
            here = slice(j, j + pattern.of)
            kept[:, here] = pattern.best_of_each((part[:, here] / scale[here]).square())
        errors[:, j] = torch.where(kept[:, j], 0.0, part[:, j]) / scale[j]
        part[:, j:] -= errors[:, j : j + 1] * factor[j, j:]
        part[:, j] *= kept[:, j]  # exactly zero
    return errors
