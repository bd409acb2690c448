"""Whether two lists of answers hold the same values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

_LEAST = 1e-6


def alike(one: Sequence[Any], other: Sequence[Any], limit: float) -> bool:
    """Return whether two lists of tensors or arrays have the same shapes and hold the same values; NaN is like NaN.

    Args:
        one: what the limit is relative to.
        other: what is held against it.
        limit: of each difference, relative to the largest finite number of `one`, or a millionth. Whole numbers are the same or not.
    """
    return len(one) == len(other) and all(_near(_array(a), _array(b), limit) for a, b in zip(one, other, strict=True))


def _near(a: np.ndarray, b: np.ndarray, limit: float) -> bool:
    if a.shape != b.shape:
        return False
    if a.dtype.kind in "biu":
        return bool(np.array_equal(a, b))
    scale = float(np.abs(a[np.isfinite(a)]).max(initial=_LEAST))
    return bool(np.allclose(a, b, rtol=0.0, atol=limit * scale, equal_nan=True))


def _array(value: Any) -> np.ndarray:
    if isinstance(value, Tensor):
        value = value.detach().cpu()
        value = (value.float() if value.dtype == torch.bfloat16 else value).numpy()
    return np.asarray(value)
