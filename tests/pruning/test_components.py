"""Components found by whole blocks are those found id by id."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from laconic.pruning.components import Blocks
from tests.reference import coupling as reference

SIZES = st.lists(st.sampled_from([1, 2, 3, 4, 4, 4, 6]), min_size=1, max_size=8)


@given(SIZES, st.data())
def test_blocks_are_joined_as_single_ids_are(sizes: list[int], data: st.DataObject) -> None:
    blocks = Blocks()
    arrays: list[Any] = [blocks.new(size) for size in sizes]
    parts = [*arrays, *(a[::-1].copy() for a in arrays), *(a[1:] for a in arrays if len(a) > 1), *(np.tile(a, 2) for a in arrays)]
    pairs = []
    for _ in range(data.draw(st.integers(0, 6))):
        a = data.draw(st.sampled_from(parts))
        pairs.append((a, data.draw(st.sampled_from([b for b in parts if len(b) == len(a)]))))
    used = data.draw(st.lists(st.sampled_from(parts), max_size=4))
    found = blocks.connect(pairs, used)
    expected = reference.joined(sum(sizes), [(a.tolist(), b.tolist()) for a, b in pairs])
    assert found.label.tolist() == expected
    assert found.count == max(expected) + 1
    taken_apart = {id(ids) for ids in (*(x for pair in pairs for x in pair), *used)} - {id(a) for a in arrays}
    for ids in arrays:
        first = found.whole.get(id(ids))
        if first is not None:
            assert found.label[ids].tolist() == list(range(first, first + len(ids)))
        elif not taken_apart:
            raise AssertionError("a block that nothing takes apart is whole")


def test_no_ids_at_all() -> None:
    found = Blocks().connect([], [])
    assert (found.label.tolist(), found.count, found.whole) == ([], 0, {})


def test_a_block_of_which_a_part_is_used_is_not_whole() -> None:
    blocks = Blocks()
    a, b, c = blocks.new(4), blocks.new(4), blocks.new(4)
    found = blocks.connect([(a, b)], [a[1:3]])
    assert set(found.whole) == {id(c)}
    assert found.whole[id(c)] == 4
