"""The operators that a file may call: those that compute, by a rule over their schemas.

A graph from a stranger may name anything that PyTorch has registered, and some of it reads or writes files, takes memory of others as its own, or trusts
indices that nobody has checked. Only what the rule allows is looked up, and what it refuses is named with the reason.
"""

from __future__ import annotations

import importlib
import math
import operator
import re
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import torch
from torch import fx

# Where operators come from, with the module that registers them; others are not looked up.
NAMESPACES = {
    "aten": "torch",
    "prims": "torch._prims",
    "quantized_decomposed": "torch.ao.quantization.fx._decomposed",
    "torchvision": "torchvision",
}
_OPERATOR = re.compile(r"torch\.ops\.(\w+)\.(\w+)\.(\w+)", re.ASCII)

_ARITHMETIC = "getitem add sub mul floordiv mod truediv neg pow pos abs and_ or_ not_ eq ne lt le gt ge lshift rshift xor invert"
# Arithmetic on sizes, under the names that PyTorch writes.
SIZES: dict[str, Callable[..., Any]] = {
    **{f"_operator.{name}": getattr(operator, name) for name in _ARITHMETIC.split()},
    **{f"math.{name}": getattr(math, name) for name in ("ceil", "floor", "trunc", "sqrt")},
    **{
        f"torch.{name}": getattr(torch, name)
        for name in ("sym_int", "sym_float", "sym_max", "sym_min", "sym_not", "sym_sqrt", "sym_ite", "sym_sum")
    },
}

_TYPES = frozenset({"Tensor", "int", "bool", "number", "float", "complex", "Device", "Generator", "str"})
_RETURNS = frozenset({"Tensor", "int", "bool", "number", "float"})
# What texts an operator may take: names of a mode, no files and no code.
_TEXTS = """
    norm reduce rounding_mode mode interpolation UPLO approximate ord side padding p equation indexing padding_side pad_mode driver assert_msg
"""
# Names of kernels that trust their arguments, make tensors of another layout, or belong to one device's library.
_KINDS = re.compile(
    r"_backward|_jvp|sparse|nested|mkldnn|mkl_|miopen|cudnn_(?!batch_norm)|mps_|fbgemm|fused|quantized_|xnnpack|storage|from_file|set_data|pin_memory|record_stream"
    r"|^set_?$|^data$|_grad_?$|_for_eigen|coalesce|segment_reduce|ctc_loss|lu_solve|ldl_solve"
)
# Of the operators that PyTorch keeps for itself, those that a captured graph holds.
_PRIVATE = """
    _fake_quantize_learnable_per_tensor_affine _fake_quantize_learnable_per_channel_affine
    _assert_async _assert_scalar _assert_tensor_metadata _adaptive_avg_pool2d _adaptive_avg_pool3d _cast_Float _cdist_forward _conj _convolution
    _euclidean_dist _fft_c2c _fft_c2r _fft_r2c _is_all_true _is_any_true _local_scalar_dense _log_softmax _native_batch_norm_legit
    _native_batch_norm_legit_no_training _native_multi_head_attention _neg_view _scaled_dot_product_attention_math
    _scaled_dot_product_flash_attention_for_cpu _shape_as_tensor _softmax _to_copy _transformer_encoder_layer_fwd _trilinear _unique2 _unsafe_view
    _upsample_bicubic2d_aa _upsample_bilinear2d_aa _upsample_nearest_exact1d _upsample_nearest_exact2d _upsample_nearest_exact3d _weight_norm
    _weight_norm_interface __and__ __or__ __xor__ __lshift__ __rshift__ __iand__ __ior__ __ixor__ __ilshift__ __irshift__
"""


@cache
def refusal(target: str) -> str | None:
    """Return why a file may not call an operator, written as PyTorch writes it (`torch.ops.aten.relu.default`); None where it may."""
    if target in SIZES:
        return None
    match = _OPERATOR.fullmatch(target)
    if match is None or match[1] not in NAMESPACES:
        return f"it is not an operator of {', '.join(NAMESPACES)}"
    found = _registered(*match.groups())
    return "this PyTorch has no such operator" if found is None else next(_objections(match[2], found._schema), None)


def look_up(target: str) -> torch._ops.OpOverload:
    """Return an operator that a file may call (`refusal` is None), written as PyTorch writes it."""
    match = _OPERATOR.fullmatch(target)
    found = None if match is None else _registered(*match.groups())
    assert found is not None, target
    return found


@cache
def _registered(namespace: str, name: str, overload: str) -> torch._ops.OpOverload | None:
    try:
        importlib.import_module(NAMESPACES[namespace])
        torch._C._dispatch_find_schema_or_throw(
            f"{namespace}::{name}", "" if overload == "default" else overload
        )  # TorchScript's own are not there
        found = getattr(getattr(getattr(torch.ops, namespace), name), overload)
    except (AttributeError, ImportError, RuntimeError):
        return None
    return found if isinstance(found, torch._ops.OpOverload) else None


def _objections(name: str, schema: Any) -> Iterator[str]:
    """Yield what speaks against an operator."""
    for argument in schema.arguments:
        kind = _base(str(argument.type))
        if kind not in _TYPES:
            yield f"it takes {kind} ('{argument.name}'), not only tensors and numbers"
        if kind == "str" and argument.name not in _TEXTS.split():
            yield f"it takes the text '{argument.name}'"
        if argument.name == "unsafe":
            yield "it can be told not to check its arguments"
        if argument.kwarg_only and argument.alias_info is not None and argument.alias_info.is_write:
            yield f"it writes its result into the argument '{argument.name}'"
    for result in schema.returns:
        if _base(str(result.type)) not in _RETURNS:
            yield f"it returns {result.type}"
    if not schema.returns and not name.startswith(("_assert", "sym_constrain")):
        yield "it returns nothing"
    if _KINDS.search(name) or (name.startswith("_") and name not in _PRIVATE.split()):
        yield "it is a kernel inside of PyTorch that trusts its arguments, not an operator that a captured model calls"


def _base(kind: str) -> str:
    """Return the innermost type.

    >>> _base("Optional[List[Optional[Tensor]]]"), _base("Dict[str, t]")
    ('Tensor', 'Dict[str, t]')
    """
    while match := re.fullmatch(r"(?:Optional|List)\[(.*)\]", kind):
        kind = match[1]
    return kind


def written(graph: fx.Graph) -> Iterator[tuple[fx.Node, fx.Node]]:
    """Yield each node that writes into a tensor from outside of the graph, with the placeholder or attribute that it writes into.

    Views are followed as far as schemas tell them.
    """
    bases: dict[fx.Node, set[fx.Node]] = {}
    for node in graph.nodes:
        if node.op in ("placeholder", "get_attr"):
            bases[node] = {node}
            continue
        schema = node.target._schema if isinstance(node.target, torch._ops.OpOverload) else None
        if schema is None:  # an item of several results may be a view of what they are views of
            bases[node] = set().union(*(bases.get(value, set()) for value in node.all_input_nodes))
            continue
        aliased: set[fx.Node] = set()
        for position, argument in enumerate(schema.arguments):
            value = node.kwargs.get(argument.name, node.args[position] if position < len(node.args) else None)
            if argument.alias_info is None or value is None:
                continue
            reached = {base for item in (value if isinstance(value, (list, tuple)) else [value]) for base in bases.get(item, ())}
            aliased |= reached
            if argument.alias_info.is_write:
                yield from ((node, base) for base in reached)
        bases[node] = aliased
