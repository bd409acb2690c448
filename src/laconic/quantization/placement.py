"""Where quantize/dequantize pairs stand in the graph, per target: where that runtime fuses them into integer kernels, and nowhere else.

A rule says which inputs of an operator are to be integers, which input is its weight, and whether its output must be one too. Demands travel up through
operators that only move numbers (reshape, transpose, max-pool, …) to the operator that makes them, so that one pair serves all its readers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, fx

from laconic.core.errors import BadInput, nearest
from laconic.core.graph import module_path
from laconic.core.operators import (
    CONVOLUTIONS,
    RECTIFIERS,
    Family,
    argument,
    family_of,
    groups_of,
    is_layer,
    is_stored,
    operator_of,
    overloads,
    plain_name,
    row_of,
)
from laconic.core.program import aten
from laconic.core.records import Skipped
from laconic.quantization.kernels import ncnn_lacks, xnnpack_lacks


@dataclass
class Site:
    """One activation that is rounded: `source` makes it, `readers` see it rounded. Sites of one `family` share a scale."""

    source: fx.Node
    family: fx.Node
    readers: list[fx.Node] = field(default_factory=list)

    @property
    def name(self) -> str:
        """The module that makes it, or the operator."""
        return module_path(self.source) or self.source.name


@dataclass
class WeightSite:
    """One constant that is rounded: `source` is its attribute, each reader has it at a position."""

    source: fx.Node
    axis: int | None
    readers: list[tuple[fx.Node, int]] = field(default_factory=list)
    embedding: bool = False

    @property
    def name(self) -> str:
        """The parameter's name."""
        return str(self.source.target)


@dataclass
class Plan:
    """All that is rounded for a target, by operator, and what stays float with the reason."""

    operators: list[fx.Node]
    activations: list[Site]
    weights: list[WeightSite]
    skipped: list[Skipped]
    symmetric: bool
    joined: set[fx.Node] = field(default_factory=set)  # families with a concatenation in them
    signed: bool = False


# Operators that move numbers or pick some of them: what is on a grid before is on it after.
MOVES = {
    *(aten.max_pool1d.default, aten.max_pool2d.default, aten.max_pool3d.default),
    *(aten.view.default, aten.reshape.default, aten.permute.default, aten.transpose.int, aten.flatten.using_ints, aten.unflatten.int),
    *(
        aten.unsqueeze.default,
        aten.squeeze.dim,
        aten.squeeze.default,
        aten.squeeze.dims,
        aten.slice.Tensor,
        aten.select.int,
        aten.expand.default,
    ),
    *(aten.clone.default, aten.contiguous.default, aten.alias.default, aten.detach.default, aten.t.default),
    *(aten.pixel_shuffle.default, aten.channel_shuffle.default, aten.roll.default, aten.pad.default, aten.constant_pad_nd.default),
    *(
        aten.upsample_nearest2d.default,
        aten.upsample_nearest2d.vec,
        aten.repeat.default,
        aten.index_select.default,
        aten._unsafe_view.default,
    ),
    *overloads("dropout"),
}
# What a value may pass through and still count as coming from a convolution.
_PASSING = {
    *RECTIFIERS,
    *MOVES,
    *overloads("average pool", "batch norm"),
    aten.leaky_relu.default,
    aten.silu.default,
    aten.hardswish.default,
}
_STATES = "recurrent: its states are summed over many steps; quantize it dynamically instead (mode dynamic)"
COMPLEX = "no runtime computes complex numbers in integers"
_NORM = "normalization needs the range of floats"
# Why a family stays float; for single operators of a family, by plain name, where the reason differs.
_FLOAT_FAMILIES: dict[Family | None, str] = {
    "recurrent": _STATES,
    "attention": "attention that is causal, shares keys between queries or has dropout stays whole, in float",
    "softmax": "softmax needs the range of floats",
    "layer norm": f"layer {_NORM}",
    "rms norm": f"RMS {_NORM}",
    "group norm": f"group {_NORM}",
    "instance norm": f"instance {_NORM}",
    "einsum": "einsum is lowered into several operators; it has no rule",
}
_FLOAT_NAMES = {
    **dict.fromkeys(("rnn_tanh", "rnn_relu"), "recurrent: no runtime has an int8 kernel for it"),
    "gelu": "GELU is computed in float and fused there",
    "silu": "SiLU is computed in float and fused there",
}


