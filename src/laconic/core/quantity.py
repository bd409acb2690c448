"""What a quantity is: how it is told, which end is better, what a budget may ask of it. `core.quantities` has the table."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from laconic.core.records import Measurement
from laconic.core.turn import Turn
from laconic.core.wording import fixed, given, joined, number, spanned

Scale = tuple[tuple[float, str], ...]
Direction = Literal["min", "max"]
Place = Literal["figures", "candidates", "final", "terminal", "points"]

MILLISECONDS: Scale = ((1e-6, "ns"), (1e-3, "µs"), (1.0, "ms"), (1e3, "s"))
BYTES: Scale = ((1, "B"), (1e3, "kB"), (1e6, "MB"), (1e9, "GB"))  # decimal, as budgets count
MILLIJOULES: Scale = ((1e-3, "µJ"), (1.0, "mJ"), (1e3, "J"))
COUNTS: Scale = ((1, ""), (1e3, "k"), (1e6, "M"), (1e9, "G"))
# Decimals of what is told in these units, whatever the width of its interval; and how a unit is written.
PLACES = {"%": 2, "points": 2, "×": 2}
SIGNS = {"x": "×", "1/s": "per s"}
_DIGITS = 3


class Evidence(Protocol):
    """What a row's `measure` is given once a candidate, or a baseline, has been timed."""

    @property
    def measured(self) -> Mapping[str, Measurement]:
        """What was measured of it so far, by name."""

    @property
    def recipe(self) -> Mapping[str, Any]:
        """Its recipe in plain values: ``steps`` and ``deploy``."""

    @property
    def folder(self) -> Path:
        """The folder of its artifact."""

    @property
    def batch(self) -> int:
        """Examples per call."""

    @property
    def rounds_ns(self) -> Sequence[Sequence[float]]:
        """Nanoseconds of each timed call, by round."""

    def run(self, seconds: float) -> Turn:
        """Let it answer in its own process, call after call, for at least that long; e.g. between two readings of a counter.

        Raises:
            WorkerFailed: its process has ended.
        """


Measure = Callable[[Evidence], "Measurement | None"]


@dataclass(frozen=True)
class Limit:
    """What a budget may ask of a quantity: at most so much where less is better, else at least.

    Args:
        name: of the keyword, and in files: ``max_size_mb``.
        unit: in which it is given; empty: that of the measurement.
        per: how many of the quantity's unit one of the limit's is.
        surely: whether the bad end of the interval must hold it in any case, not only in a budget that is `confident`.
        unlimited: whether it may be 0, and may be infinite (``any``), which sets none.
        rule: what the gate calls it; ``budget:NAME`` if empty.
        words: the budget in words, e.g. ``at least {limit}× faster``; ``{unit}`` is that of the drop. Derived from the name if empty.
        verb: what is said of the limit: ``may be lost``; ``is asked for`` if empty.
        option: on the command line; without one it is given as ``--limit NAME=NUMBER``.
        help: of the option.
    """

    name: str
    unit: str = ""
    per: float = 1.0
    surely: bool = False
    unlimited: bool = False
    rule: str = ""
    words: str = ""
    verb: str = ""
    option: str = ""
    help: str = ""

    @property
    def broken(self) -> str:
        """The rule that the gate names where the limit is broken."""
        return self.rule or f"budget:{self.name}"

    def told(self, asked: float, unit: str = "") -> str:
        """Write this limit of a budget in words; `unit` stands where it has none of its own.

        >>> Limit("max_drop", words="lose at most {limit} {unit}").told(0.5, "points"), Limit("max_energy_mj", "mJ").told(5)
        ('lose at most 0.5 points', 'max energy mj 5')
        """
        words = self.words or f"{self.name.replace('_', ' ')} {{limit}}"
        return words.replace("{limit}", given(asked)).replace("{unit}", unit).rstrip()


@dataclass(frozen=True)
class Objective:
    """What a budget may ask to be best: its name, and how two are told that cannot be told apart in it."""

    name: str
    tied: str = "equal in it"


@dataclass(frozen=True)
class Show:
    """How a quantity is told.

    Args:
        heading: of a column; the label if empty.
        hint: of the column.
        scale: the units that it is told in, small to large, each with its size in the quantity's own unit; empty: as it is.
        places: where it stands: among the big ``figures``, in the table of ``candidates``, in the ``final`` table, in the ``terminal``'s, at the ``points`` of
            the frontier. What a budget names stands in all of them.
    """

    heading: str = ""
    hint: str = ""
    scale: Scale = ()
    places: tuple[Place, ...] = ("candidates", "points")


