"""Another package with runtimes and steps that go wrong in every way, found through entry points, also by the processes that Laconic starts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import outside

SOURCE = """
import os, signal, time
from dataclasses import dataclass
import numpy as np
from laconic.core.records import Outcome
from laconic.core.step import StepConfig
from laconic.deploy.ort import OnnxRuntime
from laconic.deploy.runtime import Session


class Wrapped(Session):
    def __init__(self, inner, spoil):
        self.inner, self.spoil = inner, spoil

    def run(self, inputs):
        return self.spoil(self.inner.run(inputs))


def crash(outputs):
    print("about to crash", flush=True)
    os.kill(os.getpid(), signal.SIGSEGV)


def hang(outputs):
    time.sleep(3600)


def eat(outputs):
    hoard = []
    while True:
        hoard.append(np.ones(25_000_000))
        time.sleep(0.05)


def nan(outputs):
    return [np.full_like(array, np.nan) for array in outputs]


def wrong(outputs):
    return [array[:, ::-1] + 1 for array in outputs]


def late(outputs):
    late.calls = getattr(late, "calls", 0) + 1
    if late.calls > 10:
        os._exit(7)
    return outputs


def raises(outputs):
    raise RuntimeError("no such kernel")


def good(outputs):
    return outputs


def _runtime(spoil):
    class Faulty(OnnxRuntime):
        name = spoil.__name__

        def available(self, precision="fp32", device="cpu"):
            return None if (precision, device) == ("fp32", "cpu") else "fp32 only"

        def load(self, file, settings):
            return Wrapped(super().load(file, settings), spoil)

    return Faulty


Crash, Hang, Eat, Nan, Wrong, Late, Raises, Good = (_runtime(f) for f in (crash, hang, eat, nan, wrong, late, raises, good))


@dataclass(frozen=True)
class Break(StepConfig):
    how: str = "crash"


def break_(program, config, context):
    if config.how == "crash":
        os.kill(os.getpid(), signal.SIGKILL)
    if config.how == "hang":
        time.sleep(3600)
    if config.how == "raise":
        raise ZeroDivisionError("in the step")
    if config.how == "assert":
        assert False, "not in this step"
    if config.how == "sys.exit":
        raise SystemExit("the step leaves")
    if config.how == "exit":
        print("last words of a step", flush=True)
        os._exit(7)
    if config.how == "eat":
        eat(None)
    if config.how == "train":
        context.progress.start("training", 3)
        context.progress.advance(2, loss=0.5)
        context.progress.log("a note of the step")
        context.progress.finish(loss=0.25)
    if config.how == "leave open":
        context.progress.start("training", 3)
        os._exit(7)
    changed = {"how": config.how, "pid": os.getpid()} if config.how == "pid" else {"how": config.how}
    if config.how == "task":
        changed["said"] = context.task.loss(1, 2)
    return program, Outcome("break", changed)
"""
NAMES = ("crash", "hang", "eat", "nan", "wrong", "late", "raises", "good")
ENTRY_POINTS = "[laconic.runtimes]\n" + "".join(f"{name} = faulty_laconic:{name.title()}\n" for name in NAMES)
ENTRY_POINTS += "[laconic.steps]\nbreak = faulty_laconic:Break,break_\n"


def install(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    yield from outside.install(folder, monkeypatch, "faulty_laconic", SOURCE, ENTRY_POINTS)
