"""The table of operators: what each does to the ids of its inputs' dimensions.

A rule takes the tracer and a node and returns the node's value: one `Dim` for each dimension, or a list of values where there are several outputs. An operator
without a row freezes what it touches, and the report names it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import wraps
from typing import Any, Protocol

from torch import Tensor, fx

from laconic.core.operators import argument, plain_name, set_argument
from laconic.pruning.surgeon import Surgeon
from laconic.pruning.trace import DYNAMIC, Dim, Tracer, Value, carries, plain, size_of, where
from laconic.pruning.trace import Node as Node

Rule = Callable[[Tracer, Node], Any]
Edit = Callable[[Surgeon, Node, Node], None]


class Masking(Protocol):
    """What a mask reads of the run that it is part of."""

    @property
    def env(self) -> dict[fx.Node, Any]:
        """The values computed so far."""

    def mask(self, node: fx.Node, axes: list[int], value: Tensor) -> Tensor:
        """Return 1 where indices along these axes survive, broadcastable to the node's value."""


Mask = Callable[[Masking, Node, Any, Any], Any]


@dataclass(frozen=True)
class OperatorRule:
    """What removing channels means to an operator.

    Attributes:
        couple: `(tracer, node) -> value`: what it does to the ids of its inputs' dimensions.
        edit: `(surgeon, old, new)`: write its constants, such as sizes and numbers of groups, anew for what survives, into the node `new` of the pruned
            program; `old` is the one before. None: it has none that change.
        mask: `(run, node, args, kwargs) -> result`: what it computes where removed slices are zero, as if they were not there. None: zeros change nothing of
            what it makes of the others.
    """

    couple: Rule
    edit: Edit | None = None
    mask: Mask | None = None


RULES: dict[str, OperatorRule] = {}


def rule(*names: str, edit: Edit | None = None, mask: Mask | None = None) -> Callable[[Rule], Rule]:
    """Put a function into the table under these operators' names, with an overload (`max.dim`) where it matters; beside it, their edit and mask."""

    def enter(function: Rule) -> Rule:
        for name in names:
            assert name not in RULES, name
            RULES[name] = OperatorRule(function, edit, mask)
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
        freeze_all(t, value, f"operator {plain_name(node)} has no rule")
    return [t.blank(node, i) for i in range(len(node.meta["val"]))] if isinstance(node.meta["val"], (tuple, list)) else t.blank(node)


def freeze_all(t: Tracer, node: Node, cause: str) -> None:
    """Freeze every dimension of a value."""
    if t.is_tensor(node):
        for dim in t.value(node):
            t.freeze(dim, cause)


def axis_at(node: Node, position: int | None, rank: int) -> int:
    """Return the dimension that an argument names, counted from the front."""
    return int(argument(node, position)) % rank


def position_of(node: Node, *names: str) -> int | None:
    """Return the schema position of the first argument that has one of these names; None where none has."""
    return next((i for i, spec in enumerate(node.target._schema.arguments) if spec.name in names), None)


def axes_of(given: Any, rank: int) -> list[int]:
    """Return the dimensions that an argument names, counted from the front; none given are all."""
    if given is None or given == []:
        return list(range(rank))
    return [int(i) % rank for i in (given if isinstance(given, (list, tuple)) else [given])]


def keep_whole(t: Tracer, dim: Dim, node: Node) -> None:
    """Keep a dimension whole whose numbers cannot be removed one by one."""
    if carries(dim):
        t.freeze(dim, f"{plain_name(node)} works along it ({where(node)})")


def broadcast(t: Tracer, values: Sequence[Value], node: Node) -> Value:
    """Let dimensions meet, aligned at the last."""
    if len(values) == 1:
        return values[0]
    rank = max(len(value) for value in values)
    out: list[Dim] = []
    for i in range(rank):
        meeting = [value[i - rank + len(value)] for value in values if i - rank + len(value) >= 0]
        if len(meeting) == 2 and size_of(meeting[0]) == size_of(meeting[1]) != 1:  # as nearly always
            out.append(t.pair(meeting[0], meeting[1], node))
            continue
        wide = [dim for dim in meeting if size_of(dim) != 1 or any(ids is DYNAMIC for _, ids in dim)]
        result, *others = wide or meeting
        for other in others:
            result = t.pair(result, other, node)
        if wide:  # a single index that is copied cannot go
            for dim in meeting:
                if size_of(dim) == 1 and dim is not result:
                    t.freeze(dim, f"copied along another dimension in {where(node)}")
        out.append(result)
    return tuple(out)


def copied_from_one(t: Tracer, dim: Dim, size: tuple[int, bool], node: Node) -> Dim:
    """Return a dimension of size 1 after it was copied: the copies may go, the one index may not."""
    t.freeze(dim, f"copied in {where(node)}")
    return made(t, *size)


def made(t: Tracer, size: int, dynamic: bool) -> Dim:
    """Return a dimension whose indices come into being here."""
    return plain(size, True) if dynamic else t.fresh(size)


def size_list(position: int, infer: bool = False) -> Edit:
    """Return the edit of an operator with the sizes of its output as an argument; where it may `infer` one, −1 stands for it."""

    def edit(s: Surgeon, old: Node, new: Node) -> None:
        set_argument(new, position, s.sizes(old, new, list(argument(new, position)), s.dims(old), infer))

    return edit


def masked_inputs(run: Masking, n: fx.Node, args: Any, kwargs: Any) -> Any:
    """Compute products of two values: what was removed adds nothing, an infinite mask of attention neither."""
    masked = []
    for node, value in zip(n.args, args, strict=True):
        if isinstance(node, fx.Node) and isinstance(value, Tensor) and value.is_floating_point():
            value = value.masked_fill(~run.mask(node, list(range(value.dim())), value), 0)
        masked.append(value)
    return n.target(*masked, **kwargs)  # type: ignore[operator]
