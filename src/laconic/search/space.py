"""What is tried: every runtime in every precision, batch-norm folding where the runtime does not fold, quantization where it computes with integers,
and structured pruning where there is data to recover with."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from laconic.core.errors import BadInput, nearest
from laconic.core.folding import FoldBatchNorm
from laconic.core.operators import family_of, plain_name
from laconic.core.program import Program
from laconic.core.target import Target
from laconic.core.task import Task
from laconic.deploy import runtime
from laconic.pruning.structured import Prune
from laconic.quantization.mixed import Mixed
from laconic.quantization.placement import TARGETS
from laconic.quantization.qat import Qat
from laconic.quantization.static import Quantize
from laconic.run.recipe import PRECISIONS, Recipe
from laconic.run.record import Record
from laconic.search.budget import Budget

BASELINE_RUNTIME = "torch"
# PyTorch runs the graph as it stands; the others fold batch-norms when they load or convert.
_FOLDS_NOT = ("torch",)
# Kinds of quantization. Mixed precision and training are tried where static quantization lost something: they can only win that back.
QUANTIZATIONS = ("static", "dynamic", "weights", "mixed", "qat")
_QAT_LR = 1e-4
# Shares of the multiply-adds that pruning keeps, one candidate each, and how long the rest recovers.
PRUNE_SHARES = (0.5, 0.3)
_RECOVERY_EPOCHS, _RECOVERY_STEPS = (2, 20), 400  # at least and at most; steps that are wanted


@dataclass(frozen=True)
class SearchSpace:
    """Which runtimes, precisions, threads and device are tried, which kinds of quantization (names in `QUANTIZATIONS`), and which shares of the
    multiply-adds structured pruning keeps; None means all.

    Raises:
        BadInput: everything in it that is unknown.
    """

    runtimes: tuple[str, ...] | None = None
    precisions: tuple[str, ...] | None = None
    threads: int | None = None
    device: str = "cpu"
    quantize: tuple[str, ...] | None = None
    prune: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        mistakes = list(self._mistakes())
        if mistakes:
            raise BadInput("the search space makes no sense:\n" + "\n".join(f"  {m}" for m in mistakes))

    def _mistakes(self) -> Iterator[str]:
        for what, given, known in (
            ("runtimes", self.runtimes, runtime.names()),
            ("precisions", self.precisions, PRECISIONS),
            ("quantize", self.quantize, QUANTIZATIONS),
        ):
            yield from (f"{what}: '{name}'." + nearest(name, known) for name in given or () if name not in known)
        yield from (f"prune: {share} must lie between 0 and 1: it is kept" for share in self.prune or () if not 0 < share < 1)
        if self.threads is not None and self.threads < 1:
            yield f"threads: {self.threads} must be 1 or more, or None for all cores"
        if self.device not in runtime.DEVICES:
            yield f"device: '{self.device}'." + nearest(self.device, runtime.DEVICES)


def baseline_recipe(threads: int | None, device: str) -> Recipe:
    """What the candidates with these threads on this device are compared with: the model as it was given, in PyTorch eager, fp32."""
    return Recipe((), Target(BASELINE_RUNTIME, "fp32", threads, device))


def baseline_recipes(recipes: Sequence[Recipe]) -> list[Recipe]:
    """The baselines of these recipes: one for each number of threads and device among them, in their order."""
    settings = dict.fromkeys((recipe.deploy.threads, recipe.deploy.device) for recipe in recipes)
    return [baseline_recipe(*setting) for setting in settings]


def candidates(
    program: Program,
    runtimes: Sequence[str] | None = None,
    precisions: Sequence[str] | None = None,
    threads: int | None = None,
    device: str = "cpu",
    quantizations: Sequence[str] = (),
) -> list[Recipe]:
    """All recipes of the search space, without the baseline's own; the quantized ones last.

    Those of floats that the machine cannot run are among them, so that the report can say why.
    """
    baseline = baseline_recipe(threads, device)
    recipes = [
        recipe
        for name in runtimes or runtime.names()
        for precision in precisions or PRECISIONS
        for recipe in _variants(program, Target(name, precision, threads, device))
    ]
    rounded = [
        Recipe((step,), Target(name, precision, threads, device))
        for name in runtimes or runtime.names()
        if name in TARGETS and device == "cpu"
        for step in _roundings(program, name, quantizations)
        for precision in precisions or PRECISIONS
        if runtime.runtime(name).available(precision, device) is None
    ]
    return [recipe for recipe in [*recipes, *rounded] if recipe.key != baseline.key]


def prunings(
    task: Task, shares: Sequence[float], runtimes: Sequence[str] | None, quantizations: Sequence[str], threads: int | None
) -> list[Recipe]:
    """Structured pruning with recovery, alone and with static quantization behind it, on the runtimes that serve; nothing without data to recover with."""
    if task.train is None or task.loss is None:
        return []
    epochs = None if task.recovery is not None else _recovery_epochs(task, len(task.train))  # type: ignore[arg-type]
    found = []
    for share in shares:
        step = Prune(macs=share, recovery=None if epochs is None else {"epochs": epochs})
        for name in TARGETS:
            if name not in (runtimes or runtime.names()) or runtime.runtime(name).available("fp32", "cpu") is not None:
                continue
            deploy = Target(name, "fp32", threads)
            found.append(Recipe((step,), deploy))
            if "static" in quantizations:
                found.append(Recipe((step, Quantize(target=name)), deploy))
    return found


def _recovery_epochs(task: Task, examples: int) -> int:
    """As many epochs as the wanted steps take; what else recovery is like is the task's (`core.recovery`)."""
    batch_size = task.batch_size if task.plan is None else task.plan.batch_size
    fewest, most = _RECOVERY_EPOCHS
    return min(most, max(fewest, math.ceil(_RECOVERY_STEPS * batch_size / examples)))


