"""How long work reports itself."""

from __future__ import annotations

from typing import Any, Protocol


class Progress(Protocol):
    """How long work reports itself. The command line shows it live; a library call may stay silent."""

    def start(self, name: str, total: int) -> None:
        """Begin a piece of work of `total` units."""

    def advance(self, n: int = 1, **facts: Any) -> None:
        """Show that `n` units are done; `facts` are figures worth showing (loss, metric).

        A candidate of a search tells `candidate` (its title), `status`, and what is known of: `figure` (what it has of the `goal`), `drop`, `why`, `took_s`;
        and of the search: `best` (title and figure of the best so far), `total` (candidates that are known of), `left_s` (until its time limit).
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
