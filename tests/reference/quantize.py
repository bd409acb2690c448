"""Slow twins of the quantize room: plain numpy in double precision, one number after another, all data at once."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

TINY = 1e-18


def grid(low: float, high: float, first: int, last: int, symmetric: bool) -> tuple[float, int]:
    """Step and zero point of the codes `first` … `last` over [low, high], widened so that it holds 0."""
    low, high = min(low, 0.0), max(high, 0.0)
    if not symmetric:
        scale = max((high - low) / (last - first), TINY) if high > low else 1.0
        return scale, int(min(max(first - round(low / scale), first), last))
    largest = high if first >= 0 else max(-low, high)
    return (max(largest / last, TINY) if largest else 1.0), 0


def rounded(x: np.ndarray, scale: float, zero: int, first: int, last: int) -> np.ndarray:
    """`x` on the grid, in double precision."""
    return np.array([(min(max(round(v / scale) + zero, first), last) - zero) * scale for v in np.asarray(x, np.float64).ravel()]).reshape(
        x.shape
    )


def affine(part: np.ndarray, bits: int) -> np.ndarray:
    """The min–max scheme: normalize [lowest, highest] (with 0 in it) to [0, 1], round to 2^bits − 1 steps, rescale with scale and offset.

    The offset is a whole number of steps, as files store it.
    """
    low, high = min(float(part.min()), 0.0), max(float(part.max()), 0.0)
    levels = 2**bits - 1
    step = (high - low) / levels
    offset = round(low / step) * step
    share = np.clip((np.asarray(part, np.float64) - offset) / (levels * step), 0.0, 1.0)
    return np.round(share * levels) * step + offset


def slices(weight: np.ndarray, axis: int | None, group: int) -> list[np.ndarray]:
    """The parts of a weight that have a scale of their own, in order."""
    if group:
        return [row[i : i + group] for row in weight for i in range(0, weight.shape[1], group)]
    return [weight] if axis is None else [weight.take(i, axis) for i in range(weight.shape[axis])]


def minmax(x: np.ndarray) -> tuple[float, float]:
    """The extremes."""
    return float(x.min()), float(x.max())


def mean_of_extremes(x: np.ndarray) -> tuple[float, float]:
    """The mean lowest and the mean highest value of an example."""
    return float(np.mean([e.min() for e in x])), float(np.mean([e.max() for e in x]))


def percentile(x: np.ndarray) -> tuple[float, float]:
    """All but 0.001 % on either side."""
    flat = x.ravel().astype(np.float64)
    low, high = (np.quantile(flat, q, method="inverted_cdf") for q in (1e-5, 1 - 1e-5))
    return float(low), float(high)


def squared_error(x: np.ndarray, low: float, high: float, first: int, last: int, symmetric: bool) -> float:
    """Mean squared rounding error."""
    scale, zero = grid(low, high, first, last, symmetric)
    flat = x.ravel().astype(np.float64)
    codes = np.clip(np.rint(flat / scale) + zero, first, last)
    return float(np.mean(((codes - zero) * scale - flat) ** 2))


def best_shrink(x: np.ndarray, cost: Callable[[float, float], float], steps: int) -> float:
    """The least cost over `steps` evenly spaced shares of the extremes."""
    low, high = minmax(x)
    return min(cost(low * (1 - i / (steps + 1)), high * (1 - i / (steps + 1))) for i in range(steps))


def divergence(count: np.ndarray, centers: np.ndarray, low: float, high: float, first: int, last: int, symmetric: bool) -> float:
    """Kullback–Leibler divergence of a rounded histogram from the clipped one: bin by bin, code by code."""
    scale, zero = grid(low, high, first, last, symmetric)
    inside = [i for i, c in enumerate(centers) if min(low, 0.0) <= c <= max(high, 0.0)]
    p = [0.0] * len(count)
    for i, n in enumerate(count):
        p[min(max(i, inside[0]), inside[-1])] += n
    members: dict[int, list[int]] = {}
    for i in inside:
        if count[i] > 0:
            members.setdefault(int(min(max(round(centers[i] / scale) + zero, first), last)), []).append(i)
    q = [0.0] * len(count)
    for bins in members.values():
        for i in bins:
            q[i] = sum(count[j] for j in bins) / len(bins)
    total_p, total_q = sum(p), sum(q)
    return sum(a / total_p * math.log((a / total_p) / max(b / total_q, 1e-12)) for a, b in zip(p, q, strict=True) if a > 0)


def patches(x: np.ndarray, kernel: tuple[int, int], stride: int, padding: int, dilation: int) -> np.ndarray:
    """What each output of a convolution is computed from: (B · L, C · K)."""
    x = np.pad(x, ((0, 0), (0, 0), (padding, padding), (padding, padding)))
    height, width = (dilation * (k - 1) + 1 for k in kernel)
    rows = []
    for image in x:
        for top in range(0, x.shape[2] - height + 1, stride):
            for left in range(0, x.shape[3] - width + 1, stride):
                rows.append(image[:, top : top + height : dilation, left : left + width : dilation].ravel())
    return np.array(rows)


def sqnr_db(expected: np.ndarray, found: np.ndarray) -> float:
    """Signal to quantization noise: 10 · log10(Σ a² / Σ (a − b)²)."""
    a, b = np.asarray(expected, np.float64), np.asarray(found, np.float64)
    noise = float(((a - b) ** 2).sum())
    return math.inf if noise == 0 else 10 * math.log10(max(float((a**2).sum()), 1e-300) / noise)
