"""Frozen configs as plain values, as they stand in YAML, and back with every mistake told."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, get_args

from laconic.core.errors import nearest, need
from laconic.core.fields import FrozenMapping, hints_of
from laconic.core.plan import FitPlan
from laconic.core.records import to_json

_VALIDATORS: dict[type[Any], Any] = {}
_PLAN_OPTIONS = [option.name for option in dataclasses.fields(FitPlan)]


def to_plain(config: Any) -> dict[str, Any]:
    """Return the options of a config that are not its defaults, as plain values."""
    hints = hints_of(type(config))
    values = {option.name: (getattr(config, option.name), _default(option)) for option in dataclasses.fields(config)}
    # a plan that the config always has differs from its defaults in a few options; one that may be given in part says what it says
    return {
        name: to_plain(value) if hints[name] is FitPlan else to_json(value) for name, (value, default) in values.items() if value != default
    }


def from_plain(kind: type[Any], options: Any, place: str, mistakes: list[str]) -> Any:
    """Build a frozen config from plain values with its field types checked.

    Args:
        kind: of the config.
        options: its options by name; a plan of training is a mapping in it.
        place: of the config in its file, for the mistakes.
        mistakes: those found are added, each with place, value and rule.

    Returns:
        The config, or None where there were mistakes.
    """
    if not isinstance(options, dict):
        mistakes.append(f"{place}: must be a mapping of options; it is {options!r}")
        return None
    names = [option.name for option in dataclasses.fields(kind)]
    plans = {name: hint for name, hint in hints_of(kind).items() if name in names and _is_plan(hint)}
    mistakes += [f"{place}.{key}: {_unknown(str(key), value, names, list(plans))}" for key, value in options.items() if key not in names]
    given = {key: value for key, value in options.items() if key in names}
    before = len(mistakes)
    for name in given.keys() & plans.keys():
        if given[name] is not None:
            given[name] = _plan(given[name], f"{place}.{name}", mistakes, whole=plans[name] is FitPlan)
    return _checked(kind, given, place, mistakes) if len(mistakes) == before else None


def _default(option: dataclasses.Field[Any]) -> Any:
    return option.default if option.default_factory is dataclasses.MISSING else option.default_factory()


def _is_plan(hint: Any) -> bool:
    """Return whether an option takes a plan of training, whole or in part."""
    return hint is FitPlan or FitPlan in get_args(hint)


def _plan(options: Any, place: str, mistakes: list[str], *, whole: bool) -> FitPlan | FrozenMapping | None:
    """Return a plan from plain values; unless it is a whole one, only with the options that are given."""
    plan = from_plain(FitPlan, options, place, mistakes)
    if plan is None or whole:
        return plan
    return FrozenMapping({name: getattr(plan, name) for name in options if name in _PLAN_OPTIONS})


def _unknown(key: str, value: Any, names: list[str], plans: list[str]) -> str:
    if plans and key in _PLAN_OPTIONS:
        return f"is an option of the training, which has a place of its own: write {plans[0]}: {{{key}: {value}}}"
    return "unknown option." + (nearest(key, names) if names else " The step has none.")


def _checked(kind: type[Any], options: Mapping[str, Any], place: str, mistakes: list[str]) -> Any:
    pydantic = need("pydantic")
    try:
        return _validator(kind).validate_python(dict(options))
    except pydantic.ValidationError as error:
        for item in error.errors():
            mistakes.append(f"{'.'.join([place, *map(str, item['loc'])])}: {item['input']!r}: {item['msg']}")
        return None


def _validator(kind: type[Any]) -> Any:
    """Return what checks the options of a config; made once for each kind, which takes a hundred times as long as a check."""
    if kind not in _VALIDATORS:
        _VALIDATORS[kind] = need("pydantic").TypeAdapter(kind)
    return _VALIDATORS[kind]
