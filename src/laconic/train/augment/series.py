"""Augmentations of time series. Each keeps the length.

Shapes: B batch, C channels, L length, K knots. A warp of time is the same in all channels of an example, so that what happens together stays together.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from laconic.train.augment.row import MIXUP, Augmentation, normal, uniform

_KNOTS = 6  # 4 inside and the ends, as in the code of Um et al. 2017
_SLOWEST = 0.05  # of a warped clock, against its mean speed


def jitter(x: Tensor, strength: float) -> Tensor:
    """Add white noise."""
    return x + 0.05 * strength * x.std((0, 2), correction=0, keepdim=True) * normal(x.shape, x)


def scaling(x: Tensor, strength: float) -> Tensor:
    """Multiply each channel of each example by one number."""
    return x * (1 + 0.1 * strength * normal((*x.shape[:2], 1), x))


def magnitude_warp(x: Tensor, strength: float) -> Tensor:
    """Multiply each channel by a smooth curve."""
    return x * (1 + 0.2 * strength * _smooth(x, x.shape[1]))


def time_warp(x: Tensor, strength: float) -> Tensor:
    """Let the clock run faster and slower along a smooth curve; it never turns back, and starts and ends on time."""
    speed = (1 + 0.2 * strength * _smooth(x, 1)[:, 0]).clamp(min=_SLOWEST)
    steps = (speed[:, 1:] + speed[:, :-1]) / 2
    clock = torch.cat([torch.zeros_like(speed[:, :1]), steps.cumsum(1)], 1)
    return resample(x, clock * ((x.shape[2] - 1) / clock[:, -1:].clamp(min=_SLOWEST)))


def window_slice(x: Tensor, strength: float) -> Tensor:
    """Cut a window out of each example and stretch it over the whole length."""
    span = x.shape[2] - 1
    part = max(1 - 0.1 * strength, 0.1) * span
    start = uniform((len(x), 1), 0, 1, x) * (span - part)
    return resample(x, start + part * _ramp(x))


def window_warp(x: Tensor, strength: float) -> Tensor:
    """Stretch or squeeze a tenth of each example, then fit the whole to its length."""
    span = x.shape[2] - 1
    width = 0.1 * span
    start = uniform((len(x), 1), 0, 1, x) * (span - width)
    factor = 2.0 ** (strength * (2 * (uniform((len(x), 1), 0, 1, x) < 0.5).to(x) - 1))
    clock = (span + width * (factor - 1)) * _ramp(x)
    inside = (clock - start).clamp(min=0).minimum(width * factor)
    return resample(x, clock - inside + inside / factor)


def permutation(x: Tensor, strength: float) -> Tensor:
    """Cut each example in segments at random places and put them together in another order."""
    batch, length = len(x), x.shape[2]
    segments = min(1 + max(1, round(3 * strength)), length)
    cuts = torch.rand(batch, length - 1).argsort(1)[:, : segments - 1] + 1
    segment = torch.zeros(batch, length, dtype=torch.int64).scatter_(1, cuts, 1).cumsum(1)
    place = torch.rand(batch, segments).argsort(1).gather(1, segment)
    source = (place * length + torch.arange(length)).argsort(1).to(x.device)
    return x.gather(2, source[:, None].expand_as(x))


def masking(x: Tensor, strength: float) -> Tensor:
    """Put each channel's mean in place of one stretch of time."""
    length = x.shape[2]
    width = min(max(1, round(0.1 * strength * length)), length)
    start = torch.randint(length - width + 1, (len(x), 1))
    time = torch.arange(length)
    hidden = ((time >= start) & (time < start + width)).to(x.device)
    return torch.where(hidden[:, None], x.mean((0, 2), keepdim=True), x)


def resample(x: Tensor, position: Tensor) -> Tensor:
    """Read (B, C, L) at positions (B, L), in samples, by linear interpolation."""
    last = x.shape[2] - 1
    position = position.clamp(0, last)
    low = position.floor().clamp(max=max(last - 1, 0)).long()
    share = (position - low)[:, None]
    before, after = (x.gather(2, index[:, None].expand_as(x)) for index in (low, (low + 1).clamp(max=last)))
    return before + share * (after - before)


@functools.lru_cache(maxsize=8)
def spline_basis(length: int, knots: int) -> Tensor:
    """Return (L, K) float64: `basis @ heights` is the natural cubic spline through K equally spaced knots, read at L equally spaced times, ends included."""
    inner = torch.eye(knots, dtype=torch.float64)[1:-1]
    bend = 4 * inner + inner.roll(1, 1) + inner.roll(-1, 1)
    second = torch.zeros(knots, knots, dtype=torch.float64)
    second[1:-1] = torch.linalg.solve(bend[:, 1:-1], 6 * (inner.roll(1, 1) + inner.roll(-1, 1) - 2 * inner))
    time = torch.linspace(0, knots - 1, length, dtype=torch.float64)
    left = time.floor().clamp(max=knots - 2).long()
    u = (time - left)[:, None]
    heights = torch.eye(knots, dtype=torch.float64)
    straight = (1 - u) * heights[left] + u * heights[left + 1]
    return straight + (((1 - u) ** 3 - (1 - u)) * second[left] + (u**3 - u) * second[left + 1]) / 6


def _smooth(x: Tensor, channels: int) -> Tensor:
    """Draw (B, channels, L): random curves through knots of mean 0 and deviation 1."""
    return normal((len(x), channels, _KNOTS), x) @ spline_basis(x.shape[2], _KNOTS).T.to(x)


def _ramp(x: Tensor) -> Tensor:
    """Return (L,), from 0 to 1."""
    return torch.linspace(0, 1, x.shape[2], dtype=x.dtype, device=x.device)


_UM, _GUENNEC = "Um et al. 2017", "Le Guennec et al. 2016"

SERIES: dict[str, Augmentation] = {
    "jitter": Augmentation(jitter, "deviation of the noise = 0.05 · strength of the channel's deviation", _UM),
    "scaling": Augmentation(scaling, "the factor has mean 1 and deviation 0.1 · strength", _UM),
    "magnitude_warp": Augmentation(magnitude_warp, "the curve has mean 1 and deviation 0.2 · strength at its 6 knots", _UM),
    "time_warp": Augmentation(time_warp, "the clock's speed has mean 1 and deviation 0.2 · strength at its 6 knots", _UM),
    "window_slice": Augmentation(window_slice, "the window leaves 10 % · strength of the length out (90 % at most)", _GUENNEC),
    "window_warp": Augmentation(window_warp, "a tenth of the length gets 2^strength times as long or as short", _GUENNEC),
    "permutation": Augmentation(permutation, "1 + 3 · strength segments, at least 2", _UM),
    "masking": Augmentation(
        masking, "10 % · strength of the length, at least one sample", "Park et al. 2019, section 2, with the mean as filling"
    ),
    "mixup": MIXUP,
}
