"""What is known of one candidate: filled stage by stage, written to the run's folder, read by the report."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from laconic.core.records import Measurement, Outcome
from laconic.run.recipe import Recipe

_MEASUREMENTS = ("speedup", "throughput_per_s", "metric", "drop", "test_metric", "test_drop")


@dataclass(frozen=True)
class Reason:
    """A rule that a candidate did not meet, and the figures."""

    rule: str
    text: str


@dataclass(frozen=True)
class Record:
    """One candidate with its evidence.

    `status` is ``baseline``, ``passed``, ``rejected`` (measured, and not good enough), ``failed`` (crashed, hung, ran out of time or memory, was not
    finite) or ``unavailable`` (this machine cannot run it). `probes` are the baseline's own score and those of answers that know nothing, see `run.blind`.
    """

    key: str
    title: str
    recipe: Mapping[str, Any]
    status: str = "passed"
    reasons: tuple[Reason, ...] = ()
    size_bytes: int | None = None
    latency: Mapping[str, Any] | None = None
    speedup: Measurement | None = None
    throughput_per_s: Measurement | None = None
    cold_start_ms: float | None = None
    peak_memory_bytes: int | None = None
    metric: Measurement | None = None
    drop: Measurement | None = None
    test_metric: Measurement | None = None
    test_drop: Measurement | None = None
    parity: Mapping[str, Any] | None = None
    probes: Mapping[str, float] | None = None
    frontier: bool = False
    artifact: str | None = None
    outcomes: tuple[Outcome, ...] = ()
    notes: tuple[str, ...] = ()
    seconds: float = 0.0

    @classmethod
    def of(cls, recipe: Recipe, **known: Any) -> Record:
        """A record of a recipe about which only `known` is known."""
        return cls(recipe.key, recipe.title, recipe.to_plain(), **known)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Record:
        """Read back what was written."""
        values = {f.name: data[f.name] for f in dataclasses.fields(cls) if f.name in data}
        for name in _MEASUREMENTS:
            values[name] = None if values.get(name) is None else Measurement.from_json(values[name])
        values["reasons"] = tuple(Reason(**item) for item in values.get("reasons", ()))
        values["outcomes"] = tuple(Outcome.from_json(item) for item in values.get("outcomes", ()))
        values["notes"] = tuple(values.get("notes", ()))
        return cls(**values)

    def but(self, **changes: Any) -> Record:
        """The same record with other values."""
        return dataclasses.replace(self, **changes)

    def rejected(self, *reasons: Reason) -> Record:
        """The same record, rejected for these reasons; unchanged without any."""
        return self.but(status="rejected", reasons=(*self.reasons, *reasons)) if reasons else self

    def failed(self, rule: str, text: str) -> Record:
        """The same record, failed."""
        return self.but(status="failed", reasons=(*self.reasons, Reason(rule, text)))
