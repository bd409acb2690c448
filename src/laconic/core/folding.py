"""Batch-norm: folded into what lies before it, and its statistics estimated anew."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, fx

from laconic.core.context import Context
from laconic.core.fake_quant import LEARNED_CHANNEL, PER_CHANNEL, is_fake_quant
from laconic.core.graph import clean, free_name, get_tensor, module_path, set_parameter
from laconic.core.norms import insert_checks, remove_checks
from laconic.core.program import Program, argument, aten, set_argument
from laconic.core.records import Outcome, Skipped
from laconic.core.step import Stage, StepConfig, step

_CONVOLUTIONS = {
    *(aten.conv1d.default, aten.conv2d.default, aten.conv3d.default),
    *(aten.conv1d.padding, aten.conv2d.padding, aten.conv3d.padding),
}
_FOLDABLE = _CONVOLUTIONS | {aten.linear.default}


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
    for node in [n for n in program.graph.nodes if n.target is aten.batch_norm.default]:
        reason = _fold(program, node)
        folded += reason is None
        if reason is not None:
            skipped.append(Skipped(module_path(node) or node.name, reason))
    return clean(program), Outcome("fold_batch_norm", {"folded": folded}, tuple(skipped))


def _fold(program: Program, norm: fx.Node) -> str | None:
    layer: Any = norm.args[0]
    if not isinstance(layer, fx.Node) or layer.target not in _FOLDABLE:
        return "its input is not a convolution or linear layer"
    if len(layer.users) > 1:
        return f"the output of {module_path(layer) or layer.name} is read elsewhere too"
    if argument(norm, 5):
        return "it normalises with batch statistics also in eval mode"
    weight: Any = layer.args[1]
    rounded = weight if is_fake_quant(weight) and weight.target in (PER_CHANNEL, LEARNED_CHANNEL) and len(weight.users) == 1 else None
    weight = weight if rounded is None else rounded.args[0]
    bias: Any = argument(layer, 2)
    shared = [n for n in (weight, bias) if isinstance(n, fx.Node) and (n.op != "get_attr" or len(_readers(program, n)) > 1)]
    if shared:
        return f"the weights of {module_path(layer) or layer.name} are shared or computed"
    statistics: Any = norm.args[1:5]
    gamma, beta, mean, var = (None if n is None else get_tensor(program, n) for n in statistics)
    assert mean is not None
    assert var is not None
    with torch.no_grad():
        kernel = get_tensor(program, weight).double()
        scale = (var.double() + argument(norm, 7)).rsqrt()
        scale = scale if gamma is None else scale * gamma.double()
        old = torch.zeros_like(scale) if bias is None else get_tensor(program, bias).double()
        shift = (old - mean.double()) * scale + (0.0 if beta is None else beta.double())
        dtype = get_tensor(program, weight).dtype
        set_parameter(program, weight.target, (kernel * scale.view(-1, *[1] * (kernel.dim() - 1))).to(dtype))
        if rounded is not None:  # a rounded kernel times a factor is the kernel times the factor, rounded with the step times its magnitude
            step = get_tensor(program, rounded.args[1])
            step.data = (step.double().abs() * scale.abs()).to(step.dtype)
        if bias is not None:
            set_parameter(program, bias.target, shift.to(dtype))
        else:
            name = free_name(program, f"{str(weight.target).removesuffix('weight')}bias")
            set_parameter(program, name, shift.to(dtype))
            with program.graph.inserting_before(layer):
                node = program.graph.get_attr(name)
            _set_bias(layer, node)
    norm.replace_all_uses_with(layer)
    program.graph.erase_node(norm)
    return None


@torch.no_grad()
def reestimate_batch_norm(program: Program, batches: Iterable[Sequence[Tensor]]) -> int:
    """Replace the running statistics by the mean over the batches of each batch's own (Sun et al. 2019, section 3.3); returns how many norms have some.

    Args:
        program: changed in place, left in eval mode.
        batches: flat inputs, each of two or more examples.

    Raises:
        BadInput: a batch-norm is given one value per channel.
    """
    norms = [n for n in program.graph.nodes if n.target is aten.batch_norm.default and isinstance(n.args[3], fx.Node)]
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


def _set_bias(layer: fx.Node, bias: fx.Node) -> None:
    args = list(layer.args)
    if len(args) > 2:
        args[2] = bias
    else:
        args.append(bias)
    layer.args = tuple(args)


def _readers(program: Program, attribute: fx.Node) -> list[fx.Node]:
    """Every use of the tensor behind an attribute node, also through other attribute nodes and tied names."""
    tensor = get_tensor(program, attribute)
    same = [n for n in program.graph.nodes if n.op == "get_attr" and get_tensor(program, n) is tensor]
    return [user for n in same for user in n.users]
