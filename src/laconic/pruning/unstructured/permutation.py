"""Another order of channels, in which N:M keeps more: channels that are coupled move together, so the program computes what it did (Pool & Yu 2021).

Shapes: R rows of weights that read the same channels, n channels, M channels of a group.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor

from laconic.core.program import Program
from laconic.pruning.coupling import Group, couple
from laconic.pruning.unstructured.patterns import Pattern
from laconic.pruning.unstructured.weights import Weight, weights_of

_ROWS = 2048  # of weights that a search looks at
_PAIRS = 4096  # of groups that are compared in one round
_ROUNDS = 200
_SAME = 1e-4  # of the largest answer: what another order of sums may change


def permuted(program: Program, pattern: Pattern, freeze: Sequence[str] = ()) -> tuple[Program, int]:
    """Return a copy with the channels of coupled layers in an order that lets larger weights stay, and how many groups of channels moved.

    Groups in which a component is one index in each dimension are looked at: channels of layers, not heads or gates. Where the copy does not answer as the
    program does, the program itself is returned, unmoved.

    Args:
        program: in eval mode.
        pattern: N:M.
        freeze: module paths whose channels stay where they are.
    """
    result = copy.deepcopy(program).eval()
    coupling = couple(result, freeze=freeze)
    readers = {weight.name: weight for weight in weights_of(result)[0] if not pattern.misfit(weight.shape)}
    moved = 0
    for group in coupling.groups:
        rows = _rows(group, readers)
        if len(rows) and _plain(group):
            order = better_order(rows, pattern)
            moved += int((order != torch.arange(len(order))).any())
            for slot in group.slots:
                tensor = coupling.tensor(slot.tensor)
                tensor.data = tensor.data.index_select(slot.dim, order.to(tensor.device)).contiguous()
    return (result, moved) if moved and _same(result, program) else (program, 0)


def _plain(group: Group) -> bool:
    """Return whether each component is one index of each dimension, in order."""
    return all(len(slot.index) == len(group) and bool((slot.index == range(len(group))).all()) for slot in group.slots)


def _rows(group: Group, readers: dict[str, Weight]) -> Tensor:
    """Return what is multiplied with the channels of a group, size by size: (R, n); empty where nothing of the pattern is."""
    rows = []
    for slot in group.slots:
        weight = readers.get(slot.tensor)
        if slot.role == "in" and weight is not None and weight.shape[1] == len(group):
            rows.append(weight.matrix(weight.parameter.detach().abs()).reshape(-1, len(group)))
    if not rows:
        return torch.zeros(0, len(group))
    whole = torch.cat(rows)
    return whole[:: max(1, len(whole) // _ROWS)]


@torch.no_grad()
def better_order(sizes: Tensor, pattern: Pattern) -> Tensor:
    """Return an order of channels (n,) in which the sizes that N:M keeps add up to more; channels change places as long as that pays.

    Args:
        sizes: (R, n), n a multiple of M.
        pattern: N:M.
    """
    order = torch.arange(sizes.shape[1])
    groups = sizes.shape[1] // pattern.of
    pairs = torch.combinations(torch.arange(groups), 2)
    pairs = pairs[torch.randperm(len(pairs), generator=torch.Generator().manual_seed(0))[:_PAIRS]]
    gains: dict[tuple[int, int], tuple[float, int, int]] = {}
    for _ in range(_ROUNDS):
        for a, b in pairs.tolist():
            if (a, b) not in gains:
                gains[a, b] = _best_exchange(sizes, order.view(groups, -1)[a], order.view(groups, -1)[b], pattern)
        if not gains or max(gains.values())[0] <= 0:
            break
        (a, b), (_, i, j) = max(gains.items(), key=lambda item: item[1][0])
        one, other = a * pattern.of + i, b * pattern.of + j
        order[[one, other]] = order[[other, one]]
        gains = {pair: gain for pair, gain in gains.items() if not {a, b} & set(pair)}
    return order


def _best_exchange(sizes: Tensor, a: Tensor, b: Tensor, pattern: Pattern) -> tuple[float, int, int]:
    """Return what the best exchange of one channel between two groups gains, and the places of the two."""
    m = pattern.of
    both = torch.cat([a, b]).repeat(m * m + 1, 1)  # the last one as it is
    for k in range(m * m):
        i, j = k // m, m + k % m
        both[k, [i, j]] = both[k, [j, i]]
    kept = sizes[:, both].unflatten(-1, (2, m)).topk(pattern.keep, -1).values.sum((0, 2, 3), dtype=torch.float64)
    gains = kept[:-1] - kept[-1]
    best = int(gains.argmax())
    # rounding is no gain
    gain = float(gains[best]) if float(gains[best]) > 1e-6 * float(kept[-1]) else 0.0
    return gain, best // m, best % m


@torch.no_grad()
def _same(one: Program, other: Program) -> bool:
    """Return whether two programs answer alike."""
    example = other.example_inputs()
    pairs = zip(one.graph_module(*example), other.graph_module(*example), strict=True)
    return all(float((a - b).abs().max()) <= _SAME * float(b.abs().max()) for a, b in pairs if b.is_floating_point() and b.numel())
