"""What a run would deliver if it ended now, kept in its folder for those who watch it: `so_far.json`, in the form of a result."""

from __future__ import annotations

import contextlib
import time

from laconic.core.errors import LaconicError
from laconic.core.files import write_json
from laconic.run.store import SO_FAR, RunStore
from laconic.search.content import Facts, content
from laconic.search.select import frontier, judged_by, so_far
from laconic.search.walk import Walk

_SHARE = 300  # times as long as the last writing took passes before the next
_WAITS = "its turn has not come"


class SoFar:
    """Writes it, not so often that it takes more than a three-hundredth of the time.

    Args:
        store: the run's folder, open.
        known: of the run.
        walk: knows the records.
    """

    def __init__(self, store: RunStore, known: Facts, walk: Walk) -> None:
        self.store, self.known, self.walk = store, known, walk
        self._next = float("-inf")

    def write(self) -> None:
        """Write what is known now; nothing before a baseline is. A writing that fails is left out: whoever watches sees less."""
        start = time.monotonic()
        if not self.walk.records or start < self._next:
            return
        budget = self.known.budget
        with contextlib.suppress(LaconicError):
            records = frontier(judged_by([*self.walk.records, *self.walk.untried(_WAITS)], budget), budget)
            write_json(self.store.path(SO_FAR), content(self.known, records, so_far(records, budget)))
        now = time.monotonic()
        self._next = now + _SHARE * (now - start)
