"""Averages of the weights over training steps, which often generalize better than the last ones."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from laconic.core.folding import reestimate_batch_norm
from laconic.core.norms import refusals_told
from laconic.core.program import Program, as_call

SWA_FROM = 0.75  # of the steps. Izmailov et al. 2018, section 4: averaging over the last quarter


class Average:
    """A running average of all floating-point parameters and buffers.

    Args:
        model: whose weights; read at each update.
        kind: ``ema``, an exponential moving average whose memory grows to `decay` (Tarvainen & Valpola 2017, section 2); or ``swa``, the plain mean of the
            last quarter of the steps and of those that it begins with (Izmailov et al. 2018, algorithm 1).
    """

    def __init__(self, model: nn.Module, kind: str, decay: float) -> None:
        self.model, self.kind, self.decay = model, kind, decay
        self.steps, self.values = 0, _values(model)

    @torch.no_grad()
    def update(self, progress: float) -> None:
        """Add the weights that the model has after a step; `progress` in [0, 1] is that of the training."""
        if self.kind == "swa" and progress < SWA_FROM:
            return
        keep = self.steps / (self.steps + 1)
        if self.kind == "ema":
            keep = min(self.decay, (1 + self.steps) / (10 + self.steps))
        for name, now in _tensors(self.model).items():
            self.values[name].lerp_(now, 1 - keep)
        self.steps += 1

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """Put the averages into the model while the context is open; its own weights and buffers come back, whatever is done to them inside."""
        if not self.steps:
            yield
            return
        own = {name: value.detach().clone() for name, value in self.model.state_dict().items()}
        _put(self.model, self.values)
        try:
            yield
        finally:
            with torch.no_grad():
                for name, value in self.model.state_dict().items():
                    value.copy_(own[name])

    def deliver(self) -> None:
        """Leave the averages in the model."""
        if self.steps:
            _put(self.model, self.values)

    def state(self) -> dict[str, Tensor]:
        """Return what a checkpoint keeps: the averages, and under an empty name the number of steps."""
        return {**self.values, "": torch.tensor(self.steps)}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Continue from what `state` returned."""
        self.steps = int(state[""])
        self.values = {name: value.to(self.values[name].device, copy=True) for name, value in state.items() if name}


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    return {name: value for name, value in model.state_dict().items() if value.is_floating_point()}


def _values(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in _tensors(model).items()}


@torch.no_grad()
def _put(model: nn.Module, values: Mapping[str, Tensor]) -> None:
    for name, tensor in _tensors(model).items():
        tensor.copy_(values[name])


def renew_batch_norm(model: nn.Module, inputs: Iterable[Any]) -> None:
    """Estimate the statistics of batch-norms anew from batches of inputs, as averaged weights need (Izmailov et al. 2018, section 3.2).

    The rest stays in evaluation mode: the statistics are those that the delivered model will meet, without dropout. Norms that stay in evaluation mode when the
    model trains keep theirs.

    Raises:
        BadInput: a batch-norm is given one value per channel.
    """
    if isinstance(model, Program):
        reestimate_batch_norm(model.eval(), (model.flatten_inputs(item) for item in inputs))
        return
    model.train()
    trained = {id(m) for m in model.modules() if m.training}
    model.eval()
    norms = [
        m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.running_mean is not None and id(m) in trained
    ]
    if not norms:
        return
    before = [(m, m.momentum) for m in norms]
    try:
        for m in norms:
            m.train()
            m.reset_running_stats()
            m.momentum = None  # PyTorch then keeps the mean over all batches
        with torch.no_grad(), refusals_told():
            for item in inputs:
                args, kwargs = as_call(item)
                model(*args, **kwargs)
    finally:
        for m, momentum in before:
            m.momentum = momentum
        model.eval()
