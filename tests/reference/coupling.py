"""Which slices belong together, found by experiment: no graph is read, the module only runs.

The nets must answer 0 with 0 in every channel (tanh, products, batch-norms without shift), so that a channel of zeros is a dead one.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

Slice = tuple[str, int, int]  # a parameter's name, a dimension, an index


def makers(module: nn.Module) -> list[list[Slice]]:
    """For each channel that a layer makes, the slices that make it: a row of the weight and its bias."""
    found = []
    for path, part in module.named_modules():
        own = dict(part.named_parameters(path, recurse=False))
        dim = 1 if isinstance(part, nn.Embedding) else 0
        sizes = {value.shape[dim] for value in own.values() if value.dim() > dim}
        for size in sizes:
            found += [[(name, dim, i) for name, value in own.items() if value.dim() > dim] for i in range(size)]
    return found


def components(module: nn.Module, x: Tensor, together: int = 2) -> set[frozenset[Slice]]:
    """Sets of slices that make a channel and read it.

    Up to so many channels `together` are set to zero. Slices whose gradient is gone then, and with fewer zeros was not, belong to them.
    """
    units = makers(module)
    parent: dict[Slice, Slice] = {}

    def root(one: Slice) -> Slice:
        while parent.setdefault(one, one) != one:
            one = parent[one]
        return one

    dead = {frozenset[int](): dead_slices(module, x, [])}
    for size in range(1, together + 1):
        for chosen in itertools.combinations(range(len(units)), size):
            zeros = [one for i in chosen for one in units[i]]
            dead[frozenset(chosen)] = dead_slices(module, x, zeros)
            known = set[Slice]().union(*(dead[frozenset(some)] for n in range(size) for some in itertools.combinations(chosen, n)))
            fresh = dead[frozenset(chosen)] - known
            if fresh - set(zeros):
                for one in [*zeros, *fresh]:
                    parent[root(one)] = root(zeros[0])
    sets: dict[Slice, set[Slice]] = {}
    for one in list(parent):
        sets.setdefault(root(one), set()).add(one)
    return {frozenset(found) for found in sets.values()}


def dead_slices(module: nn.Module, x: Tensor, zeros: Iterable[Slice]) -> set[Slice]:
    """Slices of which no number has a gradient, while others are zero."""
    twin = copy.deepcopy(module)
    parameters = dict(twin.named_parameters())
    with torch.no_grad():
        for name, dim, index in zeros:
            parameters[name].select(dim, index).zero_()
    weights = torch.linspace(0.5, 1.5, 64, dtype=torch.float64)
    sum((y.flatten() * weights.repeat(y.numel() // 64 + 1)[: y.numel()]).sum() for y in outputs_of(twin(x))).backward()
    found = set()
    for name, value in parameters.items():
        for dim in range(min(2, value.dim())):
            grads = value.grad.abs().movedim(dim, 0).flatten(1).sum(1) if value.dim() > 1 else value.grad.abs()
            found |= {(name, dim, i) for i in range(value.shape[dim]) if float(grads[i]) == 0}
    return found


def outputs_of(result: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return (result,) if isinstance(result, Tensor) else result


@torch.no_grad()
def without(module: nn.Module, slices: Mapping[tuple[str, int], list[int]]) -> nn.Module:
    """A copy whose parameters and buffers lack these indices of these dimensions."""
    twin = copy.deepcopy(module)
    for (name, dim), indices in slices.items():
        path, _, leaf = name.rpartition(".")
        owner = twin.get_submodule(path)
        value = getattr(owner, leaf)
        rest = [i for i in range(value.shape[dim]) if i not in indices]
        cut = value.index_select(dim, torch.tensor(rest))
        setattr(owner, leaf, nn.Parameter(cut) if isinstance(value, nn.Parameter) else cut)
    return twin


def joined(n: int, pairs: Iterable[tuple[Iterable[int], Iterable[int]]]) -> list[int]:
    """Component of each of n ids, numbered in the order of their first ids: one pair after the other, everything renamed each time."""
    label = list(range(n))
    for a, b in pairs:
        for i, j in zip(a, b, strict=True):
            low, high = sorted((label[i], label[j]))
            label = [low if one == high else one for one in label]
    order = list(dict.fromkeys(label))
    return [order.index(one) for one in label]
