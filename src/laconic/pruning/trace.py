"""What the operator rules talk to: the ids of every dimension, and the tracer that hands them out while the graph is walked.

A dimension is a tuple of factors, because `view` merges and splits: `(batch · heads)` keeps both parts, so that a later split finds the heads again.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor, fx, nn

from laconic.core.graph import module_path
from laconic.core.macs import number
from laconic.core.operators import plain_name
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
UNSET: Any = object()
_UNKNOWN = 10007  # stands for a size that the values of tensors decide; a prime, which no others make up
Node = Any  # an fx.Node, whose arguments are of every type


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
        """Return whether to remove whole groups, of so many with `size` channels each."""
        return groups >= size if self.groups == "auto" else self.groups == "groups"


def is_ids(ids: Any) -> bool:
    """Return whether a factor's indices have ids."""
    return type(ids) is np.ndarray


def plain(size: int, dynamic: bool = False) -> Dim:
    """Return a dimension without ids."""
    return ((size, DYNAMIC if dynamic else None),)


def size_of(dim: Dim) -> int:
    """Return the size of a dimension in the example."""
    result = 1
    for size, _ in dim:
        result *= size
    return result


def carries(dim: Dim) -> bool:
    """Return whether any part of a dimension has ids."""
    return is_ids(dim[0][1]) if len(dim) == 1 else any(is_ids(ids) for _, ids in dim)


