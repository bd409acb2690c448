"""How long work reports itself."""

from __future__ import annotations

from typing import Any, Protocol


class Progress(Protocol):
    """How long work reports itself. The command line shows it live; a library call may stay silent."""

    def start(self, name: str, total: int) -> None:
        """A piece of work of `total` units begins."""

    def advance(self, n: int = 1, **facts: Any) -> None:
        """`n` units are done; `facts` are figures worth showing (loss, metric)."""

    def finish(self, **facts: Any) -> None:
        """The piece of work that began last is over."""

    def log(self, text: str) -> None:
        """One line for the reader."""


class Silent:
    """Progress that says nothing; what listens to one of its calls is made from it."""

    def start(self, name: str, total: int) -> None:
        """See `Progress`."""

    def advance(self, n: int = 1, **facts: Any) -> None:
        """See `Progress`."""

    def finish(self, **facts: Any) -> None:
        """See `Progress`."""

    def log(self, text: str) -> None:
        """See `Progress`."""


silent: Progress = Silent()
