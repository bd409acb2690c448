"""Rules of operators that arrange the same numbers in another shape, repeat them or make them."""

from __future__ import annotations

import math
from collections.abc import Container, Sequence

from laconic.core.operators import CONVOLUTIONS, PRODUCTS, argument, names_of, plain_name
from laconic.pruning.rules.table import Node, axes_of, axis_at, broadcast, copied_from_one, keep_whole, made, numbers, rule
from laconic.pruning.trace import DYNAMIC, Dim, Factor, Tracer, Value, is_ids, plain, size_of, where


def regroup(t: Tracer, dims: Value, sizes: Sequence[int], node: Node) -> Value | None:
    """Deal the factors of all dimensions out to dimensions of other sizes; None where they do not fit."""
    queue: list[Factor] = [factor for dim in dims for factor in dim if factor[0] != 1 or factor[1] is DYNAMIC]
    for single in (factor for dim in dims for factor in dim if factor[0] == 1 and is_ids(factor[1])):
        keep_whole(t, (single,), node)
    out: list[Dim] = []
    sizes = list(sizes)
    for position, size in enumerate(sizes):
        need, got = size, []
        while need > 1 and queue:
            factor = queue.pop(0)
            if need % factor[0] == 0:
                got.append(factor)
                need //= factor[0]
            elif not got and (parts := _parts(sizes[position:], factor[0])):
                queue[:0] = _cut(t, factor, parts, node)
            elif factor[0] % need == 0:
                queue[:0] = _cut(t, factor, [need, factor[0] // need], node)
            else:
                return None
        if need > 1:
            return None
        out.append(tuple(got) or plain(1))
    return tuple(out) if not queue or all(size == 1 for size, _ in queue) else None


def _parts(sizes: list[int], whole: int) -> list[int] | None:
    """Return the first sizes, as many as make up `whole`."""
    result = list[int]()
    while sizes and math.prod(result) < whole:
        result.append(sizes[len(result)]) if len(result) < len(sizes) else sizes.clear()
    return result if math.prod(result) == whole else None


def _cut(t: Tracer, factor: Factor, sizes: list[int], node: Node) -> Dim:
    ids = factor[1]
    if not is_ids(ids):
        return tuple((part, ids) for part in sizes)
    if len(sizes) < 2:
        return (factor,)
    # in attention, what leaves a reshape is multiplied with another value before it reaches the next layer
    if not _reaches(node, _PRODUCTS, _LAYERS):
        axis = len(sizes) - 1  # the channels inside groups, as a channel shuffle has them
    elif t.policy.attention == "head_size":
        axis = len(sizes) - 1
    else:  # of queries, keys and values in one piece, (3, heads, size) or (3, heads · size), the heads
        axes: Sequence[int] = range(len(sizes) - 1)
        if _reaches(node, {"select", "unbind"}, _LAYERS | _PRODUCTS):
            axes = [i for i in axes if sizes[i] > 3] or [max(1, len(sizes) - 2)]
        axis = max(axes, key=lambda i: (sizes[i], i))
    return t.split(ids, sizes, axis)


_PRODUCTS = frozenset(names_of(*PRODUCTS)) - {"mm", *names_of("vector product")}  # those have no dimension for heads
_LAYERS = frozenset(names_of(*CONVOLUTIONS, "linear", "bilinear", "embedding", "recurrent"))


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


@rule("view", "reshape", "_unsafe_view", "flatten", "unflatten", "reshape_as", "view_as", "ravel")
def reshape(t: Tracer, node: Node) -> Value:
    """Return the same numbers in another shape."""
    value = t.value(node.args[0])
    result = regroup(t, value, [size for size, _ in t.sizes(node)], node)
    if result is None:
        for dim in value:
            t.freeze(dim, f"{where(node)} mixes it with other dimensions")
        return t.blank(node)
    return tuple(plain(1, dynamic) if dim == plain(1) else dim for dim, (_, dynamic) in zip(result, t.sizes(node), strict=True))


@rule("permute")
def permute(t: Tracer, node: Node) -> Value:
    """Put dimensions in another order."""
    value = t.value(node.args[0])
    return tuple(value[int(i)] for i in node.args[1])


@rule("transpose", "swapaxes", "swapdims")
def transpose(t: Tracer, node: Node) -> Value:
    """Let two dimensions change places."""
    value = list(t.value(node.args[0]))
    i, j = (axis_at(node, k, len(value)) for k in (1, 2))
    value[i], value[j] = value[j], value[i]
    return tuple(value)


@rule("t", "numpy_T", "mT")
def turned(t: Tracer, node: Node) -> Value:
    """Return the last two dimensions change places."""
    value = t.value(node.args[0])
    return (*value[:-2], *reversed(value[-2:]))


@rule("movedim")
def movedim(t: Tracer, node: Node) -> Value:
    """Move dimensions to other places."""
    value = t.value(node.args[0])
    source, target = (axes_of(node.args[i], len(value)) for i in (1, 2))
    order = [i for i in range(len(value)) if i not in source]
    for to, come in sorted(zip(target, source, strict=True)):
        order.insert(to, come)
    return tuple(value[i] for i in order)


@rule("unsqueeze")
def unsqueeze(t: Tracer, node: Node) -> Value:
    """Return a new dimension of size 1."""
    value = list(t.value(node.args[0]))
    value.insert(axis_at(node, 1, len(value) + 1), plain(1))
    return tuple(value)


@rule("squeeze")
def squeeze(t: Tracer, node: Node) -> Value:
    """Drop dimensions of size 1."""
    value = t.value(node.args[0])
    axes = axes_of(node.args[1] if len(node.args) > 1 else None, len(value))
    for i in axes:
        if size_of(value[i]) == 1:
            keep_whole(t, value[i], node)
    return tuple(dim for i, dim in enumerate(value) if i not in axes or size_of(dim) != 1)


@rule("expand", "expand_as", "broadcast_to")
def expand(t: Tracer, node: Node) -> Value:
    """Let copies along dimensions of size 1, and along new ones, follow what they meet."""
    value, sizes = t.value(node.args[0]), t.sizes(node)
    value = (*[plain(1)] * (len(sizes) - len(value)), *value)
    if plain_name(node) == "expand_as":
        return broadcast(t, [value, t.value(node.args[1])], node)
    return tuple(copied_from_one(t, dim, size, node) if size_of(dim) == 1 else dim for dim, size in zip(value, sizes, strict=True))


@rule("zeros", "ones", "full", "empty", "rand", "randn", "new_zeros", "new_ones", "new_full", "new_empty")
def constant(t: Tracer, node: Node) -> Value:
    """Make numbers in the graph, as many as wanted."""
    return tuple(made(t, *size) for size in t.sizes(node))


@rule("arange", "scalar_tensor", "linspace", "eye", "tensor")
def counted(t: Tracer, node: Node) -> Value:
    """Freeze numbers that depend on their place."""
    return t.blank(node)


@rule("repeat", "tile")
def repeat(t: Tracer, node: Node) -> Value:
    """Repeat ids: (copies, dimension) in each dimension."""
    value, times, sizes = t.value(node.args[0]), list(node.args[1]), t.sizes(node)
    rank = len(sizes)
    value, times = (*[plain(1)] * (rank - len(value)), *value), [1] * (rank - len(times)) + times
    out = []
    for dim, copies, size in zip(value, times, sizes, strict=True):
        if size_of(dim) == 1:
            out.append(copied_from_one(t, dim, size, node))
        else:
            out.append(dim if copies == 1 else ((size[0] // size_of(dim), None if isinstance(copies, int) else DYNAMIC), *dim))
    return tuple(out)


@rule("repeat_interleave.self_int")
@numbers(1)
def repeat_interleave(t: Tracer, node: Node) -> Value:
    """Repeat each id: (dimension, copies)."""
    value = list(t.value(node.args[0]))
    if argument(node, 2) is None:
        value = [tuple(factor for dim in value for factor in dim)]
    axis = axis_at(node, 2, len(value)) if len(value) > 1 else 0
    value[axis] = (*value[axis], (int(node.args[1]), None))
    return tuple(value)
