"""The table of operators: what each does to the ids of its inputs' dimensions.

A rule takes the tracer and a node and returns the node's value: one `Dim` for each dimension, or a list of values where there are several outputs. An operator
without a row freezes what it touches, and the report names it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Container, Sequence
from functools import wraps
from typing import Any

import numpy as np
from torch import fx

from laconic.core.operators import argument, names_of
from laconic.pruning.coupling import DYNAMIC, Dim, Factor, Tracer, Value, carries, is_ids, operator, plain, size_of, where

Node = Any  # an fx.Node, whose arguments are of every type
Rule = Callable[[Tracer, Node], Any]
RULES: dict[str, Rule] = {}


def rule(*names: str) -> Callable[[Rule], Rule]:
    """Put a function into the table under these operators' names, with an overload (`max.dim`) where it matters."""

    def enter(function: Rule) -> Rule:
        for name in names:
            assert name not in RULES, name
            RULES[name] = function
        return function

    return enter


def numbers(*positions: int) -> Callable[[Rule], Rule]:
    """Let a rule see an operator only where its arguments at these positions are numbers; computed sizes are for no rule that reads them."""

    def guard(function: Rule) -> Rule:
        @wraps(function)
        def guarded(t: Tracer, node: Node) -> Any:
            given = [argument(node, i) for i in positions if i < len(node.target._schema.arguments)]
            flat = [item for value in given for item in (value if isinstance(value, (list, tuple)) else (value,))]
            return no_rule(t, node) if any(isinstance(item, fx.Node) for item in flat) else function(t, node)

        return guarded

    return guard


def no_rule(t: Tracer, node: Node) -> Any:
    """Freeze all that an unknown operator reads."""
    t.unknown.append(node)
    for value in node.all_input_nodes:
        _freeze_all(t, value, f"operator {operator(node)} has no rule")
    return [t.blank(node, i) for i in range(len(node.meta["val"]))] if isinstance(node.meta["val"], (tuple, list)) else t.blank(node)


def _freeze_all(t: Tracer, node: Node, cause: str) -> None:
    if t.is_tensor(node):
        for dim in t.value(node):
            t.freeze(dim, cause)


def _axis(node: Node, position: int, rank: int) -> int:
    return int(argument(node, position)) % rank


def _axes(given: Any, rank: int) -> list[int]:
    if given is None or given == []:
        return list(range(rank))
    return [int(i) % rank for i in (given if isinstance(given, (list, tuple)) else [given])]


def _stuck(t: Tracer, dim: Dim, node: Node) -> None:
    """Numbers along this dimension cannot be removed one by one."""
    if carries(dim):
        t.freeze(dim, f"{operator(node)} works along it ({where(node)})")


# Elementwise ------------------------------------------------------------------------------------------------------------------------------


def broadcast(t: Tracer, values: Sequence[Value], node: Node) -> Value:
    """Dimensions that meet, aligned at the last."""
    if len(values) == 1:
        return values[0]
    rank = max(len(value) for value in values)
    out: list[Dim] = []
    for i in range(rank):
        meeting = [value[i - rank + len(value)] for value in values if i - rank + len(value) >= 0]
        wide = [dim for dim in meeting if size_of(dim) != 1 or any(ids is DYNAMIC for _, ids in dim)]
        found, *others = wide or meeting
        for other in others:
            found = t.pair(found, other, node)
        if wide:  # a single index that is copied cannot go
            for dim in meeting:
                if size_of(dim) == 1 and dim is not found:
                    t.freeze(dim, f"copied along another dimension in {where(node)}")
        out.append(found)
    return tuple(out)


_ELEMENTWISE = """
add sub rsub mul div pow maximum minimum max.other min.other where masked_fill lerp addcmul eq ne lt le gt ge __and__ __or__ logical_and logical_or
bitwise_and bitwise_or atan2 fmod remainder floor_divide logaddexp xlogy clamp.Tensor addcdiv logical_xor bitwise_xor copysign hypot relu relu6 gelu
silu sigmoid tanh hardswish hardsigmoid hardtanh leaky_relu elu selu celu softplus mish exp exp2 log log1p log2 expm1 sqrt rsqrt abs neg reciprocal
cos sin tan erf floor ceil round sign clamp clamp_min clamp_max square logical_not bitwise_not isnan isinf clone
contiguous alias detach to lift_fresh_copy _to_copy trunc nan_to_num logsigmoid log_sigmoid softsign hardshrink softshrink threshold sinh cosh asin
acos atan zeros_like ones_like full_like rand_like randn_like empty_like fill _assert_tensor_metadata special_erf special_expit atanh asinh
acosh frac sgn positive logit isfinite
""".split()  # noqa: SIM905 - words read better in a paragraph than one a line


@rule(*_ELEMENTWISE, *names_of("dropout", "random activation"))
def elementwise(t: Tracer, node: Node) -> Value:
    """Operators that compute each number from the numbers at its place."""
    values = [t.value(value) for value in (*node.args, *node.kwargs.values()) if isinstance(value, fx.Node) and t.is_tensor(value)]
    return broadcast(t, values, node) if values else t.blank(node)


