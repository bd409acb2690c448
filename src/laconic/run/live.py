"""What a run is doing, written into its folder as it goes, so that another process can watch it: `live.json`."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Callable
from typing import Any

from laconic.core.errors import LaconicError
from laconic.core.progress import Progress, Silent
from laconic.core.records import to_json
from laconic.run.store import LIVE, SO_FAR, RunStore

EVERY_S = 1.0  # between two writings, unless a candidate became known
_LINES = 20  # last ones that were logged


class Live(Silent):
    """Progress that is told to another and kept in the run's folder.

    The file holds ``stack`` (the pieces of work that are open: name, done, total, facts), ``rows`` (what was told of each candidate, with ``at``, seconds
    since the epoch), ``now`` (the title of the one whose turn it is), ``log`` (the last lines) and ``at``. It appears whole and is not synced to disk: after a
    power cut nothing of it is needed. A writing that fails is left out: whoever watches sees less.

    Args:
        progress: is told.
        store: the run's folder, open.
        after: called when a candidate became known and when a piece of work begins.
    """

    def __init__(self, progress: Progress, store: RunStore, after: Callable[[], None] = lambda: None) -> None:
        self._progress, self._path, self.after = progress, store.path(LIVE), after
        self._stack: list[dict[str, Any]] = []
        self._rows: list[dict[str, Any]] = []
        self._log: list[str] = []
        self._now, self._written, self._ended = "", float("-inf"), False
        self._lock = threading.RLock()

    def start(self, name: str, total: int) -> None:
        """See `Progress`."""
        self._progress.start(name, total)
        with self._lock:
            self._stack.append({"name": name, "done": 0, "total": total, "facts": {}})
            self._write(at_once=len(self._stack) == 1)
        if len(self._stack) == 1:
            self.after()

    def advance(self, n: int = 1, **facts: Any) -> None:
        """See `Progress`."""
        self._progress.advance(n, **facts)
        candidate = "status" in facts
        with self._lock:
            self._now = str(facts.get("now", self._now))
            if candidate:
                self._rows.append({**facts, "at": time.time()})
            if self._stack:
                top = self._stack[-1]
                top["done"] += n
                if candidate:
                    top["total"] = facts.get("total", top["total"])
                elif "now" not in facts:
                    top["facts"] = facts
            self._write(at_once=candidate)
        if candidate:
            self.after()

    def finish(self, **facts: Any) -> None:
        """See `Progress`."""
        self._progress.finish(**facts)
        with self._lock:
            if self._stack:
                self._stack.pop()
            self._write()

    def log(self, text: str) -> None:
        """See `Progress`."""
        self._progress.log(text)
        with self._lock:
            self._log = [*self._log, text][-_LINES:]
            self._write()

    def end(self) -> None:
        """Take away what was kept for those who watch: the run has a result."""
        with self._lock:
            self._ended = True
            for path in (self._path, self._path.with_name(SO_FAR)):
                with contextlib.suppress(OSError):
                    path.unlink(missing_ok=True)

    def _write(self, at_once: bool = False) -> None:
        if self._ended or (not at_once and time.monotonic() < self._written + EVERY_S):
            return
        state = {"at": time.time(), "stack": self._stack, "rows": self._rows, "now": self._now, "log": self._log}
        aside = self._path.with_name(".writing-live.json")
        with contextlib.suppress(OSError, LaconicError, ValueError, TypeError):
            aside.write_text(json.dumps(to_json(state), default=str), encoding="utf-8", errors="replace")
            aside.replace(self._path)
        self._written = time.monotonic()
