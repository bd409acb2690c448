"""Training as a recipe step: fine-tuning on the task's own data and loss."""

from __future__ import annotations

import copy
from dataclasses import asdict, dataclass, fields

from laconic.core.errors import BadInput
from laconic.core.program import Program
from laconic.core.records import Outcome
from laconic.core.task import Context, FitPlan
from laconic.train.engine import fit


@dataclass(frozen=True)
class Fit(FitPlan):
    """Train the program further with the task's loss; the options are those of `FitPlan`."""


def fit_step(program: Program, config: Fit, context: Context) -> tuple[Program, Outcome]:
    """Train a copy of the program.

    Raises:
        BadInput: the task has no training data or no loss.
        TrainingStopped: the loss became NaN.
    """
    task = context.task
    if task is None or task.train is None or task.loss is None:
        raise BadInput("the step 'fit' needs a task with train data and a loss")
    trained = copy.deepcopy(program)
    plan = FitPlan(**{f.name: getattr(config, f.name) for f in fields(FitPlan)})
    record = (context.fit or fit)(
        trained, plan, train=task.train, loss=task.loss, split=task.split, collate=task.collate, progress=context.progress
    )
    return trained.eval(), Outcome("fit", {"epochs": [asdict(epoch) for epoch in record.epochs]})
