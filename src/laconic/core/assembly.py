"""A graph and its tensors, taken out of a module and put together into one again."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx, nn

# name, (value, is a parameter, is in the state dict)
Tensors = list[tuple[str, tuple[Tensor, bool, bool]]]


def tensors_of(module: nn.Module) -> Tensors:
    """Return every parameter and buffer under every name that it has (tied ones more than once)."""
    tensors: Tensors = [(name, (value, True, True)) for name, value in module.named_parameters(remove_duplicate=False)]
    for prefix, owner in module.named_modules(remove_duplicate=False):
        for name, value in owner.named_buffers(recurse=False, remove_duplicate=False):
            tensors.append((f"{prefix}.{name}".lstrip("."), (value, False, name not in owner._non_persistent_buffers_set)))
    return tensors


def assemble(graph: fx.Graph, tensors: Tensors, memo: dict[int, Any] | None = None) -> fx.GraphModule:
    """Build a graph module with its own copies of `tensors`; what was tied stays tied: a tensor that `memo` knows by its id is its twin there."""
    memo = {} if memo is None else memo
    root = nn.Module()
    for name, (value, is_parameter, persistent) in tensors:
        twin: Any = memo.get(id(value))
        if twin is None:
            twin = value.detach().clone(memory_format=torch.preserve_format)
            twin = nn.Parameter(twin, requires_grad=value.requires_grad) if is_parameter else twin
            memo[id(value)] = twin
        *path, leaf = name.split(".")
        owner = root
        for part in path:
            if part not in owner._modules:
                owner.add_module(part, nn.Module())
            owner = owner.get_submodule(part)
        if is_parameter:
            owner.register_parameter(leaf, twin)
        else:
            owner.register_buffer(leaf, twin, persistent=persistent)
    module = fx.GraphModule(root, graph, class_name="Program")
    # GraphModule keeps only what the graph mentions; unused tensors belong to the state dict all the same.
    for registry in ("_parameters", "_buffers", "_modules", "_non_persistent_buffers_set"):
        module.__dict__[registry] = root.__dict__[registry]
    module.eval()
    return module
