"""The number formats of stored tensors, as bits: what a coding may know of a value."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np


@dataclass(frozen=True)
class Kind:
    """A number format.

    Args:
        name: in the header of an archive.
        bits: of one value, a multiple of 8.
        mantissa: stored bits of the mantissa, of floats; None of others.
        signed: whether the highest bit is a sign.
    """

    name: str
    bits: int
    mantissa: int | None = None
    signed: bool = True

    @cached_property
    def width(self) -> int:
        """Bytes of one value."""
        return self.bits // 8

    @cached_property
    def pattern(self) -> np.dtype:
        """The unsigned integers in which its bits are held."""
        return np.dtype(f"<u{self.width}")

    def patterns(self, data: bytes | memoryview) -> np.ndarray:
        """Return the bits of each value, (N,) unsigned; exact for every payload of NaN and for −0.0."""
        return np.frombuffer(data, self.pattern)

    def ordered(self, patterns: np.ndarray) -> np.ndarray:
        """Return whole numbers, int64, in the order of the values; of floats, neighbors in value are neighbors here."""
        wide = patterns.astype(np.uint64)
        sign = np.uint64(1 << (self.bits - 1))
        if self.mantissa is not None:  # sign and magnitude
            size = (wide & (sign - np.uint64(1))).astype(np.int64)
            return np.where(wide & sign > 0, -size - 1, size)
        return patterns.view(f"<i{self.width}").astype(np.int64) if self.signed else wide.astype(np.int64)


KINDS = {
    kind.name: kind
    for kind in (
        Kind("float32", 32, 23),
        Kind("float16", 16, 10),
        Kind("bfloat16", 16, 7),
        Kind("float64", 64, 52),
        Kind("int8", 8),
        Kind("uint8", 8, signed=False),
        Kind("int16", 16),
        Kind("uint16", 16, signed=False),
        Kind("int32", 32),
        Kind("uint32", 32, signed=False),
        Kind("int64", 64),
        Kind("uint64", 64, signed=False),
    )
}
BYTES = KINDS["uint8"]  # of what has no row: texts, packed integers of 4 bits, …
