"""Multiply-adds of an operator from the shapes of what it reads and writes. One multiply-add is 1; an operator without a row is unknown, never zero."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import fx

from laconic.core.operators import NORMS, Family, argument, family_of, names_of, plain_name, row_of
from laconic.core.program import Program

Shape = tuple[int, ...]
Cost = Callable[[fx.Node, Callable[[Any], Shape]], int]  # (operator, shape of a node: its output or its tensor) -> multiply-adds


def _convolution(node: fx.Node, shape: Callable[[Any], Shape]) -> int:
    """Count a convolution: each output number sums over the kernel and the input channels of its group."""
    weight = shape(node.args[1])
    return math.prod(shape(node)) * math.prod(weight[1:])


def _transposed(node: fx.Node, shape: Callable[[Any], Shape]) -> int:
    """Count a transposed convolution: each input number is spread over the kernel and the output channels of its group."""
    return math.prod(shape(node.args[0])) * math.prod(shape(node.args[1])[1:])


def _linear(node: fx.Node, shape: Callable[[Any], Shape]) -> int:
    """Count a linear layer: each output number sums over the input channels."""
    row = row_of(node)
    assert row.in_axis is not None
    return math.prod(shape(node)) * shape(argument(node, row.weight))[row.in_axis]


def _bilinear(node: fx.Node, shape: Callable[[Any], Shape]) -> int:
    """Count a bilinear layer: each output number is x · (W y): I·J and then I."""
    _, first, second = shape(node.args[2])
    return math.prod(shape(node)) * first * (second + 1)


def _product(node: fx.Node, shape: Callable[[Any], Shape]) -> int:
    """Count a product: output numbers × the summed dimension, the last of the first matrix; `addbmm` sums over the batch too."""
    row = row_of(node)
    first = shape(node.args[row.inputs[0]])
    return math.prod(shape(node)) * first[-1] * (first[0] if plain_name(node) == "addbmm" else 1)


def _attention(node: fx.Node, shape: Callable[[Any], Shape]) -> int:
    """Count attention: queries × keys, and weights × values: B·N·L·S·(D + D_v)."""
    query, key, value = (shape(node.args[i]) for i in range(3))
    return math.prod(query[:-1]) * key[-2] * (query[-1] + value[-1])


def _recurrent(node: fx.Node, shape: Callable[[Any], Shape]) -> int:
    """Count a recurrent layer: every weight matrix is applied once per step and example; a step and example are one row of the first output."""
    weights: Any = node.args[2]
    rows = math.prod(shape(node.args[0])[:-1])
    return rows * sum(math.prod(shape(w)) for w in weights if len(shape(w)) == 2)


def _einsum(node: fx.Node, shape: Callable[[Any], Shape]) -> int:
    """Return the product of all index sizes, for two operands without ellipsis; others are unknown."""
    equation, operands = str(node.args[0]).replace(" ", ""), node.args[1]
    terms = equation.split("->")[0].split(",")
    if "." in equation or not isinstance(operands, (list, tuple)) or len(operands) != 2:
        raise LookupError(equation)
    sizes: dict[str, int] = {}
    for term, operand in zip(terms, operands, strict=True):
        sizes.update(zip(term, shape(operand), strict=True))
    return math.prod(sizes.values())


# By family of `core.operators`.
COSTS: dict[Family, Cost] = {
    "convolution": _convolution,
    "transposed convolution": _transposed,
    "linear": _linear,
    "bilinear": _bilinear,
    "matrix product": _product,
    "vector product": _product,
    "einsum": _einsum,
    "attention": _attention,
    "recurrent": _recurrent,
}


def cost_of(node: fx.Node) -> Cost | None:
    """Return how the multiply-adds of a node are counted; None where its operator has no row."""
    family = family_of(node)
    return None if family is None else COSTS.get(family)


# Operators without multiply-adds in the field's counting: norms, pools, elementwise, reductions, movement of data.
FREE = frozenset(names_of(*NORMS, "dropout", "random activation", "embedding", "sum", "average pool", "softmax")) | frozenset(
    """
__and__ __or__ __xor__
affine_grid_generator argsort broadcast_tensors diag_embed diagonal index_add index_copy index_fill kthvalue max_unpool2d msort scatter_add
scatter_reduce take_along_dim
_to_copy abs adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d adaptive_max_pool2d alias all amax amin any arange argmax
argmin bitwise_and bitwise_not bitwise_or broadcast_tensors bucketize cat ceil celu chunk clamp clamp_max
clamp_min clone concat constant_pad_nd contiguous copy cos cumsum detach diff div elu empty eq erf exp expand expand_as expm1 eye
fill flatten flip floor floor_divide full full_like gather ge gelu glu gt hardshrink hardsigmoid hardswish hardtanh im2col
index index_put index_select isfinite isinf isnan le leaky_relu lift_fresh_copy linspace log log1p log_softmax logical_and
logical_not logical_or logsumexp lt mT masked_fill max max_pool1d max_pool2d max_pool2d_with_indices max_pool3d maximum mean meshgrid min minimum mish
movedim mul narrow ne neg new_empty new_full new_ones new_zeros norm normal numel numpy_T one_hot ones ones_like outer pad permute pixel_shuffle
pixel_unshuffle pow prelu rand reciprocal reflection_pad2d relu relu6 remainder repeat repeat_interleave replication_pad2d reshape reshape_as
roll round rsqrt rsub scalar_tensor scatter select selu sigmoid sign silu sin slice softplus split split_with_sizes sqrt square squeeze stack
std sub sum t tan tanh tensor_split tile to topk transpose tril triu type_as unbind unflatten unfold unsafe_split unsqueeze upsample_bicubic2d
upsample_bilinear2d upsample_linear1d upsample_nearest1d upsample_nearest2d var view view_as where zero zeros zeros_like
""".split()  # noqa: SIM905 - words read better in a paragraph than one a line
)


def symbols(program: Program, batch: int, lengths: Mapping[str, int]) -> dict[str, int]:
    """Return sizes of the graph's symbols: the batch, other dynamic dimensions as given, and else as in the example."""
    result: dict[str, int] = {}
    placeholders = [node for node in program.graph.nodes if node.op == "placeholder"]
    for node, spec, example in zip(placeholders, program.inputs, program.example_inputs(), strict=True):
        for size, label, given in zip(node.meta["val"].shape, spec.shape, example.shape, strict=True):
            if isinstance(label, str):
                result[str(size)] = batch if label == "batch" else lengths.get(label, given)
    return result


def number(size: Any, sizes: Mapping[str, int]) -> int:
    """Return a size in which symbols may stand, as a number."""
    if isinstance(size, int):
        return size
    expression = size.node.expr
    return int(expression.subs({symbol: sizes[str(symbol)] for symbol in expression.free_symbols}))


@dataclass(frozen=True)
class LayerShape:
    """An operator and the shapes that its time depends on, for one example.

    Attributes:
        family: of the operator, as in `core.operators`: ``convolution``, ``linear``, …
        inputs: shapes of its tensors, weights among them. Of a layer: its input, its weight, its bias if it has one; a linear weight is (O, I).
        output: shape of what it puts out.
        macs: its multiply-adds.
        options: stride, padding and dilation of a convolution, and the output padding of a transposed one, each a number for each dimension; padding that
            differs at the two ends has twice as many, those before first. Empty for others.
        weights: which of `inputs` are parameters or buffers.
        bits: of the integers in which it computes; None: in floats.
    """

    family: str
    inputs: tuple[Shape, ...]
    output: Shape
    macs: int
    options: tuple[Any, ...] = ()
    weights: tuple[int, ...] = ()
    bits: int | None = None
