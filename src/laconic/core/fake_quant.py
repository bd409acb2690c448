"""Fake-quantize nodes: the one form in which a graph says that a tensor is stored or computed with few bits.

A node rounds its input to a grid and returns floats: `scale · (clamp(round(x / scale) + zero_point, low, high) − zero_point)`. The same nodes
serve post-training quantization (fixed scales), training (a straight-through gradient, learned scales) and export, which turns each into a
quantize/dequantize pair. Weights stay floats under their own names.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

aten = torch.ops.aten
PER_TENSOR = aten.fake_quantize_per_tensor_affine.default  # (x, scale, zero_point, low, high), numbers
PER_CHANNEL = aten.fake_quantize_per_channel_affine.default  # (x, scale, zero_point, axis, low, high)
LEARNED_TENSOR = aten._fake_quantize_learnable_per_tensor_affine.default  # (x, scale, zero_point, low, high, gradient factor)
LEARNED_CHANNEL = aten._fake_quantize_learnable_per_channel_affine.default  # (x, scale, zero_point, axis, low, high, gradient factor)

# Where each keeps its axis (None: it has none) and its lowest code.
FAKE_QUANTIZE: dict[Any, tuple[int | None, int]] = {
    PER_TENSOR: (None, 3),
    PER_CHANNEL: (3, 4),
    LEARNED_TENSOR: (None, 3),
    LEARNED_CHANNEL: (3, 4),
}
PREFIX = "quantizers"
_SMALLEST = 1e-12
# No step of a grid is smaller: the product of two is still a normal number in single precision, by which runtimes divide biases.
TINY = 1e-18


def _register_shapes() -> None:
    """Tell `torch.export` the shape of what these operators return, where PyTorch (2.13) has no such rule; nothing that exists is replaced."""

    def one(x: Tensor, *_: Any) -> Tensor:
        return torch.empty_like(x)

    def with_mask(x: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
        return torch.empty_like(x), torch.empty_like(x, dtype=torch.bool)

    rules = {
        "_fake_quantize_learnable_per_tensor_affine": one,
        "_fake_quantize_learnable_per_channel_affine": one,
        "fake_quantize_per_tensor_affine_cachemask": with_mask,
        "fake_quantize_per_channel_affine_cachemask": with_mask,
    }
    for name, rule in rules.items():
        if not torch._C._dispatch_has_kernel_for_dispatch_key(f"aten::{name}", "Meta"):
            _LIBRARY.impl(name, rule, "Meta")


_LIBRARY = torch.library.Library("aten", "IMPL")
_register_shapes()


@dataclass(frozen=True)
class Quantizer:
    """A grid.

    Attributes:
        scale: step, shape (1,) or one for each slice along `axis`.
        zero_point: the code of 0.0, whole numbers of the same shape.
        low: lowest code.
        high: highest code.
        axis: along which scales differ; None for one scale.
        group: for weights (O, I): so many neighboring inputs share a scale, and scale has the shape (O · I / group,); 0 for none.
    """

    scale: Tensor
    zero_point: Tensor
    low: int
    high: int
    axis: int | None = None
    group: int = 0

    @property
    def bits(self) -> int:
        """Bits of a stored code."""
        return 4 if self.high - self.low < 16 else 8 if self.high - self.low < 256 else 32

    def codes(self, x: Tensor) -> Tensor:
        """Return the whole numbers that stand for `x`, as int32 of its shape."""
        scale, zero, shaped = self._broadcast(x)
        return (torch.round(shaped * (1.0 / scale)) + zero).clamp(self.low, self.high).to(torch.int32).reshape(x.shape)

    def __call__(self, x: Tensor) -> Tensor:
        """Round `x` to the grid."""
        scale, zero, shaped = self._broadcast(x)
        return (((torch.round(shaped * (1.0 / scale)) + zero).clamp(self.low, self.high) - zero) * scale).reshape(x.shape)

    def _broadcast(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        if self.group:
            x = x.reshape(-1, self.group)
        axis = 0 if self.group else self.axis
        shape = [1] * x.dim() if axis is None else [-1 if i == axis else 1 for i in range(x.dim())]
        return self.scale.reshape(shape), self.zero_point.reshape(shape).to(self.scale.dtype), x


def is_fake_quant(node: Any) -> bool:
    """Return whether a node rounds its input to a grid."""
    return isinstance(node, fx.Node) and node.target in FAKE_QUANTIZE


def is_dynamic(node: fx.Node) -> bool:
    """Return whether a fake-quantize node takes its grid from each input anew."""
    return isinstance(node.args[1], fx.Node) and node.args[1].op != "get_attr"


def fake_quants(graph: fx.Graph) -> Iterator[fx.Node]:
    """Yield all fake-quantize nodes, in order."""
    return (node for node in list(graph.nodes) if node.target in FAKE_QUANTIZE)


def weight_of(node: fx.Node) -> fx.Node | None:
    """Return the attribute that a fake-quantize node rounds (through the reshape of grouped weights), or None if it rounds an activation."""
    source: Any = node.args[0]
    if source.op == "call_function" and source.target is aten.reshape.default:
        source = source.args[0]
    return source if source.op == "get_attr" else None


def quantizer_of(module: nn.Module, node: fx.Node) -> Quantizer:
    """Read the grid of a fake-quantize node whose grid is fixed."""
    axis_at, low_at = FAKE_QUANTIZE[node.target]
    low, high = int(node.args[low_at]), int(node.args[low_at + 1])  # type: ignore[arg-type]
    if node.target is PER_TENSOR:
        return Quantizer(torch.tensor([node.args[1]]), torch.tensor([node.args[2]]), low, high)
    scale, zero = (_tensor(module, argument).detach() for argument in node.args[1:3])
    if node.target in (LEARNED_TENSOR, LEARNED_CHANNEL):
        scale, zero = scale.abs().clamp(min=_SMALLEST), zero.round().clamp(low, high)
    source: Any = node.args[0]
    grouped = source.op == "call_function" and source.target is aten.reshape.default and weight_of(node) is not None
    group = int(source.args[1][1]) if grouped else 0
    axis = None if axis_at is None else int(node.args[axis_at])  # type: ignore[arg-type]
    return Quantizer(scale.float(), zero.to(torch.int32), low, high, axis, group)


def insert(module: fx.GraphModule, source: fx.Node, quantizer: Quantizer, name: str) -> fx.Node:
    """Put a fake-quantize node after `source`; nobody reads it yet. Its scales become buffers under `quantizers.NAME`."""
    graph, last = module.graph, source
    if source.op != "call_function":  # operators stand after all inputs, as in every captured graph
        positions = {node: index for index, node in enumerate(graph.nodes)}
        last = max([source, *graph.find_nodes(op="placeholder")], key=positions.__getitem__)
    with graph.inserting_after(last):
        if quantizer.axis is None and not quantizer.group:
            scale, zero = float(quantizer.scale), int(quantizer.zero_point)
            node = graph.call_function(PER_TENSOR, (source, scale, zero, quantizer.low, quantizer.high))
        else:
            node = _insert_per_channel(module, source, quantizer, name)
    stack = source.meta.get("nn_module_stack")
    if stack:
        node.meta["nn_module_stack"] = stack
    return node


def _insert_per_channel(module: fx.GraphModule, source: fx.Node, quantizer: Quantizer, name: str) -> fx.Node:
    graph = module.graph
    scale = graph.get_attr(register(module, f"{name}.scale", quantizer.scale))
    zero = graph.get_attr(register(module, f"{name}.zero_point", quantizer.zero_point.to(torch.int32)))
    chain = [zero, scale]
    flat: fx.Node = source
    if quantizer.group:
        flat = graph.call_function(aten.reshape.default, (source, [-1, quantizer.group]))
        chain.append(flat)
    node = graph.call_function(PER_CHANNEL, (flat, scale, zero, quantizer.axis or 0, quantizer.low, quantizer.high))
    chain.append(node)
    if quantizer.group:
        shape = list(_tensor(module, source).shape)
        chain.append(graph.call_function(aten.reshape.default, (node, shape)))
    for first, second in itertools.pairwise(chain):
        first.append(second)
    return chain[-1]


def insert_dynamic(module: fx.GraphModule, source: fx.Node, low: int = 0, high: int = 255) -> fx.Node:
    """Put after `source` a node that rounds it to a grid over its own range, which includes 0, as ONNX's DynamicQuantizeLinear does."""
    graph = module.graph
    steps: list[tuple[Any, tuple[Any, ...]]] = [
        (aten.amin.default, (source,)),
        (aten.clamp_max.default, (0, 0.0)),
        (aten.amax.default, (source,)),
        (aten.clamp_min.default, (2, 0.0)),
        (aten.sub.Tensor, (3, 1)),
        (aten.div.Tensor, (4, float(high - low))),
        (aten.clamp_min.default, (5, _SMALLEST)),
        (aten.div.Tensor, (1, 6)),
        (aten.neg.default, (7,)),
        (aten.round.default, (8,)),
        (aten.reshape.default, (9, [1])),
        (aten.reshape.default, (6, [1])),
        (LEARNED_TENSOR, (source, 11, 10, low, high, 0.0)),
    ]
    made: list[fx.Node] = []
    last = source
    for target, arguments in steps:
        with graph.inserting_after(last):
            first = made[arguments[0]] if isinstance(arguments[0], int) else arguments[0]
            rest = [made[a] if isinstance(a, int) and _refers(target, i) else a for i, a in enumerate(arguments[1:], 1)]
            last = graph.call_function(target, (first, *rest))
        made.append(last)
    return last


def _refers(target: Any, position: int) -> bool:
    """Return whether an argument in the table of `insert_dynamic` is the number of an earlier node."""
    two = target in (aten.sub.Tensor, LEARNED_TENSOR) and position <= 2
    return two or (target is aten.div.Tensor and position == 1)


def register(module: fx.GraphModule, name: str, value: Tensor, trainable: bool = False) -> str:
    """Keep a tensor under `quantizers.NAME`; returns its full name."""
    owner: nn.Module = module
    *path, leaf = f"{PREFIX}.{name}".split(".")
    for part in path:
        if part not in owner._modules:
            owner.add_module(part, nn.Module())
        owner = owner.get_submodule(part)
    owner._buffers.pop(leaf, None)
    owner._parameters.pop(leaf, None)
    if trainable:
        owner.register_parameter(leaf, nn.Parameter(value.detach().clone()))
    else:
        owner.register_buffer(leaf, value.detach().clone())
    return ".".join([*path, leaf])


def _tensor(module: nn.Module, node: Any) -> Tensor:
    owner, _, leaf = str(node.target).rpartition(".")
    value = getattr(module.get_submodule(owner), leaf)
    assert isinstance(value, Tensor)
    return value
