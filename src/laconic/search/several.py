"""One run, several budgets: every candidate is built and measured once; each budget chooses among them, and the test data is read when all have chosen."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Any

from laconic.core.errors import BadInput
from laconic.core.records import to_json
from laconic.run.evaluate import Evaluator
from laconic.run.record import Record
from laconic.search.budget import Budget
from laconic.search.content import answer
from laconic.search.judge import Judge
from laconic.search.select import Rounds, Selection, choose, confirm, finalists, frontier, judged_again, judged_by
from laconic.search.stopped import Stopped
from laconic.search.verdict import Scale

_LIMIT = "max_drop"  # the limit that differs from budget to budget


def budgets(budget: Budget, drops: Iterable[Any]) -> list[Budget]:
    """Return a budget, and it with other drops that are allowed, each once, from the least on.

    Raises:
        BadInput: one of them is no limit.
    """
    wanted: list[Any] = list(drops) if isinstance(drops, Iterable) and not isinstance(drops, str) else [None]
    if any(isinstance(drop, bool) or not isinstance(drop, (int, float)) for drop in wanted):
        raise BadInput(f"frontier: must be drops that are allowed, such as (0.1, 0.5, 1); it is {drops!r}")
    others = [budget.at(_LIMIT, drop) for drop in sorted({float(drop) for drop in wanted}) if drop != budget.max_drop]
    return [budget, *others]


def loosest(asked: Sequence[Budget]) -> Budget:
    """Return the budget that allows the largest drop."""
    return max(asked, key=lambda one: float(one.max_drop or 0.0))


def judge(asked: Sequence[Budget]) -> Judge:
    """Return what is asked of candidates by these budgets."""
    most = loosest(asked)
    return Judge(most, tuple(one for one in asked if one is not most))


def choose_all(records: Sequence[Record], asked: Sequence[Budget], evaluator: Evaluator) -> tuple[list[Record], list[Selection]]:
    """Return the records as the first budget judges them, with the figures that are published for any of the budgets, and each budget's choice.

    All that might be delivered for one of the budgets are timed together, once; so are those that are first in the order of one of them, whose figures of
    that comparison are published. Whoever falls in it leaves its place to the next, which is timed with its baseline alone.

    Args:
        records: all, timed alone, the baselines first.
        asked: the budgets.
        evaluator: measures the finalists and those that are published.
    """
    by_budget = [judged_by(records, budget) for budget in asked]
    few = {record.key for judged, budget in zip(by_budget, asked, strict=True) for record in finalists(judged, budget)}

    def compare(now: Sequence[Record], keys: Collection[str]) -> tuple[list[Record], Rounds]:
        after, rounds = evaluator.compare(now, few if few.issuperset(keys) else keys)
        wanted = {*keys, *(record.key for record in now if record.baseline is None)}
        return [new if new.key in wanted else old for old, new in zip(now, after, strict=True)], rounds

    pairs = [*zip(by_budget, asked, strict=True)]
    first = {one.key for one in handed([choose(judged, budget, compare, _as_it_is)[1] for judged, budget in pairs])}

    def publish(now: Sequence[Record], key: str) -> list[Record]:
        return evaluator.publish(now, key, first if key in first else ())

    made = [choose(judged, budget, compare, publish) for judged, budget in pairs]
    now, choices = made[0][0], [choice for _, choice in made]
    for one in handed(choices[1:]):
        now = judged_again(now, publish(now, one.key), asked[0])
    return now, choices


def _as_it_is(records: Sequence[Record], key: str) -> list[Record]:
    """Publish nothing: whom a budget would be given first."""
    return list(records)


def handed(choices: Sequence[Selection]) -> list[Record]:
    """Return what is delivered or the nearest miss for any of the budgets, each once; that of the first budget first."""
    chosen = [one for choice in choices if (one := choice.best or choice.nearest) is not None]
    return list({record.key: record for record in chosen}.values())


def answers(
    records: Sequence[Record], asked: Sequence[Budget], choices: Sequence[Selection], scale: Scale, inputs: Any, ended: Stopped | None
) -> list[dict[str, Any]]:
    """Return what each budget is answered, in plain values, the strictest first; nothing where only one was asked.

    Args:
        records: all, with everything published and tested.
        asked: the budgets.
        choices: one for each.
        scale: of the metric.
        inputs: of the model, in plain values.
        ended: how far the run came, where it ended early.
    """
    if len(asked) < 2:
        return []
    found = []
    for budget, choice in sorted(zip(asked, choices, strict=True), key=lambda pair: float(pair[0].max_drop or 0.0)):
        judged = frontier(judged_by(records, budget), budget)
        judged = [_as_chosen(record, choice) for record in judged]
        whole = answer(judged, confirm(choice, judged, budget), budget, scale, inputs, ended)
        kept = ("budget", "met", "verdict", "headline", "certainty", "best", "nearest", "reason", "relaxed", "ships")
        found.append({**to_json({name: whole[name] for name in kept}), "told": budget.told(scale.noun)})
    return found


def _as_chosen(record: Record, choice: Selection) -> Record:
    """Leave the status under which a record was chosen, or had fallen, for this budget."""
    chosen = choice.best or choice.nearest
    if chosen is not None and record.key == chosen.key:
        return record.replace(status=chosen.status, reasons=chosen.reasons)
    return record
