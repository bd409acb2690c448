"""Static memory of a graph: which buffers it needs for one call, when each is alive, and how large an arena holds them all. Computed, never measured.

A runtime for small devices lays all buffers into one arena before the first call (TensorFlow Lite Micro does). What is counted: inputs, until they were last
read; outputs, to the end; everything between. Views share the buffer of what they look at, as the graph has them. An elementwise operator, a batch-norm and an
activation write over an input of the same size that nobody reads any more, as runtimes fuse them or compute them in place. Weights, and what follows from them
alone, lie in flash. Scratch of kernels (`im2col`, sums in int32) is the runtime's own and is not counted.

Bytes of an element: floats have the runtime's width. Where an operator reads grids alone and its output goes to a grid it computes in integers, and its output
has a code's width; so does a layer or product that puts out floats. Whatever else reads a grid is given floats, unpacked a moment before. Dynamic quantization
needs the float and the rounded copy beside each other. Inputs and outputs have their own types.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, fx
from torch._subclasses.fake_tensor import FakeTensorMode

from laconic.core.fake_quant import FAKE_QUANTIZE, is_dynamic, is_fake_quant
from laconic.core.graph import live_nodes
from laconic.core.operators import PRODUCTS, RECTIFIERS, family_of, is_layer
from laconic.core.program import Program, as_program
from laconic.core.records import Measurement

# Bytes of a float between operators in each precision of a target; where weights alone are halved it is computed in fp32.
FLOAT_BYTES = {"fp32": 4, "bf16": 2, "fp16-weights": 4}
_IN_PLACE = ("batch norm", "native batch norm", "dropout")


@dataclass(frozen=True)
class Buffer:
    """Bytes that are alive from one step of the graph to another, both included.

    Attributes:
        name: of the operator that makes it.
        size_bytes: how many.
        first: step at which it is written.
        last: step at which it is last read.
        copied: whether it is the rounded copy of dynamic quantization.
    """

    name: str
    size_bytes: int
    first: int
    last: int
    copied: bool = False

    def meets(self, other: Buffer) -> bool:
        """Return whether both are alive at some step."""
        return self.first <= other.last and other.first <= self.last


@dataclass(frozen=True)
class Arena:
    """How much memory holds all buffers.

    Attributes:
        size_bytes: of the arena, buffers laid out by `offsets`.
        alive_bytes: the most that is alive at once: no arena is smaller.
        at: operator at which that is.
        copied_bytes: of those, in rounded copies of dynamic quantization.
    """

    size_bytes: int
    alive_bytes: int
    at: str
    copied_bytes: int = 0

    @property
    def told(self) -> str:
        """What the figure is, in words."""
        copies = f", {self.copied_bytes:,} of them in rounded copies of dynamic quantization" if self.copied_bytes else ""
        return (
            f"computed from the graph, for one example; the most at once are {self.alive_bytes:,} B, at {self.at or 'no operator'}{copies}"
        )


def arena(buffers: Sequence[Buffer]) -> Arena:
    """Lay buffers out and return how large the arena is."""
    if not buffers:
        return Arena(0, 0, "")
    ends = [offset + one.size_bytes for offset, one in zip(offsets(buffers), buffers, strict=True)]
    alive = {step: [one for one in buffers if one.first <= step <= one.last] for step in {one.first for one in buffers}}
    step = max(sorted(alive), key=lambda i: sum(one.size_bytes for one in alive[i]))
    at = next(one.name for one in buffers if one.first == step)
    return Arena(max(ends), sum(one.size_bytes for one in alive[step]), at, sum(one.size_bytes for one in alive[step] if one.copied))


def offsets(buffers: Sequence[Buffer]) -> list[int]:
    """Return where each buffer lies: the largest first, each at the lowest place that is free while it is alive.

    Greedy by size of Pisarchyk and Lee, Efficient Memory Management for Deep Neural Net Inference (2020), section 5.2; without alignment.
    """
    placed: dict[int, int] = {}
    for i in sorted(range(len(buffers)), key=lambda i: (-buffers[i].size_bytes, buffers[i].first, i)):
        place = 0
        for other in sorted((j for j in placed if buffers[j].meets(buffers[i])), key=placed.__getitem__):
            if placed[other] - place >= buffers[i].size_bytes:
                break
            place = max(place, placed[other] + buffers[other].size_bytes)
        placed[i] = place
    return [placed[i] for i in range(len(buffers))]


def arenas(program: Program) -> dict[str, Measurement]:
    """Return bytes of static memory for a call of one example, by precision of a target; unknown, and why, where shapes cannot be followed."""
    try:
        made = _made(program, 1, {})
        each = {precision: arena(_Liveness(program, made, width).buffers()) for precision, width in FLOAT_BYTES.items()}
    except Exception as error:  # noqa: BLE001 (an operator without a rule for shapes raises whatever it likes, and spoils this figure alone)
        return dict.fromkeys(FLOAT_BYTES, Measurement.missing("B", f"unknown: {type(error).__name__}: {str(error)[:200]}"))
    return {precision: Measurement(one.size_bytes, "B", note=one.told) for precision, one in each.items()}


def buffers_of(program: Program, precision: str = "fp32", batch: int = 1, **lengths: int) -> list[Buffer]:
    """Return the buffers of one call, in the order in which they are written.

    Args:
        program: any; nothing is computed, only shapes.
        precision: of a target, for the width of floats.
        batch: examples.
        lengths: sizes of other dynamic dimensions; those not given have the size of the example.
    """
    program = as_program(program, "buffers_of")
    return _Liveness(program, _made(program, batch, lengths), FLOAT_BYTES[precision]).buffers()


class _Liveness:
    """Steps of a graph's live operators, what each makes, and who reads it."""

    def __init__(self, program: Program, made: Mapping[fx.Node, tuple[Tensor, ...]], float_bytes: int) -> None:
        self.made, self.float_bytes = made, float_bytes
        live = live_nodes(program.graph)
        self.nodes = [node for node in program.graph.nodes if node in live or node.op == "placeholder"]
        self.step = {node: 2 * i for i, node in enumerate(self.nodes)}  # grids are unpacked in between
        self.stored: set[fx.Node] = set()
        for node in self.nodes:
            sources = node.all_input_nodes
            if node.op == "get_attr" or (node.op == "call_function" and sources and all(one in self.stored for one in sources)):
                self.stored.add(node)

    def buffers(self) -> list[Buffer]:
        """Return a buffer for each storage; those of which one writes over the other are one."""
        found: dict[int, Buffer] = {}  # by storage
        into: dict[int, int] = {}  # storages that lie in the buffer of another
        for node in self.nodes:
            if node in self.stored or node.op == "output":
                continue
            for tensor in self.made.get(node, ()):
                key = _storage(tensor)
                if key in found or key in into:
                    continue
                first = self.step[node] - (
                    _is_pointwise(node) and bool(self._unpacked(node))
                )  # computed in the place where it was unpacked
                one = Buffer(node.name, self._bytes(node, tensor), first, self.last[key], is_fake_quant(node) and is_dynamic(node))
                over = next((home for home in self._written_over(node, one, found, into)), None)
                if over is None:
                    found[key] = one
                else:
                    into[key] = over
                    found[over] = replace(found[over], last=max(found[over].last, one.last))
        return [one for one in (*found.values(), *self._floats()) if one.size_bytes]

    def _floats(self) -> Iterator[Buffer]:
        """Yield the floats into which grids are unpacked for operators that do not compute in integers."""
        readers: dict[fx.Node, list[int]] = {}
        for node in self.nodes:
            for grid in () if _is_pointwise(node) else self._unpacked(node):
                readers.setdefault(grid, []).append(self.step[node])
        for grid, steps in readers.items():
            yield Buffer(f"{grid.name} in float", self.made[grid][0].numel() * self.float_bytes, min(steps) - 1, max(steps))

    def _unpacked(self, node: fx.Node) -> list[fx.Node]:
        """Return the grids that an operator reads as floats."""
        if node.op != "call_function" or node in self.stored or is_fake_quant(node) or _is_view(node) or self._is_integer(node):
            return []
        if (is_layer(node) or family_of(node) in PRODUCTS) and self._reads_grids(node):
            return []
        return [_viewed(one) for one in node.all_input_nodes if one not in self.stored and _is_grid(one)]

    @cached_property
    def last(self) -> dict[int, int]:
        """The step at which each storage is last read, or written where nobody reads it."""
        last: dict[int, int] = {}
        for node in self.nodes:
            for source in (node, *node.all_input_nodes):
                early = source is not node and _is_grid(source) and _viewed(source) in self._unpacked(node)
                for tensor in self.made.get(source, ()):
                    last[_storage(tensor)] = max(last.get(_storage(tensor), 0), self.step[node] - early)
        return last

    def _written_over(self, node: fx.Node, one: Buffer, found: Mapping[int, Buffer], into: Mapping[int, int]) -> Iterator[int]:
        """Yield the buffers in which the output of a node may lie: of what is rounded to it, of a grid; else of an input that is read no more."""
        if is_fake_quant(node):
            source: Any = node.args[0]
            if self._is_integer(source) and self._first_grid(source).args[1:] == node.args[1:]:
                yield from self._homes([source], found, into)
            return
        if family_of(node) in _IN_PLACE or _is_pointwise(node):
            for home in self._homes([n for n in node.all_input_nodes if n.op != "placeholder"], found, into):
                if found[home].last <= one.first and found[home].size_bytes == one.size_bytes:
                    yield home

    def _homes(self, nodes: Sequence[fx.Node], found: Mapping[int, Buffer], into: Mapping[int, int]) -> Iterator[int]:
        for source in nodes:
            for tensor in self.made.get(source, ()):
                key = into.get(_storage(tensor), _storage(tensor))
                if key in found:
                    yield key

    def _bytes(self, node: fx.Node, tensor: Tensor) -> int:
        """Return the bytes of the storage of what a node makes."""
        count = tensor.untyped_storage().nbytes() // tensor.element_size()
        own = node.op == "placeholder" or self._reaches_output(node)
        if own or not tensor.is_floating_point():
            return count * tensor.element_size()
        if is_fake_quant(node) or self._is_integer(node):
            return count * _code_bytes(node if is_fake_quant(node) else self._first_grid(node))
        return count * self.float_bytes

    def _reaches_output(self, node: fx.Node) -> bool:
        keys = {_storage(tensor) for tensor in self.made.get(node, ())}
        return any(_storage(tensor) in keys for out in self.nodes[-1].all_input_nodes for tensor in self.made.get(out, ()))

    def _is_integer(self, node: fx.Node) -> bool:
        """Return whether an operator computes in integers: it reads grids alone, and grids alone, behind what is fused into it, read it."""
        return node.op == "call_function" and not is_fake_quant(node) and self._reads_grids(node) and self._first_grid(node) is not None

    def _reads_grids(self, node: fx.Node) -> bool:
        sources = [one for one in node.all_input_nodes if one not in self.stored and self.made.get(one)]
        return bool(sources) and all(
            _is_grid(one) or (_is_fused(node) and one.op == "call_function" and self._reads_grids(one)) for one in sources
        )

    def _first_grid(self, node: fx.Node) -> Any:
        """Return the first grid that reads a node, directly or behind what is fused into it; None where something else reads it too."""
        readers = [one for one in node.users if one in self.step]
        if len(readers) == 1 and _is_fused(readers[0]):
            return self._first_grid(readers[0])
        return readers[0] if readers and all(is_fake_quant(one) and not is_dynamic(one) for one in readers) else None


