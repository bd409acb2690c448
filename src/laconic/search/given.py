"""What `optimize` is given, in the forms in which it may be written: a task by its name, a budget as a mapping; and what this machine cannot do, at once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from laconic.core.consumption import COST
from laconic.core.errors import BadInput
from laconic.core.task import Task
from laconic.deploy import runtime
from laconic.measure import energy
from laconic.run.consumed import needs_energy
from laconic.run.options import Options
from laconic.run.recipe import Recipe
from laconic.search.budget import Budget
from laconic.tasks.catalog import load


def as_task(value: Any) -> Task:
    """Return a task: the one that was given, or that of this name (``digits``, ``module:attribute``).

    Raises:
        BadInput: neither; says what it is.
    """
    if isinstance(value, str):
        return load(value)
    if isinstance(value, Task):
        return value
    given = f"the class {value.__name__}" if isinstance(value, type) else f"an object of the class {type(value).__name__}"
    raise BadInput(
        f"optimize takes a laconic.Task, or the name of one; it was given {given}. A model, its data and its metric make a task: "
        "laconic.Task(model, train=…, valid=…, loss=…, metric='accuracy')."
    )


def as_budget(value: Any) -> Budget:
    """Return a budget: the one that was given, one of these limits (``{"max_drop": 0.5}``), or the default of None.

    Raises:
        BadInput: limits that make no sense, or neither.
    """
    if value is None or isinstance(value, Budget):
        return value or Budget()
    if isinstance(value, Mapping):
        return Budget.from_plain(value)
    raise BadInput(f"the budget must be a laconic.Budget or a mapping of limits, e.g. {{'max_drop': 0.5}}; it is {value!r}")


def check_devices(recipes: Sequence[Recipe] | None, device: str) -> None:
    """Refuse a device on which nothing runs here.

    Args:
        recipes: that will be tried; None: those of a search on `device`.
        device: of the search.

    Raises:
        BadInput: names the device and why it cannot be used.
    """
    for name in dict.fromkeys([device] if recipes is None else [recipe.deploy.device for recipe in recipes]):
        why = runtime.unavailable(name)
        if why is not None:
            raise BadInput(
                f"the device '{name}' cannot be used: {why}. Leave it out (--device cpu), or run this where there is one; see `laconic doctor`."
            )


def check_told(budget: Budget, options: Options, devices: Iterable[str]) -> None:
    """Refuse a budget about what nothing here tells: money without a price, energy without a counter or a meter.

    Args:
        budget: what is asked.
        options: with the price and how energy is measured.
        devices: on which candidates will run.

    Raises:
        BadInput: says what is missing.
    """
    if budget.names(COST) and options.price is None:
        raise BadInput(
            "the budget asks about money, and no price is known. Give one: --prices FILE.toml, or Options(price=laconic.Price(per_hour=…)); "
            "docs/cost.md shows both."
        )
    if needs_energy(budget.names, options.price):
        for device in dict.fromkeys(devices):
            energy.source(options.metering, device)
