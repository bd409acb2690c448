"""Which places of a layer's output the model's answers depend on: tokens behind a mask, or those that a pooling drops, are computed but never read.

What such places read must not weigh in the second moments. No name of an input tells them, gradients do: a place to which nothing flows back from a random
projection of the model's outputs moves none of them. A masked attention is exact in this: its weights of masked tokens are zeros, not small numbers.

Shapes: B batch; L places (steps, tokens) of one example; C channels.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree

from laconic.core.calibrate import Batch
from laconic.core.operators import family_of
from laconic.core.program import Program

Reached = Mapping[fx.Node, Sequence[Tensor]]


def reached(program: Program, layers: Sequence[fx.Node], batches: Sequence[Batch]) -> Reached:
    """Return for each linear layer over places, batch by batch, which of its places count: truth values (B·L,).

    Layers of one place per example are left out, and convolutions: of a map that is pooled, the places that lose may win once the layer is another.

    Args:
        program: in eval mode.
        layers: nodes of its graph.
        batches: its flat inputs.
    """
    found: dict[fx.Node, list[Tensor]] = {}
    watched = [node for node in layers if family_of(node) == "linear" and node.meta["val"].dim() > 2]
    for batch in batches if watched else ():
        with _without_parameters(program):
            runner = _Leaves(program.graph_module, watched)
            outputs = [leaf for leaf in pytree.tree_leaves(runner.run(*batch)) if isinstance(leaf, Tensor) and leaf.requires_grad]
            gradients = (
                torch.autograd.grad(_projection(outputs), [runner.seen[node] for node in watched], allow_unused=True) if outputs else ()
            )
        for node, gradient in zip(watched, gradients, strict=bool(outputs)):
            value = runner.seen[node]
            rows = torch.zeros_like(value) if gradient is None else gradient
            found.setdefault(node, []).append((rows != 0).any(-1).flatten())
    return {node: rows for node, rows in found.items() if all(bool(one.any()) for one in rows)}


def _projection(outputs: Sequence[Tensor]) -> Tensor:
    """Return one number that no direction of the outputs leaves alone, as their sum would be that of probabilities."""
    generator = torch.Generator().manual_seed(0)
    return torch.stack([(one.double() * torch.randn(one.shape, generator=generator).to(one.device)).sum() for one in outputs]).sum()


class _Leaves(fx.Interpreter):
    """Runs the graph and keeps what some nodes put out; gradients begin at the first of them."""

    def __init__(self, module: fx.GraphModule, nodes: Sequence[fx.Node]) -> None:
        super().__init__(module)
        self.nodes = set(nodes)
        self.seen: dict[fx.Node, Tensor] = {}

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        if n in self.nodes:
            if not result.requires_grad:
                result = result.detach().requires_grad_()
            self.seen[n] = result
            return result.clone()  # that an operator in place behind it changes another tensor
        return result


@contextmanager
def _without_parameters(program: Program) -> Iterator[None]:
    """Let gradients flow through values alone; given back as it was."""
    learning = [parameter for parameter in program.parameters() if parameter.requires_grad]
    try:
        for parameter in learning:
            parameter.requires_grad_(False)
        with torch.enable_grad():
            yield
    finally:
        for parameter in learning:
            parameter.requires_grad_(True)
