"""A small task for whole runs, also by `tests.run.tiny:task` from other processes."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import laconic as lc
from laconic.tasks.data import ArrayDataset
from tests.core.models import ConvNet

# Of whole runs: as many rounds as it takes to end some of them early, and short ones.
QUICK = lc.Options(rounds=7, turn_seconds=0.02, candidate_timeout_s=60)
TOLERANCE = {"fp32": 1e-4, "bf16": 0.05}  # relative to the largest output; processors with bf16 instructions try it too
RNG = np.random.default_rng(0)


def data(n: int) -> ArrayDataset:
    return ArrayDataset(RNG.standard_normal((n, 1, 8, 8)).astype(np.float32), RNG.integers(0, 10, n))


TRAIN, VALID, TEST = data(64), data(96), data(80)


def task(model: nn.Module | None = None) -> lc.Task:
    torch.manual_seed(0)
    return lc.Task(ConvNet() if model is None else model, TRAIN, VALID, TEST, loss=F.cross_entropy, name="tiny", batch_size=32)


def perceptron() -> lc.Task:
    """What is built in a moment."""
    return task(nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10)))


def untrained() -> lc.Task:
    found = task()
    found.plan = lc.FitPlan(epochs=6, optimizer="sgd", lr=0.01, batch_size=16)
    return found


class Poisoned(nn.Module):
    """Answers with NaN."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x.flatten(1)) * float("nan")


def poisoned() -> lc.Task:
    found = task(Poisoned())
    found.metric = "accuracy"
    return found
