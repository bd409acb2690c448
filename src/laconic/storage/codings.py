"""The codings of a tensor's values, each exact: they see bits, never why a value is what it is. The smallest is taken, by trying.

A coding is a row of `TABLE`. It takes the bits of the values, and tells how many of its bytes are mask, codebook, codes, tables and the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from laconic.storage import palette, planes, sparse
from laconic.storage.bits import Reader, varint
from laconic.storage.coded import Coded, Part, Values


@dataclass(frozen=True)
class Coding:
    """A way to write values.

    Args:
        name: in the size breakdown.
        encode: from values to bytes; None where it is of no use for them.
        decode: from a reader and what the values are to their bits, (N,).
        price: what a byte of it counts for where values are to be read fast.
    """

    name: str
    encode: Callable[[Values], Coded | None]
    decode: Callable[[Reader, Values], np.ndarray]
    price: float = 1.0


def _raw(values: Values) -> Coded:
    return Coded.of({"rest": values.patterns.tobytes()})


def _from_raw(reader: Reader, about: Values) -> np.ndarray:
    return about.kind.patterns(reader.take(about.count * about.kind.width))


# The place in the table is what stands in a file: rows are added at the end.
TABLE = (
    Coding("raw", _raw, _from_raw),
    Coding("byte planes", planes.encode, planes.decode),
    Coding("codebook", palette.encode, palette.decode),
    Coding("relative index", sparse.encode_relative, sparse.decode_relative),
    Coding("mask", sparse.encode_masked, sparse.decode_masked, price=1.02),  # two streams and a step that writes by places
)


def encode(values: Values) -> tuple[str, Coded]:
    """Return the smallest coding's name, and the values in it with its place in the table before them.

    Args:
        values: at least one.
    """
    tried = [(coding, place, coded) for place, coding in enumerate(TABLE[1:], 1) if (coded := coding.encode(values)) is not None]
    coding, place, best = min(tried, key=lambda item: len(item[2].data) * (item[0].price if values.fast else 1.0))
    name = coding.name
    if len(best.data) >= values.patterns.nbytes:
        name, place, best = TABLE[0].name, 0, _raw(values)
    return name, Coded(varint(place) + best.data, best.parts)


def decode(data: bytes, about: Values) -> np.ndarray:
    """Return the bits of the values, (N,) unsigned.

    Args:
        data: as of `encode`.
        about: what is known of the values, without their bits.

    Raises:
        ValueError: the bytes are not those of `encode`.
    """
    reader = Reader(data)
    patterns = TABLE[reader.varint(len(TABLE) - 1)].decode(reader, about)
    if patterns.shape != (about.count,):
        raise ValueError(f"it has {patterns.size} values in place of {about.count}")
    return patterns


def breakdown(parts: Mapping[Part, int], total: int) -> dict[str, int]:
    """Return bytes by part; what no part claims is `rest`."""
    named = {part: parts.get(part, 0) for part in ("mask", "codebook", "codes", "tables")}
    return {**named, "rest": total - sum(named.values())}
