"""Coupling: which slices of which parameters must be removed together.

Every index of a static dimension gets an integer id. One walk over the graph (`rules`) passes ids on, makes new ones or declares pairs of them equal; the
connected components of the pairs are what can be removed: a channel, a head, a neuron, with all its slices.

A dimension is a tuple of factors, because `view` merges and splits: `(batch · heads)` keeps both parts, so that a later split finds the heads again.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, fx, nn

from laconic.core.errors import BadInput, nearest
from laconic.core.graph import get_tensor, module_path
from laconic.core.norms import is_check
from laconic.core.program import Program
from laconic.pruning.components import Blocks, Ids


class _Dynamic:
    """Stands where a factor's size is known at run time only."""

    def __repr__(self) -> str:
        return "dynamic"


DYNAMIC = _Dynamic()
# Size (of a dynamic one: the example's) and `Ids`, `DYNAMIC`, or None: a static size whose indices cannot be removed.
Factor = tuple[int, Any]
Dim = tuple[Factor, ...]
Value = tuple[Dim, ...]  # one for each dimension of a tensor
_UNSET: Any = object()


@dataclass(frozen=True)
class Policy:
    """Which part is removed where a reshape allows two cuts.

    Args:
        attention: whole ``heads``, or indices of the ``head_size`` in all heads alike.
        groups: of grouped convolutions and group norms: ``channels`` within all groups alike, whole ``groups``, or ``auto``: whatever there is more of.
    """

    attention: Literal["heads", "head_size"] = "heads"
    groups: Literal["auto", "channels", "groups"] = "auto"

    def whole_groups(self, groups: int, size: int) -> bool:
        """Whether to remove whole groups, of so many with `size` channels each."""
        return groups >= size if self.groups == "auto" else self.groups == "groups"


def is_ids(ids: Any) -> bool:
    """Whether a factor's indices have ids."""
    return type(ids) is np.ndarray


def plain(size: int, dynamic: bool = False) -> Dim:
    """A dimension without ids."""
    return ((size, DYNAMIC if dynamic else None),)


def size_of(dim: Dim) -> int:
    """Its size in the example."""
    found = 1
    for size, _ in dim:
        found *= size
    return found


def carries(dim: Dim) -> bool:
    """Whether any part of a dimension has ids."""
    return any(is_ids(ids) for _, ids in dim)


@dataclass(frozen=True)
class Consumer:
    """A weight that multiplies a value's channels: `axis` of the value meets `dim` of the tensor."""

    node: fx.Node
    value: fx.Node
    axis: int
    tensor: str
    dim: int


