"""Sizes: what the graph knows as symbols of SymPy, as JAX's symbols."""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.export import ExportedProgram

from laconic.core.errors import ExportError
from laconic.deploy.xla.late import export, jnp

_LARGEST = 1 << 40  # a bound beyond is none


class Sizes:
    """The sizes of one graph.

    Args:
        exported: tells the least and the most that each may be.
        inputs: what the graph knows of its inputs.
    """

    def __init__(self, exported: ExportedProgram, inputs: Sequence[Tensor]) -> None:
        found: dict[str, Any] = {}
        sizes: list[Any] = [size for value in inputs for size in value.shape]
        for size in sizes:
            if isinstance(size, torch.SymInt):
                found.update({str(symbol): symbol for symbol in size.node.expr.free_symbols})
        ranges = exported.range_constraints
        names = {symbol: f"d{place}" for place, symbol in enumerate(found)}
        limits = [
            f"{names[key]} {sign} {int(bound)}"
            for key, symbol in found.items()
            if symbol in ranges
            for sign, bound in ((">=", ranges[symbol].lower), ("<=", ranges[symbol].upper))
            if bound.is_Integer and 1 < int(bound) < _LARGEST and not (sign == ">=" and int(bound) == 2)
        ]
        made = export.symbolic_shape(", ".join(names.values()), constraints=limits) if names else ()
        self._symbols = dict(zip(names, made, strict=True))

    def shape(self, value: Tensor) -> tuple[Any, ...]:
        """Return the shape that the graph knows."""
        return tuple(self.size(size) for size in value.shape)

    def size(self, value: int | torch.SymInt) -> Any:
        """Return a size: a number, or an expression of JAX's symbols.

        Raises:
            ExportError: arithmetic that JAX has not.
        """
        return int(value) if not isinstance(value, torch.SymInt) else self._walk(value.node.expr)

    def number(self, value: torch.SymFloat) -> Any:
        """Return a number that was computed from sizes, as an array."""
        return self._float(value.node.expr)

    def _walk(self, expr: Any) -> Any:
        if expr.is_Integer:
            return int(expr)
        if expr.is_Symbol:
            if str(expr) not in self._symbols:
                raise ExportError(f"the size {expr} depends on values, which XLA does not know beforehand")
            return self._symbols[str(expr)]
        kind = type(expr).__name__
        if kind == "Pow" and expr.args[1].is_Integer and int(expr.args[1]) > 0:
            return functools.reduce(operator.mul, [self._walk(expr.args[0])] * int(expr.args[1]))
        if kind not in _KINDS:
            raise ExportError(f"the size {expr} has no counterpart in XLA ({kind})")
        return functools.reduce(_KINDS[kind], [self._walk(arg) for arg in expr.args])

    def _float(self, expr: Any) -> Any:
        if expr.is_number:
            return float(expr)
        kind = type(expr).__name__
        if kind in ("ToFloat", "Identity"):
            return jnp.asarray(self._walk(expr.args[0]), "float32")
        if kind in ("FloatTrueDiv", "IntTrueDiv"):
            return self._float(expr.args[0]) / self._float(expr.args[1])
        if kind in ("Add", "Mul"):
            return functools.reduce(_KINDS[kind], [self._float(arg) for arg in expr.args])
        return jnp.asarray(self._walk(expr), "float32")


def _least(a: Any, b: Any) -> Any:
    from jax import core

    return core.min_dim(a, b)


def _most(a: Any, b: Any) -> Any:
    from jax import core

    return core.max_dim(a, b)


# By the class of an expression, in SymPy and in PyTorch's additions to it.
_KINDS: dict[str, Callable[[Any, Any], Any]] = {
    "Add": operator.add,
    "Mul": operator.mul,
    **dict.fromkeys(("FloorDiv", "CleanDiv"), operator.floordiv),
    "CeilDiv": lambda a, b: -(-a // b),
    **dict.fromkeys(("Mod", "PythonMod"), operator.mod),
    "Min": _least,
    "Max": _most,
}
