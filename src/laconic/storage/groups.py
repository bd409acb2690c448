"""Groups of neighboring symbols as one byte each, in Huffman codes in the blocks of DEFLATE (`deflate`): where symbols are few, fewer and shorter codes.

A Huffman code has a whole number of bits: what is lost by rounding is lost once a group (blocking, Huffman 1952; Cover and Thomas, section 5.4), and what
neighbors have in common shows in how often each group occurs. Two of 16 different symbols are a byte, three of 6, eight of 2. In groups stands the range of
symbols that holds the most of them; for all others one more thing stands there, and they themselves are written apart.

Shapes: N symbols, n groups of `size` symbols.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np

from laconic.storage import deflate
from laconic.storage.bits import Reader, counted, varint

ALPHABET = 1 << 8
_SIZES = {size: int(256 ** (1 / size) + 1e-9) for size in (8, 5, 4, 3, 2)}  # symbols of a group -> different ones that it can have
_SAMPLE = 1 << 16  # symbols by which sizes are compared
_LEAST, _FEWEST = 0.9, 64  # share of the symbols that stand in groups, and symbols, from which groups are worth trying
_BLOCK = 1 << 15  # groups that are looked up at once


@dataclass(frozen=True)
class _Window:
    """The symbols that stand in groups.

    Attributes:
        size: symbols of a group.
        first: the least symbol.
        width: how many.
        others: how many other symbols there are.
    """

    size: int
    first: int
    width: int
    others: int

    @property
    def different(self) -> int:
        """How many different things stand in a group; the last one says that it is another symbol, if there are any."""
        return self.width + (self.others > 0)

    def narrowed(self, symbols: np.ndarray) -> np.ndarray:
        """Return what stands in groups for symbols, (N,) of uint8."""
        if not self.others:
            return symbols.astype(np.uint8)
        return np.minimum(symbols.astype(np.uint16) - np.uint16(self.first), self.width).astype(np.uint8)  # those below wrap around

    def grouped(self, symbols: np.ndarray) -> np.ndarray:
        """Return the bytes of the groups, (n,); the last one is filled with what the window begins with."""
        padded = np.zeros(-(-len(symbols) // self.size) * self.size, np.uint8)
        padded[: len(symbols)] = self.narrowed(symbols)
        digits = padded.reshape(-1, self.size)
        number = digits[:, 0]
        for place in range(1, self.size):
            number = number * np.uint8(self.different) + digits[:, place]
        return _bytes(self.different, self.size)[0].take(number)


def _window(counts: np.ndarray, size: int) -> _Window:
    """Return the window of a size that holds the most symbols; all of them where it is wide enough."""
    width = _SIZES[size]
    if len(counts) <= width:
        return _Window(size, 0, len(counts), 0)
    sums = np.concatenate([[0], np.cumsum(counts)])
    held = sums[width - 1 :] - sums[: len(sums) - width + 1]
    return _Window(size, int(held.argmax()), width - 1, len(counts) - width + 1)


@cache
def _bytes(different: int, size: int) -> tuple[np.ndarray, np.ndarray, int]:
    """Return the byte of each group's number, what stands in the group of each byte (groups, size), and the first byte of those that hold another symbol.

    These come last, so that they are found by one comparison.
    """
    numbers = np.arange(different**size)
    digits = np.stack([numbers // different**place % different for place in range(size - 1, -1, -1)], 1).astype(np.uint8)
    order = np.argsort((digits == different - 1).any(1), kind="stable")
    place = np.empty(len(numbers), np.uint8)
    place[order] = numbers
    return place, digits[order], (different - 1) ** size


def _holds(counts: np.ndarray, window: _Window) -> bool:
    """Return whether nearly all symbols are in a window."""
    return not window.others or float(counts[window.first : window.first + window.width].sum()) >= _LEAST * float(counts.sum())


def worth(counts: np.ndarray) -> bool:
    """Return whether there are enough symbols, nearly all of which stand in groups of two."""
    return int(counts.sum()) >= _FEWEST and _holds(counts, _window(counts, 2))


def _windows(counts: np.ndarray) -> list[_Window]:
    """Return the windows that are worth comparing: those that hold nearly all symbols, the largest groups first, up to the first that holds all."""
    found: list[_Window] = []
    for size in _SIZES:
        window = _window(counts, size)
        if _holds(counts, window):
            found.append(window)
        if not window.others:
            break
    return found or [window]


def encode(symbols: np.ndarray, alphabet: int) -> bytes:
    """Return the window, the symbols that stand in no group, and the groups.

    Args:
        symbols: (N,) whole numbers below `alphabet`, N ≥ 1.
        alphabet: at most 2⁸.
    """
    windows = _windows(np.bincount(symbols, minlength=alphabet))
    window = windows[0] if len(windows) == 1 else min(windows, key=lambda one: _expected_bits(symbols, one))
    head = varint(window.size) + varint(window.first) + varint(window.width)
    if window.others:
        there = symbols[window.narrowed(symbols) == window.width].astype(np.int64)
        others = np.where(there < window.first, there, there - window.width).astype(np.uint8)
        head += varint(len(others)) + (counted(deflate.encode(others)) if len(others) else b"")
    return head + deflate.encode(window.grouped(symbols))


def _expected_bits(symbols: np.ndarray, window: _Window) -> float:
    """Return about the bits of a symbol, from the first ones: Huffman codes of a bit or more a group, their tables, and eight of each symbol in no group."""
    some = symbols[:_SAMPLE]
    counts = np.bincount(window.grouped(some))
    counts = counts[counts > 0]
    total = int(counts.sum())
    bits = float((counts * np.maximum(1.0, np.log2(total / counts) + _ABOVE)).sum()) + _ROW * len(counts)
    return (bits + (8 * int((window.narrowed(some) == window.width).sum()) if window.others else 0)) / len(some)


_ABOVE, _ROW = 0.03, 4  # bits that a Huffman code has above the entropy, and that its row in the table takes


def decode(reader: Reader, count: int, alphabet: int, book: np.ndarray) -> np.ndarray:
    """Return what a book has for each symbol, (count,).

    Args:
        reader: of the bytes.
        count: N.
        alphabet: of the symbols.
        book: (alphabet,).

    Raises:
        ValueError: the bytes are not those of `encode`.
    """
    size, first, width = reader.varint(8), reader.varint(alphabet), reader.varint(alphabet)
    window = _Window(size, first, width, alphabet - width)
    if not (window.size in _SIZES and width >= 1 and first + width <= alphabet and window.different <= _SIZES[size]):
        raise ValueError("its groups are none")
    others = _others(reader, window, count) if window.others else None
    groups = deflate.decode(reader, -(-count // size))
    _, digits, holding = _bytes(window.different, size)
    if len(digits) < ALPHABET and int(groups.max()) >= len(digits):
        raise ValueError("a group in it is none")
    table = np.concatenate((book[first : first + width], book[:1])).take(digits)
    values = np.empty((len(groups), size), book.dtype)
    for start in range(0, len(groups), _BLOCK):
        table.take(groups[start : start + _BLOCK], 0, values[start : start + _BLOCK], "clip")
    flat = values.reshape(-1)[:count]
    if others is not None:
        _fill(flat, np.flatnonzero(groups >= holding), groups, digits, window, book[others])
    return flat


def _others(reader: Reader, window: _Window, count: int) -> np.ndarray:
    """Return the symbols that stand in no group, in their order."""
    many = reader.varint(count)
    if not many:
        return np.zeros(0, np.int64)
    found = deflate.decode(Reader(reader.counted()), many).astype(np.int64)
    if int(found.max()) >= window.others:
        raise ValueError("a symbol in it is none")
    found[found >= window.first] += window.width
    return found


def _fill(flat: np.ndarray, held: np.ndarray, groups: np.ndarray, digits: np.ndarray, window: _Window, values: np.ndarray) -> None:
    """Put the values of those that stand in no group in their places, `held` being the groups that say so."""
    rows, columns = np.nonzero(digits[groups[held]] == window.width)
    places = held[rows] * window.size + columns
    if len(places) != len(values) or (len(places) and int(places[-1]) >= len(flat)):
        raise ValueError("its groups name more symbols, or fewer, than stand beside them")
    flat[places] = values
