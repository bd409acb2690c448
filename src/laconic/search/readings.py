"""Each limit of a budget read twice: of the figure as it was measured, and of the bad end of its 95 % interval."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from laconic.run.record import Record

_HAIR = 1e-9  # of rounding, forgiven


@dataclass(frozen=True)
class Reading:
    """One limit, what was measured against it and whether it holds; the same of the end of the interval that is worse.

    `bad_end` is None where no interval is known; of what is exact, such as the size of a file, both are the same.
    """

    limit: str
    asked: float
    unit: str
    data: str
    measured: float
    held: bool
    bad_end: float | None
    bad_end_held: bool | None


def readings(
    record: Record, max_drop: float | None, min_speedup: float | None, max_latency_ms: float | None, max_size_mb: float | None
) -> list[Reading]:
    """The readings of a record for these limits (None: there is none); what was not measured has no reading."""
    return [*_drops(record, max_drop), *_speedup(record, min_speedup), *_latency(record, max_latency_ms), *_size(record, max_size_mb)]


def _drops(record: Record, limit: float | None) -> Iterator[Reading]:
    for data, drop in (("valid", record.drop), ("test", record.test_drop)):
        if limit is not None and drop is not None and drop.value is not None:
            yield _at_most("max_drop", limit, drop.unit, data, drop.value, drop.high)


def _speedup(record: Record, limit: float | None) -> Iterator[Reading]:
    ratio = record.speedup
    if limit is not None and ratio is not None and ratio.value is not None:
        held = None if ratio.low is None else ratio.low >= limit
        yield Reading("min_speedup", limit, "×", "", ratio.value, ratio.value >= limit, ratio.low, held)


def _latency(record: Record, limit: float | None) -> Iterator[Reading]:
    median = record.measured.get("latency_ms")
    if limit is not None and median is not None and median.value is not None:
        yield _at_most("max_latency_ms", limit, "ms", "", median.value, median.high)


def _size(record: Record, limit: float | None) -> Iterator[Reading]:
    size = record.value("size_bytes")
    if limit is not None and size is not None:
        yield _at_most("max_size_mb", limit, "MB", "", size / 1e6, size / 1e6)


def _at_most(name: str, limit: float, unit: str, data: str, measured: float, bad_end: float | None) -> Reading:
    held = None if bad_end is None else bad_end <= limit + _HAIR
    return Reading(name, limit, unit, data, measured, measured <= limit + _HAIR, bad_end, held)
