"""Joules of an inference: measured by a counter that is named, imported from the user's meter, or unknown, and then why. Nothing is estimated.

Windows of work and of rest take turns, so that a drift of what the idle machine takes cancels. What is told is above idle: the energy of a window, less the
idle power around it times its length, over its inferences.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from laconic.core.errors import BadInput
from laconic.core.fields import check_types
from laconic.core.records import Measurement
from laconic.core.turn import Turn
from laconic.measure import busy, counters
from laconic.measure.meter import Meter
from laconic.measure.stats import median_of_rounds

LEAST = {"window_s": 5.0, "windows": 10, "rest_s": 0.5}
# A coefficient of variation over windows above this is flagged.
STEADY = 0.03
UNIT = "mJ"
_WARM_UP_S = 1.0


@dataclass(frozen=True)
class Metering:
    """How energy is measured.

    Args:
        window_s: length of a window of work, at least 5 s: counters and meters tell little of shorter ones.
        windows: how many, at least 10.
        rest_s: length of the windows of rest before, between and behind them, in which nothing is asked of the model.
        meter: CSV file that the user's meter writes meanwhile; None: the machine's own counters are read.

    Raises:
        BadInput: a number is too small.
    """

    window_s: float = 5.0
    windows: int = 10
    rest_s: float = 2.0
    meter: str | None = None

    def __post_init__(self) -> None:
        check_types(self, "energy cannot be measured so:")
        for name, least in LEAST.items():
            if getattr(self, name) < least:
                raise BadInput(f"energy cannot be measured so: {name} is {getattr(self, name):g} and must be {least:g} or more")


class Source(Protocol):
    """What tells joules."""

    @property
    def word(self) -> str:
        """``measured`` or ``imported``."""

    @property
    def name(self) -> str:
        """What it is: the counters, or the meter's file."""

    def mark(self) -> Any:
        """Note where it stands now."""

    def joules(self, begin: Any, end: Any, seconds: float) -> float:
        """Return joules between two marks.

        Raises:
            BadInput: it cannot tell; says why.
        """


@dataclass(frozen=True)
class Counted:
    """Counters of this machine as a source."""

    each: Sequence[counters.Counter]
    word: str = "measured"

    @property
    def name(self) -> str:
        """See `Source`."""
        return " + ".join(counter.name for counter in self.each)

    def mark(self) -> counters.Reading:
        """See `Source`."""
        return counters.read_all(self.each)

    def joules(self, begin: counters.Reading, end: counters.Reading, seconds: float) -> float:
        """See `Source`."""
        return counters.grown(self.each, begin, end, seconds)


@dataclass(frozen=True)
class Metered:
    """The file of a meter as a source: marks are instants, and what was drawn between them is read when it has been written."""

    meter: Meter
    word: str = "imported"

    @property
    def name(self) -> str:
        """See `Source`."""
        return f"the meter {self.meter.path.name}"

    def mark(self) -> float:
        """See `Source`."""
        return time.time()

    def joules(self, begin: float, end: float, seconds: float) -> float:
        """See `Source`."""
        return self.meter.joules(begin, end)


def source(metering: Metering, device: str = "cpu") -> Source:
    """Return what tells the joules of a model on this device.

    Raises:
        BadInput: nothing does; says why.
    """
    if metering.meter is not None:
        meter = Meter(Path(metering.meter))
        meter.check_current()
        return Metered(meter)
    try:
        return Counted(counters.counters(device))
    except counters.NoCounter as error:
        raise BadInput(f"energy is unknown here: {error}. A meter of your own can be read instead: --meter FILE.csv") from error


def told_of(devices: Sequence[str]) -> dict[str, dict[str, str]]:
    """Return what counts joules of models on each device of this machine: `counters` by name, or `why` there are none; a second goes where one stands still."""
    found: dict[str, dict[str, str]] = {}
    for device in devices:
        try:
            found[device] = {"counters": Counted(counters.counters(device)).name, "why": ""}
        except counters.NoCounter as error:
            found[device] = {"counters": "", "why": str(error)}
    return found


