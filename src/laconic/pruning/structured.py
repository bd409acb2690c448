"""Structured pruning as a step: score what can be removed, decide how much goes where, remove it, prove it, and let the rest recover."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import numpy as np
from torch import Tensor

from laconic.core.choices import Kind
from laconic.core.context import Context
from laconic.core.errors import BadInput, nearest
from laconic.core.fields import FrozenMapping
from laconic.core.loss import mean_loss, train_batches
from laconic.core.plan import FitPlan, frozen_plan, out_of_range, with_plan
from laconic.core.program import Program
from laconic.core.records import Outcome, Skipped
from laconic.core.recovery import Recovery, recovery
from laconic.core.retraining import check_trainable, retrain
from laconic.core.step import Stage, StepConfig, step
from laconic.core.task import Task
from laconic.pruning import allocation
from laconic.pruning.allocation import Limits
from laconic.pruning.collect import score
from laconic.pruning.coupling import Coupling, couple
from laconic.pruning.criteria import criteria, named
from laconic.pruning.inputs import renew_statistics, task_batches
from laconic.pruning.proof import Proof, prove
from laconic.pruning.sizes import Counts, Sizes, keep_of
from laconic.pruning.surgery import Keep, remove
from laconic.pruning.trace import Policy

Goal = Literal["macs", "params", "latency"]
_GIVEN = "given"  # what is told of an allocation that names groups
_GOALS: dict[Goal, str] = {"macs": "MACs", "params": "parameters", "latency": "layer time"}
Alive = dict[tuple[str, int], Any]  # of each tensor's dimension, the indices that are left


@with_plan("recovery")
@dataclass(frozen=True)
class Prune(StepConfig):
    """Structured pruning: what goes, and how the rest recovers.

    Args:
        macs: share of the multiply-adds to be kept; a half where none of the three is given.
        params: share of the parameters (and so of the bytes) to be kept.
        latency: share of the layers' measured time on the target to be kept; goes with the allocation ``latency``.
        keep: instead of a share and an allocation, how many components each group keeps, by the groups' names (`couple(program).groups`, ``laconic inspect``);
            groups that are not named stay whole.
        criterion: how important a component is: a name in `criteria.criteria()`.
        allocation: ``uniform`` (the same share everywhere), ``global`` (all are ranked together) or ``latency`` (the least score for the time it saves).
        attention: remove whole ``heads`` or parts of the ``head_size``.
        groups: of grouped convolutions: ``channels`` in all groups alike, whole ``groups``, or ``auto``.
        freeze: module paths that stay as they are.
        floor: share of each group that is kept in any case.
        multiple: of channels that is kept in groups of twice that or more; None: 8 with the allocation ``latency``, else 1.
        rounds: of pruning and recovery; the later ones go further.
        examples: of the train data that a criterion looks at, and that batch-norms are estimated with anew.
        recovery: how the rest is trained, in all rounds together: some options of `FitPlan` by name, such as ``{"epochs": 3, "lr": 1e-3}``, or a whole
            `FitPlan`. What is left out is the task's: `Task.recovery`, or else optimizer, batches and augmentation of `Task.plan`, one epoch, and a learning
            rate found by a short range test; soft targets of the unpruned program weigh 0.5 where `Task.recovery` has none. ``{"epochs": 0}`` leaves
            recovery out, ``{"distill": 0}`` the soft targets. A whole plan leaves nothing to the task.
    """

    stage: ClassVar[Stage] = "pruning"
    trains: ClassVar[bool] = True
    section: ClassVar[str] = "pruning"

    macs: float | None = None
    params: float | None = None
    latency: float | None = None
    keep: Mapping[str, int] | None = None
    criterion: str = "group_l2"
    allocation: Literal["uniform", "global", "latency"] = "global"
    attention: Literal["heads", "head_size"] = "heads"
    groups: Literal["auto", "channels", "groups"] = "auto"
    freeze: tuple[str, ...] = ()
    floor: float = 0.1
    multiple: int | None = None
    rounds: int = 1
    examples: int = 256
    recovery: FitPlan | Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        mistakes = []
        given = [name for name in _GOALS if getattr(self, name) is not None]
        if len(given) > 1:
            mistakes.append(f"one of macs, params and latency says how much is kept; given: {', '.join(given)}")
        for name in given:
            if not 0 < getattr(self, name) <= 1:
                mistakes.append(f"{name}: {getattr(self, name)} is the share that is kept; it lies above 0 and is 1 at most")
        if self.keep is not None:
            mistakes += self._wrong_keep(given)
        if (self.allocation == "latency") != (self.latency is not None):
            mistakes.append("latency, as a share, goes with the allocation 'latency' and no other")
        if self.criterion not in criteria():
            mistakes.append(f"criterion: '{self.criterion}'." + nearest(self.criterion, criteria()))
        if not 0 < self.floor <= 1:
            mistakes.append(f"floor: {self.floor} must lie above 0 and be 1 at most")
        if self.rounds < 1 or self.examples < 1 or (self.multiple or 1) < 1:
            mistakes.append("rounds, examples and multiple must be 1 or more")
        mistakes += [f"recovery.{mistake}" for mistake in out_of_range(self.recovery)]
        if mistakes:
            raise BadInput("the pruning makes no sense:\n" + "\n".join(f"  {m}" for m in mistakes))
        object.__setattr__(self, "recovery", frozen_plan(self.recovery))
        object.__setattr__(self, "keep", None if self.keep is None else FrozenMapping(self.keep))

    def _wrong_keep(self, given: Sequence[str]) -> Iterator[str]:
        assert self.keep is not None
        if given or self.allocation != "global":
            other = (*given, "allocation")[0]
            yield f"keep: says how many components of each group stay, so {other} has nothing to decide. Give one of them"
        if not self.keep:
            yield "keep: names no group. Leave it out, or say how many components a group keeps: {'conv1': 12}"
        yield from (f"keep.{name}: {count} must be 1 or more" for name, count in self.keep.items() if count < 1)

    def choices(self) -> Mapping[tuple[Kind, str], int | str] | None:
        """Return what each group keeps, where that is said."""
        return None if self.keep is None else {("channels", name): count for name, count in self.keep.items()}

    def words(self) -> str:
        """Return what is kept: `prune to 50 % of MACs`, `prune 3 groups to 84 components`."""
        if self.keep is not None:
            groups, left = len(self.keep), sum(self.keep.values())
            return f"prune {groups} group{'s' * (groups > 1)} to {left} component{'s' * (left > 1)}"
        goal, share = self.goal
        return f"prune to {100 * share:g} % of {_GOALS[goal]}"

    def depends_on_target(self) -> bool:
        """Return whether layers are timed on the target."""
        return self.latency is not None

    @property
    def goal(self) -> tuple[Goal, float]:
        """What is to be kept, and its share, where no counts are given."""
        given = [(name, value) for name in _GOALS if (value := getattr(self, name)) is not None]
        return given[0] if given else ("macs", 0.5)


@step("prune", Prune)
def prune(
    program: Program,
    config: Prune,
    context: Context | Task | None = None,
    hooks: Sequence[Callable[..., None]] = (),
) -> tuple[Program, Outcome]:
    """Remove structures from a copy of a program, and train the rest.

    Args:
        program: in eval mode; not changed. It is the teacher in recovery, unless that does without.
        config: what goes, and how the rest recovers.
        context: or the task alone, which is needed for recovery, for batch-norms and for criteria that look at data. Recovery needs `fit`, the allocation
            ``latency`` needs `price`.
        hooks: of `fit`, in recovery; a regularizer of `coupling.groups`, for instance.

    Returns:
        A program that is smaller, and what was done: channels before and after, what is frozen and why, the proof of equivalence.

    Raises:
        BadInput: data, loss, `fit` or `price` are missing where they are needed; a budget that cannot be kept; an unknown module path.
        LaconicError: the pruned program does not compute what the masked one does, or nothing could be compared.
    """
    context = context if isinstance(context, Context) else Context(task=context)
    plan = recovery(config.recovery, context.task)
    _check(config, plan, context)
    policy = Policy(config.attention, config.groups)
    first = couple(program, policy, config.freeze)
    if not first.groups:
        raise BadInput(f"nothing can be removed: {'; '.join(sorted(set(first.frozen_causes().values()))) or 'no weights'}")
    result, epochs, proofs = copy.deepcopy(program).eval(), [], []
    alive: Alive = {}
    batches = train_batches(program, context, config.examples)
    loss = [mean_loss(program, context.task, batches)] if context.task is not None and batches else []
    for number in range(1, config.rounds + 1):
        coupling = first if number == 1 else couple(result, policy, config.freeze)
        counts, scores = _decide(coupling, config, number, first, context)
        if counts != [len(group) for group in coupling.groups]:
            keep = keep_of(coupling, scores, counts)
            result = remove(coupling, keep)
            proofs.append(prove(coupling, keep, result, task_batches(coupling.program, context.task, plan.plan.seed), plan.plan.seed))
            survivors(coupling, keep, alive)
            renew_statistics(result, config.examples, plan.plan.batch_size, context)
        if number == config.rounds and context.task is not None and batches:
            loss.append(mean_loss(result, context.task, batches))
        if share_of_round(plan.plan.epochs, number, config.rounds):
            plan = plan.settled(result, context, program)
            epochs += _recover(result, program, plan, number, config.rounds, context, hooks)
    result = result.eval()
    changed = _changed(first, couple(result, policy), alive, config, proofs)
    told = {"loss": loss, "epochs": epochs, "recovery": plan.told() if epochs else None}
    return result, _outcome(first, {**changed, **told}, plan, proofs)


def _check(config: Prune, plan: Recovery, context: Context) -> None:
    if plan.plan.epochs:
        check_trainable("prune", context)
    if config.allocation == "latency" and context.price is None:
        raise BadInput("the allocation 'latency' needs the time of layers on the target: Context(price=laconic.latency_table(target))")


def _cost(sizes: Sizes, goal: Goal) -> Callable[[Counts], float]:
    return sizes.macs if goal == "macs" else sizes.params


def _decide(coupling: Coupling, config: Prune, number: int, first: Coupling, context: Context) -> tuple[list[int], list[Tensor]]:
    """Return how many components each group keeps after this round (from 1), and their scores; `first` is what there was before all rounds."""
    part = number / config.rounds
    sizes = Sizes(coupling)
    if config.keep is not None:
        counts = allocation.by_name(coupling, first, config.keep, part)
        return counts, score(coupling, config.criterion, context, config.examples)
    scores = score(coupling, config.criterion, context, config.examples)
    share, step = config.goal[1] ** part, config.goal[1] ** (1 / config.rounds)
    limits = Limits(config.floor, config.multiple or (8 if config.allocation == "latency" else 1))
    if config.allocation == "latency":
        assert context.price is not None
        return allocation.by_latency(sizes, context.price, step, limits, scores, comparable=named(config.criterion).comparable), scores
    whole = Sizes(first)
    cost, total = _cost(sizes, config.goal[0]), _cost(whole, config.goal[0])(whole.full)
    if config.allocation == "uniform":
        return allocation.uniform(sizes, cost, share * total, limits), scores
    return allocation.ranked(sizes, cost, share * total, limits, scores, named(config.criterion).comparable), scores


def share_of_round(epochs: int, number: int, rounds: int) -> int:
    """Return how many of all epochs this round (from 1) takes; the later ones take what is left over."""
    return epochs * number // rounds - epochs * (number - 1) // rounds


def _recover(
    pruned: Program, teacher: Program, plan: Recovery, number: int, rounds: int, context: Context, hooks: Sequence[Callable[..., None]]
) -> list[dict[str, Any]]:
    """Train this round's share of the epochs, in place; returns what they were like."""
    own = replace(plan.plan, epochs=share_of_round(plan.plan.epochs, number, rounds))
    return [{**epoch, "round": number} for epoch in retrain(pruned, own, context, teacher, hooks)]


