"""Schemes: how many bits, which codes, one scale or several. The domain's words as values, so that no code asks `if bits == 4`."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from laconic.core.fake_quant import TINY, Quantizer
from laconic.core.processor import instructions


@dataclass(frozen=True)
class Scheme:
    """Codes from `low` to `high`.

    Attributes:
        low: lowest code.
        high: highest code.
        symmetric: 0.0 has the code 0 (a signed range) or the lowest code (where nothing is negative); else the zero point is free.
        axis: along which each slice has its own scale; None for one scale.
        group: so many neighboring inputs of a weight (O, I) share a scale; 0 for whole rows.
    """

    low: int
    high: int
    symmetric: bool = True
    axis: int | None = None
    group: int = 0


WEIGHT_INT8 = Scheme(-127, 127, axis=0)
WEIGHT_HALF = Scheme(-63, 63, axis=0)
WEIGHT_INT4 = Scheme(-7, 7, axis=0)
WEIGHT_AFFINE_INT8 = Scheme(0, 255, symmetric=False, axis=0)
WEIGHT_AFFINE_INT4 = Scheme(0, 15, symmetric=False, axis=0)
ACTIVATION_SYMMETRIC = Scheme(-128, 127)
ACTIVATION_SIGNED = Scheme(-127, 127)
ACTIVATION_UNSIGNED = Scheme(0, 255)
ACTIVATION_AFFINE = Scheme(0, 255, symmetric=False)

# Instructions that multiply 8-bit numbers into 32 bits at once; without one of them the products of u8 and s8 are summed in 16 bits, which overflow.
_WIDE_SUMS = ("avx512_vnni", "avx_vnni", "amx_int8", "asimddp", "i8mm", "sve")


def full_range() -> bool:
    """Return whether this processor takes weights over the whole range of int8 without overflow."""
    return bool(instructions() & set(_WIDE_SUMS))


# A range whose shorter side is less than this share of the longer would waste nearly half of the codes if it were put around 0 (the output of a GELU).
_SKEWED = 0.25


def activation_scheme(symmetric: bool, lowest: float, highest: float, signed: bool = False) -> Scheme:
    """Where nothing is negative, all codes are for what is not; a skewed range gets a zero point of its own; else around 0, if the target likes that best.

    Of a target that has signed codes around 0 and no others (`signed`), all ranges get these.
    """
    if signed:
        return ACTIVATION_SIGNED
    if symmetric and lowest >= 0:
        return ACTIVATION_UNSIGNED
    skewed = min(-lowest, highest) < _SKEWED * max(-lowest, highest)
    return ACTIVATION_SYMMETRIC if symmetric and not skewed else ACTIVATION_AFFINE


def grid(low: Tensor, high: Tensor, scheme: Scheme) -> Quantizer:
    """Return the grid that covers [low, high] and holds 0.0 exactly (Jacob et al. 2018, section 3).

    Args:
        low: of the values, shape () or one for each slice.
        high: likewise.
        scheme: of the codes.
    """
    low, high = low.double().reshape(-1).clamp(max=0.0), high.double().reshape(-1).clamp(min=0.0)
    if not scheme.symmetric:
        scale = _step((high - low) / (scheme.high - scheme.low))
        zero = (scheme.low - torch.round(low / scale)).clamp(scheme.low, scheme.high)
    else:
        largest = high if scheme.low >= 0 else torch.maximum(-low, high)
        scale, zero = _step(largest / scheme.high), torch.zeros_like(high)
    return Quantizer(scale.float(), zero.to(torch.int32), scheme.low, scheme.high, scheme.axis, scheme.group)


def _step(scale: Tensor) -> Tensor:
    """Where there is only 0, a step of 1; else none so small that the product of two steps is no normal number."""
    return torch.where(scale == 0, torch.ones_like(scale), scale.clamp(min=TINY))


def weight_grid(weight: Tensor, scheme: Scheme) -> Quantizer:
    """Return the grid over each slice's values.

    Args:
        weight: any shape; for a grouped scheme (O, I) with I a multiple of the group, else the group is given up (see `Quantizer.group`).
        scheme: its axis says which slices; one that is not symmetric covers each slice from its lowest to its highest value, and 0.
    """
    if scheme.group and (weight.dim() != 2 or weight.shape[1] % scheme.group):
        scheme = replace(scheme, group=0)
    if scheme.group:
        flat = weight.detach().reshape(-1, scheme.group)
    elif scheme.axis is None:
        flat = weight.detach().reshape(1, -1)
    else:
        flat = weight.detach().movedim(scheme.axis, 0).flatten(1) if weight.dim() > 1 else weight.detach().reshape(-1, 1)
    found = grid(flat.amin(1), flat.amax(1), scheme)
    step = common_step(weight, scheme.high) if scheme.symmetric else None
    return found if step is None else replace(found, scale=torch.full_like(found.scale, step))


# Numbers that are sorted to see whether there are too many different ones.
_FIRST = 4096
_EXACT = 1e-3  # of a step: how far from a multiple of it a number lies that was one before it was rounded to float32


def common_step(weight: Tensor, most: int) -> float | None:
    """Return a step of which all numbers of a weight are multiples, at most so many times it; None where there is none.

    Those are that `rate_distortion` chose. On such a grid rounding changes nothing, and the codes of all slices are as few as the values; one step for each
    slice would err, and spread the few values over all codes. Of such steps it is the least: the codes reach as far as `most` allows.
    """
    values = weight.detach().flatten()
    if len(values[:_FIRST].abs().unique()) > most + 1:
        return None
    sizes = values.abs().unique().double()
    sizes = sizes[~(sizes <= TINY)]  # what is no number stays
    if not 0 < len(sizes) <= most or not bool(sizes.isfinite().all()):
        return None
    largest = float(sizes[-1])
    least = float(torch.cat([sizes[:1], sizes.diff()]).min())  # tells the step, and the largest number tells it exactly
    times = round(largest / least)
    if times > most or bool(((multiples := sizes * (times / largest)) - multiples.round()).abs().gt(_EXACT).any()):
        return None
    return largest / (times * (most // times))
