"""What PyTorch writes into a `.pt2` about a graph, read strictly and written anew.

`torch.export` deserializes such a description with trust: names go into generated Python, symbolic sizes are evaluated, tree specs import what they name, and
metadata may name any attribute of `torch`. So nothing of the file reaches it but what is rebuilt here, entry by entry and by type: what has no row below is
left out, what a row does not take is refused. A field that a later PyTorch adds, and perhaps evaluates, is left out too.

The calling convention is not read at all: programs take flat tensors and return a flat tuple, so its tree specs are made here.
"""

from __future__ import annotations

import ast
import json
import keyword
import math
import re
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

from laconic.core.allowed import refusal
from laconic.core.wording import shorten

Kind = Callable[[Any], Any]
_MISSING = object()


class NotAllowed(ValueError):
    """Something that is not read from a file; the text says what and why."""


# ---- plain values


def boolean(value: Any) -> bool:
    """Take true or false."""
    return value if isinstance(value, bool) else _wrong(value, "true or false")


def whole(value: Any) -> int:
    """Take a whole number of at most 64 bits."""
    return value if type(value) is int and -(1 << 63) <= value < 1 << 63 else _wrong(value, "a whole number of 64 bits")


def real(value: Any) -> float | str:
    """Take a number, or what PyTorch writes for those that JSON has not."""
    return value if value in ("Infinity", "-Infinity", "NaN") or type(value) in (int, float) else _wrong(value, "a number")


def matching(pattern: str, what: str, limit: int = 1000) -> Kind:
    """Return what takes text of a pattern, up to a length."""
    compiled = re.compile(pattern)
    return lambda value: value if isinstance(value, str) and len(value) <= limit and compiled.fullmatch(value) else _wrong(value, what)


def identifier(value: Any) -> str:
    """Take a name that stands in Python code for itself and nothing else."""
    plain = isinstance(value, str) and len(value) <= 1000 and value.isidentifier() and not keyword.iskeyword(value)
    return value if plain else _wrong(value, "an identifier")


def _wrong(value: Any, what: str) -> Any:
    raise NotAllowed(f"it holds {shorten(value)} in place of {what}")


# ---- containers


def listed(kind: Kind) -> Kind:
    """Return what takes a list of one kind."""
    return lambda value: [kind(item) for item in value] if isinstance(value, list) else _wrong(value, "a list")


def mapped(names: Kind, kind: Kind) -> Kind:
    """Return what takes a mapping from names to one kind."""
    return lambda value: {names(key): kind(item) for key, item in value.items()} if isinstance(value, dict) else _wrong(value, "a mapping")


def optional(kind: Kind) -> Kind:
    """Return what takes null too."""
    return lambda value: None if value is None else kind(value)


def record(fields: Mapping[str, Kind], defaults: Mapping[str, Any] | None = None) -> Kind:
    """Return what takes these fields of a mapping and leaves out all others; a field without a default must be there."""
    given = defaults or {}

    def take(value: Any) -> dict[str, Any]:
        if not isinstance(value, dict):
            return _wrong(value, "a mapping")
        missing = [name for name in fields if name not in value and name not in given]
        if missing:
            raise NotAllowed(f"it lacks the entry '{missing[0]}'")
        return {name: kind(value[name]) if name in value else given[name] for name, kind in fields.items()}

    return take


def one_of(kinds: Mapping[str, Kind]) -> Kind:
    """Return what takes a mapping with exactly one of these entries."""

    def take(value: Any) -> dict[str, Any]:
        if not isinstance(value, dict) or len(value) != 1:
            return _wrong(value, "one entry")
        name, item = next(iter(value.items()))
        return {name: kinds[name](item)} if name in kinds else _wrong(name, f"one of {', '.join(kinds)}")

    return take


# ---- what is evaluated or looked up

SYMBOL = re.compile(r"(?:[su]|zf|zuf)\d{1,6}", re.ASCII)
_NUMBERS = ("int_oo", "oo", "true", "false")
_FUNCTIONS = """
    Integer Float Rational Add Mul Pow Mod PythonMod FloorDiv CleanDiv CeilDiv IntTrueDiv FloatTrueDiv TruncToInt TruncToFloat CeilToInt FloorToInt
    RoundToInt ToFloat Max Min Eq Ne Lt Le Gt Ge And Or Not Abs Where Identity ModularIndexing PowByNatural Equality Unequality StrictLessThan LessThan
    StrictGreaterThan GreaterThan
"""
_POWERS = ("Pow", "PowByNatural")
_LARGEST_POWER = 64
_ASSUMPTIONS = ("positive", "integer", "nonnegative", "negative", "zero", "real", "nonzero", "nonpositive", "finite", "even", "odd")
_OPERATIONS = (ast.Add, ast.Sub, ast.Mult, ast.Div, ast.FloorDiv, ast.Mod)
_EXPRESSION_LIMIT = 10_000


