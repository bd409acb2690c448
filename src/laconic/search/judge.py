"""A budget as the evaluator asks it: what must hold, what is better, and what a candidate's times are held against while they are taken."""

from __future__ import annotations

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
        budget: what is asked; of several budgets the one that allows most.
        several: whether stricter ones are asked too: then a candidate that is slower than the best may be another's best, and is timed to the end.
    """

    budget: Budget
    several: bool = False

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

    def marks(self, best: Record | None) -> Marks:
        """Return what its speed must reach; and where speed decides which is best, the lower end of the best so far."""
        fast = self.budget.goal.name == "speedup"
        least = max(self.budget.min_speedup or 0.0, 1.0 if fast else 0.0)
        ahead = best.speedup if best is not None and fast and not self.several else None
        return Marks(least or None, self.budget.max_latency_ms, None if ahead is None else ahead.low)
