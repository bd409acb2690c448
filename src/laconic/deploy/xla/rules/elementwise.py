"""Operators that work number by number."""

from __future__ import annotations

from typing import Any

from laconic.deploy.xla.late import jnp, lax, nn
from laconic.deploy.xla.rules.table import Call, Row, lowers

# Operators that NumPy has, by PyTorch's name and by NumPy's where that is another one.
_UNARY = {
    **{name: name for name in (
        "abs", "exp", "expm1", "log", "log1p", "log2", "log10", "sqrt", "sin", "cos", "tan", "sinh", "cosh", "tanh", "floor", "ceil",
        "trunc", "sign", "isnan", "isinf", "isfinite", "logical_not", "square", "exp2", "sinc",
    )},
    **{"neg": "negative", "asin": "arcsin", "acos": "arccos", "atan": "arctan", "asinh": "arcsinh", "acosh": "arccosh", "atanh": "arctanh"},
    **{"bitwise_not": "invert", "sgn": "sign"},
}  # fmt: skip
_BINARY = {
    **{name: name for name in (
        "pow", "maximum", "minimum", "logical_and", "logical_or", "logical_xor", "bitwise_and", "bitwise_or", "bitwise_xor", "hypot", "copysign",
        "fmod", "remainder", "floor_divide", "fmax", "fmin", "logaddexp",
    )},
    **{"eq": "equal", "ne": "not_equal", "lt": "less", "le": "less_equal", "gt": "greater", "ge": "greater_equal", "atan2": "arctan2"},
    **{"mul": "multiply"},
    **{"bitwise_left_shift": "left_shift", "bitwise_right_shift": "right_shift"},
}  # fmt: skip


def _named(name: str, count: int) -> Row:
    def row(call: Call, *args: Any) -> Any:
        return getattr(jnp, name)(*args[:count])

    return row


for _count, _names in ((1, _UNARY), (2, _BINARY)):
    for _name, _twin in _names.items():
        lowers(_name)(_named(_twin, _count))


@lowers("clone", "alias", "detach", "lift_fresh_copy", moves=True)
def same(call: Call, x: Any, *rest: Any, **others: Any) -> Any:
    """Give what is given."""
    return x


@lowers("_to_copy")
def to_copy(call: Call, x: Any, *rest: Any, **others: Any) -> Any:
    """Give what is given; its type becomes that of the result."""
    return x


@lowers("copy")
def copy(call: Call, x: Any, source: Any, *rest: Any) -> Any:
    """Give the second, in the shape of the first."""
    return jnp.broadcast_to(source, call.shape)


@lowers("native_dropout")
def native_dropout(call: Call, x: Any, *rest: Any) -> Any:
    """Give what is given, and a mask of ones."""
    return [x, jnp.ones_like(x, bool)]


@lowers("add")
def add(call: Call, x: Any, y: Any, alpha: Any = 1) -> Any:
    """Compute x + alpha · y."""
    return jnp.add(x, y if alpha == 1 else y * alpha)


@lowers("sub")
def sub(call: Call, x: Any, y: Any, alpha: Any = 1) -> Any:
    """Compute x − alpha · y."""
    return jnp.subtract(x, y if alpha == 1 else y * alpha)


@lowers("rsub")
def rsub(call: Call, x: Any, y: Any, alpha: Any = 1) -> Any:
    """Compute y − alpha · x."""
    return sub(call, y, x, alpha)


@lowers("div")
def div(call: Call, x: Any, y: Any, rounding_mode: str | None = None) -> Any:
    """Divide; rounded as asked for."""
    if rounding_mode == "floor":
        return jnp.floor_divide(x, y)
    quotient = jnp.true_divide(x, y)
    return quotient if rounding_mode is None else jnp.trunc(quotient)


@lowers("round")
def round_(call: Call, x: Any, *rest: Any, decimals: int = 0) -> Any:
    """Round half to even."""
    return jnp.round(x, decimals)


@lowers("where")
def where(call: Call, condition: Any, x: Any, y: Any) -> Any:
    """Choose."""
    return jnp.where(condition, x, y)


@lowers("clamp", "clamp_min")
def clamp(call: Call, x: Any, low: Any = None, high: Any = None) -> Any:
    """Keep between two ends, which may be arrays; not-a-number stays."""
    x = x if low is None else jnp.maximum(x, low)
    return x if high is None else jnp.minimum(x, high)


@lowers("hardtanh")
def hardtanh(call: Call, x: Any, low: Any = -1.0, high: Any = 1.0) -> Any:
    """Keep between two numbers."""
    return jnp.clip(x, low, high)


@lowers("clamp_max")
def clamp_max(call: Call, x: Any, high: Any) -> Any:
    """Keep below an end."""
    return jnp.minimum(x, high)


@lowers("addcmul")
def addcmul(call: Call, x: Any, a: Any, b: Any, value: Any = 1) -> Any:
    """Compute x + value · a · b."""
    return x + value * a * b


@lowers("addcdiv")
def addcdiv(call: Call, x: Any, a: Any, b: Any, value: Any = 1) -> Any:
    """Compute x + value · a / b."""
    return x + value * a / b


@lowers("lerp")
def lerp(call: Call, x: Any, y: Any, weight: Any) -> Any:
    """Compute x + weight · (y − x)."""
    return x + weight * (y - x)


