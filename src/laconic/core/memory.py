"""Memory of a process, as the system tells it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path


def memory_of(pid: int) -> dict[str, int]:
    """Return bytes of memory of a process: `rss_bytes` now and `peak_bytes` at its highest; empty where there is no /proc."""
    try:
        text = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    except OSError:
        return {}
    rows = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
    result = {name: int(rows[row].split()[0]) * 1024 for name, row in (("rss_bytes", "VmRSS"), ("peak_bytes", "VmHWM")) if row in rows}
    # the kernel brings the peak up to date now and then, so it may lag a little behind
    return {name: max(result.values()) if name == "peak_bytes" else value for name, value in result.items()}


def available_bytes(root: Path = Path("/")) -> int | None:
    """Return how much memory a process that starts now may use: what the machine has free, and what every control group that this process is in has left.

    Args:
        root: of the file system; tests have another.

    Returns:
        Bytes; None where the system does not tell.
    """
    known = [value for value in (_machine(root), *_groups(root)) if value is not None]
    return min(known, default=None)


def _machine(root: Path) -> int | None:
    rows = _rows(root / "proc/meminfo")
    return 1024 * int(rows["MemAvailable:"]) if "MemAvailable:" in rows else None


def _groups(root: Path) -> Iterator[int | None]:
    """Yield what is left of the limit of each control group from this process's up (Linux, Documentation/admin-guide/cgroup-v2.rst; and its first version)."""
    try:
        lines = (root / "proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers in ("", "memory"):
            top, names = (root / "sys/fs/cgroup", _V2) if not controllers else (root / "sys/fs/cgroup/memory", _V1)
            group = top / path.lstrip("/")
            yield from (_left(folder, *names) for folder in (group, *group.parents) if folder.is_relative_to(top))


_V2 = ("memory.max", "memory.current", "inactive_file")
_V1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")


def _left(group: Path, limit: str, usage: str, cache: str) -> int | None:
    """Return bytes that a group may still use; pages of files that nobody uses are given back for the asking. None without a limit."""
    try:
        most, used = (int((group / name).read_text(encoding="ascii")) for name in (limit, usage))
    except (OSError, ValueError):  # no such group here, or "max"
        return None
    return max(0, most - used + int(_rows(group / "memory.stat").get(cache, 0)))


def _rows(path: Path) -> dict[str, str]:
    """Read lines of a name and a number; empty where there is no such file."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError:
        return {}
    return {words[0]: words[1] for line in lines if len(words := line.split()) >= 2}


def oom_kills() -> int | None:
    """Return how many processes the system has ended for want of memory since it started; None where it does not tell."""
    rows = _rows(Path("/proc/vmstat"))
    return int(rows["oom_kill"]) if "oom_kill" in rows else None
