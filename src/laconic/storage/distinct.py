"""The distinct values of a tensor, where they are few."""

from __future__ import annotations

import numpy as np

from laconic.storage.kinds import Kind

MOST = 1 << 12  # distinct values, of which there may be a codebook
_MISSING = 1 << 20  # values that are sorted at once


def codebook(kind: Kind, patterns: np.ndarray, sample: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """Return the distinct bits (K,) in the order of their values, and each value's place among them, (N,) of uint16.

    Of eight-bit integers all from the least to the largest: their codebook is two numbers. None where there are too many to be of use: more than 4096, or more
    than half as many as values.

    Args:
        kind: of the values.
        patterns: their bits, (N,).
        sample: some of them, which often show without the rest that there are too many.
    """
    if kind.bits == 8:
        return _span(kind, patterns)
    shown = np.unique(sample)
    if len(shown) > min(MOST, max(2, len(sample) // 2)):
        return None
    book = _distinct(patterns, shown)
    if len(book) > min(MOST, max(2, len(patterns) // 2)):
        return None
    order = np.argsort(kind.ordered(book), kind="stable")
    place = np.empty(len(book), np.uint16)
    place[order] = np.arange(len(book))
    return book[order], place[np.searchsorted(book, patterns)]


def _span(kind: Kind, patterns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return all integers of eight bits from the least to the largest, and each value's distance from the least."""
    there = np.flatnonzero(np.bincount(patterns, minlength=256)).astype(np.uint8)
    keys = kind.ordered(there)
    first, count = int(keys.min()), int(keys.max() - keys.min()) + 1
    return np.arange(first, first + count).astype(np.int16).astype(np.uint8), (patterns - np.uint8(first & 255)).astype(np.uint16)


def _distinct(patterns: np.ndarray, shown: np.ndarray) -> np.ndarray:
    """Return the distinct bits, sorted as bits, or more than fit in a codebook. Sorts only what was not shown."""
    book = shown
    while len(book) <= MOST:
        places = np.minimum(np.searchsorted(book, patterns), len(book) - 1)
        missing = patterns[book[places] != patterns]
        if not len(missing):
            break
        book = np.union1d(book, missing[:_MISSING])
    return book


def entropy_bits(codes: np.ndarray) -> float:
    """Return the bits of a symbol in a code that knows how often each occurs and nothing else (order zero)."""
    shares = np.bincount(codes) / len(codes)
    shares = shares[shares > 0]
    return float(-(shares * np.log2(shares)).sum()) + 0.0
