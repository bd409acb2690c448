"""Zeros apart from the values: where they are, as a mask or as gaps between the others, and the others as any coding has them."""

from __future__ import annotations

import numpy as np

from laconic.storage import palette, planes, streams
from laconic.storage.bits import Reader, counted, varint
from laconic.storage.coded import Coded, Values, stream
from laconic.storage.distinct import entropy_bits
from laconic.storage.layout import Layout

_LEAST_ZEROS, _MOSTLY = 0.05, 0.5  # shares of zeros from which a mask, and gaps, are worth trying
_MOST = 1 << 20  # values
_WIDTHS = range(2, 9)  # bits of a gap
_INNER = ((planes.encode, planes.decode), (palette.encode, palette.decode))


def encode_masked(values: Values) -> Coded | None:
    """Return a mask of what is not zero, then those values in planes or with a codebook; None where there are few zeros."""
    if values.zeros < _LEAST_ZEROS:
        return None
    there = values.patterns != 0
    kept = values.only(values.patterns[there])
    head = Coded.of({"rest": varint(kept.count)}) + stream("mask", there.astype(np.uint8), values.layout(2), fast=values.fast)
    if not kept.count:
        return head
    tried = [(place, coded) for place, (encode, _) in enumerate(_INNER) if (coded := encode(kept)) is not None]
    place, best = min(tried, key=lambda item: len(item[1].data))
    return head + Coded.of({"rest": bytes([place])}) + best


def decode_masked(reader: Reader, about: Values) -> np.ndarray:
    """Return the bits of the values, (N,).

    Raises:
        ValueError: the bytes are not those of `encode_masked`.
    """
    kept = reader.varint(about.count)
    # Places, for NumPy writes by them in a fourth of the time that it takes to write by the mask.
    there = np.flatnonzero(streams.decode(reader.counted(), about.count, about.layout(2)).astype(bool))
    if len(there) != kept:
        raise ValueError(f"its mask keeps {len(there)} values, and it says {kept}")
    patterns = np.zeros(about.count, about.kind.pattern)
    if kept:
        way = reader.take(1)[0]
        if way >= len(_INNER):
            raise ValueError("its values are in no coding")
        patterns[there] = _INNER[way][1](reader, about.about(kept))
    return patterns


def encode_relative(values: Values) -> Coded | None:
    """Return gaps and codes, each with a Huffman code: the published format of Deep Compression (ICLR 2016, section 2 and figure 2).

    A gap is at most 2ᵏ − 1; a longer one is divided by a value of zero that fills it, which is a code of its own. The k of the least entropy is taken.
    None where less than half are zeros, where there are too many values for a codebook, or so many that decoding, code by code, takes its time; or it is to be
    read fast.
    """
    if values.fast or values.zeros < _MOSTLY or values.count > _MOST:
        return None
    places = np.flatnonzero(values.patterns)
    found = values.only(values.patterns[places]).codebook if len(places) else None
    if found is None or len(found[0]) >= streams.ALPHABET:
        return None
    book, codes = found
    width, steps, filled = min((_gaps(places, codes, len(book), width) for width in _WIDTHS), key=lambda one: _bits(*one[1:]))
    head = varint(len(book)) + counted(palette.written(values.kind, book))
    coded = Coded.of({"codebook": head, "rest": varint(len(steps)) + varint(width)})
    return coded + stream("mask", steps, Layout(1 << width), _HUFFMAN) + stream("codes", filled, Layout(len(book) + 1), _HUFFMAN)


def _gaps(places: np.ndarray, codes: np.ndarray, zero: int, width: int) -> tuple[int, np.ndarray, np.ndarray]:
    """Return the width, gaps of at most so many bits, and codes, where the code `zero` fills a longer gap."""
    gaps, longest = np.diff(places, prepend=-1) - 1, (1 << width) - 1
    filled = gaps >> width
    ends = np.cumsum(filled + 1) - 1
    steps, all_codes = np.full(ends[-1] + 1, longest), np.full(ends[-1] + 1, zero)
    steps[ends], all_codes[ends] = gaps & longest, codes
    return width, steps, all_codes


def _bits(steps: np.ndarray, codes: np.ndarray) -> float:
    return (entropy_bits(steps) + entropy_bits(codes)) * len(steps)


_HUFFMAN = "canonical Huffman"


def decode_relative(reader: Reader, about: Values) -> np.ndarray:
    """Return the bits of the values, (N,).

    Raises:
        ValueError: the bytes are not those of `encode_relative`.
    """
    book = palette.read(reader, about.kind)
    count = reader.varint(about.count)
    width = reader.varint(_WIDTHS[-1])
    steps = streams.decode(reader.counted(), count, Layout(1 << width)).astype(np.int64)
    codes = streams.decode(reader.counted(), count, Layout(len(book) + 1))
    places = np.cumsum(steps + 1) - 1
    if count and int(places[-1]) >= about.count:
        raise ValueError("its gaps go past the end")
    patterns = np.zeros(about.count, about.kind.pattern)
    patterns[places] = np.append(book, book.dtype.type(0))[codes]
    return patterns
