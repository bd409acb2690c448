"""Norms. B batch, C channels, then sizes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from laconic.deploy.xla.late import jnp, lax
from laconic.deploy.xla.rules.table import Call, lowers


def _by_channel(value: Any, rank: int) -> Any:
    return value.reshape((1, -1) + (1,) * (rank - 2))


@lowers("_native_batch_norm_legit_no_training", "batch_norm")
def batch_norm(call: Call, x: Any, weight: Any, bias: Any, mean: Any, variance: Any, *rest: Any) -> Any:
    """Normalize by stored statistics."""
    factor = lax.rsqrt(variance + rest[-1 if call.name.endswith("no_training") else 2])
    factor = factor if weight is None else factor * weight
    shift = -mean * factor if bias is None else bias - mean * factor
    found = x * _by_channel(factor, x.ndim) + _by_channel(shift, x.ndim)
    return found if len(call.shapes) == 1 else [found, *([None] * (len(call.shapes) - 1))]


def _normalized(x: Any, axes: tuple[int, ...], eps: float) -> Any:
    mean = jnp.mean(x, axis=axes, keepdims=True)
    centered = x - mean
    factor = lax.rsqrt(jnp.mean(jnp.square(centered), axis=axes, keepdims=True) + eps)
    return centered * factor, mean, factor


@lowers("native_layer_norm")
def layer_norm(call: Call, x: Any, sizes: Sequence[int], weight: Any, bias: Any, eps: float) -> Any:
    """Normalize the last dimensions."""
    found, mean, factor = _normalized(x, tuple(range(x.ndim - len(sizes), x.ndim)), eps)
    found = found if weight is None else found * weight
    return [found if bias is None else found + bias, mean, factor]


@lowers("native_group_norm")
def group_norm(call: Call, x: Any, weight: Any, bias: Any, batch: Any, channels: int, rest: Any, groups: int, eps: float) -> Any:
    """Normalize groups of channels."""
    grouped = x.reshape((x.shape[0], groups, channels // groups, *x.shape[2:]))
    found, mean, factor = _normalized(grouped, tuple(range(2, grouped.ndim)), eps)
    found = found.reshape(x.shape)
    found = found if weight is None else found * _by_channel(weight, x.ndim)
    found = found if bias is None else found + _by_channel(bias, x.ndim)
    return [found, mean.reshape((x.shape[0], groups)), factor.reshape((x.shape[0], groups))]


@lowers("_native_batch_norm_legit.no_stats", "_native_batch_norm_legit_no_stats")
def batch_statistics(call: Call, x: Any, weight: Any, bias: Any, training: bool, momentum: float, eps: float) -> Any:
    """Normalize by the statistics of what is given (instance norms are made so)."""
    found, mean, factor = _normalized(x, (0, *range(2, x.ndim)), eps)
    found = found if weight is None else found * _by_channel(weight, x.ndim)
    found = found if bias is None else found + _by_channel(bias, x.ndim)
    return [found, mean.reshape(-1), factor.reshape(-1)]


@lowers("rms_norm", "_fused_rms_norm")
def rms_norm(call: Call, x: Any, sizes: Sequence[int], weight: Any = None, eps: float | None = None) -> Any:
    """Divide by the root of the mean square of the last dimensions."""
    axes = tuple(range(x.ndim - len(sizes), x.ndim))
    eps = float(jnp.finfo(x.dtype).eps) if eps is None else eps
    factor = lax.rsqrt(jnp.mean(jnp.square(x), axis=axes, keepdims=True) + eps)
    found = x * factor if weight is None else x * factor * weight
    return found if len(call.shapes) == 1 else [found, factor]
