"""Parameters and multiply-adds of a program, by layer. One multiply-add is 1; an operator without a row is listed, never counted as zero."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx

from laconic.core.graph import get_tensor, module_path, module_type
from laconic.core.program import Program, aten

UNUSED = "not used"  # the type of a layer whose parameters no operator reads

Shape = tuple[int, ...]
Cost = Callable[[fx.Node, Callable[[Any], Shape]], int]


@dataclass(frozen=True)
class LayerCount:
    """One module that owns parameters or multiplies: path, class (or `UNUSED`), parameters (shared ones at their first reader), multiply-adds."""

    path: str
    type: str
    params: int
    macs: int


@dataclass(frozen=True)
class Counts:
    """Totals, layers in the order of the graph, and how often each operator without a row occurs."""

    params: int
    macs: int
    layers: tuple[LayerCount, ...]
    unknown: dict[str, int] = field(default_factory=dict)


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


def count(program: Program, batch: int = 1, **lengths: int) -> Counts:
    """Count parameters and multiply-adds.

    Args:
        program: the program.
        batch: examples that the multiply-adds are for.
        lengths: sizes of other dynamic dimensions; those not given have the size of the example.
    """
    sizes = _symbols(program, batch, lengths)

    def shape(value: Any) -> Shape:
        if isinstance(value, fx.Node) and value.op == "get_attr":
            return tuple(get_tensor(program, value).shape)
        found = value.meta["val"]
        found = found[0] if isinstance(found, (tuple, list)) else found
        return tuple(_number(size, sizes) for size in found.shape)

    layers: dict[str, list[Any]] = {}
    unknown: Counter[str] = Counter()
    seen: set[int] = set()
    for node in program.graph.nodes:
        if node.op != "call_function" or not isinstance(node.target, torch._ops.OpOverload) or "sym_" in str(node.target):
            continue
        params = sum(_new_parameters(program, node, seen))
        macs = _macs(node, shape, unknown)
        if params or macs:
            row = layers.setdefault(module_path(node), [module_type(node), 0, 0])
            row[1] += params
            row[2] += macs
    for name, parameter in program.named_parameters():
        if id(parameter) not in seen:
            row = layers.setdefault(name.rpartition(".")[0], [UNUSED, 0, 0])
            row[1] += parameter.numel()
    found = tuple(LayerCount(path, kind, params, macs) for path, (kind, params, macs) in layers.items())
    total = sum(parameter.numel() for parameter in program.parameters())
    return Counts(total, sum(layer.macs for layer in found), found, dict(unknown))


def _macs(node: fx.Node, shape: Callable[[Any], Shape], unknown: Counter[str]) -> int:
    cost = COSTS.get(node.target)
    name = str(node.target).split(".")[1]
    if cost is not None:
        try:
            return cost(node, shape)
        except LookupError:
            unknown[str(node.target)] += 1
    elif name.removesuffix("_") not in FREE and name not in FREE:
        unknown[str(node.target)] += 1
    return 0


def _new_parameters(program: Program, node: fx.Node, seen: set[int]) -> Iterator[int]:
    for source in node.all_input_nodes:
        if source.op == "get_attr":
            tensor: Tensor = get_tensor(program, source)
            if isinstance(tensor, torch.nn.Parameter) and id(tensor) not in seen:
                seen.add(id(tensor))
                yield tensor.numel()


def _symbols(program: Program, batch: int, lengths: dict[str, int]) -> dict[str, int]:
    """Sizes of the graph's symbols."""
    found: dict[str, int] = {}
    placeholders = [node for node in program.graph.nodes if node.op == "placeholder"]
    for node, spec, example in zip(placeholders, program.inputs, program.example_inputs(), strict=True):
        for size, label, given in zip(node.meta["val"].shape, spec.shape, example.shape, strict=True):
            if isinstance(label, str):
                found[str(size)] = batch if label == "batch" else lengths.get(label, given)
    return found


def _number(size: Any, sizes: dict[str, int]) -> int:
    if isinstance(size, int):
        return size
    expression = size.node.expr
    return int(expression.subs({symbol: sizes[str(symbol)] for symbol in expression.free_symbols}))
