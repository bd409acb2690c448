"""Rules of products: of matrices and vectors, einsums, outer products, and sums of products over chosen dimensions."""

from __future__ import annotations

from typing import Any

from laconic.core.operators import argument, names_of, plain_name, row_of
from laconic.pruning.rules.table import Masking, Node, axes_of, axis_at, broadcast, keep_whole, masked_inputs, no_rule, rule
from laconic.pruning.trace import Dim, Tracer, Value, plain


@rule(*names_of("matrix product", "vector product"), "addmm", mask=masked_inputs)
def product(t: Tracer, node: Node) -> Value:
    """Couple a product: (…, M, K) times (…, K, N), and what is added to it; `addbmm` sums the products of a batch."""
    first = row_of(node).inputs[0]
    dims = _product(t, node, node.args[first], node.args[first + 1])
    if first == 0:
        return dims
    added, dims = node.args[0], dims[1:] if plain_name(node) == "addbmm" else dims
    if t.rank(added) == 1 and t.length(added, 0) > 1:
        t.tie(added, 0, dims[-1], "bias", node)
        return dims
    return broadcast(t, [dims, t.value(added)], node)


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


def _masked_einsum(run: Masking, n: Node, args: Any, kwargs: Any) -> Any:
    values = [v.masked_fill(~run.mask(node, list(range(v.dim())), v), 0) for node, v in zip(n.args[1], args[1], strict=True)]
    return n.target(args[0], values, *args[2:], **kwargs)


@rule(*names_of("einsum"), mask=_masked_einsum)
def einsum(t: Tracer, node: Node) -> Value:
    """Couple an einsum: equal letters are equal dimensions, those under an ellipsis meet. Without an arrow, letters that come once are left."""
    equation, values = str(node.args[0]).replace(" ", ""), [t.value(operand) for operand in node.args[1]]
    left, arrow, right = equation.partition("->")
    terms = left.split(",")
    if len(terms) != len(values):
        return no_rule(t, node)
    named: dict[str, Dim] = {}
    under: list[Value] = []
    for letters, value in zip(terms, values, strict=True):
        before, dots, after = letters.partition("...")
        end = len(value) - len(after)
        if dots:
            under.append(value[len(before) : end])
        for letter, dim in zip(before + after, (*value[: len(before)], *value[end:]) if dots else value, strict=True):
            named[letter] = t.pair(named[letter], dim, node) if letter in named else dim
    ellipsis = broadcast(t, under, node) if under else ()
    if not arrow:
        right = "..." * bool(under) + "".join(sorted(letter for letter in named if left.count(letter) == 1))
    before, dots, after = right.partition("...")
    return (*(named[letter] for letter in before), *(ellipsis if dots else ()), *(named[letter] for letter in after))


@rule("outer", "ger")
def outer(t: Tracer, node: Node) -> Value:
    """Couple an outer product: (M) and (N) to (M, N)."""
    return (*t.value(node.args[0]), *t.value(node.args[1]))


@rule("kron")
def kron(t: Tracer, node: Node) -> Value:
    """Couple a Kronecker product: each dimension is (dimension of the first, dimension of the second)."""
    a, b = (t.value(value) for value in node.args[:2])
    rank = max(len(a), len(b))
    a, b = ((*[plain(1)] * (rank - len(value)), *value) for value in (a, b))
    return tuple((*x, *y) for x, y in zip(a, b, strict=True))


@rule("inner", "linalg_vecdot", mask=masked_inputs)
def inner(t: Tracer, node: Node) -> Value:
    """Couple sums of products over one dimension of both: of `inner` the last, of `linalg_vecdot` any, where the others meet."""
    a, b = (t.value(value) for value in node.args[:2])
    if plain_name(node) == "inner":
        if not a or not b:
            return broadcast(t, [a, b], node)
        t.pair(a[-1], b[-1], node)
        return (*a[:-1], *b[:-1])
    value = broadcast(t, [a, b], node)
    axis = int(node.kwargs.get("dim", -1)) % len(value)
    return (*value[:axis], *value[axis + 1 :])


@rule("cosine_similarity", mask=masked_inputs)
def cosine(t: Tracer, node: Node) -> Value:
    """Couple the cosine of two vectors along a dimension, all of whose numbers are summed."""
    value = broadcast(t, [t.value(value) for value in node.args[:2]], node)
    axis = axis_at(node, 2, len(value))
    return (*value[:axis], *value[axis + 1 :])


@rule("tensordot", mask=masked_inputs)
def tensordot(t: Tracer, node: Node) -> Value:
    """Couple a sum of products over chosen dimensions; of a stored second operand, those that are summed multiply channels."""
    left, right = node.args[:2]
    a, rank = t.value(left), t.rank(right)
    mine, others = axes_of(argument(node, 2), len(a)), axes_of(argument(node, 3), rank)
    for i, j in zip(mine, others, strict=True):
        if right.op == "get_attr":
            t.consume(right, j, left, i, node)
        else:
            t.pair(a[i], t.value(right)[j], node)
    rest = [t.make(right, j) for j in range(rank) if j not in others]
    return (*(dim for i, dim in enumerate(a) if i not in mine), *rest)


@rule("cross", "linalg_cross")
def cross(t: Tracer, node: Node) -> Value:
    """Couple a cross product along a dimension of three."""
    value = broadcast(t, [t.value(value) for value in node.args[:2]], node)
    given = node.args[2] if len(node.args) > 2 else node.kwargs.get("dim", -1)
    axes = [int(given) % len(value)] if given is not None else range(len(value))
    for axis in axes:
        keep_whole(t, value[axis], node)
    return value
