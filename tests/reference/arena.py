"""Memory of a graph by brute force: the program is run, buffers are handed out and taken back as in a heap, and small sets are laid out in every order."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import torch
from torch import Tensor, fx

from laconic.core.arena import Buffer
from laconic.core.program import Program

OVERWRITES = ("relu", "add", "mul", "sub", "hardswish", "sigmoid", "tanh", "batch_norm", "hardtanh", "gelu", "silu")


def most_alive(program: Program, inputs: Sequence[Tensor]) -> int:
    """Return the most bytes that are held at once when the float graph runs: real tensors, each freed as soon as no later operator reads its memory."""
    values: dict[fx.Node, Any] = {}

    class Run(fx.Interpreter):
        def run_node(self, n: fx.Node) -> Any:
            values[n] = super().run_node(n)
            return values[n]

    with torch.no_grad():
        Run(program.graph_module).run(*inputs)
    nodes = list(program.graph.nodes)
    weights = {t.untyped_storage().data_ptr() for t in (*program.parameters(), *program.buffers())}

    def memory(node: fx.Node) -> dict[int, int]:
        parts = values[node] if isinstance(values[node], (tuple, list)) else [values[node]]
        tensors = [t for t in parts if isinstance(t, Tensor) and t.untyped_storage().data_ptr() not in weights]
        return {} if node.op == "get_attr" else {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}

    held: dict[int, int] = {}  # bytes by address
    given = {address for node in nodes if node.op == "placeholder" for address in memory(node)}
    for node in nodes:
        if node.op == "placeholder":
            held |= memory(node)
    most = sum(held.values())
    for i, node in enumerate(nodes):
        if node.op != "call_function":
            continue
        later = {address for other in nodes[i + 1 :] for source in other.all_input_nodes for address in memory(source)}
        new = {address: size for address, size in memory(node).items() if address not in held}
        if any(node.target.__name__.startswith(name) for name in OVERWRITES):
            for size in new.values():  # it takes the place of an input that nobody reads any more
                spare = [a for s in node.all_input_nodes for a in memory(s) if a in held and a not in later | given and held[a] == size]
                if spare:
                    del held[spare[0]]
        held |= new
        most = max(most, sum(held.values()))
        held = {address: size for address, size in held.items() if address in later}
    return most


def alive_in_onnx_runtime(file: Path, x: np.ndarray) -> int:
    """Return the most bytes of the values of the graph that ONNX Runtime made of a file, each alive from its operator to its last reader; of one input."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath, options.log_severity_level = str(file.with_suffix(".fused.onnx")), 3
    ort.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    model = onnx.load(options.optimized_model_filepath)
    nodes, outputs = list(model.graph.node), [one.name for one in model.graph.output]
    made = [name for node in nodes for name in node.output if name]
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in made if name not in outputs)
    plain = ort.SessionOptions()
    plain.graph_optimization_level, plain.log_severity_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL, 3
    session = ort.InferenceSession(model.SerializeToString(), plain, providers=["CPUExecutionProvider"])
    given = session.get_inputs()[0].name
    values = dict(zip([one.name for one in session.get_outputs()], session.run(None, {given: x}), strict=True)) | {given: x}
    known = {one.name for one in model.graph.initializer}
    most, written = 0, {given}
    for i, node in enumerate(nodes):
        needed = {name for later in nodes[i:] for name in later.input} | {*outputs, *node.output}
        written |= set(node.output)
        alive = [name for name in written & needed - known if name and not _is_renamed(name, nodes, i)]
        most = max(most, sum(values[name].nbytes for name in alive))
    return most


def _is_renamed(name: str, nodes: Sequence[Any], step: int) -> bool:
    """Return whether a value is the input of a reshape that shares its memory and is counted under the other name."""
    return any(node.op_type in ("Reshape", "Flatten") and node.input[0] == name for node in nodes[: step + 1])


def smallest_arena(buffers: Sequence[Buffer]) -> int:
    """Return the smallest arena over all orders in which buffers are put in, each at the lowest place that is free."""
    return min((_height(order) for order in itertools.permutations(buffers)), default=0)


def _height(order: Sequence[Buffer]) -> int:
    placed: list[tuple[int, Buffer]] = []
    for one in order:
        beside = [(offset, other) for offset, other in placed if other.first <= one.last and one.first <= other.last]
        for place in sorted({0, *(offset + other.size_bytes for offset, other in beside)}):
            if all(place + one.size_bytes <= offset or offset + other.size_bytes <= place for offset, other in beside):
                placed.append((place, one))
                break
    return max(offset + one.size_bytes for offset, one in placed)
