"""Who holds a lease, who waits, and who takes over from one that is gone; compared with a lock file of the plainest kind: two processes that count."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from laconic.core import lease
from laconic.core.lease import Holder, holder, leased, started

# Adds 1 to a number in a file, many times, by reading and writing it: each time that two do so at once is lost.
COUNT = """
import sys, time
from pathlib import Path
from laconic.core.lease import leased
place = Path(sys.argv[1])
for _ in range(20):
    with leased(place):
        n = int(place.read_text())
        time.sleep(0.001)
        place.write_text(str(n + 1))
"""
KILLED = """
import os, signal, sys
from pathlib import Path
from laconic.core.lease import leased
with leased(Path(sys.argv[1])):
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_no_two_processes_hold_it_at_once(tmp_path: Path) -> None:
    place = tmp_path / "n"
    place.write_text("0")
    both = [subprocess.Popen([sys.executable, "-c", COUNT, str(place)]) for _ in range(2)]
    assert [one.wait(60) for one in both] == [0, 0]
    assert place.read_text() == "40"
    assert [path.name for path in tmp_path.glob("*.lease")] == []


def test_two_threads_of_a_process_do_not_hold_it_at_once(tmp_path: Path) -> None:
    inside: list[int] = []
    most: list[int] = []

    def work() -> None:
        with leased(tmp_path / "thing"):
            inside.append(1)
            most.append(len(inside))
            time.sleep(0.02)
            inside.pop()

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert most == [1, 1, 1]


def test_that_of_a_process_that_was_killed_is_taken_over_at_once(tmp_path: Path) -> None:
    place = tmp_path / "thing"
    assert subprocess.run([sys.executable, "-c", KILLED, str(place)], check=False).returncode == -9
    left = holder(place)
    assert left is not None
    assert left.gone()
    begun = time.monotonic()
    with leased(place):
        assert holder(place) == Holder.here()
    assert time.monotonic() - begun < 10  # far below STALE_S
    assert holder(place) is None


def test_a_number_that_another_process_has_by_now_is_no_holder(tmp_path: Path) -> None:
    """The process of that number runs, but started at another time."""
    assert started(os.getpid()) > 0
    (tmp_path / "thing.lease").write_text(json.dumps({"pid": os.getpid(), "started": 1, "host": socket.gethostname(), "thread": 1}))
    with leased(tmp_path / "thing"):
        pass


@pytest.mark.parametrize("renewed", [True, False], ids=["renewed", "left behind"])
def test_that_of_another_machine_is_stale_once_nobody_renews_it(renewed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the clock of whoever waits: the time of the file's change may be of a clock that goes otherwise."""
    monkeypatch.setattr(lease, "STALE_S", 0.4)
    file = tmp_path / "thing.lease"
    file.write_text(json.dumps({"pid": 1, "started": 5, "host": "elsewhere", "thread": 1}))
    os.utime(file, (1.0, 1.0))
    taken = threading.Event()

    def work() -> None:
        with leased(tmp_path / "thing"):
            taken.set()

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    for n in range(12):
        if renewed:
            os.utime(file, (2.0 + n, 2.0 + n))
        if taken.wait(0.1):
            break
    assert taken.is_set() is not renewed
    if renewed:
        file.unlink()
    thread.join(10)
    assert taken.is_set()
