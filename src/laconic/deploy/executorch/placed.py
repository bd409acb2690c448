"""Quantize/dequantize pairs as XNNPACK takes them: signed codes, and a dequantize for each reader."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from laconic.core.graph import clean
from laconic.core.program import Program

qd = torch.ops.quantized_decomposed
_PAIR = (qd.quantize_per_tensor.default, qd.dequantize_per_tensor.default)
_HALF = 128  # what lies between a code of u8 and the one of s8 that stands for the same number


def signed(program: Program) -> Program:
    """Return a lowered program with signed codes for activations: u8 with a zero point, moved by 128, is the same grid.

    XNNPACK's partitioner asks that an operator's output has one reader and that each operator has a dequantize of its own.
    """
    for node in list(program.graph.nodes):
        if node.target in _PAIR and node.args[-1] == torch.uint8:
            source, scale, zero, low, high, _ = node.args
            node.args = (source, scale, zero - _HALF, low - _HALF, high - _HALF, torch.int8)
    for node in list(program.graph.nodes):
        if node.target is qd.dequantize_per_tensor.default and len(node.users) > 1:
            _one_each(program.graph, node)
    program.recompile()
    return clean(program)


def _one_each(graph: fx.Graph, node: fx.Node) -> None:
    for reader in list(node.users)[1:]:
        with graph.inserting_after(node):
            twin: Any = graph.call_function(node.target, node.args, node.kwargs)  # type: ignore[arg-type]
        twin.meta = dict(node.meta)
        reader.replace_input_with(node, twin)