def kinds(chosen: Sequence[str] | None, budget: Budget) -> tuple[str, ...]:
    """The kinds of quantization that make sense: weights alone are for the size, unless they are asked for."""
    if chosen is not None:
        return tuple(chosen)
    sized = budget.objective == "size" or budget.max_size_mb is not None
    return tuple(kind for kind in QUANTIZATIONS if kind != "weights" or sized)


def _roundings(program: Program, target: str, chosen: Sequence[str]) -> Iterator[Any]:
    linears = sum(family_of(node) == "linear" for node in program.graph.nodes)
    recurrent = any(plain_name(node) in ("lstm", "gru") for node in program.graph.nodes)
    if "static" in chosen:
        yield Quantize(target=target)
    if "dynamic" in chosen and (recurrent or linears > 2):
        yield Quantize(mode="dynamic", target=target)
    if "weights" in chosen:
        yield Quantize(mode="weights", target=target)
        if linears > 2:
            yield Quantize(mode="weights", bits=4, rounding="adaptive", target=target)


def followups(task: Task, tried: Sequence[Recipe], records: Sequence[Record], chosen: Sequence[str]) -> list[Recipe]:
    """Mixed precision and quantization-aware training, wherever static quantization lost a part of the metric.

    Args:
        tried: the recipes of the first round.
        records: theirs, the baseline's before them.
        chosen: kinds of quantization.
    """
    found = []
    for recipe, record in zip(tried, records[1:], strict=True):
        step = recipe.steps[0] if recipe.steps else None
        lost = record.status in ("passed", "rejected") and (record.drop is None or record.drop.value is None or record.drop.value > 0)
        if not isinstance(step, Quantize) or step.mode != "static" or not lost:
            continue
        if "mixed" in chosen:
            found.append(Recipe((Mixed(target=step.target),), recipe.deploy))
        if "qat" in chosen and task.train is not None and task.loss is not None:
            batch_size = task.plan.batch_size if task.plan is not None else task.batch_size
            found.append(Recipe((Qat(target=step.target, recovery={"lr": _QAT_LR, "batch_size": batch_size}),), recipe.deploy))
    return sorted(found, key=lambda recipe: isinstance(recipe.steps[0], Qat))


def _variants(program: Program, deploy: Target) -> Iterator[Recipe]:
    yield Recipe((), deploy)
    if deploy.runtime in _FOLDS_NOT and any(family_of(node) == "batch norm" for node in program.graph.nodes):
        yield Recipe((FoldBatchNorm(),), deploy)
