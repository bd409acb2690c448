"""The quantities among which the reader of a page chooses the axes of the frontier: of each, what every candidate has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from laconic.core.quantities import Quantity
from laconic.report.candidates import Candidate
from laconic.report.units import Amount, shared_unit
from laconic.report.words import Words

_FEWEST = 3  # quantities between which there is a choice


@dataclass(frozen=True)
class Choice:
    """A quantity: its name, what the choice and the axis say, whether less is better, and by key a candidate's value with the ends of its interval."""

    name: str
    label: str
    title: str
    less: bool
    values: Mapping[str, tuple[float, float, float]]


@dataclass(frozen=True)
class Choices:
    """All quantities, and the names of those that the plot has at first."""

    x: str
    y: str
    quantities: tuple[Choice, ...]


def choices(candidates: Sequence[Candidate], words: Words, measured: Mapping[str, Quantity], x: str, y: str) -> Choices | None:
    """Return the quantities in which at least two candidates differ; None where they are fewer than three.

    Args:
        candidates: all, the baselines first.
        words: of the task.
        measured: its quantities by name.
        x: what is across at first.
        y: what is upright at first.
    """
    found = [_choice(row, candidates, words) for row in measured.values() if row.show.places or row.name in (x, y)]
    kept = tuple(one for one in found if len({value for value, _, _ in one.values.values()}) > 1)
    names = [one.name for one in kept]
    return Choices(x, y, kept) if len(kept) >= _FEWEST and x in names and y in names else None


def _choice(row: Quantity, candidates: Sequence[Candidate], words: Words) -> Choice:
    known = {one.key: amount for one in candidates if (amount := _amount(row, one)).raw is not None}
    size, unit = shared_unit(row, [amount for amount in known.values() if amount.unit] or known.values())
    values = {key: _scaled(amount, size) for key, amount in known.items()}
    label, less = words.full(row), row.direction == "min"
    return Choice(row.name, label, f"{label}{f', {unit}' if unit else ''} ({'lower' if less else 'higher'} is better)", less, values)


def _amount(row: Quantity, one: Candidate) -> Amount:
    """Return what a candidate has; of a comparison, a baseline has what it has with itself."""
    amount = one.amount(row.name)
    return Amount(row.reference) if amount.raw is None and one.status == "baseline" and row.reference is not None else amount


def _scaled(amount: Amount, size: float) -> tuple[float, float, float]:
    """Return a value with the ends of its interval, itself where there is none."""
    assert amount.raw is not None
    low, high = (amount.raw if end is None else end for end in (amount.low, amount.high))
    return amount.raw / size, low / size, high / size
