"""Where a run's time went: seconds of wall time by part, kept across an interruption."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

from laconic.run.store import RunStore

FILE = "spent.json"

# In these parts the model is trained, captured, exported or run by PyTorch or another runtime; all else is Laconic's own cost.
PARTS = ("train", "capture", "export", "check", "time", "tables", "test")


class Ledger:
    """Adds up wall time by part. What no part claims is `own`."""

    def __init__(self) -> None:
        self._spent = dict.fromkeys(PARTS, 0.0)
        self._earlier = 0.0
        self._start = time.perf_counter()

    def keep(self, store: RunStore) -> None:
        """Write down what was spent so far, for a run that is continued."""
        store.write(FILE, self.spent())

    def resume(self, store: RunStore) -> None:
        """Add what was spent before an interruption."""
        before = (
            store.read_as(FILE, lambda kept: {part: float(kept.get(part, 0.0)) for part in (*PARTS, "total")}) if store.has(FILE) else {}
        )
        self._earlier += before.get("total", 0.0)
        for part in PARTS:
            self._spent[part] += before.get(part, 0.0)

    @contextlib.contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Count what happens inside as `name`; parts do not nest."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self._spent[name] += time.perf_counter() - start

    def spent(self) -> dict[str, float]:
        """Return seconds by part, with `own` and `total`."""
        total = self._earlier + time.perf_counter() - self._start
        return {**self._spent, "own": max(0.0, total - sum(self._spent.values())), "total": total}
