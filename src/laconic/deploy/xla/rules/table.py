"""The table of operators: what JAX computes for each of PyTorch's.

A row is a function of the call and of the operator's arguments, in the order of its schema, arrays and numbers in, an array out, or a list where there are
several results. The call tells what the graph knows of the result, so that a row need not work out sizes that may be symbols. What has no row is named before
anything is built.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from laconic.deploy.xla.late import jnp, lax
from laconic.deploy.xla.rules.codes import Codes

Row = Callable[..., Any]
ROWS: dict[str, Row] = {}


@dataclass(frozen=True)
class Call:
    """What a row knows beside the operator's arguments.

    Attributes:
        name: of the operator, without its overload.
        shapes: of the results, sizes as numbers or JAX's symbols.
        dtypes: of the results, names of NumPy's.
        half: matrix products and convolutions take their operands in bf16, and add up in fp32.
    """

    name: str
    shapes: tuple[tuple[Any, ...], ...]
    dtypes: tuple[str, ...]
    half: bool = False

    @property
    def shape(self) -> tuple[Any, ...]:
        """Of the only, or the first, result."""
        return self.shapes[0]

    @property
    def dtype(self) -> str:
        """Of the only, or the first, result."""
        return self.dtypes[0]

    def operands(self, *arrays: Any) -> dict[str, Any]:
        """Return how products are computed: the arrays under `operands`, and the keywords of `lax`.

        In fp32 TPUs and GPUs would take fewer bits by themselves.
        """
        floats = all(jnp.issubdtype(array.dtype, jnp.floating) for array in arrays)
        if self.half and floats:
            return {
                "operands": [array.astype("bfloat16") for array in arrays],
                "preferred_element_type": "float32",
                "precision": None,
            }
        kind = jnp.result_type(*arrays)
        return {"operands": [array.astype(kind) for array in arrays], "preferred_element_type": kind, "precision": lax.Precision.HIGHEST}


def lowers(*names: str, codes: bool = False, moves: bool = False) -> Callable[[Row], Row]:
    """Put a function into the table under these operators' names, with an overload (`max.dim`) where it matters.

    Args:
        names: of operators.
        codes: it takes rounded arrays as they are (`Codes`); others get floats.
        moves: it only moves numbers, or picks some, so that it may move the codes of its first argument.
    """

    def enter(function: Row) -> Row:
        for name in names:
            assert name not in ROWS, name
            ROWS[name] = function if codes else _moving(function) if moves else _of_floats(function)
        return function

    return enter


def _of_floats(function: Row) -> Row:
    @functools.wraps(function)
    def row(call: Call, *args: Any, **kwargs: Any) -> Any:
        return function(call, *_dense(args), **_dense(kwargs))

    return row


def _moving(function: Row) -> Row:
    plain = _of_floats(function)

    @functools.wraps(function)
    def row(call: Call, x: Any, *args: Any, **kwargs: Any) -> Any:
        if not isinstance(x, Codes) or x.axis is not None:
            return plain(call, x, *args, **kwargs)
        moved = function(call, x.array, *args, **kwargs)
        return [replace(x, array=moved[0]), *moved[1:]] if isinstance(moved, list) else replace(x, array=moved)

    return row


def _dense(value: Any) -> Any:
    if isinstance(value, (tuple, list)):
        return [_dense(one) for one in value]
    return {key: _dense(one) for key, one in value.items()} if isinstance(value, dict) else Codes.floats(value)


def row_for(name: str, overload: str) -> Row | None:
    """Return the row of an operator: that of its overload, else that of its name; None where there is none."""
    return ROWS.get(f"{name}.{overload}") or ROWS.get(name)


def axis_of(dim: int, rank: int) -> int:
    """Return a dimension counted from the first."""
    return dim + rank if dim < 0 else dim


def axes_of(dims: int | Sequence[int] | None, rank: int) -> tuple[int, ...]:
    """Return dimensions counted from the first; all where none are given."""
    if dims is None or (not isinstance(dims, int) and len(dims) == 0):
        return tuple(range(rank))
    return tuple(axis_of(dim, rank) for dim in ([dims] if isinstance(dims, int) else dims))
