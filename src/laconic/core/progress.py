"""How long work reports itself."""

from __future__ import annotations

import logging
import time
from typing import Any, Protocol

from laconic.core.errors import TIME_LIMIT, WorkerFailed

LOGGER = logging.getLogger("laconic")
LOGGER.addHandler(logging.NullHandler())  # who asks for it sees it, see `logging`


class Progress(Protocol):
    """How long work reports itself. The command line shows it live; a library call may stay silent."""

    def start(self, name: str, total: int) -> None:
        """Begin a piece of work of `total` units."""

    def advance(self, n: int = 1, **facts: Any) -> None:
        """Show that `n` units are done; `facts` are figures worth showing (loss, metric).

        A candidate of a search tells `candidate` (its title), `status`, and what is known of: `figure` (what it has of the `goal`), `drop`, `why`, `took_s`;
        and of the search: `best` (title and figure of the best so far), `total` (candidates that are known of), `left_s` (until its time limit). Before that
        it tells `now`, the title of the one whose turn it is.
        """

    def finish(self, **facts: Any) -> None:
        """End the piece of work that began last."""

    def log(self, text: str) -> None:
        """Print one line for the reader."""


class Silent:
    """Progress that says nothing; what listens to one of its calls is made from it."""

    def start(self, name: str, total: int) -> None:
        """Do nothing; see `Progress`."""

    def advance(self, n: int = 1, **facts: Any) -> None:
        """Do nothing; see `Progress`."""

    def finish(self, **facts: Any) -> None:
        """Do nothing; see `Progress`."""

    def log(self, text: str) -> None:
        """Do nothing; see `Progress`."""


silent: Progress = Silent()


class Said(Silent):
    """Progress of which only what is said is told: of work beside other work that is shown."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress

    def log(self, text: str) -> None:
        """See `Progress`."""
        self._progress.log(text)


class Logged:
    """Progress that is told to another and logged as well, to the logger `laconic`: what is said and finished as INFO, what begins as DEBUG."""

    def __init__(self, told: Progress) -> None:
        self._told = told
        self._open: list[tuple[str, float]] = []

    def start(self, name: str, total: int) -> None:
        """See `Progress`."""
        LOGGER.debug("%s: begins (%d)", name, total)
        self._open.append((name, time.monotonic()))
        self._told.start(name, total)

    def advance(self, n: int = 1, **facts: Any) -> None:
        """See `Progress`."""
        self._told.advance(n, **facts)

    def finish(self, **facts: Any) -> None:
        """See `Progress`."""
        if self._open:
            name, start = self._open.pop()
            LOGGER.info("%s", f"{name}: {time.monotonic() - start:.1f} s {told(facts)}".rstrip())
        self._told.finish(**facts)

    def log(self, text: str) -> None:
        """See `Progress`."""
        LOGGER.info("%s", text)
        self._told.log(text)


def told(facts: dict[str, Any]) -> str:
    """Write figures of a piece of work in one line, floats with four digits."""
    return "  ".join(f"{name} {value + 0.0:.4g}" if isinstance(value, float) else f"{name} {value}" for name, value in facts.items())


class Until(Silent):
    """Progress that ends the work which reports to it, once a run's time is over: between two steps of a training, where nothing is half-done.

    Args:
        progress: is told.
        deadline: of `time.monotonic`.
    """

    def __init__(self, progress: Progress, deadline: float) -> None:
        self._progress, self._deadline = progress, deadline

    def start(self, name: str, total: int) -> None:
        """See `Progress`; and raise WorkerFailed where the time is over."""
        self._check()
        self._progress.start(name, total)

    def advance(self, n: int = 1, **facts: Any) -> None:
        """See `Progress`; and raise WorkerFailed where the time is over."""
        self._progress.advance(n, **facts)
        self._check()

    def finish(self, **facts: Any) -> None:
        """See `Progress`."""
        self._progress.finish(**facts)

    def log(self, text: str) -> None:
        """See `Progress`."""
        self._progress.log(text)

    def _check(self) -> None:
        if time.monotonic() > self._deadline:
            raise WorkerFailed("the time limit was reached", TIME_LIMIT)
