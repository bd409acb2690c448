"""Float32 is what models are given in: other precisions are what a deployment asks for, not what it starts from."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, fx, nn

from laconic.core.errors import BadInput
from laconic.core.operators import CONVOLUTIONS, NORMS, PRODUCTS, overloads
from laconic.core.program import Program

_FULL = (torch.float32, torch.float64)
# Operators with weights or of the same cost: runtimes have them in float32, and rounding starts from there.
_HEAVY = overloads(*CONVOLUTIONS, *PRODUCTS, *NORMS, "linear", "bilinear", "recurrent")
_MEND = "Give the model and its data in float32: model.float(), and x.float() in the dataset or in Task(split=…)"


def check_module(model: nn.Module, allowed: Sequence[torch.dtype] = _FULL) -> None:
    """Refuse a module with parameters of other floating types: by default, those of less than 32 bits.

    Raises:
        BadInput: names the parameter, its type and the mend.
    """
    for name, value in model.named_parameters():
        if value.is_floating_point() and value.dtype not in allowed:
            raise BadInput(f"{type(model).__name__} has the parameter '{name}' in {_name(value.dtype)}. {_MEND}.")


def check_inputs(names: Iterable[str], leaves: Sequence[Tensor]) -> None:
    """Refuse inputs of a type that arrays and runtimes do not have.

    Raises:
        BadInput: names the input.
    """
    for name, leaf in zip(names, leaves, strict=True):
        if leaf.is_floating_point() and leaf.dtype not in (*_FULL, torch.float16):
            raise BadInput(f"the input '{name}' is {_name(leaf.dtype)}, which neither NumPy nor the runtimes take. {_MEND}.")


def check_graph(graph: fx.Graph) -> None:
    """Refuse a graph that multiplies in less than 32 bits, or puts out what arrays cannot hold.

    Raises:
        BadInput: names the operator or output.
    """
    for node in graph.nodes:
        dtype = _dtype(node)
        if node.target in _HEAVY and dtype is not None and dtype.is_floating_point and dtype not in _FULL:
            raise BadInput(f"forward computes {node.target} in {_name(dtype)}. {_MEND}; leave casts to lower precision out of forward.")
    for out in graph.output_node().all_input_nodes:
        if _dtype(out) is torch.bfloat16:
            raise BadInput(f"an output ({out.name}) is bfloat16, which neither NumPy nor the runtimes take. {_MEND}.")


def check_float32(program: Program, what: str) -> None:
    """Refuse a program that is not float32 where a file or integer kernels are made of it.

    Args:
        program: any.
        what: is to be done; begins the message.

    Raises:
        BadInput: names the parameter or operator.
    """
    wide = next((n for n in program.graph.nodes if n.target in _HEAVY and _other(_dtype(n))), None)
    named = next((name for name, p in program.named_parameters() if _other(p.dtype)), None)
    if wide is not None or named is not None:
        place = (
            f"the parameter '{named}' is {_name(dict(program.named_parameters())[named].dtype)}"
            if named
            else f"{wide} is {_name(_dtype(wide))}"
        )
        raise BadInput(f"{what} wants a model in float32; {place}. {_MEND}.")


def _other(dtype: torch.dtype | None) -> bool:
    return dtype is not None and dtype.is_floating_point and dtype is not torch.float32


def _dtype(node: fx.Node | None) -> torch.dtype | None:
    """Return the type of a node's result, or of the first of several."""
    value = None if node is None else node.meta.get("val")
    value = value[0] if isinstance(value, (tuple, list)) and value else value
    return value.dtype if isinstance(value, Tensor) else None


def _name(dtype: torch.dtype | None) -> str:
    return str(dtype).removeprefix("torch.")
