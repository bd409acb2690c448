"""Where a run's time went: seconds of wall time by part, and when each was spent on which candidate; kept across an interruption."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from laconic.run.store import RunStore

FILE = "spent.json"

# In these parts the model is trained, captured, exported, packed or run; all else is Laconic's own cost.
PARTS = ("train", "capture", "export", "recover", "check", "pack", "time", "tables", "test")
_BRIEF_S = 0.005  # what took less is no span of its own
_SHARE = 300  # times as long as the last writing took passes before the next


@dataclass(frozen=True)
class Span:
    """A stretch of a run: its part, the key of the candidate that it was spent on (empty where none), when it began, in seconds of the run, and how long."""

    part: str
    of: str
    start_s: float
    seconds: float


class Open:
    """A part that is being counted."""

    def __init__(self) -> None:
        self.inside: dict[str, float] = {}

    def also(self, part: str, seconds: float) -> None:
        """Count so many of its seconds, the first ones, as another part."""
        self.inside[part] = self.inside.get(part, 0.0) + seconds


class Ledger:
    """Adds up wall time by part. What no part claims is `own`."""

    def __init__(self) -> None:
        self._spent = dict.fromkeys(PARTS, 0.0)
        self._spans: list[Span] = []
        self._earlier = 0.0
        self._start = time.perf_counter()
        self._next = self._start

    def keep(self, store: RunStore, at_once: bool = False) -> None:
        """Write down what was spent so far, for a run that is continued; unless at once, not so often that it takes more than a three-hundredth of the time."""
        start = time.perf_counter()
        if start < self._next and not at_once:
            return
        store.write(FILE, {**self.spent(), "spans": self._spans})
        now = time.perf_counter()
        self._next = now + _SHARE * (now - start)

    def resume(self, store: RunStore) -> None:
        """Add what was spent before an interruption."""
        before, spans = store.read_as(FILE, _kept) if store.has(FILE) else ({}, [])
        self._spans = [*spans, *self._spans]
        self._earlier += before.get("total", 0.0)
        for part in PARTS:
            self._spent[part] += before.get(part, 0.0)

    @contextlib.contextmanager
    def part(self, name: str, of: str = "") -> Iterator[Open]:
        """Count what happens inside as `name`; parts do not nest.

        Args:
            name: of PARTS.
            of: the key of the candidate that it is spent on.
        """
        start, opened = time.perf_counter(), Open()
        try:
            yield opened
        finally:
            self._close(name, of, start, time.perf_counter() - start, opened)

    def _close(self, name: str, of: str, start: float, seconds: float, opened: Open) -> None:
        at_s = self._earlier + start - self._start
        for part, inside_s in (*opened.inside.items(), (name, seconds)):
            took_s = min(inside_s, seconds)
            self._spent[part] += took_s
            if took_s >= _BRIEF_S:
                self._spans.append(Span(part, of, round(at_s, 3), round(took_s, 3)))
            at_s, seconds = at_s + took_s, seconds - took_s

    def spent(self) -> dict[str, float]:
        """Return seconds by part, with `own` and `total`."""
        total = self._earlier + time.perf_counter() - self._start
        return {**self._spent, "own": max(0.0, total - sum(self._spent.values())), "total": total}

    def spans(self) -> list[Span]:
        """Return what was spent when, in the order in which it ended."""
        return list(self._spans)


def _kept(kept: Any) -> tuple[dict[str, float], list[Span]]:
    """Read what was spent before, by part and in all, and when."""
    return {part: float(kept.get(part, 0.0)) for part in (*PARTS, "total")}, [Span(**span) for span in kept.get("spans", ())]
