from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from laconic.core.errors import BadInput
from laconic.core.plan import FitPlan
from laconic.core.schedule import plateau
from laconic.train.optim import OPTIMIZERS, SCHEDULES, TWO_WEIGHTS, build, groups, normalize_gradients, scheduler, sharpened

STEPS = 20
PLAN = FitPlan(lr=0.3, cycles=2)


def one_cycle(opt: Any) -> Any:
    """PyTorch counts the rise in steps, less one; ours in progress."""
    share = (0.3 * STEPS + 1) / (STEPS + 1)
    return torch.optim.lr_scheduler.OneCycleLR(opt, 0.3, total_steps=STEPS + 1, pct_start=share, cycle_momentum=False)


def cyclic(mode: str, gamma: float = 1.0) -> Any:
    def make(opt: Any) -> Any:
        return torch.optim.lr_scheduler.CyclicLR(opt, 0.03, 0.3, step_size_up=STEPS // 4, mode=mode, gamma=gamma, cycle_momentum=False)

    return make


def inverse_sqrt(opt: Any) -> Any:
    return torch.optim.lr_scheduler.LambdaLR(opt, lambda step: math.sqrt(STEPS / 9) / math.sqrt(STEPS / 9 + step))


# Schedules that PyTorch has too, as it makes them for 20 steps; the inverse square root as its formula says.
TWINS: dict[str, Any] = {
    "constant": lambda opt: torch.optim.lr_scheduler.ConstantLR(opt, factor=1.0),
    "linear": lambda opt: torch.optim.lr_scheduler.LinearLR(opt, 1.0, 0.0, total_iters=STEPS),
    "cosine": lambda opt: torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(opt, T_0=STEPS // 2),
    "step": lambda opt: torch.optim.lr_scheduler.MultiStepLR(opt, [STEPS // 2, 3 * STEPS // 4], gamma=0.1),
    "exponential": lambda opt: torch.optim.lr_scheduler.ExponentialLR(opt, 0.01 ** (1 / STEPS)),
    "polynomial": lambda opt: torch.optim.lr_scheduler.PolynomialLR(opt, total_iters=STEPS, power=2.0),
    "triangular": cyclic("triangular"),
    "triangular2": cyclic("triangular2"),
    "exp_range": cyclic("exp_range", 0.1 ** (1 / STEPS)),
    "one_cycle": one_cycle,
    "inverse_sqrt": inverse_sqrt,
    "plateau": lambda opt: torch.optim.lr_scheduler.ConstantLR(opt, factor=1.0),
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_schedule_equals_pytorchs_step_by_step(name: str) -> None:
    opt = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.3)
    twin = TWINS[name](opt)
    last = STEPS if name != "cosine" else STEPS - 1  # PyTorch restarts once more where ours has ended
    for index in range(last + 1):
        assert SCHEDULES[name](PLAN)(index / STEPS) == pytest.approx(twin.get_last_lr()[0], abs=1e-12)
        opt.step()
        twin.step()


def test_a_cosine_without_cycles_is_one_wave() -> None:
    opt = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.3)
    twin = torch.optim.lr_scheduler.CosineAnnealingLR(opt, T_max=STEPS)
    for index in range(STEPS + 1):
        assert SCHEDULES["cosine"](FitPlan(lr=0.3))(index / STEPS) == pytest.approx(twin.get_last_lr()[0], abs=1e-12)
        opt.step()
        twin.step()


@pytest.mark.parametrize("name", SCHEDULES)
def test_as_pytorchs_scheduler_it_sets_every_group(name: str) -> None:
    parts = [nn.Parameter(torch.zeros(1)) for _ in range(2)]
    opt = torch.optim.SGD([{"params": [parts[0]], "lr": 7.0}, {"params": [parts[1]]}], lr=0.3)
    rate = SCHEDULES[name](PLAN)
    found = scheduler(opt, rate, STEPS)
    for index in range(STEPS + 5):  # past its end it stays
        assert [group["lr"] for group in opt.param_groups] == pytest.approx([rate(min(1.0, index / STEPS))] * 2, abs=1e-12)
        opt.step()
        found.step()


@given(st.lists(st.floats(0, 10), max_size=30), st.integers(0, 4), st.sampled_from([0.1, 0.5]))
def test_the_plateau_equals_pytorchs(history: list[float], patience: int, factor: float) -> None:
    opt = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    twin = torch.optim.lr_scheduler.ReduceLROnPlateau(opt, factor=factor, patience=patience, eps=0.0)
    for figure in history:
        twin.step(figure)
    assert plateau(history, factor, patience) == pytest.approx(opt.param_groups[0]["lr"], rel=1e-9)


@given(st.sampled_from(sorted(SCHEDULES)), st.floats(-1, 2), st.integers(1, 5), st.floats(0, 1))
def test_a_rate_lies_between_zero_and_its_peak(name: str, progress: float, cycles: int, warm: float) -> None:
    plan = FitPlan(lr=0.3, schedule=name, cycles=cycles, warmup=warm)
    value = build(nn.Linear(1, 1), plan)[1](progress)
    assert 0 <= value <= 0.3 + 1e-12


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_optimizer_lowers_the_loss(name: str) -> None:
    model, x = nn.Linear(5, 1), torch.randn(64, 5)
    optimizer, _ = build(model, FitPlan(optimizer=name, lr=0.02 if name != "adadelta" else 5.0))
    if name in TWO_WEIGHTS:
        optimizer.train()  # type: ignore[attr-defined]
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


def test_centralized_gradients_have_no_mean_in_any_filter() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4, 2))
    model(torch.randn(5, 3, 3, 3)).square().sum().backward()
    before = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    normalize_gradients(model, "centralize")
    for name, p in model.named_parameters():
        assert p.grad is not None
        if p.dim() == 1:
            assert torch.equal(p.grad, before[name])
            continue
        for filter_, was in zip(p.grad, before[name], strict=True):
            assert torch.allclose(filter_, was - was.mean(), atol=1e-6)


def test_standardized_gradients_have_mean_zero_and_deviation_one() -> None:
    model = nn.Linear(6, 5)
    (1e3 * model(torch.randn(7, 6)).square().sum()).backward()
    normalize_gradients(model, "standardize")
    assert model.weight.grad is not None
    assert float(model.weight.grad.mean()) == pytest.approx(0, abs=1e-6)
    assert float(model.weight.grad.std()) == pytest.approx(1, abs=1e-5)


def test_a_single_number_has_no_deviation_and_keeps_its_gradient() -> None:
    model = nn.Linear(1, 1)
    (3 * model(torch.ones(1, 1))).sum().backward()
    normalize_gradients(model, "standardize")
    assert model.weight.grad is not None
    assert model.weight.grad.item() == 3


def test_the_sharpened_weights_lie_a_radius_up_the_gradient() -> None:
    model = nn.Linear(3, 2)
    model(torch.randn(4, 3)).square().sum().backward()
    own = [p.detach().clone() for p in model.parameters()]
    gradient = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
    with sharpened(model, 0.25):
        moved = torch.cat([(p - before).flatten() for p, before in zip(model.parameters(), own, strict=True)])
    assert torch.allclose(moved, 0.25 * gradient / gradient.norm(), atol=1e-6)
    assert all(torch.equal(p, before) for p, before in zip(model.parameters(), own, strict=True))


BAD = {
    "optimizer": ("adamx", "optimizer: 'adamx'. Did you mean 'adam"),
    "schedule": ("cosin", "schedule: 'cosin'. Did you mean 'cosine'"),
    "epochs": (0, "epochs: 0 must be 1 or more"),
    "batch_size": (0, "batch_size: 0 must be"),
    "lr": (float("nan"), "lr: nan must be more than 0"),
    "warmup": (1.5, "warmup: 1.5 is a fraction"),
    "accumulate": (0, "accumulate: 0 must be 1 or more"),
    "cycles": (0, "cycles: 0 must be 1 or more"),
    "patience": (0, "patience: 0 must be 1 or more"),
    "gradients": ("central", "gradients: 'central'. Did you mean 'centralize'"),
    "average": ("emma", "average: 'emma'. Did you mean 'ema'"),
    "ema_decay": (1.0, "ema_decay: 1.0 lies between 0 and 1"),
    "sam": (-0.1, "sam: -0.1 must be 0 or more"),
    "label_smoothing": (1.0, "label_smoothing: 1.0 is a share"),
    "distill": (2.0, "distill: 2.0 is a weight"),
    "temperature": (0.0, "temperature: 0.0 must be more than 0"),
    "weight_decay": (-1.0, "weight_decay: -1.0 must be 0 or more"),
    "grad_clip": (0.0, "grad_clip: 0.0 must be more than 0"),
    "precision": ("fp8", "precision: 'fp8'."),
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
