"""Integers in ncnn's files: codes in the place of weights, and the scales of weights and inputs behind the bias.

ncnn reads weights one after the other, each layer as many as it has (`Convolution::load_model` and its kin): weights, bias, scales of the weights, scale of
the input. A scale is the inverse of a step. Kernels round their input to signed codes around 0 and put out floats. Layers are found by their weights: pnnx
names them anew, and what it changed is refused rather than guessed.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from laconic.core.errors import ExportError
from laconic.core.fake_quant import Quantizer, fake_quants, quantizer_of, weight_of
from laconic.core.folding import fold_batch_norm
from laconic.core.graph import clean, get_tensor, module_path
from laconic.core.integer_bias import bound_steps, integer_layers, round_biases
from laconic.core.operators import argument, family_of, operator_of
from laconic.core.program import Program
from laconic.deploy.ncnn.param import Graph, Layer

# what stands before weights of each kind
_FLOATS, _HALVES, _CODES = (number.to_bytes(4, "little") for number in (0, 0x01306B47, 0x000D4B38))
_SCALES = 8  # the option that says how the scales of a layer are stored
# How many scales a kind of layer has: 1: one for each group, 2: one for each output channel.
_KINDS = {"Convolution": 2, "ConvolutionDepthWise": 1, "InnerProduct": 2}
_WEIGHTS = {"Convolution": 6, "ConvolutionDepthWise": 6, "InnerProduct": 2}  # the option that counts a layer's weights


@dataclass(frozen=True)
class Rounded:
    """A layer that computes in integers: weights as the float graph has them, their codes, steps, and the step of its input."""

    name: str
    weight: np.ndarray
    codes: np.ndarray
    steps: np.ndarray
    input_step: float
    bias: int


def taken_apart(program: Program) -> tuple[Program, list[Rounded]]:
    """Return a copy in floats and what it is to compute in integers; the program itself where it rounds nothing.

    Raises:
        ExportError: it rounds what ncnn does not; names it.
    """
    if not any(True for _ in fake_quants(program.graph)):
        return program, []
    trained = any(family_of(node) == "batch norm" for node in program.graph.nodes)
    plain = fold_batch_norm(program)[0] if trained else copy.deepcopy(program)
    bound_steps(plain)
    round_biases(plain)
    layers = list(integer_layers(plain))
    read = {node for layer in layers for node in (layer.input, layer.weight)}
    for node in fake_quants(plain.graph):
        if node not in read:
            raise ExportError(f"ncnn does not round {node.args[0]}: quantize for the target 'ncnn', which rounds what it computes with")
    rounded = [_rounded(plain, layer.node, quantizer_of(plain.graph_module, layer.input), layer.weight) for layer in layers]
    for node in list(fake_quants(plain.graph)):
        node.replace_all_uses_with(node.args[0])  # type: ignore[arg-type]
        plain.graph.erase_node(node)
    plain.recompile()
    return clean(plain), rounded


def _rounded(program: Program, node: torch.fx.Node, grid: Quantizer, weight: torch.fx.Node) -> Rounded:
    name, own = module_path(node) or node.name, quantizer_of(program.graph_module, weight)
    if int(grid.zero_point) or grid.low >= 0 or own.group or bool(own.zero_point.any()):
        raise ExportError(f"{name}: ncnn rounds to signed codes around 0. Quantize for the target 'ncnn'")
    source, row = weight_of(weight), operator_of(node)
    assert source is not None
    assert row is not None
    value = get_tensor(program, source).detach()
    steps = own.scale.expand(value.shape[0]) if own.axis is None else own.scale
    bias = argument(node, row.bias)
    floats = np.ascontiguousarray(value.numpy(), np.float32)
    return Rounded(
        name, floats, own.codes(value).numpy().astype(np.int8), steps.numpy(), float(grid.scale), 0 if bias is None else value.shape[0]
    )


def put_in(param: Path, weights: bytes, rounded: Sequence[Rounded]) -> tuple[str, bytes]:
    """Return the graph's text and the weights, with integers where `rounded` says.

    Raises:
        ExportError: a layer whose weights are not there as they were; names it.
    """
    graph = Graph.read(param)
    if not rounded:
        return graph.text(), weights
    layers, pieces, at = list(graph.layers), [], 0
    waiting = list(rounded)
    candidates = [index for index, layer in enumerate(layers) if layer.kind in _KINDS]
    for index in candidates:
        found = [
            (start, one, len(block))
            for one in waiting
            if _counts(layers[index], one)
            for block in _stored(one.weight)
            if (start := weights.find(block, at)) >= 0
        ]
        if not found:
            continue
        start, one, length = min(found, key=lambda triple: triple[0])
        end = start + length
        bias_end = end + 4 * one.bias
        pieces += [weights[at:start], _codes(one), weights[end:bias_end], _inverse(one.steps), _inverse(np.array([one.input_step]))]
        layers[index] = layers[index].with_option(_SCALES, _KINDS[layers[index].kind])
        waiting.remove(one)
        at = bias_end
    if waiting:
        raise ExportError(
            f"ncnn's converter changed the weights of {waiting[0].name}, so its integers have no place. Keep it in floats: Quantize(keep=…)"
        )
    return Graph(tuple(layers)).text(), b"".join([*pieces, weights[at:]])


def _counts(layer: Layer, one: Rounded) -> bool:
    """Return whether a layer has as many weights, and a bias where this one has."""
    has_bias = layer.option(1 if layer.kind == "InnerProduct" else 5)
    return layer.option(_WEIGHTS[layer.kind]) == one.weight.size and layer.option(0) == len(one.steps) and bool(has_bias) == bool(one.bias)


def _codes(one: Rounded) -> bytes:
    return _CODES + _padded(one.codes.tobytes())


def _stored(weight: np.ndarray) -> Iterator[bytes]:
    """Yield how the converter may have stored a layer's weights: in 32 bits, or in 16."""
    yield _FLOATS + weight.tobytes()
    yield _HALVES + _padded(halves(weight).tobytes())


def halves(weight: np.ndarray) -> np.ndarray:
    """Return numbers as the converter rounds them, whose bits are looked for: to the nearest, halves away from 0, and 0 below 2⁻¹⁴."""
    bits = weight.view(np.uint32)
    size = bits & 0x7FFFFFFF
    found = ((size + 0x1000) >> 13) - np.uint32(112 << 10)
    return (np.where(size < np.uint32(113 << 23), 0, found) | (bits >> 16 & 0x8000)).astype("<u2").view("<f2")


def _padded(content: bytes) -> bytes:
    return content + bytes(-len(content) % 4)


def _inverse(steps: np.ndarray) -> bytes:
    return (1.0 / steps.astype(np.float64)).astype("<f4").tobytes()
