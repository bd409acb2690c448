"""The learning rates that the loop really uses, step by step, against PyTorch's schedulers."""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.optim import lr_scheduler
from torch.optim.optimizer import register_optimizer_step_pre_hook

from laconic.core import schedule
from laconic.core.plan import FitPlan
from laconic.tasks.data import ArrayDataset
from laconic.train.engine import fit
from laconic.train.optim import SCHEDULES, planned, scheduler

X = np.random.default_rng(0).standard_normal((72, 6)).astype(np.float32)
DATA = ArrayDataset(X, (X[:, 0] > 0).astype(np.int64))
LR = 0.3
PLAN = FitPlan(epochs=4, optimizer="sgd", lr=LR, batch_size=12)  # 24 steps


@contextlib.contextmanager
def listening() -> Iterator[list[float]]:
    """The rate of each step that any optimizer takes inside."""
    rates: list[float] = []
    handle = register_optimizer_step_pre_hook(lambda optimizer, args, kwargs: rates.append(optimizer.param_groups[0]["lr"]))
    try:
        yield rates
    finally:
        handle.remove()


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 2))


def stepped(plan: FitPlan, **more: Any) -> list[float]:
    """The rates of a training."""
    with listening() as rates:
        fit(net(), plan, train=DATA, loss=F.cross_entropy, **more)
    return rates