class Tracer:
    """What the operator rules talk to while the graph is walked."""

    def __init__(self, program: Program, policy: Policy) -> None:
        self.program, self.policy = program, policy
        self.values: dict[fx.Node, Any] = {}
        self.tensors: dict[str, list[Any]] = {}
        self.roles: dict[tuple[str, int], str] = {}
        self.consumers: list[Consumer] = []
        self.unknown: list[fx.Node] = []
        self.pieces: list[Ids] = []
        self.blocks = Blocks()
        self._pairs: list[tuple[Ids, Ids]] = []
        self._frozen: list[tuple[Ids, str]] = []
        self._names: dict[int, str] = {}
        self._named: dict[fx.Node, str] = {}
        self._tensors = dict(attributes(program.graph_module))
        self._sizes: dict[fx.Node, list[tuple[int, bool]]] = {}

    # Ids ------------------------------------------------------------------------------------------------------------------------------

    def fresh(self, size: int) -> Dim:
        """A dimension of new ids; one of size 1 has none, since nothing would be left of it."""
        return ((size, self.new(size)),) if size > 1 else plain(size)

    def new(self, size: int) -> Ids:
        """So many new ids, also one."""
        return self.blocks.new(size)

    def stuck(self, size: int, node: fx.Node) -> Ids:
        """Ids for indices beside others that can be removed, which cannot be removed themselves."""
        ids = self.new(size)
        self.freeze(((size, ids),), f"joined in {where(node)} with others")
        return ids

    def equate(self, a: Ids, b: Ids) -> None:
        """Ids that are removed together."""
        if a is not b:
            self._pairs.append((a, b))

    def freeze(self, dim: Dim, cause: str) -> None:
        """No index of this dimension can be removed."""
        for _, ids in dim:
            if is_ids(ids):
                self._frozen.append((ids, cause))

    def pair(self, a: Dim, b: Dim, node: fx.Node) -> Dim:
        """Two dimensions that meet index by index; returns one that stands for both."""
        if a is b:
            return a
        if len(a) == 1 and len(b) == 1:
            return (self._pair(a[0], b[0], node),)
        if [size for size, _ in a] == [size for size, _ in b]:
            return tuple(self._pair(x, y, node) for x, y in zip(a, b, strict=True))
        ids, others = self.flat(a, node), self.flat(b, node)
        found = self._pair((size_of(a), ids), (size_of(b), others), node)
        return plain(found[0], True) if any(part is DYNAMIC for _, part in (*a, *b)) else (found,)

    def _pair(self, a: Factor, b: Factor, node: fx.Node) -> Factor:
        if is_ids(a[1]) and is_ids(b[1]):
            self.equate(a[1], b[1])
            return a
        for one in (a, b):
            if is_ids(one[1]):
                self.freeze((one,), f"meets a dimension that cannot be cut in {where(node)}")
        return b if is_ids(a[1]) else a

    def flat(self, dim: Dim, node: fx.Node) -> Ids | None:
        """One id for each index of a dimension, or None. Where two parts have ids, the first is kept and the rest is frozen."""
        if len(dim) == 1:
            return dim[0][1] if is_ids(dim[0][1]) else None
        chosen = next((i for i, (_, ids) in enumerate(dim) if is_ids(ids)), None)
        if chosen is None:
            return None
        if any(ids is DYNAMIC for _, ids in dim):
            self.freeze(dim, f"merged with a dynamic dimension in {where(node)}")
            return None
        self.freeze(dim[chosen + 1 :], f"merged with another dimension in {where(node)}")
        shape = [1] * len(dim)
        shape[chosen] = dim[chosen][0]
        ids: Any = dim[chosen][1]
        return np.broadcast_to(ids.reshape(shape), [size for size, _ in dim]).ravel()

    def split(self, ids: Ids, sizes: Sequence[int], axis: int) -> Dim:
        """Factors of a dimension that is cut into `sizes`: ids along `axis`, equal along all others."""
        if max(sizes) == len(ids):  # into the whole and ones
            place = list(sizes).index(len(ids))
            return tuple((size, ids if i == place and size > 1 else None) for i, size in enumerate(sizes))
        grid = ids.reshape(sizes)
        natural = _natural_axis(grid)
        if natural is not None:
            axis = natural
        first = grid[tuple(slice(None) if i == axis else slice(0, 1) for i in range(len(sizes)))]
        if natural is None:
            self.equate(np.broadcast_to(first, grid.shape).ravel(), ids)
        return tuple((size, first.ravel() if i == axis and size > 1 else None) for i, size in enumerate(sizes))

    # Tensors --------------------------------------------------------------------------------------------------------------------------

    def tensor(self, node: fx.Node) -> Tensor:
        """The tensor behind an attribute."""
        return self._tensors[node.target]  # type: ignore[index]

    def name(self, node: fx.Node) -> str:
        """The one name of the tensor behind an attribute, also where it is tied."""
        found = self._named.get(node)
        if found is None:
            tensor = self.tensor(node)
            found = self._named[node] = self._names.setdefault(id(tensor), str(node.target))
            if found not in self.tensors:
                self.tensors[found] = [_UNSET] * tensor.dim()
        return found

    def known(self, tensor: Tensor) -> str:
        """The name under which a tensor was met; empty if it was not."""
        return self._names.get(id(tensor), "")

    def rank(self, node: Any) -> int:
        """Number of dimensions of a tensor."""
        return len(self.tensors[self.name(node)]) if node.op == "get_attr" else len(self.value(node))

    def length(self, node: Any, dim: int) -> int:
        """Size of a dimension of a tensor."""
        return int(self.tensor(node).shape[dim]) if node.op == "get_attr" else size_of(self.value(node)[dim])

    def tie(self, weight: Any, dim: int, given: Dim, role: str, node: fx.Node) -> None:
        """A dimension of a weight meets a dimension of a value. Nothing where there is no weight."""
        if not isinstance(weight, fx.Node):
            return
        if weight.op != "get_attr":
            self.pair(self.value(weight)[dim], given, node)
            return
        name = self.name(weight)
        found = self.tensors[name]
        ids = self.flat(given, node)
        if found[dim] is _UNSET:
            found[dim] = ids
            self.roles[name, dim] = role
        elif found[dim] is not None and ids is not None:
            self.equate(found[dim], ids)
        else:
            for one in (found[dim], ids):
                if one is not None:
                    self.freeze(((len(one), one),), f"meets a dimension that cannot be cut in {where(node)}")

    def fix(self, weight: Any, dims: Iterable[int], role: str, node: fx.Node) -> None:
        """Dimensions of a weight stay whole."""
        if weight.op != "get_attr":
            for dim in dims:
                self.freeze(self.value(weight)[dim], f"meets a dimension that cannot be cut in {where(node)}")
            return
        name = self.name(weight)
        found = self.tensors[name]
        for dim in dims:
            if found[dim] is _UNSET or found[dim] is None:
                found[dim] = None
                self.roles.setdefault((name, dim), role)
            else:
                self.freeze(((len(found[dim]), found[dim]),), f"meets a dimension that cannot be cut in {where(node)}")

    def consume(self, weight: Any, dim: int, value: fx.Node, axis: int, node: fx.Node) -> None:
        """A weight multiplies the channels of a value."""
        self.tie(weight, dim, self.value(value)[axis], "in", node)
        if isinstance(weight, fx.Node) and weight.op == "get_attr":
            self.consumers.append(Consumer(node, value, axis, self.name(weight), dim))

    def make(self, weight: Any, dim: int, role: str = "out") -> Dim:
        """The dimension that a weight brings into the graph; the same at each of its uses."""
        if weight.op != "get_attr":
            return self.value(weight)[dim]
        name = self.name(weight)
        size = self.tensor(weight).shape[dim]
        if self.tensors[name][dim] is _UNSET:
            self.tensors[name][dim] = self.fresh(size)[0][1]
            self.roles[name, dim] = role
        return ((size, self.tensors[name][dim]),)

    def value(self, node: fx.Node) -> Value:
        """The dimensions of a tensor; an attribute that is read as such makes ids of its own."""
        if node.op == "get_attr" and node not in self.values:
            self.values[node] = tuple(self.make(node, i, "table") for i in range(self.tensor(node).dim()))
        return self.values[node]

    def is_tensor(self, node: Any) -> bool:
        """Whether an argument is a tensor of the graph."""
        return isinstance(node, fx.Node) and (node.op == "get_attr" or type(self.values.get(node)) is tuple)

    def is_mask(self, node: Any) -> bool:
        """Whether an argument is a tensor of truth values."""
        return self.is_tensor(node) and (self.tensor(node) if node.op == "get_attr" else node.meta["val"]).dtype == torch.bool

    def sizes(self, node: fx.Node, item: int | None = None) -> list[tuple[int, bool]]:
        """Size in the example and whether it is dynamic, for each dimension of a node's output (of item `item` where there are several)."""
        if item is None and (found := self._sizes.get(node)) is not None:
            return found
        value = node.meta["val"] if item is None else node.meta["val"][item]
        shape = [(s, False) if isinstance(s, int) else (_hint(s), True) for s in value.shape]
        if item is None:
            self._sizes[node] = shape
        return shape

    def blank(self, node: fx.Node, item: int | None = None) -> Value:
        """A value without ids, of a node's shape."""
        return tuple(plain(size, dynamic) for size, dynamic in self.sizes(node, item))

    def finish(self) -> Coupling:
        """Find the connected components."""
        tensors = {name: [None if d is _UNSET else d for d in dims] for name, dims in self.tensors.items()}
        used = [ids for dims in tensors.values() for ids in dims if ids is not None]
        found = self.blocks.connect(self._pairs, [*used, *self.pieces, *(ids for ids, _ in self._frozen)])
        label = found.label
        cause = np.full(found.count, -1)
        for index in range(len(self._frozen) - 1, -1, -1):  # the first cause stays
            cause[label[self._frozen[index][0]]] = index
        causes = [text for _, text in self._frozen]
        return Coupling(
            self.program,
            self.policy,
            self.values,
            tensors,
            self.roles,
            self.consumers,
            label,
            cause,
            causes,
            tuple(self.unknown),
            self._names,
            self.pieces,
            found.whole,
            frozenset(
                name for name in tensors if type(self._tensors[name]) is nn.Parameter or isinstance(self._tensors[name], nn.Parameter)
            ),
        )


