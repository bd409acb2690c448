"""Huffman codes of bytes in the blocks of DEFLATE (RFC 1951): zlib reads a symbol in 3 ns, which NumPy cannot.

Each block of at most 32,768 symbols has its own table, itself in Huffman codes. That costs about half a percent of what int8 weights take at their entropy.
Matches with what came before are sought where one symbol is most of them, and a code of a whole bit would be too long for it.
"""

from __future__ import annotations

import zlib

import numpy as np

from laconic.storage.bits import Reader

ALPHABET = 1 << 8
_RAW, _LEVEL, _MEMORY = -15, 6, 9  # no header of zlib's, the digest is ours; the largest blocks
_MOST = 0.6  # share of one symbol from which matches pay


def encode(symbols: np.ndarray) -> bytes:
    """Return symbols as blocks.

    Args:
        symbols: (N,) whole numbers below 2⁸, N ≥ 1.
    """
    data = np.ascontiguousarray(symbols, np.uint8)
    ways = [zlib.Z_HUFFMAN_ONLY]
    if int(np.bincount(data).max()) > _MOST * len(data):
        ways.append(zlib.Z_DEFAULT_STRATEGY)
    return min((_written(data, way) for way in ways), key=len)


def _written(data: np.ndarray, strategy: int) -> bytes:
    coder = zlib.compressobj(_LEVEL, zlib.DEFLATED, _RAW, _MEMORY, strategy)
    return coder.compress(data.data) + coder.flush()


def decode(reader: Reader, count: int) -> np.ndarray:
    """Return the symbols, (count,) of uint8.

    Raises:
        ValueError: the bytes are not those of `encode`.
    """
    coder = zlib.decompressobj(_RAW)
    try:
        data = coder.decompress(reader.rest(), count + 1)  # the one more shows both the end and a stream that goes on
    except zlib.error as error:
        raise ValueError(f"its blocks are none of DEFLATE: {error}") from error
    if len(data) != count or not coder.eof or coder.unused_data:
        raise ValueError("its blocks do not end where the symbols do")
    return np.frombuffer(data, np.uint8)
