"""Quantization-aware training: the pairs of static quantization stay in the graph while it trains, with a straight-through gradient.

`prepare` makes such a program, for any training loop; `Schedule` is the hook that keeps its grids and batch-norms in step; `qat` is the recipe
step that does it all.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import fx, nn

from laconic.core.context import Context
from laconic.core.errors import BadInput
from laconic.core.fake_quant import (
    LEARNED_CHANNEL,
    LEARNED_TENSOR,
    PER_CHANNEL,
    PER_TENSOR,
    Quantizer,
    fake_quants,
    quantizer_of,
    register,
    weight_of,
)
from laconic.core.folding import fold_batch_norm
from laconic.core.graph import clean, get_tensor, shapes
from laconic.core.integer_bias import bound_steps, round_biases
from laconic.core.plan import FitPlan, completed, frozen_plan, out_of_range, with_plan
from laconic.core.program import Program
from laconic.core.records import Outcome
from laconic.core.retraining import check_trainable, retrain
from laconic.core.step import Stage, StepConfig, step
from laconic.core.task import Task
from laconic.quantization.layers import as_context
from laconic.quantization.options import Quantize
from laconic.quantization.scheme import Scheme, weight_grid
from laconic.quantization.static import static

_BITS = 8
_PLAN = FitPlan(lr=1e-4, distill=0.5)


@with_plan("recovery")
@dataclass(frozen=True)
class Qat(StepConfig):
    """Quantization-aware training.

    Args:
        target: as of `Quantize`.
        learned: learn the steps of the grids too (LSQ); else weights follow their range and activations keep that of calibration.
        freeze_batch_norm: from this share of training on, batch-norms use their running statistics.
        examples: that the first ranges are calibrated with.
        keep: as of `Quantize`.
        recovery: how it is trained: some options of `FitPlan` by name, such as ``{"epochs": 3}``, or a whole `FitPlan`. What is left out is a rate of 1e-4,
            the weight 0.5 for soft targets of the unquantized program (0 leaves that teacher out), and the defaults of `FitPlan`.
    """

    stage: ClassVar[Stage] = "rounding"
    trains: ClassVar[bool] = True
    calibrates: ClassVar[bool] = True
    section: ClassVar[str] = "quantization"

    target: str | None = None
    learned: bool = False
    freeze_batch_norm: float = 0.5
    examples: int = 256
    keep: tuple[str, ...] = ()
    recovery: FitPlan | Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        mistakes = [f"recovery.{mistake}" for mistake in out_of_range(self.recovery)]
        if not 0 <= self.freeze_batch_norm <= 1:
            mistakes.append(f"freeze_batch_norm: {self.freeze_batch_norm} is a share of the training, 0 to 1")
        if mistakes:
            raise BadInput("qat makes no sense:\n" + "\n".join(f"  {m}" for m in mistakes))
        object.__setattr__(self, "recovery", frozen_plan(self.recovery))

    @property
    def plan(self) -> FitPlan:
        """How it is trained, with what `recovery` leaves out."""
        return completed(self.recovery, _PLAN)

    def depends_on_target(self) -> bool:
        """Return whether the kernels aimed at are those of the runtime behind it."""
        return self.target is None

    def integer_bits(self) -> int | None:
        """Return the bits of weights and activations."""
        return _BITS


@step("qat", Qat, float32=True)
def prepare(program: Program, config: Qat | None = None, context: Context | Task | None = None) -> tuple[Program, Outcome]:
    """Prepare a program that trains with rounding in place, from the ranges of static quantization; batch-norms stay and train.

    Train it in any loop, with `Schedule` called after each optimizer step; then export it as it is: batch-norms are folded into the scales.

    Raises:
        BadInput: see `quantize`.
    """
    config, context = config or Qat(), as_context(context)
    options = Quantize(target=config.target, examples=config.examples, keep=config.keep, smooth=None, correct_bias=False, embeddings=False)
    result, outcome = static(program, options, context, fold=False)
    if config.learned:
        values, examples = shapes(result), _examples(result)
        for node in list(fake_quants(result.graph)):
            _learn(result, node, math.prod(values[node].shape) // examples)
        result.recompile()
    return result, outcome


def _examples(program: Program) -> int:
    """Return how many examples the example inputs hold."""
    for spec, leaf in zip(program.inputs, program.example_inputs(), strict=True):
        if "batch" in spec.shape:
            return int(leaf.shape[spec.shape.index("batch")])
    return 1


def _learn(program: Program, node: fx.Node, features: int) -> None:
    """Make the step of a grid a parameter, with LSQ's gradient scale 1/√(N · high) (Esser et al. 2020, section 2.2).

    Args:
        node: that rounds.
        features: numbers of one example in the activation; N for activations. For weights N is how many of them share the step: all of the layer's in the
            paper, those of an output channel where each has its own.
    """
    quantizer = quantizer_of(program.graph_module, node)
    weight = weight_of(node)
    n = features if weight is None else get_tensor(program, weight).numel() // len(quantizer.scale)
    factor = 1 / math.sqrt(max(1, n) * quantizer.high)
    scale = register(program.graph_module, f"{node.name}.scale", quantizer.scale, trainable=True)
    zero = register(program.graph_module, f"{node.name}.zero_point", quantizer.zero_point.float())
    with program.graph.inserting_before(node):
        parts = (program.graph.get_attr(scale), program.graph.get_attr(zero))
    axis = () if quantizer.axis is None else (quantizer.axis,)
    node.target = LEARNED_TENSOR if quantizer.axis is None else LEARNED_CHANNEL
    node.args = (node.args[0], *parts, *axis, quantizer.low, quantizer.high, factor)


class Schedule:
    """Called as `(model, progress)` after each optimizer step: lets weight grids follow their weights and freezes batch-norms when it is time.

    Args:
        freeze_batch_norm: progress from which batch-norms use their running statistics; 1 never freezes them.
    """

    def __init__(self, freeze_batch_norm: float = 0.5) -> None:
        self.freeze_batch_norm = freeze_batch_norm

    def __call__(self, model: nn.Module, progress: float) -> None:
        """Do what the class says at a progress in [0, 1] of the training."""
        assert isinstance(model, Program)
        refresh(model)
        if progress >= self.freeze_batch_norm:
            model.freeze_batch_norm()


@torch.no_grad()
def refresh(program: Program) -> None:
    """Set the grids of weights that are not learned to the weights' ranges now, and give every bias room."""
    for node in fake_quants(program.graph):
        source = weight_of(node)
        if node.target in (LEARNED_TENSOR, LEARNED_CHANNEL):
            get_tensor(program, node.args[1]).abs_().clamp_(min=1e-12)  # type: ignore[arg-type]
        if node.target not in (PER_CHANNEL, PER_TENSOR) or source is None:
            continue
        now = quantizer_of(program.graph_module, node)
        result = weight_grid(get_tensor(program, source), Scheme(now.low, now.high, axis=now.axis, group=now.group))
        if node.target is PER_CHANNEL:
            get_tensor(program, node.args[1]).copy_(result.scale)  # type: ignore[arg-type]
        else:
            node.update_arg(1, float(result.scale))
            program.graph_module.recompile()
    bound_steps(program)


