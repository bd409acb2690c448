"""First contact with a user's code is elsewhere: whatever it does, it becomes an error with a name."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import laconic as lc
from laconic.core.errors import BadInput, WorkerFailed
from laconic.core.progress import silent
from laconic.deploy.child import Child
from laconic.run import prepare, trial
from laconic.run.isolation import packed
from tests.run import evil, tiny

ROOT = Path(__file__).parents[2]
# The other side without PyTorch, for what needs none: it does at once what it is asked to check.
LIGHT = """
import os, signal, sys, time
from laconic.deploy.child import answer_requests

def answer(request, channel):
    what = request["task"].rpartition(":")[2]
    if what == "hang": time.sleep(3600)
    if what == "crash": os.kill(os.getpid(), signal.SIGSEGV)
    if what == "killed": os.kill(os.getpid(), signal.SIGKILL)
    if what == "vanish": os._exit(0)
    if what == "hoard":
        held = []
        while True: held.append(bytearray(50_000_000)); time.sleep(0.02)
    return {"mistakes": "", "other": ""}

answer_requests(answer)
"""


@pytest.fixture
def light(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Child]:
    (tmp_path / "light.py").write_text(LIGHT)
    started: list[Child] = []

    def start(timeout_s: float, memory_limit_bytes: int | None) -> Child:
        command = [sys.executable, str(tmp_path / "light.py")]
        started.append(Child(command, timeout_s=timeout_s, memory_limit_bytes=memory_limit_bytes))
        return started[-1]

    monkeypatch.setattr(trial, "start", start)
    return started


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("hang", "no answer within 1 s"),
        ("crash", "killed by SIGSEGV"),
        ("vanish", "it ended with code 0"),
        ("hoard", "GB of memory; 0.40 GB are allowed"),
    ],
)
def test_what_ends_the_process_is_the_tasks_mistake(what: str, said: str, light: list[Child]) -> None:
    tried = trial.Trial(1.0, 400_000_000)
    with pytest.raises(BadInput, match=f"(?s)the task 'mine' cannot be used.*{said}"):
        tried.check("mine", {"task": what})
    assert len(light) == 1
    assert not light[0].alive


def test_a_task_by_its_name_is_tried_before_it_is_loaded(light: list[Child], tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="the task 'nowhere:vanish' cannot be used.*it ended with code 0"):
        lc.optimize("nowhere:vanish", out=tmp_path / "run")
    assert len(light) == 1


def test_what_something_else_ends_is_tried_once_more_and_no_mistake(light: list[Child]) -> None:
    with pytest.raises(WorkerFailed, match="SIGKILL"):
        trial.Trial().check("mine", {"task": "killed"})
    assert [child.alive for child in light] == [False, False]


def test_the_process_waits_for_the_builder_of_its_task_and_nobody_else(light: list[Child]) -> None:
    task, other = tiny.task(), tiny.task()
    tried = trial.Trial()
    assert tried.check("mine", {"task": "fine"}) == {"mistakes": "", "other": ""}
    tried.keep(trial.key_of(task, 0))
    assert not trial.was_tried(other, 0)
    assert trial.taken(other, 0, 5.0, None) is None
    assert trial.was_tried(task, 0)
    child = trial.taken(task, 0, 5.0, 123)
    assert child is light[0]
    assert (child.timeout_s, child.memory_limit_bytes) == (5.0, 123)
    assert not trial.was_tried(task, 0)
    child.close()
    again = trial.Trial()
    again.keep(trial.key_of(task, 0))
    trial.close()
    assert not light[1].alive


@pytest.fixture(scope="module")
def real() -> Iterator[trial.Trial]:
    """One process for whatever it survives."""
    one = trial.Trial(60)
    yield one
    one.close()


@pytest.mark.parametrize("make", [evil.net, evil.data, evil.metric])
@pytest.mark.parametrize(
    ("does", "said"), [(evil.leave, "it raised SystemExit: 0 .*evil.py, line"), (evil.interrupt, "it raised KeyboardInterrupt")]
)
def test_code_that_leaves_is_told_with_the_place(
    real: trial.Trial, monkeypatch: pytest.MonkeyPatch, make: Callable[..., lc.Task], does: Callable[[], None], said: str
) -> None:
    monkeypatch.setattr(trial.Trial, "close", lambda self: None)
    with pytest.raises(BadInput, match=said):
        real.check("mine", {"task": None, "data": None, "seed": 0}, packed(make(does)))


def test_mistakes_are_all_told_and_a_module_that_leaves_is_one(real: trial.Trial, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial.Trial, "close", lambda self: None)
    with pytest.raises(BadInput, match="SystemExit: 0"):
        real.check("mine", {"task": "tests.run.evil:factory_leaves", "data": None, "seed": 0})
    assert "has no 'nothing'" in real.check("mine", {"task": "tests.run.tiny:nothing", "data": None, "seed": 0})["mistakes"]
    assert real.check("mine", {"task": "tests.run.tiny:task", "data": None, "seed": 0}) == {"mistakes": "", "other": ""}


def test_a_hang_is_told_with_its_place(real: trial.Trial, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last that this process does."""
    monkeypatch.setitem(real._limits, "timeout_s", 2.0)
    monkeypatch.setattr(real._child, "timeout_s", 2.0)
    with pytest.raises(BadInput, match="(?s)no answer within 2 s.*most recent call first.*evil.py.*in hang"):
        real.check("mine", {"task": None, "data": None, "seed": 0}, packed(evil.net(evil.hang)))


def test_what_cannot_be_sent_is_checked_here_and_leaves_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    lock = threading.Lock()
    task = evil.net(lambda: evil.leave() if lock else None)
    with pytest.raises(BadInput, match="SystemExit: 0"):
        prepare.check(task, lc.Options(), silent)


@pytest.mark.slow
def test_the_command_line_names_a_crash_with_its_place() -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "laconic.cli", "inspect", "tests.run.evil:forward_crashes"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)])},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2, done.stderr
    assert "killed by SIGSEGV" in done.stderr
    assert "evil.py" in done.stderr
    assert done.stdout == ""


def test_the_wrong_answer_of_a_task_that_survives_is_told_as_before(light: list[Child], monkeypatch: pytest.MonkeyPatch) -> None:
    """What is wrong there, and harmless, is looked at here: this process may know what that one does not."""
    monkeypatch.setattr(trial.Trial, "check", lambda *_: {"mistakes": "something", "other": ""})
    prepare.check(tiny.task(), lc.Options(), silent)
    bad: Any = tiny.task()
    bad.metric = "accurasy"
    with pytest.raises(BadInput, match="accurasy"):
        prepare.check(bad, lc.Options(), silent)
    assert not any(child.alive for child in light)
