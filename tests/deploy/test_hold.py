"""Nobody outlives the parent: with real signals, at moments at which nothing of the child runs yet."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from laconic.core.memory import memory_of
from laconic.deploy import hold
from laconic.deploy.child import Child

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="Linux tells a child of its parent's end")

# A child that is still importing, and has started others meanwhile: one plain, one that holds the child's pipes, as a forked worker of a data loader does.
SLOW = """
import os, subprocess, sys, time
from pathlib import Path
started = [os.getpid(), subprocess.Popen(["sleep", "3600"]).pid]
if (pid := os.fork()) == 0:
    time.sleep(3600)
Path("pids.txt.part").write_text(" ".join(map(str, [*started, pid])))
os.rename("pids.txt.part", "pids.txt")
time.sleep(3600)
"""
PARENT = """
from laconic.deploy.child import Child
from laconic.deploy.hold import command
Child(command("slow_import"), timeout_s=600).ask({})
"""


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], tuple[subprocess.Popen[bytes], list[int]]]]:
    """Starts a parent whose child is importing; gives the parent and the numbers of the child and of what it started."""
    (tmp_path / "slow_import.py").write_text(SLOW)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.chdir(tmp_path)
    seen: list[int] = []

    def started() -> tuple[subprocess.Popen[bytes], list[int]]:
        parent = subprocess.Popen([sys.executable, "-c", PARENT], stderr=subprocess.PIPE)
        seen.append(parent.pid)
        pids = [int(pid) for pid in read_when_there(tmp_path / "pids.txt").split()]
        seen.extend(pids)
        return parent, pids

    yield started
    for pid in seen:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def read_when_there(path: Path) -> str:
    until(path.exists)
    return path.read_text()


def until(holds: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + 30
    while not holds() and time.monotonic() < deadline:
        time.sleep(0.01)
    return holds()


def gone(pids: list[int]) -> bool:
    return not any(memory_of(pid) for pid in pids)  # one that is dead and not yet waited for has no memory


def test_a_child_that_imports_ends_with_its_parent_and_takes_along_what_it_started(
    start: Callable[[], tuple[subprocess.Popen[bytes], list[int]]],
) -> None:
    parent, pids = start()
    assert all(memory_of(pid) for pid in pids)
    parent.send_signal(signal.SIGKILL)
    parent.communicate()
    assert until(lambda: gone(pids))


def test_a_dead_child_is_noticed_though_others_hold_its_pipes(start: Callable[[], tuple[subprocess.Popen[bytes], list[int]]]) -> None:
    parent, pids = start()
    os.kill(pids[0], signal.SIGKILL)
    _, told = parent.communicate(timeout=60)
    assert b"it was killed by SIGKILL" in told
    assert until(lambda: gone(pids))


def test_a_child_whose_parent_is_gone_before_it_looks_does_nothing(tmp_path: Path) -> None:
    (tmp_path / "writes.py").write_text("open('written', 'w')")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])}
    for parent, ran in ((os.getpid(), True), (1, False)):
        done = subprocess.run(hold.command("writes"), env={**environment, hold.PARENT: str(parent)}, cwd=tmp_path, start_new_session=True)
        assert (done.returncode == 0, (tmp_path / "written").exists()) == (ran, ran)
        (tmp_path / "written").unlink(missing_ok=True)


def test_what_lies_in_the_current_folder_is_no_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if sys.version_info < (3, 11):
        pytest.skip("Python cannot leave the folder out")
    (tmp_path / "runpy.py").write_text("open('ran', 'w')")
    monkeypatch.chdir(tmp_path)
    subprocess.run(hold.command("this"), stdout=subprocess.DEVNULL, check=True)
    assert not (tmp_path / "ran").exists()


def test_without_descriptors_of_processes_it_looks_again_and_again(
    start: Callable[[], tuple[subprocess.Popen[bytes], list[int]]], tmp_path: Path
) -> None:
    """On kernels before 5.3."""
    (tmp_path / "sitecustomize.py").write_text(
        "import os\ndef pidfd_open(pid, flags=0): raise OSError('no such call')\nos.pidfd_open = pidfd_open\n"
    )
    parent, pids = start()
    parent.send_signal(signal.SIGKILL)
    parent.communicate()
    assert until(lambda: gone(pids))


def test_a_child_that_others_end_may_go_well_another_time() -> None:
    child = Child([sys.executable, "-c", "import time; time.sleep(3600)"], timeout_s=60)
    os.kill(child._process.pid, signal.SIGTERM)
    with pytest.raises(Exception, match="it was killed by SIGTERM") as caught:
        child.ask({})
    assert (caught.value.kind, child.killed) == ("killed", True)  # type: ignore[attr-defined]
    child.close()