@dataclass(frozen=True)
class TargetRules:
    """What a target fuses and what it refuses.

    Attributes:
        integers: families whose operators it computes in integers.
        integer_outputs: those of them whose output must be an integer too.
        symmetric: signed activations are put around 0, not onto u8 with a zero point.
        signed: all activations are, those too of which none is negative.
        around_moves: operators that only move numbers need a pair on both sides.
        products: it multiplies integers with ranges that are taken at run time (mode ``dynamic``); elsewhere weights are turned into floats first.
        affine: it computes with weights that are not around 0 (mode ``static``, one scale a tensor).
        direct: a kernel rounds its own input: demands do not travel up through operators that only move numbers.
        results: an operator of `integer_outputs` puts out integers where the program ends, too.
        unfit: tells why it has no integer kernel for an operator of a family that it computes in integers; None where it has one.
        refused: families that could be expected to be computed in integers and are not, with the reason.
    """

    integers: frozenset[Family]
    integer_outputs: frozenset[Family]
    symmetric: bool
    around_moves: bool
    refused: Mapping[Family, str]
    products: bool = False
    affine: bool = False
    signed: bool = False
    direct: bool = False
    results: bool = False
    unfit: Callable[[fx.Node], str | None] = lambda node: None


_COMMON: tuple[Family, ...] = ("convolution", "linear", "matrix product", "sum", "average pool")
TARGETS: dict[str, TargetRules] = {
    # fuses pairs before an operator; what follows a convolution (activation, sum, next pair) becomes part of its kernel
    "openvino": TargetRules(frozenset((*_COMMON, "transposed convolution")), frozenset(), True, False, {}),
    # has integer kernels for operators between pairs on all sides (QLinear…); a matrix product may have a float result
    "onnxruntime": TargetRules(
        frozenset(_COMMON),
        frozenset(("convolution", "sum", "average pool")),
        False,
        True,
        {"transposed convolution": "ONNX Runtime has no int8 kernel for transposed convolutions"},
        products=True,
        affine=True,
    ),
    # XNNPACK computes what stands between pairs on all sides, in s8 with a zero point; a rectifier before the last pair becomes part of the kernel
    "executorch": TargetRules(
        frozenset(("convolution", "transposed convolution", "linear", "sum")),
        frozenset(("convolution", "transposed convolution", "linear", "sum")),
        False,
        True,
        {"matrix product": "XNNPACK multiplies two activations in floats", "average pool": "XNNPACK averages in floats"},
        results=True,
        unfit=xnnpack_lacks,
    ),
    # rounds the input of a kernel that puts out floats
    "ncnn": TargetRules(
        frozenset(("convolution", "linear")),
        frozenset(),
        True,
        False,
        {
            "transposed convolution": "ncnn has no int8 kernel for transposed convolutions",
            "matrix product": "ncnn multiplies two activations in floats",
        },
        signed=True,
        direct=True,
        unfit=ncnn_lacks,
    ),
}


def target_rules(target: str) -> TargetRules:
    """Return the rules of a target.

    Raises:
        BadInput: nothing is known about where this runtime fuses.
    """
    if target not in TARGETS:
        raise BadInput(f"there are no placement rules for '{target}'." + nearest(target, TARGETS))
    return TARGETS[target]


def moves(node: fx.Node) -> bool:
    """Return whether an operator only moves numbers: what is on a grid before is on it after. A pad with another number than 0 brings one of its own."""
    if node.target is aten.pad.default:
        return node.args[2:3] in ((), ("constant",)) and argument(node, 3) in (None, 0, 0.0)
    if node.target is aten.constant_pad_nd.default:
        return argument(node, 2) in (None, 0, 0.0)
    return node.target in MOVES or node.target is aten.cat.default


def is_complex(node: fx.Node) -> bool:
    """Return whether an operator puts out complex numbers, for which no runtime has integers."""
    value = node.meta.get("val")
    return isinstance(value, Tensor) and value.is_complex()


