"""From a program to a function of JAX: the captured graph, decomposed to core ATen but for what has a row of its own; each node computes by its row."""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind
from torch.utils import _pytree as pytree

from laconic.core.errors import ExportError
from laconic.core.exported import quiet_export
from laconic.core.fake_quant import fake_quants, is_dynamic, quantizer_of
from laconic.core.graph import without_dropout
from laconic.core.program import Program
from laconic.core.recurrent import traced_by_shape
from laconic.deploy import qdq
from laconic.deploy.simplify import simplified
from laconic.deploy.xla.late import jax, jnp
from laconic.deploy.xla.rules import Call, row_for
from laconic.deploy.xla.rules.codes import Codes
from laconic.deploy.xla.sizes import Sizes

_CHECKS = ("_assert_tensor_metadata", "_assert_scalar", "sym_constrain_range", "sym_constrain_range_for_size", "_assert_async")
# What the row does not take: it knows the result's type, and there is one place.
_UNREAD = ("dtype", "layout", "device", "pin_memory", "memory_format", "generator", "non_blocking", "copy", "out_dtype", "output_dtype")


@dataclass(frozen=True)
class Lowered:
    """A function of JAX and what it is called with.

    Attributes:
        function: (weights by name, inputs …) to a tuple of outputs; traced with `half` it multiplies in bf16.
        weights: by name.
        inputs: shapes and types of the inputs, sizes as numbers or symbols.
        bits: of the integers that it rounds to; None where it rounds nothing.
    """

    function: Callable[..., Any]
    weights: Mapping[str, Tensor]
    inputs: Sequence[Any]
    bits: int | None


def lower(program: Program) -> Lowered:
    """Return a program as a function of JAX.

    Raises:
        ExportError: operators that have no row, all of them; arithmetic on sizes that JAX does not know.
    """
    simple = simplified(without_dropout(program))
    bits = _bits(simple)
    exported = _decomposed(simple if bits is None else qdq.lower(simple))
    graph = exported.graph
    _check_rows(graph)
    names, inputs = _entries(exported)
    state = {**exported.state_dict, **exported.constants}
    weights = {name: state[name].detach() for name in dict.fromkeys(names.values())}
    sizes = Sizes(exported, [node.meta["val"] for node in inputs])
    shapes = [jax.ShapeDtypeStruct(sizes.shape(node.meta["val"]), _dtype(node.meta["val"])) for node in inputs]

    def function(half: bool, weights: Mapping[str, Any], *arrays: Any) -> tuple[Any, ...]:
        values: dict[fx.Node, Any] = {node: weights[name] for node, name in names.items()}
        values.update(zip(inputs, arrays, strict=True))
        return _run(graph, values, sizes, half)

    return Lowered(function, weights, shapes, bits)


def _bits(program: Program) -> int | None:
    """Return the fewest bits that something is rounded to; None where nothing is.

    Raises:
        ExportError: an activation is rounded by a range that is only known when it runs.
    """
    found = list(fake_quants(program.graph))
    if any(is_dynamic(node) for node in found):
        raise ExportError(
            "the model cannot be lowered to XLA: activations are rounded by their own range (mode='dynamic'), which would be computed in floats there. "
            "Quantize with mode='static' or mode='weights'."
        )
    return min((quantizer_of(program.graph_module, node).bits for node in found), default=None)


def _decomposed(program: Program) -> ExportedProgram:
    table = torch.export.default_decompositions()
    for target in list(table):
        if isinstance(target, torch._ops.OpOverload) and row_for(*_name(target)) is not None:
            del table[target]
    with quiet_export(), traced_by_shape():
        try:
            return program.exported().run_decompositions(table)
        except Exception as error:
            raise ExportError(f"the model cannot be decomposed for XLA: {type(error).__name__}: {str(error).splitlines()[:1]}") from error


def _name(target: torch._ops.OpOverload) -> tuple[str, str]:
    name, _, overload = target.name().partition("::")[2].partition(".")
    return name, overload or "default"


def _check_rows(graph: fx.Graph) -> None:
    """Name every operator that has no row, with the module where it stands first."""
    missing: Counter[str] = Counter()
    for node in graph.nodes:
        target = node.target
        if isinstance(target, torch._ops.OpOverload) and target.namespace != "prim" and not _is_size(target):
            if _name(target)[0] not in _CHECKS and row_for(*_name(target)) is None:
                missing[target.name()] += 1
        elif node.op == "call_function" and isinstance(target, torch._ops.HigherOrderOperator):
            missing[str(target)] += 1
    if missing:
        told = ", ".join(f"{name} ({count}×)" for name, count in missing.most_common())
        raise ExportError(f"the model cannot be lowered to XLA: no row for {told}. Ship it as ONNX, or add a row (deploy/xla/rules).")


def _is_size(target: Any) -> bool:
    return target in (torch.ops.aten.sym_size.int, torch.ops.aten.sym_numel.default, torch.ops.aten.sym_stride.int)


