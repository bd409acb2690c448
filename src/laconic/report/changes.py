"""What steps changed, as they told it: the section of steps for which no other one is made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from laconic.report.candidates import Candidate, Left, plain
from laconic.report.steps import ABSENT, counted, mapping, mappings, names_of, stayed, steps_row, title_of, whose, why_shown

_SHOWN = 12  # entries of a list: what is longer is cut, with how many there are


@dataclass(frozen=True)
class Listing:
    """A list of things with the same entries: a heading, the entries' names, and a row of texts for each thing."""

    heading: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Changes:
    """What the steps of one candidate told. `settings` are label and text, `left` is what stayed, one entry for each reason."""

    title: str
    lead: str
    settings: tuple[tuple[str, str], ...]
    listings: tuple[Listing, ...]
    left: tuple[Left, ...]
    notes: tuple[str, ...]


def changes(
    result: Mapping[str, Any], candidates: Sequence[Candidate], chosen: Candidate | None, metric: str, unit: str, section: str
) -> Changes | None:
    """Return what steps of this section changed in the chosen candidate, or in the fastest that has any; None where none has.

    Args:
        result: the content of the run's result.json.
        candidates: its candidates as read, in the same order.
        chosen: the best or nearest miss.
        metric: its name as a heading; not shown here.
        unit: the metric's unit; not shown here.
        section: of the steps.
    """
    shown = whose(result, candidates, chosen, section)
    if shown is None:
        return None
    one, steps = shown
    told = [(f"{title_of(step)}: " if len(steps) > 1 else "", mapping(step.get("changed"))) for step in steps]
    return Changes(
        title=one.title,
        lead=f"{one.title}: {', '.join(title_of(step) for step in steps)}.{why_shown(one, chosen)}",
        settings=(
            steps_row(names_of(steps)),
            *((of + _label(name), _text(value)) for of, changed in told for name, value in changed.items() if not mappings(value)),
        ),
        listings=tuple(
            _listing(of + _label(name), mappings(value)) for of, changed in told for name, value in changed.items() if mappings(value)
        ),
        left=stayed(steps),
        notes=tuple(str(note) for step in steps for note in step.get("notes") or ()),
    )


def _label(name: object) -> str:
    text = str(name).replace("_", " ")
    return text[:1].upper() + text[1:]


def _text(value: Any) -> str:
    """Return a value in words, a long list cut.

    >>> _text(3), _text(["a", "b"]), _text(list(range(20)))
    ('3', 'a, b', '20 entries: 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, …')
    """
    if isinstance(value, list) and len(value) > _SHOWN:
        return f"{len(value)} entries: {plain(value[:_SHOWN])}, …"
    return plain(value)


def _listing(heading: str, items: Sequence[Mapping[str, Any]]) -> Listing:
    names = list(dict.fromkeys(name for item in items for name in item))
    rows = tuple(tuple(plain(item[name]) if name in item else ABSENT for name in names) for item in items)
    return Listing(f"{heading}: {counted(len(items), 'row')}", tuple(_label(name) for name in names), rows)