def _made(program: Program, batch: int, lengths: Mapping[str, int]) -> dict[fx.Node, tuple[Tensor, ...]]:
    """Run the graph on tensors without numbers and return the tensors that each node makes; those that share memory share their storage."""
    made: dict[fx.Node, tuple[Tensor, ...]] = {}

    class Run(fx.Interpreter):
        def run_node(self, n: fx.Node) -> Any:
            result = super().run_node(n)
            if n.op != "output":
                several = result if isinstance(result, (tuple, list)) else (result,)
                made[n] = tuple(one for one in several if isinstance(one, Tensor))
            return result

    with torch.no_grad(), FakeTensorMode(allow_non_fake_inputs=True) as mode:
        inputs = []
        for spec, example in zip(program.inputs, program.example_inputs(), strict=True):
            sizes = [
                size if isinstance(size, int) else batch if size == "batch" else lengths.get(size, given)
                for size, given in zip(spec.shape, example.shape, strict=True)
            ]
            with mode:
                inputs.append(torch.empty(sizes, dtype=example.dtype, device=example.device))
        Run(program.graph_module).run(*inputs)
    return made


def _storage(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


def _is_grid(node: fx.Node) -> bool:
    """Return whether a node puts out what lies on a fixed grid: a rounding, or a view of one."""
    node = _viewed(node)
    return is_fake_quant(node) and not is_dynamic(node)


def _viewed(node: fx.Node) -> fx.Node:
    """Return what a chain of views looks at; the node itself where it is none."""
    while not is_fake_quant(node) and node.op == "call_function" and _is_view(node):
        node = node.all_input_nodes[0]
    return node


def _is_view(node: fx.Node) -> bool:
    schema = getattr(node.target, "_schema", None)
    return schema is not None and bool(node.all_input_nodes) and any(one.alias_info is not None for one in schema.returns)


def _is_fused(node: fx.Node) -> bool:
    """Return whether a node is computed in the loop of the operator that it reads."""
    return node.target in RECTIFIERS or family_of(node) in _IN_PLACE


def _is_pointwise(node: fx.Node) -> bool:
    return torch.Tag.pointwise in getattr(node.target, "tags", ())


def _code_bytes(grid: fx.Node) -> int:
    """Return the bytes of a code of a grid."""
    at = FAKE_QUANTIZE[grid.target][1]
    return (int(grid.args[at + 1]) - int(grid.args[at])).bit_length() + 7 >> 3  # type: ignore[arg-type]
