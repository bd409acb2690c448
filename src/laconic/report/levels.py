"""In what candidates differ: parameters of their recipes, from runtime and precision to the options of steps, and the level of each that a candidate has."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from laconic.report.candidates import plain
from laconic.report.steps import mapping
from laconic.report.units import finite, given

ABSENT, DEFAULT = "not used", "default"  # of a recipe without the step; of a step without the option
_MOST = 4  # different numbers that are levels of their own; of more, thirds are
_ENTRIES = 8  # of a table in an option: a longer one is a value of its own
_LONGEST = 24  # letters of a level


@dataclass(frozen=True)
class Parameter:
    """Something in which recipes differ: its name, the value of each candidate, and the level that the value belongs to."""

    name: str
    values: tuple[Any, ...]
    levels: tuple[str, ...]

    @property
    def numbers(self) -> tuple[float | None, ...] | None:
        """The values, where all that are there are numbers; else None."""
        known = [None if value in (ABSENT, None) else finite(value) for value in self.values]
        words = any(number is None and value != ABSENT for number, value in zip(known, self.values, strict=True))
        return None if words else tuple(known)


def parameters(records: Sequence[Mapping[str, Any]]) -> list[Parameter]:
    """Return in what the recipes of candidates differ: where they run, then steps, with those of their options that vary.

    An option that follows from where a candidate runs (a target of rounding) is none.
    """
    where = _varying({name: [_where(record).get(name) for record in records] for name in ("runtime", "precision", "threads", "device")})
    each = [dict(_steps(record)) for record in records]
    made = dict(where)
    for step in dict.fromkeys(name for steps in each for name in steps):
        options = list(dict.fromkeys(name for steps in each for name in steps.get(step, ())))
        values = {f"{step} {name}": [steps[step].get(name, DEFAULT) if step in steps else ABSENT for steps in each] for name in options}
        own = {name: row for name, row in values.items() if _varies(row) and not any(_follows(row, place) for place in where.values())}
        made |= own or _varying({step: ["yes" if step in steps else ABSENT for steps in each]})
    return [Parameter(name.replace("_", " "), tuple(row), tuple(_levels(row))) for name, row in made.items()]


def _where(record: Mapping[str, Any]) -> dict[str, Any]:
    deploy = mapping(mapping(record.get("recipe")).get("deploy"))
    return {**deploy, "runtime": str(record.get("runtime") or deploy.get("runtime") or ""), "threads": deploy.get("threads") or "all"}


def _steps(record: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for step in mapping(record.get("recipe")).get("steps") or ():
        if isinstance(step, Mapping):
            for name, options in step.items():
                yield str(name), dict(_flat(mapping(options)))
        else:
            yield str(step), {}


def _flat(options: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield options by name, those of a plan inside by theirs alone; a long table or a list is one value."""
    for name, value in options.items():
        if isinstance(value, Mapping) and len(value) <= _ENTRIES:
            yield from _flat(value, str(name))
        else:
            yield str(name), value if isinstance(value, int | float | str) and not isinstance(value, bool) else plain(value)


def _varying(rows: Mapping[str, list[Any]]) -> dict[str, list[Any]]:
    return {name: row for name, row in rows.items() if len(set(map(str, row))) > 1}


def _varies(row: Sequence[Any]) -> bool:
    """Return whether candidates that have the step differ in the option."""
    return len({str(value) for value in row if value != ABSENT}) > 1


def _follows(row: Sequence[Any], place: Sequence[Any]) -> bool:
    """Return whether an option has one value in each place, wherever its step is taken."""
    pairs = {(str(at), str(value)) for value, at in zip(row, place, strict=True) if value != ABSENT}
    return len(pairs) == len({at for at, _ in pairs})


def _levels(row: Sequence[Any]) -> Iterator[str]:
    """Yield the level of each value: itself in short, or of many numbers which third it lies in."""
    numbers = sorted({number for value in row if (number := finite(value)) is not None})
    texts = list(dict.fromkeys(value for value in row if isinstance(value, str) and len(value) > _LONGEST))
    for value in row:
        number = finite(value)
        if number is None:
            yield str(value) if value not in texts else f"{value[: _LONGEST - 4]}… {texts.index(value) + 1}"
        elif len(numbers) <= _MOST:
            yield given(number)
        else:
            third = min(2, 3 * numbers.index(number) // len(numbers))
            own = [one for one in numbers if min(2, 3 * numbers.index(one) // len(numbers)) == third]
            yield f"{given(own[0])} to {given(own[-1])}"
