"""The first thing that a child does, before it imports anything that takes time: it ties its life, and that of all it starts, to its parent's.

`python -m laconic.deploy.hold MODULE …` runs a module so. Three things hold it: Linux kills the child when the parent's thread ends; a parent that ended even
before the child could ask for that is told by its number; and a process that does nothing else waits for the end of either and then kills the child's group,
so that workers of a data loader or of joblib, of which no parent knows, live on neither.
"""

from __future__ import annotations

import contextlib
import os
import runpy
import select
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

PARENT = "LACONIC_PARENT"  # the variable in which a child finds the number of its parent; it is taken out of the environment at once
_POLL_S = 0.2  # between two looks, where the system does not tell by itself that a process ended


def command(module: str, *arguments: str) -> list[str]:
    """Return the command that runs a module as a child of Laconic; what lies in the current folder is not taken for a library."""
    safe = ["-P"] if sys.version_info >= (3, 11) else []
    return [sys.executable, *safe, "-m", "laconic.deploy.hold", module, *arguments]


def hold() -> None:
    """End this process, and what it starts, with the parent that the environment names; once. Where memory runs out, it goes before the parent."""
    parent = os.environ.pop(PARENT, None)
    if parent is None or sys.platform != "linux":
        return
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")
    _die_with_parent()
    pids = (int(parent), os.getpid())
    ends = _ends(pids)
    if os.getppid() != pids[0]:  # it ended while this process started, and nobody told
        os._exit(1)
    if os.getpgrp() == os.getpid():
        _leave_watcher(pids, ends)


def _die_with_parent() -> None:
    import ctypes

    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def _ends(pids: Sequence[int]) -> list[int]:
    """Return descriptors that become readable when these processes end; none where the kernel has no such thing (before Linux 5.3)."""
    if sys.platform != "linux":
        return []
    try:
        return [os.pidfd_open(pid) for pid in pids]
    except OSError:
        return []


def _leave_watcher(pids: Sequence[int], ends: Sequence[int]) -> None:
    """Start the process that waits. It is nobody's child in the end, so that whoever waits for the child's children does not meet it."""
    first = os.fork()
    if first:
        os.waitpid(first, 0)
        for end in ends:
            os.close(end)
        return
    try:
        if os.fork() == 0:
            _wait_and_kill(pids, ends)
    finally:
        os._exit(0)


def _wait_and_kill(pids: Sequence[int], ends: Sequence[int]) -> None:
    """Hold nothing open but what is waited for."""
    low = 0
    for end in (*sorted(ends), os.sysconf("SC_OPEN_MAX")):
        os.closerange(low, end)
        low = end + 1
    if ends:
        select.select(ends, [], [])
    else:
        while all(map(_lives, pids)):
            time.sleep(_POLL_S)
    os.killpg(0, signal.SIGKILL)


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


if __name__ == "__main__":
    hold()
    runpy.run_module(sys.argv.pop(1), run_name="__main__", alter_sys=True)
