"""Rules of padding, pooling, resampling, windows and shuffles."""

from __future__ import annotations

from typing import Any

import numpy as np

from laconic.core.operators import argument, plain_name, set_argument
from laconic.pruning.rules.table import Node, axis_at, broadcast, keep_whole, numbers, rule
from laconic.pruning.surgeon import Surgeon
from laconic.pruning.trace import Dim, Tracer, Value, carries, is_ids, plain, size_of


def _padded(s: Surgeon, old: Node, new: Node) -> None:
    dims, source = s.dims(old), s.value(old.args[0])
    amounts = list(argument(old, 1))
    for k in range(len(amounts) // 2):
        axis = len(dims) - 1 - k
        if (amounts[2 * k], amounts[2 * k + 1]) != (0, 0) and s.changed(source[axis]) | s.changed(dims[axis]):
            ids: Any = dims[axis][0][1]
            left, right = (max(amount, 0) for amount in amounts[2 * k : 2 * k + 2])
            cut = _count_cut(s, source[axis], amounts[2 * k], amounts[2 * k + 1])
            amounts[2 * k] = int(s.kept[ids[:left]].sum()) - cut[0]
            amounts[2 * k + 1] = int(s.kept[ids[len(ids) - right :]].sum()) - cut[1]
    set_argument(new, 1, amounts)


def _count_cut(s: Surgeon, dim: Dim, left: int, right: int) -> tuple[int, int]:
    """Return how much is still there of what negative padding cuts away on either side."""
    total, size = s.count(dim), size_of(dim)
    return (s.before(dim, -left) if left < 0 else 0, total - s.before(dim, size + right) if right < 0 else 0)


@rule("reflection_pad1d", "reflection_pad2d", "replication_pad1d", "replication_pad2d", "replication_pad3d")
@rule("pad", "constant_pad_nd", edit=_padded)
@numbers(1)
def pad(t: Tracer, node: Node) -> Value:
    """Couple a padding: that of channels may go, number by number."""
    value, amounts, sizes = t.value(node.args[0]), list(node.args[1]), t.sizes(node)
    plainly = "constant" in (argument(node, 2), plain_name(node).partition("_")[0])
    out = list(value)
    for k in range(len(amounts) // 2):
        axis, (left, right) = len(value) - 1 - k, amounts[2 * k : 2 * k + 2]
        if left == 0 and right == 0:
            continue
        ids = t.flat(value[axis], node) if carries(value[axis]) else None
        if ids is None or not plainly:
            keep_whole(t, value[axis], node)
            out[axis] = plain(*sizes[axis])
        else:
            sides = [t.new(max(amount, 0)) for amount in (left, right)]
            whole = np.concatenate([sides[0], ids[max(-left, 0) : len(ids) - max(-right, 0)], sides[1]])
            out[axis] = ((len(whole), whole),)
    return tuple(out)


@rule(
    *("max_pool1d", "max_pool2d", "max_pool3d", "avg_pool1d", "avg_pool2d", "avg_pool3d", "lp_pool2d"),
    *("adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d", "adaptive_max_pool2d", "upsample_nearest1d"),
    *("upsample_nearest2d", "upsample_nearest3d", "upsample_bilinear2d", "upsample_bicubic2d", "upsample_linear1d", "upsample_trilinear3d"),
    *(
        "_upsample_nearest_exact1d",
        "_upsample_nearest_exact2d",
        "_upsample_nearest_exact3d",
        "_adaptive_avg_pool2d",
        "_adaptive_avg_pool3d",
    ),
    *("max_pool1d_with_indices", "max_pool2d_with_indices", "max_pool3d_with_indices", "adaptive_max_pool1d", "adaptive_max_pool3d"),
    *("lp_pool1d", "lp_pool3d", "_upsample_bilinear2d_aa", "_upsample_bicubic2d_aa"),
)
def spatial(t: Tracer, node: Node) -> Any:
    """Couple operators on the last one, two or three dimensions."""
    value = t.value(node.args[0])
    digits = [int(c) for c in plain_name(node) if c in "123"]
    last = digits[-1] if digits else len(value) - 2
    for dim in value[len(value) - last :]:
        keep_whole(t, dim, node)
    if isinstance(node.meta["val"], (tuple, list)):
        return [(*value[: len(value) - last], *t.blank(node, i)[len(value) - last :]) for i in range(len(node.meta["val"]))]
    return (*value[: len(value) - last], *t.blank(node)[len(value) - last :])


@rule("max_unpool2d", "max_unpool3d")
def unpool(t: Tracer, node: Node) -> Value:
    """Couple numbers that are put back where a pool took them from; channels meet those of the places."""
    values, last = [t.value(value) for value in node.args[:2]], int(plain_name(node)[-2])
    for value in values:
        for dim in value[-last:]:
            keep_whole(t, dim, node)
    return (*broadcast(t, [value[:-last] for value in values], node), *t.blank(node)[-last:])


@rule("im2col")
def im2col(t: Tracer, node: Node) -> Value:
    """Couple (B, C, H, W) to (B, C · kernel, L)."""
    value, blank = t.value(node.args[0]), t.blank(node)
    kernel = size_of(blank[-2]) // size_of(value[-3])
    for dim in value[-2:]:
        keep_whole(t, dim, node)
    return (*value[:-3], (*value[-3], (kernel, None)), blank[-1])


@rule("col2im")
def col2im(t: Tracer, node: Node) -> Value:
    """Couple (B, C · kernel, L) to (B, C, H, W)."""
    value, blank = t.value(node.args[0]), t.blank(node)
    return (*value[:-2], _blocks(t, value[-2], size_of(blank[-3]), node), *blank[-2:])


@rule("unfold")
def unfold(t: Tracer, node: Node) -> Value:
    """Couple windows along a dimension, their numbers in a new last one."""
    value, blank = list(t.value(node.args[0])), t.blank(node)
    axis = axis_at(node, 1, len(value))
    keep_whole(t, value[axis], node)
    value[axis] = blank[axis]
    return (*value, blank[-1])


@rule("pixel_shuffle")
def pixel_shuffle(t: Tracer, node: Node) -> Value:
    """Couple (…, C · r², H, W) to (…, C, rH, rW): the r² parts of a channel go together."""
    value, blank = t.value(node.args[0]), t.blank(node)
    return (*value[:-3], _blocks(t, value[-3], size_of(blank[-3]), node), *blank[-2:])


def _blocks(t: Tracer, dim: Dim, count: int, node: Node) -> Dim:
    """Return so many blocks, one after the other in a dimension, each of which goes as a whole."""
    ids = t.flat(dim, node)
    out = plain(count) if ids is None else t.split(ids, (count, len(ids) // count), 0)[:1]
    if not is_ids(out[0][1]):
        keep_whole(t, dim, node)
    return out


@rule("pixel_unshuffle")
@numbers(1)
def pixel_unshuffle(t: Tracer, node: Node) -> Value:
    """Couple (…, C, rH, rW) to (…, C · r², H, W)."""
    value, r = t.value(node.args[0]), int(node.args[1])
    return (*value[:-3], (*value[-3], (r**2, None)), *t.blank(node)[-2:])


def _shuffled(s: Surgeon, old: Node, new: Node) -> None:
    dim = s.dims(old)[1]
    if len(dim) == 2:  # (channels of a group, groups)
        set_argument(new, 1, s.count(dim[1:]))


@rule("channel_shuffle", "native_channel_shuffle", edit=_shuffled)
@numbers(1)
def channel_shuffle(t: Tracer, node: Node) -> Value:
    """Couple (groups, C / groups) to (C / groups, groups); the same channels of every group go."""
    value, groups = list(t.value(node.args[0])), int(node.args[1])
    ids = t.flat(value[1], node)
    if ids is not None:
        parts = t.split(ids, (groups, len(ids) // groups), 1)
        value[1] = (parts[1], parts[0])
    return tuple(value)


@rule("glu")
def glu(t: Tracer, node: Node) -> Value:
    """Couple one half times the sigmoid of the other."""
    value = list(t.value(node.args[0]))
    axis = axis_at(node, 1, len(value))
    ids = t.flat(value[axis], node)
    half = size_of(value[axis]) // 2
    if ids is None:
        value[axis] = t.blank(node)[axis]
    else:
        t.equate(ids[:half], ids[half:])
        value[axis] = ((half, ids[:half]),)
    return tuple(value)
