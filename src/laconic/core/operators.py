"""The operators that passes act on, by family, and where their arguments stand: the one table that folding, placement, correction, coupling, counting and
insertion read. An operator of another spelling (`aten.conv2d.padding`) is one row more here, and nothing elsewhere.

Shapes: O output channels, I input channels, G groups. Positions are those of the ATen schema.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, Literal

import torch
from torch import Tensor, fx

aten = torch.ops.aten

Family = Literal[
    "convolution",
    "transposed convolution",
    "linear",
    "bilinear",
    "matrix product",
    "vector product",
    "einsum",
    "attention",
    "recurrent",
    "embedding",
    "batch norm",
    "native batch norm",
    "instance norm",
    "layer norm",
    "group norm",
    "rms norm",
    "dropout",
    "random activation",
    "sum",
    "average pool",
    "softmax",
    "filled",
    "pieces",
]


@dataclass(frozen=True)
class Operator:
    """Where one operator has what. None: it has no such argument.

    Attributes:
        family: what it computes.
        inputs: positions of the activations that it reads.
        weight: position of its kernel or matrix, or of a norm's scale; of a recurrent one, of the list of all its tensors.
        bias: position of its bias, or of a norm's shift.
        out_axis: axis of a layer's weight with the output channels; in a transposed convolution, with those of one group.
        in_axis: axis of a layer's weight with the input channels; of other convolutions, with those of one group.
        channels: axis of the channels in what it reads and puts out.
        groups: position of the number of groups.
        stride: position; so `padding`, `dilation`, `output_padding`.
        transposed_at: position of the argument that makes it a transposed convolution.
        factors: positions of numbers that scale bias and product. It is a layer only where they are 1.
        mode: position of the argument that tells training from evaluation.
        dropout: position of the probability with which it drops, where no mode switches that off.
        statistics: positions of running mean and variance.
        momentum: position; so `eps`.
    """

    family: Family
    inputs: tuple[int, ...] = (0,)
    weight: int | None = None
    bias: int | None = None
    out_axis: int | None = None
    in_axis: int | None = None
    channels: int = 1
    groups: int | None = None
    stride: int | None = None
    padding: int | None = None
    dilation: int | None = None
    output_padding: int | None = None
    transposed_at: int | None = None
    factors: tuple[int, ...] = ()
    mode: int | None = None
    dropout: int | None = None
    statistics: tuple[int, int] | None = None
    momentum: int | None = None
    eps: int | None = None

    @property
    def transposed(self) -> bool:
        """Whether it is a transposed convolution: its weight is (I, O/G, …)."""
        return self.family == "transposed convolution"

    @property
    def is_layer(self) -> bool:
        """Whether it multiplies its input with one weight and makes output channels: a convolution or linear layer."""
        return self.out_axis is not None


_CONVOLUTION = Operator("convolution", (0,), 1, 2, 0, 1, groups=6, stride=3, padding=4, dilation=5)
_TRANSPOSED = Operator("transposed convolution", (0,), 1, 2, 1, 0, groups=6, stride=3, padding=4, dilation=7, output_padding=5)
_GENERAL = replace(_CONVOLUTION, groups=8, transposed_at=6, output_padding=7)
_PRODUCT = Operator("matrix product", (0, 1), channels=-1)
_RECURRENT = Operator("recurrent", (0,), 2, channels=-1, mode=6)
_BATCH_NORM = Operator("batch norm", (0,), 1, 2, mode=5, statistics=(3, 4), momentum=6, eps=7)
_DROPOUT = Operator("dropout", mode=2)

OPERATORS: dict[Any, Operator] = {
    **dict.fromkeys((aten.conv1d.default, aten.conv2d.default, aten.conv3d.default), _CONVOLUTION),
    **dict.fromkeys((aten.conv1d.padding, aten.conv2d.padding, aten.conv3d.padding), _CONVOLUTION),
    **dict.fromkeys((aten.conv_transpose1d.default, aten.conv_transpose2d.input, aten.conv_transpose3d.input), _TRANSPOSED),
    **dict.fromkeys((aten.convolution.default, aten._convolution.default), _GENERAL),
    aten.linear.default: Operator("linear", (0,), 1, 2, 0, 1, channels=-1),
    aten.addmm.default: Operator("linear", (1,), 2, 0, 1, 0, channels=-1, factors=(3, 4)),
    aten.bilinear.default: Operator("bilinear", (0, 1), 2, 3, channels=-1),
    **dict.fromkeys((aten.matmul.default, aten.mm.default, aten.bmm.default), _PRODUCT),
    **dict.fromkeys((aten.mv.default, aten.dot.default, aten.vdot.default), replace(_PRODUCT, family="vector product")),
    **dict.fromkeys((aten.addmv.default,), replace(_PRODUCT, family="vector product", inputs=(1, 2), factors=(3, 4))),
    **dict.fromkeys((aten.baddbmm.default, aten.addbmm.default), replace(_PRODUCT, inputs=(1, 2), factors=(3, 4))),
    aten.einsum.default: Operator("einsum", (1,), channels=-1),
    aten.scaled_dot_product_attention.default: Operator("attention", (0, 1, 2), channels=-1, dropout=4),
    **dict.fromkeys((aten.lstm.input, aten.gru.input, aten.rnn_tanh.input, aten.rnn_relu.input), _RECURRENT),
    aten.embedding.default: Operator("embedding", (1,), 0, channels=-1),
    aten.batch_norm.default: _BATCH_NORM,
    **dict.fromkeys((aten.native_batch_norm.default, aten.cudnn_batch_norm.default), replace(_BATCH_NORM, family="native batch norm")),
    aten._native_batch_norm_legit_no_training.default: replace(_BATCH_NORM, family="native batch norm", mode=None, momentum=5, eps=6),
    aten.instance_norm.default: replace(_BATCH_NORM, family="instance norm"),
    **dict.fromkeys((aten.layer_norm.default, aten.native_layer_norm.default), Operator("layer norm", (0,), 2, 3, channels=-1, eps=4)),
    aten.rms_norm.default: Operator("rms norm", (0,), 2, channels=-1, eps=3),
    aten.group_norm.default: Operator("group norm", (0,), 2, 3, groups=1, eps=4),
    **dict.fromkeys((aten.dropout.default, aten.feature_dropout.default, aten.alpha_dropout.default), _DROPOUT),
    **dict.fromkeys((aten.dropout_.default, aten.feature_dropout_.default, aten.alpha_dropout_.default), _DROPOUT),
    **dict.fromkeys((aten.feature_alpha_dropout.default, aten.feature_alpha_dropout_.default), _DROPOUT),
    **dict.fromkeys((aten.rrelu.default, aten.rrelu_.default), Operator("random activation", mode=3)),
    **dict.fromkeys((aten.add.Tensor, aten.add_.Tensor), Operator("sum", (0, 1))),
    **dict.fromkeys((aten.avg_pool1d.default, aten.avg_pool2d.default, aten.avg_pool3d.default), Operator("average pool")),
    **dict.fromkeys((aten.softmax.int, aten._softmax.default), Operator("softmax")),
    **dict.fromkeys((aten.new_zeros.default, aten.new_ones.default, aten.new_full.default), Operator("filled")),
    **dict.fromkeys((aten.zeros_like.default, aten.ones_like.default, aten.full_like.default), Operator("filled")),
    **dict.fromkeys((aten.chunk.default, aten.split.Tensor, aten.split_with_sizes.default), Operator("pieces")),
    **dict.fromkeys((aten.unsafe_chunk.default, aten.unsafe_split.Tensor, aten.unsafe_split_with_sizes.default), Operator("pieces")),
}

# Activations that runtimes fuse into the operator before them, in integers too.
RECTIFIERS = (aten.relu.default, aten.relu_.default, aten.hardtanh.default, aten.hardtanh_.default, aten.relu6.default, aten.clamp.default)
CONVOLUTIONS: tuple[Family, ...] = ("convolution", "transposed convolution")
PRODUCTS: tuple[Family, ...] = ("matrix product", "vector product", "einsum", "attention")
NORMS: tuple[Family, ...] = ("batch norm", "native batch norm", "instance norm", "layer norm", "group norm", "rms norm")


def operator_of(node: fx.Node) -> Operator | None:
    """Return the row of a node's operator as its arguments make it; None where the table has none.

    `aten.convolution` is a transposed one where its argument says so, and `addmm` with other factors than 1 is a product and no layer.
    """
    row = OPERATORS.get(node.target) if node.op == "call_function" else None
    if row is None:
        return None
    if row.transposed_at is not None and argument(node, row.transposed_at):
        return replace(row, family="transposed convolution", out_axis=1, in_axis=0)
    if row.is_layer and any(argument(node, i) != 1 for i in row.factors):
        return replace(_PRODUCT, inputs=(1, 2), factors=row.factors)
    return row


def row_of(node: fx.Node) -> Operator:
    """Return the row of a node whose operator has one, as `operator_of` does."""
    row = operator_of(node)
    assert row is not None, node.target
    return row


def family_of(node: fx.Node) -> Family | None:
    """Return the family of a node's operator; None where the table has no row for it."""
    row = operator_of(node)
    return None if row is None else row.family


