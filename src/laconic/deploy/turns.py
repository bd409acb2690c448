"""Take a turn of runs and read from the system whether the process had the processor meanwhile."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from laconic.core.turn import Turn

_TASKS = Path("/proc/self/task")
# Threads of some runtimes spin for tens of milliseconds after a run, on a core that the next process needs: so long is waited for them at the most, and so
# often is looked.
_REST_S, _LOOK_S = 0.1, 0.001


def take_turn(run: Callable[[], object], seconds: float, min_runs: int, *, crowded: bool = False) -> Turn:
    """Run until both the seconds and the number of runs are reached; then wait until the threads of this process are at rest, for whose turn is next.

    Args:
        run: what is timed.
        seconds: length of the turn, at the least.
        min_runs: number of runs, at the least.
        crowded: as in `Turn`.
    """
    clock, processor = time.perf_counter_ns, time.process_time_ns
    times: list[int] = []
    spent: list[int] = []
    before = _Usage.now()
    begin = clock()
    end = begin + int(1e9 * seconds)
    while len(times) < min_runs or clock() < end:
        used = processor()
        start = clock()
        run()
        times.append(clock() - start)
        spent.append(processor() - used)
    wall, after = clock() - begin, _Usage.now()
    _rest()
    return Turn(
        times,
        spent,
        wall,
        wait_ns=_grown(before.wait_ns, after.wait_ns),
        throttled_ns=_grown(before.throttled_ns, after.throttled_ns),
        involuntary=_grown(before.involuntary, after.involuntary),
        voluntary=_grown(before.voluntary, after.voluntary),
        crowded=crowded,
    )


def _rest() -> None:
    """Wait until no other thread of this process runs, a bounded while (Linux; elsewhere nothing tells)."""
    end = time.perf_counter() + _REST_S
    while any(map(_runs, _TASKS.glob("*/stat"))) and time.perf_counter() < end:
        time.sleep(_LOOK_S)


def _runs(path: Path) -> bool:
    """Return whether a thread other than this one is running or waits for a core: the third entry of its stat is R (Linux, man proc_pid_stat)."""
    if path.parent.name == str(threading.get_native_id()):
        return False
    try:
        return path.read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[0] == "R"
    except (OSError, IndexError):  # the thread ended
        return False


@dataclass(frozen=True)
class _Usage:
    """Counters of this process that only grow; None where the system keeps none."""

    wait_ns: int | None
    throttled_ns: int | None
    involuntary: int | None
    voluntary: int | None

    @classmethod
    def now(cls) -> _Usage:
        involuntary, voluntary = _switches()
        return cls(_waited(), _throttled(), involuntary, voluntary)


def _grown(before: int | None, after: int | None) -> int | None:
    """A thread that ended takes its counters along: nothing is less than 0."""
    return None if before is None or after is None else max(0, after - before)


def _waited() -> int | None:
    """Nanoseconds that this process's threads waited for a core: the second number of schedstat (Linux, Documentation/scheduler/sched-stats)."""
    waited_ns = None
    for path in _TASKS.glob("*/schedstat"):
        try:
            waited_ns = (waited_ns or 0) + int(path.read_text(encoding="utf-8").split()[1])
        except (OSError, IndexError, ValueError):  # the thread ended, or the kernel keeps no such file
            continue
    return waited_ns


def _throttled() -> int | None:
    """Nanoseconds that the control group was throttled (cgroup v2)."""
    try:
        group = Path("/proc/self/cgroup").read_text(encoding="utf-8").strip().rpartition("::")[2].lstrip("/")
        rows = dict(line.split(" ", 1) for line in (Path("/sys/fs/cgroup") / group / "cpu.stat").read_text(encoding="utf-8").splitlines())
        return 1000 * int(rows["throttled_usec"])
    except (OSError, KeyError, ValueError):
        return None


def _switches() -> tuple[int | None, int | None]:
    try:
        import resource
    except ImportError:  # Windows
        return None, None
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_nivcsw, usage.ru_nvcsw
