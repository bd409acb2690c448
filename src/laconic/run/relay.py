"""Progress of a candidate's process, told in the one that started it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any

from laconic.core.progress import Progress
from laconic.core.records import to_json

_SECONDS = 0.1  # between two reports of units that are done


class Sender:
    """The child's side: sends each call of `Progress` as plain values; units that are done are gathered for a moment.

    Args:
        send: takes `[name of the call, arguments, facts]`.
    """

    def __init__(self, send: Callable[[Any], None]) -> None:
        self._send, self._done, self._facts, self._sent = send, 0, dict[str, Any](), time.monotonic()

    def start(self, name: str, total: int) -> None:
        """See `Progress`."""
        self._flush()
        self._send(["start", [name, total], {}])

    def advance(self, n: int = 1, **facts: Any) -> None:
        """See `Progress`."""
        self._done, self._facts = self._done + n, facts
        if time.monotonic() > self._sent + _SECONDS:
            self._flush()

    def finish(self, **facts: Any) -> None:
        """See `Progress`."""
        self._flush()
        self._send(["finish", [], _plain(facts)])

    def log(self, text: str) -> None:
        """See `Progress`."""
        self._send(["log", [text], {}])

    def alive(self) -> None:
        """Tell nothing but that work goes on."""
        self._send(None)

    def _flush(self) -> None:
        if self._done:
            self._send(["advance", [self._done], _plain(self._facts)])
        self._done, self._facts, self._sent = 0, {}, time.monotonic()


class Relay:
    """The parent's side: tells what comes to `progress`, and finishes what was left open when its process ends, however that happens."""

    def __init__(self, progress: Progress) -> None:
        self._progress, self._open = progress, 0

    def __enter__(self) -> Relay:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        while self._open:
            self.finish()

    def receive(self, event: Any) -> None:
        """Tell one event of a `Sender`; of one that is only alive there is nothing to tell."""
        if event is None:
            return
        name, arguments, facts = event
        calls: Mapping[str, Callable[..., None]] = {"start": self.start, "advance": self.advance, "finish": self.finish, "log": self.log}
        calls[name](*arguments, **facts)

    def start(self, name: str, total: int) -> None:
        """See `Progress`."""
        self._open += 1
        self._progress.start(name, total)

    def advance(self, n: int = 1, **facts: Any) -> None:
        """See `Progress`."""
        self._progress.advance(n, **facts)

    def finish(self, **facts: Any) -> None:
        """See `Progress`."""
        self._open -= 1
        self._progress.finish(**facts)

    def log(self, text: str) -> None:
        """See `Progress`."""
        self._progress.log(text)


def _plain(facts: Mapping[str, Any]) -> dict[str, Any]:
    return {name: to_json(value) for name, value in facts.items()}
