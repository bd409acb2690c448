"""Memory of a graph by brute force: the program is run, buffers are handed out and taken back as in a heap, and small sets are laid out in every order."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

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
