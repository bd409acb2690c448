"""Intervals: of a ratio of latencies over rounds, and of the difference of two models' scores on the same examples.

All intervals are 95 % percentile bootstrap intervals (Efron & Tibshirani 1993, chapter 13), seeded.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from laconic.core.errors import BadInput
from laconic.core.records import Measurement

RESAMPLES = 2000
LEVEL = (2.5, 97.5)


def ratio_of_rounds(base: Sequence[Sequence[float]], other: Sequence[Sequence[float]], seed: int = 0) -> Measurement:
    """How many times faster `other` is than `base`, from interleaved rounds.

    Each round yields one ratio, of the two medians; the value is the median of these, the interval comes from resampling rounds. Rounds are the unit, not
    single runs, because runs within a round share the machine's state.

    Args:
        base: times per round.
        other: times per round, of the same number of rounds.
    """
    if len(base) != len(other) or not base:
        raise BadInput(f"the ratio needs the same number of rounds of both, at least one; there are {len(base)} and {len(other)}")
    ratios = np.array([np.median(a) / np.median(b) for a, b in zip(base, other, strict=True)])
    picks = np.random.default_rng(seed).integers(0, len(ratios), (RESAMPLES, len(ratios)))
    low, high = np.percentile(np.median(ratios[picks], axis=1), LEVEL)
    return Measurement(float(np.median(ratios)), "x", n=len(ratios), low=float(low), high=float(high))


def paired_difference(baseline: np.ndarray, candidate: np.ndarray, scale: float = 1.0, seed: int = 0) -> Measurement:
    """Mean of `baseline - candidate` over examples, times `scale`, with its interval; exactly [0, 0] where all examples score the same.

    Args:
        baseline: score per example, shape (n,).
        candidate: score per example, shape (n,).
        scale: 100 turns a share into points.
    """
    if baseline.shape != candidate.shape or baseline.ndim != 1 or not len(baseline):
        raise BadInput(f"paired scores must have one same length; they have shapes {baseline.shape} and {candidate.shape}")
    gaps = baseline.astype(float) - candidate.astype(float)
    values, counts = np.unique(gaps, return_counts=True)
    rng = np.random.default_rng(seed)
    if len(values) <= 64:  # resampling examples is drawing how often each distinct gap occurs: fast for any n
        means = rng.multinomial(len(gaps), counts / len(gaps), RESAMPLES) @ values / len(gaps)
    else:
        means = np.array([gaps[rng.integers(0, len(gaps), len(gaps))].mean() for _ in range(RESAMPLES)])
    low, high = np.percentile(means, LEVEL)
    return Measurement(float(scale * gaps.mean()), "points", n=len(gaps), low=float(scale * low), high=float(scale * high))


def paired_bootstrap(difference: Callable[[np.ndarray], float], n: int, resamples: int = 200, seed: int = 0) -> Measurement:
    """The difference of scores that are no means over examples (F1, AUROC), with its interval.

    Args:
        difference: from indices of examples, shape (n,), to the difference on those examples.
        n: number of examples.
        resamples: how often it is computed again.
    """
    rng = np.random.default_rng(seed)
    found = [difference(rng.integers(0, n, n)) for _ in range(resamples)]
    low, high = np.percentile(found, LEVEL)
    return Measurement(float(difference(np.arange(n))), "points", n=n, low=float(low), high=float(high))


def over_seeds(values: Sequence[float], unit: str) -> Measurement:
    """The mean over runs with different seeds, with Student's 95 % interval (few runs: it is wide); of one run there is none."""
    from scipy.stats import t

    n, mean = len(values), float(np.mean(values))
    if n < 2:
        return Measurement(mean, unit, n=n)
    half = float(t.ppf(0.975, n - 1) * np.std(values, ddof=1) / np.sqrt(n))
    return Measurement(mean, unit, n=n, low=mean - half, high=mean + half)
