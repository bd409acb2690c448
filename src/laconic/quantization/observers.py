"""Observers: what range a tensor had, folded batch by batch in memory that does not grow with the number of samples.

Each is "fold a batch" and "finish". Histograms keep a fixed number of bins; when a value lies outside, neighboring bins are merged until the range is wide
enough, so one pass is enough and nothing is stored.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor

from laconic.quantization.scheme import Scheme, grid

_BINS = 2048
# Histograms look at so many numbers of a batch at most, evenly spaced; the extremes are taken of all.
_SAMPLE = 1 << 17
_QUANTILES = 1e-5


def by_example(x: Tensor) -> Tensor:
    """Return the numbers of each example in a row, in the order of memory, so that nothing is copied."""
    if x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last):
        x = x.permute(0, 2, 3, 1)
    return x.flatten(1) if x.dim() > 1 else x.reshape(1, -1)


def extremes(x: Tensor) -> tuple[float, float]:
    """Return the lowest and highest value.

    Raises:
        FloatingPointError: one of them is not finite.
    """
    low, high = (float(value) for value in torch.aminmax(by_example(x)))
    if not (math.isfinite(low) and math.isfinite(high)):
        raise FloatingPointError(f"lowest {low}, highest {high}")
    return low, high


class Observer(ABC):
    """Folds tensors and gives the range to be covered."""

    def __init__(self) -> None:
        self.lowest, self.highest = math.inf, -math.inf

    def fold(self, x: Tensor) -> None:
        """Take in one batch, dimension 0 being the examples."""
        low, high = extremes(x)
        self.lowest, self.highest = min(self.lowest, low), max(self.highest, high)
        self.take(x, low, high)

    def take(self, x: Tensor, low: float, high: float) -> None:  # noqa: B027 - an observer of extremes needs no more
        """Take in a batch whose extremes are known; nothing by default."""

    @abstractmethod
    def finish(self, codes: Scheme) -> tuple[float, float]:
        """Return the lowest and highest value to be covered.

        Args:
            codes: that will be used.
        """


class MinMax(Observer):
    """The extremes of everything."""

    def finish(self, codes: Scheme) -> tuple[float, float]:
        """See `Observer.finish`."""
        return self.lowest, self.highest


class MovingAverage(Observer):
    """A moving average of the extremes of single examples: one odd example does not widen the range (Krishnamoorthi 2018, section 3.1.1).

    The average is over all examples with equal weight as long as there are fewer than `1 / (1 − momentum)`, then with weights that fall by `momentum`.
    """

    momentum = 0.999

    def __init__(self) -> None:
        super().__init__()
        self._low = self._high = 0.0
        self._n = 0

    def take(self, x: Tensor, low: float, high: float) -> None:
        """See `Observer.take`."""
        lows, highs = torch.aminmax(by_example(x), dim=1)
        n = len(lows)
        self._n += n
        share = max(n / self._n, 1 - self.momentum**n)
        self._low += share * (float(lows.mean()) - self._low)
        self._high += share * (float(highs.mean()) - self._high)

    def finish(self, codes: Scheme) -> tuple[float, float]:
        """See `Observer.finish`."""
        return self._low, self._high


class Histogram(Observer):
    """Counts in equal bins; what is covered is decided at the end. `count` has shape (2048,) and spans [`start`, `start + 2048 · width`]."""

    zeros = True  # whether numbers that are exactly 0 count

    def __init__(self) -> None:
        super().__init__()
        self.count = torch.zeros(_BINS, dtype=torch.float64)
        self.start, self.width = 0.0, 0.0

    def take(self, x: Tensor, low: float, high: float) -> None:
        """See `Observer.take`."""
        if self.width == 0.0:
            self.start = low
            self.width = max((high - low) / _BINS, abs(low) * 1e-6 / _BINS, 1e-30) * (1 + 1e-6)
        while low < self.start or high >= self.start + self.width * _BINS:
            self._widen(low < self.start)
        flat = x.reshape(-1)
        step = max(1, flat.numel() // _SAMPLE)
        sample = flat[::step].double()
        if not self.zeros:
            sample = sample[sample != 0]
        index = ((sample - self.start) / self.width).long().clamp_(0, _BINS - 1)
        self.count += torch.bincount(index, minlength=_BINS).double() * step

    def _widen(self, down: bool) -> None:
        """Merge pairs of bins, and put the freed half below or above."""
        pairs = self.count.view(-1, 2).sum(1)
        free = torch.zeros_like(pairs)
        self.count = torch.cat([free, pairs] if down else [pairs, free])
        self.start -= self.width * _BINS if down else 0.0
        self.width *= 2

    def centers(self) -> Tensor:
        """Return the middle of each bin, shape (2048,)."""
        return self.start + self.width * (torch.arange(_BINS, dtype=torch.float64) + 0.5)

    def finish(self, codes: Scheme) -> tuple[float, float]:
        """See `Observer.finish`."""
        return self.lowest, self.highest


class Percentile(Histogram):
    """All but the outermost 0.001 % on either side (McKinstry et al. 2018, section 3.2)."""

    def finish(self, codes: Scheme) -> tuple[float, float]:
        """See `Observer.finish`."""
        share = self.count.cumsum(0) / self.count.sum()
        low = int(torch.searchsorted(share, _QUANTILES))
        high = int(torch.searchsorted(share, 1 - _QUANTILES))
        edges = self.start + self.width * low, self.start + self.width * (high + 1)
        return max(edges[0], self.lowest), min(edges[1], self.highest)


class _Searched(Histogram):
    """Shrinks the range step by step and keeps the one of least cost."""

    steps = 100

    def finish(self, codes: Scheme) -> tuple[float, float]:
        """See `Observer.finish`."""
        best, result = math.inf, (self.lowest, self.highest)
        for step in range(self.steps):
            shrink = 1 - step / (self.steps + 1)
            low, high = self.lowest * shrink, self.highest * shrink
            cost = self.cost(low, high, codes)
            if cost < best:
                best, result = cost, (low, high)
        return result

    def cost(self, low: float, high: float, codes: Scheme) -> float:
        """Return what is lost when [low, high] is covered by these codes."""
        raise NotImplementedError


class MeanSquare(_Searched):
    """The least mean squared rounding error (Nagel et al. 2021, eq. 14)."""

    def cost(self, low: float, high: float, codes: Scheme) -> float:
        """See `_Searched.cost`."""
        centers = self.centers()
        error = grid(torch.tensor(low), torch.tensor(high), codes)(centers) - centers
        return float((self.count * error.square()).sum())


class Entropy(_Searched):
    """The least Kullback–Leibler divergence of the rounded distribution from the clipped one (Migacz 2017, slides 38–40).

    Zeros are not counted: they are always met exactly, and what a ReLU has cut off would decide alone.
    """

    zeros = False

    def cost(self, low: float, high: float, codes: Scheme) -> float:
        """See `_Searched.cost`."""
        centers = self.centers()
        quantizer = grid(torch.tensor(low), torch.tensor(high), codes)
        code = quantizer.codes(centers).long() - codes.low
        inside = (centers >= min(low, 0.0)) & (centers <= max(high, 0.0))
        # what lies outside is added to the outermost bins inside: the distribution that a clipped tensor has
        clipped = torch.where(inside, self.count, 0.0)
        where = inside.nonzero().flatten()
        if len(where) == 0:
            return math.inf
        clipped[where[0]] += self.count[: where[0]].sum()
        clipped[where[-1]] += self.count[where[-1] + 1 :].sum()
        held = inside & (self.count > 0)
        totals = torch.zeros(codes.high - codes.low + 1, dtype=torch.float64).index_add_(0, code[held], self.count[held])
        bins = torch.zeros_like(totals).index_add_(0, code[held], torch.ones(int(held.sum()), dtype=torch.float64))
        spread = torch.where(held, totals[code] / bins[code].clamp(min=1), 0.0)
        p, q = clipped / clipped.sum(), spread / spread.sum()
        seen = p > 0
        return float((p[seen] * (p[seen] / q[seen].clamp(min=1e-12)).log()).sum())


OBSERVERS: dict[str, type[Observer]] = {
    "minmax": MinMax,
    "moving_average": MovingAverage,
    "percentile": Percentile,
    "entropy": Entropy,
    "mse": MeanSquare,
}


class ChannelRange:
    """Largest magnitude of each channel; for SmoothQuant and cross-layer equalization. `axis` counts from the front or, negative, from the back."""

    def __init__(self, axis: int) -> None:
        self.axis = axis
        self.largest: Tensor | None = None

    def fold(self, x: Tensor) -> None:
        """Take in one batch."""
        result = x.movedim(self.axis, 0).flatten(1).abs().amax(1)
        self.largest = result if self.largest is None else torch.maximum(self.largest, result)


class ChannelMean:
    """Mean of each channel, for bias correction."""

    def __init__(self, axis: int) -> None:
        self.axis = axis
        self.total: Tensor | None = None
        self.n = 0

    def fold(self, x: Tensor) -> None:
        """Take in one batch."""
        rest = [i for i in range(x.dim()) if i != self.axis % x.dim()]
        result = x.sum(rest).double()  # single precision within a batch, double over batches
        self.total = result if self.total is None else self.total + result
        self.n += x.numel() // x.shape[self.axis]

    @property
    def mean(self) -> Tensor:
        """Shape (C,)."""
        assert self.total is not None
        return self.total / self.n
