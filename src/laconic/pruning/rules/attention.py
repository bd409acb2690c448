"""The rule of attention in one operator."""

from __future__ import annotations

import numpy as np

from laconic.core.operators import argument, names_of, set_argument
from laconic.pruning.rules.table import Node, broadcast, keep_whole, masked_inputs, rule
from laconic.pruning.surgeon import Surgeon
from laconic.pruning.trace import Dim, Tracer, Value, is_ids, size_of


def _scaled(s: Surgeon, old: Node, new: Node) -> None:
    """Leave the scale of attention as it was when indices of the head size go."""
    size = s.value(old.args[0])[-1]
    if s.changed(size) and argument(old, 6) is None:
        set_argument(new, 6, float(size_of(size)) ** -0.5)


@rule(*names_of("attention"), edit=_scaled, mask=masked_inputs)
def attention(t: Tracer, node: Node) -> Value:
    """Couple attention: q (…, N, L, D), k (…, M, S, D), v (…, M, S, E), mask (…, N, L, S). With grouped queries N is a multiple of M."""
    q, k, v = (t.value(value) for value in node.args[:3])
    t.pair(q[-1], k[-1], node)
    heads = [dims[-3] for dims in (q, k, v)] if len(q) > 2 else []
    if heads and size_of(heads[0]) != size_of(heads[1]):
        heads[1:] = [_repeated(dim, size_of(heads[0]) // size_of(dim)) for dim in heads[1:]]
    lead = broadcast(t, [(*dims[:-3], head) for dims, head in zip((q, k, v), heads, strict=True)], node) if heads else ()
    mask = argument(node, 3)
    for dim in (k[-2], v[-2]):
        keep_whole(t, dim, node)
    if t.is_tensor(mask):
        *given, rows, columns = t.value(mask)
        keep_whole(t, columns, node)
        broadcast(t, [(q[-2],), (rows,)], node)
        lead = broadcast(t, [lead, tuple(given)], node)
    return (*lead, q[-2], v[-1])


def _repeated(dim: Dim, times: int) -> Dim:
    return tuple((size * times, np.repeat(ids, times)) if is_ids(ids) else (size * times, ids) for size, ids in dim)