def _natural_axis(grid: np.ndarray[Any, Any]) -> int | None:
    """The axis along which alone ids change, if there is one already."""
    for axis in range(grid.ndim):
        index = tuple(slice(None) if i == axis else slice(0, 1) for i in range(grid.ndim))
        if (grid == grid[index]).all():
            return axis
    return None


def _hint(size: Any) -> int:
    return int(size.node.hint)


def where(node: fx.Node) -> str:
    """An operator and its module, for a reader."""
    name = operator(node)
    path = module_path(node)
    return f"{name} of {path}" if path else name


def operator(node: fx.Node) -> str:
    """An operator's plain name: `relu` for ``aten.relu_.default``."""
    return _names_of(node.target)[0]


@cache
def _names_of(target: Any) -> tuple[str, str]:
    """An operator's plain name, and the same with its overload; without a schema the latter is empty."""
    schema = getattr(target, "_schema", None)
    name = schema.name.partition("::")[2] if schema is not None else getattr(target, "__name__", str(target))
    plain = str(name) if name.endswith("__") else str(name).removesuffix("_")
    return plain, "" if schema is None else f"{plain}.{schema.overload_name}"


@dataclass(frozen=True)
class Slot:
    """A dimension of a tensor in which a group has slices: `ids[i]` is the position in the group of index `i`, or −1."""

    tensor: str
    dim: int
    role: str
    index: np.ndarray[Any, np.dtype[np.int64]]


