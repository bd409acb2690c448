"""Numbers on a line shared by few values: weighted k-means of one dimension, for millions of them.

In one dimension clusters are intervals, so a step of Lloyd's algorithm is a search of k midpoints among the sorted values and k differences of running
sums: n·log n once, then k·log n a step.

Shapes: n values, k centers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from laconic.core.errors import BadInput, nearest

Array = npt.NDArray[np.float64]
Codes = npt.NDArray[np.int64]
Start = Literal["linear", "density", "random"]
STARTS: tuple[Start, ...] = get_args(Start)
_STEPS = 300


@dataclass(frozen=True)
class Codebook:
    """Centers in ascending order (k,), and for each value the number of its center (n,)."""

    centers: Array
    codes: Codes

    def decoded(self) -> Array:
        """Return for each value its center (n,)."""
        return self.centers[self.codes]


class _Line:
    """The different values in order, where each number has its own, and running sums of weights and of weight times value."""

    def __init__(self, numbers: Array, weights: Array | None) -> None:
        self.values, place, counts = np.unique(numbers, return_inverse=True, return_counts=True)
        self.place = place.reshape(-1)
        mass = counts.astype(np.float64) if weights is None else np.bincount(self.place, weights, len(self.values))
        self.middle = self.values.mean()  # running sums of small numbers lose least
        self.mass = np.concatenate([[0.0], np.cumsum(mass)])
        self.moment = np.concatenate([[0.0], np.cumsum(mass * (self.values - self.middle))])

    def cuts(self, centers: Array) -> Codes:
        """Return where the interval of each center begins and the last one ends, (k + 1,); a value in the middle goes to the lower one."""
        between = np.searchsorted(self.values, (centers[1:] + centers[:-1]) / 2, side="right")
        return np.concatenate([[0], between, [len(self.values)]]).astype(np.int64)

    def means(self, cuts: Codes, centers: Array) -> Array:
        """Return the weighted mean of each interval; of one without weight, its center as it is."""
        mass = np.diff(self.mass[cuts])
        return np.where(mass > 0, self.middle + np.diff(self.moment[cuts]) / np.where(mass > 0, mass, 1.0), centers)

    def refilled(self, cuts: Codes, centers: Array) -> Array:
        """Move the centers of empty intervals to the values that lie farthest from their own center, one each."""
        empty = np.flatnonzero(np.diff(cuts) == 0)
        if not len(empty):
            return centers
        distance = np.abs(self.values - np.repeat(centers, np.diff(cuts)))
        chosen = np.argpartition(distance, -len(empty))[-len(empty) :]
        centers = centers.copy()
        centers[empty] = self.values[chosen]
        return np.sort(centers)


def codebook(values: Array, k: int, start: Start = "linear", weights: Array | None = None, seed: int = 0) -> Codebook:
    """Return k shared values, by Lloyd's algorithm (Han et al. 2016, section 3.1), until no value changes its center.

    Args:
        values: (n,), finite.
        k: how many. Where there are no more different values than that, they are the centers: nothing is lost.
        start: of the centers (section 3.2): ``linear`` between the least and the largest value, ``density`` at equal shares of the values,
            or ``random`` values.
        weights: (n,), of each value's squared error, 0 or more; None: all alike.
        seed: of the random start.

    Raises:
        BadInput: no value, k under 1, or no such start.
    """
    if start not in _CENTERS:
        raise BadInput(f"start: '{start}'." + nearest(start, STARTS))
    if k < 1 or not len(values):
        raise BadInput(f"a codebook has one value or more, of one number or more: k is {k}, of {len(values)} numbers")
    line = _Line(values, weights)
    if len(line.values) <= k:
        return Codebook(line.values, line.place)
    return _lloyd(line, _CENTERS[start](values, line.values, k, seed))


def lloyd(values: Array, centers: Array, weights: Array | None = None) -> Codebook:
    """Return the codebook that Lloyd's algorithm comes to from these centers; see `codebook`."""
    return _lloyd(_Line(values, weights), np.sort(centers))


def _lloyd(line: _Line, centers: Array) -> Codebook:
    cuts = line.cuts(centers)
    for _ in range(_STEPS):
        full = line.refilled(cuts, centers)
        before, centers = cuts, line.means(line.cuts(full), full)
        cuts = line.cuts(centers)
        if np.array_equal(cuts, before) and np.diff(cuts).all():
            break
    codes = np.repeat(np.arange(len(centers)), np.diff(cuts))
    return Codebook(centers, codes[line.place])


def _linear(values: Array, distinct: Array, k: int, seed: int) -> Array:
    return np.linspace(distinct[0], distinct[-1], k)


def _density(values: Array, distinct: Array, k: int, seed: int) -> Array:
    return np.quantile(values, (np.arange(k) + 0.5) / k)


def _random(values: Array, distinct: Array, k: int, seed: int) -> Array:
    return np.sort(np.random.default_rng(seed).choice(distinct, k, replace=False))


_CENTERS: dict[Start, Callable[[Array, Array, int, int], Array]] = {"linear": _linear, "density": _density, "random": _random}
