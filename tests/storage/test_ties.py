"""Ties through optimizers, against a parameter of shared values that is looked up."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import laconic as lc
from laconic.storage.ties import Tie, tied
from laconic.tasks.data import ArrayDataset
from laconic.train.optim import OPTIMIZERS as FITS
from tests.reference.sharing import LookedUp

OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "sgd": lambda p: torch.optim.SGD(p, 0.02),
    "momentum": lambda p: torch.optim.SGD(p, 0.02, momentum=0.9, nesterov=True),
    "adam": lambda p: torch.optim.Adam(p, 0.01),
    "adamw": lambda p: torch.optim.AdamW(p, 0.01, weight_decay=0.1),
    "rmsprop": lambda p: torch.optim.RMSprop(p, 0.01),
}
X, Y = torch.randn(24, 1, 6, 6, generator=torch.Generator().manual_seed(1)), torch.arange(24) % 3


def net() -> nn.Sequential:
    """A convolution and a linear layer; their numbers have 5 values, a third of them 0."""
    torch.manual_seed(3)
    made = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3))
    with torch.no_grad():
        for p in made.parameters():
            if p.dim() > 1:
                p.copy_(torch.randint(-3, 4, p.shape).clamp(-2, 2) / 10)
                p[torch.rand(p.shape) < 0.3] = 0
    return made


def shared(module: nn.Module) -> list[nn.Parameter]:
    return [p for p in module.parameters() if p.dim() > 1]


def values(p: torch.Tensor) -> int:
    return len(p[p != 0].unique())


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_training_is_that_of_values_which_are_looked_up(optimizer: str) -> None:
    ours = net()
    twin = LookedUp(copy.deepcopy(ours))
    zeros = [p == 0 for p in shared(ours)]
    one = OPTIMIZERS[optimizer](ours.parameters())
    other = OPTIMIZERS[optimizer]([p for p in twin.parameters() if p.requires_grad])
    with tied(shared(ours)) as hook:
        for step in range(8):
            for model, using in ((ours, one), (twin, other)):
                using.zero_grad()
                for part in (slice(0, 12), slice(12, 24)):  # gradients of two batches add up
                    F.cross_entropy(model(X[part]), Y[part]).backward()  # type: ignore[no-untyped-call]
                using.step()
            before = [p.clone() for p in shared(ours)]
            hook(ours, step / 8)
            # nothing was left to mend: tied numbers moved alike by themselves
            assert all(torch.equal(p, old) for p, old in zip(shared(ours), before, strict=True))
    for p, expected, zero in zip(shared(ours), twin.weights().values(), zeros, strict=True):
        torch.testing.assert_close(p.detach(), expected.detach(), rtol=1e-5, atol=1e-6)  # sums of another order
        assert values(p) == 4
        assert torch.equal(p == 0, zero)


def test_the_gradient_is_the_sum_over_equal_numbers() -> None:
    p = nn.Parameter(torch.tensor([[0.5, 0.0, -1.0], [0.5, 0.5, -1.0]]))
    with tied([p]):
        (p * torch.tensor([[1.0, 2.0, 4.0], [8.0, 16.0, 32.0]])).sum().backward()  # type: ignore[no-untyped-call]
        assert p.grad is not None
        assert p.grad.tolist() == [[25.0, 0.0, 36.0], [25.0, 25.0, 36.0]]
    p.grad = None
    p.sum().backward()  # type: ignore[no-untyped-call]
    assert p.grad.tolist() == [[1.0] * 3] * 2  # type: ignore[union-attr]


PLANS: dict[str, dict[str, Any]] = {
    "sam": {"sam": 0.05},
    "average": {"average": "ema", "ema_decay": 0.9},
    "centralized": {"gradients": "centralize"},
    "two batches, clipped": {"accumulate": 2, "grad_clip": 0.1},
    "channels last": {"channels_last": True},
    "bf16": {"precision": "bf16"},
    **{name: {"optimizer": name} for name in FITS},
}


@pytest.mark.parametrize("options", PLANS.values(), ids=list(PLANS))
def test_ties_hold_whatever_the_plan(options: dict[str, Any]) -> None:
    model = net()
    before = [p.detach().clone() for p in shared(model)]
    data = ArrayDataset(X.numpy(), Y.numpy())
    with tied(shared(model)) as hook:
        lc.fit(
            model, lc.FitPlan(epochs=2, batch_size=8, lr=0.02, weight_decay=0.1, **options), train=data, loss=F.cross_entropy, hooks=(hook,)
        )
    for p, old in zip(shared(model), before, strict=True):
        assert values(p) == 4
        assert torch.equal(p == 0, old == 0)
        assert not torch.equal(p, old)


def test_holding_changes_nothing_where_ties_hold() -> None:
    p = nn.Parameter(torch.randn(7)[torch.randint(0, 7, (100, 41))])
    before = p.detach().clone()
    Tie(p).hold()
    assert torch.equal(p.detach(), before)
