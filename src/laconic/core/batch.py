"""Inputs along their batch axis: each input has its own, the one that its spec calls ``batch``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from laconic.core.interface import TensorSpec

Array = TypeVar("Array", Tensor, np.ndarray)


def batch_axis(spec: TensorSpec) -> int | None:
    """The axis that the spec calls ``batch``; None where it has none."""
    return spec.shape.index("batch") if "batch" in spec.shape else None


def batch_size(specs: Sequence[TensorSpec], leaves: Sequence[Any]) -> int | None:
    """How many examples flat inputs hold; None where no input has a batch axis."""
    found = ((batch_axis(spec), leaf) for spec, leaf in zip(specs, leaves, strict=True))
    return next((int(leaf.shape[axis]) for axis, leaf in found if axis is not None), None)


def take(specs: Sequence[TensorSpec], leaves: Sequence[Array], rows: Sequence[int] | np.ndarray) -> list[Array]:
    """These examples of flat inputs; an input without a batch axis stays as it is.

    Args:
        specs: of the inputs.
        leaves: tensors or arrays, each with the batch on the axis that its spec names.
        rows: positions in the batch, in order; they may repeat.
    """
    return [_taken(leaf, batch_axis(spec), np.asarray(rows)) for spec, leaf in zip(specs, leaves, strict=True)]


def resize(specs: Sequence[TensorSpec], leaves: Sequence[Array], size: int) -> list[Array]:
    """Flat inputs of `size` examples: cut, or repeated from the first on; unchanged where the batch is fixed."""
    rows = batch_size(specs, leaves)
    return list(leaves) if rows is None else take(specs, leaves, np.arange(size) % rows)


def _taken(leaf: Any, axis: int | None, rows: np.ndarray) -> Any:
    if axis is None:
        return leaf
    return leaf.index_select(axis, torch.from_numpy(rows).to(leaf.device)) if isinstance(leaf, Tensor) else leaf.take(rows, axis)
