"""The verdict in words: what is delivered and why, and how sure that is."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from laconic.core.records import Measurement
from laconic.core.wording import counted, decimals, given, number, percent, spanned
from laconic.run import repeats
from laconic.run.record import Record, opponent
from laconic.run.timing import PUBLISHED
from laconic.search.budget import Budget
from laconic.search.chance import SHARE, by_luck, chance, dependable, wanted
from laconic.search.relax import relaxations, told_relaxed
from laconic.search.select import Selection, candidates, untried
from laconic.search.stopped import INTERRUPT, Stopped
from laconic.tasks.metrics import MetricSpec

_POINTS = "points"
_NIL = 1e-9  # what is less than this is rounding


@dataclass(frozen=True)
class Verdict:
    """The first sentence, and those that say how sure it is."""

    headline: str
    certainty: tuple[str, ...] = ()

    def __str__(self) -> str:
        return " ".join((self.headline, *self.certainty))


@dataclass(frozen=True)
class Scale:
    """How losses of a metric are told: in points of a percentage, or in the metric's own unit, with its name; and whether points count examples."""

    name: str
    unit: str
    counts: bool

    @classmethod
    def of(cls, metric: MetricSpec) -> Scale:
        """Return the scale of a metric; points count examples where the metric is a mean over them."""
        points = metric.scale == 100
        return cls(metric.name, _POINTS if points else metric.unit, points and metric.per_example is not None)

    @classmethod
    def written(cls, plain: Mapping[str, Any]) -> Scale:
        """Read back what a run's result says of its metric: its name, `scale`, `unit`, and whether it is a mean over examples."""
        points = plain["scale"] == 100
        return cls(plain["name"], _POINTS if points else plain["unit"], points and plain.get("of_examples", False))

    @property
    def points(self) -> bool:
        """Whether it is a percentage."""
        return self.unit == _POINTS

    @property
    def noun(self) -> str:
        """What stands behind a number: `points`, `kg of mae`, `of mae`."""
        return _POINTS if self.points else f"{self.unit} of {self.name}".strip()

    def told(self, drop: Measurement) -> str:
        """Write what is lost or won, with its interval.

        >>> Scale("accuracy", "points", True).told(Measurement(-0.251, "points", n=9, low=-0.5, high=0.0))
        'gains 0.25 points (interval 0.00 to 0.50)'
        >>> Scale("mae", "", False).told(Measurement(0.0312, "", n=9, low=-0.0041, high=0.0702))
        'loses 0.031 (mae; interval −0.004 to 0.070)'
        """
        assert drop.value is not None
        sign = -1.0 if drop.value < -_NIL else 1.0
        verb = "gains" if sign < 0 else "loses"
        value, unit = sign * drop.value, f" {self.unit}" if self.unit else ""
        if drop.low is None or drop.high is None:
            text = f"{verb} {self._alone(value)}{unit}"
            return text if self.points else f"{text} ({self.name})"
        least, most = sorted((sign * drop.low, sign * drop.high))
        text, low, high = spanned(value, least, most, self._places(value))
        name = "" if self.points else f"{self.name}; "
        return f"{verb} {text}{unit} ({name}interval {low} to {high})"

    def _places(self, value: float) -> int | None:
        """Return two decimals of points, and more where so few would hide the value."""
        if not self.points:
            return None
        return 2 if abs(value) <= _NIL else max(2, decimals(value, 1))

    def _alone(self, value: float) -> str:
        return number(value) if not self.points else spanned(value, value, value, places=self._places(value))[0]


def verdict(choice: Selection, records: Sequence[Record], budget: Budget, scale: Scale, ended: Stopped | None = None) -> Verdict:
    """Return the choice in words.

    Args:
        choice: confirmed.
        records: all, the baseline first.
        budget: what was asked.
        scale: of the task's metric.
        ended: how far the run came, where it ended before everything was tried.
    """
    others = candidates(records)
    asked = budget.told(scale.noun)
    if choice.best is not None:
        headline = f"Budget met: {choice.best.title} {_gain(choice.best, records, budget)}{_loss(choice.best, scale)}."
    elif choice.nearest is not None:
        near = f"{choice.nearest.title}, {_gain(choice.nearest, records, budget)}{_loss(choice.nearest, scale)}"
        headline = f"Budget not met ({asked}): the nearest, {near}; {choice.reason}."
    elif why := untried(others):
        headline = f"Nothing was tried: {why}."
    else:
        headline = f"Budget not met ({asked}): {choice.reason}."
    missed = choice.best is None and bool(others)
    relaxed = told_relaxed(relaxations(records, budget), scale.noun) if missed and not untried(others) else ()
    certainty = _certainty(choice, others, budget, scale)
    return Verdict(headline, (*_early(ended, others), *relaxed, *certainty, *_chance(records, budget, scale)))


