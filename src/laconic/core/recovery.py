"""How the rest of a model recovers from what a step took away: which plan, from where, and at which learning rate."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from laconic.core.context import Context
from laconic.core.errors import BadInput
from laconic.core.plan import FitPlan, completed, options_of, out_of_range
from laconic.core.program import Program
from laconic.core.rate import RangeTest, range_test
from laconic.core.retraining import trainer
from laconic.core.task import Task

# What a task's own plan says about its model and data, and not about a training from the start.
_OF_FIT = (
    "optimizer",
    "weight_decay",
    "momentum",
    "batch_size",
    "accumulate",
    "grad_clip",
    "gradients",
    "sam",
    "precision",
    "label_smoothing",
    "augment",
    "channels_last",
    "soft",
)
_DISTILL = 0.5
_STEP = "step"
_LOW, _HIGH, _STEPS = 1e-6, 1.0, (20, 100)  # of the range test; steps at least and at most, as many as recovery itself takes in between


@dataclass(frozen=True)
class Recovery:
    """A plan of training with where it came from.

    Attributes:
        plan: how the rest is trained; its rate is a start for `settled`, if `searched`.
        source: of what the step does not say itself: ``task.recovery``, ``task.plan``, or ``defaults``; ``step`` where it says all.
        given: names of the options that the step says itself.
        searched: nothing says the rate: a range test does.
        test: its outcome.
    """

    plan: FitPlan
    source: str
    given: tuple[str, ...] = ()
    searched: bool = False
    test: RangeTest | None = field(default=None, repr=False)

    def settled(self, student: Program, context: Context, teacher: Program) -> Recovery:
        """Return it with its rate, found by a range test on a copy of the student where nothing says it."""
        if not self.searched or self.test is not None:
            return self
        assert context.task is not None
        examples = len(context.task.train)  # type: ignore[arg-type]
        fewest, most = _STEPS
        steps = min(most, max(fewest, self.plan.epochs * math.ceil(examples / self.plan.batch_size)))
        test = range_test(student, self.plan, trainer(context, teacher), examples=examples, low=_LOW, high=_HIGH, steps=steps)
        return replace(self, plan=replace(self.plan, lr=test.safe), test=test)

    def told(self) -> dict[str, Any]:
        """Return what a step's outcome says of it."""
        plan = self.plan
        options = {name: getattr(plan, name) for name in ("optimizer", "lr", "schedule", "weight_decay", "batch_size", "distill", "soft")}
        augment = [choice.name for choice in plan.augment]
        return {
            "from": self.source,
            "given": list(self.given),
            **options,
            "augment": augment,
            "range_test": self.test and _summary(self.test),
        }

    def note(self) -> str:
        """Return it in one sentence."""
        how = "from a range test" if self.test is not None else "as given" if "lr" in self.given else f"of {self.source}"
        augment = f", augmented by {', '.join(choice.name for choice in self.plan.augment)}" if self.plan.augment else ""
        rest = "" if self.source == _STEP else f"; the rest is of {self.source}"
        return f"recovery: {self.plan.optimizer} at a rate of {self.plan.lr:.2g} ({how}){augment}{rest}"


def recovery(changes: FitPlan | Mapping[str, Any] | None, task: Task | None) -> Recovery:
    """Return how a step's rest recovers: what the step says, then `Task.recovery`, then what `Task.plan` says of optimizer, batches and augmentation.

    The rate is the step's or that of `Task.recovery`; else it is searched for. Soft targets of the unchanged program have the weight 0.5 where neither the step
    nor `Task.recovery` asks for another one.

    Args:
        changes: what the step says: a whole plan, which leaves nothing to the task, or some options of one. The seed is never the task's.
        task: whose plans say the rest.

    Raises:
        BadInput: numbers of `Task.recovery` that make no sense.
    """
    given = options_of(changes)
    said = tuple(name for name in given if name != "seed")
    if isinstance(changes, FitPlan):
        return Recovery(changes, _STEP, said)
    mistakes = [] if task is None else list(out_of_range(task.recovery))
    if mistakes:
        raise BadInput("Task.recovery makes no sense:\n" + "\n".join(f"  {m}" for m in mistakes))
    if task is not None and task.recovery is not None:
        base, source = task.recovery, "task.recovery"
    elif task is not None and task.plan is not None:
        base, source = FitPlan(**{name: getattr(task.plan, name) for name in _OF_FIT}), "task.plan"
    else:
        base, source = FitPlan(batch_size=64 if task is None else task.batch_size), "defaults"
    plan = completed({"distill": base.distill or _DISTILL, "seed": 0, **given}, base)
    return Recovery(plan, source, said, searched=source != "task.recovery" and "lr" not in given)


def _summary(test: RangeTest) -> Mapping[str, Any]:
    """Return the curve of a range test in a few numbers."""
    lowest = min(test.losses)
    return {
        "steps": len(test.rates),
        "rates": [test.rates[0], test.rates[-1]],
        "losses": [test.losses[0], lowest, test.losses[-1]],
        "lowest_at": test.rates[test.losses.index(lowest)],
        "steepest_at": test.proposal,
        "chosen": test.safe,
    }
