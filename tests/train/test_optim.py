from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch import nn

from laconic.core.errors import BadInput
from laconic.core.task import FitPlan
from laconic.train.optim import OPTIMIZERS, SCHEDULES, build, groups

STEPS = 20
# Schedules that PyTorch has too, as it makes them for 20 steps.
TWINS: dict[str, Any] = {
    "constant": lambda opt: torch.optim.lr_scheduler.ConstantLR(opt, factor=1.0),
    "linear": lambda opt: torch.optim.lr_scheduler.LinearLR(opt, 1.0, 0.0, total_iters=STEPS),
    "cosine": lambda opt: torch.optim.lr_scheduler.CosineAnnealingLR(opt, T_max=STEPS),
    "step": lambda opt: torch.optim.lr_scheduler.MultiStepLR(opt, [STEPS // 2, 3 * STEPS // 4], gamma=0.1),
    "exponential": lambda opt: torch.optim.lr_scheduler.ExponentialLR(opt, 0.01 ** (1 / STEPS)),
    "polynomial": lambda opt: torch.optim.lr_scheduler.PolynomialLR(opt, total_iters=STEPS, power=2.0),
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_schedule_equals_pytorchs_step_by_step(name: str) -> None:
    opt = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.3)
    twin = TWINS[name](opt)
    for index in range(STEPS + 1):
        assert SCHEDULES[name](0.3)(index / STEPS) == pytest.approx(twin.get_last_lr()[0], abs=1e-12)
        opt.step()
        twin.step()


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_optimizer_lowers_the_loss(name: str) -> None:
    model, x = nn.Linear(5, 1), torch.randn(64, 5)
    optimizer, _ = build(model, FitPlan(optimizer=name, lr=0.02))
    losses = []
    for _ in range(60):
        loss = (model(x) - x.sum(1, keepdim=True)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]


def test_norms_and_biases_do_not_decay() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 2))
    model[2].bias.requires_grad_(False)
    decaying, free = groups(model, 0.1)
    assert (decaying["weight_decay"], free["weight_decay"]) == (0.1, 0.0)
    assert [tuple(p.shape) for p in decaying["params"]] == [(4, 3, 3, 3), (2, 4)]  # type: ignore[attr-defined]
    assert len(free["params"]) == 3  # type: ignore[arg-type]


BAD = {
    "optimizer": ("adamx", "optimizer: 'adamx'. Did you mean 'adam"),
    "schedule": ("cosin", "schedule: 'cosin'. Did you mean 'cosine'"),
    "epochs": (0, "epochs: 0 must be 1 or more"),
    "batch_size": (0, "batch_size: 0 must be"),
    "lr": (float("nan"), "lr: nan must be more than 0"),
    "warmup": (1.5, "warmup: 1.5 is a fraction"),
    "weight_decay": (-1.0, "weight_decay: -1.0 must be 0 or more"),
    "grad_clip": (0.0, "grad_clip: 0.0 must be more than 0"),
    "precision": ("fp8", "precision: 'fp8'; choose"),
}


@pytest.mark.parametrize("field", BAD)
def test_a_plan_of_nonsense(field: str) -> None:
    value, said = BAD[field]
    with pytest.raises(BadInput, match=said):
        build(nn.Linear(1, 1), dataclasses.replace(FitPlan(), **{field: value}))


def test_all_nonsense_is_told_at_once() -> None:
    with pytest.raises(BadInput) as caught:
        build(nn.Linear(1, 1), FitPlan(**{field: value for field, (value, _) in BAD.items()}))  # type: ignore[arg-type]
    assert len(str(caught.value).splitlines()) == 1 + len(BAD)
