"""What codings take and give."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Literal

import numpy as np

from laconic.storage import streams
from laconic.storage.bits import counted
from laconic.storage.distinct import codebook
from laconic.storage.kinds import Kind
from laconic.storage.layout import Layout

Part = Literal["mask", "codebook", "codes", "tables", "rest"]
_SAMPLE = 4096
_NONE = np.zeros(0, np.uint8)


@dataclass(frozen=True)
class Values:
    """Values of one tensor, or of a piece of it.

    Args:
        kind: their number format.
        count: how many.
        columns: in a row of the tensor; 1 where it has no rows.
        inner: neighboring columns that belong together, as the kernel of a convolution does.
        patterns: their bits, (count,) unsigned; empty where they are still to be read.
        fast: whether they are to be written so that they are read fast.
    """

    kind: Kind
    count: int
    columns: int = 1
    inner: int = 1
    patterns: np.ndarray = field(default_factory=lambda: _NONE)
    fast: bool = False

    @cached_property
    def sample(self) -> np.ndarray:
        """Some of the bits, taken evenly: at most 4096 and what is left of a step."""
        return self.patterns[:: max(1, self.count // _SAMPLE)]

    @cached_property
    def codebook(self) -> tuple[np.ndarray, np.ndarray] | None:
        """Its distinct bits and which each value is: see `distinct.codebook`."""
        return codebook(self.kind, self.patterns, self.sample)

    @property
    def zeros(self) -> float:
        """The share of zeros in the sample."""
        return float((self.sample == 0).mean())

    def only(self, patterns: np.ndarray) -> Values:
        """Return some of the values, without rows."""
        return Values(self.kind, len(patterns), patterns=patterns, fast=self.fast)

    def layout(self, alphabet: int, zero: int = 0) -> Layout:
        """Return what is known of symbols that stand for these values, one each."""
        return Layout(alphabet, self.columns, zero, self.inner)

    def filled(self, patterns: np.ndarray, fast: bool = False) -> Values:
        """Return the same with its bits."""
        return replace(self, patterns=patterns, fast=fast)

    def about(self, count: int) -> Values:
        """Return what is known of as many values without rows, to be read."""
        return Values(self.kind, count)


@dataclass(frozen=True)
class Coded:
    """Bytes, and how many of them are what; what no part claims is the rest."""

    data: bytes
    parts: Mapping[Part, int]

    @classmethod
    def of(cls, pieces: Mapping[Part, bytes]) -> Coded:
        """Return pieces one after the other."""
        return cls(b"".join(pieces.values()), {part: len(piece) for part, piece in pieces.items()})

    def __add__(self, other: Coded) -> Coded:
        parts = {part: self.parts.get(part, 0) + other.parts.get(part, 0) for part in (*self.parts, *other.parts)}
        return Coded(self.data + other.data, parts)


def stream(part: Part, symbols: np.ndarray, layout: Layout, only: str = "", fast: bool = False) -> Coded:
    """Return symbols as a stream with its length before it; its table is told apart."""
    data = streams.encode(symbols, layout, only, fast)
    _, table = streams.told(data)
    return Coded(counted(data), {part: len(counted(data)) - table, "tables": table})
