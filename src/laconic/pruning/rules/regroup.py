"""Reshapes: which dimensions of the old shape make up which of the new one, and what becomes of the factors inside them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Container, Iterator, Sequence

from laconic.core.operators import CONVOLUTIONS, PRODUCTS, argument, names_of, plain_name, set_argument
from laconic.pruning.rules.table import Node, keep_whole, rule, size_list
from laconic.pruning.surgeon import Surgeon
from laconic.pruning.trace import DYNAMIC, Dim, Factor, Tracer, Value, carries, is_ids, plain, where

_PRODUCTS = frozenset(names_of(*PRODUCTS)) - {"mm", *names_of("vector product")}  # those have no dimension for heads
_LAYERS = frozenset(names_of(*CONVOLUTIONS, "linear", "bilinear", "embedding", "recurrent"))
_PAIR = 2
_QKV = 3  # queries, keys and values in one piece
Sizes = Sequence[tuple[int, bool]]  # of each dimension in the example, and whether it is dynamic
Measure = tuple[int, int]  # a size in the example, and the same for inputs of other sizes


def _unflattened(s: Surgeon, old: Node, new: Node) -> None:
    dims, sizes = s.dims(old), list(argument(new, 2))
    axis = int(argument(old, 1)) % (len(dims) - len(sizes) + 1)
    set_argument(new, 2, s.sizes(old, new, sizes, dims[axis : axis + len(sizes)]))


@rule("flatten", "reshape_as", "view_as", "ravel")
@rule("unflatten", edit=_unflattened)
@rule("view", "reshape", "_unsafe_view", edit=size_list(1, infer=True))
def reshape(t: Tracer, node: Node) -> Value:
    """Deal the dimensions out to a new shape, block by block: what cannot be followed in one is frozen there, and others pass."""
    value, sizes = t.value(node.args[0]), t.sizes(node)
    out: list[Dim] = []
    for before, after in blocks(t.measures(node.args[0]), t.measures(node)):
        old, new = value[before], sizes[after]
        if len(old) == len(new) == 1:
            out += old
            continue
        result = regroup(t, old, new, node)
        if result is None:
            for dim in old:
                t.freeze(dim, f"{where(node)} mixes it with other dimensions")
            result = tuple(plain(*size) for size in new)
        out += result
    return tuple(plain(1, dynamic) if dim == plain(1) else dim for dim, (_, dynamic) in zip(out, sizes, strict=True))


def blocks(before: Sequence[Measure], after: Sequence[Measure]) -> Iterator[tuple[slice, slice]]:
    """Yield the shortest runs of old and new dimensions that hold the same numbers: their products are equal, whatever the sizes of the inputs.

    Two dimensions may happen to have the same size in the example, so each is measured at two. Sizes of 1 at the end belong to the last run.
    """
    totals = [tuple(itertools.accumulate(side, lambda a, b: (a[0] * b[0], a[1] * b[1]))) for side in (before, after)]
    ends = (len(before), len(after))
    cuts, i, j = [(0, 0)], 0, 0
    while i < ends[0] and j < ends[1]:
        a, b = totals[0][i], totals[1][j]
        if a == b and a[0]:
            cuts.append((i + 1, j + 1))
        i, j = i + (a <= b), j + (b <= a)
    if cuts[-1] != ends and len(cuts) > 1:
        cuts.pop()
    if cuts[-1] != ends:
        cuts.append(ends)
    for (i, j), (k, m) in itertools.pairwise(cuts):
        yield slice(i, k), slice(j, m)


def regroup(t: Tracer, dims: Value, sizes: Sizes, node: Node) -> Value | None:
    """Deal the factors of some dimensions out to dimensions of other sizes, in their order; None where what has ids does not fit.

    Factors without ids are merged and cut as it is needed, for which is which matters to nobody: (2, 7) is read as (7, 2).
    """
    blank = None if any(map(carries, dims)) else tuple(plain(*size) for size in sizes)
    if not all(size for size, _ in sizes):
        return blank
    queue: list[Factor] = [factor for dim in dims for factor in dim if factor[0] != 1 or factor[1] is DYNAMIC]
    for single in (factor for dim in dims for factor in dim if factor[0] == 1 and is_ids(factor[1])):
        keep_whole(t, (single,), node)
    out: list[Dim] = []
    for position, (size, dynamic) in enumerate(sizes):
        rest, need, got = sizes[position:], size, list[Factor]()
        while need > 1 and queue:
            factor = queue.pop(0)
            if need % factor[0] == 0:
                got.append(factor)
                need //= factor[0]
            elif not got and (parts := _parts(rest, factor[0])):
                queue[:0] = _cut(t, factor, parts, node)
            elif factor[0] % need == 0:
                queue[:0] = _cut(t, factor, ((need, dynamic), (factor[0] // need, len(rest) > 1 and rest[1][1])), node)
            elif queue and not is_ids(factor[1]) and not is_ids(queue[0][1]):
                queue[0] = (factor[0] * queue[0][0], factor[1] or queue[0][1])
            else:
                return blank
        if need > 1 or (size > 1 and dynamic != any(ids is DYNAMIC for _, ids in got)):
            return blank
        out.append(tuple(got) or plain(1))
    return tuple(out) if all(size == 1 for size, _ in queue) else blank


def _parts(sizes: Sizes, whole: int) -> Sizes:
    """Return the first sizes, as many as make up `whole`; none where none do."""
    for count in range(1, len(sizes) + 1):
        if (product := math.prod(size for size, _ in sizes[:count])) >= whole:
            return sizes[:count] if product == whole else ()
    return ()


def _cut(t: Tracer, factor: Factor, sizes: Sizes, node: Node) -> Dim:
    ids = factor[1]
    if not is_ids(ids):
        return tuple((part, DYNAMIC if ids is DYNAMIC and dynamic else None) for part, dynamic in sizes)
    if len(sizes) < 2:
        return (factor,)
    parts = [size for size, _ in sizes]
    # in attention, what leaves a reshape is multiplied with another value before it reaches the next layer
    if not _reaches(node, _PRODUCTS, _LAYERS):
        axis = len(parts) - 1  # the channels inside groups, as a channel shuffle has them
    elif t.policy.attention == "head_size":
        axis = len(parts) - 1
    else:  # of queries, keys and values in one piece, (3, heads, size) or (3, heads · size), the heads
        axes: Sequence[int] = range(len(parts) - 1)
        if _reaches(node, {"select", "unbind"}, _LAYERS | _PRODUCTS):
            axes = [i for i in axes if parts[i] > _QKV] or [max(1, len(parts) - 2)]
            if parts[-1] == _PAIR:  # (heads, size / 2, 2), whose pairs a rotary position embedding turns
                axes = [0]
        axis = max(axes, key=lambda i: (parts[i], i))
    return t.split(ids, parts, axis)


def _reaches(node: Node, names: Container[str], ends: Container[str]) -> bool:
    """Return whether what leaves a node meets one of these operators before one of `ends`."""
    seen, queue = {node}, [node]
    while queue:
        for user in queue.pop().users:
            name = plain_name(user)
            if name in names:
                return True
            if user not in seen and name not in ends:
                seen.add(user)
                queue.append(user)
    return False
