"""Integers: what a quantize/dequantize pair leaves stays codes until somebody needs floats; products and convolutions of codes are computed in int8, added up
in int32.

With codes q, scale s and zero point z, a value is s · (q − z). So of x = s (q − z) and a weight w = t r around 0 the product is s t (q·r − z Σ r).
"""

from __future__ import annotations

from typing import Any

from laconic.deploy.xla.late import jnp, lax
from laconic.deploy.xla.rules.codes import Codes
from laconic.deploy.xla.rules.table import Call, lowers

_SHIFT = 128  # from u8 to s8: all kernels are of one type


def _signed(array: Any, zero: Any) -> tuple[Any, Any]:
    """Return s8 codes and their zero point for u8 ones."""
    if array.dtype == "uint8":
        return (array.astype("int32") - _SHIFT).astype("int8"), zero - _SHIFT
    return array, zero


def multiply_codes(a: Codes, b: Codes) -> Any:
    """Multiply matrices of codes (…, n, k) and (…, k, m): int8 products, int32 sums, then floats.

    A scale for each k is none that can leave the sum: then floats are multiplied.
    """
    rank = a.array.ndim, b.array.ndim
    inner = (a.axis is not None and a.axis != rank[0] - 2) or (b.axis is not None and b.axis != rank[1] - 1)
    if inner or min(rank) < 2:
        return jnp.matmul(a.dense(), b.dense(), precision=lax.Precision.HIGHEST)
    total = jnp.matmul(a.array, b.array, preferred_element_type="int32")
    za, zb = _zero(a, -2), _zero(b, -1)
    if not a.around_zero:
        total = total - za * jnp.sum(b.array, -2, keepdims=True, dtype="int32")
    if not b.around_zero:
        total = total - zb * jnp.sum(a.array, -1, keepdims=True, dtype="int32")
    if not (a.around_zero or b.around_zero):
        total = total + za * zb * a.array.shape[-1]
    return total.astype("float32") * (_scale(a, -2) * _scale(b, -1))


def _zero(codes: Codes, axis: int) -> Any:
    if isinstance(codes.zero, int):
        return codes.zero
    zero = codes.zero.astype("int32")
    return zero if codes.axis is None else zero.reshape((-1, 1) if axis == -2 else (1, -1))


def _scale(codes: Codes, axis: int) -> Any:
    if codes.axis is None:
        return jnp.asarray(codes.scale, "float32").reshape(())
    return codes.scale.reshape((-1, 1) if axis == -2 else (1, -1))


@lowers("quantize_per_tensor", codes=True)
def quantize_per_tensor(call: Call, x: Any, scale: float, zero: int, low: int, high: int, dtype: Any) -> Any:
    """Round to codes. PyTorch multiplies by the inverse of the scale."""
    if isinstance(x, Codes):
        if x.scale == scale and x.zero in (zero, zero - _SHIFT):
            return x.array if x.zero == zero else (x.array.astype("int32") + _SHIFT).astype(call.dtype)
        x = x.dense()
    codes = jnp.clip(jnp.round(x * jnp.float32(1 / scale)) + zero, low, high)
    return codes.astype(call.dtype)


@lowers("dequantize_per_tensor")
def dequantize_per_tensor(call: Call, x: Any, scale: float, zero: int, *rest: Any, **others: Any) -> Any:
    """Give the codes, as such."""
    array, point = _signed(x, zero)
    return Codes(array, float(scale), int(point)) if array.dtype == "int8" else (x.astype("float32") - zero) * scale


@lowers("quantize_per_channel")
def quantize_per_channel(call: Call, x: Any, scales: Any, zeros: Any, axis: int, low: int, high: int, dtype: Any) -> Any:
    """Round to codes, each slice with a scale of its own."""
    spread = [-1 if place == axis else 1 for place in range(x.ndim)]
    codes = jnp.round(x / scales.reshape(spread)) + zeros.reshape(spread)
    return jnp.clip(codes, low, high).astype(call.dtype)


@lowers("dequantize_per_channel")
def dequantize_per_channel(call: Call, x: Any, scales: Any, zeros: Any, axis: int, *rest: Any, **others: Any) -> Any:
    """Give the codes, as such."""
    array, point = _signed(x, zeros)
    axis = axis + x.ndim if axis < 0 else axis
    return Codes(array, scales, point, axis)
