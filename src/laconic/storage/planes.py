"""Bytes of equal weight together: of floats sign and mantissa apart from the exponent, which is the part that has a pattern.

Floats are rotated by one bit, so that the exponent of float32 and bfloat16 is one byte and the sign lies with the mantissa (the idea of ZipNN, Hershcovitch
et al. 2024, section 3). A plane that does not get shorter is written as it is.
"""

from __future__ import annotations

import sys

import numpy as np

from laconic.storage import streams
from laconic.storage.bits import Reader, counted
from laconic.storage.coded import Coded, Values, stream
from laconic.storage.layout import Layout

_BYTE = Layout(256)
_SAMPLE = 1 << 16


def encode(values: Values) -> Coded | None:
    """Return the planes, the highest first, a plane of noise as it is; None where a value is one byte."""
    if values.kind.width == 1:
        return None
    rotated = _rotated(values)
    planes = rotated.view(np.uint8).reshape(values.count, values.kind.width)
    coded = Coded(b"", {})
    for place in range(values.kind.width - 1, -1, -1):
        plane = np.ascontiguousarray(planes[:, place])
        if _is_noise(plane[:: max(1, values.count // _SAMPLE)]):
            coded += Coded.of({"rest": counted(b"\x00" + plane.tobytes())})
        else:
            coded += stream("codes", plane, _BYTE, fast=values.fast)
    return coded


def decode(reader: Reader, about: Values) -> np.ndarray:
    """Return the bits of the values, (N,).

    Raises:
        ValueError: the bytes are not those of `encode`.
    """
    wide = np.empty(about.count, about.kind.pattern)
    planes = wide.view(np.uint8).reshape(about.count, about.kind.width)
    for place in range(about.kind.width - 1, -1, -1):
        planes[:, place] = streams.decode(reader.counted(), about.count, _BYTE)
    if about.kind.mantissa is None:
        return wide
    signs = wide << (about.kind.bits - 1)
    wide >>= 1
    wide |= signs
    return wide


def _is_noise(plane: np.ndarray) -> bool:
    """Whether equal bytes meet as seldom as in noise: by chance (three standard deviations), or so that coding would save a fortieth at most."""
    counts = np.bincount(plane, minlength=256)
    pairs, chance = float(counts @ (counts - 1)) / 2, len(plane) * (len(plane) - 1) / 512
    return pairs < _ALIKE * chance + 3 * chance**0.5


_ALIKE = 2**0.2  # 7.8 bits, by the entropy of second order, which is that of pairs (Rényi)


def _rotated(values: Values) -> np.ndarray:
    assert sys.byteorder == "little"
    if values.kind.mantissa is None:
        return np.ascontiguousarray(values.patterns)
    return (values.patterns << 1) | (values.patterns >> (values.kind.bits - 1))
