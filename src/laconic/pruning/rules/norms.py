"""Rules of normalization."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx

from laconic.core.operators import argument, names_of, plain_name, row_of, set_argument
from laconic.pruning.rules.table import Masking, Node, axis_at, numbers, rule
from laconic.pruning.surgeon import Surgeon
from laconic.pruning.trace import Tracer, Value


def _standardized(x: Tensor, mask: Tensor, axes: list[int], eps: float) -> Tensor:
    """Return x less its mean over its deviation along some axes, as far as the mask goes; 0 elsewhere."""
    count = mask.sum(axes, keepdim=True).clamp(min=1)
    mean = (x * mask).sum(axes, keepdim=True) / count
    var = ((x - mean).square() * mask).sum(axes, keepdim=True) / count
    return (x - mean) * (var + eps).rsqrt() * mask


def _masked_batch_norm(run: Masking, n: Node, args: Any, kwargs: Any) -> Any:
    """Compute a batch-norm; only one that takes its statistics from what it reads, as standardized weights do, computes over removed slices."""
    if not argument(n, 5):
        return n.target(*args, **kwargs)
    x = args[0]
    axes = [i for i in range(x.dim()) if i != 1]
    mask = run.mask(n.args[0], axes, x).expand(x.shape).to(x.dtype)
    result = _standardized(x, mask, axes, argument(n, 7))
    shape = [1, -1, *[1] * (x.dim() - 2)]
    for tensor, combine in ((args[1], torch.mul), (args[2], torch.add)):
        result = result if tensor is None else combine(result, tensor.view(shape))
    return result


@rule(*names_of("native batch norm", "instance norm"))
@rule(*names_of("batch norm"), mask=_masked_batch_norm)
def channel_norm(t: Tracer, node: Node) -> Any:
    """Couple a norm of channels: x (B, C, …), and up to four tensors of C numbers."""
    value = t.value(node.args[0])
    for tensor in node.args[1:5]:
        t.tie(tensor, 0, value[1], "norm", node)
    return _with_statistics(t, node, value)


def _with_statistics(t: Tracer, node: Node, value: Value) -> Any:
    """Return the value of a norm that may put out mean and deviation, too."""
    several = node.meta["val"]
    return [value, *(t.blank(node, i) for i in range(1, len(several)))] if isinstance(several, (tuple, list)) else value


def _masked_weight_norm(run: Masking, n: Node, args: Any, kwargs: Any) -> Any:
    """Return the norm of a removed row is 0, and what is divided by it no number."""
    return torch.nan_to_num(n.target(*args, **kwargs))


@rule("_weight_norm", mask=_masked_weight_norm)
def weight_norm(t: Tracer, node: Node) -> Value:
    """Couple a weight norm: v times g over v's norm, for each index of a dimension, or of all numbers where g is one."""
    value = t.value(node.args[0])
    if t.rank(node.args[1]):
        axis = axis_at(node, 2, len(value))
        t.tie(node.args[1], axis, value[axis], "norm", node)
    return value


def _normalized(s: Surgeon, old: Node, new: Node) -> None:
    value = s.value(old)
    dims = (value[0] if isinstance(value, list) else value)[-len(argument(old, 1)) :]
    set_argument(new, 1, [s.count(dim) for dim in dims])


def _masked_norm(run: Masking, n: Node, args: Any, kwargs: Any) -> Any:
    x, shape = args[0], args[1]
    axes = list(range(x.dim() - len(shape), x.dim()))
    mask = run.mask(n.args[0], axes, x).expand(x.shape).to(x.dtype)
    weight = argument(n, 2)
    weight = run.env[weight] if isinstance(weight, fx.Node) else weight
    if plain_name(n) == "rms_norm":
        eps = argument(n, 3) or torch.finfo(x.dtype).eps
        result = x * ((x * mask).square().sum(axes, keepdim=True) / mask.sum(axes, keepdim=True) + eps).rsqrt()
        return result if weight is None else result * weight
    bias = argument(n, 3)
    bias = run.env[bias] if isinstance(bias, fx.Node) else bias
    result = _standardized(x, mask, axes, argument(n, 4))
    result = result if weight is None else result * weight
    return result if bias is None else result + bias


@rule(*names_of("layer norm", "rms norm"), edit=_normalized, mask=_masked_norm)
def last_norm(t: Tracer, node: Node) -> Any:
    """Couple a norm of the last dimensions: x (…, *shape), and up to two tensors of that shape."""
    value = t.value(node.args[0])
    shape: Any = node.args[1]
    row = row_of(node)
    for tensor in (argument(node, row.weight), argument(node, row.bias)):
        for i in range(len(shape)):
            t.tie(tensor, i, value[i - len(shape)], "norm", node)
    return _with_statistics(t, node, value)


def _norm_groups(s: Surgeon, old: Node, new: Node) -> None:
    groups = int(argument(old, 1))
    dim = s.dims(old)[1]
    if groups != 1 and s.changed(dim):
        set_argument(new, 1, int(s.flat(dim).reshape(groups, -1).any(1).sum()))


def _masked_group_norm(run: Masking, n: Node, args: Any, kwargs: Any) -> Any:
    x, groups = args[0], args[1]
    mask = run.mask(n.args[0], [1], x).expand(x.shape).to(x.dtype).reshape(x.shape[0], groups, -1)
    parts = x.reshape(x.shape[0], groups, -1)
    result = _standardized(parts, mask, [-1], argument(n, 4)).reshape(x.shape)
    shape = [1, -1, *[1] * (x.dim() - 2)]
    for position, combine in ((2, torch.mul), (3, torch.add)):
        tensor = argument(n, position)
        if tensor is not None:
            result = combine(result, run.env[tensor].view(shape))
    return result


@rule(*names_of("group norm"), edit=_norm_groups, mask=_masked_group_norm)
@numbers(1)
def group_norm(t: Tracer, node: Node) -> Value:
    """Couple a group-norm, x (B, C, …): whole groups go, or the same channels of every group."""
    x, groups = node.args[:2]
    value = list(t.value(x))
    ids = t.flat(value[1], node)
    if ids is not None and groups != 1:
        size = len(ids) // int(groups)
        t.split(ids, (int(groups), size), 0 if t.policy.whole_groups(int(groups), size) else 1)
    for tensor in (argument(node, 2), argument(node, 3)):
        t.tie(tensor, 0, value[1], "norm", node)
    return tuple(value)