def _joins_a_constant(node: fx.Node) -> bool:
    """Return whether a part of a concatenation is stored: no runtime joins integers that it computed with integers that it read."""
    parts: Any = node.args[0] if node.target is aten.cat.default else ()
    for part in parts:
        while part.op == "call_function" and part.target in MOVES:
            part = part.args[0]
        if part.op == "get_attr":
            return True
    return False


def place(program: Any, target: str, keep: tuple[str, ...] = ()) -> Plan:
    """Decide what is rounded.

    Args:
        program: in eval mode, batch-norms folded, attention taken apart.
        target: a name in `TARGETS`.
        keep: module paths (or their parents) whose operators stay float.

    Raises:
        BadInput: unknown target, or a path that no operator has.
    """
    result = target_rules(target)
    return _Placement(program.graph, result, keep).plan()


def operator_name(node: fx.Node) -> str:
    """Return how an operator is called in reports: its module's path, or the node's name where the module holds several operators of the kind."""
    path = module_path(node)
    return path if path and (is_layer(node) or family_of(node) == "embedding") else f"{path}:{node.name}".lstrip(":")


class _Placement:
    """The work of `place`."""

    def __init__(self, graph: fx.Graph, target: TargetRules, keep: tuple[str, ...]) -> None:
        self.graph, self.target, self.keep = graph, target, keep
        self.skipped: list[Skipped] = []
        self.sites: dict[fx.Node, Site] = {}
        self.families: dict[fx.Node, fx.Node] = {}
        check_paths(graph, keep)
        self.operators = [node for node in graph.nodes if self._quantized(node)]
        self.open = set() if target.direct else self._moves_that_are_only_read_rounded()

    def plan(self) -> Plan:
        """Lift every demand to where the numbers are made."""
        for node in self.operators:
            for source in self._activations(node):
                self._lift(source, node)
        for node in self.operators:
            if family_of(node) in self.target.integer_outputs:
                self._round_output(node)
        sites = sorted(self.sites.values(), key=_positions(self.graph))
        for site in sites:
            site.family = self._family(site.source)
        joined = {self._family(node) for node in self.open if node.target is aten.cat.default}
        return Plan(self.operators, sites, list(self._weights()), self.skipped, self.target.symmetric, joined, self.target.signed)

    def _quantized(self, node: fx.Node) -> bool:
        """Return whether the target computes this operator in integers; where it could be expected to and does not, the reason is written down."""
        if node.op != "call_function":
            return False
        family = family_of(node)
        reason = None if family is None else self.target.refused.get(family)
        reason = reason or _FLOAT_NAMES.get(plain_name(node)) or _FLOAT_FAMILIES.get(family)
        if reason is None and family in self.target.integers:
            reason = "it is to stay float" if is_kept(node, self.keep) else self._unfit(node)
            if reason is None:
                return True
        if reason:
            self.skipped.append(Skipped(operator_name(node), reason))
        return False

    def _unfit(self, node: fx.Node) -> str | None:
        """Return why an operator of a family that is computed in integers is not; empty where nobody would expect it."""
        row = row_of(node)
        inputs = [node.args[i] for i in row.inputs]
        if not all(isinstance(source, fx.Node) for source in inputs) or (row.family == "sum" and not all(map(spatial, inputs))):
            return ""
        if row.is_layer and not is_stored(argument(node, row.weight)):
            return "its weight is computed, not stored"
        return COMPLEX if is_complex(node) else self.target.unfit(node)

    def _activations(self, node: fx.Node) -> list[fx.Node]:
        return [source for source in self._inputs(node).values() if source.op != "get_attr"]

    def _inputs(self, node: fx.Node) -> dict[int, fx.Node]:
        """What an operator reads beside its weight, by position."""
        row = row_of(node)
        return {i: source for i in row.inputs if isinstance(source := node.args[i], fx.Node)}

    def _moves_that_are_only_read_rounded(self) -> set[fx.Node]:
        """Operators that only move numbers and whose readers all want them rounded: the pair may stand before them."""
        wanted = {(source, node) for node in self.operators for source in self._activations(node)}
        result: set[fx.Node] = set()
        for node in reversed(self.graph.nodes):
            if (
                moves(node)
                and not _joins_a_constant(node)
                and node.users
                and all(user in result or (node, user) in wanted for user in node.users)
            ):
                result.add(node)
        return result

    def _lift(self, source: fx.Node, reader: fx.Node) -> None:
        """Walk up from a demand to the operator that makes the numbers; behind a concatenation all parts share a scale."""
        if source in self.open:
            parts: Any = source.args[0] if source.target is aten.cat.default else source.args[:1]
            for part in parts:
                self._join(source, part)
                self._lift(part, source)
        if source not in self.open or self.target.around_moves:
            site = self.sites.setdefault(source, Site(source, source))
            site.readers += [reader] if reader not in site.readers else []

    def _join(self, first: fx.Node, second: fx.Node) -> None:
        one, other = self._family(first), self._family(second)
        if one is not other:
            self.families[one] = other

    def _family(self, node: fx.Node) -> fx.Node:
        while node in self.families:
            node = self.families[node]
        return node

    def _round_output(self, node: fx.Node) -> None:
        """Return a pair after an operator that must put out integers, behind the activation that is fused into it; all readers get it."""
        last = node
        for fused in (overloads("batch norm"), RECTIFIERS):
            if len(last.users) == 1 and (reader := next(iter(last.users))).target in fused:
                last = reader
        readers = [user for user in last.users if user.op != "output" or self.target.results]
        if readers:
            self.sites.setdefault(last, Site(last, last)).readers = readers

    def _weights(self) -> Iterator[WeightSite]:
        sites: dict[tuple[str, int | None], WeightSite] = {}
        for node in self.operators:
            row = row_of(node)
            constants: dict[int, int | None] = {i: None for i, source in self._inputs(node).items() if source.op == "get_attr"}
            constants |= {row.weight: weight_axis(node)} if row.is_layer and row.weight is not None else {}
            for position, axis in constants.items():
                source: Any = node.args[position]
                sites.setdefault((str(source.target), axis), WeightSite(source, axis)).readers.append((node, position))
        yield from sites.values()


