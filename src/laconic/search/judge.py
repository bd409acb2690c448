"""A budget as the evaluator asks it: what must hold, what is better, and what a candidate's times are held against while they are taken."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from laconic.core import quantities
from laconic.measure.sequential import Marks
from laconic.run.gate import BETTER, Condition
from laconic.run.record import Record
from laconic.search.budget import Budget


@dataclass(frozen=True)
class Judge:
    """Meets `run.judge.Judge`.

    Args:
        budget: what is asked; of several budgets, which differ in the drop that they allow, the one that allows most.
        stricter: the others.
    """

    budget: Budget
    stricter: tuple[Budget, ...] = ()

    def asks(self, quantity: str) -> bool:
        """See `run.judge.Judge`."""
        return self.budget.names(quantity)

    def rules(self, baseline: Record) -> list[Condition]:
        """See `run.judge.Judge`."""
        return self.budget.rules(baseline)

    def order(self, record: Record) -> float:
        """See `run.judge.Judge`."""
        return self.budget.order(record)

    def hopeless(self, record: Record, baseline: Record) -> bool:
        """Return whether a rule about something that was measured already, and that no comparison of times decides, is broken."""
        known = [row for row in quantities.rows().values() if not row.timed and row.name in record.measured]
        decided = {row.limit.broken for row in known if row.limit is not None}
        if self.budget.goal in known:
            decided.add(BETTER)
        return any(reason.rule in decided for rule in self.budget.rules(baseline) if (reason := rule(record)) is not None)

    def rival(self, record: Record | None, passed: Iterable[Record]) -> Record | None:
        """Return the best of those that hold every budget which a record holds: where it is behind this one, it is no budget's best.

        Of one budget that is the best of all. Of several, whoever is slower than the best may be the best for a stricter budget.

        Args:
            record: scored; None: of which nothing is known, so that it may hold each of them.
            passed: what holds the budget that allows most.
        """
        asked = (self.budget, *self.stricter)
        held = asked if record is None else [one for one in asked if one.drop_reason(record, "valid") is None]
        strictest = min(held, key=_allowed, default=self.budget)
        return min((one for one in passed if strictest.drop_reason(one, "valid") is None), key=self.order, default=None)

    def marks(self, rival: Record | None) -> Marks:
        """Return what its speed must reach; and where speed decides which is best, the lower end of its rival's."""
        fast = self.budget.goal.name == "speedup"
        least = max(self.budget.min_speedup or 0.0, 1.0 if fast else 0.0)
        ahead = rival.speedup if rival is not None and fast else None
        return Marks(least or None, self.budget.max_latency_ms, None if ahead is None else ahead.low)


def _allowed(budget: Budget) -> float:
    """Return the drop that a budget allows."""
    limit = budget.drop_limit
    return math.inf if limit is None else limit
