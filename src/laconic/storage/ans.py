"""Asymmetric numeral systems, range variant (Duda, arXiv 1311.2540, 2013), interleaved over many states, so that NumPy decodes a row at a time.

Symbol number `i` belongs to state `i % lanes`. States are 32 bits and give or take words of 16; all states share one sequence of words, in the order in which
the decoder asks for them (Giesen, "Interleaved entropy coders", 2014). One table for all symbols; `context` has adaptive ones.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from laconic.core.errors import need
from laconic.storage.bits import Reader, counted, varint
from laconic.storage.frequencies import SCALE, SCALE_BITS, best_table, read_table

_LEAST = 1 << 16  # of a state between two symbols
ALPHABET = 1 << 12
_SYMBOLS_A_LANE, _MOST_LANES = 512, 4096


def lanes_for(count: int) -> int:
    """Return how many states a stream of this many symbols has: 4 bytes each, so few for few."""
    return max(1, min(_MOST_LANES, count // _SYMBOLS_A_LANE))


def encode(symbols: np.ndarray, alphabet: int) -> bytes:
    """Return symbols in as few bits as their counts allow.

    Args:
        symbols: (N,) whole numbers below `alphabet`, N ≥ 1.
        alphabet: at most 2¹².
    """
    told, shares = best_table(np.bincount(symbols, minlength=alphabet))
    lanes = lanes_for(len(symbols))
    states, words = _written(symbols, shares, lanes)
    return counted(told) + varint(lanes) + states.astype("<u4").tobytes() + words.astype("<u2").tobytes()


def _written(symbols: np.ndarray, shares: np.ndarray, lanes: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the last states (lanes,) and the words, first to be read first."""
    starts = (np.cumsum(shares) - shares).astype(np.uint32)
    sizes = shares.astype(np.uint32)
    states = np.full(lanes, _LEAST, np.uint32)
    words: list[np.ndarray] = []
    for first in range((len(symbols) - 1) // lanes * lanes, -1, -lanes):
        row = symbols[first : first + lanes]
        size, state = sizes[row], states[: len(row)]
        full = np.flatnonzero((state >> (32 - SCALE_BITS)) >= size)
        words.append(state[full].astype(np.uint16))
        state[full] >>= np.uint32(16)
        whole = state // size
        state += whole * (np.uint32(SCALE) - size) + starts[row]
    return states, np.concatenate(words[::-1])


def decode(reader: Reader, count: int, alphabet: int) -> np.ndarray:
    """Return the symbols, (count,) of uint8 where the alphabet allows it, else uint16.

    Raises:
        ValueError: the bytes are not those of `encode`.
    """
    shares = read_table(reader.counted(), alphabet)
    lanes = reader.varint(_MOST_LANES)
    if lanes != lanes_for(count):
        raise ValueError(f"it has {lanes} states where {lanes_for(count)} belong")
    states = np.frombuffer(reader.take(4 * lanes), "<u4").astype(np.uint32)
    data = reader.rest()
    if len(data) % 2:
        raise ValueError("its words are cut")
    return _read(states, np.frombuffer(data, "<u2").astype(np.uint32), shares, count)


def _read(states: np.ndarray, words: np.ndarray, shares: np.ndarray, count: int) -> np.ndarray:
    lanes, narrow = len(states), np.uint8 if len(shares) <= 256 else np.uint16
    slots = np.arange(SCALE)
    symbol_of = np.repeat(np.arange(len(shares), dtype=narrow), shares)
    # what a state becomes: size · (state >> 14) + offset, both by the state's low bits
    size_of = shares[symbol_of].astype(np.uint32)
    offset_of = (slots - (np.cumsum(shares) - shares)[symbol_of]).astype(np.uint32)
    symbols, place = np.empty(count, narrow), 0
    for first in range(0, count, lanes):
        state = states[: min(lanes, count - first)]
        slot = (state & (SCALE - 1)).astype(np.intp)
        symbol_of.take(slot, out=symbols[first : first + len(state)], mode="clip")
        state >>= np.uint32(SCALE_BITS)
        state *= size_of.take(slot, mode="clip")
        state += offset_of.take(slot, mode="clip")
        empty = np.flatnonzero(state < _LEAST)
        taken = words[place : place + len(empty)]
        if len(taken) < len(empty):
            raise ValueError("its words end early")
        state[empty] = (state[empty] << np.uint32(16)) | taken
        place += len(empty)
    if place != len(words) or (states != _LEAST).any():
        raise ValueError("its words do not end where the symbols do")
    return symbols


def encode_plain(symbols: np.ndarray, alphabet: int) -> bytes:
    """Return symbols with one state, that of constriction: no bytes for many states, at a quarter of the speed of `decode`.

    Args:
        symbols: as of `encode`.
        alphabet: likewise.
    """
    told, shares = best_table(np.bincount(symbols, minlength=alphabet))
    coder = need("constriction").stream.stack.AnsCoder()
    if shares.max() < SCALE:
        coder.encode_reverse(symbols.astype(np.int32), _model(shares))
    return counted(told) + coder.get_compressed().astype("<u4").tobytes()


def decode_plain(reader: Reader, count: int, alphabet: int) -> np.ndarray:
    """Return the symbols, (count,) of int32.

    Raises:
        ValueError: the bytes are not those of `encode_plain`.
    """
    shares = read_table(reader.counted(), alphabet)
    data = reader.rest()
    if len(data) % 4 or (data and not any(data[-4:])):
        raise ValueError("its words are cut")
    if shares.max() == SCALE:
        return np.full(count, int(shares.argmax()), np.int32)
    coder = need("constriction").stream.stack.AnsCoder(np.frombuffer(data, "<u4").astype(np.uint32))
    symbols = coder.decode(_model(shares), count)
    if not coder.is_empty():
        raise ValueError("its words do not end where the symbols do")
    return symbols


def _model(shares: np.ndarray) -> Any:
    """Return constriction's distribution; shares of 2¹⁴ are exact in floating point."""
    return need("constriction").stream.model.Categorical(shares / SCALE, perfect=False)
