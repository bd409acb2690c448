"""Optimizers and learning-rate schedules by name."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import nn
from torch.optim import Optimizer

from laconic.core import schedule
from laconic.core.errors import BadInput, nearest
from laconic.core.schedule import Schedule
from laconic.core.task import FitPlan

Groups = list[dict[str, object]]

OPTIMIZERS: dict[str, Callable[[Groups, FitPlan], Optimizer]] = {
    "sgd": lambda groups, plan: torch.optim.SGD(groups, lr=plan.lr, momentum=plan.momentum),
    "nesterov": lambda groups, plan: torch.optim.SGD(groups, lr=plan.lr, momentum=plan.momentum, nesterov=True),
    "adam": lambda groups, plan: torch.optim.Adam(groups, lr=plan.lr),
    "adamw": lambda groups, plan: torch.optim.AdamW(groups, lr=plan.lr),
    "rmsprop": lambda groups, plan: torch.optim.RMSprop(groups, lr=plan.lr, momentum=plan.momentum),
    "adagrad": lambda groups, plan: torch.optim.Adagrad(groups, lr=plan.lr),
}

# From the peak rate to the schedule; warm-up is put before it.
SCHEDULES: dict[str, Callable[[float], Schedule]] = {
    "constant": schedule.constant,
    "linear": lambda lr: schedule.linear(lr, 0.0),
    "cosine": lambda lr: schedule.cosine(lr, 0.0),
    "step": lambda lr: schedule.step(lr, 0.1, at=(0.5, 0.75)),
    "exponential": lambda lr: schedule.exponential(lr, lr * 0.01),
    "polynomial": lambda lr: schedule.polynomial(lr, 0.0, 2.0),
}


def build(model: nn.Module, plan: FitPlan) -> tuple[Optimizer, Schedule]:
    """The optimizer over the model's trainable parameters, and the learning rate over progress in [0, 1].

    Raises:
        BadInput: an unknown name, or values out of range, all told at once.
    """
    mistakes = list(_mistakes(plan))
    if mistakes:
        raise BadInput("the plan of training makes no sense:\n" + "\n".join(f"  {m}" for m in mistakes))
    rate = schedule.warmup(SCHEDULES[plan.schedule](plan.lr), plan.warmup)
    return OPTIMIZERS[plan.optimizer](groups(model, plan.weight_decay), plan), rate


def groups(model: nn.Module, weight_decay: float) -> Groups:
    """Trainable parameters in two groups: matrices and kernels decay; biases and the parameters of norms (one dimension) do not."""
    trainable = [p for p in model.parameters() if p.requires_grad]
    return [
        {"params": [p for p in trainable if p.dim() > 1], "weight_decay": weight_decay},
        {"params": [p for p in trainable if p.dim() <= 1], "weight_decay": 0.0},
    ]


def _mistakes(plan: FitPlan) -> Iterator[str]:
    for field, table in (("optimizer", OPTIMIZERS), ("schedule", SCHEDULES)):
        name = getattr(plan, field)
        if name not in table:
            yield f"{field}: '{name}'." + nearest(name, table)
    if plan.epochs < 1:
        yield f"epochs: {plan.epochs} must be 1 or more"
    if plan.batch_size < 1:
        yield f"batch_size: {plan.batch_size} must be 1 or more"
    if not plan.lr > 0:
        yield f"lr: {plan.lr} must be more than 0"
    if not 0 <= plan.warmup <= 1:
        yield f"warmup: {plan.warmup} is a fraction of all steps, 0 to 1"
    if plan.weight_decay < 0:
        yield f"weight_decay: {plan.weight_decay} must be 0 or more"
    if plan.grad_clip is not None and not plan.grad_clip > 0:
        yield f"grad_clip: {plan.grad_clip} must be more than 0"
    if plan.precision not in ("fp32", "bf16"):
        yield f"precision: '{plan.precision}'; choose fp32 or bf16"