def _gain(record: Record, records: Sequence[Record], budget: Budget) -> str:
    """Return how fast it is, and where something else was to be best, what it has of that."""
    ratio, goal = record.speedup, budget.goal
    interval = f" (95 % interval {ratio.low:.2f} to {ratio.high:.2f})" if ratio is not None and ratio.low is not None else ""
    timed = ratio is not None and ratio.value is not None
    text = f"is {ratio.value:.2f}× as fast as the baseline{interval}" if timed else "could not be timed"  # type: ignore[union-attr]
    mine, theirs = record.compared(goal), opponent(record, records).compared(goal)
    if goal.reference is not None or mine is None or mine.value is None or theirs is None or theirs.value is None:
        return text
    return f"{text}, its {goal.noun} is {goal.described(mine)} against {goal.described(theirs)}"


def _loss(record: Record, scale: Scale) -> str:
    drop, data = _published(record)
    if drop is None or drop.value is None:
        return ""
    if _same(drop):
        return f" and scores the same on each of {counted(drop.n, f'{data} example')}"
    return f" and {scale.told(drop)} on {counted(drop.n, f'{data} example')}"


def _published(record: Record) -> tuple[Measurement | None, str]:
    """Return the drop on test data, which no choice has seen; on valid data where there is none."""
    return (record.drop, "valid") if record.test_drop is None else (record.test_drop, "test")


def _same(drop: Measurement) -> bool:
    """Return whether every example scored the same."""
    worse, better = getattr(drop, "worse", None), getattr(drop, "better", None)
    if worse is not None and better is not None:
        return bool(worse == 0 == better)
    return drop.value == 0 and drop.low == 0 == drop.high


def _certainty(choice: Selection, others: Sequence[Record], budget: Budget, scale: Scale) -> Iterator[str]:
    record = choice.best or choice.nearest
    if record is not None:
        yield from _ties(choice, others, budget)
        yield from _examples(record, budget, scale)
        yield from _luck(record, others, budget, scale)
        yield from _anew(record, choice)
        if record.busy:
            yield f"{record.busy[:1].upper()}{record.busy[1:]}."


def _early(ended: Stopped | None, others: Sequence[Record]) -> Iterator[str]:
    if ended is not None and not untried(others):
        yield str(ended)
        if ended.by == INTERRUPT:
            yield "Its figures are those of the comparison that chose it: nothing was measured anew, and no test data was read."


def _chance(records: Sequence[Record], budget: Budget, scale: Scale) -> Iterator[str]:
    """Tell where a model that answers otherwise each time moves its own metric by more than may be lost of it."""
    moved, limit = repeats.spread(records), budget.drop_limit
    if moved is not None and limit is not None and moved > limit:
        yield (
            f"The model itself answers otherwise each time: repeated on the same examples, its {scale.name} moves by {_end(moved, scale)}, more than the "
            f"{_much(limit, scale)} that may be lost, so that whether the limit holds is a matter of chance."
        )


def _ties(choice: Selection, others: Sequence[Record], budget: Budget) -> Iterator[str]:
    tied = [record for record in others if record.key in choice.tied]
    if choice.best is None or len(tied) < 2:
        return
    assert budget.goal.objective is not None
    as_good = budget.goal.objective.tied
    least = choice.best.drop.value if choice.best.drop is not None else None
    even = sum(record.drop is not None and record.drop.value == least for record in tied)
    why = "this one loses least" if even < 2 else f"of the {even} that lose least, this one has the smallest file"
    yield f"{len(tied)} candidates are {as_good}; {why}."


