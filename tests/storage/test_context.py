"""Adaptive contexts: what they cost is what they write, and structure that they model costs less than entropy of order zero."""

from __future__ import annotations

import numpy as np
import pytest

from laconic.storage import context
from laconic.storage.bits import Reader
from laconic.storage.distinct import entropy_bits
from laconic.storage.layout import Layout

RNG = np.random.default_rng(0)


def columns() -> np.ndarray:
    """A linear layer of which half of the inputs are hardly used."""
    scale = np.where(np.arange(200) % 4 < 2, 3.0, 0.2)
    return np.rint(RNG.standard_normal((150, 200)) * scale).astype(int)


def channels() -> np.ndarray:
    """A convolution some of whose input channels are pruned."""
    codes = np.rint(RNG.standard_normal((40, 30, 3, 3)) * 2).astype(int)
    codes[:, ::3] = 0
    return codes


def rows() -> np.ndarray:
    """A linear layer some of whose outputs are hardly used."""
    return np.rint(RNG.standard_normal((100, 400)) * np.where(np.arange(100) % 3, 0.3, 4.0)[:, None]).astype(int)


CODES = {
    "columns": (columns(), 0.9),
    "channels": (channels(), 0.92),
    "rows": (rows(), 0.96),
    "noise": (RNG.integers(0, 2, (60, 80)), 1.01),
    "no negative": (RNG.geometric(0.5, (50, 50)) - 1, 1.05),
    "no positive": (1 - RNG.geometric(0.5, (50, 50)), 1.05),
    "large": (np.rint(RNG.standard_normal((60, 60)) * 300).astype(int), 1.3),
    "vector": (RNG.geometric(0.3, 3000) - 1, 1.05),
    "one": (np.array([[3]]), np.inf),
    "constant": (np.full((30, 40), 2), np.inf),
}


@pytest.mark.parametrize("name", CODES)
def test_what_is_written_comes_back_and_costs_what_was_told(name: str) -> None:
    codes, most = CODES[name]
    low, high = min(0, int(codes.min())), max(0, int(codes.max()))
    layout = Layout(high - low + 1, int(np.prod(codes.shape[1:])), -low, int(np.prod(codes.shape[2:])))
    symbols = codes.reshape(-1) - low
    data = context.encode(symbols, layout)
    np.testing.assert_array_equal(context.decode(Reader(data), len(symbols), layout), symbols)
    bits = context.cost(codes)
    assert bits.shape == codes.shape
    assert (bits > 0).all()
    assert 8 * len(data) - 64 <= bits.sum() * 1.0001
    assert bits.sum() <= 8 * len(data) + 8
    if np.isfinite(most):
        assert bits.mean() < most * entropy_bits(symbols)


def test_what_was_frequent_is_cheap() -> None:
    codes = np.zeros((100, 100), int)
    codes[50:, 50:] = RNG.integers(-1, 2, (50, 50))
    bits = context.cost(codes)
    assert bits[20:50].mean() < 0.01
    assert 1.4 < bits[60:, 50:].mean() < 1.9
    assert bits[60:, :50].mean() < 0.3


@pytest.mark.parametrize("data", [b"", b"abc", b"\xff" * 40, bytes(40)])
def test_other_bytes_are_refused_or_become_codes(data: bytes) -> None:
    layout = Layout(7, 20, 3)
    try:
        symbols = context.decode(Reader(data), 400, layout)
    except ValueError:
        return
    assert symbols.shape == (400,)
    assert 0 <= symbols.min() <= symbols.max() < 7
