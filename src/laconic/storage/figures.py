"""Figures of weights that have few values: how many numbers, zeros and values, and what coders spend on a number."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from laconic.core.weights import StoredWeight
from laconic.storage import streams
from laconic.storage.context import cost, fits
from laconic.storage.distinct import entropy_bits
from laconic.storage.layout import Layout

_BYTE = 256  # values whose codes are bytes


def row(weight: StoredWeight, before: Tensor, fast: bool = False) -> dict[str, Any]:
    """Return what became of a weight: how many numbers, how many of them not zero, how many values, and the signal over the noise of the change.

    `entropy_bits` is the entropy of order zero of a number, zeros included: what a coder without context spends on it. `coded_bits` is what the archive's coder
    spends, codebook aside, see `coded_bits`.
    """
    now = weight.parameter.detach()
    values, places = torch.unique(now, return_inverse=True)
    noise = float((now - before).double().square().sum())
    signal = float(before.double().square().sum())
    bits = coded_bits(now, fast)
    return {
        "name": weight.name,
        "numbers": now.numel(),
        "nonzero": int(torch.count_nonzero(now)),
        "values": int((values != 0).sum()),
        "low": float(values[0]),
        "high": float(values[-1]),
        "entropy_bits": entropy_bits(places.flatten().cpu().numpy()),
        "coded_bits": None if bits is None else bits / now.numel(),
        "sqnr_db": 10 * float(np.log10(signal / noise)) if noise and signal else None,
    }


def totals(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return how many numbers all weights have, how many are not zero, and the mean entropy of order zero of a number; of their rows."""
    numbers = sum(one["numbers"] for one in rows)
    bits = sum(one["numbers"] * one["entropy_bits"] for one in rows)
    return {"numbers": numbers, "nonzero": sum(one["nonzero"] for one in rows), "entropy_bits": bits / max(1, numbers)}


def coded_bits(tensor: Tensor, fast: bool = False) -> float | None:
    """Return the bits that the archive's coder spends on the numbers of a tensor; None where it would not be tried: too many values or numbers.

    Args:
        tensor: of a weight.
        fast: it is one of so many that nothing slow is tried (`context.MOST_NUMBERS`); else the coder with context is meant.
    """
    values, places = torch.unique(tensor.detach(), return_inverse=True)
    if fast:
        codes = places.flatten().cpu().numpy()
        return None if len(values) > _BYTE else 8.0 * len(streams.encode(codes.astype(np.uint8), Layout(len(values)), fast=True))
    if not fits(tensor.numel(), len(values)):
        return None
    zeros = (values == 0).nonzero()
    zero = int(zeros[0]) if len(zeros) else len(values) // 2
    return float(cost((places - zero).cpu().numpy()).sum())
