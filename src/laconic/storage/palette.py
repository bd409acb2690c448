"""A codebook: the distinct values of a tensor that has few, and which of them each value is."""

from __future__ import annotations

import itertools
import struct

import numpy as np

from laconic.storage import streams
from laconic.storage.bits import Reader, counted, varint
from laconic.storage.coded import Coded, Values, stream
from laconic.storage.kinds import Kind

# How the codebook is written.
_AS_IT_IS, _STEPS, _GRID = 0, 1, 2
# How ascending numbers are.
_ALL, _BITS, _EACH = 0, 1, 2
_FURTHEST = 1 << 20  # multiples of a step on each side of 0
_INFINITE = (2.0 - 2.0**-24) * 2.0**127  # what float32 rounds to infinity


def encode(values: Values) -> Coded | None:
    """Return the codebook and the codes; None where there are too many values for one."""
    found = values.codebook
    if found is None:
        return None
    book, codes = found
    head = varint(len(book)) + counted(written(values.kind, book))
    return Coded.of({"codebook": head}) + stream("codes", codes, values.layout(len(book), _zero(book)), fast=values.fast)


def decode(reader: Reader, about: Values) -> np.ndarray:
    """Return the bits of the values, (N,).

    Raises:
        ValueError: the bytes are not those of `encode`.
    """
    book = read(reader, about.kind)
    return streams.decode_values(reader.counted(), about.count, about.layout(len(book), _zero(book)), book)


def _zero(book: np.ndarray) -> int:
    """Return the code of the value 0, or else of the one in the middle."""
    place = int(book.argmin())  # as bits nothing is less
    return place if not book[place] else len(book) // 2


def written(kind: Kind, book: np.ndarray) -> bytes:
    """Return a codebook, sorted by value, in the shortest of three ways: its bits, the steps between its integers, multiples of one step between floats."""
    tried = [bytes([_AS_IT_IS]) + book.tobytes()]
    if kind.mantissa is None:
        keys = kind.ordered(book)
        tried.append(bytes([_STEPS]) + _ascending(keys))
    elif kind.name == "float32":
        tried += _gridded(book.view("<f4"))
    return min(tried, key=len)


def _ascending(keys: np.ndarray) -> bytes:
    """Return ascending whole numbers: the first one (zigzag), then which of those that follow are there as bits, or else by how much each is above the last."""
    first, span = int(keys[0]), int(keys[-1]) - int(keys[0])
    head = varint(-2 * first - 1 if first < 0 else 2 * first)
    if span + 1 == len(keys):
        return head + bytes([_ALL])
    if span <= 8 * len(keys):
        there = np.zeros(span, np.uint8)
        there[(keys[1:] - keys[0]).astype(np.int64) - 1] = 1
        return head + bytes([_BITS]) + varint(span) + np.packbits(there).tobytes()
    steps = [int(after) - int(before) - 1 for before, after in itertools.pairwise(keys)]
    return head + bytes([_EACH]) + b"".join(varint(step) for step in steps)


def _read_ascending(reader: Reader, count: int) -> tuple[int, np.ndarray]:
    """Return the first of ascending whole numbers, and how far each is above it modulo 2⁶⁴, (count,) of uint64."""
    first = reader.varint(1 << 65)
    first = -(first // 2) - 1 if first % 2 else first // 2
    way = reader.take(1)[0]
    if way == _ALL:
        return first, np.arange(count, dtype=np.uint64)
    if way == _BITS:
        span = reader.varint(8 * streams.ALPHABET)
        there = np.unpackbits(np.frombuffer(reader.take((span + 7) // 8), np.uint8), count=span).nonzero()[0]
        if len(there) != count - 1:
            raise ValueError("its codebook has another number of values")
        above = np.zeros(count, np.uint64)
        above[1:] = there + 1
        return first, above
    if way != _EACH:
        raise ValueError("its codebook is none")
    sums = [0]
    for _ in range(count - 1):
        sums.append((sums[-1] + reader.varint(1 << 64) + 1) & _WORD)
    return first, np.array(sums, np.uint64)


_WORD = (1 << 64) - 1


def _gridded(book: np.ndarray) -> list[bytes]:
    """Return floats as multiples of a step in double precision, where each is exactly its multiple rounded to float32; nothing else."""
    wide = book.astype(np.float64)
    sizes = np.abs(wide[wide != 0])
    if not len(sizes) or not np.isfinite(book).all() or (np.signbit(book) & (book == 0)).any():
        return []
    steps = [sizes.min() / parts for parts in (1, 2, 3)]  # the smallest may be twice or three times the step
    for step in (*steps, float(np.diff(wide).min(initial=np.inf))):  # of many values two are neighbors
        multiples = np.rint(wide / step)
        if multiples.any() and np.abs(multiples).max() < _FURTHEST:
            middle = _step(wide, multiples)
            for exact in (middle, float(np.float32(middle))):  # that of a grid made in single precision may be the only one
                if ((multiples * exact).astype(np.float32).view(np.uint32) == book.view(np.uint32)).all():
                    return [bytes([_GRID]) + np.float64(exact).tobytes() + _ascending(multiples.astype(np.int64))]
    return []


def _step(values: np.ndarray, multiples: np.ndarray) -> float:
    """Return the middle of the steps whose multiples round to the values in float32."""
    there = multiples != 0
    half = np.spacing(np.abs(values[there]).astype(np.float32)).astype(np.float64) / 2.001
    low, high = ((np.abs(values[there]) + side * half) / np.abs(multiples[there]) for side in (-1, 1))
    return float((low.max() + high.min()) / 2)


def read(reader: Reader, kind: Kind) -> np.ndarray:
    """Return a codebook's bits, (K,).

    Raises:
        ValueError: none that `written` writes.
    """
    count = reader.varint(streams.ALPHABET)
    inside = Reader(reader.counted())
    way = inside.take(1)[0]
    if not count or way not in (_AS_IT_IS, _STEPS, _GRID):
        raise ValueError("its codebook is none")
    if way == _AS_IT_IS:
        return kind.patterns(bytes(inside.take(count * kind.width)))
    if way == _STEPS:
        first, above = _read_ascending(inside, count)
        return (above + np.uint64(first & _WORD)).astype(kind.pattern)
    (step,) = struct.unpack("<d", inside.take(8))
    first, above = _read_ascending(inside, count)
    furthest = max(abs(first), abs(first + int(above.max())))
    if furthest >= _FURTHEST or kind.name != "float32" or not furthest * abs(step) < _INFINITE:
        raise ValueError("its codebook is no grid")
    return ((above.astype(np.float64) + first) * step).astype("<f4").view("<u4")
