"""Training as a recipe step: fine-tuning on the task's own data and loss, beside a teacher if it is asked for."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import ClassVar

from laconic.core.context import Context
from laconic.core.errors import BadInput
from laconic.core.plan import FitPlan, completed, out_of_range, with_plan
from laconic.core.program import Program
from laconic.core.records import Outcome
from laconic.core.retraining import check_trainable, retrain
from laconic.core.step import Stage, StepConfig, step


@with_plan("plan")
@dataclass(frozen=True)
class Fit(StepConfig):
    """Train the program further with the task's loss.

    Args:
        plan: how. With its `distill` or `hints` the teacher is the program before all steps of the recipe.
    """

    stage: ClassVar[Stage] = "training"
    trains: ClassVar[bool] = True
    plan_field: ClassVar[str] = "plan"

    plan: FitPlan = field(default_factory=FitPlan)

    def __post_init__(self) -> None:
        mistakes = list(out_of_range(self.plan))
        if mistakes:
            raise BadInput("the training makes no sense:\n" + "\n".join(f"  plan.{m}" for m in mistakes))
        object.__setattr__(self, "plan", completed(self.plan, FitPlan()))


@step("fit")
def fit_step(program: Program, config: Fit, context: Context) -> tuple[Program, Outcome]:
    """Train a copy of the program.

    Raises:
        BadInput: the task has no training data or no loss.
        TrainingStopped: the loss became NaN.
    """
    check_trainable("fit", context)
    trained = copy.deepcopy(program)
    epochs = retrain(trained, config.plan, context, program)
    return trained.eval(), Outcome("fit", {"epochs": epochs})
