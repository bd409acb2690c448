"""A run that ended before everything was tried: what ended it, and how far it came."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from laconic.core.wording import given, number
from laconic.run.record import Record

LIMIT, INTERRUPT = "time limit", "interrupt"
_TRIED = ("passed", "rejected", "failed")
_WORDS = {LIMIT: "the time limit was reached", INTERRUPT: "the run was interrupted"}


@dataclass(frozen=True)
class Stopped:
    """What ended a run early (`LIMIT` or `INTERRUPT`), after how many seconds in all, and how many candidates were tried of those that can run here."""

    by: str
    after_s: float
    tried: int
    of: int

    def __str__(self) -> str:
        """Return it in a sentence.

        >>> str(Stopped(LIMIT, 83.4, 14, 22))
        'The time limit was reached: this is the best after 83 s, with 14 of 22 candidates tried. Started again in the same folder, the run goes on.'
        >>> str(Stopped(LIMIT, 40.0, 0, 22))
        'The time limit was reached before a candidate had its turn: getting ready took 40 s. With a longer limit, in the same folder, the run goes on.'
        """
        words = _WORDS[self.by]
        if self.by == LIMIT and not self.tried:
            ready = f"getting ready took {spoken(self.after_s)}"
            return f"{words[:1].upper()}{words[1:]} before a candidate had its turn: {ready}. With a longer limit, in the same folder, the run goes on."
        return (
            f"{words[:1].upper()}{words[1:]}: this is the best after {spoken(self.after_s)}, with {self.tried:,} of {self.of:,} candidates tried. "
            "Started again in the same folder, the run goes on."
        )


def stopped(records: Sequence[Record], by: str, after_s: float) -> Stopped | None:
    """Return how far a run came; None where it was not interrupted and every candidate had its turn.

    Args:
        records: all, the baselines among them.
        by: what ended it, if something did.
        after_s: seconds since it began, those of earlier calls included.
    """
    others = [record for record in records if record.baseline is not None and (record.status in _TRIED or record.waits)]
    left = any(record.waits for record in others)
    if by == LIMIT and not left:
        return None
    return Stopped(by, after_s, sum(record.status in _TRIED for record in others), len(others))


def spoken(seconds: float) -> str:
    """Write a time as people say it.

    >>> spoken(7.3), spoken(83.4), spoken(1200)
    ('7.3 s', '83 s', '20 min')
    """
    if seconds >= 120:
        return f"{given(round(seconds / 60, 1 if seconds < 600 else 0))} min"
    return f"{number(seconds, 2)} s"
