"""The values of a dataclass compared with the types that its fields declare, so that a wrong one is told where it is given and not where it is used."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import math
import numbers
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from laconic.core.errors import Mistakes

Function = TypeVar("Function", bound=Callable[..., Any])
# type -> what it is called, and whether a value is of it; a bool is no number, and NaN is none
_PLAIN: dict[type, tuple[str, Callable[[Any], bool]]] = {
    bool: ("True or False", lambda value: isinstance(value, bool)),
    int: ("a whole number", lambda value: isinstance(value, numbers.Integral) and not isinstance(value, bool)),
    float: ("a number", lambda value: type(value) is not bool and isinstance(value, numbers.Real) and not math.isnan(value)),
    str: ("a text", lambda value: isinstance(value, str)),
}
_LONGEST = 60  # letters of a value
_HINTS: dict[type, Mapping[str, Any]] = {}


class FrozenMapping(Mapping[str, Any]):
    """Options or numbers by name that cannot be changed any more, so that a config that holds them can be compared and hashed; lists in it become tuples."""

    def __init__(self, items: Mapping[str, Any]) -> None:
        self._items = {name: tuple(value) if isinstance(value, list) else value for name, value in items.items()}

    def __getitem__(self, name: str) -> Any:
        return self._items[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)

    def __hash__(self) -> int:
        return hash(frozenset(self._items.items()))

    def __repr__(self) -> str:
        return repr(self._items)


def check_types(config: Any, head: str) -> None:
    """Refuse a dataclass with values of other types than its fields declare; lists that were given for tuples become tuples.

    Args:
        config: may be frozen.
        head: begins the message, e.g. ``the options make no sense:``.

    Raises:
        BadInput: every such value, with what it must be.
    """
    if mistakes := list(wrong_types(config)):
        raise Mistakes(head, mistakes)
    hints = hints_of(type(config))
    for option in dataclasses.fields(config):
        value = getattr(config, option.name)
        if isinstance(value, list) and _takes_tuple(hints[option.name]):
            object.__setattr__(config, option.name, tuple(value))


def _takes_tuple(hint: Any) -> bool:
    return any(get_origin(one) is tuple for one in (hint, *get_args(hint)))


def wrong_types(config: Any) -> Iterator[str]:
    """Yield a sentence for each field of a dataclass whose value is of another type than it declares.

    Lists may stand for tuples, and mappings of options for a dataclass, which whoever declares it completes. Types that are none of numbers, texts, truth
    values, functions, classes of Laconic and containers of these are taken as they are.
    """
    hints = hints_of(type(config))
    for option in dataclasses.fields(config):
        if (told := wrong_type(hints[option.name], getattr(config, option.name), completed=True)) is not None:
            yield f"{option.name}: {told}"


def hints_of(kind: type) -> Mapping[str, Any]:
    """Return the types of a class's fields by name; computed once for each class, since the texts that they stand as are compiled for it."""
    if kind not in _HINTS:
        _HINTS[kind] = types.MappingProxyType(get_type_hints(kind))
    return _HINTS[kind]


def typed(*leave: str) -> Callable[[Function], Function]:
    """Decorate a public function: arguments of other types than it declares are refused by their names.

    Args:
        leave: arguments that the function itself looks at.
    """

    def decorate(function: Function) -> Function:
        signature = inspect.signature(function)

        @functools.wraps(function)
        def run(*args: Any, **kwargs: Any) -> Any:
            given = signature.bind(*args, **kwargs).arguments
            if mistakes := list(wrong_arguments(function, {name: value for name, value in given.items() if name not in leave})):
                raise Mistakes(f"{function.__name__} cannot be called so:", mistakes)
            return function(*args, **kwargs)

        return cast(Function, run)

    return decorate


def wrong_arguments(function: Callable[..., Any], given: Mapping[str, Any]) -> Iterator[str]:
    """Yield a sentence for each argument, by name, whose value is of another type than the function declares; see `wrong_types`."""
    try:
        hints = get_type_hints(function)
    except NameError:  # types that are imported for checkers alone
        return
    for name, value in given.items():
        if name in hints and (told := wrong_type(hints[name], value)) is not None:
            yield f"{name}: {told}"


def wrong_type(hint: Any, value: Any, *, completed: bool = False) -> str | None:
    """Return what is wrong with a value of a type, None where nothing is.

    Args:
        hint: the type.
        value: that is to be of it.
        completed: a mapping of options may stand for a dataclass.

    >>> wrong_type(float, "0.5"), wrong_type(int | None, True), wrong_type(tuple[str, ...], ["a"]), wrong_type(Literal["max", "min"], "mox")
    ("'0.5' must be a number", 'True must be a whole number, or None', None, "'mox' must be 'max' or 'min'")
    """
    return None if _fits(hint, value, completed) else f"{_shown(value)} must be {_called(hint)}"


def _fits(hint: Any, value: Any, completed: bool = False) -> bool:
    origin, inner = get_origin(hint), get_args(hint)
    if hint in _PLAIN:
        return _PLAIN[hint][1](value)
    if origin in (Union, types.UnionType):
        return any(_fits(one, value, completed) for one in inner)
    if hint is types.NoneType:
        return value is None
    if origin is Literal:
        return any(type(value) is type(one) and value == one for one in inner)
    if origin is Sequence:
        return isinstance(value, Sequence) and not isinstance(value, (str, bytes)) and all(_fits(inner[0], item) for item in value)
    if origin is tuple:
        each = inner[0] if len(inner) == 2 and inner[1] is Ellipsis else Any
        return isinstance(value, (tuple, list)) and all(_fits(each, item) for item in value)
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return isinstance(value, Mapping) and all(_fits(inner[0], key) and _fits(inner[1], item) for key, item in value.items())
    if origin is Callable or hint is Callable:
        return callable(value)
    if _is_ours(hint):
        return isinstance(value, hint) or (completed and dataclasses.is_dataclass(hint) and isinstance(value, Mapping))
    return True


def _is_ours(hint: Any) -> bool:
    """Return whether a type is a path, or a class of Laconic's that is no protocol: of others, what behaves alike is taken too."""
    return isinstance(hint, type) and (
        hint is Path or (hint.__module__.startswith("laconic.") and not getattr(hint, "_is_protocol", False))
    )


def _called(hint: Any) -> str:
    origin, inner = get_origin(hint), get_args(hint)
    if hint in _PLAIN:
        return _PLAIN[hint][0]
    if origin in (Union, types.UnionType):
        some = list(dict.fromkeys(_called(one) for one in inner if one is not types.NoneType))
        return " or ".join(some) + (", or None" if types.NoneType in inner else "")
    if origin is Literal:
        return _either([repr(one) for one in inner])
    if origin is Sequence:
        return f"a list of which each is {_called(inner[0])}"
    if origin is tuple:
        return f"a tuple of which each is {_called(inner[0])}" if len(inner) == 2 and inner[1] is Ellipsis else "a tuple"
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return f"a mapping of {_called(inner[0])} to {_called(inner[1])}"
    if origin is Callable or hint is Callable:
        return "a function"
    if hint is Path:
        return "a path"
    return f"a laconic.{hint.__name__}" if isinstance(hint, type) and _is_ours(hint) else "anything else that it takes"


def _either(words: Sequence[str]) -> str:
    return " or ".join([", ".join(words[:-1]), words[-1]]) if len(words) > 1 else words[0]


def _shown(value: Any) -> str:
    text = (
        repr(value)
        if isinstance(value, (str, int, float, bool, list, tuple, dict, type(None)))
        else f"an object of the class {type(value).__name__}"
    )
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"
