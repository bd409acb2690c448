"""A user's model is captured and trained, and its metric computed, in a process of its own: whatever the code does there, it is told by name."""

from __future__ import annotations

import contextlib
import io
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import laconic as lc
from laconic.core.errors import NAMED, WorkerFailed
from laconic.core.progress import silent
from laconic.deploy.child import Channel
from laconic.run import prepare, trial
from laconic.run.build import Builder
from laconic.run.examples import write_arrays
from laconic.run.ledger import Ledger
from laconic.run.server import Server
from laconic.run.store import RunStore
from tests.run import evil, tiny

LATER = 3  # steps that go well before


class Loss:
    """A loss that does something else after some steps of training."""

    def __init__(self, does: Callable[[], None]) -> None:
        self.does, self.steps = does, 0

    def __call__(self, outputs: Tensor, target: Tensor) -> Tensor:
        self.steps += torch.is_grad_enabled() and outputs.requires_grad
        if self.steps > LATER:
            self.does()
        return F.cross_entropy(outputs, target)


class Elsewhere:
    """Minds being called in the process that made it."""

    def __init__(self) -> None:
        self.pid = os.getpid()

    def __call__(self) -> None:
        assert os.getpid() != self.pid


def wrong() -> None:
    raise ValueError("no such step")


def task(does: Callable[[], None]) -> lc.Task:
    made = tiny.untrained()
    made.plan, made.loss = lc.FitPlan(epochs=2, batch_size=16), Loss(does)
    return made


@contextlib.contextmanager
def based(made: lc.Task, folder: Path, **limits: Any) -> Iterator[tuple[lc.Program, Any]]:
    try:
        with RunStore(folder, {"name": "test"}) as store:
            yield prepare.program(made, store, lc.Options(**limits), Ledger(), silent)
    finally:
        trial.close()


def test_a_model_is_trained_elsewhere_and_is_trained_here_too(tmp_path: Path) -> None:
    made = task(Elsewhere())
    before = {name: value.clone() for name, value in made.build().state_dict().items()}
    with based(made, tmp_path / "run") as (program, epochs):
        assert trial.was_tried(made, 0)  # the process waits for whoever builds
        x = torch.stack([tiny.VALID[i][0] for i in range(4)])
        torch.testing.assert_close(program(x), made.build()(x))
        assert not made.build().training
        assert len(epochs) == 2
        assert any(not torch.equal(value, before[name]) for name, value in made.build().state_dict().items())


def test_a_loss_that_crashes_in_training_is_told_with_its_place(tmp_path: Path) -> None:
    with pytest.raises(lc.BadInput, match="(?s)cannot be trained.*killed by SIGSEGV.*evil.py"), based(task(evil.crash), tmp_path / "run"):
        pass


def answer(op: str, made: lc.Task, **request: Any) -> dict[str, Any]:
    """What the other side does of a request, in this process."""
    server = Server()
    server._sent = made
    return server.answer({"op": op, "task": None, "paths": [], **request}, Channel(b"", io.StringIO()))


def test_what_a_loss_raises_in_training_is_told_with_its_place(tmp_path: Path) -> None:
    request = {"checkpoint": str(tmp_path / "training"), "state": str(tmp_path / "state")}
    told = answer("train", task(wrong), **request)
    assert told["raised"] == "BadInput"
    assert re.search(r"the task's own code raised ValueError: no such step.*\(.*test_base.py, line \d+, in wrong\)", told["text"])
    with pytest.raises(WorkerFailed, match=r"it raised SystemExit: 0 \(.*evil.py, line \d+, in leave\)") as caught:
        answer("train", task(evil.leave), **request)
    assert caught.value.kind == "crash"


def test_an_error_of_ours_comes_back_as_it_was(tmp_path: Path) -> None:
    class Branches(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.flatten(1)[:, :10] if x.sum() > 0 else -x.flatten(1)[:, :10]

    told = answer("capture", tiny.task(Branches()), file=None, state=None, weights=None)
    assert told["raised"] == "CaptureError"
    assert NAMED["CaptureError"] is lc.CaptureError


def test_a_metric_that_never_ends_is_met_elsewhere(tmp_path: Path) -> None:
    """On the answers to all examples, and once those to the first batch went well; a short limit stands for the usual one."""
    made = tiny.task()
    made.metric, made.direction = Hangs(), "max"
    program = lc.capture(made.build(), torch.stack([tiny.VALID[i][0] for i in range(2)]))
    source, answers = program.save(tmp_path / "program.pt2"), tmp_path / "answers"
    builder = Builder(source, tmp_path / "models", {}, made, timeout_s=60, memory_limit_bytes=None, seed=0, progress=silent)
    try:
        builder.read_data("valid", tmp_path / "valid")
        for number in range(3):
            write_arrays(answers / f"{number:06d}.npz", [np.zeros((32, 10), np.float32)])
        builder.timeout_s = 1.0
        with pytest.raises(lc.BadInput, match="the metric of the task 'tiny' cannot be computed on the valid data.*no answer within 1 s"):
            builder.try_metric("valid", answers, tmp_path / "valid")
    finally:
        builder.close()


class Hangs:
    """A metric that hangs where there is more than a batch."""

    def __call__(self, logits: Tensor, target: Tensor) -> float:
        if len(logits) > 32:
            evil.hang()
        return 0.0
