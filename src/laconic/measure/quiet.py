"""Wait until other work leaves the machine alone."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable

from laconic.core.errors import BadInput
from laconic.core.progress import Progress, silent
from laconic.measure.ticks import Ticks

# Others may use this share of all cores, in so many looks on end.
QUIET_SHARE = 0.05
LOOKS = 3
LOOK_SECONDS = 1.0
LIMIT_S = 600.0


def wait_quiet(
    *,
    progress: Progress = silent,
    limit_s: float = LIMIT_S,
    share: float = QUIET_SHARE,
    look: Callable[[], float | None] | None = None,
) -> bool:
    """Wait until other processes have used hardly any processor time for some seconds on end.

    Args:
        progress: told of the waiting and of its end.
        limit_s: after so many seconds it gives up.
        share: of all cores, that others may use.
        look: looks at the machine for a while; the share that others use, or None where the system does not tell. None: `others_share` over a second.

    Returns:
        Whether the machine is quiet. Where the system does not tell, at once: False.

    Raises:
        BadInput: a limit or a share that makes no sense.
    """
    if not limit_s >= 0 or not 0 < share <= 1:
        raise BadInput(f"waiting for a quiet machine: limit_s {limit_s:g} must be 0 or more, share {share:g} above 0 and 1 at most")
    look = look or others_share
    calm, told, start = 0, False, time.monotonic()
    while True:
        used = look()
        if used is None:
            progress.log("this system does not tell what else it does; timing starts at once")
            return False
        calm = calm + 1 if used <= share else 0
        if calm >= LOOKS:
            if told:
                progress.log(f"the machine is quiet after {time.monotonic() - start:.0f} s")
            return True
        if time.monotonic() - start >= limit_s:
            progress.log(
                f"the machine was not quiet within {limit_s:g} s: others use {100 * used:.0f} % of the processors. Timing starts all the same"
            )
            return False
        if not told and calm == 0:
            progress.log(f"waiting for a quiet machine, {limit_s:g} s at most: others use {100 * used:.0f} % of the processors")
            told = True


def others_share(seconds: float = LOOK_SECONDS) -> float | None:
    """Return the share of all cores' time that other processes use, seen over some seconds; None where the system does not tell."""
    before, own = Ticks.now(), time.process_time()
    if before is None:
        return _from_load(seconds)
    time.sleep(seconds)
    after, own = Ticks.now(), time.process_time() - own
    if after is None or after.whole_s <= before.whole_s:
        return 0.0
    return min(max((after.used_s - before.used_s - own) / (after.whole_s - before.whole_s), 0.0), 1.0)


def _from_load(seconds: float) -> float | None:
    """Return the load average of the last minute over the cores: slow to fall, but all that there is."""
    if sys.platform == "win32":
        return None
    time.sleep(seconds)
    return min(os.getloadavg()[0] / (os.cpu_count() or 1), 1.0)