@cache
def _fault(text: str) -> str | None:
    """Return what is wrong with an expression: anything but arithmetic on symbols of sizes. It is parsed, never evaluated."""
    if len(text) > _EXPRESSION_LIMIT:
        return "which is longer than any size needs"
    try:
        return next(iter(_faults(ast.parse(text.strip(), mode="eval").body, 1)), None)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return "which is no arithmetic"


def _faults(node: ast.expr, power: int) -> list[str]:
    """Return what is wrong in an expression; `power` is the product of the exponents around it."""
    match node:
        case ast.Constant(value=bool() | int() | float() as value):
            return [] if abs(value) < 1 << 63 and math.isfinite(value) else ["whose numbers are too large"]
        case ast.Name(id=name):
            return [] if SYMBOL.fullmatch(name) or name in (*_NUMBERS, *_FUNCTIONS.split()) else [f"which names '{name}'"]
        case ast.UnaryOp(op=ast.USub() | ast.UAdd() | ast.Not(), operand=operand):
            return _faults(operand, power)
        case ast.BinOp(left=left, op=ast.Pow(), right=right):
            return _power_faults(left, right, power)
        case ast.BinOp(left=left, op=operation, right=right) if isinstance(operation, _OPERATIONS):
            return _faults(left, power) + _faults(right, power)
        case ast.Compare(left=left, comparators=others):
            return [fault for item in (left, *others) for fault in _faults(item, power)]
        case ast.Call(func=ast.Name(id="Symbol"), args=[ast.Constant(value=str() as name)], keywords=keywords):
            plain = all(item.arg in _ASSUMPTIONS and isinstance(item.value, ast.Constant) for item in keywords)
            return [] if SYMBOL.fullmatch(name) and plain else ["which declares another symbol than a size"]
        case ast.Call(func=ast.Name(id=name), args=[base, exponent], keywords=[]) if name in _POWERS:
            return _power_faults(base, exponent, power)
        case ast.Call(func=ast.Name(id=name), args=arguments, keywords=[]) if name in _FUNCTIONS.split():
            return [fault for item in arguments for fault in _faults(item, power)]
    return ["which would have to be evaluated"]


def _power_faults(base: ast.expr, exponent: ast.expr, power: int) -> list[str]:
    """Allow powers by small constants only: others take for ever."""
    while isinstance(exponent, ast.Call) and len(exponent.args) == 1 and not exponent.keywords:  # Integer(2)
        exponent = exponent.args[0]
    sign = exponent.operand if isinstance(exponent, ast.UnaryOp) else exponent
    if not isinstance(sign, ast.Constant) or type(sign.value) is not int or not 0 <= sign.value * power <= _LARGEST_POWER:
        return ["which takes a power that is not a small number"]
    return _faults(base, power * max(1, sign.value))


def expression(value: Any) -> str:
    """Take arithmetic on symbols of sizes."""
    fault = _fault(value) if isinstance(value, str) else "which is no text"
    if fault is not None:
        raise NotAllowed(f"it holds the expression {shorten(value)}, {fault}: it would have to be evaluated")
    return str(value)


def operator(value: Any) -> str:
    """Take the name of an operator that files may call."""
    why = refusal(value) if isinstance(value, str) and len(value) < 200 else "it is no name"
    if why is not None:
        raise NotAllowed(f"its graph calls {shorten(value)}, which is not an operator on the list: {why}")
    return str(value)


def tensor_name(value: Any) -> str:
    """Take the dotted name of a parameter or buffer. Parts may hold a few signs beside letters and digits, as keys of a `ModuleDict` do; none ends a text."""
    plain = isinstance(value, str) and len(value) <= 2000 and all(_PART.fullmatch(part) for part in value.split("."))
    return value if plain else _wrong(value, "the dotted name of a tensor")


_PART = re.compile(r"[\w\-+:/@#=<>|, ]+")

# ---- the description; the names of fields are PyTorch's (torch/_export/serde/schema.py)