def cyclic(mode: str, gamma: Callable[[int], float] = lambda n: 1.0) -> Callable[[Any, int], Any]:
    def make(opt: Any, n: int) -> Any:
        return lr_scheduler.CyclicLR(opt, 0.1 * LR, LR, step_size_up=n // 6, mode=mode, gamma=gamma(n), cycle_momentum=False)

    return make


# PyTorch's scheduler of the same name over n steps; those that PyTorch lacks by their formula
TWINS: dict[str, Callable[[Any, int], Any]] = {
    "constant": lambda opt, n: lr_scheduler.ConstantLR(opt, factor=1.0),
    "linear": lambda opt, n: lr_scheduler.LinearLR(opt, 1.0, 0.0, total_iters=n),
    "cosine": lambda opt, n: lr_scheduler.CosineAnnealingLR(opt, T_max=n),
    "step": lambda opt, n: lr_scheduler.MultiStepLR(opt, [n // 2, -(-3 * n // 4)], gamma=0.1),
    "exponential": lambda opt, n: lr_scheduler.ExponentialLR(opt, 0.01 ** (1 / n)),
    "polynomial": lambda opt, n: lr_scheduler.PolynomialLR(opt, total_iters=n, power=2.0),
    "triangular": cyclic("triangular"),
    "triangular2": cyclic("triangular2"),
    "exp_range": cyclic("exp_range", lambda n: 0.1 ** (1 / n)),
    "one_cycle": lambda opt, n: lr_scheduler.OneCycleLR(opt, LR, total_steps=n, cycle_momentum=False),
    "inverse_sqrt": lambda opt, n: lr_scheduler.LambdaLR(opt, lambda k: 1 / math.sqrt(1 + 9 * k / n)),
    "plateau": lambda opt, n: lr_scheduler.ConstantLR(opt, factor=1.0),
}


def expected(make: Callable[[Any, int], Any], n: int) -> list[float]:
    """The rates of PyTorch's scheduler in n steps."""
    opt = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=LR)
    twin = make(opt, n)
    rates = []
    for index in range(n):
        rates.append(float(opt.param_groups[0]["lr"]))
        opt.step()
        if index < n - 1:
            twin.step()
    return rates


def test_every_schedule_has_a_twin() -> None:
    assert set(TWINS) == set(SCHEDULES)


@pytest.mark.parametrize("name", TWINS)
@pytest.mark.parametrize("accumulate", [1, 2])
def test_the_loop_steps_at_pytorchs_rates(name: str, accumulate: int) -> None:
    seen = stepped(dataclasses.replace(PLAN, schedule=name, accumulate=accumulate, epochs=4 * accumulate))
    assert len(seen) == 24
    wanted = expected(TWINS[name], 24)
    assert seen == pytest.approx(wanted, abs=1e-12)


@pytest.mark.parametrize("name", [name for name in TWINS if name != "inverse_sqrt"])
def test_a_warm_up_goes_before_it(name: str) -> None:
    """A quarter, 6 of 24 steps; 18 are left."""
    seen = stepped(dataclasses.replace(PLAN, schedule=name, warmup=0.25))
    rest = expected(TWINS[name], 18)
    assert seen == pytest.approx([rest[0] * (k + 1) / 6 for k in range(6)] + rest, abs=1e-12)


def test_the_inverse_square_root_is_that_of_the_transformer() -> None:
    """Vaswani et al. 2017, eq. 3: min(s^-0.5, s · w^-1.5), s from 1, in units of its peak w^-0.5."""
    seen = stepped(dataclasses.replace(PLAN, schedule="inverse_sqrt", warmup=0.25))
    assert seen == pytest.approx([LR * min(s**-0.5, s * 6**-1.5) * math.sqrt(6) for s in range(1, 25)], abs=1e-12)


@pytest.mark.parametrize("cycles", [2, 3, 4])
def test_restarts_begin_at_the_peak_again(cycles: int) -> None:
    seen = stepped(dataclasses.replace(PLAN, cycles=cycles))
    assert seen == pytest.approx(expected(lambda opt, n: lr_scheduler.CosineAnnealingWarmRestarts(opt, T_0=n // cycles), 24), abs=1e-12)


@pytest.mark.parametrize(("steps", "cycles"), [(49, 7), (93, 3), (110, 11), (1_001, 13)])
def test_restarts_are_where_rounding_would_miss_them(steps: int, cycles: int) -> None:
    rate = schedule.restarts(1.0, cycles=cycles)
    length = steps // cycles
    assert [rate(k / steps) for k in range(steps)] == pytest.approx(
        [0.5 * (1 + math.cos(math.pi * (k % length) / length)) for k in range(steps)], abs=1e-6
    )


# without 0.1 of 10: PyTorch divides by zero where the rise is one step
@pytest.mark.parametrize(("steps", "rise"), [(n, r) for n in (2, 3, 4, 7, 10, 33, 100) for r in (0.1, 0.3, 0.55) if n * r != 1])
def test_one_cycle_equals_pytorchs_at_any_length(steps: int, rise: float) -> None:
    def make(opt: Any, n: int) -> Any:
        return lr_scheduler.OneCycleLR(opt, LR, total_steps=n, pct_start=rise, div_factor=10, final_div_factor=100, cycle_momentum=False)

    rate = schedule.one_cycle(LR, rise, 1 / 10, 1 / 100, steps)
    assert [rate(k / steps) for k in range(steps)] == pytest.approx(expected(make, steps), abs=1e-12)


@given(st.sampled_from(sorted(SCHEDULES)), st.integers(2, 200), st.floats(0, 1), st.integers(1, 5))
def test_no_step_is_at_rest(name: str, steps: int, warm: float, cycles: int) -> None:
    """One-cycle ends at 1/250,000 of the peak, as PyTorch's does."""
    rate = planned(FitPlan(lr=LR, schedule=name, warmup=warm, cycles=cycles), steps)
    rates = [rate(k / steps) for k in range(steps)]
    assert min(rates) > (LR / 250_001 if name == "one_cycle" else LR * 0.01 / steps**2)
    assert max(rates) <= LR + 1e-12


@pytest.mark.parametrize("name", ["constant", "linear", "cosine", "polynomial", "inverse_sqrt"])
@pytest.mark.parametrize("warm", [0.0, 0.1])
def test_a_training_of_one_step_takes_it_at_the_peak(name: str, warm: float) -> None:
    seen = stepped(FitPlan(lr=LR, schedule=name, warmup=warm, batch_size=72))
    assert seen == pytest.approx([LR])


def test_a_resumed_training_goes_on_at_the_rate_where_it_was(tmp_path: Path) -> None:
    class Stop(Exception):
        pass

    def interrupt(model: nn.Module, progress: float) -> None:
        if progress > 0.6:
            raise Stop

    plan = dataclasses.replace(PLAN, warmup=0.25, schedule="one_cycle")
    with listening() as seen, contextlib.suppress(Stop):
        stepped(plan, checkpoint=tmp_path, hooks=[interrupt])
    assert len(seen) == 15
    assert seen[:12] + stepped(plan, checkpoint=tmp_path) == stepped(plan)  # two whole epochs are kept


def test_a_rate_of_ones_own_is_asked_at_the_same_places() -> None:
    assert stepped(PLAN, rate=lambda progress: 0.1 + 0.01 * progress) == pytest.approx([0.1 + 0.01 * k / 24 for k in range(24)])


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_loop_of_ones_own_steps_at_the_same_rates(name: str) -> None:
    plan = dataclasses.replace(PLAN, schedule=name, warmup=0.25)
    opt = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=7.0)
    own = scheduler(opt, planned(plan, 24), 24)
    with listening() as seen:
        for _ in range(24):
            opt.step()
            own.step()
    assert seen == pytest.approx(stepped(plan), abs=1e-12)