def _changed(before: Coupling, after: Coupling, alive: Alive, config: Prune, proofs: Sequence[Proof]) -> dict[str, Any]:
    """Return what was asked, what was cut and what the proofs say."""
    old, new = Sizes(before), Sizes(after)
    goal, share = config.goal
    asked = (
        {"goal": goal, "share": share, "allocation": config.allocation}
        if config.keep is None
        else {"keep": config.keep, "allocation": _GIVEN}
    )
    moved = _least_moved(proofs)
    return {
        **asked,
        "criterion": config.criterion,
        "groups": [{**row, "moved": moved.get(row["name"])} for row in channels(before, alive)],
        "params": [old.params(old.full), new.params(new.full)],
        "macs": [old.macs(old.full), new.macs(new.full)],
        "difference": max((proof.difference for proof in proofs), default=0.0),
        "moved": min(moved.values(), default=None),
        "compared": {
            "sizes": sorted({size for proof in proofs for size in proof.sizes}),
            "batches": sum(proof.real for proof in proofs),
        },
    }


def _outcome(before: Coupling, changed: dict[str, Any], plan: Recovery, proofs: Sequence[Proof]) -> Outcome:
    idle = sorted({name for proof in proofs for name in proof.idle})
    skipped = [Skipped(name, cause) for name, cause in before.frozen_causes().items()]
    skipped += [Skipped(str(node.target), "has no rule, so what it reads stays") for node in before.unknown]
    notes = [f"the proof of equivalence says nothing of {', '.join(idle)}: what was removed there does not move the output"] if idle else []
    notes += [plan.note()] if changed["epochs"] else []
    return Outcome("prune", changed, tuple(skipped), tuple(notes))


def _least_moved(proofs: Sequence[Proof]) -> dict[str, float]:
    """Return by group the least that a cut moved the output in any round."""
    result: dict[str, float] = {}
    for proof in proofs:
        for name, value in proof.moved.items():
            result[name] = min(value, result.get(name, value))
    return result


def survivors(coupling: Coupling, keep: Keep, alive: Alive) -> None:
    """Note which indices of each tensor's dimension a choice leaves, as they were counted before the first choice."""
    for name, dims in coupling.tensors.items():
        for dim, ids in enumerate(dims):
            if ids is not None:
                alive[name, dim] = alive.get((name, dim), np.arange(len(ids)))[keep[coupling.label[ids]]]


def channels(before: Coupling, alive: Alive) -> Iterator[dict[str, Any]]:
    """Return of each group its name, in how many dimensions of tensors it has slices, and components before and after."""
    for group in before.groups:
        slot = next((s for s in group.slots if s.role == "out"), group.slots[0])
        left = slot.index[alive[slot.tensor, slot.dim]] if (slot.tensor, slot.dim) in alive else slot.index
        after = len(np.unique(left[left >= 0]))
        yield {"name": group.name, "slices": len(group.slots), "before": len(group), "after": after}