def check_paths(graph: fx.Graph, keep: tuple[str, ...]) -> None:
    """Refuse a path to keep that no operator has.

    Raises:
        BadInput: names the nearest.
    """
    nodes = [node for node in graph.nodes if node.op == "call_function"]
    for path in keep:
        if not any(is_kept(node, (path,)) for node in nodes):
            names = {name for node in nodes for name in (module_path(node), operator_name(node))} - {""}
            raise BadInput(f"keep names '{path}', which no operator of the program has." + nearest(path, names))


def is_kept(node: fx.Node, keep: tuple[str, ...]) -> bool:
    """Return whether an operator, or a module that holds it, is named in `keep`."""
    path, name = module_path(node), operator_name(node)
    return any(wanted in (name, node.name) or path == wanted or path.startswith(f"{wanted}.") for wanted in keep)


def embeddings(graph: fx.Graph, keep: tuple[str, ...] = ()) -> list[WeightSite]:
    """Return the embedding tables: each column has its scale, so that the rows that are looked up are scaled and no others."""
    sites: dict[str, WeightSite] = {}
    for node in graph.nodes:
        if family_of(node) == "embedding" and is_stored(node.args[0]) and not is_kept(node, keep):
            site = sites.setdefault(str(node.args[0].target), WeightSite(node.args[0], 1, embedding=True))
            site.readers.append((node, 0))
    return list(sites.values())


def weight_axis(node: fx.Node) -> int | None:
    """Return the axis of a layer's weight along which each output channel has a scale; None where one scale serves all.

    Transposed convolutions with groups share output channels between slices: they get one scale.
    """
    row = operator_of(node)
    return None if row is None or (row.transposed and groups_of(node) > 1) else row.out_axis


def spatial(node: Any) -> bool:
    """Return whether a value comes from a convolution through sums, activations, pools and moves: such sums are worth rounding; a Transformer's residual is
    not."""
    if not isinstance(node, fx.Node) or node.op != "call_function":
        return False
    family = family_of(node)
    if family in CONVOLUTIONS:
        return True
    if node.target in _PASSING:
        return spatial(node.args[0])
    parts: Any = node.args[:2] if family == "sum" else node.args[0] if node.target is aten.cat.default else ()
    return bool(parts) and all(map(spatial, parts))


def _positions(graph: fx.Graph) -> Callable[[Site], int]:
    positions = {node: index for index, node in enumerate(graph.nodes)}
    return lambda site: positions[site.source]
