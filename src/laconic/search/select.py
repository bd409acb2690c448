"""Which artifact is delivered: chosen by the first comparison, held against a second one that knows of no choice, confirmed by the test data; the frontier.

The best of many candidates looks faster than it is in the comparison that chose it. So the order comes from the first comparison alone, and what is
published from a second one, of few, made afterwards. Whoever no longer holds the budget there is out, and the next of that same order follows: the figures
of the second comparison never move anybody up.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from laconic.core.quantities import Quantity
from laconic.core.wording import counted
from laconic.measure.stats import ratio_of_rounds
from laconic.run.gate import Rule, gate
from laconic.run.record import Reason, Record, opponent
from laconic.search.budget import Budget

FINALISTS = 5
Rounds = Mapping[str, Sequence[Sequence[float]]]
Anew = Callable[[Sequence[Record], Sequence[Record]], list[Record]]


@dataclass(frozen=True)
class Selection:
    """The best record, or the nearest miss and the reason.

    `tied` are the keys of the candidates that are as good in the objective as can be told, the chosen one among them; `fallen` those before it in the
    order that did not hold the budget when they were timed anew.
    """

    best: Record | None = None
    nearest: Record | None = None
    reason: str = ""
    tied: tuple[str, ...] = ()
    fallen: tuple[str, ...] = ()


def ranking(records: Sequence[Record], budget: Budget, rounds: Rounds) -> Iterator[tuple[Record, tuple[str, ...]]]:
    """Those that passed, in the order in which they would be delivered; each with the keys of those it is tied with, itself among them.

    First comes, among those that are as good in the objective as can be told from the best, the one that loses least, then the one of the smallest file;
    the same again of the rest.

    Args:
        records: all, with the figures of the first comparison.
        budget: its objective.
        rounds: nanoseconds of the first comparison by key and round.
    """
    left = [record for record in records if record.status == "passed"]
    while left:
        best = min(left, key=budget.order)
        tied = [record for record in left if record is best or _level(best, record, budget, rounds)]
        first = min(tied, key=lambda r: (_drop(r), r.value("size_bytes") or 0, budget.order(r)))
        yield first, tuple(record.key for record in tied)
        left = [record for record in left if record is not first]


def _level(best: Record, other: Record, budget: Budget, rounds: Rounds) -> bool:
    """Whether another cannot be told from the best: by the paired rounds for speed, by the intervals of what is measured otherwise; sizes are exact."""
    if budget.order(best) == budget.order(other):
        return True
    if not budget.goal.timed:
        return _overlap(budget.goal, best, other)
    if best.key not in rounds or other.key not in rounds:
        return False
    ahead = ratio_of_rounds(rounds[other.key], rounds[best.key])
    return ahead.low is not None and ahead.low <= 1.0


def _overlap(goal: Quantity, best: Record, other: Record) -> bool:
    """Whether the interval of the other reaches that of the best; what has none is exact."""
    one, two = best.compared(goal), other.compared(goal)
    ends = (None if one is None else goal.bad_end(one), None if two is None else goal.good_end(two))
    return ends[0] is not None and ends[1] is not None and goal.cost(ends[1]) <= goal.cost(ends[0])


def finalists(first: Record, tied: Collection[str], records: Sequence[Record], budget: Budget) -> list[Record]:
    """The few that are timed anew, unless they were: the first in the order, its neighbours on the frontier, those tied with it, the best of the rest.

    Args:
        first: who is delivered if it holds.
        tied: the keys of those that are as good as can be told.
        records: all, the baseline first.
        budget: its objective.
    """
    passed = sorted((r for r in records if r.status == "passed"), key=lambda r: (r.key not in tied, budget.order(r)))
    found = {record.key: record for record in (first, *neighbours(first, records, budget), *passed) if record.timing != "finalists"}
    return list(found.values())[:FINALISTS]


def neighbours(one: Record, records: Sequence[Record], budget: Budget) -> list[Record]:
    """What lies next to a record on the frontier, on either side."""
    marked = frontier(records, budget)
    line = sorted((r for r in marked if r.frontier or r.key == one.key), key=lambda r: (budget.order(r), _drop(r)))
    at = next((i for i, r in enumerate(line) if r.key == one.key), None)
    around = [] if at is None else [*line[max(0, at - 1) : at], *line[at + 1 : at + 2]]
    keys = {record.key for record in around if record.status in ("passed", "rejected")}
    return [record for record in records if record.key in keys]


def choose(records: Sequence[Record], budget: Budget, rounds: Rounds, anew: Anew) -> tuple[list[Record], Selection]:
    """The records with the figures that are published, and the choice.

    Args:
        records: all, with the figures of the first comparison, judged; the baseline first.
        budget: what must hold.
        rounds: nanoseconds of the first comparison.
        anew: from all records and the finalists to all records, where the finalists and the baseline have the figures of a new comparison.
    """
    now = list(records)
    fallen: list[str] = []
    for record, tied in ranking(records, budget, rounds):
        if _found(now, record.key).timing != "finalists":
            now = judged_again(now, anew(now, finalists(_found(now, record.key), tied, now, budget)), budget)
        found = _found(now, record.key)
        if found.status == "passed":
            return now, Selection(found, tied=tied, fallen=tuple(fallen))
        fallen.append(record.key)
    near = nearest(now, budget)
    if near is None:
        return now, Selection(reason=_nothing(candidates(now)), fallen=tuple(fallen))
    if near.timing != "finalists":
        now = judged_again(now, anew(now, finalists(near, (), now, budget)), budget)
        near = _found(now, near.key)
    return now, Selection(None, near, "; ".join(reason.text for reason in near.reasons), fallen=tuple(fallen))


def judged_again(before: Sequence[Record], after: Sequence[Record], budget: Budget) -> list[Record]:
    """Hold those that were timed anew against the budget once more. Who was rejected stays so: a second chance would be a second draw."""
    timed = budget.timed_rules()

    def judged(was: Record, record: Record) -> Record:
        if record.timing != "finalists" or was.timing == "finalists":
            return record
        rules = budget.rules(opponent(record, after))
        return _still_rejected(record, rules, timed) if record.status == "rejected" else gate(record, rules)

    return [*map(judged, before, after)]


def _still_rejected(record: Record, rules: Sequence[Rule], timed: Collection[str]) -> Record:
    """Its reasons of time speak of the figures that are published now, or say that they are of the first comparison."""
    fresh = {reason.rule: reason for rule in rules if (reason := rule(record)) is not None}

    def said(reason: Reason) -> Reason:
        if reason.rule not in timed:
            return reason
        held = f"{reason.text} (in the first comparison, which decides; timed anew it would have held)"
        return fresh.get(reason.rule) or Reason(reason.rule, held)

    return record.replace(reasons=tuple(map(said, record.reasons)))


def nearest(records: Sequence[Record], budget: Budget) -> Record | None:
    """Of those that were measured and computed the right thing, the one closest to the budget."""
    sound = [r for r in records if r.status == "rejected" and "latency_ms" in r.measured and not any(x.rule == "parity" for x in r.reasons)]
    return min(sound, key=lambda r: (budget.shortfall(r), budget.order(r)), default=None)


def candidates(records: Sequence[Record]) -> list[Record]:
    """The records without the baselines."""
    return [record for record in records if record.status != "baseline"]


def _nothing(others: Sequence[Record]) -> str:
    if not others:
        return "there was no candidate"
    words = {"failed": "failed", "unavailable": "unavailable", "rejected": "rejected", "not_tried": "not tried"}
    counts = {word: sum(record.status == status for record in others) for status, word in words.items()}
    told = ", ".join(f"{n} {word}" for word, n in counts.items() if n)
    first = next((reason.text for record in others for reason in record.reasons), "")
    tried = "could be measured" if untried(others) == "" else "was tried"
    return f"no candidate {tried} ({told}); the first reason: {first}"


def untried(others: Sequence[Record]) -> str:
    """Why nothing was tried at all; empty where something was."""
    if not others:
        return "there was no candidate"
    if any(record.status not in ("not_tried", "unavailable") for record in others):
        return ""
    late = [record for record in others if record.status == "not_tried"]
    told = late or others
    what = ("was" if len(late) == 1 else "were") + " not tried" if late else "cannot run here"
    reason = next((reason.text for record in told for reason in record.reasons), "no reason was recorded")
    return f"{counted(len(told), 'candidate')} {what}: {reason}"


def confirm(choice: Selection, records: Sequence[Record], budget: Budget) -> Selection:
    """Hold the choice against the test data, which was not used to make it.

    An artifact whose drop on the test data breaks the limit is not delivered: it becomes the nearest miss. No other takes its place, since choosing by
    test data would make the final table a lie.
    """
    best = None if choice.best is None else _found(records, choice.best.key)
    near = None if choice.nearest is None else _found(records, choice.nearest.key)
    if best is not None and (broken := _test_reason(best, budget)) is not None:
        return dataclasses.replace(choice, best=None, nearest=best, reason=f"it held the budget on the valid data, but {broken.text}")
    return dataclasses.replace(choice, best=best, nearest=near)


def _test_reason(record: Record, budget: Budget) -> Reason | None:
    if record.status == "failed":
        return record.reasons[-1]
    return None if record.test_drop is None else budget.drop_reason(record, "test")


def frontier(records: Sequence[Record], budget: Budget) -> list[Record]:
    """Mark the records that no other beats in both drop and objective; failed, rejected by parity and unmeasured ones take no part."""
    measured = [r for r in records if r.status in ("baseline", "passed", "rejected") and r.drop is not None and r.drop.value is not None]
    measured = [r for r in measured if not any(reason.rule == "parity" for reason in r.reasons)]

    def beaten(record: Record) -> bool:
        mine = (_drop(record), budget.order(record))
        return any((_drop(o), budget.order(o)) != mine and _drop(o) <= mine[0] and budget.order(o) <= mine[1] for o in measured)

    best = {record.key for record in measured if not beaten(record)}
    return [record.replace(frontier=record.key in best) for record in records]


def _found(records: Sequence[Record], key: str) -> Record:
    return next(record for record in records if record.key == key)


def _drop(record: Record) -> float:
    """What is lost; infinite where it was not measured."""
    return float("inf") if record.drop is None or record.drop.value is None else record.drop.value
