"""Numbers for people: a value, a unit that suits its size, and words for what was not measured.

Base units are those of the records: seconds, bytes, plain counts, points of the metric. A scale is a table of (size, unit), small to large.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from laconic.core.wording import decimals as decimals
from laconic.core.wording import fixed as fixed
from laconic.core.wording import given as given
from laconic.core.wording import joined as joined
from laconic.core.wording import number as number
from laconic.core.wording import spanned

Scale = tuple[tuple[float, str], ...]

TIME: Scale = ((1e-9, "ns"), (1e-6, "µs"), (1e-3, "ms"), (1.0, "s"))
BYTES: Scale = ((1, "B"), (1e3, "kB"), (1e6, "MB"), (1e9, "GB"))  # decimal, as budgets count
PARAMS: Scale = ((1, "params"), (1e3, "k params"), (1e6, "M params"), (1e9, "G params"))
MACS: Scale = ((1, "MACs"), (1e3, "k MACs"), (1e6, "M MACs"), (1e9, "G MACs"), (1e12, "T MACs"))

NO_REASON = "no reason was recorded"
_DIGITS = 3


@dataclass(frozen=True)
class Quantity:
    """One number ready to be read.

    `raw` is in the record's base unit (to sort and to draw by); `value`, `low` and `high` are in `unit`, `number` and `interval` are their texts.
    `raw` None means that it was not measured, and `reason` says why.
    """

    raw: float | None
    unit: str = ""
    value: float | None = None
    number: str = ""
    low: float | None = None
    high: float | None = None
    interval: str = ""
    reason: str = ""
    n: int = 0

    @property
    def text(self) -> str:
        """`1.24 ms`, or `Not measured: no counter`."""
        if self.raw is None:
            return f"Not measured: {self.reason}"
        return joined(self.number, self.unit)

    @property
    def full(self) -> str:
        """The text with its 95 % interval, where there is one."""
        return f"{self.text} ({self.interval})" if self.interval else self.text


def finite(value: object) -> float | None:
    """The value as a float, or None where it is missing, not a number or not finite."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if math.isfinite(value) else None


def clock(seconds: float) -> str:
    """A duration as a clock would say it.

    >>> clock(38.4), clock(96.8), clock(7500)
    ('38.4\xa0s', '1\xa0min 37\xa0s', '2\xa0h 05\xa0min')
    """
    whole = round(seconds)
    if whole < 60:
        return scaled(seconds, TIME).text
    if whole < 3600:
        return f"{whole // 60}\u00a0min {whole % 60:02}\u00a0s"
    return f"{whole // 3600}\u00a0h {whole % 3600 // 60:02}\u00a0min"


def missing(reason: str) -> Quantity:
    """A quantity that was not measured, with the reason."""
    return Quantity(None, reason=reason or NO_REASON)


def pick(scale: Scale, value: float) -> tuple[float, str]:
    """The (size, unit) in which the value reads best: the largest that leaves at least 1, after rounding."""
    chosen = scale[0]
    for size, unit in scale:
        if float(f"{abs(value) / size:.{_DIGITS - 1}e}") >= 1:
            chosen = (size, unit)
    return chosen


def shared(scale: Scale, values: Iterable[float | None]) -> tuple[float, str]:
    """The (size, unit) for a whole column: the largest in which its smallest value is still at least 0.1."""
    sizes = [abs(value) for value in values if value]
    return pick(scale, min(sizes) * 10) if sizes else scale[0]


def scaled(raw: float | None, scale: Scale, reason: str = "", unit: tuple[float, str] | None = None) -> Quantity:
    """A quantity of the scale, in the unit that suits it or in the one given (of a column)."""
    if raw is None:
        return missing(reason)
    size, name = unit or pick(scale, raw)
    whole = size == 1 and float(raw).is_integer()
    return Quantity(raw, name, raw / size, fixed(raw, 0) if whole else number(raw / size))


def with_interval(
    value: float, low: float | None, high: float | None, unit: str, *, places: int | None = None, n: int = 0, note: str = ""
) -> Quantity:
    """A value with its 95 % interval, all with the same decimals: those given, or as many as the interval's width makes meaningful."""
    if low is None or high is None:
        text = number(value) if places is None else fixed(value, places)
        return Quantity(value, unit, value, text, reason=note, n=n)
    text, least, most = spanned(value, low, high, places)
    return Quantity(value, unit, value, text, low, high, f"{least} to {most}", note, n)
