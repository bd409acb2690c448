"""Streams of symbols: whole numbers below a small bound. Each way to write them stands in a table; the shortest is taken, by trying.

A way that is slow to read must be shorter by 2 % than one that is not. No code with one table for all symbols takes less than their entropy of order zero, so
that what cannot win by it is not tried.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from laconic.storage import ans, context, deflate, groups, huffman
from laconic.storage.bits import Reader, packed, unpacked, varint
from laconic.storage.distinct import MOST as ALPHABET
from laconic.storage.layout import Layout

# Symbols: decoding our own Huffman codes is slow; many states are worth their bytes and their speed.
_HUFFMAN_MOST, _INTERLEAVED_LEAST = 1 << 16, 1 << 18
_SLOW = 1.02  # what a byte counts for that is slow to read
_BLOCK = 1 << 15  # symbols that are looked up at once: what a cache holds


@dataclass(frozen=True)
class Coder:
    """A way to write symbols.

    Args:
        name: in the size breakdown.
        encode: from symbols, (N,), to bytes.
        decode: from a reader and their number to the symbols.
        valued: to what a book has for each of them, at once; None: by way of the symbols.
        fits: of how many symbols it is worth trying.
        table: bytes of the stream that are its table, not its symbols.
        least: bytes below which a stream cannot be, from how often each symbol occurs; 0 where only trying tells.
        price: what a byte of it counts for.
        worth: whether it is tried, from how often each symbol occurs.
    """

    name: str
    encode: Callable[[np.ndarray, Layout], bytes]
    decode: Callable[[Reader, int, Layout], np.ndarray]
    fits: Callable[[int, Layout], bool]
    table: Callable[[Reader], int] = lambda reader: 0
    least: Callable[[np.ndarray], float] = lambda counts: 0.0
    price: float = 1.0
    worth: Callable[[np.ndarray], bool] = lambda counts: True
    valued: Callable[[Reader, int, Layout, np.ndarray], np.ndarray] | None = None


def _entropy(counts: np.ndarray) -> float:
    """Return the bytes that symbols take at their entropy of order zero."""
    there = counts[counts > 0]
    return float((there * np.log2(there.sum() / there)).sum()) / 8


def _bits(symbols: np.ndarray, layout: Layout) -> bytes:
    return symbols.astype(np.uint8).tobytes() if layout.width == 8 else packed(symbols, layout.width)


def _from_bits(reader: Reader, count: int, layout: Layout) -> np.ndarray:
    return np.frombuffer(reader.take(count), np.uint8) if layout.width == 8 else unpacked(reader.rest(), count, layout.width)


# The place in the table is what stands in a file: rows are added at the end.
TABLE = (
    Coder("fixed width", _bits, _from_bits, lambda count, layout: True),
    Coder(
        "canonical Huffman",
        lambda symbols, layout: huffman.encode(symbols, layout.alphabet),
        lambda reader, count, layout: huffman.decode(reader, count, layout.alphabet),
        lambda count, layout: 1 < layout.alphabet <= huffman.ALPHABET and count <= _HUFFMAN_MOST,
        lambda reader: reader.varint() and len(reader.counted()),
        lambda counts: _entropy(counts) + int(np.flatnonzero(counts)[-1]) // 2,
        _SLOW,
    ),
    Coder(
        "interleaved ANS",
        lambda symbols, layout: ans.encode(symbols, layout.alphabet),
        lambda reader, count, layout: ans.decode(reader, count, layout.alphabet),
        lambda count, layout: 1 < layout.alphabet <= ans.ALPHABET and count >= _INTERLEAVED_LEAST,
        lambda reader: len(reader.counted()),
        _entropy,
        _SLOW,
    ),
    Coder(
        "ANS",
        lambda symbols, layout: ans.encode_plain(symbols, layout.alphabet),
        lambda reader, count, layout: ans.decode_plain(reader, count, layout.alphabet),
        lambda count, layout: 1 < layout.alphabet <= ans.ALPHABET and count < _INTERLEAVED_LEAST,
        lambda reader: len(reader.counted()),
        _entropy,
        _SLOW,
    ),
    Coder("adaptive contexts", context.encode, context.decode, lambda count, layout: context.fits(count, layout.alphabet), price=_SLOW),
    Coder(
        "Huffman in blocks",
        lambda symbols, layout: deflate.encode(symbols),
        lambda reader, count, layout: deflate.decode(reader, count),
        lambda count, layout: 1 < layout.alphabet <= deflate.ALPHABET,
    ),
    Coder(
        "groups in Huffman blocks",
        lambda symbols, layout: groups.encode(symbols, layout.alphabet),
        lambda reader, count, layout: groups.decode(reader, count, layout.alphabet, np.arange(layout.alphabet, dtype=layout.dtype)),
        lambda count, layout: 1 < layout.alphabet <= groups.ALPHABET,
        worth=groups.worth,
        valued=lambda reader, count, layout, book: groups.decode(reader, count, layout.alphabet, book),
    ),
)
_PLACES = {coder.name: place for place, coder in enumerate(TABLE)}


def encode(symbols: np.ndarray, layout: Layout, only: str = "", fast: bool = False) -> bytes:
    """Return symbols in the way that takes the fewest bytes, with its place in the table before them.

    Args:
        symbols: (N,) whole numbers below the layout's alphabet.
        layout: of them.
        only: the way that is taken; the shortest of all that fit, if empty.
        fast: leave out what is slow to read.
    """
    if not len(symbols):
        return b"\x00"
    if only:
        return varint(_PLACES[only]) + TABLE[_PLACES[only]].encode(symbols, layout)
    counts = np.bincount(symbols, minlength=layout.alphabet)
    fitting = [
        (coder.price * coder.least(counts), place)
        for place, coder in enumerate(TABLE)
        if coder.fits(len(symbols), layout) and not (fast and coder.price > 1) and coder.worth(counts)
    ]
    best, paid = b"", float("inf")
    for least, place in sorted(fitting):
        if least < paid:
            data = varint(place) + TABLE[place].encode(symbols, layout)
            if TABLE[place].price * len(data) < paid:
                best, paid = data, TABLE[place].price * len(data)
    return best


def decode(data: bytes | memoryview, count: int, layout: Layout) -> np.ndarray:
    """Return the symbols, (count,).

    Raises:
        ValueError: the bytes are not those of `encode`.
    """
    coder, reader = _begun(data, layout)
    return _checked(coder.decode(reader, count, layout), layout) if count else np.zeros(0, layout.dtype)


def decode_values(data: bytes | memoryview, count: int, layout: Layout, book: np.ndarray) -> np.ndarray:
    """Return what a book has for each symbol, (count,).

    Args:
        data: as of `encode`.
        count: how many.
        layout: of the symbols.
        book: (alphabet,).

    Raises:
        ValueError: the bytes are not those of `encode`.
    """
    coder, reader = _begun(data, layout)
    if not count:
        return book[:0]
    if coder.valued is not None:
        return coder.valued(reader, count, layout, book)
    symbols = _checked(coder.decode(reader, count, layout), layout)
    values = np.empty(count, book.dtype)
    for first in range(0, count, _BLOCK):
        book.take(symbols[first : first + _BLOCK], out=values[first : first + _BLOCK], mode="clip")
    return values


def _begun(data: bytes | memoryview, layout: Layout) -> tuple[Coder, Reader]:
    reader = Reader(data)
    coder = TABLE[reader.varint(len(TABLE) - 1)]
    if not 1 <= layout.alphabet <= ALPHABET:
        raise ValueError(f"symbols below {layout.alphabet} are of no stream")
    return coder, reader


def _checked(symbols: np.ndarray, layout: Layout) -> np.ndarray:
    if symbols.itemsize == 1 and layout.alphabet > 255:  # nothing else can stand there
        return symbols
    if int(symbols.max()) >= layout.alphabet:
        raise ValueError(f"a symbol is {int(symbols.max())} and must be below {layout.alphabet}")
    return symbols


def told(data: bytes | memoryview) -> tuple[str, int]:
    """Return the name of the way in which a stream is written, and how many of its bytes are its table."""
    reader = Reader(data)
    coder = TABLE[reader.varint(len(TABLE) - 1)]
    return coder.name, coder.table(reader) if len(data) > 1 else 0
