"""Inputs along their dynamic dimensions: each has its own batch axis, the one that its spec calls ``batch``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from laconic.core.interface import TensorSpec

Array = TypeVar("Array", Tensor, np.ndarray)


def batch_axis(spec: TensorSpec) -> int | None:
    """Return the axis that the spec calls ``batch``; None where it has none."""
    return spec.shape.index("batch") if "batch" in spec.shape else None


def batch_size(specs: Sequence[TensorSpec], leaves: Sequence[Any]) -> int | None:
    """Return how many examples flat inputs hold; None where no input has a batch axis."""
    pairs = ((batch_axis(spec), leaf) for spec, leaf in zip(specs, leaves, strict=True))
    return next((int(leaf.shape[axis]) for axis, leaf in pairs if axis is not None), None)


def take(specs: Sequence[TensorSpec], leaves: Sequence[Array], rows: Sequence[int] | np.ndarray) -> list[Array]:
    """Take these examples out of flat inputs; an input without a batch axis stays as it is.

    Args:
        specs: of the inputs.
        leaves: tensors or arrays, each with the batch on the axis that its spec names.
        rows: positions in the batch, in order; they may repeat.
    """
    return [_taken(leaf, batch_axis(spec), np.asarray(rows)) for spec, leaf in zip(specs, leaves, strict=True)]


def resize(specs: Sequence[TensorSpec], leaves: Sequence[Array], sizes: Mapping[str, int]) -> list[Array]:
    """Cut flat inputs, or repeat them from the beginning, along the dynamic dimensions that `sizes` names; other dimensions stay.

    Args:
        specs: of the inputs.
        leaves: tensors or arrays, one for each input.
        sizes: of dynamic dimensions, by the name that the specs give them, ``batch`` among them.
    """
    made = []
    for spec, leaf in zip(specs, leaves, strict=True):
        for axis, dim in enumerate(spec.shape):
            if isinstance(dim, str) and dim in sizes:
                leaf = _taken(leaf, axis, np.arange(sizes[dim]) % leaf.shape[axis])
        made.append(leaf)
    return made


def dynamic_sizes(specs: Sequence[TensorSpec], leaves: Sequence[Any]) -> dict[str, int]:
    """Return how long each dynamic dimension is in flat inputs, by its name."""
    return {
        dim: int(size)
        for spec, leaf in zip(specs, leaves, strict=True)
        for dim, size in zip(spec.shape, leaf.shape, strict=True)
        if isinstance(dim, str)
    }


def joined(specs: Sequence[TensorSpec], batches: Sequence[Sequence[Tensor]], size: int) -> tuple[Tensor, ...]:
    """Join several batches and return the first `size` examples; the first batch alone where the batch is fixed, or other sizes differ between batches."""
    axes = [batch_axis(spec) for spec in specs]
    rows = batch_size(specs, batches[0])
    few = batches[: 1 if rows is None else -(-size // max(1, rows))]
    shapes = {
        tuple(leaf.shape[:axis] + leaf.shape[axis + 1 :] for axis, leaf in zip(axes, leaves, strict=True) if axis is not None)
        for leaves in few
    }
    if len(few) == 1 or len(shapes) > 1:
        return tuple(take(specs, batches[0], range(min(size, rows)))) if rows is not None else tuple(batches[0])
    whole = [parts[0] if axis is None else torch.cat(parts, axis) for axis, parts in zip(axes, zip(*few, strict=True), strict=True)]
    return tuple(take(specs, whole, range(min(size, batch_size(specs, whole) or 0))))


def _taken(leaf: Any, axis: int | None, rows: np.ndarray) -> Any:
    if axis is None:
        return leaf
    return leaf.index_select(axis, torch.from_numpy(rows).to(leaf.device)) if isinstance(leaf, Tensor) else leaf.take(rows, axis)
