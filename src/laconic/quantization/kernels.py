"""Operators of families that a target computes in integers, for which it has no kernel all the same."""

from __future__ import annotations

from typing import Any

from torch import Tensor, fx

from laconic.core.operators import CONVOLUTIONS, argument, groups_of, row_of


def _rank(node: Any) -> int:
    """Return the number of dimensions of a value; 0 where it is not known."""
    value = node.meta.get("val") if isinstance(node, fx.Node) else None
    return value.dim() if isinstance(value, Tensor) else 0


def xnnpack_lacks(node: fx.Node) -> str | None:
    """XNNPACK's partitioner: `ConvolutionConfig`, `AddConfig` (executorch 1.5, backends/xnnpack/partition/config)."""
    row = row_of(node)
    if row.family == "sum":
        return "XNNPACK adds without a factor" if argument(node, 2) not in (None, 1) or node.kwargs.get("alpha", 1) != 1 else None
    if row.family in CONVOLUTIONS and _rank(node) > 4:
        return "XNNPACK has no convolution in three dimensions"
    return "XNNPACK has no int8 kernel for transposed convolutions with groups" if row.transposed and groups_of(node) > 1 else None


def ncnn_lacks(node: fx.Node) -> str | None:
    """ncnn's int8 kernels: `Convolution`, `ConvolutionDepthWise`, `InnerProduct`."""
    row = row_of(node)
    if row.family == "linear":
        return None if _rank(node) in (0, 2) else "ncnn has int8 linear layers for one vector an example"
    if _rank(node) not in (0, 4):
        return "ncnn has int8 convolutions in two dimensions only"
    value = node.meta.get("val")
    channels = value.shape[1] if isinstance(value, Tensor) else groups_of(node)
    return None if groups_of(node) in (1, channels) else "ncnn has one scale for each group of a convolution"
