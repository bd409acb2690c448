"""Fold what is computed from parameters and buffers alone into one tensor: weight norm, spectral norm, parametrizations, masks, products of weights.

In evaluation mode such a value is the same at every call. Stored, it is a weight like any other, which passes that look for weights can see.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, fx, nn

from laconic.core.fake_quant import is_fake_quant
from laconic.core.graph import clean, free_name, get_tensor, module_path
from laconic.core.operators import family_of
from laconic.core.program import Program

aten = torch.ops.aten
# Repeat numbers that are there already: folded, they would only take more room.
_REPEATING = {aten.expand.default, aten.expand_as.default, aten.repeat.default, aten.broadcast_to.default, aten.repeat_interleave.self_int}


def fold_constants(program: Program) -> tuple[Program, tuple[str, ...]]:
    """Compute every floating value that hangs on parameters and buffers only, and store it.

    A value that changes from call to call stays: random numbers, buffers that the forward changes, what is changed in place.

    Args:
        program: in eval mode; not changed.

    Returns:
        A program without those computations (the one given where there are none), and the names of the tensors that were folded. They are called as the
        module that reads them calls them, e.g. ``encoder.conv.weight``, and are parameters where a parameter was in them.
    """
    folded = copy.deepcopy(program).eval()
    values = _Values(folded, _constants(folded))
    roots = [node for node in _roots(values.constant, folded.graph) if _is_float(values(node))]
    if not roots:
        return program, ()
    names = tuple([_store(folded, values, node) for node in roots])
    folded.recompile()
    return clean(folded), names


def _is_float(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()


def _constants(program: Program) -> dict[fx.Node, frozenset[str]]:
    """Return every node that is the same at every call, with the names of the tensors that it depends on."""
    changed = {str(node.args[0].target) for node in program.graph.nodes if _changes(node) and _is_attribute(node.args[0])}
    constant: dict[fx.Node, frozenset[str]] = {}
    for node in program.graph.nodes:
        if node.op == "get_attr" and str(node.target) not in changed:
            constant[node] = frozenset([str(node.target)])
        elif node.op == "call_function" and _repeatable(node) and all(source in constant for source in node.all_input_nodes):
            constant[node] = frozenset().union(*(constant[source] for source in node.all_input_nodes))
    return constant


def _is_attribute(node: Any) -> bool:
    return isinstance(node, fx.Node) and node.op == "get_attr"


def _changes(node: fx.Node) -> bool:
    """Return whether an operator writes into its first argument."""
    schema = getattr(node.target, "_schema", None)
    return schema is not None and bool(schema.is_mutable)


def _repeatable(node: fx.Node) -> bool:
    tags = getattr(node.target, "tags", ())
    return not (_changes(node) or is_fake_quant(node) or family_of(node) == "dropout" or torch.Tag.nondeterministic_seeded in tags)


def _roots(constant: dict[fx.Node, frozenset[str]], graph: fx.Graph) -> list[fx.Node]:
    """Return the computed constants that a node which is not constant reads; instead of one that only repeats numbers, what it repeats.

    Not what is written into or rounded: a grid belongs to the tensor that it was made for.
    """
    wanted: dict[fx.Node, None] = {}
    spared: set[fx.Node] = set()
    for node in graph.nodes:
        if node not in constant:
            read = [source for source in node.all_input_nodes if constant.get(source)]
            wanted |= dict.fromkeys(map(_unrepeated, read))
            spared |= set(read if is_fake_quant(node) else read[:1] if _changes(node) else ())
    return [node for node in wanted if node.op == "call_function" and node not in spared]


def _unrepeated(node: fx.Node) -> fx.Node:
    while node.target in _REPEATING:
        node = node.args[0]  # type: ignore[assignment]
    return node


class _Values:
    """Computes constant nodes, each once."""

    def __init__(self, program: Program, constant: dict[fx.Node, frozenset[str]]) -> None:
        self.program, self.constant = program, constant
        self.known: dict[fx.Node, Any] = {}

    @torch.no_grad()
    def __call__(self, node: fx.Node) -> Any:
        """Return the value of a constant node."""
        if node.op == "get_attr":
            return get_tensor(self.program, node)
        if node not in self.known:
            args, kwargs = fx.node.map_arg((node.args, node.kwargs), self)
            self.known[node] = node.target(*args, **kwargs)  # type: ignore[operator]
        return self.known[node]

    def trained(self, node: fx.Node) -> bool:
        """Return whether a parameter is in a constant."""
        owned = {name for name, _ in self.program.named_parameters(remove_duplicate=False)}
        return bool(owned & self.constant[node])


def _store(program: Program, values: _Values, node: fx.Node) -> str:
    """Put the value of a constant in its place; returns its name."""
    name = _name(program, node)
    *path, leaf = name.split(".")
    owner: nn.Module = program.graph_module
    for part in path:
        if part not in owner._modules:
            owner.add_module(part, nn.Module())
        owner = owner.get_submodule(part)
    value = values(node).detach().clone(memory_format=torch.contiguous_format)
    if values.trained(node):
        owner.register_parameter(leaf, nn.Parameter(value))
    else:
        owner.register_buffer(leaf, value)
    with program.graph.inserting_before(node):
        stored = program.graph.get_attr(name)
    stored.meta["nn_module_stack"] = node.meta.get("nn_module_stack", {})
    node.replace_all_uses_with(stored)
    return name


def _name(program: Program, node: fx.Node) -> str:
    """Name a constant as the module that reads it calls it, else after the node that made it; numbered where that name is taken."""
    reader = next(iter(node.users))
    schema = getattr(reader.target, "_schema", None)
    index = next((i for i, argument in enumerate(reader.args) if argument is node), None)
    role = schema.arguments[index].name if schema is not None and index is not None else ""
    role = role if role in ("weight", "bias") else f"{node.name}_folded"
    path = module_path(reader)
    return free_name(program, f"{path}.{role}".lstrip("."))
