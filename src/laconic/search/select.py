"""Which artifact is delivered, in words that say why; and the frontier."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

from laconic.run.record import Reason, Record
from laconic.search.budget import Budget, drop_reason


@dataclass(frozen=True)
class Choice:
    """The best record, or the nearest miss and the reason."""

    best: Record | None
    nearest: Record | None
    reason: str = ""
    verdict: str = ""


def choose(records: Sequence[Record], budget: Budget) -> Choice:
    """The best of those that passed; else, of those that were measured and computed the right thing, the one closest to the budget."""
    baseline, others = records[0], [record for record in records if record.status != "baseline"]
    passed = [record for record in others if record.status == "passed"]
    if passed:
        return Choice(min(passed, key=budget.order), None)
    sound = [r for r in others if r.status == "rejected" and r.latency is not None and not any(x.rule == "parity" for x in r.reasons)]
    if not sound:
        return Choice(None, None, _nothing(others))
    near = min(sound, key=lambda r: (budget.shortfall(r, baseline), budget.order(r)))
    return Choice(None, near, "; ".join(reason.text for reason in near.reasons))


def _nothing(others: Sequence[Record]) -> str:
    if not others:
        return "there was no candidate"
    counts = {status: sum(record.status == status for record in others) for status in ("failed", "unavailable", "rejected")}
    told = ", ".join(f"{n} {status}" for status, n in counts.items() if n)
    first = next((reason.text for record in others for reason in record.reasons), "")
    return f"no candidate could be measured ({told}); the first reason: {first}"


def confirm(choice: Choice, records: Sequence[Record], budget: Budget, unit: str) -> Choice:
    """Hold the choice against the test data, which was not used to make it, and put it into a sentence.

    An artifact whose drop on the test data breaks the limit is not delivered: it becomes the nearest miss. No other takes its place, since choosing by
    test data would make the final table a lie.
    """
    found = {record.key: record for record in records}
    best = None if choice.best is None else found[choice.best.key]
    near = None if choice.nearest is None else found[choice.nearest.key]
    reason = choice.reason
    if best is not None and (broken := _test_reason(best, budget)) is not None:
        best, near, reason = None, best, f"it held the budget on the valid data, but {broken.text}"
    choice = Choice(best, near, reason)
    return dataclasses.replace(choice, verdict=_verdict(choice, budget, unit))


def _test_reason(record: Record, budget: Budget) -> Reason | None:
    if record.status == "failed":
        return record.reasons[-1]
    return None if record.test_drop is None else drop_reason(record.test_drop, budget.max_drop, "test")


def _verdict(choice: Choice, budget: Budget, unit: str) -> str:
    if choice.best is not None:
        return f"Budget met: {choice.best.title} {_gain(choice.best)}{_loss(choice.best, unit)}."
    if choice.nearest is not None:
        return f"Budget not met ({budget}): the nearest, {choice.nearest.title}, {_gain(choice.nearest)}{_loss(choice.nearest, unit)}; {choice.reason}."
    return f"Budget not met ({budget}): {choice.reason}."


def _gain(record: Record) -> str:
    ratio = record.speedup
    if ratio is None or ratio.value is None:
        return "could not be timed"
    interval = f" (95 % interval {ratio.low:.2f} to {ratio.high:.2f})" if ratio.low is not None else ""
    return f"is {ratio.value:.2f}× as fast as the baseline{interval}"


def _loss(record: Record, unit: str) -> str:
    drop, data = (record.test_drop, "test") if record.test_drop is not None else (record.drop, "valid")
    if drop is None or drop.value is None:
        return ""
    if drop.value == 0 and drop.low == 0 == drop.high:
        return f" and gives the same answers on all {drop.n:,} {data} examples, as far as the metric can tell"
    return f" and loses {drop.value:.2f} points (interval {drop.low:.2f} to {drop.high:.2f}) on {drop.n:,} {data} examples"


def frontier(records: Sequence[Record], budget: Budget) -> list[Record]:
    """Mark the records that no other beats in both drop and objective; failed, rejected by parity and unmeasured ones take no part."""
    measured = [r for r in records if r.status in ("baseline", "passed", "rejected") and r.drop is not None and r.drop.value is not None]
    measured = [r for r in measured if not any(reason.rule == "parity" for reason in r.reasons)]

    def beaten(record: Record) -> bool:
        mine = (_drop(record), budget.order(record))
        return any((_drop(o), budget.order(o)) != mine and _drop(o) <= mine[0] and budget.order(o) <= mine[1] for o in measured)

    best = {record.key for record in measured if not beaten(record)}
    return [record.but(frontier=record.key in best) for record in records]


def _drop(record: Record) -> float:
    assert record.drop is not None
    assert record.drop.value is not None
    return record.drop.value
