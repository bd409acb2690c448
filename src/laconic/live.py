"""What a search has tried so far, as it goes: rows with names and status, the best so far, and when it will be done."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

_STYLES = {"passed": "green", "rejected": "yellow", "failed": "red"}
_FEWEST = 3  # rows, however low the terminal
_OTHERS = 9  # lines that a terminal needs for what stands under the rows
_LONGEST = 110  # letters of a reason in a plain line


class Tried:
    """Candidates in the order in which they became known, from the facts that `core.progress.Progress.advance` describes.

    Args:
        clock: seconds that never go back.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.rows: list[Mapping[str, Any]] = []
        self.best, self.total = "", 0
        self._clock = clock
        self._end: float | None = None

    def add(self, facts: Mapping[str, Any]) -> None:
        """Take in one candidate."""
        self.rows.append(facts)
        self.best, self.total = facts.get("best", self.best), facts.get("total", self.total)
        left_s = self._expected_s()
        limit_s = facts.get("left_s")
        self._end = self._clock() + (left_s if limit_s is None else min(left_s, limit_s))

    def _expected_s(self) -> float:
        """Return the seconds that the rest takes if it takes as long as what was tried."""
        took = [row["took_s"] for row in self.rows if row["status"] in _STYLES and "took_s" in row]
        return max(0, self.total - len(self.rows)) * (sum(took) / len(took) if took else 0.0)

    def left_s(self) -> float | None:
        """Return the seconds until everything is tried, or the time limit is reached; None before anything was."""
        return None if self._end is None else max(0.0, self._end - self._clock())

    def plain(self) -> str:
        """Return the last candidate in one line."""
        row = self.rows[-1]
        figures = [row["status"].replace("_", " "), row.get("figure", ""), f"drop {row['drop']}" if "drop" in row else ""]
        best = "the best so far" if self.best.startswith(f"{row['candidate']}, ") else ""
        told = ", ".join(part for part in (*figures, best) if part)
        why = row.get("why", "")
        return f"{len(self.rows)}/{self.total} {row['candidate']}: {told}" + (f" ({shortened(why, _LONGEST)})" if why else "")

    def drawn(self, height: int) -> RenderableType:
        """Return the last rows as a table that fits a terminal of so many lines, and the best so far."""
        if not self.rows:
            return Text()
        table = Table(box=None, expand=True, padding=(0, 2, 0, 0), header_style="dim")
        table.add_column("Status", no_wrap=True)
        table.add_column("Candidate", no_wrap=True, overflow="ellipsis", ratio=3)
        table.add_column(self.rows[-1].get("goal", "Figure"), justify="right", no_wrap=True)
        table.add_column("Drop", justify="right", no_wrap=True)
        table.add_column("Why not", no_wrap=True, overflow="ellipsis", ratio=2)
        shown = self.rows[-max(_FEWEST, height - _OTHERS) :]
        if hidden := len(self.rows) - len(shown):
            table.add_row("", Text(f"{hidden} earlier ones", "dim"), "", "", "")
        for row in shown:
            status = Text(row["status"].replace("_", " "), _STYLES.get(row["status"], "dim"))
            table.add_row(status, Text(row["candidate"]), row.get("figure", ""), row.get("drop", ""), Text(row.get("why", ""), "dim"))
        best = Text.assemble(("Best so far  ", "bold"), self.best or "none passed yet")
        return Group(table, best)


def shortened(text: str, most: int) -> str:
    """Return the text in one line of so many letters at the most.

    >>> shortened("one line of words", 9)
    'one line…'
    """
    line = " ".join(text.split())
    return line if len(line) <= most else line[: most - 1].rstrip() + "…"


def clock(seconds: float) -> str:
    """Write a time that is left.

    >>> clock(5), clock(75), clock(4000)
    ('0:05', '1:15', '1:06:40')
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
