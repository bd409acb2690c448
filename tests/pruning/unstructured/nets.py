"""A small task whose net has a kernel, a grouped kernel, norms and matrices, and choosers for it."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import laconic as lc
from laconic.pruning.unstructured.allocation import ALLOCATIONS
from laconic.pruning.unstructured.choice import Amount, Chooser
from laconic.pruning.unstructured.criteria import weight_criteria
from laconic.pruning.unstructured.patterns import Pattern
from laconic.pruning.unstructured.weights import weights_of
from laconic.tasks.data import ArrayDataset

RNG = np.random.default_rng(0)
X = RNG.standard_normal((48, 1, 6, 6)).astype(np.float32)
DATA = ArrayDataset(X, (X.mean((1, 2, 3)) > 0).astype(np.int64) + (X[:, 0, 0, 0] > 0))
PLAN = lc.FitPlan(epochs=2, lr=0.01, batch_size=8, optimizer="sgd", schedule="constant")


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.conv = nn.Conv2d(8, 16, 3, stride=2)
        self.depthwise = nn.Conv2d(16, 16, 2, groups=16)
        self.hidden = nn.Linear(16, 12)
        self.head = nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.stem(x)).relu()
        x = self.depthwise(self.conv(x).relu()).flatten(1)
        return self.head(self.hidden(x).relu())


def net() -> Net:
    torch.manual_seed(0)
    return Net().eval()


def program() -> lc.Program:
    return lc.capture(net(), torch.randn(2, 1, 6, 6))


def task() -> lc.Task:
    return lc.Task(net(), DATA, DATA, loss=F.cross_entropy)


def context(**more: Any) -> lc.Context:
    return lc.Context(task(), lc.fit, **more)


def chooser(
    model: nn.Module, sparsity: float = 0.5, criterion: str = "magnitude", pattern: str = "unstructured", allocation: str = "uniform"
) -> Chooser:
    weights = [weight for weight in weights_of(model)[0] if not Pattern.read(pattern).misfit(weight.shape)]
    row = weight_criteria()[criterion]
    return Chooser(weights, row, Pattern.read(pattern), ALLOCATIONS[allocation], Amount("sparsity", sparsity))
