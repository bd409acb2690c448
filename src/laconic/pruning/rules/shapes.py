"""Rules of operators that arrange the same numbers in another shape, repeat them or make them."""

from __future__ import annotations

from laconic.core.operators import argument, aten, plain_name, set_argument
from laconic.pruning.rules.table import Node, axes_of, axis_at, broadcast, copied_from_one, keep_whole, made, numbers, rule, size_list
from laconic.pruning.surgeon import Surgeon
from laconic.pruning.trace import DYNAMIC, Tracer, Value, plain, size_of


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


@rule("movedim", "moveaxis")
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


def _squeezed(s: Surgeon, old: Node, new: Node) -> None:
    """Let a dimension of which one index is left be none of those that had one before."""
    source = s.dims(old.args[0])
    if any(s.changed(dim) for dim in source):
        given = axes_of(old.args[1] if len(old.args) > 1 else None, len(source))
        axes = [axis for axis in given if size_of(source[axis]) == 1]
        new.target = aten.squeeze.dims if axes else aten.alias.default
        new.args, new.kwargs = ((new.args[0], axes) if axes else new.args[:1]), {}


@rule("squeeze", edit=_squeezed)
def squeeze(t: Tracer, node: Node) -> Value:
    """Drop dimensions of size 1."""
    value = t.value(node.args[0])
    axes = axes_of(node.args[1] if len(node.args) > 1 else None, len(value))
    for i in axes:
        if size_of(value[i]) == 1:
            keep_whole(t, value[i], node)
    return tuple(dim for i, dim in enumerate(value) if i not in axes or size_of(dim) != 1)


@rule("expand_as")
@rule("expand", "broadcast_to", edit=size_list(1))
def expand(t: Tracer, node: Node) -> Value:
    """Let copies along dimensions of size 1, and along new ones, follow what they meet."""
    value, sizes = t.value(node.args[0]), t.sizes(node)
    value = (*[plain(1)] * (len(sizes) - len(value)), *value)
    if plain_name(node) == "expand_as":
        return broadcast(t, [value, t.value(node.args[1])], node)
    return tuple(copied_from_one(t, dim, size, node) if size_of(dim) == 1 else dim for dim, size in zip(value, sizes, strict=True))


@rule("new_zeros", "new_ones", "new_full", "new_empty", edit=size_list(1))
@rule("zeros", "ones", "full", "empty", "rand", "randn", edit=size_list(0))
def constant(t: Tracer, node: Node) -> Value:
    """Make numbers in the graph, as many as wanted."""
    return tuple(made(t, *size) for size in t.sizes(node))


@rule("arange", "scalar_tensor", "linspace", "eye", "tensor")
def counted(t: Tracer, node: Node) -> Value:
    """Freeze numbers that depend on their place."""
    return t.blank(node)


def _repeated(s: Surgeon, old: Node, new: Node) -> None:
    dims, times = s.dims(old), list(argument(new, 1))
    source = s.value(old.args[0])
    source = (*[plain(1)] * (len(dims) - len(source)), *source)
    for i, dim in enumerate(dims):
        if s.changed(dim) and size_of(source[i]) == 1:
            times[i] = s.count(dim)
    set_argument(new, 1, times)


@rule("repeat", "tile", edit=_repeated)
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
