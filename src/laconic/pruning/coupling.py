"""Coupling: which slices of which parameters must be removed together.

Every index of a static dimension gets an integer id. One walk over the graph passes ids on, makes new ones or declares pairs of them equal, each operator by
its rule (`rules`); the connected components of the pairs are what can be removed: a channel, a head, a neuron, with all its slices.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor, fx, nn

from laconic.core.errors import BadInput, nearest
from laconic.core.graph import get_tensor
from laconic.core.norms import is_check
from laconic.core.program import Program, as_program
from laconic.pruning.components import Ids
from laconic.pruning.rules import no_rule, rule_of
from laconic.pruning.trace import UNSET, Consumer, Policy, Tracer, attributes, where


class Slot(NamedTuple):
    """A dimension of a tensor in which a group has slices: `index[i]` is the position in the group of index `i`, or −1."""

    tensor: str
    dim: int
    role: str
    index: np.ndarray[Any, np.dtype[np.int64]]  # type: ignore[assignment]  # hides the method of tuples


@dataclass(frozen=True)
class Group:
    """Components with slices in the same dimensions of the same tensors: the channels of a layer, the heads of an attention.

    Attributes:
        name: of the first weight that makes them, without ``.weight``; of several groups of one weight, the later ones are called ``…#2``, ``…#3``.
        components: their numbers, in the order of the channels.
        slots: where their slices lie.
    """

    name: str
    components: np.ndarray[Any, np.dtype[np.int64]]
    slots: tuple[Slot, ...] = field(repr=False)

    def __len__(self) -> int:
        return len(self.components)


@dataclass(frozen=True)
class Coupling:
    """What one walk found.

    Attributes:
        values: ids of the dimensions of each node's output.
        tensors: by name, ids of each dimension, None where it has none.
        roles: of a tensor's dimension: ``out`` makes channels, ``in`` multiplies them, ``norm`` and ``bias`` go along, ``table`` is read as it is.
        consumers: weights that multiply channels.
        label: component of each id.
        cause: of each component, the position in `causes` of what froze it; −1: it can be removed.
        unknown: nodes whose operator has no rule.
        pieces: ids of slices of dimensions. What lies in other pieces is another group, so that no piece is emptied.
        learned: names in `tensors` that are parameters; the others are buffers.
        whole: of ids that are one block throughout, by identity, the first component (see `Components`).
    """

    program: Program
    policy: Policy
    values: dict[fx.Node, Any]
    tensors: dict[str, list[Ids | None]]
    roles: dict[tuple[str, int], str]
    consumers: list[Consumer]
    label: np.ndarray[Any, np.dtype[np.int32]]
    cause: np.ndarray[Any, np.dtype[np.int64]]
    causes: list[str]
    unknown: tuple[fx.Node, ...]
    names: dict[int, str] = field(repr=False)
    pieces: list[Ids] = field(repr=False)
    whole: dict[int, int] = field(repr=False)
    learned: frozenset[str] = field(repr=False)

    @property
    def frozen(self) -> np.ndarray[Any, np.dtype[np.bool_]]:
        """Of each component, whether it must stay."""
        return self.cause >= 0

    def tensor(self, name: str) -> Tensor:
        """Return a parameter or buffer."""
        owner, _, leaf = name.rpartition(".")
        return getattr(self.program.graph_module.get_submodule(owner), leaf)

    def name(self, node: fx.Node) -> str:
        """Return the name of the tensor behind an attribute."""
        return self.names.get(id(get_tensor(self.program, node)), str(node.target))

    def everything(self) -> np.ndarray[Any, np.dtype[np.bool_]]:
        """Return a choice that keeps all components."""
        return np.ones(len(self.cause), bool)

    @cached_property
    def groups(self) -> tuple[Group, ...]:
        """What can be removed, in the order of the graph."""
        result = [*self._whole_groups(), *self._mixed_groups()]
        made = [
            Group(_title(slots), components, tuple(slots)) for components, slots in result if any(s.tensor in self.learned for s in slots)
        ]
        return tuple(_numbered(sorted(made, key=lambda group: int(group.components[0]))))

    def _whole_groups(self) -> Iterator[tuple[Any, list[Slot]]]:
        """Components and slots of each group that is one block in every dimension in which it is."""
        result: dict[int, tuple[Any, list[Slot]] | None] = {}  # by the first component; None: it is frozen
        for name, dims in self.tensors.items():
            for dim, ids in enumerate(dims):
                first = None if ids is None else self.whole.get(id(ids))
                if ids is None or first is None:
                    continue
                if first not in result:
                    result[first] = None if self.cause[first] >= 0 else (np.arange(len(ids)), [])
                if (group := result[first]) is not None:
                    group[1].append(Slot(name, dim, self.roles[name, dim], group[0]))
        for first, group in result.items():
            if group is not None:
                yield first + group[0], group[1]

    def _mixed_groups(self) -> Iterator[tuple[Any, list[Slot]]]:
        """Return the same of all others, id by id."""
        slots: list[tuple[str, int, Any]] = [
            (name, dim, self.label[ids])
            for name, dims in self.tensors.items()
            for dim, ids in enumerate(dims)
            if ids is not None and id(ids) not in self.whole
        ]
        if not slots:
            return
        n, frozen = len(self.cause), self.frozen
        parts = [*(result for *_, result in slots), *(self.label[ids] for ids in self.pieces if id(ids) not in self.whole)]
        # components with the same slices have the same sum of random numbers
        draws = np.random.default_rng(0).integers(1, 2**40, len(parts)).astype(np.float64)
        signature = np.bincount(np.concatenate(parts), np.repeat(draws, [len(part) for part in parts]), n)
        free = np.flatnonzero((np.bincount(np.concatenate(parts[: len(slots)]), minlength=n) > 0) & ~frozen)
        _, inverse = np.unique(signature[free], return_inverse=True)
        order = np.argsort(inverse, kind="stable")
        members = np.split(free[order], np.cumsum(np.bincount(inverse))[:-1]) if len(free) else []
        position = np.full(n, -1)
        group_of = np.full(n, -1)
        for rank, components in enumerate(members):
            position[components] = np.arange(len(components))
            group_of[components] = rank
        result: list[list[Slot]] = [[] for _ in members]
        for name, dim, labeled in slots:
            ranks, places = group_of[labeled], position[labeled]
            for rank in np.flatnonzero(np.bincount(ranks + 1)[1:]).tolist():
                index = places if (ranks == rank).all() else np.where(ranks == rank, places, -1)
                result[rank].append(Slot(name, dim, self.roles[name, dim], index))
        yield from zip(members, result, strict=True)

    def prunable(self) -> tuple[int, int]:
        """Return how many output channels of all weights can be removed, and how many there are: rows of a linear weight, filters of a convolution.

        A weight that is multiplied along several dimensions that it makes counts with each. Tables, norms and biases make no channels and do not count.
        """
        free = total = 0
        parameters = dict(self.parameters())
        for (name, dim), role in self.roles.items():
            if role == "out" and name in parameters:
                ids = self.tensors[name][dim]
                total += parameters[name].shape[dim]
                free += 0 if ids is None else int((~self.frozen[self.label[ids]]).sum())
        return free, total

    def parameters(self) -> Iterator[tuple[str, Tensor]]:
        """Return every parameter once, under the name that `tensors` knows it by."""
        seen: set[int] = set()
        for name, tensor in attributes(self.program.graph_module):
            if isinstance(tensor, nn.Parameter) and id(tensor) not in seen:
                seen.add(id(tensor))
                yield self.names.get(id(tensor), name), tensor

    def frozen_causes(self) -> dict[str, str]:
        """Return for each tensor's dimension that makes channels none of which can be removed: why."""
        result: dict[str, str] = {}
        for (name, dim), role in self.roles.items():
            ids = self.tensors[name][dim]
            if role in ("out", "table") and ids is not None:
                causes = self.cause[self.label[ids]]
                if (causes >= 0).all():
                    result[f"{name}[{dim}]"] = self.causes[int(causes[0])]
        return result


