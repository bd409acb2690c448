"""Rules of operators that compute each number from the numbers at its place, or along one dimension."""

from __future__ import annotations

from typing import Any

from laconic.core.operators import argument, names_of
from laconic.pruning.rules.table import Node, OperatorRule, axes_of, axis_at, broadcast, keep_whole, rule
from laconic.pruning.trace import Tracer, Value, plain

_ELEMENTWISE = """
add sub rsub mul div pow maximum minimum max.other min.other where masked_fill lerp addcmul eq ne lt le gt ge __and__ __or__ logical_and logical_or
bitwise_and bitwise_or atan2 fmod remainder floor_divide logaddexp xlogy clamp.Tensor addcdiv logical_xor bitwise_xor copysign hypot relu relu6 gelu
silu sigmoid tanh hardswish hardsigmoid hardtanh leaky_relu elu selu celu softplus mish exp exp2 log log1p log2 expm1 sqrt rsqrt abs neg reciprocal
cos sin tan erf floor ceil round sign clamp clamp_min clamp_max square logical_not bitwise_not isnan isinf clone
contiguous alias detach to lift_fresh_copy _to_copy trunc nan_to_num logsigmoid log_sigmoid softsign hardshrink softshrink threshold sinh cosh asin
acos atan zeros_like ones_like full_like rand_like randn_like empty_like fill _assert_tensor_metadata special_erf special_expit atanh asinh
acosh frac sgn positive logit isfinite zero
absolute arccos arccosh arcsin arcsinh arctan arctan2 arctanh clip divide fix greater greater_equal isclose isreal less less_equal multiply negative
not_equal subtract true_divide special_digamma special_erfc special_erfinv special_exp2 special_expm1 special_gammaln special_i0 special_log1p special_logit
special_ndtr special_psi special_round special_sinc special_xlogy real imag polar complex conj bernoulli randint_like resolve_conj resolve_neg
""".split()  # noqa: SIM905 - words read better in a paragraph than one a line


@rule(*_ELEMENTWISE, *names_of("dropout", "random activation"))
def elementwise(t: Tracer, node: Node) -> Any:
    """Couple operators that compute each number from the numbers at its place; those that PyTorch tags as such need no row."""
    values = [t.value(value) for value in node.all_input_nodes if t.is_tensor(value)]
    several = node.meta["val"]
    if isinstance(several, (tuple, list)):
        return [broadcast(t, values, node)] * len(several)
    return broadcast(t, values, node) if values else t.blank(node)


POINTWISE = OperatorRule(elementwise)


@rule("view_as_complex")
def as_complex(t: Tracer, node: Node) -> Value:
    """Take the last dimension, of real and imaginary part, for one number."""
    value = t.value(node.args[0])
    keep_whole(t, value[-1], node)
    return value[:-1]


@rule("view_as_real")
def as_real(t: Tracer, node: Node) -> Value:
    """Show real and imaginary part in a new last dimension."""
    return (*t.value(node.args[0]), plain(2))


@rule("diff")
def differences(t: Tracer, node: Node) -> Value:
    """Couple differences of neighbors along a dimension."""
    value = t.value(node.args[0])
    axis = axis_at(node, 2, len(value))
    keep_whole(t, value[axis], node)
    return (*value[:axis], t.blank(node)[axis], *value[axis + 1 :])


@rule("type_as")
def like_first(t: Tracer, node: Node) -> Value:
    """Return the first input's shape; the others give a type."""
    return t.value(node.args[0])


@rule("copy")
def copied(t: Tracer, node: Node) -> Value:
    """Return the second is written into the first."""
    return broadcast(t, [t.value(value) for value in node.args[:2]], node)


@rule("triu", "tril")
def triangle(t: Tracer, node: Node) -> Value:
    """Freeze the last two dimensions, on which it depends what is there."""
    value = t.value(node.args[0])
    for dim in value[-2:]:
        keep_whole(t, dim, node)
    return value


@rule("prelu")
def prelu(t: Tracer, node: Node) -> Value:
    """Couple a PReLU: weights along the channels, or one for all."""
    x, weight = node.args
    value = t.value(x)
    if t.length(weight, 0) > 1:
        t.tie(weight, 0, value[1], "norm", node)
    return value


@rule("softmax", "_softmax", "log_softmax", "_log_softmax", "cumsum", "cumprod", "logcumsumexp", "_safe_softmax")
def along(t: Tracer, node: Node) -> Value:
    """Couple operators along one dimension, in which all numbers matter to each other."""
    value = t.value(node.args[0])
    keep_whole(t, value[axis_at(node, 1, len(value))], node)
    return value


@rule("roll")
def roll(t: Tracer, node: Node) -> Value:
    """Keep rolled dimensions whole."""
    value = t.value(node.args[0])
    for i in axes_of(argument(node, 2), len(value)):
        keep_whole(t, value[i], node)
    return value


@rule("flip")
def flip(t: Tracer, node: Node) -> Value:
    """Put ids in the other order."""
    value = list(t.value(node.args[0]))
    for i in axes_of(node.args[1], len(value)):
        ids = t.flat(value[i], node)
        if ids is not None:
            value[i] = ((len(ids), ids[::-1].copy()),)
    return tuple(value)
