"""A lease: only one process works on a thing, wherever it runs; others wait until it is done, and take over from one that is gone.

A lock of the system ends with its process, but holds on one machine alone and on few shared mounts. A lease is a file that names its holder: process, when that
started, and machine. On this machine it is stale as soon as no process of that number started then; that of another machine, when its time of change, which the
holder renews, has stood still for a while by the clock of whoever waits. Where a holder is taken for gone that is not, both make the same: what is made under a
lease depends on its inputs alone and appears whole (`core.files`).
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from laconic.core.files import alone

RENEWED_S = 5.0  # how often a holder renews its lease
STALE_S = 120.0  # for so long that of another machine stands still before it counts as left behind
_POLL_S = 0.05


@dataclass(frozen=True)
class Holder:
    """A process: its number, when it started in ticks of its machine's clock (-1 where the system does not tell), its machine; and which of its threads."""

    pid: int
    started: int
    host: str
    thread: int = 0

    @classmethod
    def here(cls) -> Holder:
        """Return this thread of this process."""
        return cls(os.getpid(), started(os.getpid()), socket.gethostname(), threading.get_ident())

    def gone(self) -> bool:
        """Return whether a process of this machine has ended; False of other machines' processes, of which nothing is known here."""
        return self.host == socket.gethostname() and started(self.pid) != self.started


@contextlib.contextmanager
def leased(path: Path) -> Iterator[None]:
    """Be the only one on all machines that see this path; others wait. The lease is a file ``NAME.lease`` beside it, which goes in the end."""
    lease = path.with_name(path.name + ".lease")
    lease.parent.mkdir(parents=True, exist_ok=True)
    watched = _Watched()
    while not _taken(lease):
        if watched.stale(lease):
            _reap(lease, watched.seen)
        else:
            time.sleep(_POLL_S)
    over = threading.Event()
    renewing = threading.Thread(target=_renew, args=(lease, over), daemon=True)
    renewing.start()
    try:
        yield
    finally:
        over.set()
        renewing.join()
        if _read(lease) == _text():  # another one may have taken it for stale
            lease.unlink(missing_ok=True)


def holder(path: Path) -> Holder | None:
    """Return who holds the lease of a path; None where nobody does, or its file tells nobody."""
    try:
        return Holder(**json.loads(_read(path.with_name(path.name + ".lease"))))
    except (ValueError, TypeError):
        return None


def started(pid: int) -> int:
    """Return when a process started, in ticks since its machine did; -1 where it has ended, or where the system tells nothing of processes."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        return -1 if status[0] in "ZX" else int(status[19])
    except (OSError, IndexError, ValueError):
        return _running(pid)


def _running(pid: int) -> int:
    """Return 0 for a process that runs on a system without /proc."""
    if Path("/proc/self/stat").exists():
        return -1
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return -1
    except PermissionError:
        return 0
    return 0


class _Watched:
    """A lease that is waited for: what was seen of it last, and since when it has not changed."""

    def __init__(self) -> None:
        self.seen = ""
        self._changed, self._since = -1, time.monotonic()

    def stale(self, lease: Path) -> bool:
        """Return whether whoever holds the lease is gone."""
        try:
            self.seen, changed = _read(lease), lease.stat().st_mtime_ns
        except OSError:
            return False
        if changed != self._changed:
            self._changed, self._since = changed, time.monotonic()
        try:
            known = Holder(**json.loads(self.seen))
        except (ValueError, TypeError):
            return time.monotonic() > self._since + STALE_S
        if known.host == socket.gethostname():
            return known.gone()
        return time.monotonic() > self._since + STALE_S


def _taken(lease: Path) -> bool:
    """Take a lease that nobody holds: its file appears with its content, or not at all."""
    aside = lease.with_name(f".writing-{os.getpid()}-{threading.get_ident()}-{lease.name}")
    aside.write_text(_text(), encoding="utf-8")
    try:
        os.link(aside, lease)
    except FileExistsError:
        return False
    except OSError:  # no hard links there
        return _opened(lease)
    finally:
        aside.unlink(missing_ok=True)
    return True


def _opened(lease: Path) -> bool:
    try:
        with lease.open("x", encoding="utf-8") as file:
            file.write(_text())
    except FileExistsError:
        return False
    return True


def _reap(lease: Path, seen: str) -> None:
    """Take away a stale lease, unless another one has done so and holds it by now."""
    with alone(lease):
        if _read(lease) == seen:
            lease.unlink(missing_ok=True)


def _renew(lease: Path, over: threading.Event) -> None:
    while not over.wait(RENEWED_S):
        with contextlib.suppress(OSError):
            os.utime(lease)


def _text() -> str:
    return json.dumps(asdict(Holder.here()))


def _read(lease: Path) -> str:
    with contextlib.suppress(OSError):
        return lease.read_text(encoding="utf-8")
    return ""
