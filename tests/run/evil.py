"""Tasks whose code goes wrong in every way at first contact, by `tests.run.evil:NAME` from other processes."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from torch import Tensor, nn
from torch.utils.data import Dataset

import laconic as lc
from tests.run import tiny


def hang() -> None:
    time.sleep(3600)


def crash() -> None:
    os.kill(os.getpid(), signal.SIGSEGV)


def leave() -> None:
    raise SystemExit(0)


def vanish() -> None:
    os._exit(0)


def interrupt() -> None:
    raise KeyboardInterrupt


def hoard() -> None:
    held = []
    while True:
        held.append(np.ones(25_000_000))
        time.sleep(0.02)


class Net(nn.Module):
    """Does something before it answers."""

    def __init__(self, does: Callable[[], None]) -> None:
        super().__init__()
        self.inner, self.does = tiny.task().build(), does

    def forward(self, x: Tensor) -> Tensor:
        self.does()
        return self.inner(x)


class Rows(Dataset[Any]):
    """Does something when its third example is read."""

    def __init__(self, does: Callable[[], None]) -> None:
        self.does = does

    def __len__(self) -> int:
        return 32

    def __getitem__(self, index: int) -> Any:
        if index == 2:
            self.does()
        return tiny.VALID[index]


def net(does: Callable[[], None]) -> lc.Task:
    return tiny.task(Net(does))


def data(does: Callable[[], None]) -> lc.Task:
    task = tiny.task()
    task.valid = Rows(does)
    return task


def metric(does: Callable[[], None]) -> lc.Task:
    task = tiny.task()
    task.metric, task.direction = lambda logits, target: float(does() is None), "max"
    return task


def forward_crashes() -> lc.Task:
    return net(crash)


def factory_leaves() -> lc.Task:
    leave()
    return tiny.task()