def is_layer(node: Any) -> bool:
    """Return whether a node is a convolution or linear layer."""
    row = operator_of(node) if isinstance(node, fx.Node) else None
    return row is not None and row.is_layer


def is_stored(value: Any) -> bool:
    """Return whether an argument is a parameter or buffer as it is, and not computed."""
    return isinstance(value, fx.Node) and value.op == "get_attr"


@cache
def overloads(*families: Family) -> frozenset[Any]:
    """Return the ATen overloads of some families."""
    return frozenset(target for target, row in OPERATORS.items() if row.family in families)


@cache
def names_of(*families: Family) -> tuple[str, ...]:
    """Return the plain names of some families' operators (see `plain_name`), in the order of the table."""
    return tuple(dict.fromkeys(names(target)[0] for target, row in OPERATORS.items() if row.family in families))


def plain_name(node: fx.Node) -> str:
    """Return an operator's plain name: ``relu`` for ``aten.relu_.default``."""
    return names(node.target)[0]


@cache
def names(target: Any) -> tuple[str, str]:
    """Return an operator's plain name, and the same with its overload (``max.dim``); without a schema the latter is empty."""
    schema = getattr(target, "_schema", None)
    name = schema.name.partition("::")[2] if schema is not None else getattr(target, "__name__", str(target))
    plain = str(name) if name.endswith("__") else str(name).removesuffix("_")
    return plain, "" if schema is None else f"{plain}.{schema.overload_name}"


