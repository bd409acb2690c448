"""Connected components of ids, found by whole blocks where that is enough.

Nearly every dimension is one block of new ids, and nearly every pair joins two whole blocks. Blocks are joined by union-find; single ids are looked at only
where a slice, a split or a copy of a block was paired.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Ids = np.ndarray[Any, np.dtype[np.int32]]


@dataclass(frozen=True)
class Components:
    """Components of ids.

    Attributes:
        label: component of each id; numbered in the order of their first ids.
        count: how many there are.
        whole: by identity of a block's array, the first component of those blocks that were never taken apart: their ids are in as many components, in order.
    """

    label: np.ndarray[Any, np.dtype[np.int32]]
    count: int
    whole: dict[int, int]


class Blocks:
    """Hands out blocks of new ids."""

    def __init__(self) -> None:
        self.n = 0
        self.arrays: list[Ids] = []
        self._place: dict[int, int] = {}

    def new(self, size: int) -> Ids:
        """Return so many new ids."""
        ids = np.arange(self.n, self.n + size, dtype=np.int32)
        self.n += size
        self._place[id(ids)] = len(self.arrays)
        self.arrays.append(ids)
        return ids

    def connect(self, pairs: Iterable[tuple[Ids, Ids]], others: Iterable[Ids]) -> Components:
        """Find the components.

        Args:
            pairs: arrays of equal length, whose ids are joined one by one.
            others: arrays in which ids are used: a block of which a part is used is not whole.
        """
        parent = list(range(len(self.arrays)))

        def root(i: int) -> int:
            while parent[i] != i:
                parent[i] = i = parent[parent[i]]
            return i

        place, mixed = self._place, list[tuple[Ids, Ids]]()
        for a, b in pairs:
            i, j = place.get(id(a)), place.get(id(b))
            if i is None or j is None:
                mixed.append((a, b))
            elif (i := root(i)) != (j := root(j)):
                parent[max(i, j)] = min(i, j)
        roots = [root(i) for i in range(len(parent))]
        sizes = np.array([len(ids) for ids in self.arrays], np.int64)
        is_root = np.array(roots, np.int64) == np.arange(len(roots))
        first = np.cumsum(np.where(is_root, sizes, 0)) - np.where(is_root, sizes, 0)
        first = first[roots]
        label = np.arange(self.n) + np.repeat(first - (np.cumsum(sizes) - sizes), sizes)
        count = int(sizes[is_root].sum())
        partly = [ids for ids in others if id(ids) not in place]
        if not mixed and not partly:
            return Components(label, count, {id(ids): int(start) for ids, start in zip(self.arrays, first, strict=True)})
        touched = np.zeros(count, bool)
        for ids in (*(ids for pair in mixed for ids in pair), *partly):
            touched[label[ids]] = True
        joined, count = _joined(label, count, mixed)
        result = joined[label]
        whole = {}
        for ids, start in zip(self.arrays, first, strict=True):
            if not touched[start : start + len(ids)].any():
                whole[id(ids)] = int(joined[start])
        return Components(result, count, whole)


def _joined(label: Any, count: int, pairs: Sequence[tuple[Ids, Ids]]) -> tuple[Any, int]:
    """Return new numbers of components, where pairs of ids join them."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    if not pairs:
        return np.arange(count), count
    left, right = (label[np.concatenate([pair[k] for pair in pairs])] for k in (0, 1))
    links = coo_matrix((np.ones(len(left), np.int8), (left, right)), (count, count))
    total, result = connected_components(links, directed=False)
    return result, int(total)
