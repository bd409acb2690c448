"""Rules of operators that read or write numbers at computed places, or put them in order: the dimension along which they do is kept whole, others pass."""

from __future__ import annotations

from typing import Any

from laconic.pruning.rules.table import Node, axis_at, broadcast, freeze_all, keep_whole, position_of, rule
from laconic.pruning.trace import Dim, Tracer, Value, plain, size_of, where


@rule("index")
def index(t: Tracer, node: Node) -> Value:
    """Keep indexed dimensions whole; others pass. A mask takes as many dimensions as it has and makes one of them."""
    passing, before, taken = _picked(t, node)
    if any(t.is_mask(place) for place in taken):
        made: Value = t.blank(node)[before : before + len(t.sizes(node)) - len(passing)]
    else:
        made = broadcast(t, [t.value(place) for place in taken], node)
    return (*passing[:before], *made, *passing[before:])


@rule("index_put")
def index_put(t: Tracer, node: Node) -> Value:
    """Let what is written meet what was there; places are computed and stay."""
    x, values = t.value(node.args[0]), t.value(node.args[2])
    passing, before, taken = _picked(t, node)
    for place in taken:
        freeze_all(t, place, f"places that are written to in {where(node)}")
    masked = any(t.is_mask(place) for place in taken)
    made = (plain(1),) if masked else broadcast(t, [t.value(place) for place in taken], node)  # whatever a mask makes meets no other
    broadcast(t, [(*passing[:before], *made, *passing[before:]), values], node)
    return x


def _picked(t: Tracer, node: Node) -> tuple[list[Dim], int, list[Any]]:
    """Return the dimensions that no index takes, how many of them come before what the indices make, and the indices."""
    value, start = t.value(node.args[0]), 0
    passing: list[Dim] = []
    taken: list[tuple[int, Any]] = []
    for number, place in enumerate(node.args[1]):
        width = t.rank(place) if place is not None and t.is_mask(place) else 1
        if place is None:
            passing.append(value[start])
        else:
            taken.append((number, place))
            for dim in value[start : start + width]:
                keep_whole(t, dim, node)
            if t.is_mask(place):
                freeze_all(t, place, f"a mask of {where(node)}")
        start += width
    numbers = [number for number, _ in taken]
    together = numbers == list(range(numbers[0], numbers[-1] + 1))
    return [*passing, *value[start:]], numbers[0] if together else 0, [place for _, place in taken]


@rule("index_select")
def index_select(t: Tracer, node: Node) -> Value:
    """Take some indices of a dimension."""
    value, axis = _along(t, node)
    return (*value[:axis], t.blank(node)[axis], *value[axis + 1 :])


@rule("index_fill")
def index_fill(t: Tracer, node: Node) -> Value:
    """Write one number at some indices of a dimension."""
    return _along(t, node)[0]


@rule("index_add", "index_copy")
def index_add(t: Tracer, node: Node) -> Value:
    """Write at some indices of a dimension what has the other dimensions alike."""
    value, axis = _along(t, node)
    return _meeting(t, value, t.value(node.args[3]), axis, node)


@rule("gather", "take_along_dim")
def gather(t: Tracer, node: Node) -> Value:
    """Let other dimensions meet those of the index, which has the size of what comes out."""
    places = t.value(node.args[position_of(node, "index", "indices")])
    if position_of(node, "dim") is None:
        return _all_in_line(t, node)
    value, axis = _along(t, node)
    return tuple(b if i == axis else t.pair(a, b, node) for i, (a, b) in enumerate(zip(value, places, strict=True)))


@rule("scatter", "scatter_add", "scatter_reduce")
def scatter(t: Tracer, node: Node) -> Value:
    """Write at computed places along a dimension: index and source have the other dimensions alike, or are smaller."""
    value, axis = _along(t, node)
    for operand in node.args[2:4]:
        if t.is_tensor(operand) and t.rank(operand):
            value = _meeting(t, value, t.value(operand), axis, node)
    return value


@rule("sort", "topk", "kthvalue", "median.dim", "nanmedian.dim", "mode", "cummax", "cummin", "argsort", "msort")
def ordered(t: Tracer, node: Node) -> Any:
    """Put the numbers along one dimension in order, or choose among them."""
    position = position_of(node, "dim")
    value = t.value(node.args[0])
    axis = axis_at(node, position, len(value)) if position is not None and value else 0
    if value:
        keep_whole(t, value[axis], node)

    def shown(item: int | None) -> Value:
        blank = t.blank(node, item)
        same = blank[axis : axis + 1] if len(blank) == len(value) else ()
        return (*value[:axis], *same, *value[axis + 1 :])

    several = node.meta["val"]
    return [shown(i) for i in range(len(several))] if isinstance(several, (tuple, list)) else shown(None)


@rule("diagonal", "linalg_diagonal")
def diagonal(t: Tracer, node: Node) -> Value:
    """Take the diagonal of two dimensions, which becomes the last one."""
    value = t.value(node.args[0])
    axes = [axis_at(node, position_of(node, name), len(value)) for name in ("dim1", "dim2")]
    for axis in axes:
        keep_whole(t, value[axis], node)
    return (*(dim for i, dim in enumerate(value) if i not in axes), t.blank(node)[-1])


@rule("diag_embed")
def diag_embed(t: Tracer, node: Node) -> Value:
    """Make a diagonal of the last dimension."""
    value, blank = t.value(node.args[0]), list(t.blank(node))
    keep_whole(t, value[-1], node)
    axes = [axis_at(node, position_of(node, name), len(blank)) for name in ("dim1", "dim2")]
    rest = iter(value[:-1])
    return tuple(dim if i in axes else next(rest) for i, dim in enumerate(blank))


@rule("bucketize", "searchsorted", "one_hot", "isin")
def looked_up(t: Tracer, node: Node) -> Value:
    """Compute each number from the number at its place and from tables that stay as they are; what is new comes last."""
    tensors = [value for value in node.all_input_nodes if t.is_tensor(value)]
    blank = t.blank(node)
    source = next((v for v in tensors if [s for s, _ in t.sizes(node)][: t.rank(v)] == [t.length(v, i) for i in range(t.rank(v))]), None)
    for tensor in tensors:
        if tensor is not source:
            freeze_all(t, tensor, f"looked up in {where(node)}")
    return blank if source is None else (*t.value(source), *blank[t.rank(source) :])


def _along(t: Tracer, node: Node) -> tuple[Value, int]:
    """Return the dimensions of the first input and the one along which the operator works, which is kept whole."""
    value = t.value(node.args[0])
    if not value:
        return value, 0
    axis = axis_at(node, position_of(node, "dim"), len(value))
    keep_whole(t, value[axis], node)
    return value, axis


def _meeting(t: Tracer, value: Value, other: Value, axis: int, node: Node) -> Value:
    """Let the other dimensions meet where they are of one size, and keep both whole where they are not."""
    out = list(value)
    for i, (a, b) in enumerate(zip(value, other, strict=True)):
        if i != axis and size_of(a) == size_of(b):
            out[i] = t.pair(a, b, node)
        else:
            keep_whole(t, a, node)
            keep_whole(t, b, node)
    return tuple(out)


def _all_in_line(t: Tracer, node: Node) -> Value:
    for source in node.all_input_nodes:
        freeze_all(t, source, f"taken in one line in {where(node)}")
    return tuple(plain(*size) for size in t.sizes(node))
