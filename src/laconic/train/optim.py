"""Optimizers and learning-rate schedules by name."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import torch
from torch import nn
from torch.optim import Optimizer

from laconic.core import schedule
from laconic.core.errors import BadInput, nearest, need
from laconic.core.plan import FitPlan, out_of_range
from laconic.core.schedule import Schedule

Groups = list[dict[str, object]]

OPTIMIZERS: dict[str, Callable[[Groups, FitPlan], Optimizer]] = {
    "sgd": lambda groups, plan: torch.optim.SGD(groups, lr=plan.lr, momentum=plan.momentum),
    "nesterov": lambda groups, plan: torch.optim.SGD(groups, lr=plan.lr, momentum=plan.momentum, nesterov=True),
    "adam": lambda groups, plan: torch.optim.Adam(groups, lr=plan.lr),
    "adamw": lambda groups, plan: torch.optim.AdamW(groups, lr=plan.lr),
    "rmsprop": lambda groups, plan: torch.optim.RMSprop(groups, lr=plan.lr, momentum=plan.momentum),
    "adagrad": lambda groups, plan: torch.optim.Adagrad(groups, lr=plan.lr),
    "adadelta": lambda groups, plan: torch.optim.Adadelta(groups, lr=plan.lr),
    "schedule_free": lambda groups, plan: need("schedulefree", "schedule-free").AdamWScheduleFree(groups, lr=plan.lr),
}
# Optimizers that keep other weights while they train than those that they deliver, and have `train()` and `eval()` to change between them.
TWO_WEIGHTS = ("schedule_free",)

_LOW, _CYCLES = 0.1, 3  # of the cyclical rates: the lowest as a share of the peak, and how many cycles
# Schedules of the learning rate over progress, in the limit of many steps; warm-up is put before them. "plateau" is constant here: the loop lowers it by what
# it sees.
SCHEDULES: dict[str, Callable[[FitPlan], Schedule]] = {
    "constant": lambda plan: schedule.constant(plan.lr),
    "linear": lambda plan: schedule.linear(plan.lr, 0.0),
    "cosine": lambda plan: schedule.restarts(plan.lr, 0.0, plan.cycles or 1),
    "step": lambda plan: schedule.step(plan.lr, 0.1, at=(0.5, 0.75)),
    "exponential": lambda plan: schedule.exponential(plan.lr, plan.lr * 0.01),
    "polynomial": lambda plan: schedule.polynomial(plan.lr, 0.0, 2.0),
    "triangular": lambda plan: schedule.triangular(plan.lr * _LOW, plan.lr, plan.cycles or _CYCLES),
    "triangular2": lambda plan: schedule.triangular(plan.lr * _LOW, plan.lr, plan.cycles or _CYCLES, shrink=0.5),
    "exp_range": lambda plan: schedule.exp_range(plan.lr * _LOW, plan.lr, plan.cycles or _CYCLES),
    "one_cycle": lambda plan: schedule.one_cycle(plan.lr),
    "inverse_sqrt": lambda plan: schedule.inverse_sqrt(plan.lr, (1 - plan.warmup) / plan.warmup if plan.warmup > 1e-6 else 9.0),
    "plateau": lambda plan: schedule.constant(plan.lr),
}
# Of those that count whole steps: plan, steps of the warm-up, steps behind it.
_IN_STEPS: dict[str, Callable[[FitPlan, int, int], Schedule]] = {
    "one_cycle": lambda plan, warm, rest: schedule.one_cycle(plan.lr, steps=rest),
    "inverse_sqrt": lambda plan, warm, rest: (
        schedule.inverse_sqrt(plan.lr, rest / warm, 1 + 1 / warm) if warm else SCHEDULES["inverse_sqrt"](plan)
    ),
}


def build(model: nn.Module, plan: FitPlan) -> tuple[Optimizer, Schedule]:
    """Build the optimizer over the model's trainable parameters, and the learning rate over progress in [0, 1] in the limit of many steps.

    Raises:
        BadInput: an unknown name, or values out of range, all told at once.
    """
    mistakes = list(_mistakes(plan))
    if mistakes:
        raise BadInput("the plan of training makes no sense:\n" + "\n".join(f"  {m}" for m in mistakes))
    rate = schedule.warmup(SCHEDULES[plan.schedule](plan), plan.warmup)
    return OPTIMIZERS[plan.optimizer](groups(model, plan.weight_decay), plan), rate


def planned(plan: FitPlan, steps: int) -> Schedule:
    """Return the learning rate of a training of so many steps: step k (from 0) has that at progress k / steps."""
    warm = schedule.warm_steps(plan.warmup, steps)
    rest = steps - warm
    course = _IN_STEPS[plan.schedule](plan, warm, rest) if plan.schedule in _IN_STEPS and rest else SCHEDULES[plan.schedule](plan)
    return schedule.warmup(course, plan.warmup, steps, plan.lr if plan.schedule == "inverse_sqrt" else None)


def groups(model: nn.Module, weight_decay: float) -> Groups:
    """Split trainable parameters in two groups: matrices and kernels decay; biases and the parameters of norms (one dimension) do not."""
    trainable = [p for p in model.parameters() if p.requires_grad]
    return [
        {"params": [p for p in trainable if p.dim() > 1], "weight_decay": weight_decay},
        {"params": [p for p in trainable if p.dim() <= 1], "weight_decay": 0.0},
    ]


def scheduler(optimizer: Optimizer, rate: Schedule, steps: int) -> torch.optim.lr_scheduler.LRScheduler:
    """Turn a schedule (of `planned`, for instance) into one of PyTorch's own, for other loops: call `step()` after each of `steps` optimizer steps.

    Every group's rate becomes the schedule's value, whatever it was: at step k that at progress k / steps, as in `fit`.
    """
    for group in optimizer.param_groups:
        group["lr"] = group["initial_lr"] = 1.0
    return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate(step / max(1, steps)))


@torch.no_grad()
def normalize_gradients(model: nn.Module, kind: str) -> None:
    """Centralize or standardize the gradients of matrices and kernels in place.

    Args:
        kind: ``centralize`` takes the mean over each output channel's weights off its gradient (Yong et al. 2020, eq. 1); ``standardize`` makes each
            tensor's gradient of mean 0 and deviation 1 (Yun 2024, ZNorm).
    """
    for p in model.parameters():
        if p.grad is None or p.dim() < 2 or p.numel() < 2:  # one number has no deviation
            continue
        if kind == "centralize":
            p.grad -= p.grad.mean(dim=tuple(range(1, p.dim())), keepdim=True)
        else:
            p.grad.copy_((p.grad - p.grad.mean()) / (p.grad.std() + 1e-10))


@contextlib.contextmanager
def sharpened(model: nn.Module, radius: float) -> Iterator[None]:
    """Move the weights `radius` up their gradient inside (Foret et al. 2021, eq. 2); they come back as they were, the new gradients stay."""
    moved = [p for p in model.parameters() if p.grad is not None]
    with torch.no_grad():
        length = torch.stack([p.grad.norm() for p in moved if p.grad is not None]).norm() + 1e-12
        before = [p.detach().clone() for p in moved]
        for p in moved:
            assert p.grad is not None
            p.add_(p.grad * (radius / length))
    try:
        yield
    finally:
        with torch.no_grad():
            for p, own in zip(moved, before, strict=True):
                p.copy_(own)


@contextlib.contextmanager
def buffers_kept(model: nn.Module) -> Iterator[None]:
    """Give the buffers (running statistics, counters) back as they were, whatever is computed inside: a second pass over a batch is not a second batch."""
    before = [(buffer, buffer.detach().clone()) for buffer in model.buffers()]
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, own in before:
                buffer.copy_(own)


def _mistakes(plan: FitPlan) -> Iterator[str]:
    choices = {
        "optimizer": tuple(OPTIMIZERS),
        "schedule": tuple(SCHEDULES),
        "gradients": ("plain", "centralize", "standardize"),
        "average": ("none", "ema", "swa"),
        "precision": ("fp32", "bf16"),
    }
    for field, names in choices.items():
        name = getattr(plan, field)
        if name not in names:
            yield f"{field}: '{name}'." + nearest(name, names)
    yield from out_of_range(plan)
    if plan.epochs == 0:
        yield "epochs: 0 must be 1 or more"
