"""Multiply-adds of an operator from the shapes of what it reads and writes. One multiply-add is 1; an operator without a row is unknown, never zero."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import fx

from laconic.core.program import Program, aten

Shape = tuple[int, ...]
Cost = Callable[[fx.Node, Callable[[Any], Shape]], int]  # (operator, shape of a node: its output or its tensor) -> multiply-adds


def _convolution(node: fx.Node, shape: Callable[[Any], Shape]) -> int:
    """Each output number sums over the kernel and the input channels of its group."""
    weight = shape(node.args[1])
    return math.prod(shape(node)) * math.prod(weight[1:])


def _transposed(node: fx.Node, shape: Callable[[Any], Shape]) -> int:
    """Each input number is spread over the kernel and the output channels of its group."""
    return math.prod(shape(node.args[0])) * math.prod(shape(node.args[1])[1:])


def _linear(node: fx.Node, shape: Callable[[Any], Shape]) -> int:
    return math.prod(shape(node)) * shape(node.args[1])[-1]


def _product(first: int) -> Cost:
    """A matrix product: output numbers × the summed dimension, the last of the first matrix."""
    return lambda node, shape: math.prod(shape(node)) * shape(node.args[first])[-1]


def _attention(node: fx.Node, shape: Callable[[Any], Shape]) -> int:
    """Queries × keys, and weights × values: B·N·L·S·(D + D_v)."""
    query, key, value = (shape(node.args[i]) for i in range(3))
    return math.prod(query[:-1]) * key[-2] * (query[-1] + value[-1])


def _recurrent(node: fx.Node, shape: Callable[[Any], Shape]) -> int:
    """Every weight matrix is applied once per step and example; a step and example are one row of the first output."""
    weights: Any = node.args[2]
    rows = math.prod(shape(node.args[0])[:-1])
    return rows * sum(math.prod(shape(w)) for w in weights if len(shape(w)) == 2)


def _einsum(node: fx.Node, shape: Callable[[Any], Shape]) -> int:
    """The product of all index sizes, for two operands without ellipsis; others are unknown."""
    equation, operands = str(node.args[0]).replace(" ", ""), node.args[1]
    terms = equation.split("->")[0].split(",")
    if "." in equation or not isinstance(operands, (list, tuple)) or len(operands) != 2:
        raise LookupError(equation)
    sizes: dict[str, int] = {}
    for term, operand in zip(terms, operands, strict=True):
        sizes.update(zip(term, shape(operand), strict=True))
    return math.prod(sizes.values())


COSTS: dict[Any, Cost] = {
    **dict.fromkeys(
        (aten.conv1d.default, aten.conv2d.default, aten.conv3d.default, aten.conv2d.padding, aten.conv1d.padding, aten.conv3d.padding),
        _convolution,
    ),
    **dict.fromkeys((aten.conv_transpose1d.default, aten.conv_transpose2d.input, aten.conv_transpose3d.input), _transposed),
    aten.linear.default: _linear,
    **dict.fromkeys((aten.matmul.default, aten.mm.default, aten.bmm.default), _product(0)),
    **dict.fromkeys((aten.addmm.default, aten.baddbmm.default), _product(1)),
    aten.einsum.default: _einsum,
    aten.scaled_dot_product_attention.default: _attention,
    **dict.fromkeys((aten.lstm.input, aten.gru.input, aten.rnn_tanh.input, aten.rnn_relu.input), _recurrent),
}

# Operators without multiply-adds in the field's counting: norms, pools, elementwise, reductions, movement of data.
FREE = frozenset(
    """
__and__ __or__ __xor__
_to_copy abs adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d adaptive_max_pool2d add alias all alpha_dropout amax amin any arange argmax
argmin avg_pool1d avg_pool2d avg_pool3d batch_norm bitwise_and bitwise_not bitwise_or broadcast_tensors bucketize cat ceil celu chunk clamp clamp_max
clamp_min clone concat constant_pad_nd contiguous copy cos cumsum detach diff div dropout elu embedding empty eq erf exp expand expand_as expm1 eye
feature_dropout fill flatten flip floor floor_divide full full_like gather ge gelu glu group_norm gt hardshrink hardsigmoid hardswish hardtanh im2col
index index_put index_select instance_norm isfinite isinf isnan layer_norm le leaky_relu lift_fresh_copy linspace log log1p log_softmax logical_and
logical_not logical_or logsumexp lt masked_fill max max_pool1d max_pool2d max_pool2d_with_indices max_pool3d maximum mean meshgrid min minimum mish
movedim mul narrow ne neg new_empty new_full new_ones new_zeros norm normal numel one_hot ones ones_like outer pad permute pixel_shuffle
pixel_unshuffle pow prelu rand reciprocal reflection_pad2d relu relu6 remainder repeat repeat_interleave replication_pad2d reshape reshape_as rms_norm
roll round rsqrt rsub scalar_tensor scatter select selu sigmoid sign silu sin slice softmax softplus split split_with_sizes sqrt square squeeze stack
std sub sum t tan tanh tensor_split tile to topk transpose tril triu type_as unbind unflatten unfold unsafe_split unsqueeze upsample_bicubic2d
upsample_bilinear2d upsample_linear1d upsample_nearest1d upsample_nearest2d var view view_as where zero zeros zeros_like
""".split()  # noqa: SIM905 - words read better in a paragraph than one a line
)


def symbols(program: Program, batch: int, lengths: Mapping[str, int]) -> dict[str, int]:
    """Sizes of the graph's symbols: the batch, other dynamic dimensions as given, and else as in the example."""
    found: dict[str, int] = {}
    placeholders = [node for node in program.graph.nodes if node.op == "placeholder"]
    for node, spec, example in zip(placeholders, program.inputs, program.example_inputs(), strict=True):
        for size, label, given in zip(node.meta["val"].shape, spec.shape, example.shape, strict=True):
            if isinstance(label, str):
                found[str(size)] = batch if label == "batch" else lengths.get(label, given)
    return found


def number(size: Any, sizes: Mapping[str, int]) -> int:
    """A size in which symbols may stand, as a number."""
    if isinstance(size, int):
        return size
    expression = size.node.expr
    return int(expression.subs({symbol: sizes[str(symbol)] for symbol in expression.free_symbols}))


@dataclass(frozen=True)
class LayerShape:
    """An operator and the shapes that its time depends on, for one example.

    Attributes:
        operator: e.g. ``aten.conv2d.default``.
        inputs: shapes of its tensors, weights among them.
        output: shape of what it puts out.
        macs: its multiply-adds.
        options: stride, padding and dilation of a convolution; empty for others.
        weights: which of `inputs` are parameters or buffers.
    """

    operator: str
    inputs: tuple[Shape, ...]
    output: Shape
    macs: int
    options: tuple[Any, ...] = ()
    weights: tuple[int, ...] = ()
