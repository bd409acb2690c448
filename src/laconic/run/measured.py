"""The quantities that rows measure by themselves, asked of one candidate once it has been timed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from laconic.core import quantities
from laconic.core.quantities import Evidence, Quantity
from laconic.core.records import Measurement
from laconic.core.turn import Turn
from laconic.deploy.process import WorkerProcess
from laconic.run.record import Record

MIN_RUNS = 1


@dataclass(frozen=True)
class CandidateEvidence:
    """One candidate, or a baseline, while its process lives. Meets `core.quantities.Evidence`.

    Args:
        record: with what was measured so far.
        folder: of its artifact.
        batch: examples per call.
        rounds_ns: nanoseconds of each timed call, by round.
        worker: its process.
    """

    record: Record
    folder: Path
    batch: int
    rounds_ns: Sequence[Sequence[float]]
    worker: WorkerProcess

    @property
    def measured(self) -> Mapping[str, Measurement]:
        """See `Evidence`."""
        return self.record.measured

    @property
    def recipe(self) -> Mapping[str, Any]:
        """See `Evidence`."""
        return self.record.recipe

    def run(self, seconds: float) -> Turn:
        """See `Evidence`."""
        return self.worker.time(seconds, MIN_RUNS)


def measured_by_rows(evidence: Evidence) -> dict[str, Measurement]:
    """Return what the rows that measure by themselves make of the evidence, by name.

    A row that cannot measure returns None, or a measurement without a value that says why. One that fails is not measured either, and its error is the
    reason: whatever another package raises spoils its own figure and no more.
    """
    asked = [row for row in quantities.rows().values() if row.measure is not None]
    answers = {row.name: _measured(row, evidence) for row in asked}
    return {name: result for name, result in answers.items() if result is not None}


def _measured(row: Quantity, evidence: Evidence) -> Measurement | None:
    assert row.measure is not None
    try:
        result: Any = row.measure(evidence)
    except Exception as error:  # noqa: BLE001 (another package's code)
        return Measurement.missing(row.unit, f"{type(error).__name__}: {error}")
    if result is None or isinstance(result, Measurement):
        return result
    return Measurement.missing(row.unit, f"its row returned {result!r}, which is no Measurement")
