"""The promise: how much may be lost, how much must be won, and what is to be best."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from laconic.core import quantities
from laconic.core.errors import BadInput
from laconic.core.wording import given, short
from laconic.run.gate import Rule, better
from laconic.run.record import Reason, Record
from laconic.search.readings import Reading, readings

Objective = Literal["latency", "size", "memory"]
OBJECTIVES = ("latency", "size", "memory")
ANY = "any"  # how an unlimited drop is written where a file has no infinity
DEFAULT_DROP = 0.5
_HAIR = 1e-9  # of rounding, forgiven
_LIMITS = ("max_drop", "min_speedup", "max_latency_ms", "max_size_mb")


@dataclass(frozen=True)
class Budget:
    """What an artifact must keep; every limit that is given must hold.

    Args:
        max_drop: how much of the metric may be lost, on the valid data and on the test data: in points (for accuracy, 1 point = 1 percentage point), or
            in the metric's own unit where it is no percentage. Left out (None), it is 0.5 points, and is asked for where the metric is no percentage.
            ``"any"`` (or infinity) sets no limit.
        min_speedup: the baseline's latency divided by the artifact's; the lower end of its 95 % interval must reach it.
        max_latency_ms: median latency, in milliseconds, at the batch size of the run.
        max_size_mb: bytes of the file that ships, in units of 10⁶.
        objective: of those that hold all limits, the best in this is delivered.
        confident: the bad end of each figure's 95 % interval must hold its limit, not only the figure as it was measured.

    Raises:
        BadInput: every limit that makes no sense.
    """

    max_drop: float | Literal["any"] | None = None
    min_speedup: float | None = None
    max_latency_ms: float | None = None
    max_size_mb: float | None = None
    objective: Objective = "latency"
    confident: bool = False

    def __post_init__(self) -> None:
        if self.max_drop == ANY:
            object.__setattr__(self, "max_drop", math.inf)
        mistakes = list(self._mistakes())
        if mistakes:
            raise BadInput("the budget makes no sense:\n" + "\n".join(f"  {m}" for m in mistakes))

    def _mistakes(self) -> Iterator[str]:
        for name in _LIMITS:
            value, dropping = getattr(self, name), name == "max_drop"
            if value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, (int, float)) or math.isnan(value) or (math.isinf(value) and not dropping):
                yield f"{name}: {value!r} is not a number" + (f", nor '{ANY}', which sets no limit" if dropping else "")
            elif value < 0 or (value == 0 and not dropping):
                yield f"{name}: {value!r} must be {'0 or more' if dropping else 'more than 0'}"
        if self.objective not in OBJECTIVES:
            yield f"objective: {self.objective!r}; choose from {', '.join(OBJECTIVES)}"
        if not isinstance(vars(self)["confident"], bool):
            yield f"confident: {self.confident!r} must be true or false"

    @property
    def drop_limit(self) -> float | None:
        """The limit of the drop as a number; None where there is none."""
        return None if self.max_drop is None or math.isinf(float(self.max_drop)) else float(self.max_drop)

    def filled(self, metric: str, percentage: bool) -> Budget:
        """This budget with the default where `max_drop` was left out.

        Args:
            metric: its name.
            percentage: whether the metric is a percentage, so that points mean the same everywhere.

        Raises:
            BadInput: it was left out, and the metric has no scale on which a default could mean anything.
        """
        if self.max_drop is not None:
            return self
        if not percentage:
            raise BadInput(
                f"the metric '{metric}' has no fixed scale, so there is no default for what may be lost of it. Give max_drop in the metric's own unit, "
                f"or '{ANY}' for no limit."
            )
        return dataclasses.replace(self, max_drop=DEFAULT_DROP)

    def rules(self, baseline: Record) -> list[Rule]:
        """The rules of this budget, with the one that no worse artifact ships."""
        return [self._drop, self._speedup, self._latency, self._size, better(self.objective, baseline)]

    def _drop(self, record: Record) -> Reason | None:
        return self.drop_reason(record, "valid")

    def drop_reason(self, record: Record, data: str) -> Reason | None:
        """Why the drop on these data (``valid`` or ``test``) breaks its limit, or None."""
        limit, drop = self.drop_limit, record.drop if data == "valid" else record.test_drop
        if limit is None:
            return None
        if drop is None or drop.value is None:
            return Reason("metric", f"the drop was not measured on the {data} data; at most {given(limit)} may be lost")
        unit = f" {drop.unit}" if drop.unit else ""
        if drop.value > limit + _HAIR:
            return Reason("metric", f"the drop is {short(drop.value)}{unit} on the {data} data; at most {given(limit)} may be lost")
        if not self.confident or (drop.high is not None and drop.high <= limit + _HAIR):
            return None
        found = f"the drop is {short(drop.value)}" if drop.value >= 0 else f"the gain is {short(-drop.value)}"
        end = "its interval is not known" if drop.high is None else f"a true drop of up to {short(drop.high)}{unit} cannot be excluded"
        return Reason("metric", f"{found}{unit} on the {data} data, but {end}; at most {given(limit)} may be lost for certain")

    def _speedup(self, record: Record) -> Reason | None:
        ratio = record.speedup
        if self.min_speedup is None or (ratio is not None and ratio.low is not None and ratio.low >= self.min_speedup):
            return None
        found = "not measured" if ratio is None or ratio.value is None else f"{ratio.value:.2f}× (95 % interval from {ratio.low:.2f})"
        return Reason("budget:min_speedup", f"speed-up {found}; at least {self.min_speedup:g}× is asked for")

    def _latency(self, record: Record) -> Reason | None:
        found = next((r for r in self.readings(record) if r.limit == "max_latency_ms"), None)
        value = None if found is None else found.bad_end if self.confident else found.measured
        return _over("budget:max_latency_ms", "latency", value, self.max_latency_ms, "ms", "with its interval " if self.confident else "")

    def _size(self, record: Record) -> Reason | None:
        size = record.value("size_bytes")
        value = None if size is None else size / 1e6
        return _over("budget:max_size_mb", "file size", value, self.max_size_mb, "MB")

    def readings(self, record: Record) -> list[Reading]:
        """Each limit of this budget read twice of a record: as measured, and at the bad end of the interval; see `search.readings`."""
        faster = 1.0 if self.objective == "latency" and self.min_speedup is None else None
        return readings(record, self.drop_limit, self.min_speedup or faster, self.max_latency_ms, self.max_size_mb)

    def shortfall(self, record: Record) -> float:
        """How far a record is from the budget: the sum over unmet limits of the relative distance; 0 if all hold. For the nearest miss."""
        limit, drop = self.drop_limit, record.drop
        distance = 0.0
        if limit is not None and drop is not None and drop.value is not None:
            lost = drop.high if self.confident and drop.high is not None else drop.value
            distance += max(0.0, lost - limit) / max(limit, 1.0)
        if self.min_speedup is not None:
            low = record.speedup.low if record.speedup is not None else None
            distance += max(0.0, math.log(self.min_speedup / low)) if low else 10.0
        if self.max_latency_ms is not None:
            latency = record.value("latency_ms")
            distance += max(0.0, math.log(latency / self.max_latency_ms)) if latency else 10.0
        if self.max_size_mb is not None:
            size = record.value("size_bytes")
            distance += max(0.0, math.log(size / 1e6 / self.max_size_mb)) if size else 10.0
        return distance

    def order(self, record: Record) -> float:
        """A number that is smaller for a better record, by the objective."""
        if self.objective == "latency":
            return -record.speedup.value if record.speedup is not None and record.speedup.value is not None else math.inf
        found = record.compared(quantities.objectives()[self.objective])
        return math.inf if found is None or found.value is None else found.value

    def told(self, unit: str = "points") -> str:
        """The budget in words; `unit` is that of the drop."""
        words = {
            "max_drop": f"lose at most {{:g}} {unit}".rstrip(),
            "min_speedup": "at least {:g}× faster",
            "max_latency_ms": "at most {:g} ms",
            "max_size_mb": "at most {:g} MB",
        }
        given_limits = {name: getattr(self, name) for name in _LIMITS} | {"max_drop": self.drop_limit}
        limits = [text.format(given_limits[name]) for name, text in words.items() if given_limits[name] is not None]
        sure = ", at the bad end of each interval too" if self.confident and limits else ""
        return f"{'; '.join(limits) or 'no limit'}{sure}; best {self.objective}"

    def __str__(self) -> str:
        return self.told()

    def to_plain(self) -> dict[str, Any]:
        """Plain values that `from_plain` reads back; an unlimited drop is written as ``any``."""
        plain = dataclasses.asdict(self)
        return plain | {"max_drop": ANY} if self.max_drop == math.inf else plain

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


def _over(rule: str, what: str, found: float | None, limit: float | None, unit: str, how: str = "") -> Reason | None:
    if limit is None or (found is not None and found <= limit):
        return None
    return Reason(
        rule, f"{what} {how}{'was not measured' if found is None else f'{found:.3g} {unit}'}; at most {limit:g} {unit} is asked for"
    )