def argument(node: fx.Node, index: int | None) -> Any:
    """Return the argument at a schema position, however it was passed or left at its default; None where there is no such position."""
    if index is None:
        return None
    args = node.args
    if index < len(args):
        return args[index]
    name, default = _option(node.target, index)
    given = node.kwargs.get(name, default)
    return list(given) if given is default and isinstance(default, list) else given


@cache
def _option(target: Any, index: int) -> tuple[str, Any]:
    """Return name and default of the argument at a schema position: PyTorch makes all of them anew for whoever asks for one."""
    spec = target._schema.arguments[index]
    return spec.name, spec.default_value


def set_argument(node: fx.Node, index: int, value: Any) -> None:
    """Set the argument at a schema position, however it was passed."""
    if index < len(node.args):
        node.update_arg(index, value)
    else:
        node.update_kwarg(node.target._schema.arguments[index].name, value)  # type: ignore[union-attr]


def set_bias(node: fx.Node, bias: fx.Node) -> None:
    """Give a layer a bias where it had none or another one."""
    row = row_of(node)
    assert row.bias is not None
    if row.bias == len(node.args):  # by position, as export writes it
        node.args = (*node.args, bias)
        node.kwargs = {key: given for key, given in node.kwargs.items() if key != "bias"}
    else:
        set_argument(node, row.bias, bias)


def groups_of(node: fx.Node) -> int:
    """Return the number of groups of a layer: 1 where its operator has none."""
    row = operator_of(node)
    return int(argument(node, row.groups)) if row is not None and row.groups is not None else 1


def paddings(node: fx.Node, kernel: Iterable[int]) -> list[tuple[int, int]]:
    """Return what a convolution pads before and after each dimension; ``same`` and ``valid`` as numbers.

    Args:
        node: a convolution.
        kernel: sizes of its kernel, one for each dimension.
    """
    row, sizes = row_of(node), list(kernel)
    given = argument(node, row.padding)
    if given == "valid":
        return [(0, 0)] * len(sizes)
    if given == "same":  # PyTorch puts the odd one behind
        dilation = spread(argument(node, row.dilation), len(sizes))
        totals = [step * (size - 1) for step, size in zip(dilation, sizes, strict=True)]
        return [(total // 2, total - total // 2) for total in totals]
    return [(amount, amount) for amount in spread(given, len(sizes))]


def spread(option: Any, rank: int) -> tuple[int, ...]:
    """Return an option of a convolution as one number for each dimension; one number stands for all."""
    numbers = tuple(option) if isinstance(option, (list, tuple)) else (option,)
    return numbers * rank if len(numbers) == 1 else numbers


def outputs_first(weight: Tensor, node: fx.Node) -> Tensor:
    """Return a layer's weight as (O, I/G, …), whatever its operator has; applied again, it is as it was.

    Args:
        weight: of `node`, or of its shape.
        node: a convolution, transposed convolution or linear layer.
    """
    row = operator_of(node)
    return weight if row is None or row.out_axis == 0 else exchanged(weight, groups_of(node))


def inputs_first(weight: Tensor, node: fx.Node) -> Tensor:
    """Return a layer's weight as (I, O/G, …), whatever its operator has; applied again, it is as it was."""
    row = operator_of(node)
    return weight if row is None or row.in_axis == 0 else exchanged(weight, groups_of(node))


def exchanged(weight: Tensor, groups: int) -> Tensor:
    """Return a weight (all of one side, of one group of the other, …) with its sides exchanged; applied again, it is as it was."""
    return weight.unflatten(0, (groups, -1)).transpose(1, 2).flatten(0, 1)
