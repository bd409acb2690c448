"""A live display of progress on the terminal or in a notebook; plain lines where neither can draw."""

from __future__ import annotations

import contextlib
import importlib.util
import sys
import time
from collections.abc import Iterator
from types import TracebackType
from typing import Any

from laconic.core.console import PLAIN
from laconic.core.progress import Logged, Progress, silent, told


def forgiving_console() -> None:
    """Let the console show another letter where it has not got the one that is written, instead of failing."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # none where something else took their place
            stream.reconfigure(errors=PLAIN)


def speaks_unicode(stream: Any) -> bool:
    """Return whether every letter can be written to a stream."""
    return (getattr(stream, "encoding", None) or "").lower().replace("-", "").replace("_", "") in ("utf8", "utf16", "utf32")


class Display:
    """Shows work as it goes, on standard error; nothing if `quiet`. Meets `core.task.Progress`."""

    def __init__(self, quiet: bool = False) -> None:
        self._quiet = quiet
        self._live: Any = None
        self._bars: Any = None
        self._tried: Any = None
        self._stack: list[tuple[Any, str, float]] = []
        self._over: list[Any] = []  # bars of pieces inside others that have ended

    def __enter__(self) -> Display:
        from rich.console import Console, Group
        from rich.live import Live
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
        from rich.text import Text

        from laconic.live import Tried, clock

        self._tried = Tried()
        console = Console(stderr=True)
        if self._quiet or not (console.is_terminal or (console.is_jupyter and importlib.util.find_spec("ipywidgets") is not None)):
            return self
        self._bars = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[facts]}", markup=False),
            console=console,
        )

        def drawn() -> Any:
            left_s = self._tried.left_s()
            eta = [] if left_s is None else [Text(f"ETA {clock(left_s)}", "dim")]
            return Group(self._tried.drawn(console.height), *eta, self._bars)

        # Drawing takes time from what is being timed: not often. What was drawn goes at the end: the result stands in its place.
        self._live = Live(get_renderable=drawn, console=console, refresh_per_second=2, transient=True)
        self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._live is not None:
            self._live.stop()

    def start(self, name: str, total: int) -> None:
        """Begin a piece of work; pieces nest."""
        task = None if self._bars is None else self._bars.add_task(name, total=total, facts="")
        self._stack.append((task, name, time.monotonic()))

    def advance(self, n: int = 1, **facts: Any) -> None:
        """Show that some of the piece that began last is done; a candidate, whose facts have a `status`, is a row or a line."""
        if "status" in facts:
            self._tried.add(facts)
            if self._bars is None:
                self.log(self._tried.plain())
            else:
                while self._over:  # what its steps did is no news any more
                    self._bars.remove_task(self._over.pop())
                self._bars.update(self._stack[-1][0], advance=n, total=self._tried.total, facts="")
        elif self._bars is not None and self._stack:
            self._bars.update(self._stack[-1][0], advance=n, facts=told(facts))

    def finish(self, **facts: Any) -> None:
        """End the piece that began last."""
        if not self._stack:
            return
        task, name, start = self._stack.pop()
        if self._bars is not None:
            self._bars.update(task, completed=self._bars.tasks[self._bars.task_ids.index(task)].total, facts=told(facts))
            self._over += [task] if self._stack else []
        elif not self._quiet:
            print(f"{name}: {time.monotonic() - start:.1f} s {told(facts)}".rstrip(), file=sys.stderr, flush=True)

    def log(self, text: str) -> None:
        """Print one line for the reader."""
        if self._live is not None:
            self._live.console.print(text, highlight=False, markup=False)
        elif not self._quiet:
            print(text, file=sys.stderr, flush=True)


@contextlib.contextmanager
def shown(progress: Progress | bool) -> Iterator[Progress]:
    """Yield progress as public functions take it: True shows it live where that can be drawn, False is silent; it is logged in any case (`Logged`)."""
    if progress is True:
        with Display() as display:
            yield Logged(display)
    else:
        yield progress if isinstance(progress, Logged) else Logged(progress or silent)
