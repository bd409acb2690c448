"""Nets whose groups are known by hand: what reads them, and what their gates are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from laconic.core.capture import capture
from laconic.core.context import Context
from laconic.core.task import Task
from laconic.pruning.coupling import Coupling, Group, couple
from laconic.tasks.data import ArrayDataset
from tests.quantization.nets import Attention, Pools, Residual, Upsampled, Words, ids
from tests.reference.criteria import Form

EXAMPLES, BATCH = 8, 4


@dataclass(frozen=True)
class Known:
    """Of a group: modules that read it (with the weight that does), its batch norms' scales, its gates."""

    reads: dict[str, str]
    gates: set[str]
    scales: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Case:
    make: Callable[[], nn.Module]
    inputs: Callable[[], Tensor]
    groups: dict[str, Known]


def doubles(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def residual() -> nn.Module:
    """Batch norms as after training; no channel is dead."""
    module = Residual()
    for norm in (module.norm, module.norm1):
        nn.init.uniform_(norm.weight, 0.5, 2)
        nn.init.uniform_(norm.bias, 0, 0.5)
        norm.running_mean.uniform_(-0.1, 0.1)
        norm.running_var.uniform_(0.5, 2)
    return module.eval()


RNN = {f"rnn.{kind}_l0" for kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")}
CASES = {
    "residual": Case(
        residual,
        lambda: doubles(EXAMPLES, 3, 6, 6),
        {
            "stem": Known(
                {"one": "one.weight", "head": "head.weight"},
                {"norm.weight", "norm.bias", "two.weight", "two.bias"},
                frozenset({"norm.weight"}),
            ),
            "one": Known({"two": "two.weight"}, {"norm1.weight", "norm1.bias"}, frozenset({"norm1.weight"})),
        },
    ),
    "pools": Case(
        Pools,
        lambda: doubles(EXAMPLES, 3, 8, 8),
        {
            "one": Known({"two": "two.weight"}, {"one.weight", "one.bias"}),
            "two": Known({"head": "head.weight"}, {"two.weight", "two.bias"}),
        },
    ),
    "transposed": Case(Upsampled, lambda: doubles(EXAMPLES, 3, 4, 4), {"down": Known({"up": "up.weight"}, {"down.weight", "down.bias"})}),
    "lstm": Case(
        Words,
        lambda: ids(EXAMPLES),
        {"embed": Known({"rnn": "rnn.weight_ih_l0"}, {"embed.weight"}), "rnn.weight_ih_l0": Known({"head": "head.weight"}, RNN)},
    ),
    "attention": Case(
        lambda: Attention(dim=8),
        lambda: doubles(EXAMPLES, 5, 8),
        {
            "qkv.0": Known({"out": "out.weight"}, {f"qkv.{i}.{leaf}" for i in range(3) for leaf in ("weight", "bias")}),
            "up": Known({"down": "down.weight"}, {"up.weight", "up.bias"}),
        },
    ),
}


def loss(outputs: Tensor, target: Tensor) -> Tensor:
    return (outputs - 0.3).square().mean()


def context_of(x: Tensor, **options: Any) -> Context:
    data = ArrayDataset(x.numpy(), np.zeros(len(x), np.int64))
    return Context(Task(nn.Identity(), data, data, loss=loss), **options)


@cache
def built(name: str) -> tuple[nn.Module, Tensor, Coupling]:
    """The module in double precision, examples, and the coupling of its program. Not to be changed."""
    torch.manual_seed(1)
    case = CASES[name]
    module, x = case.make().double().eval(), case.inputs()
    return module, x, couple(capture(module, (x,)))


def group_of(coupling: Coupling, name: str) -> Group:
    return next(group for group in coupling.groups if group.name == name)


@cache
def form_of(name: str, group_name: str) -> Form:
    """The group as the twins take it; gradients and activations are those of the module itself, by hooks and `backward`."""
    module, x, coupling = built(name)
    known, group = CASES[name].groups[group_name], group_of(coupling, group_name)
    parameters = dict(module.named_parameters())
    slots = [(s.tensor, s.dim, s.role, s.index.tolist()) for s in group.slots if s.tensor in parameters]
    gradients, seen = [], dict[str, list[Tensor]]()
    hooks = [
        module.get_submodule(path).register_forward_pre_hook(lambda _, args, path=path: seen.setdefault(path, []).append(args[0].detach()))
        for path in known.reads
    ]
    for batch in x.split(BATCH):
        module.zero_grad()
        loss(module(batch), batch).backward()
        gradients.append({key: p.grad.numpy().copy() for key, p in parameters.items()})
    for hook in hooks:
        hook.remove()
    module.zero_grad()
    reads = []
    for path, weight in known.reads.items():
        dim, index = next((dim, index) for tensor, dim, role, index in slots if (tensor, role) == (weight, "in"))
        kernel, x = parameters[weight].detach().numpy(), torch.cat(seen[path]).numpy()
        reads.append((np.moveaxis(kernel, dim, 1), index, np.moveaxis(x, 1, -1) if kernel.ndim == 4 else x))
    return Form(
        len(group),
        slots,
        {key: p.detach().numpy() for key, p in parameters.items()},
        {key: np.mean([g[key] for g in gradients], axis=0) for key in parameters},
        {key: np.mean([g[key] ** 2 for g in gradients], axis=0) for key in parameters},
        set(known.scales),
        known.gates,
        reads,
    )