@dataclass(frozen=True)
class Quantity:
    """One row.

    Args:
        name: under which a record keeps it, with its unit at the end: ``size_bytes``.
        label: in a report; ``{metric}`` and ``{loss}`` stand for the task's words.
        unit: of its values; empty where the measurement's own counts.
        direction: ``min`` where less is better.
        noun: inside a sentence; the label if empty.
        opposite: what a value below 0 is called, of a difference: ``gain``.
        better: what is said of one that is better than the baseline: ``smaller``.
        worse: likewise.
        optional: whether it is shown only where it was measured, for it concerns few tasks.
        exact: whether it has no interval because none is needed, as the size of a file.
        reference: what the baseline has compared with itself, of a quantity that is a comparison: 1 of a ratio, 0 of a difference. None of others.
        compares: the quantity that it compares, of a comparison.
        stands_in: the quantity that stands for it in comparisons, where a record has that.
        on_test: the same on test data, which is told instead where it was measured.
        data: the examples that it is scored on, ``valid`` or ``test``; empty where scores have no part in it. What is scored on test data chooses nothing.
        timed: whether the comparison of times decides it.
        show: how it is told.
        limit: what a budget may ask of it.
        objective: under what name it may be asked to be best.
        measure: measures it of a candidate and of a baseline; without one, a part of this package does.
    """

    name: str
    label: str
    unit: str
    direction: Direction = "min"
    noun: str = ""
    opposite: str = ""
    better: str = ""
    worse: str = ""
    exact: bool = False
    optional: bool = False
    reference: float | None = None
    compares: str = ""
    stands_in: str = ""
    on_test: str = ""
    data: str = ""
    timed: bool = False
    show: Show = field(default_factory=Show)
    limit: Limit | None = None
    objective: Objective | None = None
    measure: Measure | None = None

    def __post_init__(self) -> None:
        words = ("less", "more") if self.direction == "min" else ("more", "less")
        object.__setattr__(self, "better", self.better or words[0])
        object.__setattr__(self, "worse", self.worse or words[1])
        object.__setattr__(self, "noun", self.noun or _inside(self.label))

    def cost(self, value: float) -> float:
        """Return a number that is smaller for a better value."""
        return value if self.direction == "min" else -value

    def bad_end(self, measurement: Measurement) -> float | None:
        """Return the end of the interval that is worse; of what is exact, its value; None where it was not measured or its interval is not known."""
        return self._end(measurement, measurement.high if self.direction == "min" else measurement.low)

    def good_end(self, measurement: Measurement) -> float | None:
        """Return the end of the interval that is better; likewise."""
        return self._end(measurement, measurement.low if self.direction == "min" else measurement.high)

    def _end(self, measurement: Measurement, end: float | None) -> float | None:
        return measurement.value if self.exact else None if measurement.value is None else end

    def told(self, value: float, unit: str = "") -> str:
        """Return a value with its unit, in the one of the scale that suits it.

        >>> Quantity("size_bytes", "File size", "B", show=Show(scale=BYTES)).told(1_250_000), Quantity("speedup", "Speed-up", "x").told(2.0)
        ('1.25\xa0MB', '2.00×')
        """
        if self.show.scale:
            size, name = pick(self.show.scale, value)
            return joined(fixed(value, 0) if size == 1 and float(value).is_integer() else number(value / size), name)
        shown = SIGNS.get(unit or self.unit, unit or self.unit)
        return joined(fixed(value, PLACES[shown]) if shown in PLACES else number(value), shown)

    def described(self, measurement: Measurement) -> str:
        """Return a measurement with its unit and its 95 % interval; `not measured` and why, where it was not."""
        if measurement.value is None:
            return f"not measured: {measurement.note}" if measurement.note else "not measured"
        if measurement.low is None or measurement.high is None:
            return self.told(measurement.value, measurement.unit)
        size, unit = pick(self.show.scale, measurement.value) if self.show.scale else (1.0, SIGNS.get(measurement.unit, measurement.unit))
        value, low, high = spanned(measurement.value / size, measurement.low / size, measurement.high / size, PLACES.get(unit))
        return f"{joined(value, unit)} (95 % interval {low} to {high})"


def _inside(label: str) -> str:
    return label if label.isupper() else label[:1].lower() + label[1:]


def pick(scale: Scale, value: float) -> tuple[float, str]:
    """Return the (size, unit) in which the value reads best: the largest that leaves at least 1, after rounding."""
    chosen = scale[0]
    for size, unit in scale:
        if float(f"{abs(value) / size:.{_DIGITS - 1}e}") >= 1:
            chosen = (size, unit)
    return chosen
