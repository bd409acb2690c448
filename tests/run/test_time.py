"""Limits of time while candidates are built: steps that take too long are not run again, and a run's deadline reaches them."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

import laconic as lc
from laconic.core.errors import WorkerFailed
from laconic.core.progress import Silent, Until
from laconic.run import build
from laconic.run.build import Builder
from laconic.run.runner import STEPS
from tests.run import tiny


class Told(Silent):
    """Remembers the calls."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def start(self, name: str, total: int) -> None:
        self.calls.append("start")

    def advance(self, n: int = 1, **facts: Any) -> None:
        self.calls.append("advance")

    def finish(self, **facts: Any) -> None:
        self.calls.append("finish")


def test_work_that_reports_ends_once_the_time_is_over() -> None:
    told = Told()
    before = Until(told, time.monotonic() + 100)
    before.start("training", 2)
    before.advance()
    after = Until(told, time.monotonic() - 1)
    for call in (lambda: after.advance(loss=1.0), lambda: after.start("more", 1)):
        with pytest.raises(WorkerFailed, match="the time limit was reached") as caught:
            call()
        assert caught.value.kind == "time_limit"
    after.finish()
    assert told.calls == ["start", "advance", "advance", "finish"]


def builder(folder: Path, source: Path, task: lc.Task, timeout_s: float = 60) -> Builder:
    return Builder(source, folder / "models", {}, task, timeout_s=timeout_s, memory_limit_bytes=None, seed=0, progress=Told())


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    program = lc.capture(tiny.task().build(), tiny.VALID[0][0][None].repeat(2, 1, 1, 1))
    return program.save(tmp_path_factory.mktemp("source") / "program.pt2")


def of(*steps: Any, runtime: str = "onnxruntime") -> lc.Recipe:
    return lc.Recipe(steps, lc.Target(runtime))


def test_steps_that_took_too_long_are_run_once(tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not for another runtime, and not as the beginning of others; other steps are."""
    slow, other = lc.Prune(macs=0.5), lc.Quantize(mode="dynamic", target="onnxruntime")
    asked: list[str] = []

    def ask(self: Builder, request: dict[str, Any], here: Any, needs_task: bool) -> None:
        asked.append(request["format"])
        raise WorkerFailed("no answer within 60 s", "timeout")

    monkeypatch.setattr(Builder, "_ask", ask)
    one = builder(tmp_path, source, tiny.task())
    for recipe in (of(slow), of(slow, runtime="openvino"), of(slow, runtime="torch"), of(slow, other), of(other)):
        with pytest.raises(WorkerFailed) as caught:
            one.build(recipe, tmp_path / "artifact")
        assert caught.value.kind == "timeout"
    assert asked == ["onnx", "onnx"]
    with pytest.raises(
        WorkerFailed, match="were not run again: for 'prune to 50 % of MACs · ONNX Runtime · fp32' they took more than 60 s"
    ):
        one.build(of(slow, other), tmp_path / "artifact")


def test_a_file_that_took_too_long_is_no_step_that_did(tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def ask(self: Builder, request: dict[str, Any], here: Any, needs_task: bool) -> None:
        Path(request["steps_folder"], "steps.json").write_text("{}", encoding="utf-8")
        raise WorkerFailed("no answer within 60 s", (request["format"] == "onnx" and "timeout") or "error")

    monkeypatch.setattr(Builder, "_ask", ask)
    one = builder(tmp_path, source, tiny.task())
    kinds = []
    for runtime in ("onnxruntime", "torch"):
        with pytest.raises(WorkerFailed) as caught:
            one.build(of(lc.Prune(macs=0.5), runtime=runtime), tmp_path / "artifact")
        kinds.append(caught.value.kind)
    assert kinds == ["timeout", "error"]


@pytest.mark.slow
def test_the_deadline_reaches_the_process_that_builds(
    faulty_package: None, tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A step that trains ends at its next report and its process lives on; one that reports nothing is ended with its process."""
    task = tiny.task()
    task.ref = "tests.run.tiny:task"
    one = builder(tmp_path, source, task)
    step = STEPS.config("break")
    try:
        one.build(of(step("fine")), tmp_path / "artifact")
        process = one._child
        one.deadline = time.monotonic() - 1
        with pytest.raises(WorkerFailed, match="the time limit was reached") as caught:
            one.build(of(step("train")), tmp_path / "artifact")
        assert caught.value.kind == "time_limit"
        assert one._child is process
        assert process is not None
        assert process.alive
        monkeypatch.setattr(build, "_GRACE_S", 0.2)
        with pytest.raises(WorkerFailed, match="did not end by itself") as caught:
            one.build(of(step("hang")), tmp_path / "artifact")
        assert caught.value.kind == "time_limit"
        assert not process.alive
        assert one._late == {}  # neither is taken for steps that take too long
    finally:
        one.close()
