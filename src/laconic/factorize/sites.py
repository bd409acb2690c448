"""The layers of a program that can be rewritten: their weights, shapes and costs; of the others, why not."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

from torch import Tensor, fx

from laconic.core.graph import get_tensor, live_nodes, module_path, readers
from laconic.core.macs import LayerShape, Shape, cost_of, number, symbols
from laconic.core.operators import argument, groups_of, is_stored, operator_of, outputs_first, paddings, row_of, spread
from laconic.core.program import Program
from laconic.core.records import Skipped
from laconic.factorize.method import Form

LARGE = 64  # channels on either side, from which on a layer is worth rewriting


@dataclass(frozen=True)
class Site:
    """A layer whose weights are its own.

    Attributes:
        program: that it is of.
        node: the convolution or linear layer.
        sizes: of the symbols in shapes, for one example.
    """

    program: Program
    node: fx.Node
    sizes: dict[str, int]

    @property
    def path(self) -> str:
        """The module path, or the node's name where there is none."""
        return module_path(self.node) or self.node.name

    @property
    def family(self) -> str:
        """The operator's family."""
        return row_of(self.node).family

    @property
    def transposed(self) -> bool:
        """Whether it is a transposed convolution."""
        return row_of(self.node).transposed

    @property
    def source(self) -> fx.Node:
        """What reads the weight."""
        source: fx.Node = argument(self.node, row_of(self.node).weight)
        return source

    @property
    def stored(self) -> Tensor:
        """The weight as the operator has it."""
        return get_tensor(self.program, self.source)

    @cached_property
    def groups(self) -> int:
        """The groups of its channels."""
        return groups_of(self.node)

    @cached_property
    def weight(self) -> Tensor:
        """The weight in float64: (G, O, I, *kernel), with the channels of one group."""
        return outputs_first(self.stored.detach().cpu().double(), self.node).unflatten(0, (self.groups, -1))

    @cached_property
    def kernel(self) -> Shape:
        """Sizes of the kernel; empty of a linear layer."""
        return tuple(self.weight.shape[3:])

    @property
    def read(self) -> fx.Node:
        """What it reads."""
        read: fx.Node = argument(self.node, row_of(self.node).inputs[0])
        return read

    def shape(self, node: fx.Node) -> Shape:
        """Return the shape of a value for one example."""
        return tuple(number(size, self.sizes) for size in node.meta["val"].shape)

    @cached_property
    def whole(self) -> tuple[Form, ...]:
        """The layer as it is, as the one layer of a chain."""
        shape = (self.groups * self.weight.shape[1], *self.weight.shape[2:])
        return ((shape, self.groups, tuple(range(len(self.kernel)))),)

    def layers(self, forms: Sequence[Form]) -> list[LayerShape]:
        """Return the shapes of a chain's layers in this place, for one example."""
        result, done = [], set[int]()
        before, after = self.shape(self.read), self.shape(self.node)
        row, rank = row_of(self.node), len(self.kernel)
        channels = len(before) - 1 if row.family == "linear" else len(before) - 1 - rank
        for shape, groups, axes in forms:
            done |= set(axes)
            places = tuple(after[channels + 1 + axis] if axis in done else before[channels + 1 + axis] for axis in range(rank))
            given = (*before[:channels], shape[1] * groups, *self._before(places, axes))
            made = (*before[:channels], shape[0], *places)
            transposed = row.transposed and bool(axes)
            # a transposed convolution spreads what it reads; others sum for what they put out
            macs = math.prod(given) * shape[0] // groups * math.prod(shape[2:]) if transposed else math.prod(made) * math.prod(shape[1:])
            weight = (shape[1] * groups, shape[0] // groups, *shape[2:]) if transposed else shape
            family = row.family if transposed or row.family == "linear" else "convolution"
            result.append(LayerShape(family, (given, weight), made, macs, self._options(axes, transposed), (1,)))
        return result

    def _before(self, places: Shape, axes: tuple[int, ...]) -> Shape:
        before = self.shape(self.read)[-len(places) :] if places else ()
        return tuple(before[axis] if axis in axes else size for axis, size in enumerate(places))

    def _options(self, axes: tuple[int, ...], transposed: bool) -> tuple[Any, ...]:
        """Return stride, padding, dilation and (of a transposed one) output padding, as `LayerShape` has them."""
        rank = len(self.kernel)
        if not rank:
            return ()
        row = row_of(self.node)
        pads = [pair if axis in axes else (0, 0) for axis, pair in enumerate(paddings(self.node, self.kernel))]
        front, behind = zip(*pads, strict=True)
        padding = front if front == behind else (*front, *behind)
        more = (spread(argument(self.node, row.output_padding), rank),) if transposed else ()
        return (self.along(row.stride, axes, 1), padding, self.along(row.dilation, axes, 1), *more)

    def along(self, position: int | None, axes: tuple[int, ...], neutral: int) -> Shape:
        """Return an option of the convolution by axis: the layer's own along `axes`, else the one that changes nothing."""
        given = spread(argument(self.node, position), len(self.kernel))
        return tuple(value if axis in axes else neutral for axis, value in enumerate(given))


def find(program: Program, only: Collection[str] = (), freeze: Collection[str] = ()) -> tuple[list[Site], list[Skipped]]:
    """Return the layers that can be rewritten, in the order of the graph, and the others with the reason.

    Args:
        program: in eval mode.
        only: module paths; what lies outside of them is not looked at. Empty: everything.
        freeze: module paths that stay as they are.
    """
    sites, skipped = [], []
    sizes, live = symbols(program, 1, {}), live_nodes(program.graph)
    for node in program.graph.nodes:
        row = operator_of(node)
        if row is None or not row.is_layer or node not in live or (only and not _inside(node, only)):
            continue
        reason = "it is to stay" if _inside(node, freeze) else _unfit(program, node)
        if reason is None:
            sites.append(Site(program, node, sizes))
        else:
            skipped.append(Skipped(module_path(node) or node.name, reason))
    return sites, skipped


def _inside(node: fx.Node, paths: Collection[str]) -> bool:
    path = module_path(node)
    return any(path == given or path.startswith(f"{given}.") for given in paths)


def _unfit(program: Program, node: fx.Node) -> str | None:
    """Return why a layer cannot be rewritten; None where it can."""
    row = row_of(node)
    weight, bias = argument(node, row.weight), argument(node, row.bias)
    parts = [part for part in (weight, bias) if part is not None]
    if not all(is_stored(part) for part in parts):
        return "its weight or bias is computed"
    if any(len(readers(program, part)) > 1 for part in parts):
        return "its weight or bias is shared with another layer"
    if bias is not None and get_tensor(program, bias).dim() != 1:
        return "its bias is not one number for each channel"
    stored = get_tensor(program, weight)
    if not stored.is_floating_point() or stored.is_complex():
        return f"its weight is {str(stored.dtype).removeprefix('torch.')}"
    if "val" not in node.meta or "val" not in argument(node, row.inputs[0]).meta:
        return "it carries no shape: layers are rewritten before other steps insert operators"
    by_output = outputs_first(stored, node)
    if 1 in (by_output.shape[1], len(by_output) // groups_of(node)):
        return "a group has one channel"
    return None


def model_params(program: Program) -> int:
    """Return the number of parameters."""
    return sum(parameter.numel() for parameter in program.parameters())


def multiplying(program: Program) -> Iterator[tuple[fx.Node, int]]:
    """Yield the operators that multiply, each with its multiply-adds for one example."""
    sizes, live = symbols(program, 1, {}), live_nodes(program.graph)

    def shape(value: Any) -> Shape:
        if value.op == "get_attr":
            return tuple(get_tensor(program, value).shape)
        rows = value.meta["val"]
        return tuple(number(size, sizes) for size in (rows[0] if isinstance(rows, (tuple, list)) else rows).shape)

    for node in program.graph.nodes:
        rule = cost_of(node) if node in live else None
        if rule is not None:
            try:
                yield node, rule(node, shape)
            except LookupError:
                continue


@lru_cache(maxsize=16)
def large_share(program: Program, kernels: bool) -> float:
    """Return the share of the multiply-adds in layers that are large enough to be rewritten with a gain: `LARGE` channels or more on either side.

    It is looked at once for a program, which must not change.

    Args:
        program: in eval mode.
        kernels: only convolutions with a kernel count.
    """
    costs = dict(multiplying(program))
    large = [site for site in find(program)[0] if min(site.weight.shape[1:3]) >= LARGE and (not kernels or math.prod(site.kernel) > 1)]
    return sum(costs.get(site.node, 0) for site in large) / max(1, sum(costs.values()))
