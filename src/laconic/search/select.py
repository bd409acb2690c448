"""Which artifact is delivered: timed alone, then with those that might be delivered too, then published from a third comparison; the frontier.

The best of many candidates looks faster than it is in the comparison that chose it. So each candidate is first timed with its baseline alone; the few that
might be the best are timed together, which gives their order; and what is published comes from a comparison of the first in that order with its baseline,
made afterwards, which knows of no choice. Likewise the best of many that hold the limit of the drop holds it by luck more often than one does: see
`search.chance`. Whoever no longer holds the budget in one of them is out, and the next of that same order follows: the figures
of the last comparison never move anybody up.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from laconic.core import quantities
from laconic.core.quantities import Quantity
from laconic.core.wording import counted
from laconic.measure.stats import ratio_of_rounds
from laconic.run.gate import BETTER, Condition, gate
from laconic.run.record import Reason, Record, opponent
from laconic.run.timing import ALONE, PUBLISHED
from laconic.search.budget import Budget
from laconic.search.chance import dependable

# Of those that cannot be told from the fastest so many are timed together: the fastest of them, and those that lose least; beside neighbors on the frontier.
FASTEST, LEAST_LOSS = 4, 2
# One process of a small net may be so much faster than the next of the same file, by where its memory and threads lie; intervals of one process do not know
# of that. So whoever is this near is timed together with the best, in processes that are fresh for all.
NEAR = 1.5
Rounds = Mapping[str, Sequence[Sequence[float]]]
Compare = Callable[[Sequence[Record], Collection[str]], "tuple[list[Record], Rounds]"]
Publish = Callable[[Sequence[Record], str], list[Record]]


@dataclass(frozen=True)
class Selection:
    """The best record, or the nearest miss and the reason.

    `tied` are the keys of the candidates that are as good in the objective as can be told, the chosen one among them; `fallen` those that held the budget
    when they were timed alone, and no longer when they were timed anew.
    """

    best: Record | None = None
    nearest: Record | None = None
    reason: str = ""
    tied: tuple[str, ...] = ()
    fallen: tuple[str, ...] = ()


def ranking(records: Sequence[Record], budget: Budget, rounds: Rounds) -> Iterator[tuple[Record, tuple[str, ...]]]:
    """Return those that passed, in the order in which they would be delivered; each with the keys of those it is tied with, itself among them.

    First comes, among those that are as good in the objective as can be told from the best, the one that loses least, then the one of the smallest file;
    the same again of the rest.

    Args:
        records: those that were timed together.
        budget: its objective.
        rounds: nanoseconds of that comparison by key and round.
    """
    left = [record for record in records if record.status == "passed"]
    while left:
        best = min(left, key=budget.order)
        tied = [record for record in left if record is best or _level(best, record, budget, rounds)]
        first = min(tied, key=lambda r: (_drop(r), r.value("size_bytes") or 0, budget.order(r)))
        yield first, tuple(record.key for record in tied)
        left = [record for record in left if record is not first]


def _level(best: Record, other: Record, budget: Budget, rounds: Rounds) -> bool:
    """Return whether another cannot be told from the best: by the paired rounds for speed, by the intervals of what is measured otherwise; sizes are exact."""
    if budget.order(best) == budget.order(other):
        return True
    if not budget.goal.timed:
        return _overlap(budget.goal, best, other)
    if best.key not in rounds or other.key not in rounds:
        return False
    ahead = ratio_of_rounds(rounds[other.key], rounds[best.key])
    return ahead.low is not None and ahead.low <= 1.0


def finalists(records: Sequence[Record], budget: Budget) -> list[Record]:
    """Return those of which one will be delivered if it holds, with the neighbors of the best on the frontier; nothing where nobody is left to be timed anew.

    Of those that are likely enough to hold the limit of the drop on other examples too (`search.chance`), these are the best by the objective and those that
    cannot be told from it or are near it (`NEAR`): the fastest few, and the few that lose least. Where speed does not decide, the order is known: all.

    Args:
        records: all, the baseline first.
        budget: its objective.
    """
    passed = [record for record in records if record.status == "passed" and record.comparison == ALONE]
    left = dependable(passed, budget)
    if not left or not budget.goal.timed:
        return left
    best, *others = sorted(left, key=budget.order)
    level = [record for record in others if _overlap(budget.goal, best, record) or _near(budget.goal, best, record)]
    few = [best, *level[: FASTEST - 1], *sorted(level[FASTEST - 1 :], key=_drop)[:LEAST_LOSS]]
    waiting = {record.key for record in passed} - {record.key for record in left}  # their turn may come
    around = [record for record in neighbors(best, records, budget) if record.comparison == ALONE and record.key not in waiting]
    return list({record.key: record for record in (*few, *around)}.values())


def _overlap(goal: Quantity, best: Record, other: Record) -> bool:
    """Return whether the interval of the other reaches that of the best; what has none is exact."""
    one, two = best.compared(goal), other.compared(goal)
    ends = (None if one is None else goal.bad_end(one), None if two is None else goal.good_end(two))
    return ends[0] is not None and ends[1] is not None and goal.cost(ends[1]) <= goal.cost(ends[0])


def _near(goal: Quantity, best: Record, other: Record) -> bool:
    """Return whether two are within the factor by which processes of one file differ."""
    values = [one.value(goal.name) for one in (best, other)]
    return all(value is not None and value > 0 for value in values) and max(values) <= NEAR * min(values)  # type: ignore[operator, type-var]


def neighbors(one: Record, records: Sequence[Record], budget: Budget) -> list[Record]:
    """Return what lies next to a record on the frontier, on either side."""
    marked = frontier(records, budget)
    line = sorted((r for r in marked if r.frontier or r.key == one.key), key=lambda r: (budget.order(r), _drop(r)))
    at = next((i for i, r in enumerate(line) if r.key == one.key), None)
    around = [] if at is None else [*line[max(0, at - 1) : at], *line[at + 1 : at + 2]]
    keys = {record.key for record in around if record.status in ("passed", "rejected")}
    return [record for record in records if record.key in keys]


def choose(records: Sequence[Record], budget: Budget, compare: Compare, publish: Publish) -> tuple[list[Record], Selection]:
    """Return the records with the figures that are published, and the choice.

    Args:
        records: all, each timed alone and judged; the baselines first.
        budget: what must hold.
        compare: from all records and the keys of the finalists to all records, where these have the figures of a comparison of all of them, and its rounds.
        publish: from all records and a key to all records, where this one has the figures of another comparison with its baseline alone.
    """
    now, fallen = list(records), list[str]()
    while few := finalists(now, budget):
        rounds: Rounds = {}
        keys = [record.key for record in few if record.status == "passed"]
        if len(few) > 1 and budget.goal.timed:
            after, rounds = compare(now, [record.key for record in few])
            now = judged_again(now, after, budget)
            fallen += [key for key in keys if by_key(now, key).status != "passed"]
        for record, tied in list(ranking([by_key(now, key) for key in keys], budget, rounds)):
            now = judged_again(now, publish(now, record.key), budget)
            chosen = by_key(now, record.key)
            if chosen.status == "passed":
                return now, Selection(chosen, tied=tied, fallen=tuple(fallen))
            fallen.append(record.key)
    near = nearest(now, budget)
    if near is None:
        return now, Selection(reason=_nothing(candidates(now)), fallen=tuple(fallen))
    if near.comparison != PUBLISHED:
        now = judged_again(now, publish(now, near.key), budget)
        near = by_key(now, near.key)
    return now, Selection(None, near, "; ".join(reason.text for reason in near.reasons), fallen=tuple(fallen))


def so_far(records: Sequence[Record], budget: Budget) -> Selection:
    """Return the choice of a run that was interrupted: the best of those that passed when they were timed alone, or the nearest miss; nothing is timed anew."""
    for record, _ in ranking(dependable([record for record in records if record.status == "passed"], budget), budget, {}):
        return Selection(record)
    near = nearest(records, budget)
    if near is None:
        return Selection(reason=_nothing(candidates(records)))
    return Selection(None, near, "; ".join(reason.text for reason in near.reasons))


def judged_again(before: Sequence[Record], after: Sequence[Record], budget: Budget) -> list[Record]:
    """Hold those that were timed anew against the budget once more. Who was rejected stays so: a second chance would be a second draw."""

    def judged(was: Record, record: Record) -> Record:
        if record.comparison == was.comparison or record.status == "baseline":
            return record
        rules = budget.rules(opponent(record, after))
        return _still_rejected(record, rules, budget.timed_rules()) if record.status == "rejected" else gate(record, rules)

    return [*map(judged, before, after)]


def judged_by(records: Sequence[Record], budget: Budget) -> list[Record]:
    """Hold records that were measured for one budget against another; what was rejected for anything but a budget stays so."""
    of_budgets = {row.limit.broken for row in quantities.rows().values() if row.limit is not None} | {BETTER}

    def judged(record: Record) -> Record:
        sound = tuple(reason for reason in record.reasons if reason.rule not in of_budgets)
        if record.status not in ("passed", "rejected") or sound:
            return record
        return gate(record.replace(status="passed", reasons=()), budget.rules(opponent(record, records)))

    return [*map(judged, records)]


def _still_rejected(record: Record, rules: Sequence[Condition], timed: Collection[str]) -> Record:
    """Let its reasons of time speak of the figures that are published now, or say that they are of an earlier comparison."""
    fresh = {reason.rule: reason for rule in rules if (reason := rule(record)) is not None}

    def said(reason: Reason) -> Reason:
        if reason.rule not in timed:
            return reason
        held = f"{reason.text} (in an earlier comparison, which decides; timed anew it would have held)"
        return fresh.get(reason.rule) or Reason(reason.rule, held)

    return record.replace(reasons=tuple(map(said, record.reasons)))


def nearest(records: Sequence[Record], budget: Budget) -> Record | None:
    """Return, of those that were measured and computed the right thing, the one closest to the budget."""
    sound = [r for r in records if r.status == "rejected" and "latency_ms" in r.measured and not any(x.rule == "parity" for x in r.reasons)]
    return min(sound, key=lambda r: (budget.shortfall(r), budget.order(r)), default=None)


def candidates(records: Sequence[Record]) -> list[Record]:
    """Return the records without the baselines."""
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
    """Return why nothing was tried at all; empty where something was."""
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
    best = None if choice.best is None else by_key(records, choice.best.key)
    near = None if choice.nearest is None else by_key(records, choice.nearest.key)
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


def by_key(records: Sequence[Record], key: str) -> Record:
    """Return the record of a key."""
    return next(record for record in records if record.key == key)


def _drop(record: Record) -> float:
    """Return what is lost; infinite where it was not measured."""
    return float("inf") if record.drop is None or record.drop.value is None else record.drop.value
