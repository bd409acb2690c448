"""What is known of one candidate: filled stage by stage, written to the run's folder, read by the report."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from laconic.core import quantities
from laconic.core.quantities import Quantity
from laconic.core.records import Measurement, Outcome
from laconic.deploy import runtime
from laconic.run.recipe import Recipe, parse

# Rules by which a candidate is not tried.
TIME_LIMIT, OUTRACED = "time_limit", "outraced"
BEGINNING = "beginning"  # the rule by which the beginning of a chosen recipe is measured and not offered


@dataclass(frozen=True)
class Reason:
    """A rule that a candidate did not meet, and the figures."""

    rule: str
    text: str


@dataclass(frozen=True)
class Record:
    """One candidate with its evidence.

    `status` is ``baseline``, ``passed``, ``rejected`` (measured, and not good enough), ``failed`` (crashed, hung, ran out of memory, was not
    finite), ``unavailable`` (this machine cannot run it) or ``not_tried`` (the time limit came before its turn, or it cannot become the
    fastest any more).

    `runtime` is the title of the runtime. `measured` holds what was measured, by the names of `core.quantities`; what is not there was not measured.

    `comparison` says which one the figures of time come from: ``alone`` (with the baseline), ``finalists`` (with those that might be delivered, for the
    ranking) or ``published`` (alone once more, after the choice); ``first_speedup`` is what the comparison before said. `settled` says after how many rounds
    it was ended early, and why. `busy` says what else the machine did meanwhile, where that spoils the figures; ``speedup_cpu`` is then the ratio of
    processor times.

    `pace` is how fast the machine was, told by the time of another candidate that runs like it and was timed in the same comparison: that one's key (`by`), how
    many times faster than it this one was (`speedup`), and what it took then (`latency_ms`).

    `packed` is what the archive of its artifact holds, by tensor, where it was packed: see `storage.pack.Packed`.

    `predicted` is what was predicted of its time and loss before it was tried, and what they then were, where its sizes were solved for: see `search.tables`.

    `baseline` is the key of the record that it is compared with: the one with its threads and its device. `probes` are a baseline's own score and those of
    answers that know nothing, see `run.blind`. `repeats` are a baseline's whose model does not answer twice alike, see `run.repeats`.
    """

    key: str
    title: str
    recipe: Mapping[str, Any]
    status: str = "passed"
    reasons: tuple[Reason, ...] = ()
    baseline: str | None = None
    measured: Mapping[str, Measurement] = field(default_factory=dict)
    comparison: str = ""
    settled: str = ""
    busy: str = ""
    pace: Mapping[str, Any] | None = None
    parity: Mapping[str, Any] | None = None
    probes: Mapping[str, float] | None = None
    repeats: Mapping[str, float] | None = None
    frontier: bool = False
    artifact: str | None = None
    packed: Mapping[str, Any] | None = None
    predicted: Mapping[str, Any] | None = None
    outcomes: tuple[Outcome, ...] = ()
    notes: tuple[str, ...] = ()
    seconds: float = 0.0
    runtime: str = ""

    @classmethod
    def of(cls, recipe: Recipe, **known: Any) -> Record:
        """Return a record of a recipe about which only `known` is known."""
        return cls(recipe.key, recipe.title, recipe.to_plain(), runtime=recipe.runtime_title, **known)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Record:
        """Read back what was written."""
        values = {f.name: data[f.name] for f in dataclasses.fields(cls) if f.name in data}
        values["measured"] = {name: Measurement.from_json(item) for name, item in values.get("measured", {}).items()}
        values["reasons"] = tuple(Reason(**item) for item in values.get("reasons", ()))
        values["outcomes"] = tuple(Outcome.from_json(item) for item in values.get("outcomes", ()))
        values["notes"] = tuple(values.get("notes", ()))
        return cls(**values)

    @functools.cached_property
    def made_by(self) -> Recipe:
        """The recipe, read back from its plain values; once, for every record is asked for it before each candidate."""
        return parse({name: self.recipe[name] for name in ("steps", "deploy")}).recipe

    @property
    def speedup(self) -> Measurement | None:
        """How many times faster than its baseline."""
        return self.measured.get("speedup")

    @property
    def drop(self) -> Measurement | None:
        """What it loses of the metric on the valid data."""
        return self.measured.get("drop")

    @property
    def test_drop(self) -> Measurement | None:
        """What it loses of the metric on the test data."""
        return self.measured.get("test_drop")

    def value(self, name: str) -> float | None:
        """Return the value of a quantity; None where it was not measured."""
        known = self.measured.get(name)
        return None if known is None else known.value

    def compared(self, row: Quantity) -> Measurement | None:
        """What counts in a comparison: the quantity that stands in for this one where it was measured, as a baseline's ONNX file for the file that runs."""
        return self.measured.get(row.stands_in) or self.measured.get(row.name)

    def with_measured(self, **values: Measurement | float | None) -> Record:
        """Return the same record with further quantities, by name; a bare number is exact and in the quantity's unit, None (not measured) is left out.

        Raises:
            BadInput: no quantity has that name, or a number is not finite.
        """
        known = {name: quantities.as_measurement(name, value) for name, value in values.items() if value is not None}
        return self.replace(measured={**self.measured, **known})

    def replace(self, **changes: Any) -> Record:
        """Return the same record with other values."""
        return dataclasses.replace(self, **changes)

    def rejected(self, *reasons: Reason) -> Record:
        """Return the same record, rejected for these reasons; unchanged without any."""
        return self.replace(status="rejected", reasons=(*self.reasons, *reasons)) if reasons else self

    def not_tried(self, text: str, rule: str = TIME_LIMIT) -> Record:
        """Return the same record, whose turn never came."""
        return self.replace(status="not_tried", reasons=(*self.reasons, Reason(rule, text)))

    @property
    def waits(self) -> bool:
        """Whether its turn may still come, with more time."""
        return self.status == "not_tried" and self.reasons[-1].rule == TIME_LIMIT

    def failed(self, rule: str, text: str) -> Record:
        """Return the same record, failed."""
        return self.replace(status="failed", reasons=(*self.reasons, Reason(rule, text)))


def opponent(record: Record, records: Sequence[Record]) -> Record:
    """Return what a record is compared with: the baseline that it names; the first of the records where it names none."""
    return next((other for other in records if other.key == record.baseline), records[0])


def baseline_of(recipe: Recipe, records: Sequence[Record]) -> Record:
    """Return the baseline with the recipe's threads and device; the first where there is none such. Baselines name no baseline themselves."""
    baselines = [record for record in records if record.baseline is None]
    place = (recipe.deploy.threads, runtime.baseline_device(recipe.deploy.device))
    return next((r for r in baselines if (r.recipe["deploy"]["threads"], r.recipe["deploy"]["device"]) == place), baselines[0])
