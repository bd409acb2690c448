"""Operators that make few numbers of many, or order them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from laconic.deploy.xla.late import jnp, lax, nn
from laconic.deploy.xla.rules.table import Call, Row, axes_of, axis_of, lowers

_PLAIN = {"sum": "sum", "mean": "mean", "amax": "max", "amin": "min", "nansum": "nansum"}


def _reduction(name: str) -> Row:
    def row(call: Call, x: Any, dims: Any = None, keepdim: bool = False, **others: Any) -> Any:
        return getattr(jnp, name)(x, axis=axes_of(dims, x.ndim), keepdims=keepdim)

    return row


for _name, _twin in _PLAIN.items():
    lowers(_name)(_reduction(_twin))


def _one(dim: Any, rank: int) -> tuple[int, ...]:
    return axes_of(None if dim is None else dim, rank)


@lowers("any")
def any_(call: Call, x: Any, dim: Any = None, keepdim: bool = False) -> Any:
    """Tell whether one is not 0."""
    return jnp.any(x != 0, axis=_one(dim, x.ndim), keepdims=keepdim)


@lowers("all")
def all_(call: Call, x: Any, dim: Any = None, keepdim: bool = False) -> Any:
    """Tell whether none is 0."""
    return jnp.all(x != 0, axis=_one(dim, x.ndim), keepdims=keepdim)


@lowers("prod")
def prod(call: Call, x: Any, dim: Any = None, keepdim: bool = False, **others: Any) -> Any:
    """Multiply."""
    return jnp.prod(x, axis=_one(dim, x.ndim), keepdims=keepdim)


@lowers("max.default", "max")
def max_(call: Call, x: Any) -> Any:
    """Give the largest."""
    return jnp.max(x)


@lowers("min.default", "min")
def min_(call: Call, x: Any) -> Any:
    """Give the least."""
    return jnp.min(x)


lowers("max.other")(lambda call, x, y: jnp.maximum(x, y))
lowers("min.other")(lambda call, x, y: jnp.minimum(x, y))


@lowers("max.dim")
def max_dim(call: Call, x: Any, dim: int, keepdim: bool = False) -> Any:
    """Give the largest of a dimension, and where they are."""
    return [jnp.max(x, dim, keepdims=keepdim), jnp.argmax(x, dim, keepdims=keepdim)]


@lowers("min.dim")
def min_dim(call: Call, x: Any, dim: int, keepdim: bool = False) -> Any:
    """Give the least of a dimension, and where they are."""
    return [jnp.min(x, dim, keepdims=keepdim), jnp.argmin(x, dim, keepdims=keepdim)]


@lowers("argmax")
def argmax(call: Call, x: Any, dim: int | None = None, keepdim: bool = False) -> Any:
    """Tell where the largest is."""
    return jnp.argmax(x, dim, keepdims=keepdim)


@lowers("argmin")
def argmin(call: Call, x: Any, dim: int | None = None, keepdim: bool = False) -> Any:
    """Tell where the least is."""
    return jnp.argmin(x, dim, keepdims=keepdim)


def _variance(x: Any, dims: Any, correction: Any, keepdim: bool) -> tuple[Any, Any]:
    axes = axes_of(dims, x.ndim)
    count = 1
    for axis in axes:
        count = count * x.shape[axis]
    mean = jnp.mean(x, axis=axes, keepdims=True)
    total = jnp.sum(jnp.square(x - mean), axis=axes, keepdims=keepdim)
    return total / (count - (1 if correction is None else correction)), mean if keepdim else jnp.mean(x, axis=axes)


@lowers("var.correction")
def var(call: Call, x: Any, dims: Any = None, correction: Any = None, keepdim: bool = False) -> Any:
    """Give the variance."""
    return _variance(x, dims, correction, keepdim)[0]


@lowers("std.correction")
def std(call: Call, x: Any, dims: Any = None, correction: Any = None, keepdim: bool = False) -> Any:
    """Give the standard deviation."""
    return jnp.sqrt(_variance(x, dims, correction, keepdim)[0])


@lowers("var_mean.correction")
def var_mean(call: Call, x: Any, dims: Any = None, correction: Any = None, keepdim: bool = False) -> Any:
    """Give the variance and the mean."""
    return list(_variance(x, dims, correction, keepdim))


@lowers("cumsum")
def cumsum(call: Call, x: Any, dim: int, **others: Any) -> Any:
    """Add up along a dimension."""
    return lax.cumsum(x.astype(call.dtype), axis_of(dim, x.ndim)) if x.ndim else x


@lowers("cumprod")
def cumprod(call: Call, x: Any, dim: int, **others: Any) -> Any:
    """Multiply along a dimension."""
    return lax.cumprod(x.astype(call.dtype), axis_of(dim, x.ndim)) if x.ndim else x


@lowers("logsumexp")
def logsumexp(call: Call, x: Any, dims: Sequence[int], keepdim: bool = False) -> Any:
    """Compute the logarithm of the sum of exponentials."""
    return nn.logsumexp(x, axis=axes_of(dims, x.ndim), keepdims=keepdim)


@lowers("_softmax", "softmax", "_safe_softmax")
def softmax(call: Call, x: Any, dim: int, *rest: Any, **others: Any) -> Any:
    """Give shares that add up to 1."""
    return nn.softmax(x, axis=dim)


@lowers("_log_softmax", "log_softmax")
def log_softmax(call: Call, x: Any, dim: int, *rest: Any) -> Any:
    """Give the logarithms of shares that add up to 1."""
    return nn.log_softmax(x, axis=dim)


@lowers("sort")
def sort(call: Call, x: Any, dim: int = -1, descending: bool = False) -> Any:
    """Order a dimension, and tell where each was."""
    axis = axis_of(dim, x.ndim)
    order = jnp.argsort(x, axis, stable=True, descending=descending)
    return [jnp.take_along_axis(x, order, axis), order]


@lowers("topk")
def topk(call: Call, x: Any, k: int, dim: int = -1, largest: bool = True, ordered: bool = True) -> Any:
    """Give the largest (or least) of a dimension, and where they are."""
    axis = axis_of(dim, x.ndim)
    order = jnp.argsort(x, axis, stable=True, descending=largest)
    order = lax.slice_in_dim(order, 0, k, axis=axis)
    return [jnp.take_along_axis(x, order, axis), order]


@lowers("linalg_vector_norm")
def vector_norm(call: Call, x: Any, order: float = 2, dims: Any = None, keepdim: bool = False, **others: Any) -> Any:
    """Compute a norm of vectors."""
    axes = axes_of(dims, x.ndim)
    if order == 2:
        return jnp.sqrt(jnp.sum(jnp.square(x), axis=axes, keepdims=keepdim))
    if order in (float("inf"), float("-inf")):
        return (jnp.max if order > 0 else jnp.min)(jnp.abs(x), axis=axes, keepdims=keepdim)
    if order == 0:
        return jnp.sum(x != 0, axis=axes, keepdims=keepdim)
    return jnp.sum(jnp.abs(x) ** order, axis=axes, keepdims=keepdim) ** (1 / order)
