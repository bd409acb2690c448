"""The promise: how much may be lost, how much must be won, and what is to be best. Every limit and every objective comes from a row of `core.quantities`."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

from laconic.core import quantities
from laconic.core.errors import BadInput, Mistakes, nearest
from laconic.core.quantities import Quantity
from laconic.core.reading import reads
from laconic.run.gate import BETTER, Condition, better
from laconic.run.record import Reason, Record
from laconic.search.readings import UNMEASURED, Reading, broken, distance, read

ANY = "any"  # how an unlimited drop is written where a file has no infinity
DEFAULT_DROP = 0.5
_NONSENSE = "the budget makes no sense:"


@dataclass(frozen=True)
class Budget:
    """What an artifact must keep; every limit that is given must hold.

    Args:
        max_drop: how much of the metric may be lost, on the valid data and on the test data: in points (for accuracy, 1 point = 1 percentage point), or
            in the metric's own unit where it is no percentage. Left out (None), it is 0.5 points, and is asked for where the metric is no percentage.
            ``"any"`` (or infinity) sets no limit.
        min_speedup: the baseline's latency divided by the artifact's; the lower end of its 95 % interval must reach it.
        max_latency_ms: median latency, in milliseconds, at the batch size of the run.
        max_size_mb: bytes of the file that runs, in units of 10⁶; those of the archive that ships have a limit of their own.
        objective: of those that hold all limits, the best in this is delivered: ``latency``, ``p95``, ``throughput``, ``size`` (of the `.lac` archive),
            ``memory``, ``macs``, or one of another package.
        confident: the bad end of each figure's 95 % interval must hold its limit, not only the figure as it was measured.
        limits: all others, by name: ``max_latency_p95_ms``, ``min_throughput_per_s``, ``max_packed_mb``, ``max_memory_mb``, ``max_mmacs``, and those of
            quantities from other packages; see `core.quantities`.

    Raises:
        BadInput: every limit that makes no sense.
    """

    max_drop: float | Literal["any"] | None = None
    min_speedup: float | None = None
    max_latency_ms: float | None = None
    max_size_mb: float | None = None
    objective: str = "latency"
    confident: bool = False
    limits: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        mistakes = list(self._settle_limits())
        mistakes += self._mistakes()
        if mistakes:
            raise Mistakes(_NONSENSE, mistakes)

    def _settle_limits(self) -> Iterator[str]:
        """Move what has a keyword of its own from `limits` there, and write ``any`` as infinity; says what cannot be."""
        known, own = quantities.limits(), _keywords()
        left: dict[str, Any] = {}
        for name, value in dict(self.limits).items():
            if name not in known:
                yield f"limits: '{name}' is no limit.{nearest(name, known)}"
            elif name not in own:
                left[name] = value
            elif getattr(self, name) not in (None, value):
                yield f"limits: {name} is given twice, as {getattr(self, name)!r} and {value!r}"
            else:
                object.__setattr__(self, name, value)
        object.__setattr__(self, "limits", {name: _number(known[name], value) for name, value in left.items()})
        for name in own:
            object.__setattr__(self, name, _number(known[name], getattr(self, name)))

    def _mistakes(self) -> Iterator[str]:
        known = quantities.limits()
        for name, value in self.given.items():
            unlimited = known[name].unlimited
            if isinstance(value, bool) or not isinstance(value, (int, float)) or math.isnan(value) or (math.isinf(value) and not unlimited):
                yield f"{name}: {value!r} is not a number" + (f", nor '{ANY}', which sets no limit" if unlimited else "")
            elif value < 0 or (value == 0 and not unlimited):
                yield f"{name}: {value!r} must be {'0 or more' if unlimited else 'more than 0'}"
        if self.objective not in quantities.objectives():
            yield f"objective: {self.objective!r}; choose from {', '.join(quantities.objectives())}"
        if not isinstance(vars(self)["confident"], bool):
            yield f"confident: {self.confident!r} must be true or false"

    @property
    def given(self) -> dict[str, float]:
        """Every limit that was given, by name: those with a keyword first. An infinite one is among them."""
        values = {**{name: getattr(self, name) for name in _keywords()}, **self.limits}
        return {name: value for name, value in values.items() if value is not None}

    @property
    def asked(self) -> dict[str, float]:
        """The limits that can be broken, by name."""
        return {name: float(value) for name, value in self.given.items() if not math.isinf(value)}

    @property
    def drop_limit(self) -> float | None:
        """The limit of the drop as a number; None where there is none."""
        return self.asked.get("max_drop")

    def at(self, name: str, limit: float) -> Budget:
        """Return this budget with another number at one limit; infinite: without it."""
        value: Any = None if math.isinf(limit) and not quantities.limits()[name].unlimited else limit
        if name in _keywords():
            return dataclasses.replace(self, **{name: value})
        return dataclasses.replace(self, limits={k: v for k, v in {**self.limits, name: value}.items() if v is not None})

    @property
    def goal(self) -> Quantity:
        """The quantity that is to be best."""
        return quantities.objectives()[self.objective]

    def quantities(self) -> list[Quantity]:
        """Return what this budget limits or aims at, each once."""
        return list({row.name: row for row in (*(row for row, _ in self.limited()), self.goal)}.values())

    def names(self, quantity: str) -> bool:
        """Return whether this budget limits a quantity, or aims at it."""
        return any(row.name == quantity for row in self.quantities())

    def filled(self, metric: str, percentage: bool) -> Budget:
        """Return this budget with the default where `max_drop` was left out.

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

    def limited(self) -> Iterator[tuple[Quantity, float]]:
        """Return the quantities that this budget limits, each with its limit."""
        for name, asked in self.asked.items():
            for row in quantities.limited(name):
                yield row, asked

    def rules(self, baseline: Record) -> list[Condition]:
        """Return the rules of this budget, with the one that no worse artifact ships. What is scored on test data has none here: it chooses nothing."""
        held = [partial(self._reason, row, asked) for row, asked in self.limited() if row.data != "test"]
        return [*held, better(self.goal, baseline)]

    def _reason(self, row: Quantity, asked: float, record: Record) -> Reason | None:
        return broken(row, record.measured.get(row.name), asked, self.confident)

    def drop_reason(self, record: Record, data: str) -> Reason | None:
        """Return why a score on these data (``valid`` or ``test``) breaks its limit, or None."""
        scored = [(row, asked) for row, asked in self.limited() if row.data == data]
        return next((reason for row, asked in scored if (reason := self._reason(row, asked, record)) is not None), None)

    def timed_rules(self) -> set[str]:
        """Return the rules that a comparison of times decides."""
        rules = {row.limit.broken for row, _ in self.limited() if row.timed and row.limit is not None}
        return rules | {BETTER} if self.goal.timed else rules

    def readings(self, record: Record) -> list[Reading]:
        """Return each limit of this budget read twice of a record: as measured, and at the bad end of the interval; nothing of what was not measured."""
        asked = list(self.limited())
        goal = self.goal
        if goal.reference is not None and goal.limit is not None and goal.limit.name not in self.given:
            asked.append((goal, goal.reference))
        pairs = [(row, limit, record.measured.get(row.name)) for row, limit in asked]
        return [read(row, result, limit) for row, limit, result in pairs if result is not None and result.value is not None]

    def shortfall(self, record: Record) -> float:
        """Return how far a record is from the budget: the sum over unmet limits of the relative distance; 0 if all hold. For the nearest miss."""
        measured = ((row, record.measured.get(row.name), asked) for row, asked in self.limited() if row.data != "test")
        return sum(UNMEASURED if result is None else distance(row, result, asked, self.confident) for row, result, asked in measured)

    def order(self, record: Record) -> float:
        """Return a number that is smaller for a better record, by the objective."""
        known = record.compared(self.goal)
        return math.inf if known is None or known.value is None else self.goal.cost(known.value)

    def told(self, unit: str = "points") -> str:
        """Return the budget in words; `unit` is that of the drop."""
        known = quantities.limits()
        words = [known[name].told(asked, unit) for name, asked in self.asked.items()]
        sure = ", at the bad end of each interval too" if self.confident and words else ""
        return f"{'; '.join(words) or 'no limit'}{sure}; best {self.objective}"

    def __str__(self) -> str:
        return self.told()

    def to_plain(self) -> dict[str, Any]:
        """Return plain values that `from_plain` reads back, all limits side by side; an unlimited one is written as ``any``."""
        plain = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "limits"} | dict(self.limits)
        return {name: ANY if name in self.given and math.isinf(value) else value for name, value in plain.items()}

    @classmethod
    @reads("a budget", "Write it as docs/budget.md shows.", BadInput)
    def from_plain(cls, data: Any) -> Budget:
        """Return a budget from plain values, e.g. of a recipe file; limits of other packages stand beside the others or in `limits`.

        Raises:
            BadInput: every unknown entry and every limit that makes no sense.
        """
        if not isinstance(data, Mapping):
            raise BadInput(f"budget: must be a mapping of limits, e.g. {{'max_drop': 0.5}}; it is {data!r}")
        own, known = [f.name for f in dataclasses.fields(cls)], quantities.limits()
        mistakes = [
            f"budget.{key}: unknown limit." + nearest(str(key), [*own, *known]) for key in data if key not in own and key not in known
        ]
        limits = data.get("limits") or {}
        if not isinstance(limits, Mapping):
            mistakes.append(f"limits: must be a mapping of limits; it is {limits!r}")
            limits = {}
        values = {key: _read(value) if key in known else value for key, value in data.items() if key in own or key in known}
        named = {key: value for key, value in values.items() if key in own and key != "limits"}
        apart = {key: value for key, value in values.items() if key not in own}
        try:
            budget = cls(**named, limits={**limits, **apart})
        except Mistakes as error:
            mistakes += error.mistakes
        if mistakes:
            raise Mistakes(_NONSENSE, mistakes)
        return budget


def _keywords() -> list[str]:
    """Return the limits that have a keyword of their own."""
    known = quantities.limits()
    return [f.name for f in dataclasses.fields(Budget) if f.name in known]


def _read(value: Any) -> Any:
    """Return the number that a text is, e.g. ``1e-3``, which YAML takes for a text; others as they are."""
    try:
        return float(value) if isinstance(value, str) and value != ANY else value
    except ValueError:
        return value


def _number(limit: quantities.Limit, value: Any) -> Any:
    return math.inf if value == ANY and limit.unlimited else value
