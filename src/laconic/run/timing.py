"""What a comparison of times makes of a record."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from laconic.core.errors import LaconicError
from laconic.measure import latency
from laconic.run.record import Record
from laconic.run.timed import TimedWorker as TimedWorker

# Which comparison a record's figures of time come from: with its baseline alone; with other finalists, for the ranking; anew after the choice.
ALONE, FINALISTS, PUBLISHED = "alone", "finalists", "published"


def timed(record: Record, timings: Mapping[str, Any], comparison: str) -> Record:
    """Return the record with the figures of a comparison; failed where it was not timed.

    Args:
        record: a baseline, or one that names its baseline.
        timings: what was kept of the comparison: `rounds`, `failed`, `killed`, `batch`, `machine`, `settled`.
        comparison: `ALONE`, `FINALISTS` or `PUBLISHED`.

    Raises:
        LaconicError: the baseline is not among those that were timed.
    """
    baseline = record.baseline or record.key
    check_timed(timings, baseline)
    if record.key not in timings["rounds"]:
        rule = "killed" if record.key in timings.get("killed", ()) else "crash"
        return record.failed(rule, timings["failed"].get(record.key, "it was not timed"))
    rounds = timings["rounds"][record.key]
    busy, speedup_cpu = latency.mark(timings.get("machine", {}), baseline, record.key)
    ratio = latency.ratio(timings["rounds"][baseline], rounds)
    before = record.speedup if comparison != ALONE and record.baseline is not None else None
    record = record.replace(comparison=comparison, settled=timings.get("settled", ""), busy=busy)
    return record.with_measured(
        first_speedup=before, speedup=ratio, speedup_cpu=speedup_cpu, **latency.measured(rounds, timings.get("batch", 1))
    )


def check_timed(timings: Mapping[str, Any], baseline: str) -> None:
    """Refuse a comparison in which the baseline has no times.

    Raises:
        LaconicError: says why it has none.
    """
    if baseline not in timings["rounds"]:
        raise LaconicError(f"the baseline itself could not be timed: {timings['failed'].get(baseline, 'it left no times')}")