@dataclass(frozen=True)
class Window:
    """One window of work.

    Attributes:
        joules: that were drawn in all.
        idle_j: that the idle machine would have drawn, by its power before and after.
        seconds: from mark to mark.
        inferences: examples that were answered.
    """

    joules: float
    idle_j: float
    seconds: float
    inferences: int

    @property
    def each_mj(self) -> float:
        """Millijoules of an inference, above idle."""
        return 1e3 * (self.joules - self.idle_j) / self.inferences


def joules(run: Callable[[float], Turn], metering: Metering, device: str, batch: int) -> Measurement:
    """Return millijoules of an inference; unknown, with the reason, where nothing here tells them. Takes a minute or more.

    Args:
        run: lets the model answer for at least so many seconds.
        metering: how it is measured.
        device: of the model.
        batch: examples of a run.
    """
    try:
        told_by = source(metering, device)
    except BadInput as error:
        return Measurement.missing(UNIT, f"unknown: {error}")
    return measure(run, told_by, metering, batch)


def measure(
    run: Callable[[float], Turn],
    told_by: Source,
    metering: Metering,
    batch: int,
    rest: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.perf_counter,
) -> Measurement:
    """Return millijoules of an inference, above idle, with the interval of the median over windows; unknown where it cannot be told, with the reason.

    Args:
        run: lets the model answer for at least so many seconds.
        told_by: what tells joules.
        metering: lengths and number of windows.
        batch: examples of a run.
        rest: lets so many seconds pass in which nothing is asked of the model.
        clock: seconds.
    """
    try:
        windows, turns = _windows(run, told_by, metering, batch, rest, clock)
        return summarize(windows, turns, told_by)
    except BadInput as error:
        return Measurement.missing(UNIT, f"unknown: {error}")


def _windows(
    run: Callable[[float], Turn],
    told_by: Source,
    metering: Metering,
    batch: int,
    rest: Callable[[float], None],
    clock: Callable[[], float],
) -> tuple[list[Window], list[Turn]]:
    """Let work and rest take turns; what was drawn is read in the end, when a meter has written it."""
    run(min(_WARM_UP_S, metering.window_s))
    marks, turns = [(told_by.mark(), clock())], list[Turn]()
    rest(metering.rest_s)
    marks.append((told_by.mark(), clock()))
    for _ in range(metering.windows):
        turns.append(run(metering.window_s))
        marks.append((told_by.mark(), clock()))
        rest(metering.rest_s)
        marks.append((told_by.mark(), clock()))
    drawn, seconds = list[float](), list[float]()
    for (begin, start), (end, stop) in pairwise(marks):
        seconds.append(stop - start)
        drawn.append(told_by.joules(begin, end, stop - start))
    idle_w = [joules / s for joules, s in zip(drawn[0::2], seconds[0::2], strict=True)]
    around = [(before + after) / 2 for before, after in pairwise(idle_w)]
    work = zip(drawn[1::2], around, seconds[1::2], turns, strict=True)
    return [Window(joules, watts * s, s, batch * len(turn.times_ns)) for joules, watts, s, turn in work], turns


def summarize(windows: Sequence[Window], turns: Sequence[Turn], told_by: Source) -> Measurement:
    """Return the median over windows; the note names the source and tells what was subtracted and how steady the windows were.

    Raises:
        BadInput: a window took no more than the idle machine.
    """
    each = [window.each_mj for window in windows]
    idle_w = float(np.median([window.idle_j / window.seconds for window in windows]))
    seconds = float(np.median([window.seconds for window in windows]))
    if min(each) <= 0:
        raise BadInput(
            f"in a window of {seconds:.3g} s the model took no more than the idle machine does, {idle_w:.3g} W, by {told_by.name}"
        )
    spread = float(np.std(each, ddof=1) / np.mean(each)) if len(each) > 1 else 0.0
    told = [
        f"{told_by.word} by {told_by.name}",
        f"{idle_w:.3g} W of the idle machine subtracted",
        f"{len(windows)} windows of {seconds:.3g} s, coefficient of variation {100 * spread:.2g} %",
    ]
    if spread > STEADY:
        told.append(f"unsteady: more than {100 * STEADY:g} %")
    if busy.disturbed(turns):
        told.append("machine busy: other work had the processor, and its energy is in it")
    found = median_of_rounds(each, UNIT)
    return Measurement(found.value, UNIT, found.n, found.low, found.high, told_by.name, "; ".join(told))
