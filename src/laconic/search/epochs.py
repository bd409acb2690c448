"""How long the steps of a recipe train, and the same steps trained otherwise."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from laconic.core.plan import FitPlan, options_of
from laconic.core.step import StepConfig
from laconic.core.task import Task
from laconic.run.recipe import Recipe


def recipe_epochs(recipe: Recipe, task: Task) -> int:
    """Return for how many epochs the steps of a recipe train."""
    return sum(epochs_of(config, task) for config in recipe.steps if config.trained())


def retrained(config: StepConfig, changes: Mapping[str, Any]) -> StepConfig:
    """Return a step that trains otherwise; one that does not train as it is."""
    if not config.plan_field or not config.trained():
        return config
    plan = getattr(config, config.plan_field)
    made = dataclasses.replace(plan, **changes) if isinstance(plan, FitPlan) else {**options_of(plan), **changes}
    return dataclasses.replace(config, **{config.plan_field: made})


def epochs_of(config: StepConfig, task: Task) -> int:
    """Return how long a step trains, in epochs."""
    plan = options_of(getattr(config, config.plan_field)) if config.plan_field else {}
    return int(plan.get("epochs", (task.recovery or FitPlan()).epochs))
