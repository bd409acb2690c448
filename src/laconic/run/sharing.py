"""Processes that train on a machine that others use too: they take as many threads as there are free cores, and do not spin while they wait.

PyTorch's threads (GNU libgomp) spin at the end of every parallel loop until the last of them is done: for a millisecond or more, in which, on a shared machine,
the one that is waited for has no core. Threads that sleep instead are slower where the machine is free, most of all for small nets, so they do so where it is
not. And glibc gives large blocks back to the system after every step, which then clears their pages again for the next. Both
are settled by variables that are read when a process starts (`python -m benchmarks.sharing` measures what they bring).
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from laconic.core.progress import Progress, silent
from laconic.deploy.runtime import cores
from laconic.measure.quiet import others_share

_NAMES = "LACONIC_OWN"  # the variable that names those that were set here, so that they go no further
# OpenMP 5.2, 21.7: threads that wait sleep. glibc, mallopt(3): blocks up to 32 MiB (the most that it takes) stay on the heap, whose end is kept.
SHARED = {"OMP_WAIT_POLICY": "passive"}
ALWAYS = {
    "MALLOC_MMAP_THRESHOLD_": str(32 * 2**20),
    "MALLOC_TRIM_THRESHOLD_": str(2**30),
}
LOOK_SECONDS = 0.3
_BUSY = 0.1  # share of the processors that others use, from which on the machine is shared


def environment(threads: int | None = None) -> dict[str, str]:
    """Return variables for a process that trains, on the machine as it is now; what the user has set is left as it is.

    Args:
        threads: that it may take at the most, where others of the same run train beside it.
    """
    share = 1.0 if threads is not None else others_share(LOOK_SECONDS)
    wanted = {**ALWAYS, **(SHARED if share is not None and share > _BUSY else {})}
    if threads is not None:
        wanted["OMP_NUM_THREADS"] = str(threads)
    own = {name: value for name, value in wanted.items() if name not in os.environ}
    return {**own, _NAMES: " ".join(own)}


def forget() -> None:
    """Take these variables out of this process's environment, once its libraries have read them: what it starts and times runs as it would elsewhere."""
    for name in os.environ.pop(_NAMES, "").split():
        os.environ.pop(name, None)


@contextlib.contextmanager
def free_threads(progress: Progress = silent) -> Iterator[None]:
    """Train with no more threads than there are cores that others leave free."""
    import torch  # here, since whoever starts a process need not wait for it

    before = torch.get_num_threads()
    share = others_share(LOOK_SECONDS) if before > 1 else None
    now = before if share is None else min(before, threads(share, cores()))
    if now < before:
        progress.log(f"others use {100 * (share or 0):.0f} % of the processors: training takes {now} of {before} threads")
    torch.set_num_threads(now)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def threads(share: float, of: int) -> int:
    """Return how many threads find a core of their own, where others use a share of so many cores.

    >>> [threads(share, 2) for share in (0.0, 0.2, 0.5, 1.0)]
    [2, 2, 1, 1]
    """
    return max(1, round(of * (1 - share)))