@rule("type_as")
def like_first(t: Tracer, node: Node) -> Value:
    """The first input's shape; the others give a type."""
    return t.value(node.args[0])


@rule("copy")
def copied(t: Tracer, node: Node) -> Value:
    """The second is written into the first."""
    return broadcast(t, [t.value(value) for value in node.args[:2]], node)


@rule("triu", "tril")
def triangle(t: Tracer, node: Node) -> Value:
    """What is there depends on the place in the last two dimensions."""
    value = t.value(node.args[0])
    for dim in value[-2:]:
        _stuck(t, dim, node)
    return value


@rule("prelu")
def prelu(t: Tracer, node: Node) -> Value:
    """Weights along the channels, or one for all."""
    x, weight = node.args
    value = t.value(x)
    if t.length(weight, 0) > 1:
        t.tie(weight, 0, value[1], "norm", node)
    return value


@rule("softmax", "_softmax", "log_softmax", "_log_softmax", "cumsum", "cumprod", "logcumsumexp", "_safe_softmax")
def along(t: Tracer, node: Node) -> Value:
    """Operators along one dimension, in which all numbers matter to each other."""
    value = t.value(node.args[0])
    _stuck(t, value[_axis(node, 1, len(value))], node)
    return value


@rule("sort", "topk", "kthvalue", "median.dim", "mode", "cummax", "cummin")
def ordered(t: Tracer, node: Node) -> Any:
    """Operators along one dimension with two outputs."""
    _freeze_all(t, node.args[0], f"{operator(node)} orders it")
    return [t.blank(node, i) for i in range(len(node.meta["val"]))]


@rule("roll")
def roll(t: Tracer, node: Node) -> Value:
    """Rolled dimensions stay whole."""
    value = t.value(node.args[0])
    for i in _axes(argument(node, 2), len(value)):
        _stuck(t, value[i], node)
    return value


@rule("flip")
def flip(t: Tracer, node: Node) -> Value:
    """Ids in the other order."""
    value = list(t.value(node.args[0]))
    for i in _axes(node.args[1], len(value)):
        ids = t.flat(value[i], node)
        if ids is not None:
            value[i] = ((len(ids), ids[::-1].copy()),)
    return tuple(value)


# Layers with weights ----------------------------------------------------------------------------------------------------------------------


@rule("linear")
def linear(t: Tracer, node: Node) -> Value:
    """x (…, I), weight (O, I), bias (O)."""
    x, weight = node.args[:2]
    value = t.value(x)
    t.consume(weight, 1, x, len(value) - 1, node)
    out = t.make(weight, 0)
    t.tie(argument(node, 2), 0, out, "bias", node)
    return (*value[:-1], out)


@rule("bilinear")
def bilinear(t: Tracer, node: Node) -> Value:
    """x (…, I), y (…, J), weight (O, I, J)."""
    x, y, weight = node.args[:3]
    a, b = t.value(x), t.value(y)
    lead = broadcast(t, [a[:-1], b[:-1]], node) if len(a) > 1 else ()
    t.consume(weight, 1, x, len(a) - 1, node)
    t.consume(weight, 2, y, len(b) - 1, node)
    out = t.make(weight, 0)
    t.tie(argument(node, 3), 0, out, "bias", node)
    return (*lead, out)


@rule("matmul", "bmm", "mm", "mv", "dot")
def matmul(t: Tracer, node: Node) -> Value:
    """(…, M, K) times (…, K, N)."""
    return _product(t, node, node.args[0], node.args[1])


@rule("addmm", "baddbmm", "addbmm")
def addmm(t: Tracer, node: Node) -> Value:
    """A sum with a product."""
    added = node.args[0]
    product = _product(t, node, node.args[1], node.args[2])
    if t.rank(added) == 1 and t.length(added, 0) > 1:
        t.tie(added, 0, product[-1], "bias", node)
        return product
    return broadcast(t, [product, t.value(added)], node)


def _product(t: Tracer, node: Node, left: Any, right: Any) -> Value:
    a = t.value(left)
    rank = t.rank(right)
    inner = max(rank - 2, 0)
    if right.op == "get_attr":  # a weight (K, N), as in addmm
        t.consume(right, inner, left, len(a) - 1, node)
        b = tuple(t.make(right, i) if i != inner else a[-1] for i in range(rank))
    else:
        b = t.value(right)
        t.pair(a[-1], b[inner], node)
    lead = broadcast(t, [a[:-2], b[:-2]], node) if len(a) > 2 or rank > 2 else ()
    return (*lead, *(a[-2:-1] if len(a) > 1 else ()), *(b[-1:] if rank > 1 else ()))


@rule("einsum")
def einsum(t: Tracer, node: Node) -> Value:
    """Equal letters are equal dimensions."""
    equation, operands = str(node.args[0]).replace(" ", ""), node.args[1]
    left, _, right = equation.partition("->")
    if "..." in equation or not right:
        return no_rule(t, node)
    found: dict[str, Dim] = {}
    for letters, operand in zip(left.split(","), operands, strict=True):
        for letter, dim in zip(letters, t.value(operand), strict=True):
            found[letter] = t.pair(found[letter], dim, node) if letter in found else dim
    return tuple(found[letter] for letter in right)


