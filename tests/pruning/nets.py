"""How the nets of these tests are written: a forward function and its parts, random weights, groups in short."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from laconic.core.capture import capture
from laconic.core.program import Program
from laconic.pruning.coupling import Coupling, Group, couple
from laconic.pruning.surgery import Keep
from laconic.pruning.trace import Policy

CAPTURED, BATCH = 4, 3  # examples at capture (as many as heads or groups in many nets: sizes must not be confused), and afterwards


Inputs = Callable[[int], tuple[Tensor, ...]]


class Net(nn.Module):
    """`forward(net, *inputs)` over named parts: modules, parameters, buffers."""

    def __init__(self, forward: Callable[..., Any], **parts: nn.Module | Tensor) -> None:
        super().__init__()
        self.run = forward
        for name, part in parts.items():
            if isinstance(part, Tensor) and not isinstance(part, nn.Parameter):
                self.register_buffer(name, part)
            else:
                setattr(self, name, part)

    def forward(self, *inputs: Tensor) -> Any:
        return self.run(self, *inputs)


@torch.no_grad()
def randomized(module: nn.Module, seed: int = 0) -> nn.Module:
    """No parameter is 0 or 1, so that a wrong slice shows."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        if parameter.dim() > 1:
            parameter.normal_(0, max(1, parameter[0].numel()) ** -0.5, generator=generator)
        else:
            parameter.uniform_(0.5, 1.5, generator=generator)
    for name, buffer in module.named_buffers():
        if name.endswith(("running_mean", "running_var")):
            buffer.uniform_(0.5, 1.5, generator=generator)
    return module.eval()


def parameter(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.randn(shape))


def image(batch: int, channels: int = 3, side: int = 6) -> tuple[Tensor, ...]:
    return (torch.randn(batch, channels, side, side),)


def rows(batch: int) -> tuple[Tensor, ...]:
    return (torch.randn(batch, 5),)


def tokens(batch: int) -> tuple[Tensor, ...]:
    """(B, L, C)."""
    return (torch.randn(batch, 7, 5),)


def sentences(batch: int) -> tuple[Tensor, ...]:
    """Tokens; afterwards, of another length than at capture."""
    return (torch.randn(batch, 7 if batch == CAPTURED else 9, 5),)


def words(batch: int) -> tuple[Tensor, ...]:
    return (torch.randint(0, 11, (batch, 7)),)


@dataclass(frozen=True)
class Case:
    """A net, and what can be removed from it.

    Attributes:
        make: its arguments, if it has any, are the sizes of the groups: with other sizes it makes the net that pruning must arrive at.
        groups: as `groups_of` tells them.
        zeroed: the net itself with slices at zero computes the same (not so where a norm or a reduction sees fewer numbers).
        dynamic: further dynamic dimensions, as `capture` takes them.
    """

    make: Callable[..., nn.Module]
    inputs: Inputs
    groups: tuple[str, ...]
    policy: Policy = field(default_factory=Policy)
    zeroed: bool = True
    dynamic: tuple[tuple[str, tuple[tuple[int, str], ...]], ...] = ()
    batched: bool = True


def case(make: Callable[..., nn.Module], inputs: Inputs, *groups: str, **options: Any) -> Case:
    """A `Case`; the tokens of a group may come in any order."""
    return Case(make, inputs, tuple(sorted_tokens(group) for group in groups), **options)


def sorted_tokens(group: str) -> str:
    size, *slots = group.split()
    return " ".join([size, *sorted(slots)])


def groups_of(coupling: Coupling) -> dict[str, Group]:
    """By what they are: ``size tensor:dim …``, with ``*k`` where a component has k slices; weights and biases by their first letter."""
    found = dict[str, Group]()
    for group in coupling.groups:
        slots = []
        for slot in group.slots:
            times = np.bincount(slot.index[slot.index >= 0], minlength=len(group))
            assert (times == times[0]).all(), slot
            name = re.sub(r"\.(w|b)(eight|ias)$", r".\1", slot.tensor)
            slots.append(f"{name}:{slot.dim}" + (f"*{times[0]}" if times[0] > 1 else ""))
        found[sorted_tokens(f"{len(group)} " + " ".join(slots))] = group
    return found


@cache
def built(made: Case) -> tuple[nn.Module, Program, Coupling]:
    """Module, program, coupling. Not to be changed."""
    torch.manual_seed(0)
    module = randomized(made.make())
    dynamic = {name: dict(dims) for name, dims in made.dynamic}
    program = capture(module, made.inputs(CAPTURED), dynamic=dynamic, dynamic_batch=made.batched)
    return module, program, couple(program, made.policy)


@torch.no_grad()
def zeroed(module: nn.Module, coupling: Coupling, keep: Keep) -> nn.Module:
    """The slow twin: the module with every slice that goes set to zero, one by one."""
    twin = copy.deepcopy(module)
    done = set[int]()
    for name, value in twin.named_parameters(remove_duplicate=False):
        if name in coupling.tensors and id(value) not in done:
            done.add(id(value))
            for dim, ids in enumerate(coupling.tensors[name]):
                for index, component in enumerate([] if ids is None else coupling.label[ids]):
                    if not keep[component]:
                        value.select(dim, index).zero_()
    return twin


def flat(outputs: Any) -> list[Tensor]:
    return [outputs] if isinstance(outputs, Tensor) else [t for part in outputs for t in flat(part)]


def difference(found: Any, expected: Any) -> float:
    """The largest, relative to the largest number expected."""
    worst = 0.0
    for a, b in zip(flat(found), flat(expected), strict=True):
        assert a.shape == b.shape
        worst = max(worst, float((a.double() - b.double()).abs().max() / b.double().abs().max().clamp(min=1e-6)))
    return worst
