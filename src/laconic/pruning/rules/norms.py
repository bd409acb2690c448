"""Rules of normalization."""

from __future__ import annotations

from typing import Any

from laconic.core.operators import argument, names_of, row_of
from laconic.pruning.rules.table import Node, axis_at, numbers, rule
from laconic.pruning.trace import Tracer, Value


@rule(*names_of("batch norm", "native batch norm", "instance norm"))
def channel_norm(t: Tracer, node: Node) -> Any:
    """Couple a norm of channels: x (B, C, …), and up to four tensors of C numbers."""
    value = t.value(node.args[0])
    for tensor in node.args[1:5]:
        t.tie(tensor, 0, value[1], "norm", node)
    return _with_statistics(t, node, value)


def _with_statistics(t: Tracer, node: Node, value: Value) -> Any:
    """Return the value of a norm that may put out mean and deviation, too."""
    several = node.meta["val"]
    return [value, *(t.blank(node, i) for i in range(1, len(several)))] if isinstance(several, (tuple, list)) else value


@rule("_weight_norm")
def weight_norm(t: Tracer, node: Node) -> Value:
    """Couple a weight norm: v times g over v's norm, for each index of a dimension."""
    value = t.value(node.args[0])
    axis = axis_at(node, 2, len(value))
    t.tie(node.args[1], axis, value[axis], "norm", node)
    return value


@rule(*names_of("layer norm", "rms norm"))
def last_norm(t: Tracer, node: Node) -> Any:
    """Couple a norm of the last dimensions: x (…, *shape), and up to two tensors of that shape."""
    value = t.value(node.args[0])
    shape: Any = node.args[1]
    row = row_of(node)
    for tensor in (argument(node, row.weight), argument(node, row.bias)):
        for i in range(len(shape)):
            t.tie(tensor, i, value[i - len(shape)], "norm", node)
    return _with_statistics(t, node, value)


@rule(*names_of("group norm"))
@numbers(1)
def group_norm(t: Tracer, node: Node) -> Value:
    """Couple a group-norm, x (B, C, …): whole groups go, or the same channels of every group."""
    x, groups = node.args[:2]
    value = list(t.value(x))
    ids = t.flat(value[1], node)
    if ids is not None and groups != 1:
        size = len(ids) // int(groups)
        t.split(ids, (int(groups), size), 0 if t.policy.whole_groups(int(groups), size) else 1)
    for tensor in (argument(node, 2), argument(node, 3)):
        t.tie(tensor, 0, value[1], "norm", node)
    return tuple(value)
