from __future__ import annotations

import os
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest

from laconic.deploy.turns import take_turn

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc and pins processes")


def spin(milliseconds: float) -> None:
    end = time.process_time() + milliseconds / 1e3
    while time.process_time() < end:
        pass


@pytest.fixture
def shared_core() -> Iterator[int]:
    """This process and two that never rest on one and the same core."""
    before = os.sched_getaffinity(0)
    core = min(before)
    os.sched_setaffinity(0, {core})
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(2)]
    try:
        yield core
    finally:
        for one in busy:
            one.kill()
            one.wait()
        os.sched_setaffinity(0, before)


def test_a_turn_is_as_long_as_asked_for_and_tells_each_run() -> None:
    turn = take_turn(lambda: spin(1), 0.02, 3)
    assert len(turn.times_ns) == len(turn.cpu_ns) >= 3
    assert turn.wall_ns >= 20e6 or len(turn.times_ns) == 3
    assert min(turn.cpu_ns) >= 1e6
    assert statistics.median(turn.times_ns) >= 0.9e6  # clocks of a shared host jump now and then
    assert len(take_turn(lambda: None, 0.0, 5).times_ns) == 5


def test_waiting_for_a_core_is_seen_and_is_no_processor_time(shared_core: int) -> None:
    """A third of a core: the work of 100 ms takes about 300, and waits for the rest."""
    turn = take_turn(lambda: spin(50), 0.0, 2)
    assert turn.wait_ns is not None
    assert turn.wait_ns > 0.3 * turn.wall_ns
    assert turn.involuntary is not None
    assert turn.involuntary >= 4
    assert sum(turn.cpu_ns) < 0.7 * turn.wall_ns
    assert sum(turn.cpu_ns) == pytest.approx(100e6, rel=0.2)


def test_a_process_that_sleeps_uses_no_processor_time_and_gives_the_core_away() -> None:
    turn = take_turn(lambda: time.sleep(0.05), 0.0, 3)
    assert turn.voluntary is not None
    assert turn.voluntary >= 3
    assert sum(turn.cpu_ns) < 0.2 * sum(turn.times_ns)


def test_a_turn_ends_when_the_threads_of_its_process_are_at_rest() -> None:
    """Threads that spin after a run would have a core in the next process's turn."""
    spinning = []

    def spin() -> None:
        end = time.perf_counter() + 0.03
        while time.perf_counter() < end:
            pass

    def run() -> None:
        spinning.append(threading.Thread(target=spin))
        spinning[-1].start()

    take_turn(run, 0.0, 1)
    assert not any(thread.is_alive() for thread in spinning)
