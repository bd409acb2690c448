"""The rule of recurrent layers in one operator."""

from __future__ import annotations

from typing import Any

import numpy as np

from laconic.core.operators import argument, names_of, plain_name
from laconic.pruning.rules.table import Node, keep_whole, rule
from laconic.pruning.trace import Dim, Tracer, Value, is_ids, where


@rule(*(f"{name}.input" for name in names_of("recurrent")))
def recurrent(t: Tracer, node: Node) -> Any:
    """x (…, I), states (layers · directions, B, H), weights of each layer and direction: (G·H, I), (G·H, H), two biases (G·H), with projection (P, H).

    One operator has one hidden size, so the same unit goes in all layers and directions. Gates are stacked: unit j has rows j, H + j, …
    """
    x, states, weights = node.args[:3]
    biased, layers, both = bool(argument(node, 3)), int(argument(node, 4)), bool(argument(node, 7))
    gates = {"lstm": 4, "gru": 3}.get(plain_name(node), 1)
    directions = 2 if both else 1
    states = states if isinstance(states, (list, tuple)) else [states]
    each = len(weights) // (layers * directions)
    projected = each - 2 * biased == 3
    hidden_size = t.length(weights[1], 0) // gates
    hidden = t.fresh(hidden_size)
    shown = t.fresh(t.length(weights[each - 1], 0)) if projected else hidden
    if projected:  # PyTorch tells a projection by its size, which must stay below the hidden one
        t.freeze(hidden, f"{where(node)} has a projection")

    value = t.value(x)
    for place in range(layers * directions):
        w_ih, w_hh, *rest = weights[place * each : (place + 1) * each]
        t.tie(w_ih, 0, _stacked(hidden, gates), "out", node)
        if place < directions:
            t.consume(w_ih, 1, x, len(value) - 1, node)
        else:
            t.tie(w_ih, 1, _stacked(shown, directions), "in", node)
        t.tie(w_hh, 0, _stacked(hidden, gates), "out", node)
        t.tie(w_hh, 1, shown, "in", node)
        for bias in rest[: 2 * biased]:
            t.tie(bias, 0, _stacked(hidden, gates), "bias", node)
        if projected:
            t.tie(rest[-1], 0, shown, "out", node)
            t.tie(rest[-1], 1, hidden, "in", node)
    last: list[Value] = []
    for state, dim in zip(states, (shown, hidden), strict=False):
        given = t.value(state)
        t.pair(given[-1], dim, node)
        for other in given[:-1]:  # layers and directions
            keep_whole(t, other, node)
        last.append((*t.blank(node, len(last) + 1)[:-1], dim))
    return [(*value[:-1], _stacked(shown, directions)), *last]


def _stacked(dim: Dim, times: int) -> Dim:
    return ((dim[0][0] * times, np.tile(dim[0][1], times) if is_ids(dim[0][1]) else None),)


_GATES = {"lstm_cell": 4, "gru_cell": 3}


@rule("lstm_cell", "gru_cell", "rnn_tanh_cell", "rnn_relu_cell")
def cell(t: Tracer, node: Node) -> Any:
    """Couple one step of a recurrent layer: x (B, I), states (B, H), weights (G·H, I) and (G·H, H), two biases (G·H)."""
    x, states, w_ih, w_hh = node.args[:4]
    states = states if isinstance(states, (list, tuple)) else [states]
    gates = _GATES.get(plain_name(node), 1)
    hidden = t.fresh(t.length(w_ih, 0) // gates)
    t.tie(w_ih, 0, _stacked(hidden, gates), "out", node)
    t.consume(w_ih, 1, x, len(t.value(x)) - 1, node)
    t.tie(w_hh, 0, _stacked(hidden, gates), "out", node)
    t.tie(w_hh, 1, hidden, "in", node)
    for position in (4, 5):
        t.tie(argument(node, position), 0, _stacked(hidden, gates), "bias", node)
    for state in states:
        t.pair(t.value(state)[-1], hidden, node)
    result = (*t.value(x)[:-1], hidden)
    return [result] * len(states) if isinstance(node.meta["val"], (tuple, list)) else result
