"""A limit held against what was measured: as it was measured, and at the bad end of its 95 % interval."""

from __future__ import annotations

import math
from dataclasses import dataclass

from laconic.core.quantities import Limit, Quantity
from laconic.core.records import Measurement
from laconic.core.wording import given, joined, short
from laconic.run.record import Reason

UNMEASURED = 10.0  # how far from a limit is what was not measured: farther than a factor of 20 000
_HAIR = 1e-9  # of rounding, forgiven


@dataclass(frozen=True)
class Reading:
    """One limit, what was measured against it and whether it holds; the same of the end of the interval that is worse.

    `bad_end` is None where no interval is known; of what is exact, such as the size of a file, both are the same. All are in the limit's `unit`.
    """

    limit: str
    asked: float
    unit: str
    data: str
    measured: float
    held: bool
    bad_end: float | None
    bad_end_held: bool | None


def read(row: Quantity, measurement: Measurement, asked: float) -> Reading:
    """Return what a limit says of a measurement that has a value; `asked` is in the limit's unit."""
    limit, end = _limit(row), row.bad_end(measurement)
    assert measurement.value is not None
    held = None if end is None else _holds(row, end, asked)
    bad_end = None if end is None else end / limit.per
    unit = limit.unit or measurement.unit
    return Reading(limit.name, asked, unit, row.data, measurement.value / limit.per, _holds(row, measurement.value, asked), bad_end, held)


def broken(row: Quantity, measurement: Measurement | None, asked: float, confident: bool) -> Reason | None:
    """Return why a measurement breaks a limit, or None; what was not measured breaks every limit.

    Args:
        row: of the quantity, with its limit.
        measurement: the quantity of the record.
        asked: the limit, in its unit.
        confident: whether the bad end of the interval must hold too.
    """
    limit = _limit(row)
    where = f" on the {row.data} data" if row.data else ""
    most = f"at {'most' if row.direction == 'min' else 'least'} {_with(given(asked), limit.unit)} {limit.verb or 'is asked for'}"
    if measurement is None or measurement.value is None:
        why = f": {measurement.note}" if measurement is not None and measurement.note else ""
        return Reason(limit.broken, f"the {row.noun} was not measured{where}{why}; {most}")
    end = row.bad_end(measurement)
    sure = not (confident or limit.surely) or (end is not None and _holds(row, end, asked))
    if _holds(row, measurement.value, asked) and sure:
        return None
    certain = f"{most}{' for certain' if limit.verb else ''}"
    said = f"{_told(row, measurement, asked)}{where}"
    if end is not None and limit.surely:
        return Reason(
            limit.broken, f"{said} (95 % interval {'to' if row.direction == 'min' else 'from'} {_digits(row, end, asked)}); {most}"
        )
    if not _holds(row, measurement.value, asked):
        return Reason(limit.broken, f"{said}; {most}")
    if end is None:
        return Reason(limit.broken, f"{said}, but its interval is not known; {certain}")
    far = f"{'up to' if row.direction == 'min' else 'only'} {_with(_digits(row, end, asked), limit.unit or measurement.unit)}"
    return Reason(limit.broken, f"{said}, but a true {row.noun} of {far} cannot be excluded; {certain}")


def _told(row: Quantity, measurement: Measurement, asked: float) -> str:
    """Write what was measured, in the limit's unit; of a difference the other way round, by its own word: `the gain is 0.2 points`."""
    assert measurement.value is not None
    limit, opposite = _limit(row), bool(row.opposite) and measurement.value < 0
    value = _digits(row, abs(measurement.value) if opposite else measurement.value, asked)
    return f"the {row.opposite if opposite else row.noun} is {_with(value, limit.unit or measurement.unit)}"


def distance(row: Quantity, measurement: Measurement, asked: float, confident: bool) -> float:
    """Return how far a measurement is from a limit, relative to it; 0 where it holds."""
    limit = _limit(row)
    sure = row.bad_end(measurement) if confident or limit.surely else measurement.value
    value = measurement.value if sure is None else sure
    if value is None:
        return UNMEASURED
    value /= limit.per
    if row.reference == 0:  # a difference, which may have either sign
        return max(0.0, row.cost(value) - row.cost(asked)) / max(asked, 1.0)
    return max(0.0, row.cost(math.log(value / asked))) if value > 0 else UNMEASURED if row.direction == "max" else 0.0


def _limit(row: Quantity) -> Limit:
    assert row.limit is not None
    return row.limit


def _holds(row: Quantity, value: float, asked: float) -> bool:
    return row.cost(value / _limit(row).per) <= row.cost(asked) + _HAIR


def _digits(row: Quantity, value: float, asked: float) -> str:
    """Return a value in the limit's unit, in three digits or in as many as tell it from the limit."""
    value /= _limit(row).per
    return short(value) if short(value) != given(asked) or value == asked else f"{value:.7g}".replace("-", "−")


def _with(number: str, unit: str) -> str:
    """Join as `wording.joined`, for a terminal's lines: with a plain space."""
    return joined(number, unit).replace("\u00a0", " ")
