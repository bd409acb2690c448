"""Parallel coordinates: each candidate a line over the choices that mattered, the objective and the loss of the metric."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from laconic.core import quantities
from laconic.core.quantities import Quantity
from laconic.report.candidates import Candidate
from laconic.report.levels import ABSENT, Parameter, parameters
from laconic.report.steps import mappings
from laconic.report.units import given
from laconic.report.words import Words

_CHOICES = 6  # axes of choices
_FEWEST = 3  # lines


@dataclass(frozen=True)
class Upright:
    """One axis: its title, and labels with the heights (0 to 1) at which they stand."""

    title: str
    ticks: tuple[tuple[float, str], ...]


@dataclass(frozen=True)
class Line:
    """One candidate: its role (``chosen``, ``passed``, ``rejected``), the height on each axis, and the value there in words."""

    title: str
    role: str
    heights: tuple[float, ...]
    texts: tuple[str, ...]


@dataclass(frozen=True)
class Parallel:
    """The plot's data; `alt` says in words what it shows."""

    axes: tuple[Upright, ...]
    lines: tuple[Line, ...]
    alt: str


def parallel(
    result: Mapping[str, Any], candidates: Sequence[Candidate], heaviest: Sequence[str], goal: Quantity, words: Words, chosen: str
) -> Parallel | None:
    """Return the lines of all candidates that were measured; None where there are too few, or they differ in nothing.

    Args:
        result: the content of the run's result.json.
        candidates: as read, in the same order, without the baselines.
        heaviest: names of choices, those that mattered most first.
        goal: what was to be best.
        words: of the task.
        chosen: the key of the best or the nearest miss.
    """
    records = mappings(list(result.get("candidates") or ()))
    known = [(one, record) for one, record in zip(candidates, records, strict=True) if _drawn(one, goal)]
    choices = parameters([record for _, record in known])
    if len(known) < _FEWEST or not choices:
        return None
    ones = [one for one, _ in known]
    rank = {name: place for place, name in enumerate(heaviest)}
    few = sorted(choices, key=lambda choice: rank.get(choice.name, len(rank)))[:_CHOICES]
    kept = [choice for choice in choices if choice in few]
    axes = [*map(_of_choice, kept), *(_of_quantity(row, words.heading(row), ones) for row in (goal, quantities.row("drop")))]
    lines = tuple(
        Line(one.title, "chosen" if one.key == chosen else one.status, *zip(*(axis[1][place] for axis in axes), strict=True))
        for place, one in enumerate(ones)
    )
    alt = f"{len(lines)} candidates as lines over {', '.join(axis.title for axis, _ in axes)}."
    return Parallel(tuple(axis for axis, _ in axes), lines, alt)


# An axis, and for each candidate its height there with the words.
Placed = tuple[Upright, list[tuple[float, str]]]


def _drawn(one: Candidate, goal: Quantity) -> bool:
    return one.status in ("passed", "rejected") and bool(one.amount(goal.name).raw) and one.amount("drop").raw is not None


def _of_choice(choice: Parameter) -> Placed:
    """Place numbers by their size above what has none; words at equal distances, in the order in which they came."""
    numbers = choice.numbers
    if numbers is None:
        levels = list(dict.fromkeys(choice.levels))
        heights = {level: (place + 0.5) / len(levels) for place, level in enumerate(levels)}
        return Upright(choice.name, tuple((at, level) for level, at in heights.items())), [(heights[lv], lv) for lv in choice.levels]
    known = [number for number in numbers if number is not None]
    low, high, floor = min(known), max(known), 0.2 if None in numbers else 0.0
    span = high - low

    def height(number: float | None) -> float:
        return 0.0 if number is None else floor + (1 - floor) * ((number - low) / span if span else 0.5)

    ticks = [*([(0.0, ABSENT)] if floor else []), *((height(end), given(end)) for end in dict.fromkeys((low, high)))]
    return Upright(choice.name, tuple(ticks)), [(height(n), ABSENT if n is None else given(n)) for n in numbers]


def _of_quantity(row: Quantity, heading: str, ones: Sequence[Candidate]) -> Placed:
    amounts = [one.amount(row.name) for one in ones]
    return _scaled(heading, [-row.cost(one.raw or 0.0) for one in amounts], [one.text for one in amounts])


def _scaled(title: str, worth: Sequence[float], texts: Sequence[str]) -> Placed:
    """Place values with the best on top; more than a factor of four apart, all of one sign, by how many times they differ."""
    same = all(value > 0 for value in worth) or all(value < 0 for value in worth)
    sizes = [abs(value) for value in worth]
    if same and max(sizes) > 4 * min(sizes):
        worth = [math.copysign(math.log(abs(value)) - math.log(min(sizes)) + 1, value) for value in worth]
    low, high = min(worth), max(worth)
    heights = [(value - low) / (high - low) if high > low else 0.5 for value in worth]
    ends = [heights.index(end) for end in dict.fromkeys((min(heights), max(heights)))]
    return Upright(title, tuple((heights[at], texts[at]) for at in ends)), list(zip(heights, texts, strict=True))
