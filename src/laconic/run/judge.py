"""What is asked of candidates while their evidence is gathered."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from laconic.measure import latency
from laconic.measure.sequential import FIRST_LOOK, Marks, settled
from laconic.run import gate
from laconic.run.record import Record


class Judge(Protocol):
    """What is asked of a candidate. A budget is behind it, which this room does not know."""

    def asks(self, quantity: str) -> bool:
        """Whether a quantity, by its name, is limited or aimed at."""

    def rules(self, baseline: Record) -> list[gate.Condition]:
        """The rules that it must hold."""

    def order(self, record: Record) -> float:
        """A number that is smaller for a better record."""

    def hopeless(self, record: Record, baseline: Record) -> bool:
        """Whether it will be rejected whatever its times are."""

    def rival(self, record: Record | None, passed: Iterable[Record]) -> Record | None:
        """The best so far of what could be delivered in its place."""

    def marks(self, rival: Record | None) -> Marks:
        """What its times are held against."""


def stop_rule(record: Record, base: Record, judge: Judge, passed: Iterable[Record], rounds: int) -> latency.Stop:
    """Return what is asked after each round of a candidate against its baseline: why no more are needed, or None.

    Args:
        record: scored, not timed.
        base: its baseline.
        judge: what is asked of it.
        passed: the records that hold what is asked of them.
        rounds: so many are planned.
    """
    if judge.hopeless(record, base):
        return lambda so_far: "it was rejected before it was timed" if len(so_far[record.key]) >= FIRST_LOOK else None
    marks = judge.marks(judge.rival(record, passed))
    return lambda so_far: settled(so_far[base.key], so_far[record.key], marks, rounds)
