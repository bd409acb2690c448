"""Weights that make what nobody reads: a unit all of whose outgoing weights are zero needs no incoming ones, and no bias.

Single weights are chosen by themselves, so some stay that lead into units from which nothing leads on: no gradient reaches them, and no output depends on them.
They are found by the coupling of channels: a channel is unread where every weight that multiplies it is zero. What they would have taken of the budget goes
to others.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx

from laconic.core.errors import BadInput
from laconic.core.operators import argument, family_of, is_stored, operator_of
from laconic.core.program import Program
from laconic.pruning.coupling import Coupling, Group, Slot, couple
from laconic.pruning.rules import rule_of
from laconic.pruning.trace import is_ids
from laconic.pruning.unstructured.weights import Weight

_MAKES, _GOES_ALONG = "out", "bias"
Masks = dict[str, Tensor]


class Unread:
    """Finds the weights of a program that lead into unread channels.

    Channels that an operator compares or sums over (a layer norm, a mean, a product of activations) are left alone: there, a channel that no weight reads tells
    in others.

    Args:
        program: whose.
        weights: that can be sparse, of this program.
    """

    def __init__(self, program: Program, weights: Sequence[Weight]) -> None:
        self.names = {id(weight.parameter): weight.name for weight in weights}
        self.coupling = _coupling(program)
        self.groups = [] if self.coupling is None else _simple_groups(self.coupling, self.names)

    def of(self, kept: Mapping[str, Tensor]) -> Masks:
        """Return by name which of the weights that stay lead into unread channels: booleans of the parameters' shapes.

        Args:
            kept: by name of a weight that can be sparse, which of its numbers stay; all that are not zero of the others.
        """
        left = {name: mask.clone() for name, mask in kept.items()}
        self._spread(left, lambda tensor, dim, rows: self._forget(left, tensor, dim, rows))
        return {name: kept[name].to(mask.device) & ~mask for name, mask in left.items()}

    @torch.no_grad()
    def silence(self, kept: Masks) -> int:
        """Set the weights into unread channels, and their biases, to zero, in program and masks; return how many numbers that were not zero.

        No output changes: what reads them is zero. Channels that other weights make too stay as they are.
        """
        numbers = 0

        def clear(tensor: Tensor, dim: int, rows: Tensor) -> None:
            nonlocal numbers
            part = tensor.detach().movedim(dim, 0)
            numbers += int(torch.count_nonzero(part[rows]))
            part[rows] = 0
            self._forget(kept, tensor, dim, rows)

        self._spread(kept, clear, (_MAKES, _GOES_ALONG))
        return numbers

    def _spread(self, kept: Masks, clear: Callable[[Tensor, int, Tensor], None], roles: Sequence[str] = (_MAKES,)) -> None:
        """Clear what makes unread channels, again and again: what it read may be unread now."""
        known: list[Any] = [None] * len(self.groups)
        changed = True
        while changed:
            changed = False
            for place, (group, read) in reversed(list(enumerate(self.groups))):
                unread = self._unread(group, read, kept)
                if not unread.any() or (known[place] is not None and bool((known[place] == unread).all())):
                    continue
                known[place], changed = unread, True
                for slot in group.slots:
                    if slot.role in roles and slot not in read:
                        clear(self._tensor(slot), slot.dim, torch.from_numpy(unread[slot.index] & (slot.index >= 0)))

    def _unread(self, group: Group, read: Sequence[Slot], kept: Mapping[str, Tensor]) -> np.ndarray[Any, Any]:
        """Return of each component of a group whether all that reads it is zero."""
        unread = np.ones(len(group), bool)
        for slot in read:
            tensor = self._tensor(slot)
            name = self.names.get(id(tensor))
            nonzero = (tensor.detach() != 0) if name is None else kept[name]
            used = nonzero.movedim(slot.dim, 0).flatten(1).any(1).cpu().numpy()
            unread[slot.index[used & (slot.index >= 0)]] = False
        return unread

    def _forget(self, kept: Masks, tensor: Tensor, dim: int, rows: Tensor) -> None:
        name = self.names.get(id(tensor))
        if name is not None:
            kept[name] = kept[name].clone()
            kept[name].movedim(dim, 0)[rows.to(kept[name].device)] = False

    def _tensor(self, slot: Slot) -> Tensor:
        assert self.coupling is not None
        return self.coupling.tensor(slot.tensor)


def _coupling(program: Program) -> Coupling | None:
    """Return how a program's channels hang together; None where its graph does not say (steps inserted operators into it)."""
    try:
        return couple(program)
    except BadInput:
        return None


def _simple_groups(coupling: Coupling, sparse: Collection[int]) -> list[tuple[Group, list[Slot]]]:
    """Return the groups whose channels weights that can be sparse make and only weights read, with where they do."""
    readers = {(consumer.tensor, consumer.dim) for consumer in coupling.consumers} | {
        place for place, role in coupling.roles.items() if role == "in"
    }
    mixed = _mixed(coupling)
    result = []
    for group in coupling.groups:
        read = [slot for slot in group.slots if (slot.tensor, slot.dim) in readers]
        makes = [coupling.tensor(slot.tensor) for slot in group.slots if slot.role == _MAKES]
        if read and all(id(tensor) in sparse for tensor in makes) and not mixed[group.components].any():
            result.append((group, read))
    return result


def _computed_weight(node: fx.Node) -> bool:
    row = operator_of(node)
    return row is not None and row.weight is not None and not all(is_stored(one) for one in _listed(argument(node, row.weight)))


def _listed(value: object) -> list[Any]:
    return [one for one in (value if isinstance(value, (list, tuple)) else (value,)) if isinstance(one, fx.Node)]


def _mixed(coupling: Coupling) -> np.ndarray[Any, Any]:
    """Return of each component whether an operator other than a layer or a batch-norm computes over it."""
    mixed = np.zeros(len(coupling.cause), bool)
    for node in coupling.program.graph.nodes:
        row = rule_of(node.target) if node.op == "call_function" else None
        if row is None or not (_computed_weight(node) or (row.mask is not None and family_of(node) != "batch norm")):
            continue
        for value in node.all_input_nodes:
            dims = coupling.values.get(value)
            for _, ids in (part for dim in (dims if type(dims) is tuple else ()) for part in dim):
                if is_ids(ids):
                    mixed[coupling.label[ids]] = True
    return mixed
