"""What was measured and what was changed, as values that read and write JSON."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Measurement:
    """One figure with its unit, the number of samples behind it and its 95 % interval.

    `value` is None where nothing could be measured; `note` then says why. Of a paired difference of scores that are right or wrong, `worse` and `better` are
    the numbers of examples on which only the baseline and only the candidate is right.
    """

    value: float | None
    unit: str
    n: int = 1
    low: float | None = None
    high: float | None = None
    device: str = ""
    note: str = ""
    worse: int | None = None
    better: int | None = None
    others: float | None = None

    @classmethod
    def missing(cls, unit: str, why: str) -> Measurement:
        """Return a figure that could not be measured here, with the reason.

        >>> str(Measurement.missing("J", "no counter"))
        'not measured: no counter'
        """
        return cls(None, unit, n=0, note=why)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Measurement:
        """Read back what `to_json` wrote; unknown keys are ignored, so that older readers read newer files."""
        names = {f.name for f in dataclasses.fields(cls)}
        return cls(**{key: value for key, value in data.items() if key in names})

    def __str__(self) -> str:
        if self.value is None:
            return f"not measured: {self.note}"
        interval = "" if self.low is None or self.high is None else f" [{self.low + 0.0:.4g}, {self.high + 0.0:.4g}]"
        return f"{self.value + 0.0:.4g}{interval} {self.unit}".rstrip()


@dataclass(frozen=True)
class Skipped:
    """Something that a step left as it was, and why."""

    name: str
    reason: str


@dataclass(frozen=True)
class Outcome:
    """What a step did: what changed, what was skipped and why.

    The last three are filled in from the step's config (`core.step.StepConfig`) where the step itself leaves them out.

    Attributes:
        step: its name in recipes.
        changed: what changed, by name.
        skipped: what it left as it was.
        notes: sentences for the reader.
        title: the step in a few words.
        section: of the report; empty: the step has none of its own.
        bits: of the integers that it rounds to; None: it rounds to none.
    """

    step: str
    changed: Mapping[str, Any] = field(default_factory=dict)
    skipped: tuple[Skipped, ...] = ()
    notes: tuple[str, ...] = ()
    title: str = ""
    section: str = ""
    bits: int | None = None

    @property
    def rounds(self) -> bool:
        """Whether values lie on the grids of integers after it: outputs are then compared by signal to noise."""
        return self.bits is not None

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Outcome:
        """Read back what `to_json` wrote; what an older file lacks is left out."""
        skipped = tuple(Skipped(**item) for item in data["skipped"])
        more = {name: data[name] for name in ("title", "section", "bits") if name in data}
        return cls(data["step"], data["changed"], skipped, tuple(data["notes"]), **more)


def to_json(value: Any) -> Any:
    """Turn records, paths, tuples and numpy scalars into what `json.dumps` takes; NaN and infinities become None.

    >>> to_json(Outcome("fold", {"n": 2}))
    {'step': 'fold', 'changed': {'n': 2}, 'skipped': [], 'notes': [], 'title': '', 'section': '', 'bits': None}
    """
    if value is None or type(value) in (str, int, bool):  # most of what a run writes
        return value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: to_json(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): to_json(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [to_json(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    if type(value).__module__ == "numpy":
        return to_json(value.item() if value.ndim == 0 else value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
