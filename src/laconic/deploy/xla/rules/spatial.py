"""Convolutions, pools, and pictures of another size. B batch, C channels, then sizes; O output channels, G groups."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from laconic.deploy.xla.late import jnp, lax
from laconic.deploy.xla.rules.codes import Codes
from laconic.deploy.xla.rules.table import Call, lowers

_LETTERS = "DHW"


def _all(value: Any, count: int) -> list[int]:
    """Return one number for each spatial dimension."""
    values = [value] if isinstance(value, int) else list(value)
    return values * count if len(values) == 1 else values


@lowers("convolution", codes=True)
def convolution(
    call: Call, x: Any, weight: Any, bias: Any, stride: Any, padding: Any, dilation: Any, transposed: bool, output_padding: Any, groups: int
) -> Any:
    """Convolve (B, C, …) with (O, C / G, …), or transposed with (C, O / G, …)."""
    count = weight.array.ndim - 2 if isinstance(weight, Codes) else weight.ndim - 2
    stride, padding, dilation, more = (_all(value, count) for value in (stride, padding, dilation, output_padding))
    if transposed:
        x, weight = Codes.floats(x), _transposed(Codes.floats(weight), groups)
        pads = [(d * (k - 1) - p, d * (k - 1) - p + m) for d, k, p, m in zip(dilation, weight.shape[2:], padding, more, strict=True)]
        found = _convolve(call, x, weight, [1] * count, pads, dilation, groups, stride)
    else:
        pads = [(p, p) for p in padding]
        if _in_integers(x, weight):
            found = _convolve_codes(x, weight, stride, pads, dilation, groups)
        else:
            found = _convolve(call, Codes.floats(x), Codes.floats(weight), stride, pads, dilation, groups, None)
    return found if bias is None else found + Codes.floats(bias).reshape((-1,) + (1,) * count)


def _transposed(weight: Any, groups: int) -> Any:
    """Return the weight of the convolution that a transposed one is: (O, C / G, …), turned around."""
    channels, outputs, *sizes = weight.shape
    weight = jnp.swapaxes(weight.reshape((groups, channels // groups, outputs, *sizes)), 1, 2)
    return jnp.flip(weight.reshape((groups * outputs, channels // groups, *sizes)), tuple(range(2, 2 + len(sizes))))


def _numbers(count: int) -> Any:
    letters = _LETTERS[3 - count :]
    return (f"NC{letters}", f"OI{letters}", f"NC{letters}")


def _convolve(call: Call, x: Any, weight: Any, stride: Any, pads: Any, dilation: Any, groups: int, spread: Any) -> Any:
    how = call.operands(x, weight)
    x, weight = how.pop("operands")
    return lax.conv_general_dilated(
        x, weight, stride, pads, lhs_dilation=spread, rhs_dilation=dilation, dimension_numbers=_numbers(weight.ndim - 2),
        feature_group_count=groups, **how,
    )  # fmt: skip


def _in_integers(x: Any, weight: Any) -> bool:
    """Whether both are codes: activations with one scale, weights with one for each output channel, around 0."""
    return isinstance(x, Codes) and isinstance(weight, Codes) and x.axis is None and weight.axis in (None, 0)


def _convolve_codes(x: Codes, weight: Codes, stride: Any, pads: Any, dilation: Any, groups: int) -> Any:
    """Convolve in int8, add up in int32. What is put around is the code of 0, so that the zero point counts everywhere alike."""
    count = weight.array.ndim - 2
    zero = jnp.asarray(x.zero, "int8")
    padded = lax.pad(x.array, zero, [(0, 0, 0), (0, 0, 0), *((low, high, 0) for low, high in pads)])

    def convolved(array: Any, kernel: Any) -> Any:
        return lax.conv_general_dilated(
            array, kernel, stride, "VALID", rhs_dilation=dilation, dimension_numbers=_numbers(count), feature_group_count=groups,
            preferred_element_type="int32",
        )  # fmt: skip

    spread = (-1,) + (1,) * count
    total = convolved(padded, weight.array)
    if not x.around_zero:
        total = total - x.zero * jnp.sum(weight.array, tuple(range(1, count + 2)), dtype="int32").reshape(spread)
    if not weight.around_zero:  # Σ (q − z)(r − u): less u Σ (q − z), of each group's inputs
        ones = jnp.ones_like(weight.array)
        size = math.prod(weight.array.shape[1:])
        total = total - _spread(weight.zero, spread) * (convolved(padded, ones) - x.zero * size)
    scale = jnp.asarray(weight.scale, "float32")
    return total.astype("float32") * (x.scale * (scale.reshape(spread) if scale.ndim else scale))


def _spread(zero: Any, spread: Any) -> Any:
    return zero if isinstance(zero, int) else zero.astype("int32").reshape(spread)


# Pools ------------------------------------------------------------------------------------------------------------------------------------


def _windows(x: Any, count: int, sizes: Any, stride: Any, padding: Any, dilation: Any, ceil: bool) -> tuple[Any, ...]:
    """Return window, strides, pads and dilation over all dimensions, with what is put behind where sizes are rounded up."""
    kernel, padding, dilation = (_all(value, count) for value in (sizes, padding, dilation))
    stride = _all(stride, count) if stride is not None and stride != [] else kernel
    pads = []
    for size, k, s, p, d in zip(x.shape[-count:], kernel, stride, padding, dilation, strict=True):
        reach = d * (k - 1) + 1
        rest = (size + 2 * p - reach) % s if ceil else 0
        more = s - rest if rest else 0
        if more and size + 2 * p + more - reach >= size + p:  # the last window would begin in what was put behind
            more = 0
        pads.append((p, p + more))
    lead = x.ndim - count
    return (1,) * lead + tuple(kernel), (1,) * lead + tuple(stride), [(0, 0)] * lead + pads, (1,) * lead + tuple(dilation)


def _max_pool(x: Any, count: int, *how: Any) -> Any:
    window, strides, pads, dilation = _windows(x, count, *how)
    least = -jnp.inf if jnp.issubdtype(x.dtype, jnp.floating) else jnp.iinfo(x.dtype).min
    return lax.reduce_window(x, jnp.asarray(least, x.dtype), lax.max, window, strides, pads, window_dilation=dilation)


@lowers("max_pool2d", "max_pool3d", "max_pool2d_with_indices", "max_pool3d_with_indices", moves=True)
def max_pool(call: Call, x: Any, sizes: Any, stride: Any = None, padding: Any = 0, dilation: Any = 1, ceil: bool = False) -> Any:
    """Give the largest of each window; where it stands is not told."""
    pooled = _max_pool(x, int(call.name[8]), sizes, stride, padding, dilation, ceil)
    return [pooled, None] if len(call.shapes) == 2 else pooled


@lowers("avg_pool1d", "avg_pool2d", "avg_pool3d")
def avg_pool(
    call: Call,
    x: Any,
    sizes: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil: bool = False,
    count_padding: bool = True,
    divisor: int | None = None,
) -> Any:
    """Give the mean of each window."""
    count = int(call.name[8])
    window, strides, pads, _ = _windows(x, count, sizes, stride, padding, 1, ceil)
    total = lax.reduce_window(x, jnp.zeros((), x.dtype), lax.add, window, strides, pads)
    if divisor:
        return total / divisor
    if not any(high for _, high in pads):
        return total / math.prod(window)
    # ones where something counts: what is put around counts by `count_padding`, what rounding up puts behind never
    sides = [low if count_padding else 0 for low, _ in pads]
    ones = jnp.ones([1] * (x.ndim - count) + [n + 2 * s for n, s in zip(x.shape[-count:], sides[-count:], strict=True)], x.dtype)
    rest = [(low - s, high - s) for (low, high), s in zip(pads, sides, strict=True)]
    return total / lax.reduce_window(ones, jnp.zeros((), x.dtype), lax.add, window, strides, rest)


def _parts(size: int, wanted: int) -> list[tuple[int, int]]:
    """Return beginning and end of each window of an adaptive pool."""
    return [(i * size // wanted, -(-(i + 1) * size // wanted)) for i in range(wanted)]


def _adaptive(call: Call, x: Any, count: int, join: Any) -> Any:
    for axis in range(x.ndim - count, x.ndim):
        wanted, size = call.shape[axis], x.shape[axis]
        if wanted is size or wanted == size:
            continue
        if wanted == 1:
            x = join(x, axis=axis, keepdims=True)
        else:
            x = jnp.concatenate(
                [join(lax.slice_in_dim(x, a, b, axis=axis), axis=axis, keepdims=True) for a, b in _parts(size, wanted)], axis
            )
    return x


@lowers("adaptive_avg_pool1d", "adaptive_avg_pool2d", "_adaptive_avg_pool2d", "adaptive_avg_pool3d", "_adaptive_avg_pool3d")
def adaptive_avg_pool(call: Call, x: Any, sizes: Any) -> Any:
    """Give means of as many windows as wanted."""
    return _adaptive(call, x, int(call.name.lstrip("_")[17]), jnp.mean)


@lowers("adaptive_max_pool1d", "adaptive_max_pool2d", "adaptive_max_pool3d")
def adaptive_max_pool(call: Call, x: Any, sizes: Any) -> Any:
    """Give the largest of as many windows as wanted; where they stand is not told."""
    return [_adaptive(call, x, int(call.name[17]), jnp.max), None]


@lowers("im2col")
def im2col(call: Call, x: Any, sizes: Any, dilation: Any, padding: Any, stride: Any) -> Any:
    """Give the content of windows (B, C · K, L)."""
    sizes, dilation, padding, stride = (_all(value, 2) for value in (sizes, dilation, padding, stride))
    x = lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), (0, 0, 0), *((p, p, 0) for p in padding)])
    counts = [(n - d * (k - 1) - 1) // s + 1 for n, k, d, s in zip(x.shape[2:], sizes, dilation, stride, strict=True)]
    pieces = []
    for i in range(sizes[0]):
        for j in range(sizes[1]):
            piece = x
            for axis, offset in ((2, i * dilation[0]), (3, j * dilation[1])):
                limit = offset + (counts[axis - 2] - 1) * stride[axis - 2] + 1
                piece = lax.slice_in_dim(piece, offset, limit, stride[axis - 2], axis)
            pieces.append(piece)
    return jnp.stack(pieces, 2).reshape(call.shape)


# Other sizes ------------------------------------------------------------------------------------------------------------------------------


def _scale_of(size: int, wanted: int, corners: bool, given: float | None) -> float:
    """Return how far apart in the old picture neighbors of the new one are."""
    if corners:
        return (size - 1) / (wanted - 1) if wanted > 1 else 0.0
    return 1 / given if given else size / wanted


def _given(factors: Any, place: int) -> float | None:
    return None if factors is None else factors if isinstance(factors, float) else factors[place]


@lowers("upsample_nearest1d", "upsample_nearest2d", "upsample_nearest3d", "_upsample_nearest_exact2d")
def nearest(call: Call, x: Any, size: Any, *factors: Any) -> Any:
    """Make pictures of another size; each takes what is nearest."""
    factors = _factors(x, factors)
    half = 0.5 if "exact" in call.name else 0.0
    for place, axis in enumerate(range(2, x.ndim)):
        step = _scale_of(x.shape[axis], call.shape[axis], False, _given(factors, place))
        wanted = [min(int((i + half) * step), x.shape[axis] - 1) for i in range(call.shape[axis])]
        x = jnp.take(x, jnp.asarray(wanted), axis=axis)
    return x


def _factors(x: Any, factors: Sequence[Any]) -> Any:
    """Return the factors of a call: given as a list, or one by one."""
    if len(factors) == 1 and isinstance(factors[0], (list, tuple)):
        return factors[0]
    return list(factors) if len(factors) == x.ndim - 2 and all(isinstance(f, float) for f in factors) else None


def _resized(x: Any, axis: int, places: Sequence[float], weigh: Any, reach: int) -> Any:
    """Return sums of `2 · reach` neighbors around each place, weighed by their distance."""
    size = x.shape[axis]
    rows = []
    for place in places:
        first = math.floor(place) - reach + 1
        row = [0.0] * size
        for index in range(first, first + 2 * reach):
            row[min(max(index, 0), size - 1)] += weigh(abs(place - index))
        rows.append(row)
    moved = jnp.moveaxis(x, axis, -1)
    return jnp.moveaxis(jnp.matmul(moved, jnp.asarray(rows, x.dtype).T, precision=lax.Precision.HIGHEST), -1, axis)


def _interpolated(call: Call, x: Any, corners: bool, factors: Any, weigh: Any, reach: int) -> Any:
    for place, axis in enumerate(range(2, x.ndim)):
        step = _scale_of(x.shape[axis], call.shape[axis], corners, _given(factors, place))
        places = [i * step if corners else (i + 0.5) * step - 0.5 for i in range(call.shape[axis])]
        if reach == 1:
            places = [max(p, 0.0) for p in places]
        x = _resized(x, axis, places, weigh, reach)
    return x


@lowers("upsample_linear1d", "upsample_bilinear2d", "upsample_trilinear3d")
def bilinear(call: Call, x: Any, size: Any, corners: bool, *factors: Any) -> Any:
    """Make pictures of another size, between neighbors in straight lines."""
    return _interpolated(call, x, corners, _factors(x, factors), lambda d: max(0.0, 1 - d), 1)


@lowers("upsample_bicubic2d")
def bicubic(call: Call, x: Any, size: Any, corners: bool, *factors: Any) -> Any:
    """Make pictures of another size, between neighbors by cubic convolution (a = −0.75)."""
    return _interpolated(call, x, corners, _factors(x, factors), _cubic, 2)


def _cubic(d: float, a: float = -0.75) -> float:
    if d <= 1:
        return (a + 2) * d**3 - (a + 3) * d**2 + 1
    return a * d**3 - 5 * a * d**2 + 8 * a * d - 4 * a if d < 2 else 0.0


@lowers("grid_sampler_2d")
def grid_sampler(call: Call, x: Any, grid: Any, mode: int, padding: int, corners: bool) -> Any:
    """Take pictures (B, C, H, W) at places (B, h, w, 2) between −1 and 1, between neighbors in straight lines, 0 outside.

    Raises:
        NotImplementedError: another mode, or what is outside is not 0.
    """
    if mode or padding:
        raise NotImplementedError("grid_sample with a mode other than bilinear, or with padding other than zeros, has no row")
    height, width = x.shape[-2:]
    places = []
    for size, value in ((width, grid[..., 0]), (height, grid[..., 1])):
        places.append((value + 1) / 2 * (size - 1) if corners else ((value + 1) * size - 1) / 2)
    (px, py), flat = places, x.reshape((*x.shape[:2], height * width))
    total: Any = 0
    for dy in (0, 1):
        for dx in (0, 1):
            cx, cy = jnp.floor(px) + dx, jnp.floor(py) + dy
            weight = (1 - jnp.abs(px - cx)) * (1 - jnp.abs(py - cy))
            inside = (cx >= 0) & (cx < width) & (cy >= 0) & (cy < height)
            index = jnp.clip(cy, 0, height - 1).astype("int32") * width + jnp.clip(cx, 0, width - 1).astype("int32")
            index = index.reshape((x.shape[0], 1, index.shape[1] * index.shape[2]))
            taken = jnp.take_along_axis(flat, index, axis=2).reshape(call.shape)
            total = total + taken * jnp.where(inside, weight, 0.0)[:, None]
    return total