@dataclass(frozen=True)
class Group:
    """Components with slices in the same dimensions of the same tensors: the channels of a layer, the heads of an attention.

    Attributes:
        name: of the first weight that makes them, without ``.weight``.
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
        """A parameter or buffer."""
        owner, _, leaf = name.rpartition(".")
        return getattr(self.program.graph_module.get_submodule(owner), leaf)

    def name(self, node: fx.Node) -> str:
        """The name of the tensor behind an attribute."""
        return self.names.get(id(get_tensor(self.program, node)), str(node.target))

    def everything(self) -> np.ndarray[Any, np.dtype[np.bool_]]:
        """A choice that keeps all components."""
        return np.ones(len(self.cause), bool)

    @cached_property
    def groups(self) -> tuple[Group, ...]:
        """What can be removed, in the order of the graph."""
        found = [*self._whole_groups(), *self._mixed_groups()]
        made = [
            Group(_title(slots), components, tuple(slots)) for components, slots in found if any(s.tensor in self.learned for s in slots)
        ]
        return tuple(sorted(made, key=lambda group: int(group.components[0])))

    def _whole_groups(self) -> Iterator[tuple[Any, list[Slot]]]:
        """Components and slots of each group that is one block in every dimension in which it is."""
        found: dict[int, list[Slot]] = {}
        places: dict[int, Any] = {}
        frozen: dict[int, bool] = {}
        for name, dims in self.tensors.items():
            for dim, ids in enumerate(dims):
                first = None if ids is None else self.whole.get(id(ids))
                if ids is None or first is None:
                    continue
                if first not in frozen:
                    frozen[first] = bool(self.cause[first] >= 0)
                if not frozen[first]:
                    n = len(ids)
                    if n not in places:
                        places[n] = np.arange(n)
                    found.setdefault(first, []).append(Slot(name, dim, self.roles[name, dim], places[n]))
        for first, slots in found.items():
            yield np.arange(first, first + len(slots[0].index)), slots

    def _mixed_groups(self) -> Iterator[tuple[Any, list[Slot]]]:
        """The same of all others, id by id."""
        slots: list[tuple[str, int, Any]] = [
            (name, dim, self.label[ids])
            for name, dims in self.tensors.items()
            for dim, ids in enumerate(dims)
            if ids is not None and id(ids) not in self.whole
        ]
        if not slots:
            return
        n, frozen = len(self.cause), self.frozen
        parts = [*(found for *_, found in slots), *(self.label[ids] for ids in self.pieces if id(ids) not in self.whole)]
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
        found: list[list[Slot]] = [[] for _ in members]
        for name, dim, labeled in slots:
            ranks, places = group_of[labeled], position[labeled]
            for rank in np.flatnonzero(np.bincount(ranks + 1)[1:]).tolist():
                index = places if (ranks == rank).all() else np.where(ranks == rank, places, -1)
                found[rank].append(Slot(name, dim, self.roles[name, dim], index))
        yield from zip(members, found, strict=True)

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
        """Every parameter once, under the name that `tensors` knows it by."""
        seen: set[int] = set()
        for name, tensor in attributes(self.program.graph_module):
            if isinstance(tensor, nn.Parameter) and id(tensor) not in seen:
                seen.add(id(tensor))
                yield self.names.get(id(tensor), name), tensor

    def frozen_causes(self) -> dict[str, str]:
        """Of each tensor's dimension that makes channels none of which can be removed: why."""
        found: dict[str, str] = {}
        for (name, dim), role in self.roles.items():
            ids = self.tensors[name][dim]
            if role in ("out", "table") and ids is not None:
                causes = self.cause[self.label[ids]]
                if (causes >= 0).all():
                    found[f"{name}[{dim}]"] = self.causes[int(causes[0])]
        return found


