"""Operators that take numbers from, or put them to, places that were computed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from laconic.deploy.xla.late import jnp
from laconic.deploy.xla.rules.codes import Codes
from laconic.deploy.xla.rules.table import Call, axis_of, lowers


@lowers("embedding", codes=True)
def embedding(call: Call, weight: Any, ids: Any, *rest: Any) -> Any:
    """Look up rows (V, D)."""
    return jnp.take(Codes.floats(weight), ids, axis=0, mode="clip")


def _places(x: Any, indices: Sequence[Any]) -> tuple[Any, ...]:
    """Return indices for NumPy's way of indexing; where a dimension has none, all of it."""
    return tuple(slice(None) if index is None else index for index in indices)


@lowers("index.Tensor", "_unsafe_index")
def index(call: Call, x: Any, indices: Sequence[Any]) -> Any:
    """Take at places, several dimensions at once."""
    if any(one is not None and one.dtype == bool for one in indices):
        raise NotImplementedError("an index of truth values has as many results as there are true, which XLA does not know beforehand")
    return x[_places(x, indices)]


@lowers("index_put", "_unsafe_index_put")
def index_put(call: Call, x: Any, indices: Sequence[Any], values: Any, accumulate: bool = False) -> Any:
    """Put to places."""
    masks = [one for one in indices if one is not None and one.dtype == bool]
    if masks:
        if len(indices) == 1 and values.ndim == 0:
            return jnp.where(masks[0].reshape(masks[0].shape + (1,) * (x.ndim - masks[0].ndim)), values, x)
        raise NotImplementedError("values are put to places told by truth values, of which XLA does not know how many are true")
    target = x.at[_places(x, indices)]
    return target.add(values) if accumulate else target.set(values)


@lowers("index_select")
def index_select(call: Call, x: Any, dim: int, places: Any) -> Any:
    """Take slices of a dimension."""
    return jnp.take(x, places, axis=axis_of(dim, x.ndim), mode="clip") if x.ndim else x


@lowers("gather")
def gather(call: Call, x: Any, dim: int, places: Any, **others: Any) -> Any:
    """Take along a dimension."""
    return x[_along(dim, places)]


def _along(dim: int, places: Any) -> tuple[Any, ...]:
    axis = axis_of(dim, places.ndim)
    grids = [jnp.arange(size).reshape([-1 if a == i else 1 for a in range(places.ndim)]) for i, size in enumerate(places.shape)]
    return tuple(places if i == axis else grid for i, grid in enumerate(grids))


@lowers("scatter", "scatter.src", "scatter.value")
def scatter(call: Call, x: Any, dim: int, places: Any, values: Any, **others: Any) -> Any:
    """Put along a dimension."""
    return x.at[_along(dim, places)].set(values)


@lowers("scatter_add")
def scatter_add(call: Call, x: Any, dim: int, places: Any, values: Any) -> Any:
    """Add along a dimension."""
    return x.at[_along(dim, places)].add(values)


_JOINS = {"sum": "add", "prod": "multiply", "amax": "max", "amin": "min"}


@lowers("scatter_reduce.two")
def scatter_reduce(call: Call, x: Any, dim: int, places: Any, values: Any, reduce: str, include_self: bool = True) -> Any:
    """Join along a dimension.

    Raises:
        NotImplementedError: means, or what is there does not count.
    """
    if reduce not in _JOINS or not include_self:
        raise NotImplementedError(f"scatter_reduce of '{reduce}' with include_self={include_self} has no row")
    return getattr(x.at[_along(dim, places)], _JOINS[reduce])(values)


@lowers("index_add")
def index_add(call: Call, x: Any, dim: int, places: Any, values: Any, alpha: Any = 1) -> Any:
    """Add to slices of a dimension."""
    return x.at[(slice(None),) * axis_of(dim, x.ndim) + (places,)].add(alpha * values)


@lowers("masked_fill")
def masked_fill(call: Call, x: Any, mask: Any, value: Any) -> Any:
    """Put a number where a mask says so."""
    return jnp.where(mask, jnp.asarray(value, x.dtype), x)


@lowers("bucketize")
def bucketize(call: Call, x: Any, bounds: Any, out_int32: bool = False, right: bool = False) -> Any:
    """Tell between which bounds numbers lie."""
    return jnp.searchsorted(bounds, x, side="right" if right else "left")


@lowers("searchsorted")
def searchsorted(call: Call, bounds: Any, x: Any, **others: Any) -> Any:
    """Tell between which bounds numbers lie."""
    return jnp.searchsorted(bounds, x, side="right" if others.get("right") or others.get("side") == "right" else "left")
