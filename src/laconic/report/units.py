"""Numbers for people: a value, a unit that suits its size, and words for what was not measured.

A scale is a table of (size, unit), small to large; a size is in the base unit: that of the quantity's row, or seconds, or plain counts.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from laconic.core.quantities import BYTES as BYTES
from laconic.core.quantities import PLACES, SIGNS, Quantity, pick
from laconic.core.quantities import Scale as Scale
from laconic.core.wording import decimals as decimals
from laconic.core.wording import fixed as fixed
from laconic.core.wording import given as given
from laconic.core.wording import joined as joined
from laconic.core.wording import number as number
from laconic.core.wording import spanned

TIME: Scale = ((1e-9, "ns"), (1e-6, "µs"), (1e-3, "ms"), (1.0, "s"))
PARAMS: Scale = ((1, "params"), (1e3, "k params"), (1e6, "M params"), (1e9, "G params"))
MACS: Scale = ((1, "MACs"), (1e3, "k MACs"), (1e6, "M MACs"), (1e9, "G MACs"), (1e12, "T MACs"))

NO_REASON = "no reason was recorded"


@dataclass(frozen=True)
class Amount:
    """One number ready to be read.

    `raw`, `low` and `high` are in the record's base unit (to sort and to draw by); `number` and `interval` are their texts in `unit`. `raw` None means that
    it was not measured, and `reason` says why.
    """

    raw: float | None
    unit: str = ""
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
    """Return the value as a float, or None where it is missing, not a number or not finite."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if math.isfinite(value) else None


def clock(seconds: float) -> str:
    """Return a duration as a clock would say it.

    >>> clock(38.4), clock(96.8), clock(7500)
    ('38.4\xa0s', '1\xa0min 37\xa0s', '2\xa0h 05\xa0min')
    """
    whole = round(seconds)
    if whole < 60:
        return scaled(seconds, TIME).text
    if whole < 3600:
        return f"{whole // 60}\u00a0min {whole % 60:02}\u00a0s"
    return f"{whole // 3600}\u00a0h {whole % 3600 // 60:02}\u00a0min"


def percent(share: float) -> str:
    """Write a share in percent, with a space that does not break: `40.5 %`."""
    return f"{fixed(100 * share, 1)}\u00a0%"


def missing(reason: str) -> Amount:
    """Return an amount that was not measured, with the reason."""
    return Amount(None, reason=reason or NO_REASON)


def shared(scale: Scale, values: Iterable[float | None]) -> tuple[float, str]:
    """Return the (size, unit) for a whole column: the largest in which its smallest value is still at least 0.1."""
    sizes = [abs(value) for value in values if value]
    return pick(scale, min(sizes) * 10) if sizes else scale[0]


def scaled(
    raw: float | None,
    scale: Scale,
    reason: str = "",
    unit: tuple[float, str] | None = None,
    ends: tuple[float | None, float | None] = (None, None),
    n: int = 0,
) -> Amount:
    """Return an amount of the scale, in the unit that suits it or in the one given (of a column); `ends` are those of its interval."""
    if raw is None:
        return missing(reason)
    size, name = unit or pick(scale, raw)
    low, high = ends
    if low is not None and high is not None:
        text, least, most = spanned(raw / size, low / size, high / size)
        return Amount(raw, name, text, low, high, f"{least} to {most}", reason, n)
    whole = size == 1 and float(raw).is_integer()
    return Amount(raw, name, fixed(raw, 0) if whole else number(raw / size), reason=reason, n=n)


def with_interval(
    value: float, low: float | None, high: float | None, unit: str, *, places: int | None = None, n: int = 0, note: str = ""
) -> Amount:
    """Return a value with its 95 % interval, all with the same decimals: those given, or as many as the interval's width makes meaningful."""
    if low is None or high is None:
        text = number(value) if places is None else fixed(value, places)
        return Amount(value, unit, text, reason=note, n=n)
    text, least, most = spanned(value, low, high, places)
    return Amount(value, unit, text, low, high, f"{least} to {most}", note, n)


def amount(row: Quantity, data: Mapping[str, Any] | None, why: str = "") -> Amount:
    """Return the amount of a quantity from the JSON of a `core.records.Measurement`; `why` stands in for a missing note.

    Values are in the row's unit, or in the measurement's where the row leaves that open.
    """
    data = data or {}
    value = finite(data.get("value"))
    if value is None:
        return missing(str(data.get("note") or why))
    low, high, n = finite(data.get("low")), finite(data.get("high")), int(finite(data.get("n")) or 0)
    note = str(data.get("note") or "")
    if row.show.scale:
        return scaled(value, row.show.scale, note, ends=(low, high), n=n)
    return in_unit(value, low, high, row.unit or str(data.get("unit") or ""), n=n, note=note)


def in_unit(value: float, low: float | None, high: float | None, unit: str, *, n: int = 0, note: str = "") -> Amount:
    """Return an amount in a unit, written with its sign (`×`) and with the decimals that are usual in it."""
    shown = SIGNS.get(unit, unit)
    return with_interval(value, low, high, shown, places=PLACES.get(shown), n=n, note=note)


def shared_unit(row: Quantity, amounts: Iterable[Amount]) -> tuple[float, str]:
    """Return the (size, unit) for all amounts of a quantity in one column or on one axis."""
    known = [one for one in amounts if one.raw is not None]
    return shared(row.show.scale, (one.raw for one in known)) if row.show.scale else (1.0, known[0].unit if known else "")


def rescaled(row: Quantity, one: Amount, unit: tuple[float, str]) -> Amount:
    """Return the same amount in the unit of its column."""
    return scaled(one.raw, row.show.scale, one.reason, unit, (one.low, one.high), one.n) if row.show.scale else one
