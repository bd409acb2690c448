"""Edits and readings of a program's graph that several passes share."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from laconic.core.assembly import assemble, tensors_of
from laconic.core.errors import BadInput, nearest
from laconic.core.operators import family_of
from laconic.core.origin import module_path as module_path
from laconic.core.origin import module_type as module_type
from laconic.core.program import Program, as_program, aten


def module_outputs(program: Program) -> dict[str, fx.Node]:
    """Return for each module path the last node that was computed inside it: the module's output."""
    result: dict[str, fx.Node] = {}
    for node in program.graph.nodes:
        if node.op != "call_function":
            continue
        for path, _ in (node.meta.get("nn_module_stack") or {}).values():
            name = path.partition("@")[0]
            if name and not name.startswith("_empty_nn_module_stack"):
                result[name] = node
    return result


def taps(program: Program, paths: Iterable[str]) -> Callable[..., tuple[Any, dict[str, Tensor]]]:
    """Return a function that runs the program and also returns what the modules at `paths` put out.

    Args:
        program: the program; its parameters are shared, not copied, so gradients reach it.
        paths: module paths as in the original model, e.g. ``layer3.1``. A module called several times is tapped at its last call.

    Returns:
        `(*args, **kwargs) -> (outputs, {path: tensor})`.

    Raises:
        BadInput: there is no such path; names the nearest.
    """
    outputs = module_outputs(as_program(program, "taps"))
    wanted = list(paths)
    for path in wanted:
        if path not in outputs:
            raise BadInput(f"the program has no module path '{path}'." + nearest(path, outputs))
    graph = fx.Graph()
    values: dict[fx.Node, fx.Node] = {}
    result = graph.graph_copy(program.graph, values)
    graph.output((result, tuple(values[outputs[path]] for path in wanted)))
    tapped = fx.GraphModule(program.graph_module, graph)

    def run(*args: Any, **kwargs: Any) -> tuple[Any, dict[str, Tensor]]:
        leaves, tapped_values = tapped.forward(*program.interface.bind(args, kwargs))
        return program.unflatten_outputs(leaves), dict(zip(wanted, tapped_values, strict=True))

    return run


@dataclass(frozen=True)
class TensorMeta:
    """Shape and dtype of what a node makes of the example inputs."""

    shape: tuple[int, ...]
    dtype: torch.dtype


def shapes(program: Program) -> dict[fx.Node, TensorMeta]:
    """Run the example inputs and tell shape and dtype of every tensor in the graph; B, the batch, is the example's."""
    metas: dict[fx.Node, TensorMeta] = {}

    class Run(fx.Interpreter):
        def run_node(self, n: fx.Node) -> Any:
            result = super().run_node(n)
            if isinstance(result, Tensor):
                metas[n] = TensorMeta(tuple(result.shape), result.dtype)
            return result

    with torch.no_grad():
        Run(program.graph_module).run(*program.example_inputs())
    return metas


def get_tensor(program: Program, node: fx.Node) -> Tensor:
    """Return the parameter or buffer that a `get_attr` node reads."""
    owner, _, leaf = str(node.target).rpartition(".")
    value = getattr(program.graph_module.get_submodule(owner), leaf)
    assert isinstance(value, Tensor)
    return value


def readers(program: Program, attribute: fx.Node) -> list[fx.Node]:
    """Return every use of the tensor behind an attribute node, also through other attribute nodes and tied names."""
    tensor = get_tensor(program, attribute)
    same = [n for n in program.graph.nodes if n.op == "get_attr" and get_tensor(program, n) is tensor]
    return [user for n in same for user in n.users]


def set_parameter(program: Program, name: str, value: Tensor) -> None:
    """Put a new parameter (or replace one) under a dotted name."""
    owner, _, leaf = name.rpartition(".")
    module = program.graph_module.get_submodule(owner)
    module.register_parameter(leaf, nn.Parameter(value.contiguous()))


def free_name(program: Program, wanted: str) -> str:
    """Return a name for a new tensor: the wanted one, with a number behind it where a tensor or a module has it already."""
    module = program.graph_module
    taken = {name for name, _ in (*module.named_parameters(remove_duplicate=False), *module.named_buffers(remove_duplicate=False))}
    taken |= {name for name, _ in module.named_modules(remove_duplicate=False)}
    number, name = 1, wanted
    while name in taken:
        number += 1
        name = f"{wanted}_{number}"
    return name


def without_dropout(program: Program) -> Program:
    """What is deployed: a copy without dropouts and the views around them, which optimizers of graphs may not look through; itself where there is none."""
    if not any(family_of(node) == "dropout" for node in program.graph.nodes):
        return program
    result = copy.deepcopy(program)
    for node in list(result.graph.nodes):
        if family_of(node) == "dropout":
            node.replace_all_uses_with(node.args[0])
            result.graph.erase_node(node)
        elif node.target is aten.squeeze.dim and node.args[0].target is aten.unsqueeze.default and node.args[0].args[1] == node.args[1]:
            node.replace_all_uses_with(node.args[0].args[0])
    return clean(result)


def live_nodes(graph: fx.Graph) -> set[fx.Node]:
    """Return the nodes that an output depends on, and those that write in place."""
    live: set[fx.Node] = set()
    for node in reversed(graph.nodes):
        if node.is_impure() or any(user in live for user in node.users):
            live.add(node)
    return live


def unused_parameters(program: Program) -> dict[str, int]:
    """Return the parameters that no output depends on, such as those of an auxiliary head in evaluation, and how many numbers each holds."""
    read = {id(get_tensor(program, node)) for node in live_nodes(program.graph) if node.op == "get_attr"}
    return {name: parameter.numel() for name, parameter in program.named_parameters() if id(parameter) not in read}


def without_unused(program: Program) -> Program:
    """What is deployed: a copy without the parameters that no output depends on; itself where there are none."""
    return clean(program) if unused_parameters(program) else program


def clean(program: Program) -> Program:
    """Drop what no output needs: dead operators, and the tensors that only they read. What is returned is in eval mode."""
    if program.training:
        program = copy.deepcopy(program).eval()
    graph = copy.deepcopy(program.graph)
    graph.eliminate_dead_code()
    for node in reversed(list(graph.nodes)):
        if node.op == "get_attr" and not node.users:
            graph.erase_node(node)
    read = {str(node.target) for node in graph.nodes if node.op == "get_attr"}
    tensors = [(name, rest) for name, rest in tensors_of(program.graph_module) if name in read]
    return Program(assemble(graph, tensors), program.interface, program.example_inputs())
