"""Frequencies of symbols as whole numbers that sum to 2¹⁴, and how a table of them is written: one by one, or as the curve that they follow.

A tensor of a thousand int8 values has nearly as many bits in its table as the table saves. Weights follow a bell, of which three numbers say enough: a
generalized normal distribution (Nadarajah, J. Applied Statistics 32, 2005) of a center, a scale and a shape.
"""

from __future__ import annotations

import numpy as np

from laconic.storage.bits import Reader, packed, unpacked, varint

SCALE_BITS = 14  # of the sum of all frequencies
SCALE = 1 << SCALE_BITS
# How a table is written.
_ONE, _LIST, _CURVE = 0, 1, 2
_SCALES, _SHAPES = 96, 16  # a curve's: 2^(i / 6), (j + 1) / 4


def frequencies(counts: np.ndarray) -> np.ndarray:
    """Return whole numbers proportional to counts that sum to 2¹⁴; what occurs gets at least 1.

    Args:
        counts: (K,) of each symbol; at least one is positive and at most 2¹² are.
    """
    there = counts > 0
    shares = np.where(there, np.maximum(1, counts.astype(np.int64) * SCALE // int(counts.sum())), 0)
    excess = int(shares.sum()) - SCALE
    while excess:  # the largest pays or gains, where a relative change is least
        place = int(shares.argmax())
        change = min(excess, int(shares[place]) - 1 - int(shares[place]) // 2) if excess > 0 else excess
        shares[place] -= change
        excess -= change
    return shares


def table(shares: np.ndarray) -> bytes:
    """Return frequencies as bytes: which symbols occur as a bitmap, and the width of each number before its bits."""
    there = np.flatnonzero(shares)
    widths = np.array([int(value).bit_length() for value in shares[there]], np.uint32)
    bits = np.concatenate([(shares[there][:, None] >> np.arange(SCALE_BITS - 1, -1, -1)) & 1]).astype(np.uint8)
    kept = np.arange(SCALE_BITS) > SCALE_BITS - widths.astype(np.int64)[:, None]  # the leading 1 is known from the width
    if shares.max() == SCALE:
        return varint(int(there[0])) + bytes([_ONE])
    last = int(there[-1]) + 1
    return varint(last) + bytes([_LIST]) + packed(shares[:last] > 0, 1) + packed(widths, 4) + np.packbits(bits[kept]).tobytes()


def read_table(data: bytes | memoryview, alphabet: int) -> np.ndarray:
    """Return frequencies of shape (alphabet,).

    Raises:
        ValueError: they do not sum to what they must.
    """
    reader = Reader(data)
    shares = np.zeros(alphabet, np.int64)
    last = reader.varint(alphabet)
    way = reader.take(1)[0]
    if way == _ONE and last < alphabet:
        shares[last] = SCALE
        return shares
    if way == _CURVE and last < alphabet:
        center, (scale, shape) = reader.varint(alphabet), reader.take(2)
        if scale >= _SCALES or shape >= _SHAPES:
            raise ValueError("its curve of frequencies is none")
        return _curve(center, scale, shape, last + 1, alphabet)
    if way != _LIST:
        raise ValueError("its table of frequencies is none")
    there = np.flatnonzero(unpacked(reader.take((last + 7) // 8), last, 1))
    widths = unpacked(reader.take((len(there) + 1) // 2), len(there), 4).astype(np.int64)
    bits, place = np.unpackbits(np.frombuffer(reader.rest(), np.uint8)).tolist(), 0
    for symbol, width in zip(there, widths, strict=True):
        value = 1
        for bit in bits[place : place + width - 1]:
            value = value << 1 | bit
        shares[symbol], place = value, place + width - 1
    if int(shares.sum()) != SCALE or (widths < 1).any():
        raise ValueError("its table of frequencies is not whole")
    return shares


def best_table(counts: np.ndarray) -> tuple[bytes, np.ndarray]:
    """Return the table with which symbols of these counts take the fewest bits, itself included, and its frequencies.

    Args:
        counts: (K,) of each symbol; at least one is positive.
    """
    exact = frequencies(counts)
    tried = [(table(exact), exact)]
    if np.count_nonzero(counts) > _LEAST_CURVE and 8 * len(tried[0][0]) > _WORTH * int(counts.sum()):
        tried.append(_fitted(counts))
    there = counts > 0
    return min(tried, key=lambda one: 8 * len(one[0]) - float((counts[there] * np.log2(one[1][there] / SCALE)).sum()))


_LEAST_CURVE, _WORTH = 12, 0.02  # symbols that occur, and bits of a symbol in a table, from which a curve is worth fitting


def _fitted(counts: np.ndarray) -> tuple[bytes, np.ndarray]:
    """Return the curve that fits best: of each shape the scales around that of the largest likelihood, which the mean power of the distance tells."""
    last = int(np.flatnonzero(counts)[-1])
    seen = counts[: last + 1].astype(np.float64)
    seen /= seen.sum()
    center = round(float(np.arange(last + 1) @ seen))
    shapes = (np.arange(_SHAPES) + 1) / 4
    powers = np.abs(np.arange(last + 1) - center) ** shapes[:, None]
    likeliest = 6 * np.log2(np.maximum(shapes * (powers @ seen), 1e-9)) / shapes
    scales = np.clip(np.rint(likeliest)[:, None] + (-3, -1, 0, 1, 3), 0, _SCALES - 1)
    heights = np.exp(-powers[:, None] / 2.0 ** (shapes[:, None] * scales / 6)[..., None])
    heights /= heights.sum(-1, keepdims=True)
    fits = np.log(heights + 1.0 / SCALE) @ seen - np.log(heights.sum(-1) + (last + 1) / SCALE)
    shape, place = divmod(int(fits.argmax()), scales.shape[1])
    scale = int(scales[shape, place])
    return varint(last) + bytes([_CURVE]) + varint(center) + bytes([scale, shape]), _curve(center, scale, shape, last + 1, len(counts))


def _curve(center: int, scale: int, shape: int, count: int, alphabet: int) -> np.ndarray:
    """Return the frequencies of a curve over the first `count` symbols, each at least 1; rounded far from where machines differ."""
    heights = np.exp(-((np.abs(np.arange(count) - center) / 2.0 ** (scale / 6)) ** ((shape + 1) / 4)))
    shares = np.zeros(alphabet, np.int64)
    shares[:count] = frequencies(1 + np.rint(heights * (1 << 24) / heights.sum()).astype(np.int64))
    return shares