@step("qat", Qat, float32=True)
def qat(program: Program, config: Qat | None = None, context: Context | Task | None = None) -> tuple[Program, Outcome]:
    """Quantize a copy of a program and train it so, from the ranges of static quantization.

    Args:
        program: in eval mode; also the teacher, unless the training does without.
        config: how.
        context: with a task that has train data and a loss, and with `fit`.

    Returns:
        The program with batch-norms folded, in plain fake-quantize nodes as static quantization leaves them, and what was done.

    Raises:
        BadInput: no train data, loss or `fit`.
        TrainingStopped: the loss became NaN.
    """
    config, context = config or Qat(), as_context(context)
    check_trainable("qat", context)
    program.interface.limits.check_trainable("qat")
    student, outcome = prepare(program, config, context)
    epochs = retrain(student, config.plan, context, program, (Schedule(config.freeze_batch_norm),))
    result = settle(student)
    changed = {
        **{k: v for k, v in outcome.changed.items() if k != "mode"},
        "learned": config.learned,
        "distill": config.plan.distill,
        "epochs": epochs,
    }
    return result, Outcome("qat", changed, outcome.skipped, outcome.notes)


def settle(program: Program) -> Program:
    """Return a trained program as static quantization would leave it: batch-norms folded into the scales, learned steps fixed, biases rounded as kernels do.

    Answers stay as they were, but for half a step of the biases.
    """
    result, _ = fold_batch_norm(program)
    for node in list(fake_quants(result.graph)):
        if node.target in (LEARNED_TENSOR, LEARNED_CHANNEL):
            _fix(result, node, quantizer_of(result.graph_module, node))
    result.recompile()
    bound_steps(result)
    round_biases(result)
    return clean(result)


def _fix(program: Program, node: fx.Node, quantizer: Quantizer) -> None:
    if quantizer.axis is None:
        node.target = PER_TENSOR
        node.args = (node.args[0], float(quantizer.scale), int(quantizer.zero_point), quantizer.low, quantizer.high)
        return
    scale = register(program.graph_module, f"{node.name}.scale", quantizer.scale)
    zero = register(program.graph_module, f"{node.name}.zero_point", quantizer.zero_point)
    with program.graph.inserting_before(node):
        parts = (program.graph.get_attr(scale), program.graph.get_attr(zero))
    node.target, node.args = PER_CHANNEL, (node.args[0], *parts, quantizer.axis, quantizer.low, quantizer.high)
