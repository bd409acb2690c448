"""A candidate fails alone, whatever it does, also where its task exists in the caller's process only."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch.nn.functional as F

import laconic as lc
from laconic.core.errors import BadInput, WorkerFailed
from laconic.run.build import Builder, Built
from laconic.run.isolation import NotIsolated, contained, packed, unpacked
from laconic.run.runner import STEPS
from laconic.tasks.data import ArrayDataset
from tests.run import evil, tiny


class Told:
    """A progress that remembers."""

    def __init__(self) -> None:
        self.calls: list[Any] = []

    def start(self, name: str, total: int) -> None:
        self.calls.append(("start", name, total))

    def advance(self, n: int = 1, **facts: Any) -> None:
        self.calls.append(("advance", n, facts))

    def finish(self, **facts: Any) -> None:
        self.calls.append(("finish", facts))

    def log(self, text: str) -> None:
        self.calls.append(("log", text))


Make = Callable[..., Builder]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny net, captured."""
    return lc.capture(tiny.task().build(), tiny.VALID[0][0][None].repeat(2, 1, 1, 1)).save(tmp_path_factory.mktemp("tiny") / "program.pt2")


def new_builder(source: Path, folder: Path, task: lc.Task, progress: Any = None) -> Builder:
    return Builder(source, folder, {}, task, timeout_s=60, memory_limit_bytes=2_000_000_000, seed=0, progress=progress or Told())


@pytest.fixture
def make(faulty_package: None, source: Path, tmp_path: Path) -> Iterator[Make]:
    """Makes builders for the tiny net and a task."""
    made: list[Builder] = []

    def one(task: lc.Task, progress: Any = None) -> Builder:
        made.append(new_builder(source, tmp_path / "models", task, progress))
        return made[-1]

    yield one
    for each in made:
        each.close()


@pytest.fixture(scope="module")
def kept(source: Path) -> Iterator[Builder]:
    """One builder for the local task, whose process lives on where a step leaves it alive."""
    one = new_builder(source, source.parent, local_task())
    yield one
    one.close()


@pytest.fixture
def local(kept: Builder, faulty_package: None, tmp_path: Path) -> Builder:
    """The builder of the local task, in a folder in which nothing was built yet."""
    kept.folder, kept.progress, kept.timeout_s = tmp_path / "models", Told(), 60
    return kept


def local_task(word: str = "local") -> lc.Task:
    """A task that no module holds: its functions are lambdas, its dataset's class is made here."""

    class Rows(ArrayDataset):
        pass

    task = tiny.task()
    task.loss = lambda outputs, target: f"{word} {outputs}"  # type: ignore[assignment, return-value]
    task.valid = Rows(np.zeros((8, 1, 8, 8), np.float32), np.arange(8))
    return task


def unsendable_task() -> lc.Task:
    task, lock = tiny.task(), threading.Lock()
    task.loss = lambda outputs, target: F.cross_entropy(outputs, target) if lock else outputs
    return task


def build(builder: Builder, folder: Path, how: str) -> Built:
    return builder.build(lc.Recipe((STEPS.config("break")(how),), lc.Target("onnxruntime")), folder / "artifact")


def test_a_local_task_goes_to_another_process_once(local: Builder, tmp_path: Path) -> None:
    assert build(local, tmp_path, "task").outcomes[0].changed["said"] == "local 1"
    result = build(local, tmp_path, "pid")
    assert result.outcomes[0].changed["pid"] != os.getpid()
    assert result.notes == ()


@pytest.mark.parametrize(
    ("how", "kind", "said"),
    [
        ("assert", "error", "AssertionError: not in this step"),
        ("sys.exit", "error", "SystemExit: the step leaves"),
        ("exit", "crash", "(?s)ended with code 7.*last words of a step"),
        ("crash", "killed", "killed by SIGKILL"),
        ("hang", "timeout", "no answer within 3 s"),
        ("eat", "memory", "2.00 GB are allowed"),
    ],
)
def test_a_local_task_has_the_limits_of_any_other(how: str, kind: str, said: str, local: Builder, tmp_path: Path) -> None:
    if how == "hang":
        build(local, tmp_path, "fine")  # what takes time at first
        local.timeout_s = 3
    with pytest.raises(WorkerFailed, match=said) as caught:
        build(local, tmp_path, how)
    assert caught.value.kind == kind
    if how in ("assert", "exit"):
        assert build(local, tmp_path, "task").outcomes[0].changed["said"] == "local 1"  # in a new process, where the old one died


def test_data_is_read_by_the_process_that_builds(make: Make, tmp_path: Path) -> None:
    """Whatever it does there; a batch that is merely wrong is told by whoever reads it again."""
    builder = make(tiny.task())
    for name, does, said in (
        ("test", evil.leave, "(?s)the test data of .*SystemExit: 0 .*evil.py"),
        ("valid", evil.vanish, "ended with code 0"),
    ):
        setattr(builder.task, name, evil.Rows(does))
        builder.close()
        with pytest.raises(BadInput, match=said):
            builder.read_data(name, tmp_path / name)
    builder.task.valid = tiny.VALID
    builder.read_data("valid", tmp_path / "valid")
    assert (tmp_path / "valid" / "done.json").exists()


def test_what_a_step_reports_is_told_here(local: Builder, tmp_path: Path) -> None:
    told = local.progress = Told()
    build(local, tmp_path, "train")
    assert told.calls == [
        ("start", "training", 3),
        ("log", "a note of the step"),
        ("advance", 2, {"loss": 0.5}),
        ("finish", {"loss": 0.25}),
    ]


def test_what_a_dead_process_left_open_is_finished(local: Builder, tmp_path: Path) -> None:
    told = local.progress = Told()
    with pytest.raises(WorkerFailed):
        build(local, tmp_path, "leave open")
    assert told.calls == [("start", "training", 3), ("finish", {})]


