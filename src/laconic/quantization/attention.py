"""Attention taken apart into two matrix products and a softmax, so that the products can be computed in integers."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import fx

from laconic.core.graph import shapes
from laconic.core.operators import argument, family_of
from laconic.core.program import Program, aten


def decompose_attention(program: Program) -> int:
    """Rewrite, in place, each `scaled_dot_product_attention(q, k, v, mask)` as `softmax(q · kᵀ · scale + mask) · v`; returns how many.

    Causal ones, ones with dropout and ones with fewer key heads than query heads stay whole. Rows that a boolean mask closes entirely
    become the mean of v, where the operator gives 0: a row that attends to nothing has no meaning.
    """
    nodes = [
        n for n in program.graph.nodes if family_of(n) == "attention" and not argument(n, 4) and not argument(n, 5) and not argument(n, 7)
    ]
    if not nodes:
        return 0
    values = shapes(program)
    masks: dict[fx.Node, fx.Node] = {}
    for node in nodes:
        mask: Any = argument(node, 3)
        if mask is not None and values[mask].dtype is torch.bool:
            # one additive mask serves all layers that share the boolean one
            if mask not in masks:
                masks[mask] = _additive(program.graph, mask)
            mask = masks[mask]
        values[_rewrite(program.graph, node, mask, values[node.args[0]].shape[-1])] = values[node]
    program.graph.eliminate_dead_code()
    program.recompile()
    return len(nodes)


def _additive(graph: fx.Graph, mask: fx.Node) -> fx.Node:
    """Turn a boolean mask (True: may look) into one that is added to the scores."""
    last = mask
    for target, arguments in ((aten.logical_not.default, ()), (aten.to.dtype, (torch.float32,)), (aten.mul.Tensor, (_CLOSED,))):
        with graph.inserting_after(last):
            last = graph.call_function(target, (last, *arguments))
    return last


# Added to the score of a pair that may not look at each other: exp of it is 0, and sums of it stay finite.
_CLOSED = -1e30


def _rewrite(graph: fx.Graph, node: fx.Node, mask: Any, head: int) -> fx.Node:
    query, key, value = (node.args[i] for i in range(3))
    scale = argument(node, 6)
    factor = float(scale) if scale is not None else 1 / math.sqrt(head)
    with graph.inserting_before(node):
        turned = graph.call_function(aten.transpose.int, (key, -2, -1))
        scores = graph.call_function(aten.matmul.default, (query, turned))
        last = graph.call_function(aten.mul.Tensor, (scores, factor))
        if mask is not None:
            last = graph.call_function(aten.add.Tensor, (last, mask))
        weights = graph.call_function(aten.softmax.int, (last, -1))
        result = graph.call_function(aten.matmul.default, (weights, value))
    for made in (turned, scores, last, weights, result):
        made.meta["nn_module_stack"] = node.meta.get("nn_module_stack", {})
    node.replace_all_uses_with(result)
    graph.erase_node(node)
    return result
