"""Bytes of an archive: numbers of a fixed width, numbers of seven bits a byte, and a reader that never goes past the end."""

from __future__ import annotations

import numpy as np

_LONGEST = 10  # bytes of a varint: 64 bits


def packed(values: np.ndarray, width: int) -> bytes:
    """Return whole numbers side by side in `width` bits each, the most significant bit first.

    >>> packed(np.array([1, 2, 3]), 2).hex()
    '6c'
    """
    if width == 0:
        return b""
    shifts = np.arange(width - 1, -1, -1, dtype=np.uint32)
    bits = (values.reshape(-1).astype(np.uint32)[:, None] >> shifts) & 1
    return np.packbits(bits.astype(np.uint8).reshape(-1)).tobytes()


def unpacked(data: bytes | memoryview, count: int, width: int) -> np.ndarray:
    """Return what `packed` was given, as uint32 of shape (count,).

    Raises:
        ValueError: too few bytes, or a width that no symbol has.
    """
    if not 0 <= width <= 24 or len(data) * 8 < count * width:
        raise ValueError(f"{count} numbers of {width} bits do not fit in {len(data)} bytes")
    values: np.ndarray = np.zeros(count, np.uint32)
    if width:
        bits = np.unpackbits(np.frombuffer(data, np.uint8), count=count * width).reshape(count, width)
        for place in range(width):
            values = (values << 1) | bits[:, place]
    return values


def varint(value: int) -> bytes:
    """Return a number of 0 or more, seven bits a byte, the least significant first.

    >>> varint(300).hex()
    'ac02'
    """
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


class Reader:
    """Bytes that are read from front to back.

    Raises:
        ValueError: from each method, where the bytes end before what is read.
    """

    __slots__ = ("_data", "_end", "_place")

    def __init__(self, data: bytes | memoryview) -> None:
        self._data, self._place, self._end = memoryview(data), 0, len(data)

    def take(self, count: int) -> memoryview:
        """Return the next bytes, which are not copied."""
        start, end = self._place, self._place + count
        if count < 0 or end > self._end:
            raise ValueError(f"it ends {end - self._end} bytes early")
        self._place = end
        return self._data[start:end]

    def varint(self, most: int = 1 << 62) -> int:
        """Return the next number, at most `most`."""
        value = self._data[self._place] if self._place < self._end else 0x80
        if value < 0x80 and value <= most:  # as nearly all are: one byte
            self._place += 1
            return value
        value = 0
        for shift, byte in enumerate(self._data[self._place : self._place + _LONGEST]):
            value |= (byte & 0x7F) << 7 * shift
            if byte < 0x80:
                if value > most:
                    raise ValueError(f"it says {value} where at most {most} can stand")
                self._place += shift + 1
                return value
        raise ValueError("a number has no end")

    def counted(self) -> memoryview:
        """Return the next bytes, whose number stands before them."""
        return self.take(self.varint())

    def rest(self) -> memoryview:
        """Return all that is left."""
        start, self._place = self._place, self._end
        return self._data[start:]


def counted(data: bytes) -> bytes:
    """Return bytes with their number before them."""
    return varint(len(data)) + data
