"""Corrections around rounding: cross-layer equalization and SmoothQuant before it, bias correction after it; batch-norm re-estimation.

All work in place on a program that is the pass's own copy.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx

from laconic.core.fake_quant import weight_of
from laconic.core.graph import free_name, get_tensor, readers, set_parameter
from laconic.core.operators import (
    argument,
    family_of,
    groups_of,
    inputs_first,
    is_stored,
    operator_of,
    outputs_first,
    plain_name,
    row_of,
    set_bias,
    spread,
)
from laconic.core.program import Program, aten
from laconic.quantization.observers import ChannelMean, ChannelRange
from laconic.quantization.scheme import WEIGHT_INT8, common_step

_POSITIVE = (aten.relu.default, aten.relu_.default)


def on_grid(program: Program, attribute: fx.Node) -> bool:
    """Return whether the numbers of a weight are multiples of one step, few enough for codes of 8 bits: what scales or moves some of them destroys that."""
    return common_step(get_tensor(program, attribute), WEIGHT_INT8.high) is not None


def only_reader(program: Program, attribute: fx.Node) -> bool:
    """Return whether nobody else reads the tensor behind an attribute, under any name."""
    return len(readers(program, attribute)) == 1


# Cross-layer equalization --------------------------------------------------------------------------------------------------------------


# A channel whose bias is so many times the sum of its weights is as good as a constant.
_CONSTANT = 100.0


def equalize(program: Program) -> int:
    """Give neighboring convolutions like ranges per channel (Nagel et al. 2019, eq. 11), where only a ReLU, which scales through, is between them.

    Weights that are on a grid already stay there.

    Returns:
        How many pairs were equalized.
    """
    pairs = list(_pairs(program))
    for _ in range(2):  # a convolution in the middle of a chain belongs to two pairs
        for first, second in pairs:
            _equalize_pair(program, first, second)
    return len(pairs)


def _pairs(program: Program) -> Iterator[tuple[fx.Node, fx.Node]]:
    for node in program.graph.nodes:
        row = operator_of(node)
        if row is None or not _own_weights(program, node):
            continue
        reader, last = _single(node), node
        if reader is not None and reader.target in _POSITIVE:
            reader, last = _single(reader), reader
        follower = None if reader is None else operator_of(reader)
        if reader is None or follower is None or not _own_weights(program, reader) or argument(reader, follower.inputs[0]) is not last:
            continue
        kernels = [argument(layer, row_of(layer).weight) for layer in (node, reader)]
        if row.channels == follower.channels and not any(on_grid(program, kernel) for kernel in kernels):
            yield node, reader


def _single(node: fx.Node) -> fx.Node | None:
    return next(iter(node.users)) if len(node.users) == 1 else None


def _own_weights(program: Program, node: fx.Node) -> bool:
    """Return whether a node is a layer whose weight and bias nobody else reads."""
    row = operator_of(node)
    if row is None or not row.is_layer:
        return False
    parts = [a for a in (argument(node, row.weight), argument(node, row.bias)) if a is not None]
    return all(isinstance(a, fx.Node) and a.op == "get_attr" and only_reader(program, a) for a in parts)


def _weight(program: Program, node: fx.Node) -> Tensor:
    return get_tensor(program, argument(node, row_of(node).weight))


def _bias(program: Program, node: fx.Node) -> Tensor | None:
    source = argument(node, row_of(node).bias)
    return None if source is None else get_tensor(program, source)


def _along(numbers: Tensor, weight: Tensor) -> Tensor:
    """Shape numbers (O,) as a factor of a weight (O, …)."""
    return numbers.view(-1, *[1] * (weight.dim() - 1))


@torch.no_grad()
def _equalize_pair(program: Program, first: fx.Node, second: fx.Node) -> None:
    one, two = (_weight(program, node) for node in (first, second))
    bias = _bias(program, first)
    by_output, by_input = outputs_first(one, first), inputs_first(two, second)  # (O, …) of the first, (I, …) of the second
    r1, r2 = by_output.flatten(1).abs().amax(1), by_input.flatten(1).abs().amax(1)
    live = (r1 > 0) & (r2 > 0)
    if bias is not None:  # what is nearly a constant would get the range that its weights lack, for all channels
        live &= bias.abs() <= _CONSTANT * by_output.flatten(1).abs().sum(1)
    scale = torch.where(live, (r1 / r2.clamp(min=1e-30)).sqrt(), torch.ones_like(r1)).clamp(1e-3, 1e3)
    one.copy_(outputs_first(by_output / _along(scale, by_output), first))
    if bias is not None:
        bias.div_(scale)
    two.copy_(inputs_first(by_input * _along(scale, by_input), second))


# SmoothQuant ---------------------------------------------------------------------------------------------------------------------------


def smoothing_watchers(program: Program) -> dict[fx.Node, Sequence[ChannelRange]]:
    """Return what must be watched for `smooth`: the outputs of the norms that can be smoothed."""
    return {norm: [ChannelRange(-1)] for norm, _ in _norms_before_linears(program)}


def _norms_before_linears(program: Program) -> Iterator[tuple[fx.Node, list[fx.Node]]]:
    """Return norms over the last dimension with a scale of their own, and the linear layers that read them, whose weights are on no grid yet."""
    for norm in program.graph.nodes:
        parts = _scale_and_shift(norm) if family_of(norm) in ("layer norm", "rms norm") and plain_name(norm) != "native_layer_norm" else []
        if not parts or not all(is_stored(n) and only_reader(program, n) for n in parts):
            continue
        linears = [user for user in norm.users if family_of(user) == "linear" and argument(user, row_of(user).inputs[0]) is norm]
        weights = [argument(n, row_of(n).weight) for n in linears]
        if linears and all(is_stored(weight) and only_reader(program, weight) and not on_grid(program, weight) for weight in weights):
            yield norm, linears


def _scale_and_shift(norm: fx.Node) -> list[Any]:
    """Return the arguments with which a norm scales and shifts, as far as it has them."""
    row = row_of(norm)
    return [part for i in (row.weight, row.bias) if (part := argument(norm, i)) is not None]


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
        weights = torch.stack([inputs_first(_weight(program, n), n).abs().amax(1) for n in linears]).amax(0)
        s = ranges.clamp(min=1e-5).pow(alpha) / weights.clamp(min=1e-5).pow(1 - alpha)
        s = (s / s.log().mean().exp()).clamp(1e-2, 1e2)
        for part in _scale_and_shift(norm):
            get_tensor(program, part).div_(s)
        for linear in linears:
            weight = _weight(program, linear)
            weight.copy_(inputs_first(inputs_first(weight, linear) * s[:, None], linear))
        others = [user for user in norm.users if user not in linears and not _takes_up(program, user, norm, s)]
        if others:
            name = free_name(program, f"smoothing_{norm.name}")
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


def _takes_up(program: Program, user: fx.Node, norm: fx.Node, s: Tensor) -> bool:
    """Multiply by s what a reader multiplies a norm by, as an earlier smoothing left it; returns whether it does."""
    if user.target is not aten.mul.Tensor or user.args[0] is not norm:
        return False
    factor: Any = user.args[1]
    if not (is_stored(factor) and only_reader(program, factor)) or get_tensor(program, factor).shape != s.shape:
        return False
    get_tensor(program, factor).mul_(s)
    return True


# Bias correction -----------------------------------------------------------------------------------------------------------------------


@torch.no_grad()
def correct_bias(program: Program, node: fx.Node, error: Tensor, mean: ChannelMean) -> bool:
    """Take the mean error that rounding the weights makes in each output channel out of the bias (Nagel et al. 2019, eq. 16, with the means of calibration).

    Args:
        node: a linear layer or a convolution, transposed or not.
        error: of the rounded weight, as the operator has it.
        mean: of the input channels.

    Returns:
        Whether there was something to correct.
    """
    row = operator_of(node)
    if row is None or not row.is_layer or row.bias is None:
        return False
    bias: Any = argument(node, row.bias)
    if bias is not None and not (is_stored(bias) and only_reader(program, bias)):
        return False
    dtype = error.dtype
    per_input = outputs_first(error.double(), node).flatten(2).sum(2) if error.dim() > 2 else outputs_first(error.double(), node)
    groups = groups_of(node)
    shift = (per_input.unflatten(0, (groups, -1)) * mean.mean.reshape(groups, 1, -1)).sum(2).flatten()
    if row.transposed:  # of the kernel, each output number meets one in so many
        shift = shift / math.prod(spread(argument(node, row.stride), error.dim() - 2))
    old = torch.zeros_like(shift) if bias is None else get_tensor(program, bias).double()
    value = (old - shift).to(dtype)
    if bias is not None:
        set_parameter(program, str(bias.target), value)
        return True
    weight: Any = argument(node, row.weight)
    weight = weight if weight.op == "get_attr" else weight_of(weight)
    name = free_name(program, f"{str(weight.target).removesuffix('weight')}bias")
    set_parameter(program, name, value)
    with program.graph.inserting_before(node):
        set_bias(node, program.graph.get_attr(name))
    return True
