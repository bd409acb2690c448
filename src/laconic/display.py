"""A live display of progress on the terminal; plain lines where the output is no terminal."""

from __future__ import annotations

import codecs
import sys
import time
from types import TracebackType
from typing import Any

# Letters that figures and sentences are written with, and what stands for them on a console that has not got them; others become a question mark.
_PLAIN = {"−": "-", "–": "-", "—": "-", "‑": "-", "×": "x", "·": "|", "→": "->", "…": "...", "µ": "u", "≥": ">=", "≤": "<=", "±": "+-", "“": '"', "”": '"',
          "‘": "'", "’": "'", "\u00a0": " ", "\u202f": " ", "⁶": "^6", "━": "-", "╸": "-", "╺": "-"}  # fmt: skip


def forgiving_console() -> None:
    """Let the console show another letter where it has not got the one that is written, instead of failing."""
    codecs.register_error("laconic.plain", _plainly)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # none where something else took their place
            stream.reconfigure(errors="laconic.plain")


def _plainly(error: UnicodeError) -> tuple[str | bytes, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(_PLAIN.get(letter, "?") for letter in error.object[error.start : error.end]), error.end


def speaks_unicode(stream: Any) -> bool:
    """Return whether every letter can be written to a stream."""
    return (getattr(stream, "encoding", None) or "").lower().replace("-", "").replace("_", "") in ("utf8", "utf16", "utf32")


class Display:
    """Shows work as it goes, on standard error; nothing if `quiet`. Meets `core.task.Progress`."""

    def __init__(self, quiet: bool = False) -> None:
        self._quiet = quiet
        self._live: Any = None
        self._stack: list[tuple[Any, str, float]] = []

    def __enter__(self) -> Display:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

        console = Console(stderr=True)
        self._console = console
        if not self._quiet and console.is_terminal:
            self._live = Progress(
                TextColumn("[bold]{task.description}"),
                BarColumn(bar_width=24),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.fields[facts]}", markup=False),
                console=console,
                refresh_per_second=2,  # drawing takes time from what is being timed
            )
            self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._live is not None:
            self._live.stop()

    def start(self, name: str, total: int) -> None:
        """Begin a piece of work; pieces nest."""
        task = None if self._live is None else self._live.add_task(name, total=total, facts="")
        self._stack.append((task, name, time.monotonic()))

    def advance(self, n: int = 1, **facts: Any) -> None:
        """Show that some of the piece that began last is done."""
        if self._live is not None and self._stack:
            self._live.update(self._stack[-1][0], advance=n, facts=_told(facts))

    def finish(self, **facts: Any) -> None:
        """End the piece that began last."""
        if not self._stack:
            return
        task, name, start = self._stack.pop()
        if self._live is not None:
            self._live.update(task, completed=self._live.tasks[self._live.task_ids.index(task)].total, facts=_told(facts))
        elif not self._quiet:
            print(f"{name}: {time.monotonic() - start:.1f} s {_told(facts)}".rstrip(), file=sys.stderr, flush=True)

    def log(self, text: str) -> None:
        """Print one line for the reader."""
        if self._live is not None:
            self._live.console.print(text, highlight=False, markup=False)
        elif not self._quiet:
            print(text, file=sys.stderr, flush=True)


def _told(facts: dict[str, Any]) -> str:
    return "  ".join(f"{name} {value + 0.0:.4g}" if isinstance(value, float) else f"{name} {value}" for name, value in facts.items())
