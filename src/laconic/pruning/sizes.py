"""What a program would cost with so many components left in each group: parameters, multiply-adds, and the shapes of its layers.

Every component of a group has slices in the same dimensions, so the size of a dimension is a fixed part plus, for each group, a whole number times its count.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
from torch import fx

from laconic.core.macs import LayerShape, Shape, cost_of, number, symbols
from laconic.core.operators import Operator, argument, paddings, row_of, spread
from laconic.pruning.coupling import Coupling
from laconic.pruning.trace import Dim, is_ids

Counts = Sequence[int]  # components left in each group
_Terms = tuple[int, tuple[tuple[int, int], ...]]  # fixed part, (group, slices of each component)


class Sizes:
    """Sizes as functions of the counts of `coupling.groups`."""

    def __init__(self, coupling: Coupling) -> None:
        self.coupling = coupling
        self.full = tuple(len(group) for group in coupling.groups)
        self._group_of = np.full(len(coupling.cause), -1)
        for i, group in enumerate(coupling.groups):
            self._group_of[group.components] = i
        self._terms: dict[int, _Terms] = {}
        self._alive: list[Any] = []  # arrays whose identity is a key

    def terms(self, ids: Any) -> _Terms:
        """Return how the size of a dimension with these ids comes about."""
        result = self._terms.get(id(ids))
        if result is None:
            groups = self._group_of[self.coupling.label[ids]]
            taken, times = np.unique(groups[groups >= 0], return_counts=True)
            each = tuple((int(g), int(n) // self.full[g]) for g, n in zip(taken, times, strict=True))
            result = int((groups < 0).sum()), each
            self._terms[id(ids)] = result
            self._alive.append(ids)
        return result

    def length(self, ids: Any, counts: Counts) -> int:
        """Return the size of a dimension with these ids."""
        fixed, each = self.terms(ids)
        return fixed + sum(counts[g] * n for g, n in each)

    def shape(self, node: fx.Node, counts: Counts) -> Shape:
        """Return the shape of a node's tensor (of the first, where there are several) for one example."""
        if node.op == "get_attr":
            name = self.coupling.name(node)
            tensor = self.coupling.tensor(name)
            dims = self.coupling.tensors.get(name) or [None] * tensor.dim()
            return tuple(size if ids is None else self.length(ids, counts) for size, ids in zip(tensor.shape, dims, strict=True))
        value = self.coupling.values[node]
        result = node.meta["val"]
        value, result = (value[0], result[0]) if isinstance(value, list) else (value, result)
        return tuple(
            self._size(dim, counts) if isinstance(size, int) else self._dynamic(size, dim, counts)
            for size, dim in zip(result.shape, value, strict=True)
        )

    def _size(self, dim: Dim, counts: Counts) -> int:
        result = 1
        for size, ids in dim:
            result *= self.length(ids, counts) if is_ids(ids) else size
        return result

    def _dynamic(self, size: Any, dim: Dim, counts: Counts) -> int:
        """Return a dynamic size with the batch as 1 and other lengths as in the example."""
        was = int(np.prod([n for n, ids in dim if is_ids(ids)]))
        now = int(np.prod([self.length(ids, counts) for _, ids in dim if is_ids(ids)]))
        return number(size, self._symbols) * now // was

    @cached_property
    def _symbols(self) -> dict[str, int]:
        return symbols(self.coupling.program, 1, {})

    def params(self, counts: Counts) -> int:
        """Return the number of parameters."""
        return sum(fixed if dims is None else self._product(dims, counts) for fixed, dims in self._parameters)

    def _product(self, dims: Sequence[Any], counts: Counts) -> int:
        result = 1
        for ids, size in dims:
            result *= size if ids is None else self.length(ids, counts)
        return result

    @cached_property
    def _parameters(self) -> list[tuple[int, Any]]:
        result = []
        for name, tensor in self.coupling.parameters():
            ids = self.coupling.tensors.get(name)
            result.append((tensor.numel(), None if ids is None else list(zip(ids, tensor.shape, strict=True))))
        return result

    @cached_property
    def layers(self) -> list[fx.Node]:
        """Return the operators that multiply."""
        return [node for node in self.coupling.values if cost_of(node) is not None]

    @cached_property
    def readers(self) -> list[list[int]]:
        """Return for each group the positions in `layers` of those whose shapes depend on it."""
        result: list[set[int]] = [set() for _ in self.full]
        for i, node in enumerate(self.layers):
            for source in (node, *node.all_input_nodes):
                for ids in self._ids(source):
                    for group, _ in self.terms(ids)[1]:
                        result[group].add(i)
        return [sorted(layers) for layers in result]

    def _ids(self, node: fx.Node) -> list[Any]:
        if node.op == "get_attr":
            return [ids for ids in self.coupling.tensors.get(self.coupling.name(node)) or [] if ids is not None]
        value = self.coupling.values.get(node)
        values = value if isinstance(value, list) else [value]
        return [ids for dims in values if type(dims) is tuple for dim in dims for _, ids in dim if is_ids(ids)]

    def layer_macs(self, node: fx.Node, counts: Counts) -> int:
        """Return the multiply-adds of a layer for one example; 0 where its form is unknown."""
        cost = cost_of(node)
        try:
            return 0 if cost is None else cost(node, lambda source: self.shape(source, counts))
        except LookupError:
            return 0

    def macs(self, counts: Counts) -> int:
        """Return the multiply-adds of one example."""
        return sum(self.layer_macs(node, counts) for node in self.layers)

    def layer(self, node: fx.Node, counts: Counts) -> LayerShape:
        """Return a layer's shapes."""
        row = row_of(node)
        given = (argument(node, i) for i in (row.inputs[0], row.weight, row.bias)) if row.is_layer else node.all_input_nodes
        sources = [source for source in given if source is not None and (source.op == "get_attr" or source in self.coupling.values)]
        weights = tuple(i for i, source in enumerate(sources) if source.op == "get_attr")
        shapes = [self.shape(source, counts) for source in sources]
        options = _options(node, row, shapes[1][2:]) if row.stride is not None else ()
        if row.family == "linear" and row.out_axis == 1:
            shapes[1] = shapes[1][::-1]
        return LayerShape(row.family, tuple(shapes), self.shape(node, counts), self.layer_macs(node, counts), options, weights)


def _options(node: fx.Node, row: Operator, kernel: Shape) -> tuple[Shape, ...]:
    """Return stride, padding, dilation and (of a transposed one) output padding of a convolution, as `LayerShape` has them."""
    before, after = zip(*paddings(node, kernel), strict=True)
    stride, dilation = (spread(argument(node, i), len(kernel)) for i in (row.stride, row.dilation))
    more = (spread(argument(node, row.output_padding), len(kernel)),) if row.transposed else ()
    return (stride, before if before == after else (*before, *after), dilation, *more)


def keep_of(coupling: Coupling, scores: Sequence[Any], counts: Counts) -> Any:
    """Return the choice that keeps, in each group, so many components of the highest score; of equals, the first."""
    keep = coupling.everything()
    for group, score, count in zip(coupling.groups, scores, counts, strict=True):
        order = np.argsort(-np.asarray(score, np.float64), kind="stable")
        keep[group.components[order[count:]]] = False
    return keep
