"""What a comparison of times makes of a record."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

from laconic.core.errors import LaconicError
from laconic.core.records import Measurement
from laconic.measure import latency
from laconic.measure.cost import Price
from laconic.run.consumed import priced
from laconic.run.record import Record
from laconic.run.timed import TimedWorker as TimedWorker

# Which comparison a record's figures of time come from: with its baseline alone; with other finalists, for the ranking; anew after the choice.
ALONE, FINALISTS, PUBLISHED = "alone", "finalists", "published"


def timed(record: Record, timings: Mapping[str, Any], comparison: str, price: Price | None = None) -> Record:
    """Return the record with the figures of a comparison; failed where it was not timed.

    Args:
        record: a baseline, or one that names its baseline.
        timings: what was kept of the comparison: `rounds`, `failed`, `killed`, `batch`, `machine`, `settled`, `cpu_ns`, and `measured`: what was measured
            beside, in plain values, by key and quantity; and `pacer`, the key of whoever was timed beside them for the machine's pace.
        comparison: `ALONE`, `FINALISTS` or `PUBLISHED`.
        price: of the machine, where there is one.

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
    spent = latency.processor(timings.get("cpu_ns", {}).get(record.key, ()), timings.get("batch", 1))
    before = record.speedup if comparison != ALONE and record.baseline is not None else None
    record = record.replace(comparison=comparison, settled=timings.get("settled", ""), busy=busy)
    record = record.with_measured(
        first_speedup=before, speedup=ratio, speedup_cpu=speedup_cpu, cpu_ms=spent, **latency.measured(rounds, timings.get("batch", 1))
    )
    beside = timings.get("measured", {}).get(record.key, {})
    record = record.with_measured(**{name: Measurement.from_json(item) for name, item in beside.items()})
    return priced(_paced(record, timings), price)


def _paced(record: Record, timings: Mapping[str, Any]) -> Record:
    rounds, by = timings["rounds"], timings.get("pacer")
    if by not in rounds or by == record.key:
        return record
    speedup, latency_ms = latency.ratio(rounds[by], rounds[record.key]), latency.measured(rounds[by], timings.get("batch", 1))["latency_ms"]
    return record.replace(pace={"by": by, "speedup": speedup.value, "latency_ms": latency_ms.value})


def check_timed(timings: Mapping[str, Any], baseline: str) -> None:
    """Refuse a comparison in which the baseline has no times.

    Raises:
        LaconicError: says why it has none.
    """
    if baseline not in timings["rounds"]:
        raise LaconicError(f"the baseline itself could not be timed: {timings['failed'].get(baseline, 'it left no times')}")


def digest(keys: Sequence[str]) -> str:
    """Return the one key that is given, or what tells several from others."""
    return keys[0] if len(keys) == 1 else hashlib.sha256(" ".join(keys).encode()).hexdigest()[:16]
