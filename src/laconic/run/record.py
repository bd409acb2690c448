"""What is known of one candidate: filled stage by stage, written to the run's folder, read by the report."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from laconic.core.records import Measurement, Outcome
from laconic.run.recipe import Recipe

_MEASUREMENTS = ("speedup", "first_speedup", "speedup_cpu", "throughput_per_s", "metric", "drop", "test_metric", "test_drop")


@dataclass(frozen=True)
class Reason:
    """A rule that a candidate did not meet, and the figures."""

    rule: str
    text: str


@dataclass(frozen=True)
class Record:
    """One candidate with its evidence.

    `status` is ``baseline``, ``passed``, ``rejected`` (measured, and not good enough), ``failed`` (crashed, hung, ran out of memory, was not
    finite), ``unavailable`` (this machine cannot run it) or ``not_tried`` (the time limit came before its turn).

    `timing` says which comparison the figures of time come from: ``first`` (of all candidates) or ``finalists`` (anew, after the choice); `first_speedup`
    is then what the first one said. `busy` says what else the machine did meanwhile, where that spoils the figures; `speedup_cpu` is then the ratio of
    processor times.

    `baseline` is the key of the record that it is compared with: the one with its threads and its device. `size_bytes` are those of the file that runs;
    `onnx_size_bytes`, of a baseline, those of its ONNX file in fp32, against which sizes are compared. `probes` are a baseline's own score and those of
    answers that know nothing, see `run.blind`.
    """

    key: str
    title: str
    recipe: Mapping[str, Any]
    status: str = "passed"
    reasons: tuple[Reason, ...] = ()
    baseline: str | None = None
    size_bytes: int | None = None
    onnx_size_bytes: int | None = None
    latency: Mapping[str, Any] | None = None
    speedup: Measurement | None = None
    first_speedup: Measurement | None = None
    throughput_per_s: Measurement | None = None
    timing: str = ""
    busy: str = ""
    speedup_cpu: Measurement | None = None
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

    @property
    def reference_size_bytes(self) -> int | None:
        """The size that counts in a comparison: that of the ONNX file where it is known apart from what runs."""
        return self.size_bytes if self.onnx_size_bytes is None else self.onnx_size_bytes

    def replace(self, **changes: Any) -> Record:
        """The same record with other values."""
        return dataclasses.replace(self, **changes)

    def rejected(self, *reasons: Reason) -> Record:
        """The same record, rejected for these reasons; unchanged without any."""
        return self.replace(status="rejected", reasons=(*self.reasons, *reasons)) if reasons else self

    def not_tried(self, text: str) -> Record:
        """The same record, whose turn never came."""
        return self.replace(status="not_tried", reasons=(*self.reasons, Reason("time_limit", text)))

    def failed(self, rule: str, text: str) -> Record:
        """The same record, failed."""
        return self.replace(status="failed", reasons=(*self.reasons, Reason(rule, text)))


def opponent(record: Record, records: Sequence[Record]) -> Record:
    """Return what a record is compared with: the baseline that it names; the first of the records where it names none."""
    return next((other for other in records if other.key == record.baseline), records[0])
