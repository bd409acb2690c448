"""Look at a run while another process carries it out: in its folder, or at the URL where it is mirrored, wherever that process runs."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from laconic.run.mirror import STALE_S, Mirror, folder_of, is_url
from laconic.run.store import LIVE, MANIFEST, RESULT, SO_FAR, in_use

Look = Callable[[], bool | None]


def following(place: str | Path) -> tuple[Path, Look]:
    """Return the folder here in which a run can be read, and a function that reads it anew and says whether a process works on it (None: cannot be told).

    Args:
        place: a folder, or a URL. What is mirrored there is copied into a folder of its own; where a process of this machine works for the URL, its folder is
            looked at itself, which knows more.

    Raises:
        BadInput: fsspec knows no such URL.
        MissingExtra: it needs a package that is not installed.
    """
    folder = folder_of(str(place)) if is_url(place) else Path(place)
    if is_url(place) and not in_use(folder):
        afar = Afar(Mirror(str(place), folder.with_name(f"{folder.name}-watched")))
        return afar.mirror.folder, afar.look
    return folder, lambda: in_use(folder)


class Afar:
    """The few files by which a run at a URL is followed."""

    def __init__(self, mirror: Mirror, clock: Callable[[], float] = time.monotonic) -> None:
        self.mirror, self._clock = mirror, clock
        self._beat, self._since = -1, clock()

    def look(self) -> bool:
        """Copy them; the lease is read first: when it has gone, all that the run wrote is there."""
        working = self._working()
        self.mirror.fetch(lambda name: name in (MANIFEST, RESULT))
        for name in (LIVE, SO_FAR):
            self.mirror.fetch_now(name)
        return working

    def _working(self) -> bool:
        known = self.mirror.lease()
        if known is None or known[0].gone():
            return False
        if known[1] != self._beat:
            self._beat, self._since = known[1], self._clock()
        return self._clock() < self._since + STALE_S