def _title(slots: Sequence[Slot]) -> str:
    first = next((slot for slot in slots if slot.role == "out"), slots[0])
    return first.tensor.removesuffix(".weight")


def _numbered(groups: Iterable[Group]) -> Iterator[Group]:
    """Return the groups with names that tell them apart."""
    seen: Counter[str] = Counter()
    for group in groups:
        seen[group.name] += 1
        yield group if seen[group.name] == 1 else replace(group, name=f"{group.name}#{seen[group.name]}")


def couple(program: Program, policy: Policy | None = None, freeze: Iterable[str] = ()) -> Coupling:
    """Walk the graph and find what must be removed together.

    Args:
        program: not changed.
        policy: where a reshape allows two cuts.
        freeze: module paths whose parameters must stay as they are.

    Raises:
        BadInput: an unknown module path; a graph without shapes (a quantized one: prune first).
    """
    tracer = Tracer(as_program(program, "couple"), policy or Policy())
    rules: dict[int, Callable[..., Any]] = {}
    for node in program.graph.nodes:
        if node.op == "placeholder":
            tracer.values[node] = tracer.blank(node)
        elif node.op == "call_function":
            rule = rules.get(id(node.target))
            if rule is None:
                if is_check(node):
                    continue
                row = rule_of(node.target)
                rule = rules[id(node.target)] = no_rule if row is None else row.couple
            result = node.meta.get("val", UNSET)
            if result is UNSET:
                raise BadInput(f"{where(node)} carries no shape: structures are removed before other steps insert operators. Prune first.")
            if isinstance(result, (Tensor, tuple, list)):  # no size
                tracer.values[node] = rule(tracer, node)
        elif node.op == "output":
            for value in node.all_input_nodes:
                for dim in tracer.value(value):
                    tracer.freeze(dim, "an output of the model")
    if freeze:
        _freeze_modules(tracer, freeze)
    return _finished(tracer)


