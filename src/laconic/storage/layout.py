"""What is known of a stream of symbols before it is read."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np


@dataclass(frozen=True)
class Layout:
    """What is known of it.

    Attributes:
        alphabet: the bound below which all symbols are.
        columns: symbols in a row of the tensor that they stand for.
        zero: the symbol of the value zero, from which the others are away in steps of size.
        inner: neighboring columns that belong together, as the kernel of a convolution does.
    """

    alphabet: int
    columns: int = 1
    zero: int = 0
    inner: int = 1

    @property
    def width(self) -> int:
        """Bits of a symbol that is written as it is."""
        return (self.alphabet - 1).bit_length()

    @cached_property
    def dtype(self) -> np.dtype:
        """The unsigned integers in which symbols are held."""
        return np.dtype(np.uint8 if self.alphabet <= 256 else np.uint16)
