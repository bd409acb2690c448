"""How every step trains what it made: with the task's data and loss, and beside a teacher where the plan says so."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from typing import Any

from laconic.core.context import Context
from laconic.core.errors import BadInput
from laconic.core.plan import FitPlan
from laconic.core.program import Program


def check_trainable(step: str, context: Context) -> None:
    """Check that a step has what it needs to train: train data, a loss and `fit`.

    Raises:
        BadInput: it has not; says what is missing.
    """
    task = context.task
    if task is None or task.train is None or task.loss is None or context.fit is None:
        raise BadInput(f"the step '{step}' trains: give it a task with train data and a loss, and a Context with fit=laconic.fit")


def retrain(
    student: Program, plan: FitPlan, context: Context, teacher: Program, hooks: Sequence[Callable[..., None]] = ()
) -> list[dict[str, Any]]:
    """Train a program in place; returns what each epoch was like.

    Args:
        student: what a step made.
        plan: how; a program whose batch is fixed is given batches of that size.
        context: with a task and `fit`.
        teacher: the program before the step; the context's own teacher, the program before all steps, goes before it.
        hooks: of `fit`.
    """
    student.interface.limits.check_trainable("fit")
    if student.interface.fixed_batch is not None:
        plan = replace(plan, batch_size=student.interface.fixed_batch)
    record = trainer(context, teacher)(student, plan, progress=context.progress, hooks=tuple(hooks))
    return [asdict(epoch) for epoch in record.epochs]


def trainer(context: Context, teacher: Program) -> Callable[..., Any]:
    """Return `(program, plan, **more of fit)`, which trains in place with the task's data and loss.

    Args:
        context: with a task and `fit`.
        teacher: the program before the step; the context's own teacher, the program before all steps, goes before it.
    """
    fit = context.fit
    assert fit is not None
    return lambda program, plan, **more: fit(program, plan, context.task, teacher=context.teacher or teacher, **more)