def _finished(tracer: Tracer) -> Coupling:
    """Return the connected components of what a walk declared equal."""
    tensors = {name: [None if d is UNSET else d for d in dims] for name, dims in tracer.tensors.items()}
    used = [ids for dims in tensors.values() for ids in dims if ids is not None]
    components = tracer.blocks.connect(tracer.pairs, [*used, *tracer.pieces, *(ids for ids, _ in tracer.frozen)])
    label = components.label
    cause = np.full(components.count, -1)
    for index in range(len(tracer.frozen) - 1, -1, -1):  # the first cause stays
        cause[label[tracer.frozen[index][0]]] = index
    causes = [text for _, text in tracer.frozen]
    return Coupling(
        tracer.program,
        tracer.policy,
        tracer.values,
        tensors,
        tracer.roles,
        tracer.consumers,
        label,
        cause,
        causes,
        tuple(tracer.unknown),
        tracer.names,
        tracer.pieces,
        components.whole,
        frozenset(name for name in tensors if type(tracer.stored[name]) is nn.Parameter or isinstance(tracer.stored[name], nn.Parameter)),
    )


def _freeze_modules(tracer: Tracer, paths: Iterable[str]) -> None:
    module = tracer.program.graph_module
    tensors = [*module.named_parameters(remove_duplicate=False), *module.named_buffers(remove_duplicate=False)]
    for path in paths:
        result = [tensor for name, tensor in tensors if name == path or name.startswith(f"{path}.")]
        if not result:
            modules = {prefix for name, _ in tensors for prefix in itertools.accumulate(name.split(".")[:-1], "{}.{}".format)}
            raise BadInput(f"freeze: '{path}' is no module with parameters.{nearest(path, modules)}")
        for tensor in result:
            for ids in tracer.tensors.get(tracer.known(tensor), []):
                if ids is not None and ids is not UNSET:
                    tracer.freeze(((len(ids), ids),), f"asked for: {path}")