@lowers("frac")
def frac(call: Call, x: Any) -> Any:
    """Give the part behind the point."""
    return x - jnp.trunc(x)


@lowers("xlogy")
def xlogy(call: Call, x: Any, y: Any) -> Any:
    """Compute x · log y, 0 where x is."""
    return jnp.where(x == 0, 0.0, x * jnp.log(y))


@lowers("rsqrt")
def rsqrt(call: Call, x: Any) -> Any:
    """Compute 1 / √x."""
    return lax.rsqrt(x)


@lowers("reciprocal")
def reciprocal(call: Call, x: Any) -> Any:
    """Compute 1 / x."""
    return 1 / x


@lowers("erf")
def erf(call: Call, x: Any) -> Any:
    """Compute the error function."""
    return lax.erf(x)


@lowers("erfc")
def erfc(call: Call, x: Any) -> Any:
    """Compute 1 − erf x."""
    return lax.erfc(x)


@lowers("lgamma")
def lgamma(call: Call, x: Any) -> Any:
    """Compute the logarithm of the gamma function."""
    return lax.lgamma(x)


# Activations ------------------------------------------------------------------------------------------------------------------------------


@lowers("relu")
def relu(call: Call, x: Any) -> Any:
    """Give what is not negative."""
    return jnp.maximum(x, 0)


@lowers("relu6")
def relu6(call: Call, x: Any) -> Any:
    """Keep between 0 and 6."""
    return jnp.clip(x, 0, 6)


@lowers("sigmoid")
def sigmoid(call: Call, x: Any) -> Any:
    """Compute 1 / (1 + exp −x)."""
    return nn.sigmoid(x)


@lowers("log_sigmoid", "log_sigmoid_forward")
def log_sigmoid(call: Call, x: Any) -> Any:
    """Compute the logarithm of the sigmoid."""
    found = nn.log_sigmoid(x)
    return [found, None] if len(call.shapes) == 2 else found


@lowers("silu")
def silu(call: Call, x: Any) -> Any:
    """Compute x · sigmoid x."""
    return nn.silu(x)


@lowers("gelu")
def gelu(call: Call, x: Any, approximate: str = "none") -> Any:
    """Compute x · Φ(x)."""
    return nn.gelu(x, approximate=approximate == "tanh")


@lowers("mish")
def mish(call: Call, x: Any) -> Any:
    """Compute x · tanh softplus x."""
    return x * jnp.tanh(jnp.logaddexp(x, 0.0))


@lowers("hardsigmoid")
def hardsigmoid(call: Call, x: Any) -> Any:
    """Compute a sigmoid of three lines."""
    return jnp.clip(x + 3, 0, 6) / 6


@lowers("hardswish")
def hardswish(call: Call, x: Any) -> Any:
    """Compute x · hardsigmoid x."""
    return x * jnp.clip(x + 3, 0, 6) / 6


@lowers("leaky_relu")
def leaky_relu(call: Call, x: Any, slope: float = 0.01) -> Any:
    """Multiply what is negative."""
    return jnp.where(x > 0, x, slope * x)


@lowers("prelu", "_prelu_kernel")
def prelu(call: Call, x: Any, weight: Any) -> Any:
    """Multiply what is negative, by channel."""
    if weight.ndim == 1 and x.ndim > 1:
        weight = weight.reshape((1, -1) + (1,) * (x.ndim - 2))
    return jnp.where(x > 0, x, weight * x)


@lowers("elu")
def elu(call: Call, x: Any, alpha: float = 1, scale: float = 1, input_scale: float = 1) -> Any:
    """Compute an exponential where it is negative."""
    return scale * jnp.where(x > 0, x, alpha * jnp.expm1(jnp.minimum(x, 0) * input_scale))


@lowers("selu")
def selu(call: Call, x: Any) -> Any:
    """Compute the self-normalizing unit."""
    return nn.selu(x)


@lowers("celu")
def celu(call: Call, x: Any, alpha: float = 1.0) -> Any:
    """Compute the smooth exponential unit."""
    return nn.celu(x, alpha)


@lowers("softplus")
def softplus(call: Call, x: Any, beta: float = 1, threshold: float = 20) -> Any:
    """Compute log(1 + exp(beta · x)) / beta, x itself where that is large."""
    return jnp.where(x * beta > threshold, x, jnp.logaddexp(x * beta, 0.0) / beta)


@lowers("softshrink")
def softshrink(call: Call, x: Any, level: float = 0.5) -> Any:
    """Move toward 0."""
    return jnp.where(x > level, x - level, jnp.where(x < -level, x + level, 0.0))


@lowers("hardshrink")
def hardshrink(call: Call, x: Any, level: float = 0.5) -> Any:
    """Give 0 for what is small."""
    return jnp.where(jnp.abs(x) > level, x, 0.0)


@lowers("threshold")
def threshold(call: Call, x: Any, level: float, value: float) -> Any:
    """Replace what is not above a level."""
    return jnp.where(x > level, x, value)


@lowers("glu")
def glu(call: Call, x: Any, dim: int = -1) -> Any:
    """Multiply one half by the sigmoid of the other."""
    first, second = jnp.split(x, 2, axis=dim)
    return first * nn.sigmoid(second)
