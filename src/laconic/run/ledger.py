"""Where a run's time went: seconds of wall time by part, kept across an interruption."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping

# In these parts the model is trained, captured, exported or run by PyTorch or another runtime; all else is Laconic's own cost.
PARTS = ("train", "capture", "export", "check", "time", "test")


class Ledger:
    """Adds up wall time by part. What no part claims is `own`."""

    def __init__(self, before: Mapping[str, float] | None = None) -> None:
        before = before or {}
        self._spent = {part: float(before.get(part, 0.0)) for part in PARTS}
        self._earlier = float(before.get("total", 0.0))
        self._start = time.perf_counter()

    @contextlib.contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Count what happens inside as `name`; parts do not nest."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self._spent[name] += time.perf_counter() - start

    def spent(self) -> dict[str, float]:
        """Seconds by part, with `own` and `total`."""
        total = self._earlier + time.perf_counter() - self._start
        return {**self._spent, "own": max(0.0, total - sum(self._spent.values())), "total": total}
