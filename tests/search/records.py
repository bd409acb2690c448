"""Records by hand, and held against a budget."""

from __future__ import annotations

from typing import Any

from laconic.core.records import Measurement
from laconic.run.gate import gate
from laconic.run.record import Record
from laconic.search.budget import Budget


def record(key: str, speed: float = 2.0, drop: float = 0.0, size: int = 1_000_000, status: str = "passed", **more: Any) -> Record:
    return Record(
        key,
        key.title(),
        {},
        status=status,
        size_bytes=size,
        latency={"p50_ms": 10 / speed},
        speedup=Measurement(speed, "x", low=speed * 0.9, high=speed * 1.1),
        drop=Measurement(drop, "points", n=100, low=drop - 1, high=drop + 1),
        peak_memory_bytes=size * 2,
        **more,
    )


BASE = record("base", speed=1.0, status="baseline")


def judged(budget: Budget, *records: Record) -> list[Record]:
    return [BASE, *(gate(r, budget.rules(BASE)) for r in records)]