def attributes(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Every parameter and buffer of a module, under every name that it has; those of a module before those inside."""
    waiting: list[tuple[str, nn.Module]] = [("", module)]
    while waiting:
        prefix, owner = waiting.pop()
        for registry in (owner._parameters, owner._buffers):
            for name, tensor in registry.items():
                if tensor is not None:
                    yield prefix + name, tensor
        waiting += [(f"{prefix}{name}.", inner) for name, inner in reversed(owner._modules.items()) if inner is not None]


def _title(slots: Sequence[Slot]) -> str:
    first = next((slot for slot in slots if slot.role == "out"), slots[0])
    return first.tensor.removesuffix(".weight")


def couple(program: Program, policy: Policy | None = None, freeze: Iterable[str] = ()) -> Coupling:
    """Walk the graph and find what must be removed together.

    Args:
        program: not changed.
        policy: where a reshape allows two cuts.
        freeze: module paths whose parameters must stay as they are.

    Raises:
        BadInput: an unknown module path; a graph without shapes (a quantized one: prune first).
    """
    from laconic.pruning.rules import RULES, no_rule

    tracer = Tracer(program, policy or Policy())
    rules: dict[int, Callable[..., Any]] = {}
    for node in program.graph.nodes:
        if node.op == "placeholder":
            tracer.values[node] = tracer.blank(node)
        elif node.op == "call_function" and not is_check(node):
            found = node.meta.get("val", _UNSET)
            if found is _UNSET:
                raise BadInput(f"{where(node)} carries no shape: structures are removed before other steps insert operators. Prune first.")
            if not isinstance(found, (Tensor, tuple, list)):
                continue  # a size
            rule = rules.get(id(node.target))
            if rule is None:
                plain, full = _names_of(node.target)
                rule = rules[id(node.target)] = RULES.get(full) or RULES.get(plain) or no_rule
            tracer.values[node] = rule(tracer, node)
        elif node.op == "output":
            for value in node.all_input_nodes:
                for dim in tracer.value(value):
                    tracer.freeze(dim, "an output of the model")
    if freeze:
        _freeze_modules(tracer, freeze)
    return tracer.finish()


def _freeze_modules(tracer: Tracer, paths: Iterable[str]) -> None:
    module = tracer.program.graph_module
    tensors = [*module.named_parameters(remove_duplicate=False), *module.named_buffers(remove_duplicate=False)]
    for path in paths:
        found = [tensor for name, tensor in tensors if name == path or name.startswith(f"{path}.")]
        if not found:
            modules = {prefix for name, _ in tensors for prefix in itertools.accumulate(name.split(".")[:-1], "{}.{}".format)}
            raise BadInput(f"freeze: '{path}' is no module with parameters.{nearest(path, modules)}")
        for tensor in found:
            for ids in tracer.tensors.get(tracer.known(tensor), []):
                if ids is not None and ids is not _UNSET:
                    tracer.freeze(((len(ids), ids),), f"asked for: {path}")
