"""What each step of the chosen recipe gave: bytes, time and score before and after it, from candidates of the same run that differ by that step alone."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from laconic.core import quantities
from laconic.core.quantities import Quantity
from laconic.report.candidates import Candidate, recipe_text, technique
from laconic.report.steps import mapping, title_of
from laconic.report.units import Amount, in_unit, joined, number, rescaled, scaled, shared_unit
from laconic.report.words import Words

_SAME = 1.005  # a factor of exact numbers below this is none
_ROUNDING = 1e-6  # of a score, as a share of it
UNMEASURED = "not measured: no two candidates of this run differ by this step alone"


@dataclass(frozen=True)
class Effect:
    """What a part of a recipe did to one quantity.

    A speed-up stands as what it compares, at the pace of the baseline: the latency of the baseline, divided by it. So the effects of a chain add up.

    Attributes:
        row: the quantity: bytes, a speed-up, a loss of score.
        shown: in which quantity `before` and `after` are; the row's own but for a speed-up.
        before: without that part.
        after: with it.
        factor: how many times better the quantity became (below 1: worse), as old over new; None of a difference, as a loss of score is.
        low: the lower end of its 95 % interval, of the difference after less before likewise; None where there is none.
        high: the upper end.
        better: whether it became better for sure: by its whole interval, or by more than half a percent where numbers are exact. None: nobody can tell.
    """

    row: Quantity
    shown: Quantity
    before: Amount
    after: Amount
    factor: float | None
    low: float | None
    high: float | None
    better: bool | None

    @property
    def change(self) -> float:
        """After less before, in the base unit of `shown`."""
        assert self.before.raw is not None
        assert self.after.raw is not None
        return self.after.raw - self.before.raw

    @property
    def arrow(self) -> str:
        """Before and after in one unit: `2.44 → 0.351 ms`."""
        unit = shared_unit(self.shown, (self.before, self.after))
        return f"{rescaled(self.shown, self.before, unit).number} → {rescaled(self.shown, self.after, unit).text}"

    @property
    def told(self) -> str:
        """The change in words: `3.9× smaller`, `1.2× slower (1.1 to 1.3)`, `the same`; a difference as `0.30 points more`."""
        if self.factor is None:
            return self._difference()
        if self.better is None:
            return "the same" if self.low is None else f"no difference that can be told ({self._span(self.low, self.high)}×)"
        times, low, high = (self.factor, self.low, self.high) if self.better else _turned(self.factor, self.low, self.high)
        span = "" if low is None or high is None else f" ({self._span(low, high)})"
        return f"{joined(number(times), '×')} {self.row.better if self.better else self.row.worse}{span}"

    @staticmethod
    def _span(low: float | None, high: float | None) -> str:
        return f"{number(low or 0.0, 3)} to {number(high or 0.0, 3)}"

    def _difference(self) -> str:
        if self.change == 0:
            return "the same"
        size = in_unit(abs(self.change), None, None, self.after.unit).text
        sure = "" if self.better is not None else ", which the examples cannot tell from none"
        return f"{size} {'more' if self.change > 0 else 'less'}{sure}"


@dataclass(frozen=True)
class Part:
    """Some steps of the chosen recipe and what they gave; one step, wherever the run can tell.

    Attributes:
        title: the steps in words, and the runtime where it is among them.
        steps: their places in the recipe, from 0; empty of the runtime alone.
        before: the candidate without them.
        after: the candidate with them.
        effects: by quantity, of those that both have.
    """

    title: str
    steps: tuple[int, ...]
    before: Candidate
    after: Candidate
    effects: tuple[Effect, ...]

    def effect(self, name: str) -> Effect | None:
        """Return what it did to a quantity; None where one of the two candidates lacks it."""
        return next((effect for effect in self.effects if effect.row.name == name), None)

    def pays(self, words: Words) -> str:
        """Return in what it paid for sure: `Median latency, File size`; `nothing that was measured` where in nothing."""
        paid = [effect.row for effect in self.effects if effect.better]
        return ", ".join(words.label(quantities.row(row.compares or row.name)) for row in paid) or "nothing that was measured"

    @property
    def source(self) -> str:
        """From which candidates that is known."""
        return f"{self.after.title}, against {self.before.title}"


@dataclass(frozen=True)
class Payoff:
    """What the chosen recipe gave part by part.

    Attributes:
        chain: from the baseline to the chosen candidate: each part is measured behind those before it, and all together are the whole.
        alone: of steps that the chain has only together with others, from other pairs of candidates; at other places than in the chosen recipe.
        unmeasured: the steps that no candidates tell apart, in words.
        rows: the quantities, in their order.
    """

    chain: tuple[Part, ...]
    alone: tuple[Part, ...]
    unmeasured: tuple[str, ...]
    rows: tuple[Quantity, ...]

    @property
    def lead(self) -> str:
        """How far the run can tell, in a sentence or two."""
        told = "Each part of the recipe behind those before it, from the baseline to what was chosen."
        if self.unmeasured:
            noun = "steps" if len(self.unmeasured) > 1 else "step"
            told += f" By itself the {noun} {', '.join(self.unmeasured)} {'were' if len(self.unmeasured) > 1 else 'was'} {UNMEASURED}."
        return told

    @property
    def note(self) -> str:
        """How the figures come about."""
        return (
            "Times are at the pace of the baseline: its latency, divided by the speed-up of each. In brackets the 95 % interval, of two that were each timed "
            "against the baseline; where it contains 1, and where a difference of scores is within what so many examples can tell, nothing is said to pay."
        )


@dataclass(frozen=True)
class _Known:
    """A candidate that was measured: its steps in plain values, and where it runs."""

    one: Candidate
    steps: tuple[Any, ...]
    deploy: Any
    runtime: str


def payoff(
    records: Sequence[Mapping[str, Any]], candidates: Sequence[Candidate], chosen: Candidate | None, rows: Sequence[Quantity]
) -> Payoff | None:
    """Return what each step of the chosen recipe gave; None where nothing was chosen, or it is a baseline.

    Args:
        records: of the run, those of the baselines first.
        candidates: as read, in the same order.
        chosen: the best or the nearest miss.
        rows: the quantities that matter; those that are comparisons or exact are told.
    """
    known = [
        _Known(one, tuple(recipe.get("steps") or ()), mapping(recipe.get("deploy")), str(record.get("runtime") or ""))
        for record, one in zip(records, candidates, strict=True)
        for recipe in (mapping(record.get("recipe")),)
    ]
    goal = next((item for item in known if chosen is not None and item.one is chosen), None)
    if goal is None or goal.one.status == "baseline":
        return None
    record = next(record for record, one in zip(records, candidates, strict=True) if one is goal.one)
    base = _baseline(record, candidates)
    shown = [row for row in rows if row.reference is not None or row.exact]
    words = _titles(record, goal)
    places = {len(goal.steps): goal} | {place: item for place in range(len(goal.steps)) if (item := _prefix(known, goal, place))}
    chain = tuple(_chain(places, words, base, shown))
    together = [place for part in chain if len(part.steps) > 1 or (part.before is base and part.steps) for place in part.steps]
    alone = {place: pair for place in together if (pair := _pair(known, goal, place))}
    parts = tuple(
        Part(words[place], (place,), less.one, more.one, _effects(base, less.one, more.one, shown)) for place, (less, more) in alone.items()
    )
    return Payoff(chain, parts, tuple(words[place] for place in together if place not in alone), tuple(shown))


def _baseline(record: Mapping[str, Any], candidates: Sequence[Candidate]) -> Candidate:
    """Return what this record was compared with."""
    return next((one for one in candidates if one.status == "baseline" and one.key == record.get("baseline")), candidates[0])


def _titles(record: Mapping[str, Any], goal: _Known) -> list[str]:
    """Return its steps in words, as they told them where each did."""
    outcomes = [mapping(outcome) for outcome in record.get("outcomes") or ()]
    if len(outcomes) == len(goal.steps):
        return [title_of(outcome) for outcome in outcomes]
    return [technique({"steps": [step]}) for step in goal.steps]


def _prefix(known: Sequence[_Known], goal: _Known, place: int) -> _Known | None:
    """Return the candidate with the first steps of the goal alone, on the same runtime; None where none was measured."""
    return next((item for item in _beside(known, goal) if item.steps == goal.steps[:place]), None)


def _beside(known: Sequence[_Known], goal: _Known) -> Iterator[_Known]:
    """Yield those that were measured and run where the goal does, the goal itself too."""
    yield from (item for item in known if item.one.status != "baseline" and item.one.measured and item.deploy == goal.deploy)


def _pair(known: Sequence[_Known], goal: _Known, place: int) -> tuple[_Known, _Known] | None:
    """Return two candidates that differ by this step of the goal alone, without it first: the goal and one that lacks it, else those of most steps."""
    step, here = goal.steps[place], list(_beside(known, goal))
    pairs = [(less, more) for more in here for less in here if _differ_by(step, less.steps, more.steps)]
    return max(pairs, key=lambda pair: (pair[1] is goal, len(pair[1].steps)), default=None)


def _differ_by(step: Any, less: tuple[Any, ...], more: tuple[Any, ...]) -> bool:
    return any(more[i] == step and less == (*more[:i], *more[i + 1 :]) for i in range(len(more)))


def _chain(places: Mapping[int, _Known], words: Sequence[str], base: Candidate, rows: Sequence[Quantity]) -> Iterator[Part]:
    """Yield the parts between the places of the recipe at which a candidate stands, the way from the baseline to the first of them included."""
    before, start = base, 0
    for place in sorted(places):
        item = places[place]
        named = list(words[start:place])
        if before is base:
            named = [recipe_text({"deploy": item.deploy}, title=item.runtime), *named]
        yield Part(" + ".join(named), tuple(range(start, place)), before, item.one, _effects(base, before, item.one, rows))
        before, start = item.one, place


def _effects(base: Candidate, before: Candidate, after: Candidate, rows: Sequence[Quantity]) -> tuple[Effect, ...]:
    made = (_effect(row, base, before, after) for row in rows)
    return tuple(effect for effect in made if effect is not None)


def _effect(row: Quantity, base: Candidate, before: Candidate, after: Candidate) -> Effect | None:
    """Return what happened to one quantity; None where one of them lacks it."""
    new = after.amounts.get(row.name)
    old = _reference(row, new) if before is base and row.reference is not None else before.amounts.get(row.name)
    if old is None or new is None or old.raw is None or new.raw is None:
        return None
    if row.reference == 0:
        return _difference(row, base, old, new)
    if not old.raw or not new.raw:
        return None
    factor = old.raw / new.raw if row.direction == "min" else new.raw / old.raw
    half = _half(*(None if end is None or end <= 0 else math.log(end) for end in (old.low, old.high, new.low, new.high)))
    low, high = (None, None) if half is None else (factor * math.exp(-half), factor * math.exp(half))
    edge = _SAME if half is None else math.exp(half)
    better = True if factor > edge else False if factor < 1 / edge else None
    shown, pair = _paced(row, base, (old, new))
    return Effect(row, shown, *pair, factor, low, high, better)


def _reference(row: Quantity, like: Amount | None) -> Amount | None:
    """Return what a baseline is compared with itself, in the unit of an amount."""
    return None if like is None or row.reference is None else in_unit(row.reference, None, None, like.unit)


def _difference(row: Quantity, base: Candidate, old: Amount, new: Amount) -> Effect:
    """Return the effect on a loss of score."""
    assert old.raw is not None
    assert new.raw is not None
    change, half = new.raw - old.raw, _half(old.low, old.high, new.low, new.high)
    if abs(change) <= _ROUNDING * abs(base.amount(row.compares).raw or 0.0):
        change, new = 0.0, old
    low, high = (None, None) if half is None else (change - half, change + half)
    cost = row.cost(change)
    return Effect(row, row, old, new, None, low, high, True if cost < -(half or 0.0) else False if cost > (half or 0.0) else None)


def _half(old_low: float | None, old_high: float | None, new_low: float | None, new_high: float | None) -> float | None:
    """Return half the width of the 95 % interval of a difference of two numbers that were measured apart; None where neither has one."""
    known = [(high - low) / 2 for low, high in ((old_low, old_high), (new_low, new_high)) if low is not None and high is not None]
    return math.hypot(*known) if known else None


def _paced(row: Quantity, base: Candidate, pair: tuple[Amount, Amount]) -> tuple[Quantity, tuple[Amount, Amount]]:
    """Return a speed-up as what it compares, at the baseline's pace; other quantities as they are."""
    compared = quantities.row(row.compares) if row.compares else None
    reference = base.amounts.get(row.compares)
    if compared is None or reference is None or reference.raw is None:
        return row, pair
    old, new = (reference.raw / (one.raw or 1.0) if row.direction == "max" else reference.raw * (one.raw or 1.0) for one in pair)
    return compared, (scaled(old, compared.show.scale), scaled(new, compared.show.scale))


def _turned(factor: float, low: float | None, high: float | None) -> tuple[float, float | None, float | None]:
    """Return a factor and its ends the other way round."""
    return 1 / factor, None if high is None else 1 / high, None if low is None else 1 / low
