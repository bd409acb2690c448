"""Canonical Huffman codes, as Deep Compression stores indices and gaps (Han, Mao and Dally, "Deep Compression", ICLR 2016, section 4).

Codes are numbered by length and then by symbol, so that the lengths alone are the table (Schwartz and Kallick, 1964).
"""

from __future__ import annotations

import heapq

import numpy as np

from laconic.storage.bits import Reader, counted, packed, unpacked, varint

_LONGEST = 15  # bits of a code
ALPHABET = 1 << 12
_PIECE = 1 << 14  # bytes whose codes are looked up at once


def lengths(counts: np.ndarray) -> np.ndarray:
    """Return the bits of each symbol's code, (K,) of at most 15; 0 where it does not occur, 1 where it is the only one."""
    there = np.flatnonzero(counts)
    found = np.zeros(len(counts), np.int64)
    weights = counts[there].astype(np.int64)
    while True:
        found[there] = _depths(weights.tolist())
        if found.max() <= _LONGEST:
            return found
        weights = (weights + 1) // 2  # flatter, until no code is longer than the table of the decoder


def _depths(weights: list[int]) -> list[int]:
    """Return the depth of each leaf of Huffman's tree."""
    if len(weights) == 1:
        return [1]
    heap = [(weight, leaf) for leaf, weight in enumerate(weights)]
    heapq.heapify(heap)
    parents = [0] * (2 * len(weights) - 1)
    for node in range(len(weights), len(parents)):
        first, second = heapq.heappop(heap), heapq.heappop(heap)
        parents[first[1]] = parents[second[1]] = node
        heapq.heappush(heap, (first[0] + second[0], node))
    depths = [0] * len(parents)
    for node in range(len(parents) - 2, -1, -1):
        depths[node] = depths[parents[node]] + 1
    return depths[: len(weights)]


def codes(bits: np.ndarray) -> np.ndarray:
    """Return the canonical code of each symbol, (K,).

    Raises:
        ValueError: no prefix code has these lengths.
    """
    if (bits > _LONGEST).any() or (bits < 0).any() or int((1 << (_LONGEST - bits[bits > 0])).sum()) > 1 << _LONGEST or not (bits > 0).any():
        raise ValueError("its code lengths are no prefix code")
    found, code, before = np.zeros(len(bits), np.int64), 0, 0
    for length in range(1, _LONGEST + 1):
        code <<= length - before
        before = length
        there = np.flatnonzero(bits == length)
        found[there] = code + np.arange(len(there))
        code += len(there)
    return found


def encode(symbols: np.ndarray, alphabet: int) -> bytes:
    """Return the lengths of all codes, then the code of each symbol.

    Args:
        symbols: (N,) whole numbers below `alphabet`, N ≥ 1.
        alphabet: at most 2¹².
    """
    bits = lengths(np.bincount(symbols, minlength=alphabet))
    last = int(np.flatnonzero(bits)[-1]) + 1
    width = np.uint8(bits[symbols])
    code = codes(bits)[symbols]
    ends = np.cumsum(width, dtype=np.int64)
    written = np.zeros(int(ends[-1]), np.uint8)
    for place in range(int(width.max())):
        there = np.flatnonzero(width > place)
        written[ends[there] - 1 - place] = (code[there] >> place) & 1
    return varint(last) + counted(packed(bits[:last], 4)) + np.packbits(written).tobytes()


def decode(reader: Reader, count: int, alphabet: int) -> np.ndarray:
    """Return the symbols, (count,) of uint16.

    Raises:
        ValueError: the bytes are not those of `encode`.
    """
    last = reader.varint(alphabet)
    bits = unpacked(reader.counted(), last, 4).astype(np.int64)
    symbol_of, length_of = _lookup(bits)
    data = np.frombuffer(bytes(reader.rest()) + b"\x00\x00", np.uint8).astype(np.uint32)
    symbols, done, place = np.empty(count, np.uint16), 0, 0
    for first in range(0, len(data) - 2, _PIECE):
        piece = data[first : first + _PIECE + 2]
        windows = _windows(piece)
        steps, end = length_of[windows].tolist(), len(windows)
        places: list[int] = []
        while place < end and done + len(places) < count:
            places.append(place)
            place += steps[place]
        symbols[done : done + len(places)] = symbol_of[windows[places]]
        done, place = done + len(places), place - end
    if done < count or place > 0 or 0 in length_of[windows[places]]:
        raise ValueError("its codes end early")
    return symbols


def _windows(piece: np.ndarray) -> np.ndarray:
    """Return the 15 bits that begin at each bit of a piece but its last two bytes."""
    three = (piece[:-2] << 16) | (piece[1:-1] << 8) | piece[2:]
    return ((three[:, None] >> np.arange(9, 1, -1, dtype=np.uint32)) & ((1 << _LONGEST) - 1)).reshape(-1)


def _lookup(bits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the symbol that each 15 bits begin with, and the length of its code; both (2¹⁵,). What begins no code has length 1 and a mark."""
    symbol_of, length_of = np.zeros(1 << _LONGEST, np.uint16), np.ones(1 << _LONGEST, np.uint8)
    for symbol, code in enumerate(codes(bits).tolist()):
        if bits[symbol]:
            span = _LONGEST - int(bits[symbol])
            symbol_of[code << span : (code + 1) << span] = symbol
            length_of[code << span : (code + 1) << span] = bits[symbol]
    return symbol_of, length_of