device = record({"type": matching("cpu|cuda", "the device cpu or cuda"), "index": optional(whole)}, {"index": None})
layout = lambda value: value if value == 7 else _wrong(value, "the strided layout")  # noqa: E731
_hint = optional(one_of({"as_int": whole, "as_bool": boolean, "as_float": real}))
_symbolic = record({"expr_str": expression, "hint": _hint}, {"hint": None})
size = one_of({"as_expr": _symbolic, "as_int": whole})
tensor_meta = record(
    {
        "dtype": whole,
        "sizes": listed(size),
        "requires_grad": boolean,
        "device": device,
        "strides": listed(size),
        "storage_offset": size,
        "layout": layout,
    }
)
_tensor = record({"name": identifier})
_int_name, _bool_name, _float_name = (
    one_of({"as_name": identifier, **plain}) for plain in ({"as_int": whole}, {"as_bool": boolean}, {"as_float": real})
)
_optional_tensor = one_of({"as_tensor": _tensor, "as_none": boolean})
argument = one_of(
    {
        "as_none": boolean,
        "as_tensor": _tensor,
        "as_tensors": listed(_tensor),
        "as_int": whole,
        "as_ints": listed(whole),
        "as_float": real,
        "as_floats": listed(real),
        # a mode, or the equation of einsum; without a line's end it stays in the one comment or text that code generators may make of it
        "as_string": matching(r"[\w ,.\->]*", "the name of a mode", 300),
        "as_sym_int": _int_name,
        "as_sym_ints": listed(_int_name),
        "as_sym_bool": _bool_name,
        "as_sym_bools": listed(_bool_name),
        "as_sym_float": _float_name,
        "as_sym_floats": listed(_float_name),
        "as_scalar_type": whole,
        "as_memory_format": whole,
        "as_layout": layout,
        "as_device": device,
        "as_bool": boolean,
        "as_bools": listed(boolean),
        "as_optional_tensor": _optional_tensor,
        "as_optional_tensors": listed(_optional_tensor),
        "as_nested_tensors": listed(listed(_tensor)),
        "as_int_lists": listed(listed(whole)),
        "as_float_lists": listed(listed(real)),
        "as_complex": record({"real": real, "imag": real}),
    }
)
_stack = matching(r"[^\n\r'\"\\]*", "a stack of modules", 100_000)
node = record(
    {
        "target": operator,
        "inputs": listed(
            record({"name": matching(r"\w*", "the name of an argument"), "arg": argument, "kind": optional(whole)}, {"kind": None})
        ),
        "outputs": listed(argument),
        # further metadata names attributes of torch, or holds the paths of the machine on which it was made
        "metadata": record({"nn_module_stack": optional(_stack)}, {"nn_module_stack": None}),
        "is_hop_single_tensor_return": optional(boolean),
        "name": optional(identifier),
    },
    {"is_hop_single_tensor_return": None, "name": None},
)
graph = record(
    {
        "inputs": listed(one_of({"as_tensor": _tensor})),
        "outputs": listed(one_of({"as_tensor": _tensor})),
        "nodes": listed(node),
        "tensor_values": mapped(identifier, tensor_meta),
        "sym_int_values": mapped(identifier, size),
        "sym_bool_values": mapped(identifier, one_of({"as_expr": _symbolic, "as_bool": boolean})),
        "sym_float_values": mapped(identifier, one_of({"as_expr": _symbolic, "as_float": real})),
    },
    {"sym_float_values": {}},
)
_inputs = one_of(
    {
        "user_input": record({"arg": one_of({"as_tensor": _tensor})}),
        "parameter": record({"arg": _tensor, "parameter_name": tensor_name}),
        "buffer": record({"arg": _tensor, "buffer_name": tensor_name, "persistent": boolean}),
        "tensor_constant": record({"arg": _tensor, "tensor_constant_name": tensor_name}),
    }
)
_outputs = one_of({"user_output": record({"arg": one_of({"as_tensor": _tensor})})})
_signature = record({"input_specs": listed(_inputs), "output_specs": listed(_outputs)})
_program = record(
    {
        "graph_module": record({"graph": graph, "signature": _signature}),
        "opset_version": mapped(identifier, whole),
        "range_constraints": mapped(
            matching(SYMBOL.pattern, "the symbol of a size"), record({"min_val": optional(whole), "max_val": optional(whole)})
        ),
        "schema_version": record({"major": whole, "minor": whole}),
        "verifiers": listed(identifier),
        "torch_version": matching(r"[\w.+<=]*", "a version"),
    },
    {"verifiers": [], "torch_version": ""},
)


def rebuild(description: Any) -> dict[str, Any]:
    """Return the description of a program, built anew from the entries that are known; the argument is left alone.

    Raises:
        NotAllowed: an entry that is refused.
    """
    program: dict[str, Any] = _program(description)
    module = program["graph_module"]
    for item in module["graph"]["nodes"]:
        if item["metadata"]["nn_module_stack"] is None:
            item["metadata"] = {}
    signature = module["signature"]
    names = [item["user_input"]["arg"]["as_tensor"]["name"] for item in signature["input_specs"] if "user_input" in item]
    module["module_call_graph"] = [{"fqn": "", "signature": _calling(names, len(signature["output_specs"]))}]
    return {**program, "guards_code": []}


def _calling(names: list[str], outputs: int) -> dict[str, Any]:
    """Return the calling convention: flat tensors in, a flat tuple out."""
    leaf: dict[str, Any] = {"type": None, "context": None, "children_spec": []}

    def tree(kind: str, context: str, items: list[Any]) -> dict[str, Any]:
        return {"type": f"builtins.{kind}", "context": context, "children_spec": items}

    taken = tree("tuple", "null", [tree("tuple", "null", [leaf] * len(names)), tree("dict", "[]", [])])
    given = tree("tuple", "null", [leaf] * outputs)
    return {
        "inputs": [],
        "outputs": [],
        "in_spec": json.dumps([1, taken]),
        "out_spec": json.dumps([1, given]),
        "forward_arg_names": names,
    }
