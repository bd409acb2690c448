"""The promise: how much may be lost, how much must be won, and what is to be best."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from laconic.core.errors import BadInput
from laconic.run.gate import Rule, better
from laconic.run.record import Reason, Record

Objective = Literal["latency", "size", "memory"]
OBJECTIVES = ("latency", "size", "memory")


@dataclass(frozen=True)
class Budget:
    """What an artifact must keep; every limit that is given must hold.

    Args:
        max_drop: points of the metric that may be lost on the valid data (for accuracy, 1 point = 1 percentage point).
        min_speedup: the baseline's latency divided by the artifact's; the lower end of its 95 % interval must reach it.
        max_latency_ms: median latency, in milliseconds, at the batch size of the run.
        max_size_mb: bytes of the file that ships, in units of 10⁶.
        objective: of those that hold all limits, the best in this is delivered.

    Raises:
        BadInput: every limit that makes no sense.
    """

    max_drop: float | None = 0.5
    min_speedup: float | None = None
    max_latency_ms: float | None = None
    max_size_mb: float | None = None
    objective: Objective = "latency"

    def __post_init__(self) -> None:
        mistakes = list(self._mistakes())
        if mistakes:
            raise BadInput("the budget makes no sense:\n" + "\n".join(f"  {m}" for m in mistakes))

    def _mistakes(self) -> Iterator[str]:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.name == "objective":
                if value not in OBJECTIVES:
                    yield f"objective: {value!r}; choose from {', '.join(OBJECTIVES)}"
            elif value is None:
                continue
            elif isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
                yield f"{field.name}: {value!r} is not a number"
            elif value < 0 or (value == 0 and field.name != "max_drop"):
                yield f"{field.name}: {value!r} must be {'0 or more' if field.name == 'max_drop' else 'more than 0'}"

    def rules(self, baseline: Record) -> list[Rule]:
        """The rules of this budget, with the one that no worse artifact ships."""
        return [self._drop, self._speedup, self._latency, self._size, better(self.objective, baseline)]

    def _drop(self, record: Record) -> Reason | None:
        return drop_reason(record.drop, self.max_drop, "valid")

    def _speedup(self, record: Record) -> Reason | None:
        ratio = record.speedup
        if self.min_speedup is None or (ratio is not None and ratio.low is not None and ratio.low >= self.min_speedup):
            return None
        found = "not measured" if ratio is None or ratio.value is None else f"{ratio.value:.2f}× (95 % interval from {ratio.low:.2f})"
        return Reason("budget:min_speedup", f"speed-up {found}; at least {self.min_speedup:g}× is asked for")

    def _latency(self, record: Record) -> Reason | None:
        return _over(
            "budget:max_latency_ms", "latency", None if record.latency is None else record.latency["p50_ms"], self.max_latency_ms, "ms"
        )

    def _size(self, record: Record) -> Reason | None:
        return _over(
            "budget:max_size_mb", "file size", None if record.size_bytes is None else record.size_bytes / 1e6, self.max_size_mb, "MB"
        )

    def shortfall(self, record: Record, baseline: Record) -> float:
        """How far a record is from the budget: the sum over unmet limits of the relative distance; 0 if all hold. For the nearest miss."""
        distance = 0.0
        if self.max_drop is not None and record.drop is not None and record.drop.value is not None:
            distance += max(0.0, record.drop.value - self.max_drop) / max(self.max_drop, 1.0)
        if self.min_speedup is not None:
            low = record.speedup.low if record.speedup is not None else None
            distance += max(0.0, math.log(self.min_speedup / low)) if low else 10.0
        if self.max_latency_ms is not None:
            distance += max(0.0, math.log(record.latency["p50_ms"] / self.max_latency_ms)) if record.latency else 10.0
        if self.max_size_mb is not None:
            distance += max(0.0, math.log(record.size_bytes / 1e6 / self.max_size_mb)) if record.size_bytes else 10.0
        return distance

    def order(self, record: Record) -> float:
        """A number that is smaller for a better record, by the objective."""
        if self.objective == "latency":
            return -record.speedup.value if record.speedup is not None and record.speedup.value is not None else math.inf
        value = record.reference_size_bytes if self.objective == "size" else record.peak_memory_bytes
        return math.inf if value is None else float(value)

    def __str__(self) -> str:
        words = {
            "max_drop": "lose at most {:g} points",
            "min_speedup": "at least {:g}× faster",
            "max_latency_ms": "at most {:g} ms",
            "max_size_mb": "at most {:g} MB",
        }
        limits = [text.format(getattr(self, name)) for name, text in words.items() if getattr(self, name) is not None]
        return f"{'; '.join(limits) or 'no limit'}; best {self.objective}"

    @classmethod
    def from_plain(cls, data: Any) -> Budget:
        """A budget from plain values, e.g. of a recipe file.

        Raises:
            BadInput: unknown entries or limits that make no sense.
        """
        from laconic.core.errors import nearest

        names = [f.name for f in dataclasses.fields(cls)]
        if not isinstance(data, dict):
            raise BadInput(f"budget: must be a mapping; it is {data!r}")
        for key in data:
            if key not in names:
                raise BadInput(f"budget.{key}: unknown limit." + nearest(str(key), names))
        return cls(**data)


def drop_reason(drop: Any, limit: float | None, data: str) -> Reason | None:
    """Why a drop breaks its limit, or None. A hair of rounding (1e-9) is forgiven."""
    if limit is None or (drop is not None and drop.value is not None and drop.value <= limit + 1e-9):
        return None
    found = "was not measured" if drop is None or drop.value is None else f"is {drop.value:.3g} points on the {data} data"
    return Reason("metric", f"the drop {found}; at most {limit:g} may be lost")


def _over(rule: str, what: str, found: float | None, limit: float | None, unit: str) -> Reason | None:
    if limit is None or (found is not None and found <= limit):
        return None
    return Reason(rule, f"{what} {'was not measured' if found is None else f'{found:.3g} {unit}'}; at most {limit:g} {unit} is asked for")