@rule("conv1d", "conv2d", "conv3d", "convolution", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d")
def convolution(t: Tracer, node: Node) -> Value:
    """x (B, I, …), weight (O, I/G, …), bias (O); transposed, the weight is (I, O/G, …)."""
    name = operator(node)
    transpose = name.startswith("conv_transpose") or (name == "convolution" and bool(argument(node, 6)))
    x, weight = node.args[:2]
    value = t.value(x)
    groups = argument(node, 8 if name == "convolution" else 6)
    if not isinstance(groups, int):
        return no_rule(t, node)
    channel = len(value) - t.rank(weight) + 1
    if groups == 1:
        t.consume(weight, 0 if transpose else 1, x, channel, node)
        out = t.make(weight, 1 if transpose else 0)
    else:
        out = _grouped(t, node, x, channel, weight, groups, transpose)
    t.tie(argument(node, 2), 0, out, "bias", node)
    t.fix(weight, range(2, t.rank(weight)), "kernel", node)
    for dim in value[channel + 1 :]:
        _stuck(t, dim, node)
    return (*value[:channel], out, *t.blank(node)[channel + 1 :])


def _grouped(t: Tracer, node: Node, x: Any, channel: int, weight: Any, groups: int, transpose: bool) -> Dim:
    """The output channels of a grouped convolution: whole groups go, or the same channels of every group (see `Policy`).

    Its weight has all channels of one side in dimension 0 and those of one group of the other side in dimension 1.
    """
    value = t.value(x)
    ids = t.flat(value[channel], node)
    outs = t.sizes(node)[channel][0]
    ins, outs_each = size_of(value[channel]) // groups, outs // groups  # of one group
    first, second = (ins, outs_each) if transpose else (outs_each, ins)
    parts = (plain(groups)[0],) * 2 if ids is None else t.split(ids, (groups, ins), 0 if t.policy.whole_groups(groups, ins) else 1)
    whole, inside = parts[0][1], parts[1][1]
    if is_ids(whole):
        t.tie(weight, 0, ((groups * first, _times(whole, first)),), "out", node)
        t.tie(weight, 1, plain(second), "in", node)
        return ((outs, _times(whole, outs_each)),)
    if not is_ids(inside):
        t.tie(weight, 0, plain(groups * first), "out", node)
        t.tie(weight, 1, plain(second), "in", node)
        return plain(outs)
    made = t.fresh(outs_each)[0][1]
    grown: Dim = ((outs, np.tile(made, groups) if is_ids(made) else None),)
    t.tie(weight, 0, ((groups * ins, np.tile(inside, groups)),) if transpose else grown, "in" if transpose else "out", node)
    t.tie(weight, 1, ((outs_each, made),) if transpose else ((ins, inside),), "out" if transpose else "in", node)
    return grown


def _times(ids: Any, copies: int) -> Any:
    """Each id so many times in a row; one time is the same array, by which it is known to be whole."""
    return ids if copies == 1 else np.repeat(ids, copies)


# Normalization ----------------------------------------------------------------------------------------------------------------------------


@rule("batch_norm", "instance_norm", "_native_batch_norm_legit_no_training", "cudnn_batch_norm")
def channel_norm(t: Tracer, node: Node) -> Value:
    """x (B, C, …), and up to four tensors of C numbers."""
    value = t.value(node.args[0])
    for tensor in node.args[1:5]:
        t.tie(tensor, 0, value[1], "norm", node)
    return value


@rule("_weight_norm")
def weight_norm(t: Tracer, node: Node) -> Value:
    """v times g over v's norm, for each index of a dimension."""
    value = t.value(node.args[0])
    axis = _axis(node, 2, len(value))
    t.tie(node.args[1], axis, value[axis], "norm", node)
    return value


@rule("layer_norm", "rms_norm", "native_layer_norm")
def last_norm(t: Tracer, node: Node) -> Any:
    """x (…, *shape), and up to two tensors of that shape."""
    value = t.value(node.args[0])
    shape: Any = node.args[1]
    for tensor in (argument(node, 2), argument(node, 3) if operator(node) != "rms_norm" else None):
        for i in range(len(shape)):
            t.tie(tensor, i, value[i - len(shape)], "norm", node)
    return [value, *(t.blank(node, i) for i in (1, 2))] if isinstance(node.meta["val"], tuple) else value


@rule("group_norm")
@numbers(1)
def group_norm(t: Tracer, node: Node) -> Value:
    """x (B, C, …): whole groups go, or the same channels of every group."""
    x, groups = node.args[:2]
    value = list(t.value(x))
    ids = t.flat(value[1], node)
    if ids is not None and groups != 1:
        size = len(ids) // int(groups)
        t.split(ids, (int(groups), size), 0 if t.policy.whole_groups(int(groups), size) else 1)
    for tensor in (argument(node, 2), argument(node, 3)):
        t.tie(tensor, 0, value[1], "norm", node)
    return tuple(value)


# Attention, recurrence, tables ------------------------------------------------------------------------------------------------------------


@rule("scaled_dot_product_attention")
def attention(t: Tracer, node: Node) -> Value:
    """q (…, N, L, D), k (…, M, S, D), v (…, M, S, E), mask (…, N, L, S). With grouped queries N is a multiple of M."""
    q, k, v = (t.value(value) for value in node.args[:3])
    t.pair(q[-1], k[-1], node)
    heads = [dims[-3] for dims in (q, k, v)] if len(q) > 2 else []
    if heads and size_of(heads[0]) != size_of(heads[1]):
        heads[1:] = [_repeated(dim, size_of(heads[0]) // size_of(dim)) for dim in heads[1:]]
    lead = broadcast(t, [(*dims[:-3], head) for dims, head in zip((q, k, v), heads, strict=True)], node) if heads else ()
    mask = argument(node, 3)
    for dim in (k[-2], v[-2]):
        _stuck(t, dim, node)
    if t.is_tensor(mask):
        *given, rows, columns = t.value(mask)
        _stuck(t, columns, node)
        broadcast(t, [(q[-2],), (rows,)], node)
        lead = broadcast(t, [lead, tuple(given)], node)
    return (*lead, q[-2], v[-1])


def _repeated(dim: Dim, times: int) -> Dim:
    return tuple((size * times, np.repeat(ids, times)) if is_ids(ids) else (size * times, ids) for size, ids in dim)


@rule("lstm.input", "gru.input", "rnn_tanh.input", "rnn_relu.input")
def recurrent(t: Tracer, node: Node) -> Any:
    """x (…, I), states (layers · directions, B, H), weights of each layer and direction: (G·H, I), (G·H, H), two biases (G·H), with projection (P, H).

    One operator has one hidden size, so the same unit goes in all layers and directions. Gates are stacked: unit j has rows j, H + j, …
    """
    x, states, weights = node.args[:3]
    biased, layers, both = bool(argument(node, 3)), int(argument(node, 4)), bool(argument(node, 7))
    gates = {"lstm": 4, "gru": 3}.get(operator(node), 1)
    directions = 2 if both else 1
    states = states if isinstance(states, (list, tuple)) else [states]
    each = len(weights) // (layers * directions)
    projected = each - 2 * biased == 3
    hidden_size = t.length(weights[1], 0) // gates
    hidden = t.fresh(hidden_size)
    shown = t.fresh(t.length(weights[each - 1], 0)) if projected else hidden
    if projected:  # PyTorch tells a projection by its size, which must stay below the hidden one
        t.freeze(hidden, f"{where(node)} has a projection")

    def stacked(dim: Dim, times: int) -> Dim:
        return ((dim[0][0] * times, np.tile(dim[0][1], times) if is_ids(dim[0][1]) else None),)

    value = t.value(x)
    for place in range(layers * directions):
        w_ih, w_hh, *rest = weights[place * each : (place + 1) * each]
        t.tie(w_ih, 0, stacked(hidden, gates), "out", node)
        if place < directions:
            t.consume(w_ih, 1, x, len(value) - 1, node)
        else:
            t.tie(w_ih, 1, stacked(shown, directions), "in", node)
        t.tie(w_hh, 0, stacked(hidden, gates), "out", node)
        t.tie(w_hh, 1, shown, "in", node)
        for bias in rest[: 2 * biased]:
            t.tie(bias, 0, stacked(hidden, gates), "bias", node)
        if projected:
            t.tie(rest[-1], 0, shown, "out", node)
            t.tie(rest[-1], 1, hidden, "in", node)
    last: list[Value] = []
    for state, dim in zip(states, (shown, hidden), strict=False):
        given = t.value(state)
        t.pair(given[-1], dim, node)
        for other in given[:-1]:  # layers and directions
            _stuck(t, other, node)
        last.append((*t.blank(node, len(last) + 1)[:-1], dim))
    return [(*value[:-1], stacked(shown, directions)), *last]


@rule("embedding")
def embedding(t: Tracer, node: Node) -> Value:
    """Rows of a table (V, E)."""
    table, index = node.args[:2]
    t.tie(table, 0, plain(t.length(table, 0)), "rows", node)
    return (*t.value(index), t.make(table, 1))


# Shapes -----------------------------------------------------------------------------------------------------------------------------------


def regroup(t: Tracer, dims: Value, sizes: Sequence[int], node: Node) -> Value | None:
    """Deal the factors of all dimensions out to dimensions of other sizes; None where they do not fit."""
    queue: list[Factor] = [factor for dim in dims for factor in dim if factor[0] != 1 or factor[1] is DYNAMIC]
    for single in (factor for dim in dims for factor in dim if factor[0] == 1 and is_ids(factor[1])):
        _stuck(t, (single,), node)
    out: list[Dim] = []
    sizes = list(sizes)
    for position, size in enumerate(sizes):
        need, got = size, []
        while need > 1 and queue:
            factor = queue.pop(0)
            if need % factor[0] == 0:
                got.append(factor)
                need //= factor[0]
            elif not got and (parts := _parts(sizes[position:], factor[0])):
                queue[:0] = _cut(t, factor, parts, node)
            elif factor[0] % need == 0:
                queue[:0] = _cut(t, factor, [need, factor[0] // need], node)
            else:
                return None
        if need > 1:
            return None
        out.append(tuple(got) or plain(1))
    return tuple(out) if not queue or all(size == 1 for size, _ in queue) else None


def _parts(sizes: list[int], whole: int) -> list[int] | None:
    """The first sizes, as many as make up `whole`."""
    found = list[int]()
    while sizes and math.prod(found) < whole:
        found.append(sizes[len(found)]) if len(found) < len(sizes) else sizes.clear()
    return found if math.prod(found) == whole else None


def _cut(t: Tracer, factor: Factor, sizes: list[int], node: Node) -> Dim:
    ids = factor[1]
    if not is_ids(ids):
        return tuple((part, ids) for part in sizes)
    if len(sizes) < 2:
        return (factor,)
    # in attention, what leaves a reshape is multiplied with another value before it reaches the next layer
    if not _reaches(node, _PRODUCTS, _LAYERS):
        axis = len(sizes) - 1  # the channels inside groups, as a channel shuffle has them
    elif t.policy.attention == "head_size":
        axis = len(sizes) - 1
    else:  # of queries, keys and values in one piece, (3, heads, size) or (3, heads · size), the heads
        axes: Sequence[int] = range(len(sizes) - 1)
        if _reaches(node, {"select", "unbind"}, _LAYERS | _PRODUCTS):
            axes = [i for i in axes if sizes[i] > 3] or [max(1, len(sizes) - 2)]
        axis = max(axes, key=lambda i: (sizes[i], i))
    return t.split(ids, sizes, axis)


_PRODUCTS = {"matmul", "bmm", "scaled_dot_product_attention", "einsum", "baddbmm"}
_LAYERS = {"linear", "conv1d", "conv2d", "conv3d", "addmm", "embedding", "lstm", "gru"}


def _reaches(node: Node, names: Container[str], ends: Container[str]) -> bool:
    """Whether what leaves a node meets one of these operators before one of `ends`."""
    seen, queue = {node}, [node]
    while queue:
        for user in queue.pop().users:
            name = operator(user)
            if name in names:
                return True
            if user not in seen and name not in ends:
                seen.add(user)
                queue.append(user)
    return False


@rule("view", "reshape", "_unsafe_view", "flatten", "unflatten", "reshape_as", "view_as", "ravel")
def reshape(t: Tracer, node: Node) -> Value:
    """The same numbers in another shape."""
    value = t.value(node.args[0])
    found = regroup(t, value, [size for size, _ in t.sizes(node)], node)
    if found is None:
        for dim in value:
            t.freeze(dim, f"{where(node)} mixes it with other dimensions")
        return t.blank(node)
    return tuple(plain(1, dynamic) if dim == plain(1) else dim for dim, (_, dynamic) in zip(found, t.sizes(node), strict=True))


@rule("permute")
def permute(t: Tracer, node: Node) -> Value:
    """Dimensions in another order."""
    value = t.value(node.args[0])
    return tuple(value[int(i)] for i in node.args[1])


@rule("transpose", "swapaxes", "swapdims")
def transpose(t: Tracer, node: Node) -> Value:
    """Two dimensions change places."""
    value = list(t.value(node.args[0]))
    i, j = (_axis(node, k, len(value)) for k in (1, 2))
    value[i], value[j] = value[j], value[i]
    return tuple(value)


@rule("t", "numpy_T", "mT")
def turned(t: Tracer, node: Node) -> Value:
    """The last two dimensions change places."""
    value = t.value(node.args[0])
    return (*value[:-2], *reversed(value[-2:]))


@rule("movedim")
def movedim(t: Tracer, node: Node) -> Value:
    """Dimensions go to other places."""
    value = t.value(node.args[0])
    source, target = (_axes(node.args[i], len(value)) for i in (1, 2))
    order = [i for i in range(len(value)) if i not in source]
    for to, come in sorted(zip(target, source, strict=True)):
        order.insert(to, come)
    return tuple(value[i] for i in order)


@rule("unsqueeze")
def unsqueeze(t: Tracer, node: Node) -> Value:
    """A new dimension of size 1."""
    value = list(t.value(node.args[0]))
    value.insert(_axis(node, 1, len(value) + 1), plain(1))
    return tuple(value)


@rule("squeeze")
def squeeze(t: Tracer, node: Node) -> Value:
    """Dimensions of size 1 go."""
    value = t.value(node.args[0])
    axes = _axes(node.args[1] if len(node.args) > 1 else None, len(value))
    for i in axes:
        if size_of(value[i]) == 1:
            _stuck(t, value[i], node)
    return tuple(dim for i, dim in enumerate(value) if i not in axes or size_of(dim) != 1)


@rule("expand", "expand_as", "broadcast_to")
def expand(t: Tracer, node: Node) -> Value:
    """Copies along dimensions of size 1, and along new ones, follow what they meet."""
    value, sizes = t.value(node.args[0]), t.sizes(node)
    value = (*[plain(1)] * (len(sizes) - len(value)), *value)
    if operator(node) == "expand_as":
        return broadcast(t, [value, t.value(node.args[1])], node)
    return tuple(_copied(t, dim, size, node) if size_of(dim) == 1 else dim for dim, size in zip(value, sizes, strict=True))


def _copied(t: Tracer, dim: Dim, size: tuple[int, bool], node: Node) -> Dim:
    """A dimension of size 1, copied: the copies may go, the one index may not."""
    t.freeze(dim, f"copied in {where(node)}")
    return _made(t, *size)


def _made(t: Tracer, size: int, dynamic: bool) -> Dim:
    return plain(size, True) if dynamic else t.fresh(size)


@rule("zeros", "ones", "full", "empty", "rand", "randn", "new_zeros", "new_ones", "new_full", "new_empty")
def constant(t: Tracer, node: Node) -> Value:
    """Numbers that are made in the graph, as many as wanted."""
    return tuple(_made(t, *size) for size in t.sizes(node))


@rule("arange", "scalar_tensor", "linspace", "eye", "tensor")
def counted(t: Tracer, node: Node) -> Value:
    """Numbers that depend on their place."""
    return t.blank(node)


@rule("repeat", "tile")
def repeat(t: Tracer, node: Node) -> Value:
    """(copies, dimension) in each dimension."""
    value, times, sizes = t.value(node.args[0]), list(node.args[1]), t.sizes(node)
    rank = len(sizes)
    value, times = (*[plain(1)] * (rank - len(value)), *value), [1] * (rank - len(times)) + times
    out = []
    for dim, copies, size in zip(value, times, sizes, strict=True):
        if size_of(dim) == 1:
            out.append(_copied(t, dim, size, node))
        else:
            out.append(dim if copies == 1 else ((size[0] // size_of(dim), None if isinstance(copies, int) else DYNAMIC), *dim))
    return tuple(out)


@rule("repeat_interleave.self_int")
@numbers(1)
def repeat_interleave(t: Tracer, node: Node) -> Value:
    """(dimension, copies)."""
    value = list(t.value(node.args[0]))
    if argument(node, 2) is None:
        value = [tuple(factor for dim in value for factor in dim)]
    axis = _axis(node, 2, len(value)) if len(value) > 1 else 0
    value[axis] = (*value[axis], (int(node.args[1]), None))
    return tuple(value)


@rule("cat", "concat", "concatenate")
def cat(t: Tracer, node: Node) -> Value:
    """One after the other along a dimension; the other dimensions meet."""
    values = [t.value(value) for value in node.args[0]]
    values = [value for value in values if size_of(value[0]) > 0 or len(value) > 1]
    axis = _axis(node, 1, len(values[0]))
    rest = broadcast(t, [(*value[:axis], plain(1), *value[axis + 1 :]) for value in values], node)
    parts = [value[axis] for value in values]
    if not any(carries(part) for part in parts):
        return (*rest[:axis], t.blank(node)[axis], *rest[axis + 1 :])
    found = [t.flat(part, node) for part in parts]
    if any(ids is DYNAMIC for part in parts for _, ids in part):
        for part in parts:
            t.freeze(part, f"concatenated with a dynamic dimension in {where(node)}")
        return (*rest[:axis], t.blank(node)[axis], *rest[axis + 1 :])
    whole = np.concatenate([t.stuck(size_of(part), node) if ids is None else ids for part, ids in zip(parts, found, strict=True)])
    return (*rest[:axis], ((len(whole), whole),), *rest[axis + 1 :])


@rule("stack")
def stack(t: Tracer, node: Node) -> Value:
    """Values that meet, along a new dimension."""
    values = [t.value(value) for value in node.args[0]]
    rest = list(broadcast(t, values, node))
    rest.insert(_axis(node, 1, len(rest) + 1), plain(len(values)))
    return tuple(rest)


@rule("split", "split_with_sizes", "chunk", "tensor_split")
def split(t: Tracer, node: Node) -> Any:
    """Pieces along a dimension."""
    value = t.value(node.args[0])
    axis = _axis(node, 2, len(value))
    count = len(node.meta["val"])
    if not carries(value[axis]):
        return [(*value[:axis], t.blank(node, i)[axis], *value[axis + 1 :]) for i in range(count)]
    ids = t.flat(value[axis], node)
    if ids is None:
        return [t.blank(node, i) for i in range(count)]
    parts = np.split(ids, np.cumsum([t.sizes(node, i)[axis][0] for i in range(count)])[:-1])
    t.pieces += parts
    return [(*value[:axis], ((len(part), part),), *value[axis + 1 :]) for part in parts]


@rule("getitem")
def getitem(t: Tracer, node: Node) -> Any:
    """One of several outputs."""
    return t.values[node.args[0]][node.args[1]]


@rule("unbind")
def unbind(t: Tracer, node: Node) -> Any:
    """One value for each index of a dimension."""
    value = t.value(node.args[0])
    axis = _axis(node, 1, len(value))
    _stuck(t, value[axis], node)
    return [(*value[:axis], *value[axis + 1 :])] * len(node.meta["val"])


@rule("select")
def select(t: Tracer, node: Node) -> Value:
    """One index of a dimension; where only the shape of the result is asked for, any will do."""
    value = t.value(node.args[0])
    axis = _axis(node, 1, len(value))
    if any(operator(user) != "sym_size" for user in node.users):
        _stuck(t, value[axis], node)
    return (*value[:axis], *value[axis + 1 :])


def is_whole(node: Node, axis: int) -> bool:
    """Whether a slice takes all of its axis, at every size: a length that happens to be the example's batch does not."""
    before, after = (n.meta["val"].shape[axis] for n in (node.args[0], node))
    if isinstance(before, int) or isinstance(after, int):
        return isinstance(before, int) and isinstance(after, int) and before == after
    return bool(before.node.expr == after.node.expr)


@rule("slice", "narrow")
def cut(t: Tracer, node: Node) -> Value:
    """A run of indices."""
    value = t.value(node.args[0])
    axis = _axis(node, 1, len(value))
    rest = t.sizes(node)[axis]
    dim = plain(*rest)
    if carries(value[axis]):
        if is_whole(node, axis):
            return value
        ids = t.flat(value[axis], node)
        step = argument(node, 4) if operator(node) == "slice" else 1
        start = argument(node, 2) or 0
        if ids is None or step != 1 or not isinstance(start, int):
            _stuck(t, value[axis], node)
        else:
            begin = max(start + len(ids), 0) if start < 0 else start
            dim = ((rest[0], ids[begin : begin + rest[0]]),)
            t.pieces.append(dim[0][1])
    return (*value[:axis], dim, *value[axis + 1 :])


@rule("index")
def index(t: Tracer, node: Node) -> Value:
    """Indexed dimensions stay whole; others pass."""
    value = t.value(node.args[0])
    indices: Any = node.args[1]
    taken = [i for i, found in enumerate(indices) if found is not None]
    for i in taken:
        _stuck(t, value[i], node)
    together = taken == list(range(taken[0], taken[-1] + 1))
    before = taken[0] if together else 0
    passing = [dim for i, dim in enumerate(value) if i not in taken]
    made = broadcast(t, [t.value(indices[i]) for i in taken], node)
    return (*passing[:before], *made, *passing[before:])


@rule("index_put")
def index_put(t: Tracer, node: Node) -> Value:
    """What is written meets what was there. A mask takes several dimensions at once, so there everything stays."""
    x, places, values = node.args[:3]
    if any(t.is_mask(place) for place in places):
        for tensor in (x, values):
            _freeze_all(t, tensor, f"written under a mask in {where(node)}")
    else:
        for place in places:
            _freeze_all(t, place, f"places that are written to in {where(node)}")
        broadcast(t, [index(t, node), t.value(values)], node)
    return t.value(x)


@rule("index_select")
def index_select(t: Tracer, node: Node) -> Value:
    """Some indices of a dimension."""
    value = t.value(node.args[0])
    axis = _axis(node, 1, len(value))
    _stuck(t, value[axis], node)
    return (*value[:axis], t.blank(node)[axis], *value[axis + 1 :])


@rule("gather")
def gather(t: Tracer, node: Node) -> Value:
    """Other dimensions meet those of the index."""
    value, places = t.value(node.args[0]), t.value(node.args[2])
    axis = _axis(node, 1, len(value))
    _stuck(t, value[axis], node)
    return tuple(b if i == axis else t.pair(a, b, node) for i, (a, b) in enumerate(zip(value, places, strict=True)))


@rule("pad", "constant_pad_nd", "reflection_pad1d", "reflection_pad2d", "replication_pad1d", "replication_pad2d", "replication_pad3d")
@numbers(1)
def pad(t: Tracer, node: Node) -> Value:
    """Padding of channels may go, number by number."""
    value, amounts, sizes = t.value(node.args[0]), list(node.args[1]), t.sizes(node)
    plainly = "constant" in (argument(node, 2), operator(node).partition("_")[0])
    out = list(value)
    for k in range(len(amounts) // 2):
        axis, (left, right) = len(value) - 1 - k, amounts[2 * k : 2 * k + 2]
        if left == 0 and right == 0:
            continue
        ids = t.flat(value[axis], node) if carries(value[axis]) else None
        if ids is None or not plainly:
            _stuck(t, value[axis], node)
            out[axis] = plain(*sizes[axis])
        else:
            sides = [t.new(max(amount, 0)) for amount in (left, right)]
            whole = np.concatenate([sides[0], ids[max(-left, 0) : len(ids) - max(-right, 0)], sides[1]])
            out[axis] = ((len(whole), whole),)
    return tuple(out)


@rule(
    *("max_pool1d", "max_pool2d", "max_pool3d", "avg_pool1d", "avg_pool2d", "avg_pool3d", "lp_pool2d"),
    *("adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d", "adaptive_max_pool2d", "upsample_nearest1d"),
    *("upsample_nearest2d", "upsample_nearest3d", "upsample_bilinear2d", "upsample_bicubic2d", "upsample_linear1d", "upsample_trilinear3d"),
    *("_upsample_nearest_exact2d", "_adaptive_avg_pool2d"),
)
def spatial(t: Tracer, node: Node) -> Any:
    """Operators on the last one, two or three dimensions."""
    value = t.value(node.args[0])
    digits = [int(c) for c in operator(node) if c in "123"]
    last = digits[-1] if digits else len(value) - 2
    for dim in value[len(value) - last :]:
        _stuck(t, dim, node)
    if isinstance(node.meta["val"], (tuple, list)):
        return [(*value[: len(value) - last], *t.blank(node, i)[len(value) - last :]) for i in range(len(node.meta["val"]))]
    return (*value[: len(value) - last], *t.blank(node)[len(value) - last :])


@rule("im2col")
def im2col(t: Tracer, node: Node) -> Value:
    """(B, C, H, W) to (B, C · kernel, L)."""
    value, blank = t.value(node.args[0]), t.blank(node)
    kernel = size_of(blank[-2]) // size_of(value[-3])
    for dim in value[-2:]:
        _stuck(t, dim, node)
    return (*value[:-3], (*value[-3], (kernel, None)), blank[-1])


@rule("col2im")
def col2im(t: Tracer, node: Node) -> Value:
    """(B, C · kernel, L) to (B, C, H, W)."""
    value, blank = t.value(node.args[0]), t.blank(node)
    return (*value[:-2], _blocks(t, value[-2], size_of(blank[-3]), node), *blank[-2:])


@rule("unfold")
def unfold(t: Tracer, node: Node) -> Value:
    """Windows along a dimension, their numbers in a new last one."""
    value, blank = list(t.value(node.args[0])), t.blank(node)
    axis = _axis(node, 1, len(value))
    _stuck(t, value[axis], node)
    value[axis] = blank[axis]
    return (*value, blank[-1])


@rule("pixel_shuffle")
def pixel_shuffle(t: Tracer, node: Node) -> Value:
    """(…, C · r², H, W) to (…, C, rH, rW): the r² parts of a channel go together."""
    value, blank = t.value(node.args[0]), t.blank(node)
    return (*value[:-3], _blocks(t, value[-3], size_of(blank[-3]), node), *blank[-2:])


def _blocks(t: Tracer, dim: Dim, count: int, node: Node) -> Dim:
    """So many blocks, one after the other in a dimension, each of which goes as a whole."""
    ids = t.flat(dim, node)
    out = plain(count) if ids is None else t.split(ids, (count, len(ids) // count), 0)[:1]
    if not is_ids(out[0][1]):
        _stuck(t, dim, node)
    return out


@rule("pixel_unshuffle")
@numbers(1)
def pixel_unshuffle(t: Tracer, node: Node) -> Value:
    """(…, C, rH, rW) to (…, C · r², H, W)."""
    value, r = t.value(node.args[0]), int(node.args[1])
    return (*value[:-3], (*value[-3], (r**2, None)), *t.blank(node)[-2:])


@rule("channel_shuffle", "native_channel_shuffle")
@numbers(1)
def channel_shuffle(t: Tracer, node: Node) -> Value:
    """(groups, C / groups) becomes (C / groups, groups); the same channels of every group go."""
    value, groups = list(t.value(node.args[0])), int(node.args[1])
    ids = t.flat(value[1], node)
    if ids is not None:
        parts = t.split(ids, (groups, len(ids) // groups), 1)
        value[1] = (parts[1], parts[0])
    return tuple(value)


@rule("glu")
def glu(t: Tracer, node: Node) -> Value:
    """One half times the sigmoid of the other."""
    value = list(t.value(node.args[0]))
    axis = _axis(node, 1, len(value))
    ids = t.flat(value[axis], node)
    half = size_of(value[axis]) // 2
    if ids is None:
        value[axis] = t.blank(node)[axis]
    else:
        t.equate(ids[:half], ids[half:])
        value[axis] = ((half, ids[:half]),)
    return tuple(value)


# Reductions -------------------------------------------------------------------------------------------------------------------------------


@rule(*"mean sum amax amin prod var std logsumexp linalg_vector_norm norm any all max min var_mean std_mean".split())  # noqa: SIM905
def reduce(t: Tracer, node: Node) -> Any:
    """Over some dimensions or all; what is left of a channel that was removed is left out of the reduction."""
    value = t.value(node.args[0])
    name = operator(node)
    axes = reduced_axes(node, len(value))
    if name in ("max", "min", "prod", "any", "all", "norm"):
        for i in axes:
            _stuck(t, value[i], node)
    item = 0 if isinstance(node.meta["val"], (tuple, list)) else None
    kept = len(t.sizes(node, item)) == len(value)
    found = tuple(plain(1) if i in axes else dim for i, dim in enumerate(value) if kept or i not in axes)
    return [found] * len(node.meta["val"]) if item is not None else found


def reduced_axes(node: Node, rank: int) -> list[int]:
    """The dimensions that a reduction takes away."""
    names = [spec.name for spec in node.target._schema.arguments]
    return _axes(argument(node, names.index("dim")) if "dim" in names else None, rank)


@rule("argmax", "argmin", "count_nonzero")
def chosen(t: Tracer, node: Node) -> Value:
    """Places, which would change."""
    value = t.value(node.args[0])
    axes = reduced_axes(node, len(value))
    for i in axes:
        _stuck(t, value[i], node)
    kept = len(t.sizes(node)) == len(value)
    return tuple(plain(1) if i in axes else dim for i, dim in enumerate(value) if kept or i not in axes)
