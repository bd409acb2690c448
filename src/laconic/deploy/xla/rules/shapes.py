"""Operators that move, repeat and make numbers. Sizes come from what the graph knows of the result."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from laconic.deploy.xla.late import jnp, lax
from laconic.deploy.xla.rules.table import Call, axes_of, axis_of, lowers

_END = 1 << 62  # a slice that ends behind this ends with its dimension


@lowers(
    "view", "reshape", "_unsafe_view", "flatten", "unflatten", "squeeze", "unsqueeze", "view_copy", "_reshape_copy",
    "squeeze_copy", "unsqueeze_copy", "_reshape_alias", moves=True,
)  # fmt: skip
def reshape(call: Call, x: Any, *rest: Any) -> Any:
    """Give the same numbers in another shape."""
    return jnp.reshape(x, call.shape)


@lowers("expand", "expand_copy", moves=True)
def expand(call: Call, x: Any, *rest: Any, **others: Any) -> Any:
    """Repeat along dimensions of size 1."""
    return jnp.broadcast_to(x, call.shape)


@lowers("permute", "permute_copy", moves=True)
def permute(call: Call, x: Any, dims: Sequence[int]) -> Any:
    """Order the dimensions."""
    return jnp.transpose(x, [axis_of(dim, x.ndim) for dim in dims])


@lowers("transpose.int", "transpose_copy", moves=True)
def transpose(call: Call, x: Any, first: int, second: int) -> Any:
    """Swap two dimensions."""
    return jnp.swapaxes(x, first, second)


@lowers("t", moves=True)
def transposed(call: Call, x: Any) -> Any:
    """Swap the last two dimensions."""
    return jnp.swapaxes(x, -1, -2) if x.ndim > 1 else x


@lowers("cat")
def cat(call: Call, arrays: Sequence[Any], dim: int = 0) -> Any:
    """Join; empty rows of one dimension are nothing."""
    kept = [array for array in arrays if not (array.ndim == 1 and len(call.shape) > 1)]
    return jnp.concatenate([array.astype(call.dtype) for array in kept], axis=dim)


@lowers("stack")
def stack(call: Call, arrays: Sequence[Any], dim: int = 0) -> Any:
    """Join along a new dimension."""
    return jnp.stack([array.astype(call.dtype) for array in arrays], axis=dim)


def cut(x: Any, axis: int, start: Any, size: Any, step: int = 1) -> Any:
    """Return `size` slices from `start` on."""
    if isinstance(start, int) and start == 0 and step == 1 and size is x.shape[axis]:
        return x
    limit = start + (size - 1) * step + 1
    return lax.slice_in_dim(x, start, limit, step, axis)


def _start(x: Any, axis: int, start: Any) -> Any:
    """Return where a slice begins, counted from the first."""
    if start is None:
        return 0
    if isinstance(start, int) and start < 0:
        size = x.shape[axis]
        return max(0, start + size) if isinstance(size, int) else start + size
    return start


@lowers("slice", "slice_copy", moves=True)
def slice_(call: Call, x: Any, dim: int = 0, start: Any = None, end: Any = None, step: int = 1) -> Any:
    """Give a part of a dimension."""
    axis = axis_of(dim, x.ndim)
    if isinstance(call.shape[axis], int) and call.shape[axis] == 0:
        return jnp.zeros(call.shape, x.dtype)
    return cut(x, axis, _start(x, axis, start), call.shape[axis], step)


@lowers("slice_scatter")
def slice_scatter(call: Call, x: Any, source: Any, dim: int = 0, start: Any = None, end: Any = None, step: int = 1) -> Any:
    """Put numbers into a part of a dimension."""
    axis = axis_of(dim, x.ndim)
    first = _start(x, axis, start)
    places = first + step * jnp.arange(source.shape[axis])
    return x.at[(slice(None),) * axis + (places,)].set(source.astype(x.dtype))


@lowers("select", "select_copy")
def select(call: Call, x: Any, dim: int, index: Any) -> Any:
    """Give one slice of a dimension."""
    axis = axis_of(dim, x.ndim)
    return lax.index_in_dim(x, _start(x, axis, index), axis, keepdims=False) if isinstance(index, int) else jnp.take(x, index, axis=axis)


@lowers("select_scatter")
def select_scatter(call: Call, x: Any, source: Any, dim: int, index: int) -> Any:
    """Put numbers into one slice of a dimension."""
    return x.at[(slice(None),) * axis_of(dim, x.ndim) + (index,)].set(source.astype(x.dtype))


@lowers("split", "split_with_sizes", "split_copy", "split_with_sizes_copy")
def split(call: Call, x: Any, sizes: Any, dim: int = 0) -> Any:
    """Give the parts of a dimension."""
    axis, start, parts = axis_of(dim, x.ndim), 0, []
    for shape in call.shapes:
        parts.append(cut(x, axis, start, shape[axis]))
        start += shape[axis]
    return parts


@lowers("unbind")
def unbind(call: Call, x: Any, dim: int = 0) -> Any:
    """Give the slices of a dimension."""
    return [lax.index_in_dim(x, index, axis_of(dim, x.ndim), keepdims=False) for index in range(len(call.shapes))]


@lowers("flip")
def flip(call: Call, x: Any, dims: Sequence[int]) -> Any:
    """Turn dimensions around."""
    return jnp.flip(x, axes_of(dims, x.ndim))


@lowers("roll")
def roll(call: Call, x: Any, shifts: Any, dims: Any = ()) -> Any:
    """Move along dimensions, what leaves at one end comes in at the other."""
    shifts = [shifts] if isinstance(shifts, int) else shifts
    dims = [dims] if isinstance(dims, int) else dims
    if not dims:
        return jnp.roll(x.reshape(-1), shifts[0]).reshape(x.shape)
    for shift, dim in zip(shifts, dims, strict=True):
        x = jnp.roll(x, shift, dim)
    return x


@lowers("repeat")
def repeat(call: Call, x: Any, times: Sequence[Any]) -> Any:
    """Repeat whole dimensions."""
    x = x.reshape((1,) * (len(times) - x.ndim) + x.shape) if len(times) > x.ndim else x
    pairs = [size for time, own in zip(times, x.shape, strict=True) for size in (time, own)]
    ones = [size for own in x.shape for size in (1, own)]
    return jnp.broadcast_to(x.reshape(ones), pairs).reshape(call.shape)


@lowers("repeat_interleave.self_int")
def repeat_interleave(call: Call, x: Any, times: int, dim: int | None = None, **others: Any) -> Any:
    """Repeat each slice."""
    x = x.reshape(-1) if dim is None else x
    axis = axis_of(dim or 0, x.ndim)
    wide = jnp.broadcast_to(jnp.expand_dims(x, axis + 1), (*x.shape[: axis + 1], times, *x.shape[axis + 1 :]))
    return wide.reshape(call.shape)


@lowers("full", "new_full", "full_like", "scalar_tensor", "zeros", "zeros_like", "new_zeros", "ones", "ones_like", "new_ones", "empty", "empty_like",
        "new_empty", "empty_permuted", "new_empty_strided", "empty_strided")  # fmt: skip
def full(call: Call, *args: Any, **others: Any) -> Any:
    """Give one number everywhere."""
    value = args[-1] if "full" in call.name else args[0] if call.name == "scalar_tensor" else int("ones" in call.name)
    return jnp.full(call.shape, value, call.dtype)


@lowers("fill")
def fill(call: Call, x: Any, value: Any) -> Any:
    """Give one number everywhere."""
    return jnp.full(call.shape, value, call.dtype)


@lowers("arange")
def arange(call: Call, *args: Any, **others: Any) -> Any:
    """Count."""
    start, step = (0, 1) if len(args) == 1 else (args[0], args[2] if len(args) > 2 else 1)
    exact = "int64" if call.dtype.startswith("int") else "float64"
    return start + step * lax.iota(exact, call.shape[0])


@lowers("linspace")
def linspace(call: Call, start: Any, end: Any, steps: Any, **others: Any) -> Any:
    """Give numbers at equal distances, both ends among them."""
    return start + (end - start) / max(1, steps - 1) * lax.iota("float64", call.shape[0])


@lowers("eye")
def eye(call: Call, *rest: Any, **others: Any) -> Any:
    """Give the unit matrix."""
    return jnp.eye(*call.shape)


@lowers("tril")
def tril(call: Call, x: Any, diagonal: int = 0) -> Any:
    """Give 0 above a diagonal."""
    rows, columns = (lax.broadcasted_iota("int64", x.shape[-2:], axis) for axis in (0, 1))
    return jnp.where(columns <= rows + diagonal, x, jnp.zeros((), x.dtype))


@lowers("triu")
def triu(call: Call, x: Any, diagonal: int = 0) -> Any:
    """Give 0 below a diagonal."""
    rows, columns = (lax.broadcasted_iota("int64", x.shape[-2:], axis) for axis in (0, 1))
    return jnp.where(columns >= rows + diagonal, x, jnp.zeros((), x.dtype))


@lowers("diagonal", "diagonal_copy")
def diagonal(call: Call, x: Any, offset: int = 0, first: int = 0, second: int = 1) -> Any:
    """Give the diagonal of two dimensions, as the last one."""
    return jnp.diagonal(x, offset, first, second)


@lowers("unfold")
def unfold(call: Call, x: Any, dim: int, size: int, step: int) -> Any:
    """Give windows of a dimension, their content as the last one."""
    axis = axis_of(dim, x.ndim)
    count = call.shape[axis]
    return jnp.stack([cut(x, axis, offset, count, step) for offset in range(size)], axis=-1)


@lowers("pixel_shuffle", moves=True)
def pixel_shuffle(call: Call, x: Any, factor: int) -> Any:
    """Make pictures larger by their channels."""
    *lead, channels, height, width = x.shape
    x = x.reshape((*lead, channels // factor**2, factor, factor, height, width))
    n = len(lead)
    return jnp.transpose(x, [*range(n + 1), n + 3, n + 1, n + 4, n + 2]).reshape(call.shape)


@lowers("channel_shuffle", "native_channel_shuffle")
def channel_shuffle(call: Call, x: Any, groups: int) -> Any:
    """Mix the channels of groups."""
    batch, channels, *sizes = x.shape
    return jnp.swapaxes(x.reshape((batch, groups, channels // groups, *sizes)), 1, 2).reshape(x.shape)


@lowers("constant_pad_nd")
def constant_pad_nd(call: Call, x: Any, pad: Sequence[int], value: Any = 0) -> Any:
    """Put a number around, or cut where the width is negative; the last dimension comes first."""
    return lax.pad(x, jnp.asarray(value, x.dtype), [(low, high, 0) for low, high in _widths(pad, x.ndim)])


def _widths(pad: Sequence[int], rank: int) -> list[tuple[int, int]]:
    pairs = [(pad[i], pad[i + 1]) for i in range(0, len(pad), 2)]
    return [(0, 0)] * (rank - len(pairs)) + pairs[::-1]


_PADDING = {"constant": "constant", "reflect": "reflect", "replicate": "edge", "circular": "wrap"}


@lowers("pad")
def pad_(call: Call, x: Any, pad: Sequence[int], mode: str = "constant", value: Any = None) -> Any:
    """Put something around."""
    if mode == "constant":
        return constant_pad_nd(call, x, pad, value or 0)
    return jnp.pad(x, _widths(pad, x.ndim), mode=_PADDING[mode])


@lowers("reflection_pad1d", "reflection_pad2d", "reflection_pad3d")
def reflection_pad(call: Call, x: Any, pad: Sequence[int]) -> Any:
    """Put what is mirrored around."""
    return pad_(call, x, pad, "reflect")


@lowers("replication_pad1d", "replication_pad2d", "replication_pad3d")
def replication_pad(call: Call, x: Any, pad: Sequence[int]) -> Any:
    """Put the edge around."""
    return pad_(call, x, pad, "replicate")
