"""Slow, plain twins of `laconic.factorize`, in numpy."""

from __future__ import annotations

import numpy as np


def root(sigma: np.ndarray) -> np.ndarray:
    """The symmetric square root."""
    values, vectors = np.linalg.eigh(sigma)
    return (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T


def weighted_low_rank(weight: np.ndarray, sigma: np.ndarray, rank: int) -> np.ndarray:
    """The matrix of this rank that is nearest to `weight` (O, N) in tr(D Σ Dᵀ): truncate W Σ^½ and take the root back out."""
    half = root(sigma)
    left, values, right = np.linalg.svd(weight @ half, full_matrices=False)
    return (left[:, :rank] * values[:rank]) @ right[:rank] @ np.linalg.inv(half)


def error(weight: np.ndarray, other: np.ndarray, sigma: np.ndarray) -> float:
    """tr(D Σ Dᵀ), number by number."""
    delta = weight - other
    return float(sum(row @ sigma @ row for row in delta))


def separable_rank_one(weight: np.ndarray) -> np.ndarray:
    """Each input channel's kernels (O, K) by the first singular pair: the weight (O, I, K) again."""
    result = np.zeros_like(weight)
    for channel in range(weight.shape[1]):
        left, values, right = np.linalg.svd(weight[:, channel], full_matrices=False)
        result[:, channel] = values[0] * np.outer(left[:, 0], right[0])
    return result


def patches(x: np.ndarray, kernel: tuple[int, int]) -> np.ndarray:
    """What each output of an unpadded convolution of stride 1 reads, (rows, I·K), window by window."""
    batch, _, height, width = x.shape
    rows = [
        x[b, :, i : i + kernel[0], j : j + kernel[1]].ravel()
        for b in range(batch)
        for i in range(height - kernel[0] + 1)
        for j in range(width - kernel[1] + 1)
    ]
    return np.array(rows)
