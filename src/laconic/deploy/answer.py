"""An artifact called like the model it was: inputs by place or by name, as NumPy arrays or PyTorch tensors; answers of the same kind, nested as the model's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from laconic.core import structure
from laconic.core.errors import BadInput
from laconic.core.interface import Interface, TensorSpec
from laconic.deploy.runtime import Session


def interface_of(
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
    input_structure: structure.Spec | None,
    output_structure: structure.Spec | None,
) -> Interface:
    """Return how a file is called; where nothing tells its nesting, by the names of its flat inputs, answering one tensor or a mapping of several."""
    flat = _mapping(inputs)
    answers = {"kind": "tensor"} if len(outputs) == 1 else _mapping(outputs)
    return Interface(tuple(inputs), tuple(outputs), input_structure or flat, output_structure or answers)


def _mapping(specs: Sequence[TensorSpec]) -> structure.Spec:
    return {"kind": "dict", "keys": [spec.name for spec in specs], "items": [{"kind": "tensor"} for _ in specs]}


def answer(session: Session, interface: Interface, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """Run a loaded file on a call's arguments; a single mapping is taken for keywords.

    Returns:
        Arrays in the nesting of the model's answer; tensors, on the device of the first, where a tensor was among the inputs.

    Raises:
        BadInput: an input is missing, unknown, or of another type or shape than the file takes; names it, and what it must be.
    """
    first = args[0] if len(args) == 1 and not kwargs else None
    if isinstance(first, Mapping) and interface.inputs and interface.input_structure["items"][0]["kind"] == "tensor":
        args, kwargs = (), first
    tensors = [leaf for leaf in pytree.tree_leaves((tuple(args), dict(kwargs))) if isinstance(leaf, Tensor)]
    # copied: a session may write its next answers to the same place
    arrays: list[Any] = [np.array(output) for output in session.run(_arrays(interface, args, kwargs))]
    if tensors:
        arrays = [torch.from_numpy(array).to(tensors[0].device) for array in arrays]
    spec = interface.output_structure
    if not interface.outputs:
        return arrays[0] if len(arrays) == 1 else tuple(arrays)
    return arrays[0] if spec["kind"] == "tensor" else structure.build(spec, iter(arrays))


def _arrays(interface: Interface, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[np.ndarray]:
    if interface.inputs:
        return [fitting(spec, leaf) for spec, leaf in zip(interface.inputs, interface.bind(args, kwargs), strict=True)]
    if kwargs:
        raise BadInput("the file does not say what its inputs are called: give them by place, in the order of the model")
    return [arg.detach().cpu().numpy() if isinstance(arg, Tensor) else np.asarray(arg) for arg in args]


def fitting(spec: TensorSpec, leaf: Tensor) -> np.ndarray:
    """Return an input as the array that a file takes: other widths of its kind of number are cast.

    Raises:
        BadInput: numbers of another kind, or another shape.
    """
    leaf = leaf.detach().cpu()
    array: np.ndarray = (leaf.float() if leaf.dtype == torch.bfloat16 else leaf).numpy()
    if not np.can_cast(array.dtype, np.dtype(spec.dtype), "same_kind"):
        raise BadInput(f"input '{spec.name}' takes {spec.dtype}; {array.dtype} was given")
    same = len(array.shape) == len(spec.shape) and all(isinstance(w, str) or w == s for w, s in zip(spec.shape, array.shape, strict=True))
    if not same:
        wanted = f"({', '.join(map(str, spec.shape))}{',' * (len(spec.shape) == 1)})"
        missing = " One example alone lacks the first dimension: x[None]." if len(array.shape) == len(spec.shape) - 1 else ""
        raise BadInput(f"input '{spec.name}' has the shape {wanted}; {tuple(array.shape)} was given.{missing}")
    return np.ascontiguousarray(array, spec.dtype)
