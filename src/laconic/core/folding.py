"""Batch-norm: folded into what lies before it, and its statistics estimated anew."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, fx

from laconic.core.context import Context
from laconic.core.fake_quant import LEARNED_CHANNEL, PER_CHANNEL, is_fake_quant, quantizer_of
from laconic.core.graph import clean, free_name, get_tensor, module_path, readers, set_parameter, shapes
from laconic.core.norms import insert_checks, normalizes_by_batch, remove_checks
from laconic.core.operators import argument, family_of, operator_of, outputs_first, row_of, set_argument, set_bias
from laconic.core.program import Program
from laconic.core.records import Outcome, Skipped
from laconic.core.step import Stage, StepConfig, step


@dataclass(frozen=True)
class FoldBatchNorm(StepConfig):
    """Merge each batch-norm into the convolution or linear layer before it. Exact up to rounding; has no options."""

    stage: ClassVar[Stage] = "folding"


@step("fold_batch_norm", FoldBatchNorm)
def fold_batch_norm(program: Program, config: FoldBatchNorm | None = None, context: Context | None = None) -> tuple[Program, Outcome]:
    """Fold batch-norms in eval mode into the weights before them (Jacob et al. 2018, section 3.2, eq. 14).

    A batch-norm is folded when its input is a convolution or linear layer that nobody else reads, with weights that nobody else uses.

    Returns:
        A new program, and how many were folded; those that were not are listed with the reason.
    """
    program = copy.deepcopy(program).eval()
    folded, skipped = 0, []
    for node in [n for n in program.graph.nodes if family_of(n) == "batch norm"]:
        reason = _fold(program, node)
        folded += reason is None
        if reason is not None:
            skipped.append(Skipped(module_path(node) or node.name, reason))
    return clean(program), Outcome("fold_batch_norm", {"folded": folded}, tuple(skipped))


def _fold(program: Program, norm: fx.Node) -> str | None:
    """Fold a norm into the layer before it; returns why not, where it cannot be."""
    layer: Any = norm.args[0]
    row = operator_of(layer) if isinstance(layer, fx.Node) else None
    if row is None or not row.is_layer:
        return "its input is not a convolution or linear layer"
    if len(layer.users) > 1:
        return f"the output of {module_path(layer) or layer.name} is read elsewhere too"
    if normalizes_by_batch(norm):
        return "it normalizes with batch statistics also in eval mode"
    weight: Any = argument(layer, row.weight)
    rounded = weight if _is_rounded_by_output(program, layer, weight) else None
    weight = weight if rounded is None else rounded.args[0]
    bias: Any = argument(layer, row.bias)
    shared = [n for n in (weight, bias) if isinstance(n, fx.Node) and (n.op != "get_attr" or len(readers(program, n)) > 1)]
    if shared:
        return f"the weights of {module_path(layer) or layer.name} are shared or computed"
    if not normalizes_channels(program, layer, weight):
        return f"it does not normalize the output channels of {module_path(layer) or layer.name}"
    with torch.no_grad():
        scale, shift = affine(program, norm)
        stored = get_tensor(program, weight)
        old = torch.zeros_like(scale) if bias is None else get_tensor(program, bias).double()
        by_output = outputs_first(stored.double(), layer)
        kernel = outputs_first(by_output * scale.view(-1, *[1] * (by_output.dim() - 1)), layer)
        set_parameter(program, weight.target, kernel.to(stored.dtype))
        if rounded is not None:  # a rounded kernel times a factor is the kernel times the factor, rounded with the step times its magnitude
            step = get_tensor(program, rounded.args[1])
            step.data = (step.double().abs() * scale.abs()).to(step.dtype)
        _set_bias(program, layer, weight, bias, (old * scale + shift).to(stored.dtype))
    norm.replace_all_uses_with(layer)
    program.graph.erase_node(norm)
    return None


def affine(program: Program, norm: fx.Node) -> tuple[Tensor, Tensor]:
    """Return what a batch-norm in eval mode multiplies each channel by and then adds: (C,), (C,), in double precision."""
    row = row_of(norm)
    assert row.statistics is not None
    positions = (row.weight, row.bias, *row.statistics)
    gamma, beta, mean, var = (None if (n := argument(norm, i)) is None else get_tensor(program, n).double() for i in positions)
    assert mean is not None
    assert var is not None
    scale = (var + argument(norm, row.eps)).rsqrt() * (1.0 if gamma is None else gamma)
    return scale, (0.0 if beta is None else beta) - mean * scale


def normalizes_channels(program: Program, layer: fx.Node, weight: fx.Node) -> bool:
    """Return whether a batch-norm behind a layer with this stored weight normalizes its output channels: not those of (B, L, O), nor without a batch."""
    row = row_of(layer)
    value = layer.meta.get("val")
    rank = value.dim() if isinstance(value, Tensor) else len(shapes(program)[layer].shape)
    return rank == (2 if row.channels == -1 else get_tensor(program, weight).dim())


def _is_rounded_by_output(program: Program, layer: fx.Node, weight: Any) -> bool:
    """Return whether a weight is rounded with a step for each output channel, for this layer alone."""
    row = operator_of(layer)
    if row is None or not is_fake_quant(weight) or weight.target not in (PER_CHANNEL, LEARNED_CHANNEL) or len(weight.users) > 1:
        return False
    return quantizer_of(program.graph_module, weight).axis == row.out_axis


def _set_bias(program: Program, layer: fx.Node, weight: fx.Node, bias: fx.Node | None, value: Tensor) -> None:
    """Give a layer another bias, or one of its own beside its weight."""
    if bias is not None:
        set_parameter(program, str(bias.target), value)
        return
    name = free_name(program, f"{str(weight.target).removesuffix('weight')}bias")
    set_parameter(program, name, value)
    with program.graph.inserting_before(layer):
        set_bias(layer, program.graph.get_attr(name))


@torch.no_grad()
def reestimate_batch_norm(program: Program, batches: Iterable[Sequence[Tensor]]) -> int:
    """Replace the running statistics by the mean over the batches of each batch's own (Sun et al. 2019, section 3.3); returns how many norms have some.

    Args:
        program: changed in place, left in eval mode.
        batches: flat inputs, each of two or more examples.

    Raises:
        BadInput: a batch-norm is given one value per channel.
    """
    norms = [n for n in program.graph.nodes if family_of(n) == "batch norm" and isinstance(n.args[3], fx.Node)]
    if not norms:
        return 0
    momenta = [argument(n, 6) for n in norms]
    modes = [(n, argument(n, 5)) for n in norms]
    checks = insert_checks(program.graph, norms)
    try:
        for n in norms:
            set_argument(n, 5, True)
        for index, leaves in enumerate(batches):
            for n in norms:
                set_argument(n, 6, 1.0 / (index + 1))
            program.graph_module.recompile()
            program.graph_module(*leaves)
    finally:
        remove_checks(program.graph, checks)
        for (n, mode), momentum in zip(modes, momenta, strict=True):
            set_argument(n, 5, mode)
            set_argument(n, 6, momentum)
        program.graph_module.recompile()
    return len(norms)
