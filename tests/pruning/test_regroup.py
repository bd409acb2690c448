"""Which runs of old and new dimensions hold the same numbers."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from laconic.pruning.rules.regroup import blocks

B, L = (4, 12), (7, 35)  # dynamic: as in the example, and elsewhere


def fixed(*sizes: int) -> list[tuple[int, int]]:
    return [(size, size) for size in sizes]


@pytest.mark.parametrize(
    ("before", "after", "runs"),
    [
        ([B, *fixed(6, 4)], [B, *fixed(24)], [(1, 1), (2, 1)]),
        ([B, *fixed(14, 14)], [B, *fixed(2, 7, 2, 7)], [(1, 1), (1, 2), (1, 2)]),
        (fixed(2, 7, 5), fixed(7, 2, 5), [(2, 2), (1, 1)]),
        ([*fixed(4), B, *fixed(5)], [B, *fixed(4, 5)], [(2, 2), (1, 1)]),
        ([B, *fixed(4), L], [B, L, *fixed(4)], [(1, 1), (2, 2)]),
        (fixed(6), fixed(6, 1), [(1, 2)]),
        (fixed(6, 1, 4), fixed(6, 4), [(1, 1), (2, 1)]),
        ([], fixed(1), [(0, 1)]),
        (fixed(3, 0, 2), fixed(0, 6), [(3, 2)]),
        ([], [], []),
    ],
    ids=[
        "merge",
        "windows",
        "other factors",
        "batch behind as many",
        "length behind",
        "one at the end",
        "one between",
        "scalar",
        "empty",
        "nothing",
    ],
)
def test_runs(before: list[tuple[int, int]], after: list[tuple[int, int]], runs: list[tuple[int, int]]) -> None:
    found = list(blocks(before, after))
    assert [(old.stop - old.start, new.stop - new.start) for old, new in found] == runs


@given(st.lists(st.lists(st.integers(1, 4), min_size=1, max_size=3), min_size=1, max_size=4))
def test_runs_cover_both_shapes_in_order_and_hold_equal_products(factors: list[list[int]]) -> None:
    before = fixed(*(math.prod(run) for run in factors))
    after = fixed(*itertools.chain(*factors))
    found = list(blocks(before, after))
    for side, shape in ((0, before), (1, after)):
        assert [i for run in found for i in range(run[side].start, run[side].stop)] == list(range(len(shape)))
    for old, new in found:
        assert math.prod(a for a, _ in before[old]) == math.prod(a for a, _ in after[new])
