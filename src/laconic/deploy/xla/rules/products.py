"""Products of matrices. B batch, N heads, L queries, S keys, D size of a head."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from laconic.deploy.xla.late import jnp, lax, nn
from laconic.deploy.xla.rules.codes import Codes
from laconic.deploy.xla.rules.rounding import multiply_codes
from laconic.deploy.xla.rules.table import Call, lowers


def multiply(call: Call, a: Any, b: Any) -> Any:
    """Multiply matrices (…, n, k) and (…, k, m), or vectors, as NumPy's `matmul` does."""
    how = call.operands(a, b)
    a, b = how.pop("operands")
    return jnp.matmul(a, b, **how)


@lowers("mm", "bmm", "matmul", "mv", "dot", codes=True)
def matmul(call: Call, a: Any, b: Any) -> Any:
    """Multiply matrices."""
    if isinstance(a, Codes) and isinstance(b, Codes):
        return multiply_codes(a, b)
    return multiply(call, Codes.floats(a), Codes.floats(b))


@lowers("linear", codes=True)
def linear(call: Call, x: Any, weight: Any, bias: Any = None) -> Any:
    """Multiply by a weight (O, I)."""
    if isinstance(x, Codes) and isinstance(weight, Codes) and weight.array.ndim == 2:
        product = multiply_codes(x, weight.turned())
    else:
        weight = Codes.floats(weight)
        product = multiply(call, Codes.floats(x), weight.T if weight.ndim == 2 else weight)
    return product if bias is None else product + Codes.floats(bias)


@lowers("addmm", "baddbmm", "addmv", codes=True)
def addmm(call: Call, bias: Any, a: Any, b: Any, beta: Any = 1, alpha: Any = 1) -> Any:
    """Compute beta · bias + alpha · a b."""
    product = matmul(call, a, b) * alpha if alpha != 1 else matmul(call, a, b)
    bias = Codes.floats(bias)
    return product + (bias if beta == 1 else beta * bias)


@lowers("einsum")
def einsum(call: Call, equation: str, arrays: Sequence[Any], **others: Any) -> Any:
    """Sum products as an equation says."""
    how = call.operands(*arrays)
    return jnp.einsum(equation.replace(" ", ""), *how.pop("operands"), **how)


@lowers("_trilinear")
def trilinear(call: Call, a: Any, b: Any, c: Any, expand_a: Any, expand_b: Any, expand_c: Any, summed: Sequence[int], *rest: Any) -> Any:
    """Multiply three arrays, each with dimensions of its own, and sum some."""
    for dims, name in ((expand_a, "a"), (expand_b, "b"), (expand_c, "c")):
        for dim in dims:
            if name == "a":
                a = jnp.expand_dims(a, dim)
            elif name == "b":
                b = jnp.expand_dims(b, dim)
            else:
                c = jnp.expand_dims(c, dim)
    return jnp.sum(a * b * c, axis=tuple(summed))


@lowers("scaled_dot_product_attention")
def attention(
    call: Call,
    query: Any,
    key: Any,
    value: Any,
    mask: Any = None,
    dropout: float = 0.0,
    causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Any:
    """Weigh values (…, S, D) by how alike queries (…, L, D) and keys (…, S, D) are; rows that may see nothing give 0, as PyTorch's do."""
    if enable_gqa and query.shape[-3] != key.shape[-3]:
        times = query.shape[-3] // key.shape[-3]
        key, value = jnp.repeat(key, times, axis=-3), jnp.repeat(value, times, axis=-3)
    scale = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
    scores = multiply(call, query * scale, jnp.swapaxes(key, -1, -2))
    if causal:
        rows, columns = (lax.broadcasted_iota("int64", (query.shape[-2], key.shape[-2]), axis) for axis in (0, 1))
        mask = columns <= rows
    if mask is not None and mask.dtype == bool:
        scores = jnp.where(mask, scores, -jnp.inf)
    elif mask is not None:
        scores = scores + mask
    shares = nn.softmax(scores, axis=-1)
    if mask is not None and not causal:
        shares = jnp.where(jnp.max(scores, -1, keepdims=True) == -jnp.inf, 0.0, shares)
    return multiply(call, shares, value)
