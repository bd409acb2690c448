"""Corrections around rounding: cross-layer equalization and SmoothQuant before it, bias correction after it; batch-norm re-estimation.

All work in place on a program that is the pass's own copy.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx

from laconic.core.fake_quant import weight_of
from laconic.core.graph import free_name, get_tensor, set_parameter
from laconic.core.program import Program, argument, aten, set_argument
from laconic.quantization.observers import ChannelMean, ChannelRange

CONVOLUTIONS = (
    *(aten.conv1d.default, aten.conv2d.default, aten.conv3d.default),
    *(aten.conv1d.padding, aten.conv2d.padding, aten.conv3d.padding),
)
_NORMS = (aten.layer_norm.default,)
_POSITIVE = (aten.relu.default, aten.relu_.default)


def only_reader(program: Program, attribute: fx.Node) -> bool:
    """Whether nobody else reads the tensor behind an attribute, under any name."""
    tensor = get_tensor(program, attribute)
    same = [n for n in program.graph.nodes if n.op == "get_attr" and get_tensor(program, n) is tensor]
    return sum(len(n.users) for n in same) == 1


# Cross-layer equalization --------------------------------------------------------------------------------------------------------------


# A channel whose bias is so many times the sum of its weights is as good as a constant.
_CONSTANT = 100.0


def equalize(program: Program) -> int:
    """Give neighbouring convolutions like ranges per channel (Nagel et al. 2019, eq. 11), where only a ReLU, which scales through, is between them.

    Returns:
        How many pairs were equalized.
    """
    pairs = list(_pairs(program))
    for _ in range(2):  # a convolution in the middle of a chain belongs to two pairs
        for first, second in pairs:
            _equalize_pair(program, first, second)
    return len(pairs)


def _pairs(program: Program) -> Iterable[tuple[fx.Node, fx.Node]]:
    layers = (*CONVOLUTIONS, aten.linear.default)
    for node in program.graph.nodes:
        if node.target not in layers or not _own_weights(program, node):
            continue
        reader, last = _single(node), node
        if reader is not None and reader.target in _POSITIVE:
            reader, last = _single(reader), reader
        if reader is None or reader.target not in layers or reader.args[0] is not last or not _own_weights(program, reader):
            continue
        if (node.target is aten.linear.default) == (reader.target is aten.linear.default):
            yield node, reader


def _single(node: fx.Node) -> fx.Node | None:
    return next(iter(node.users)) if len(node.users) == 1 else None


def _own_weights(program: Program, node: fx.Node) -> bool:
    parts = [a for a in (node.args[1], argument(node, 2)) if a is not None]
    return all(isinstance(a, fx.Node) and a.op == "get_attr" and only_reader(program, a) for a in parts)


@torch.no_grad()
def _equalize_pair(program: Program, first: fx.Node, second: fx.Node) -> None:
    one, two = (get_tensor(program, node.args[1]) for node in (first, second))  # type: ignore[arg-type]
    groups = int(argument(second, 6)) if second.target in CONVOLUTIONS else 1
    # the second kernel by its input channels: (groups, O/groups, I/groups, …) to (I, …)
    by_input = two.unflatten(0, (groups, -1)).transpose(1, 2).flatten(0, 1)
    r1, r2 = one.flatten(1).abs().amax(1), by_input.flatten(1).abs().amax(1)
    live = (r1 > 0) & (r2 > 0)
    if (bias := argument(first, 2)) is not None:  # what is nearly a constant would get the range that its weights lack, for all channels
        live &= get_tensor(program, bias).abs() <= _CONSTANT * one.flatten(1).abs().sum(1)
    scale = torch.where(live, (r1 / r2.clamp(min=1e-30)).sqrt(), torch.ones_like(r1)).clamp(1e-3, 1e3)
    shape = (-1, *[1] * (one.dim() - 1))
    one.div_(scale.view(shape))
    if bias is not None:
        get_tensor(program, bias).div_(scale)
    scaled = by_input * scale.view(-1, *[1] * (by_input.dim() - 1))
    two.copy_(scaled.unflatten(0, (groups, -1)).transpose(1, 2).flatten(0, 1))


# SmoothQuant ---------------------------------------------------------------------------------------------------------------------------


def smoothing_watchers(program: Program) -> dict[fx.Node, Sequence[ChannelRange]]:
    """What must be watched for `smooth`: the outputs of the norms that can be smoothed."""
    return {norm: [ChannelRange(-1)] for norm, _ in _norms_before_linears(program)}


def _norms_before_linears(program: Program) -> Iterable[tuple[fx.Node, list[fx.Node]]]:
    """Layer norms with a scale and shift of their own, and the linear layers that read them."""
    for norm in program.graph.nodes:
        weight, bias = (argument(norm, 2), argument(norm, 3)) if norm.target in _NORMS else (None, None)
        if not isinstance(weight, fx.Node) or not isinstance(bias, fx.Node):
            continue
        linears = [user for user in norm.users if user.target is aten.linear.default and user.args[0] is norm]
        own = all(n.op == "get_attr" and only_reader(program, n) for n in (weight, bias))
        if linears and own and all(n.args[1].op == "get_attr" and only_reader(program, n.args[1]) for n in linears):
            yield norm, linears


@torch.no_grad()
def smooth(program: Program, seen: Mapping[fx.Node, Sequence[ChannelRange]], alpha: float) -> int:
    """Move the range of a norm's output channels into the weights after it: `s = max|x|^α / max|w|^(1−α)` (Xiao et al. 2023, eq. 4).

    The norm's scale and shift are divided by s and the linear layers' columns multiplied. Where something else reads the norm
    too (a residual), that reader gets the values times s, as before.

    Returns:
        How many norms were smoothed.
    """
    count = 0
    for norm, linears in list(_norms_before_linears(program)):
        ranges = seen[norm][0].largest
        if ranges is None:
            continue
        weights = torch.stack([get_tensor(program, n.args[1]).abs().amax(0) for n in linears]).amax(0)  # type: ignore[arg-type]
        s = ranges.clamp(min=1e-5).pow(alpha) / weights.clamp(min=1e-5).pow(1 - alpha)
        s = (s / s.log().mean().exp()).clamp(1e-2, 1e2)
        for index in (2, 3):
            get_tensor(program, norm.args[index]).div_(s)  # type: ignore[arg-type]
        for linear in linears:
            get_tensor(program, linear.args[1]).mul_(s)  # type: ignore[arg-type]
        others = [user for user in norm.users if user not in linears]
        if others:
            name = f"smoothing_{norm.name}"
            set_parameter(program, name, s.detach().clone())
            with program.graph.inserting_after(norm):
                attribute = program.graph.get_attr(name)
            with program.graph.inserting_after(attribute):
                restored = program.graph.call_function(aten.mul.Tensor, (norm, attribute))
            restored.meta["nn_module_stack"] = norm.meta.get("nn_module_stack", {})
            for user in others:
                user.replace_input_with(norm, restored)
        count += 1
    if count:
        program.recompile()
    return count


# Bias correction -----------------------------------------------------------------------------------------------------------------------


def channel_axis(node: fx.Node) -> int:
    """Where the input channels of a weighted operator lie."""
    return -1 if node.target in (aten.linear.default, aten.addmm.default) else 1


@torch.no_grad()
def correct_bias(program: Program, node: fx.Node, error: Tensor, mean: ChannelMean) -> bool:
    """Take the mean error that rounding the weights makes in each output channel out of the bias (Nagel et al. 2019, eq. 16, with the means of calibration).

    Args:
        node: a linear layer or a convolution.
        error: of the rounded weight, (O, I, …).
        mean: of the input channels.

    Returns:
        Whether there was something to correct.
    """
    if node.target not in (aten.linear.default, *CONVOLUTIONS):
        return False
    bias: Any = argument(node, 2)
    if bias is not None and not only_reader(program, bias):
        return False
    error, dtype = error.double(), error.dtype
    groups = int(argument(node, 6)) if node.target in CONVOLUTIONS else 1
    per_input = error.flatten(2).sum(2) if error.dim() > 2 else error  # (O, I / groups)
    means = mean.mean.reshape(groups, 1, -1)
    shift = (per_input.unflatten(0, (groups, -1)) * means).sum(2).flatten()
    old = torch.zeros_like(shift) if bias is None else get_tensor(program, bias).double()
    value = (old - shift).to(dtype)
    if bias is not None:
        set_parameter(program, str(bias.target), value)
        return True
    weight: Any = node.args[1]
    weight = weight if weight.op == "get_attr" else weight_of(weight)
    name = free_name(program, f"{str(weight.target).removesuffix('weight')}bias")
    set_parameter(program, name, value)
    with program.graph.inserting_before(node):
        set_argument_at(node, 2, program.graph.get_attr(name))
    return True


def set_argument_at(node: fx.Node, index: int, value: Any) -> None:
    """Set a positional argument that may not be there yet."""
    if index == len(node.args):
        node.args = (*node.args, value)
    else:
        set_argument(node, index, value)
