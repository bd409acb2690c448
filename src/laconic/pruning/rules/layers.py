"""Rules of layers with weights: linear, bilinear, convolutions, embeddings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from laconic.core.operators import CONVOLUTIONS, argument, names_of, row_of, set_argument
from laconic.pruning.rules.table import Node, broadcast, keep_whole, no_rule, rule
from laconic.pruning.surgeon import Surgeon
from laconic.pruning.trace import Dim, Tracer, Value, is_ids, plain, size_of


@rule("linear")
def linear(t: Tracer, node: Node) -> Value:
    """Couple a linear layer: x (…, I), weight (O, I), bias (O)."""
    x, weight = node.args[:2]
    value = t.value(x)
    t.consume(weight, 1, x, len(value) - 1, node)
    out = t.make(weight, 0)
    t.tie(argument(node, 2), 0, out, "bias", node)
    return (*value[:-1], out)


@rule(*names_of("bilinear"))
def bilinear(t: Tracer, node: Node) -> Value:
    """Couple a bilinear layer: x (…, I), y (…, J), weight (O, I, J)."""
    x, y, weight = node.args[:3]
    a, b = t.value(x), t.value(y)
    lead = broadcast(t, [a[:-1], b[:-1]], node) if len(a) > 1 else ()
    t.consume(weight, 1, x, len(a) - 1, node)
    t.consume(weight, 2, y, len(b) - 1, node)
    out = t.make(weight, 0)
    t.tie(argument(node, 3), 0, out, "bias", node)
    return (*lead, out)


def _groups(s: Surgeon, old: Node, new: Node) -> None:
    row = row_of(old)
    if row.groups is None or argument(old, row.groups) == 1:
        return
    sizes = s.weight_sizes(argument(old, row.weight))
    # all channels of one side over those of one group of the same side
    dims = s.dims(old) if row.transposed else s.value(old.args[0])
    set_argument(new, row.groups, s.count(dims[len(dims) - len(sizes) + 1]) // sizes[1])


@rule(*names_of(*CONVOLUTIONS), edit=_groups)
def convolution(t: Tracer, node: Node) -> Value:
    """Couple a convolution: x (B, I, …), weight (O, I/G, …), bias (O); transposed, the weight is (I, O/G, …)."""
    row = row_of(node)
    x, weight = node.args[0], argument(node, row.weight)
    value = t.value(x)
    groups = argument(node, row.groups)
    if not isinstance(groups, int):
        return no_rule(t, node)
    assert row.in_axis is not None
    assert row.out_axis is not None
    rank = t.rank(weight)
    channel = len(value) - rank + 1
    if groups == 1:
        t.consume(weight, row.in_axis, x, channel, node)
        out = t.make(weight, row.out_axis)
    else:
        out = _grouped(t, node, x, channel, weight, groups, row.transposed)
    t.tie(argument(node, row.bias), 0, out, "bias", node)
    t.fix(weight, range(2, rank), "kernel", node)
    rest = _positions(t, node, value[channel + 1 :], [t.length(weight, axis) for axis in range(2, rank)])
    return (*value[:channel], out, *rest)


def _positions(t: Tracer, node: Node, dims: Value, kernel: Sequence[int]) -> Value:
    """Couple the dimensions that a kernel moves over: with a kernel of one and a step of one (tokens mixed by a convolution) each place stays by itself."""
    row, rest = row_of(node), []
    for axis, (dim, made) in enumerate(zip(dims, t.blank(node)[-len(kernel) :], strict=True)):
        step = argument(node, row.stride)
        by_itself = kernel[axis] == 1 and step[axis % len(step)] == 1 and size_of(dim) == size_of(made)
        if not by_itself:
            keep_whole(t, dim, node)
        rest.append(dim if by_itself else made)
    return tuple(rest)


def _grouped(t: Tracer, node: Node, x: Any, channel: int, weight: Any, groups: int, transpose: bool) -> Dim:
    """Return the output channels of a grouped convolution: whole groups go, or the same channels of every group (see `Policy`).

    Its weight has all channels of one side in dimension 0 and those of one group of the other side in dimension 1.
    """
    value = t.value(x)
    ids = t.flat(value[channel], node)
    outs = t.sizes(node)[channel][0]
    ins, outs_each = size_of(value[channel]) // groups, outs // groups  # of one group
    first, second = (ins, outs_each) if transpose else (outs_each, ins)
    parts = (plain(groups)[0],) * 2 if ids is None else t.split(ids, (groups, ins), 0 if t.policy.whole_groups(groups, ins) else 1)
    whole, inside = parts[0][1], parts[1][1]
    if is_ids(whole):
        t.tie(weight, 0, ((groups * first, _times(whole, first)),), "out", node)
        t.tie(weight, 1, plain(second), "in", node)
        return ((outs, _times(whole, outs_each)),)
    if not is_ids(inside):
        t.tie(weight, 0, plain(groups * first), "out", node)
        t.tie(weight, 1, plain(second), "in", node)
        return plain(outs)
    made = t.fresh(outs_each)[0][1]
    grown: Dim = ((outs, np.tile(made, groups) if is_ids(made) else None),)
    t.tie(weight, 0, ((groups * ins, np.tile(inside, groups)),) if transpose else grown, "in" if transpose else "out", node)
    t.tie(weight, 1, ((outs_each, made),) if transpose else ((ins, inside),), "out" if transpose else "in", node)
    return grown


def _times(ids: Any, copies: int) -> Any:
    """Repeat each id so many times in a row; one time is the same array, by which it is known to be whole."""
    return ids if copies == 1 else np.repeat(ids, copies)


@rule(*names_of("embedding"))
def embedding(t: Tracer, node: Node) -> Value:
    """Couple an embedding: rows of a table (V, E)."""
    table, index = node.args[:2]
    t.tie(table, 0, plain(t.length(table, 0)), "rows", node)
    return (*t.value(index), t.make(table, 1))


@rule("embedding_bag", "_embedding_bag")
def embedding_bag(t: Tracer, node: Node) -> list[Value]:
    """Couple sums, means or maxima of rows of a table (V, E)."""
    table = node.args[0]
    t.tie(table, 0, plain(t.length(table, 0)), "rows", node)
    rest = (t.blank(node, i) for i in range(1, len(node.meta["val"])))
    return [(t.blank(node, 0)[0], t.make(table, 1)), *rest]
