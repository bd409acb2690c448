"""Records by hand, and held against a budget."""

from __future__ import annotations

from typing import Any

from laconic.core.quantities import rows
from laconic.core.records import Measurement
from laconic.run.gate import gate
from laconic.run.record import Record
from laconic.search.budget import Budget


def record(key: str, speed: float = 2.0, drop: float = 0.0, size: int = 1_000_000, status: str = "passed", **more: Any) -> Record:
    """A record; `more` are fields of it, or quantities."""
    fields = {name: more.pop(name) for name in list(more) if name not in rows()}
    one = Record(key, key.title(), {}, **{"status": status, "comparison": "" if status == "baseline" else "alone", **fields})
    usual = {
        "size_bytes": size,
        "packed_size_bytes": size,
        "latency_ms": Measurement(10 / speed, "ms", n=450),
        "speedup": Measurement(speed, "x", low=speed * 0.9, high=speed * 1.1),
        "drop": Measurement(drop, "points", n=100, low=drop - 1, high=drop + 1),
        "peak_memory_bytes": size * 2,
    }
    return one.with_measured(**usual | more)


BASE = record("base", speed=1.0, status="baseline")


def judged(budget: Budget, *records: Record) -> list[Record]:
    return [BASE, *(gate(r, budget.rules(BASE)) for r in records)]


def of_many(key: str, speed: float = 2.0, drop: float = 0.0, size: int = 1_000_000, **more: Any) -> Record:
    """A record whose drop is of so many examples that it would be the same again."""
    return record(key, speed, drop, size, **more).with_measured(
        drop=Measurement(drop, "points", n=40_000, low=drop - 0.05, high=drop + 0.05)
    )
