"""Rules of operators that take dimensions away."""

from __future__ import annotations

from typing import Any

from laconic.core.operators import argument, plain_name
from laconic.pruning.rules.table import Masking, Node, axes_of, keep_whole, rule
from laconic.pruning.trace import Tracer, Value, plain


def _masked_reduction(run: Masking, n: Node, args: Any, kwargs: Any) -> Any:
    x = args[0]
    axes = reduced_axes(n, x.dim())
    mask = run.mask(n.args[0], axes, x)
    if bool(mask.all()):
        return n.target(*args, **kwargs)
    # pick what is there, axis by axis, and let the operator itself reduce it
    for axis in axes:
        along = mask.any([i for i in range(mask.dim()) if i != axis], keepdim=False) if mask.dim() > 1 else mask
        if len(along) > 1:
            x = x.index_select(axis, along.nonzero().flatten())
    return n.target(x, *args[1:], **kwargs)


@rule("prod", "norm", "any", "all", "max", "min", "aminmax")
@rule(
    "mean", "sum", "amax", "amin", "var", "std", "var_mean", "std_mean", "linalg_vector_norm", "logsumexp", "nansum", mask=_masked_reduction
)
def reduce(t: Tracer, node: Node) -> Any:
    """Couple a reduction over some dimensions or all; what is left of a channel that was removed is left out of the reduction."""
    value = t.value(node.args[0])
    name = plain_name(node)
    axes = reduced_axes(node, len(value))
    if name in ("max", "min", "prod", "any", "all", "norm", "aminmax"):
        for i in axes:
            keep_whole(t, value[i], node)
    item = 0 if isinstance(node.meta["val"], (tuple, list)) else None
    kept = len(t.sizes(node, item)) == len(value)
    result = tuple(plain(1) if i in axes else dim for i, dim in enumerate(value) if kept or i not in axes)
    return [result] * len(node.meta["val"]) if item is not None else result


def reduced_axes(node: Node, rank: int) -> list[int]:
    """Return the dimensions that a reduction takes away."""
    names = [spec.name for spec in node.target._schema.arguments]
    return axes_of(argument(node, names.index("dim")) if "dim" in names else None, rank)


@rule("argmax", "argmin", "count_nonzero")
def chosen(t: Tracer, node: Node) -> Value:
    """Freeze what is chosen by place: places would change."""
    value = t.value(node.args[0])
    axes = reduced_axes(node, len(value))
    for i in axes:
        keep_whole(t, value[i], node)
    kept = len(t.sizes(node)) == len(value)
    return tuple(plain(1) if i in axes else dim for i, dim in enumerate(value) if kept or i not in axes)