@pytest.mark.parametrize("how", ["assert", "sys.exit", "raise"])
def test_where_the_task_cannot_be_sent_the_candidate_fails_alone_too(how: str, make: Make, tmp_path: Path) -> None:
    told = Told()
    builder = make(unsendable_task(), progress=told)
    with pytest.raises(WorkerFailed, match="AssertionError|SystemExit|ZeroDivisionError"):
        build(builder, tmp_path, how)
    result = build(builder, tmp_path, "pid")
    assert result.outcomes[0].changed["pid"] == os.getpid()
    (note,) = result.notes
    assert note.startswith(
        "the steps ran in the caller's process, without limits of time and memory, because the task cannot be sent to another one"
    )
    assert "cannot pickle '_thread.lock' object" in note
    assert [call for call in told.calls if call[0] == "log"] == [("log", f"tiny: {note}")]  # once


class Unreadable:
    """Arrives nowhere."""

    def __reduce__(self) -> Any:
        return exec, ("raise OSError('the file is on another machine')",)


def test_a_task_that_arrives_nowhere_is_told(make: Make, tmp_path: Path) -> None:
    task = tiny.task()
    task.words = Unreadable()  # type: ignore[assignment]
    (note,) = build(make(task), tmp_path, "fine").notes
    assert "OSError: the file is on another machine" in note


def test_what_is_no_task_is_refused() -> None:
    import cloudpickle

    assert unpacked(packed(tiny.task())).name == "tiny"
    with pytest.raises(NotIsolated, match="an object of the class dict"):
        unpacked(cloudpickle.dumps({}))
    with pytest.raises(NotIsolated):
        unpacked(packed(tiny.task())[:100])


@pytest.mark.parametrize(
    ("error", "kind", "said"),
    [
        (AssertionError("a"), "error", "AssertionError: a"),
        (SystemExit(3), "error", "SystemExit: 3"),
        (StopIteration(), "error", "StopIteration: "),
        (MemoryError("m"), "memory", "out of memory: m"),
        (BadInput("b"), "error", "^b$"),
        (WorkerFailed("w", "crash"), "crash", "^w$"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else None,
)
def test_whatever_is_raised_is_the_candidates_failure(error: BaseException, kind: str, said: str) -> None:
    def work() -> None:
        raise error

    with pytest.raises(WorkerFailed, match=said) as caught:
        contained(work)
    assert caught.value.kind == kind


def test_the_users_interrupt_passes() -> None:
    def work() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        contained(work)


NOTEBOOK = """
import json, sys
import torch
import laconic as lc
from laconic.run.runner import STEPS
from tests.run import tiny

class Rows(torch.utils.data.Dataset):
    def __len__(self): return 64
    def __getitem__(self, i): return tiny.VALID[i]

class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = tiny.task().build()
    def forward(self, x): return self.inner(x)

def loss(outputs, target): return torch.nn.functional.cross_entropy(outputs, target)

if __name__ == "__main__":
    task = lc.Task(Net(), Rows(), Rows(), loss=loss, metric=lambda logits, target: float((logits.argmax(1) == target).float().mean()), direction="max")
    recipes = [lc.Recipe((lc.Quantize(target="onnxruntime", examples=8),), lc.Target("onnxruntime", threads=1))]
    recipes += [lc.Recipe((STEPS.config("break")(how),), lc.Target("onnxruntime", threads=1)) for how in ("assert", "exit", "pid")]
    options = lc.Options(rounds=3, turn_seconds=0.01, candidate_timeout_s=60)
    result = lc.optimize(task, lc.Budget(max_drop="any"), out=sys.argv[1], recipes=recipes, options=options)
    import os
    print(json.dumps({"pid": os.getpid(), "candidates": result.data["candidates"]}))
"""


@pytest.mark.slow
def test_classes_of_a_notebook_go_along(faulty_package: None, tmp_path: Path) -> None:
    """What stands in `__main__` cannot be imported by anybody; a candidate that fails ends nothing."""
    (tmp_path / "notebook.py").write_text(NOTEBOOK, encoding="utf-8")
    paths = os.pathsep.join([os.environ["PYTHONPATH"], str(Path(__file__).parents[2])])
    done = subprocess.run(
        [sys.executable, str(tmp_path / "notebook.py"), str(tmp_path / "run")],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": paths},
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout.splitlines()[-1])
    quantized, asserts, exits, fine = answer["candidates"]
    assert quantized["notes"] == fine["notes"] == []
    assert quantized["outcomes"][0]["changed"]["operators"]
    assert fine["outcomes"][0]["changed"]["pid"] != answer["pid"]
    assert [(r["status"], r["reasons"][0]["rule"]) for r in (asserts, exits)] == [("failed", "error"), ("failed", "crash")]


@pytest.mark.slow
def test_a_run_whose_task_cannot_be_sent_says_so_in_its_records(faulty_package: None, tmp_path: Path) -> None:
    recipes = [lc.Recipe((STEPS.config("break")(how),), lc.Target("onnxruntime", threads=1)) for how in ("assert", "pid")]
    options = lc.Options(rounds=3, turn_seconds=0.01, candidate_timeout_s=60)
    task = dataclasses.replace(unsendable_task(), metric="accuracy")
    result = lc.optimize(task, lc.Budget(max_drop="any"), out=tmp_path / "run", recipes=recipes, options=options)
    failed, fine = result.data["candidates"]
    assert (failed["status"], failed["reasons"][0]["text"]) == ("failed", "AssertionError: not in this step")
    assert "ran in the caller's process" in fine["notes"][0]
    assert "caller's process" in (tmp_path / "run" / "report.html").read_text(encoding="utf-8").replace("&#39;", "'")
