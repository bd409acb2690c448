"""The options of a budget: one for each limit of `core.quantities` that has one, `--limit` for those of other packages, `--objective`, `--confident`."""

from __future__ import annotations

import functools
import inspect
import typing
from collections.abc import Callable
from typing import Annotated, Any

import typer

from laconic.core.quantities import QUANTITIES, Limit

BUDGET = "budget"
BudgetOptions = dict[str, Any]  # what was typed of a budget, as `laconic.Budget.from_plain` reads it; what was not typed is not there
_OBJECTIVES = [row.objective.name for row in QUANTITIES.values() if row.objective is not None]
_LIMITS = {row.limit.option: row.limit for row in QUANTITIES.values() if row.limit is not None and row.limit.option}
_OTHERS = {
    "limit": Annotated[
        list[str] | None,
        typer.Option("--limit", metavar="NAME=NUMBER", help="A limit by its name, also of another package's quantity. May be given again."),
    ],
    "objective": Annotated[
        str | None,
        typer.Option(
            "--objective", help=f"What is to be best: {', '.join(_OBJECTIVES)}, or one of another package.  [default: {_OBJECTIVES[0]}]"
        ),
    ],
    "confident": Annotated[
        bool, typer.Option("--confident", help="Each limit must hold at the bad end of its figure's 95 % interval, not only as measured.")
    ],
}


def takes_budget(command: Callable[..., None]) -> Callable[..., None]:
    """Put the options of a budget in the place of a command's parameter `budget`, which receives them as `BudgetOptions`.

    What cannot be read is kept as it was typed: the budget refuses it, inside the command, with everything else that is wrong.
    """
    hints = typing.get_type_hints(command, include_extras=True)
    parameters: list[inspect.Parameter] = []
    for parameter in inspect.signature(command).parameters.values():
        parameters += _options() if parameter.name == BUDGET else [parameter.replace(annotation=hints[parameter.name])]

    @functools.wraps(command)
    def typed(**values: Any) -> None:
        command(**{BUDGET: _read(values)}, **values)

    typed.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    typed.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return typed


def _options() -> list[inspect.Parameter]:
    made = {limit.name: _option(limit) for limit in _LIMITS.values()} | _OTHERS
    return [
        inspect.Parameter(
            name, inspect.Parameter.POSITIONAL_OR_KEYWORD, default=False if name == "confident" else None, annotation=annotation
        )
        for name, annotation in made.items()
    ]


def _option(limit: Limit) -> Any:
    return Annotated[str | None, typer.Option(limit.option, metavar="NUMBER", help=limit.help)]


def _read(values: dict[str, Any]) -> BudgetOptions:
    """Take the options of the budget out of a command's values."""
    given = {limit.name: _number(values.pop(limit.name)) for limit in _LIMITS.values()}
    for text in values.pop("limit") or ():
        name, _, value = text.partition("=")
        given[name.strip()] = _number(value.strip())
    given |= {"objective": values.pop("objective"), "confident": values.pop("confident") or None}
    return {name: value for name, value in given.items() if value is not None}


def _number(text: str | None) -> float | str | None:
    try:
        return None if text is None else float(text)
    except ValueError:
        return text
