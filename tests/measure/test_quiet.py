from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from laconic.core.errors import BadInput
from laconic.core.progress import Silent
from laconic.measure.quiet import LOOKS, others_share, wait_quiet


class Told(Silent):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def log(self, text: str) -> None:
        self.lines.append(text)


def script(*shares: float | None) -> Iterator[float | None]:
    yield from shares
    raise AssertionError("it looked again")


def waited(*shares: float | None, limit_s: float = 1000.0) -> tuple[bool, list[str]]:
    told, looks = Told(), script(*shares)
    found = wait_quiet(progress=told, limit_s=limit_s, look=lambda: next(looks))
    with pytest.raises(AssertionError, match="looked again"):  # it looked as often as the script says
        next(looks)
    return found, told.lines


def test_a_quiet_machine_is_not_waited_for() -> None:
    assert waited(*[0.01] * LOOKS) == (True, [])


def test_it_waits_until_the_machine_was_quiet_for_some_looks_on_end() -> None:
    found, lines = waited(0.6, 0.01, 0.01, 0.3, *[0.04] * LOOKS)
    assert found
    assert lines[0] == "waiting for a quiet machine, 1000 s at most: others use 60 % of the processors"
    assert lines[1].startswith("the machine is quiet after")


def test_the_waiting_is_bounded() -> None:
    found, lines = waited(0.5, limit_s=0)
    assert not found
    assert lines == ["the machine was not quiet within 0 s: others use 50 % of the processors. Timing starts all the same"]


def test_a_system_that_tells_nothing_is_not_waited_for() -> None:
    assert waited(None) == (False, ["this system does not tell what else it does; timing starts at once"])


@pytest.mark.parametrize("options", [{"limit_s": -1.0}, {"limit_s": float("nan")}, {"share": 0.0}, {"share": 1.5}])
def test_limits_that_make_no_sense_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(BadInput, match="waiting for a quiet machine"):
        wait_quiet(**options)  # type: ignore[arg-type]


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_other_work_is_seen_and_its_own_is_not() -> None:
    busy = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        # one process wants a whole core; where more want it, they share it, and all of these are others
        assert others_share(0.5) > 0.4 / (os.cpu_count() or 1)  # type: ignore[operator]
    finally:
        busy.kill()
        busy.wait()
