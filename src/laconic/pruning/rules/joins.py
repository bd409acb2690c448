"""Rules of operators that join values, cut pieces out of them or pick some indices."""

from __future__ import annotations

from typing import Any

import numpy as np

from laconic.core.operators import argument, aten, plain_name, set_argument
from laconic.pruning.rules.table import Node, axis_at, broadcast, keep_whole, no_rule, rule
from laconic.pruning.surgeon import Surgeon
from laconic.pruning.trace import DYNAMIC, Tracer, Value, carries, plain, size_of, where


@rule("cat", "concat", "concatenate")
def cat(t: Tracer, node: Node) -> Value:
    """Put ids one after the other along a dimension; the other dimensions meet."""
    values = [t.value(value) for value in node.args[0]]
    values = [value for value in values if size_of(value[0]) > 0 or len(value) > 1]
    return _joined(t, node, values, axis_at(node, 1, len(values[0])))


_SIDES = {"vstack": 0, "row_stack": 0, "hstack": 1, "column_stack": 1, "dstack": 2}


@rule(*_SIDES)
def side_by_side(t: Tracer, node: Node) -> Any:
    """Put values of two dimensions or more one after the other along the dimension that the name says."""
    values, axis = [t.value(value) for value in node.args[0]], _SIDES[plain_name(node)]
    return _joined(t, node, values, axis) if min(map(len, values)) > max(axis, 1) else no_rule(t, node)


def _joined(t: Tracer, node: Node, values: list[Value], axis: int) -> Value:
    rest = broadcast(t, [(*value[:axis], plain(1), *value[axis + 1 :]) for value in values], node)
    parts = [value[axis] for value in values]
    if not any(carries(part) for part in parts):
        return (*rest[:axis], t.blank(node)[axis], *rest[axis + 1 :])
    result = [t.flat(part, node) for part in parts]
    if any(ids is DYNAMIC for part in parts for _, ids in part):
        for part in parts:
            t.freeze(part, f"concatenated with a dynamic dimension in {where(node)}")
        return (*rest[:axis], t.blank(node)[axis], *rest[axis + 1 :])
    whole = np.concatenate([t.stuck(size_of(part), node) if ids is None else ids for part, ids in zip(parts, result, strict=True)])
    return (*rest[:axis], ((len(whole), whole),), *rest[axis + 1 :])


@rule("stack")
def stack(t: Tracer, node: Node) -> Value:
    """Let values meet, along a new dimension."""
    values = [t.value(value) for value in node.args[0]]
    rest = list(broadcast(t, values, node))
    rest.insert(axis_at(node, 1, len(rest) + 1), plain(len(values)))
    return tuple(rest)


def _pieces(s: Surgeon, old: Node, new: Node) -> None:
    source = s.value(old.args[0])
    axis = axis_at(old, 2, len(source))
    if s.changed(source[axis]):
        new.target = aten.split_with_sizes.default
        new.args, new.kwargs = (new.args[0], [s.count(value[axis]) for value in s.value(old)], axis), {}


@rule("split", "split_with_sizes", "chunk", "tensor_split", "unsafe_split", "unsafe_split_with_sizes", "unsafe_chunk", edit=_pieces)
def split(t: Tracer, node: Node) -> Any:
    """Cut ids into pieces along a dimension."""
    value = t.value(node.args[0])
    axis = axis_at(node, 2, len(value))
    count = len(node.meta["val"])
    if not carries(value[axis]):
        return [(*value[:axis], t.blank(node, i)[axis], *value[axis + 1 :]) for i in range(count)]
    ids = t.flat(value[axis], node)
    if ids is None:
        return [(*value[:axis], t.blank(node, i)[axis], *value[axis + 1 :]) for i in range(count)]
    parts = np.split(ids, np.cumsum([t.sizes(node, i)[axis][0] for i in range(count)])[:-1])
    t.pieces += parts
    return [(*value[:axis], ((len(part), part),), *value[axis + 1 :]) for part in parts]


@rule("getitem")
def getitem(t: Tracer, node: Node) -> Any:
    """Return one of several outputs."""
    return t.values[node.args[0]][node.args[1]]


@rule("unbind")
def unbind(t: Tracer, node: Node) -> Any:
    """Return one value for each index of a dimension."""
    value = t.value(node.args[0])
    axis = axis_at(node, 1, len(value))
    keep_whole(t, value[axis], node)
    return [(*value[:axis], *value[axis + 1 :])] * len(node.meta["val"])


def _selected(s: Surgeon, old: Node, new: Node) -> None:
    source = s.value(old.args[0])
    if s.changed(source[axis_at(old, 1, len(source))]):
        set_argument(new, 2, 0)


@rule("select", edit=_selected)
def select(t: Tracer, node: Node) -> Value:
    """Take one index of a dimension; where only the shape of the result is asked for, any will do."""
    value = t.value(node.args[0])
    axis = axis_at(node, 1, len(value))
    if any(plain_name(user) != "sym_size" for user in node.users):
        keep_whole(t, value[axis], node)
    return (*value[:axis], *value[axis + 1 :])


def is_whole(node: Node, axis: int) -> bool:
    """Return whether a slice takes all of its axis, at every size: a length that happens to be the example's batch does not."""
    before, after = (n.meta["val"].shape[axis] for n in (node.args[0], node))
    if isinstance(before, int) or isinstance(after, int):
        return isinstance(before, int) and isinstance(after, int) and before == after
    return bool(before.node.expr == after.node.expr)


def _sliced(s: Surgeon, old: Node, new: Node) -> None:
    source = s.value(old.args[0])
    axis = axis_at(old, 1, len(source))
    if not s.changed(source[axis]):
        return
    if is_whole(old, axis):  # its end may be a number that holds for all sizes, or be computed from the size before
        new.target, new.args, new.kwargs = aten.alias.default, new.args[:1], {}
        return
    size, start = size_of(source[axis]), argument(old, 2) or 0
    begin = s.before(source[axis], max(start + size, 0) if start < 0 else start)
    after = s.count(s.dims(old)[axis])
    new.args, new.kwargs = (new.args[0], axis, begin, after if plain_name(old) == "narrow" else begin + after), {}


@rule("slice", "narrow", edit=_sliced)
def cut(t: Tracer, node: Node) -> Value:
    """Return a run of indices."""
    value = t.value(node.args[0])
    axis = axis_at(node, 1, len(value))
    rest = t.sizes(node)[axis]
    dim = plain(*rest)
    if carries(value[axis]):
        if is_whole(node, axis):
            return value
        ids = t.flat(value[axis], node)
        step = argument(node, 4) if plain_name(node) == "slice" else 1
        start = argument(node, 2) or 0
        if ids is None or step != 1 or not isinstance(start, int):
            keep_whole(t, value[axis], node)
        else:
            begin = max(start + len(ids), 0) if start < 0 else start
            dim = ((rest[0], ids[begin : begin + rest[0]]),)
            t.pieces.append(dim[0][1])
    return (*value[:axis], dim, *value[axis + 1 :])
