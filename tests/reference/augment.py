"""Slow twins of the augmentations: plain numpy, one example after another."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np


def read_at(x: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """Series (B, C, L) read at positions (B, L) between samples."""
    time = np.arange(x.shape[2])
    return np.stack([[np.interp(positions[b], time, channel) for channel in example] for b, example in enumerate(x)])


def segments(source: np.ndarray) -> int:
    """How many stretches of consecutive samples a reordering (L,) is made of; it must use each sample once."""
    assert sorted(source.tolist()) == list(range(len(source)))
    return 1 + sum(int(b != a + 1) for a, b in itertools.pairwise(source))


def longest_run(flags: Sequence[bool]) -> int:
    """The longest stretch of true values."""
    best = run = 0
    for flag in flags:
        run = run + 1 if flag else 0
        best = max(best, run)
    return best


def mixture(x: np.ndarray, order: Sequence[int], share: float) -> np.ndarray:
    """Each example mixed with that at its place in the order."""
    return np.stack([share * x[i] + (1 - share) * x[j] for i, j in enumerate(order)])


def own_part(mixed: np.ndarray, x: np.ndarray, order: Sequence[int], example: int) -> float:
    """The share of pixels that an example of a cutmix has of its own; the rest must be a rectangle of its partner."""
    same = (mixed[example] == x[example]).all(0)
    rows, columns = np.nonzero(~same)
    if len(rows):
        box = (slice(None), slice(rows.min(), rows.max() + 1), slice(columns.min(), columns.max() + 1))
        assert np.array_equal(mixed[example][box], x[order[example]][box])
    return float(same.mean())


def is_subsequence(short: Sequence[int], long: Sequence[int]) -> bool:
    """Whether the short one is left when some of the long one's entries go."""
    rest = iter(long)
    return all(item in rest for item in short)


def neighbors(weight: np.ndarray, token: int, k: int) -> list[int]:
    """The k other rows of the greatest cosine."""
    norms = np.linalg.norm(weight, axis=1)
    cosine = [
        (weight[token] @ row / (norms[token] * norm), -i) for i, (row, norm) in enumerate(zip(weight, norms, strict=True)) if i != token
    ]
    return [-i for _, i in sorted(cosine, reverse=True)[:k]]
