"""Weight sharing as a step: each weight's numbers take the values of a small codebook, which is then fine-tuned (Han et al. 2016, section 3)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from laconic.core.context import Context
from laconic.core.errors import BadInput
from laconic.core.folding import fold_batch_norm
from laconic.core.plan import FitPlan, frozen_plan, out_of_range, with_plan
from laconic.core.program import Program
from laconic.core.records import Outcome, Skipped
from laconic.core.recovery import recovery
from laconic.core.retraining import check_trainable, retrain
from laconic.core.step import Stage, StepConfig, step
from laconic.core.task import Task
from laconic.core.weights import StoredWeight, check_paths, stored_weights
from laconic.storage.codebook import Array, Start, codebook
from laconic.storage.context import MOST_NUMBERS
from laconic.storage.curvature import curvature
from laconic.storage.figures import row, totals
from laconic.storage.ties import tied

_LR = 1e-4  # for shared values that were just the means of what they stand for
_BITS = (1, 8)
LayerBits = tuple[tuple[str, int], ...]


@with_plan("recovery")
@dataclass(frozen=True)
class ShareWeights(StepConfig):
    """Weight sharing (palettization): of each weight's numbers, those that are not zero take 2^bits values. What is zero, because it was pruned, stays zero.

    Batch-norms are folded before: whoever folds them later scales each channel's values apart, and they are few no more.

    Args:
        bits: of the number of a shared value, 1 to 8.
        layers: others for some: pairs of a module path (or a weight's name, or a module around) and bits.
        keep: module paths, or names of weights, that stay as they are.
        biases: share these too, each with a codebook of its own; they are few, and count where the weights take little.
        start: of k-means: ``linear`` between the least and the largest value, ``density`` at equal shares of the numbers, or ``random`` ones.
        weighting: of a number's squared error in k-means: ``none``, or by the loss's ``curvature`` (Choi et al. 2017, section 3), from train data.
        examples: of the train data, for that.
        recovery: how the shared values are fine-tuned by the sums of their numbers' gradients, beside all that is not shared: some options of `FitPlan`, or a
            whole one. What is left out is the task's, as of `Prune`, at a rate of 1e-4 where the task says none. ``{"epochs": 0}`` leaves fine-tuning out;
            then no task is needed.
        seed: of the random start.
    """

    stage: ClassVar[Stage] = "rounding"
    trains: ClassVar[bool] = True
    section: ClassVar[str] = "sharing"

    bits: int = 5
    layers: LayerBits = ()
    keep: tuple[str, ...] = ()
    biases: bool = False
    start: Start = "linear"
    weighting: Literal["none", "curvature"] = "none"
    examples: int = 256
    recovery: FitPlan | Mapping[str, Any] | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        low, high = _BITS
        mistakes = [f"recovery.{mistake}" for mistake in out_of_range(self.recovery)]
        mistakes += [
            f"{place}: {bits} must be {low} to {high}" for place, bits in (("bits", self.bits), *self.layers) if not low <= bits <= high
        ]
        if self.examples < 1:
            mistakes.append(f"examples: {self.examples} must be 1 or more")
        if mistakes:
            raise BadInput("sharing weights so makes no sense:\n" + "\n".join(f"  {m}" for m in mistakes))
        object.__setattr__(self, "recovery", frozen_plan(self.recovery))

    def words(self) -> str:
        """Return the step and its bits: `share weights 5 bit`."""
        return f"share weights {self.bits} bit"

    def bits_of(self, weight: StoredWeight) -> int:
        """Return the bits of a weight: of the last of `layers` that names it, else `bits`."""
        return next((bits for path, bits in reversed(self.layers) if weight.named((path,))), self.bits)


@step("share_weights", ShareWeights, float32=True)
def share_weights(program: Program, config: ShareWeights | None = None, context: Context | Task | None = None) -> tuple[Program, Outcome]:
    """Share the weights of a copy of a program, and fine-tune the shared values.

    Args:
        program: best pruned before.
        config: how.
        context: with a task that has train data and a loss, and with `fit`, unless nothing is fine-tuned.

    Returns:
        A program with batch-norms folded and else of the same operators, the weights of which have few different values, and what each became.

    Raises:
        BadInput: it has no stored weight, a path names none, or there is no data, loss or `fit` to fine-tune with.
        TrainingStopped: the loss became NaN.
    """
    config, context = config or ShareWeights(), context if isinstance(context, Context) else Context(task=context)
    tuning = Tuning("share_weights", config.recovery, context)
    result, notes = folded(program)
    weights, skipped = chosen_weights(result, config.keep, config.biases, [path for path, _ in config.layers])
    curved = curvature(result, [w.parameter for w in weights], context, config.examples) if config.weighting == "curvature" else None
    context.progress.start("sharing weights", len(weights))
    before = [weight.parameter.detach().clone() for weight in weights]
    for index, weight in enumerate(weights):
        _share(weight.parameter, 2 ** config.bits_of(weight), config, None if curved is None else curved[index])
        context.progress.advance()
    context.progress.finish()
    many = sum(old.numel() for old in before) > MOST_NUMBERS
    shared = [row(weight, old, many) for weight, old in zip(weights, before, strict=True)]
    epochs = tuning.run(result, weights, program)
    changed = {"start": config.start, "weighting": config.weighting, **totals(shared), "weights": shared, "epochs": epochs}
    return result, Outcome("share_weights", changed, tuple(skipped), notes)


@torch.no_grad()
def _share(parameter: nn.Parameter, k: int, config: ShareWeights, weighting: Tensor | None) -> None:
    """Give the numbers of a parameter that are not zero the values of a codebook."""
    flat = parameter.detach().flatten()
    kept = flat != 0
    if not bool(kept.any()):
        return
    found = codebook(array(flat[kept]), k, config.start, None if weighting is None else array(weighting.flatten()[kept]), config.seed)
    flat = flat.clone()
    flat[kept] = torch.from_numpy(found.decoded()).to(flat)
    parameter.copy_(flat.view(parameter.shape))


def array(values: Tensor) -> Array:
    """Return a tensor as k-means takes it."""
    return values.double().cpu().numpy()


# What steps share that leave few values -----------------------------------------------------------------------------------------------


def folded(program: Program) -> tuple[Program, tuple[str, ...]]:
    """Return a copy with batch-norms folded into the weights before them, and a note if there were any."""
    result, outcome = fold_batch_norm(program)
    count = outcome.changed["folded"]
    told = f"{count} batch-norm{'s' * (count > 1)} folded first: folded later, each channel's few values would be scaled apart"
    return result, (told,) * (count > 0)


def chosen_weights(
    program: Program, keep: Sequence[str], biases: bool, named: Sequence[str] = ()
) -> tuple[list[StoredWeight], list[Skipped]]:
    """Return the weights whose values are to become few, and what stays.

    Args:
        program: whose.
        keep: paths of those that stay.
        biases: whether these are among them.
        named: paths under other options, which must be there too.

    Raises:
        BadInput: there are none, or a path names none.
    """
    weights, skipped = stored_weights(program, vectors=biases)
    check_paths(weights, keep, "keep")
    check_paths(weights, named, "layers")
    skipped += [Skipped(weight.path, "asked to be kept") for weight in weights if weight.named(keep)]
    chosen = [weight for weight in weights if not weight.named(keep)]
    if not chosen:
        reasons = "; ".join(f"{item.name}: {item.reason}" for item in skipped[:3])
        raise BadInput(
            f"the program stores no weight whose values could be shared ({reasons or 'it has no layer, embedding or recurrent operator'})."
        )
    return chosen, skipped


class Tuning:
    """How shared values are fine-tuned: checked before anything is computed, run when the values are there."""

    def __init__(self, name: str, changes: FitPlan | Mapping[str, Any] | None, context: Context) -> None:
        given = context.task.recovery if context.task is not None else None
        if not isinstance(changes, FitPlan) and given is None:
            changes = {"lr": _LR, **(changes or {})}
        self.plan, self.context = recovery(changes, context.task).plan, context
        if self.plan.epochs:
            check_trainable(name, context)

    def run(self, program: Program, weights: Sequence[StoredWeight], teacher: Program) -> list[dict[str, Any]]:
        """Train a program in place with the equal numbers of these weights tied; return what each epoch was like."""
        if not self.plan.epochs:
            return []
        with tied(weight.parameter for weight in weights if weight.parameter.requires_grad) as hook:
            return retrain(program, self.plan, self.context, teacher, (hook,))