def _entries(exported: ExportedProgram) -> tuple[dict[fx.Node, str], list[fx.Node]]:
    """Return the placeholders of tensors, with the name of the tensor (one name for what is one tensor), and those of inputs."""
    tensors = {**exported.state_dict, **exported.constants}
    first: dict[tuple[Any, ...], str] = {}
    names: dict[fx.Node, str] = {}
    inputs: list[fx.Node] = []
    nodes = [node for node in exported.graph.nodes if node.op == "placeholder"]
    for node, spec in zip(nodes, exported.graph_signature.input_specs, strict=True):
        if spec.kind == InputKind.USER_INPUT:
            inputs.append(node)
        elif node.users:
            assert spec.target is not None
            value = tensors[spec.target]
            same = (value.data_ptr(), tuple(value.shape), value.stride(), value.dtype) if value.numel() else spec.target
            names[node] = first.setdefault(same, spec.target)
    return names, inputs


def _run(graph: fx.Graph, values: dict[fx.Node, Any], sizes: Sizes, half: bool) -> tuple[Any, ...]:
    for node in graph.nodes:
        if node.op == "call_function":
            try:
                values[node] = _computed(node, values, sizes, half)
            except Exception as error:
                raise ExportError(f"{_told(node)} cannot be lowered to XLA: {type(error).__name__}: {_first_line(error)}") from error
        elif node.op == "output":
            return tuple(Codes.floats(values[leaf]) for leaf in node.args[0])
    raise AssertionError("a graph ends in its outputs")


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [""])[0][:300]


def _told(node: fx.Node) -> str:
    """Return what stands where, for a message."""
    stack = node.meta.get("nn_module_stack") or {}
    path = next(reversed(stack.values()))[0] if stack else ""
    target = node.target.name() if isinstance(node.target, torch._ops.OpOverload) else getattr(node.target, "__name__", node.target)
    return f"{target} in {path}" if path else str(target)


def _computed(node: fx.Node, values: Mapping[fx.Node, Any], sizes: Sizes, half: bool) -> Any:
    target: Any = node.target
    args: Any = fx.node.map_arg(node.args, lambda n: values[n])
    kwargs: Any = fx.node.map_arg(node.kwargs, lambda n: values[n])
    if target is operator.getitem:
        return args[0][args[1]]
    if not isinstance(target, torch._ops.OpOverload):
        return _of_sizes(node, target, args, sizes)
    if _name(target)[0] in _CHECKS:
        return None
    if _is_size(target):
        return sizes.size(node.meta["val"])
    return _applied(target, args, kwargs, node.meta["val"], sizes.shape, half)


def evaluate(target: torch._ops.OpOverload, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """Compute one operator by its row, on tensors."""
    told = target(*args, **kwargs)
    args, kwargs = pytree.tree_map_only(Tensor, lambda tensor: jnp.asarray(tensor.resolve_conj().numpy()), (list(args), dict(kwargs)))
    return _applied(target, args, kwargs, told, lambda tensor: tuple(tensor.shape), False)


def _applied(
    target: torch._ops.OpOverload,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    told: Any,
    shape_of: Callable[[Tensor], tuple[Any, ...]],
    half: bool,
) -> Any:
    """Compute an operator by its row; `told` is what the graph knows of its results."""
    name, overload = _name(target)
    row = row_for(name, overload)
    assert row is not None, target
    several = isinstance(told, (tuple, list))
    results = [one if isinstance(one, Tensor) else torch.empty(0) for one in (told if several else [told])]
    call = Call(name, tuple(map(shape_of, results)), tuple(map(_dtype, results)), half)
    positional, named = _bound(target, args, kwargs)
    found = row(call, *positional, **named)
    return [_settled(one, call, place) for place, one in enumerate(found)] if several else _settled(found, call, 0)


def _bound(target: torch._ops.OpOverload, args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[list[Any], dict[str, Any]]:
    """Return arguments in the order of the schema, and those that go by name alone, without what no row reads."""
    schema = [spec for spec in target._schema.arguments if not spec.kwarg_only]
    given = {name: value for name, value in kwargs.items() if name not in _UNREAD}
    last = max((place for place, spec in enumerate(schema) if spec.name in given), default=-1)
    positional = list(args)
    for spec in schema[len(args) : last + 1]:
        positional.append(given.pop(spec.name, spec.default_value))
    return positional, given


def _settled(found: Any, call: Call, place: int) -> Any:
    """Give a result the type that the graph says, and see that its shape is the one."""
    if found is None or isinstance(found, Codes):
        return found
    array = jnp.asarray(found).astype(call.dtypes[place])
    if len(array.shape) != len(call.shapes[place]):
        raise ValueError(f"its row gives {array.shape}, the graph says {call.shapes[place]}")
    for one, told in zip(array.shape, call.shapes[place], strict=True):
        if isinstance(one, int) and isinstance(told, int) and one != told:
            raise ValueError(f"its row gives {array.shape}, the graph says {call.shapes[place]}")
    return array


def _dtype(value: Tensor) -> str:
    return str(value.dtype).removeprefix("torch.")


def _of_sizes(node: fx.Node, target: Any, args: Sequence[Any], sizes: Sizes) -> Any:
    """Compute with sizes."""
    value = node.meta.get("val")
    if isinstance(value, (int, torch.SymInt)) and not isinstance(value, bool):
        return sizes.size(value)
    if isinstance(value, (bool, float)):
        return value
    if isinstance(value, torch.SymFloat):
        return sizes.number(value)
    return target(*args)