class Consumer(NamedTuple):
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
        self.pairs: list[tuple[Ids, Ids]] = []
        self.frozen: list[tuple[Ids, str]] = []
        self.names: dict[int, str] = {}
        self._named: dict[fx.Node, str] = {}
        self.stored = dict(attributes(program.graph_module))
        self._sizes: dict[fx.Node, list[tuple[int, bool]]] = {}
        self._measures: dict[Any, tuple[int, int]] = {}

    # Ids ------------------------------------------------------------------------------------------------------------------------------

    def fresh(self, size: int) -> Dim:
        """Return a dimension of new ids; one of size 1 has none, since nothing would be left of it."""
        return ((size, self.new(size)),) if size > 1 else plain(size)

    def new(self, size: int) -> Ids:
        """Return so many new ids, also one."""
        return self.blocks.new(size)

    def stuck(self, size: int, node: fx.Node) -> Ids:
        """Return ids for indices beside others that can be removed, which cannot be removed themselves."""
        ids = self.new(size)
        self.freeze(((size, ids),), f"joined in {where(node)} with others")
        return ids

    def equate(self, a: Ids, b: Ids) -> None:
        """Note ids that are removed together."""
        if a is not b:
            self.pairs.append((a, b))

    def freeze(self, dim: Dim, cause: str) -> None:
        """Note that no index of this dimension can be removed."""
        for _, ids in dim:
            if is_ids(ids):
                self.frozen.append((ids, cause))

    def pair(self, a: Dim, b: Dim, node: fx.Node) -> Dim:
        """Let two dimensions meet index by index; return one that stands for both."""
        if a is b:
            return a
        if len(a) == 1 and len(b) == 1:
            return (self._pair(a[0], b[0], node),)
        if [size for size, _ in a] == [size for size, _ in b]:
            return tuple(self._pair(x, y, node) for x, y in zip(a, b, strict=True))
        ids, others = self.flat(a, node), self.flat(b, node)
        result = self._pair((size_of(a), ids), (size_of(b), others), node)
        return plain(result[0], True) if any(part is DYNAMIC for _, part in (*a, *b)) else (result,)

    def _pair(self, a: Factor, b: Factor, node: fx.Node) -> Factor:
        first, second = is_ids(a[1]), is_ids(b[1])
        if first and second:
            self.equate(a[1], b[1])
        elif first or second:
            self.freeze((a if first else b,), f"meets a dimension that cannot be cut in {where(node)}")
        return b if first and not second else a

    def flat(self, dim: Dim, node: fx.Node) -> Ids | None:
        """Return one id for each index of a dimension, or None. Where two parts have ids, the first is kept and the rest is frozen."""
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
        """Return the factors of a dimension that is cut into `sizes`: ids along `axis`, equal along all others."""
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
        """Return the tensor behind an attribute."""
        return self.stored[node.target]  # type: ignore[index]

    def name(self, node: fx.Node) -> str:
        """Return the one name of the tensor behind an attribute, also where it is tied."""
        result = self._named.get(node)
        if result is None:
            tensor = self.tensor(node)
            result = self._named[node] = self.names.setdefault(id(tensor), str(node.target))
            if result not in self.tensors:
                self.tensors[result] = [UNSET] * tensor.dim()
        return result

    def known(self, tensor: Tensor) -> str:
        """Return the name under which a tensor was met; empty if it was not."""
        return self.names.get(id(tensor), "")

    def rank(self, node: Any) -> int:
        """Return the number of dimensions of a tensor."""
        return len(self.tensors[self.name(node)]) if node.op == "get_attr" else len(self.value(node))

    def length(self, node: Any, dim: int) -> int:
        """Return the size of a dimension of a tensor."""
        return int(self.tensor(node).shape[dim]) if node.op == "get_attr" else size_of(self.value(node)[dim])

    def tie(self, weight: Any, dim: int, given: Dim, role: str, node: fx.Node) -> None:
        """Return a dimension of a weight meets a dimension of a value. Nothing where there is no weight."""
        if not isinstance(weight, fx.Node):
            return
        if weight.op != "get_attr":
            self.pair(self.value(weight)[dim], given, node)
            return
        name = self._named.get(weight) or self.name(weight)
        result = self.tensors[name]
        ids, before = self.flat(given, node), result[dim]
        if before is UNSET:
            result[dim] = ids
            self.roles[name, dim] = role
        elif before is not None and ids is not None:
            self.equate(before, ids)
        else:
            for one in (before, ids):
                if one is not None:
                    self.freeze(((len(one), one),), f"meets a dimension that cannot be cut in {where(node)}")

    def fix(self, weight: Any, dims: Iterable[int], role: str, node: fx.Node) -> None:
        """Keep dimensions of a weight whole."""
        if weight.op != "get_attr":
            for dim in dims:
                self.freeze(self.value(weight)[dim], f"meets a dimension that cannot be cut in {where(node)}")
            return
        name = self.name(weight)
        result = self.tensors[name]
        for dim in dims:
            if result[dim] is UNSET or result[dim] is None:
                result[dim] = None
                self.roles.setdefault((name, dim), role)
            else:
                self.freeze(((len(result[dim]), result[dim]),), f"meets a dimension that cannot be cut in {where(node)}")

    def consume(self, weight: Any, dim: int, value: fx.Node, axis: int, node: fx.Node) -> None:
        """Return a weight multiplies the channels of a value."""
        self.tie(weight, dim, self.value(value)[axis], "in", node)
        if isinstance(weight, fx.Node) and weight.op == "get_attr":
            self.consumers.append(Consumer(node, value, axis, self.name(weight), dim))

    def make(self, weight: Any, dim: int, role: str = "out") -> Dim:
        """Return the dimension that a weight brings into the graph; the same at each of its uses."""
        if weight.op != "get_attr":
            return self.value(weight)[dim]
        name = self.name(weight)
        size = self.tensor(weight).shape[dim]
        if self.tensors[name][dim] is UNSET:
            self.tensors[name][dim] = self.fresh(size)[0][1]
            self.roles[name, dim] = role
        return ((size, self.tensors[name][dim]),)

    def value(self, node: fx.Node) -> Value:
        """Return the dimensions of a tensor; an attribute that is read as such makes ids of its own."""
        if node.op == "get_attr" and node not in self.values:
            self.values[node] = tuple(self.make(node, i, "table") for i in range(self.tensor(node).dim()))
        return self.values[node]

    def is_tensor(self, node: Any) -> bool:
        """Return whether an argument is a tensor of the graph."""
        return isinstance(node, fx.Node) and (node.op == "get_attr" or type(self.values.get(node)) is tuple)

    def is_mask(self, node: Any) -> bool:
        """Return whether an argument is a tensor of truth values."""
        return self.is_tensor(node) and (self.tensor(node) if node.op == "get_attr" else node.meta["val"]).dtype == torch.bool

    def sizes(self, node: fx.Node, item: int | None = None) -> list[tuple[int, bool]]:
        """Return the size in the example and whether it is dynamic, for each dimension of a node's output (of item `item` where there are several)."""
        if item is None and (result := self._sizes.get(node)) is not None:
            return result
        value = node.meta["val"] if item is None else node.meta["val"][item]
        shape = [(s, False) if isinstance(s, int) else (_hint(s), True) for s in value.shape]
        if item is None:
            self._sizes[node] = shape
        return shape

    def measures(self, node: fx.Node) -> list[tuple[int, int]]:
        """Return the size of each dimension of a tensor in the example, and what it would be if every dynamic dimension of the inputs had another."""
        if node.op == "get_attr":
            return [(size, size) for size in self.tensor(node).shape]
        return [(size, size) if isinstance(size, int) else self._measured(size) for size in node.meta["val"].shape]

    def _measured(self, size: Any) -> tuple[int, int]:
        expression = size.node.expr
        if expression not in self._measures:
            self._measures[expression] = _hint(size), number(size, self._others)
        return self._measures[expression]

    @cached_property
    def _others(self) -> dict[str, int]:
        """Other sizes of the inputs' dynamic dimensions, a different multiple of the example's for each."""
        shapes = [node.meta["val"].shape for node in self.program.graph.find_nodes(op="placeholder")]
        symbols = {str(size): _hint(size) for shape in shapes for size in shape if not isinstance(size, int)}
        return {name: (2 * i + 3) * size for i, (name, size) in enumerate(symbols.items())}

    def blank(self, node: fx.Node, item: int | None = None) -> Value:
        """Return a value without ids, of a node's shape."""
        return tuple([((size, DYNAMIC if dynamic else None),) for size, dynamic in self.sizes(node, item)])


def _natural_axis(grid: np.ndarray[Any, Any]) -> int | None:
    """Return the axis along which alone ids change, if there is one already."""
    for axis in range(grid.ndim):
        index = tuple(slice(None) if i == axis else slice(0, 1) for i in range(grid.ndim))
        if (grid == grid[index]).all():
            return axis
    return None


def _hint(size: Any) -> int:
    hint = size.node.hint
    return _UNKNOWN if hint is None else int(hint)


def where(node: fx.Node) -> str:
    """Return an operator and its module, for a reader."""
    name = plain_name(node)
    path = module_path(node)
    return f"{name} of {path}" if path else name


def attributes(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Return every parameter and buffer of a module, under every name that it has; those of a module before those inside."""
    waiting: list[tuple[str, nn.Module]] = [("", module)]
    while waiting:
        prefix, owner = waiting.pop()
        for registry in (owner._parameters, owner._buffers):
            for name, tensor in registry.items():
                if tensor is not None:
                    yield prefix + name, tensor
        waiting += [(f"{prefix}{name}.", inner) for name, inner in reversed(owner._modules.items()) if inner is not None]