def _examples(record: Record, budget: Budget, scale: Scale) -> Iterator[str]:
    """Return the limit in examples, what was counted, and what cannot be excluded with so few."""
    drop, _ = _published(record)
    if drop is None or drop.value is None:
        return
    limit = budget.drop_limit
    parts = []
    if limit and scale.counts:
        parts.append(f"{_much(limit, scale)} of {drop.n:,} {'is' if limit == 1 else 'are'} {number(limit * drop.n / 100, 2)} examples")
    worse, better = getattr(drop, "worse", None), getattr(drop, "better", None)
    if worse is not None and better is not None and not _same(drop):
        parts.append(f"it is worse on {worse:,} and better on {better:,}")
    if drop.high is not None and drop.high > 0:
        few = "with so few" if limit is None or drop.high > limit + _NIL else "(95 %), which the limit covers"
        parts.append(f"a true {'drop' if scale.points else 'loss'} of up to {_end(drop.high, scale)} cannot be excluded {few}")
    if parts:
        text = "; ".join(parts)
        yield f"{text[:1].upper()}{text[1:]}."


def _much(value: float, scale: Scale) -> str:
    return "1 point" if scale.points and value == 1 else f"{given(value)} {scale.noun}"


def _end(value: float, scale: Scale) -> str:
    return (
        f"{spanned(value, value, value, places=max(2, decimals(value, 2)))[0]} points" if scale.points else f"{number(value)} {scale.noun}"
    )


def _luck(record: Record, others: Sequence[Record], budget: Budget, scale: Scale) -> Iterator[str]:
    """Return how likely the limit holds again, who was passed over for that, and how likely one of many is chosen without deserving it.

    The last is computed from the widths of this one's intervals.
    """
    limit, tried = budget.drop_limit, sum(r.drop is not None and r.drop.value is not None for r in others)
    if limit is None or tried < 2 or record.drop is None:
        return
    passed = [r for r in others if r.status == "passed"]
    least = wanted((r.drop for r in passed), limit, budget.confident)
    one = by_luck(record.drop, limit, least, budget.confident)
    if one is None:
        yield f"{tried} candidates were judged on the same valid examples: the more there are, the likelier one passes by luck."
        return
    yield f"{tried} candidates were judged on the same valid examples{_likelier(record, passed, least, limit, budget)}."
    by = "just more than the limit" if budget.confident or not limit else f"twice the limit ({_much(2 * limit, scale)})"
    some = any_of(tried, one)
    tested = None if record.test_drop is None else by_luck(record.test_drop, limit, 0.0, budget.confident)
    more = "" if tested is None else f", and hold it on the test data too in up to {percent(some * tested)}"
    yield f"Had each truly lost {by}, one would be chosen by luck in up to {percent(some)} of runs{more}."


def _likelier(record: Record, passed: Sequence[Record], least: float, limit: float, budget: Budget) -> str:
    """Return the chance that the chosen one holds the limit again, and who would be better and is not likely enough to; empty where none was chosen from."""
    own = chance(record.drop, limit, budget.confident)
    if own is None or all(other.key != record.key for other in passed):
        return ""
    may = {one.key for one in dependable(passed, budget)}
    over = sorted((r for r in passed if r.key not in may and budget.order(r) < budget.order(record)), key=budget.order)
    asked = f"had to be {percent(least)} ({percent(SHARE)} of the best chance)"
    where = "as many others" if record.drop is None or record.drop.others is None else "the test data"
    told = f"; the chance to hold the limit on {where} {asked}, and is {percent(own)} for this one"
    if not over:
        return told
    first = chance(over[0].drop, limit, budget.confident)
    assert first is not None
    what = f"{counted(len(over), 'candidate')} that {'is' if len(over) == 1 else 'are'} {budget.goal.better or 'better'}"
    return f"{told}. {what} held it here and fell short of that, {over[0].title} with {percent(first)}"


def any_of(n: int, one: float) -> float:
    """Return the chance of at least one of n, each with this chance: the most where they go together, as candidates judged on the same examples do."""
    return -math.expm1(n * math.log1p(-one)) if one < 1 else 1.0


def _anew(record: Record, choice: Selection) -> Iterator[str]:
    """Tell where the figures of speed come from, and who was out when timed anew."""
    if record.comparison == PUBLISHED:
        before = record.value("first_speedup")
        said = "" if before is None else f" (the comparison that chose it said {before:.2f}×)"
        yield f"The speed-up was measured anew after the choice, beside the baseline alone{said}."
    if choice.fallen:
        n = len(choice.fallen)
        yield (
            f"{counted(n, 'candidate')} that held the budget alone did not hold it when timed anew; each further one has 2.5 % more of a chance to pass by "
            "luck."
        )
