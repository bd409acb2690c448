"""Edits and readings of a program's graph that several passes share."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from laconic.core.errors import BadInput, nearest
from laconic.core.fake_quant import LEARNED_CHANNEL, PER_CHANNEL, is_fake_quant
from laconic.core.norms import insert_checks, remove_checks
from laconic.core.program import DROPOUTS, Program, argument, assemble, aten, set_argument, tensors_of
from laconic.core.records import Outcome, Skipped
from laconic.core.step import step
from laconic.core.task import Context

_CONVOLUTIONS = {
    *(aten.conv1d.default, aten.conv2d.default, aten.conv3d.default),
    *(aten.conv1d.padding, aten.conv2d.padding, aten.conv3d.padding),
}
_FOLDABLE = _CONVOLUTIONS | {aten.linear.default}


def module_path(node: fx.Node) -> str:
    """The dotted path of the module that a node came from, e.g. ``layer3.1.conv1``; empty for the model itself.

    Repeated calls of one module carry a suffix ``@1``, ``@2`` in PyTorch's metadata, which is dropped.
    """
    stack = [path for path, _ in (node.meta.get("nn_module_stack") or {}).values() if not path.startswith("_empty_nn_module_stack")]
    return stack[-1].partition("@")[0] if stack else ""


def module_type(node: fx.Node) -> str:
    """The class name of the module that a node came from, e.g. ``Conv2d``; empty where PyTorch kept none."""
    stack = [kind for path, kind in (node.meta.get("nn_module_stack") or {}).values() if not path.startswith("_empty_nn_module_stack")]
    kind = stack[-1] if stack else ""
    return (kind if isinstance(kind, str) else kind.__name__).rpartition(".")[2]


def module_outputs(program: Program) -> dict[str, fx.Node]:
    """For each module path, the last node that was computed inside it: the module's output."""
    found: dict[str, fx.Node] = {}
    for node in program.graph.nodes:
        if node.op != "call_function":
            continue
        for path, _ in (node.meta.get("nn_module_stack") or {}).values():
            name = path.partition("@")[0]
            if name and not name.startswith("_empty_nn_module_stack"):
                found[name] = node
    return found


def taps(program: Program, paths: Iterable[str]) -> Callable[..., tuple[Any, dict[str, Tensor]]]:
    """A function that runs the program and also returns what the modules at `paths` put out.

    Args:
        program: the program; its parameters are shared, not copied, so gradients reach it.
        paths: module paths as in the original model, e.g. ``layer3.1``. A module called several times is tapped at its last call.

    Returns:
        `(*args, **kwargs) -> (outputs, {path: tensor})`.

    Raises:
        BadInput: there is no such path; names the nearest.
    """
    outputs = module_outputs(program)
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
class Value:
    """Shape and dtype of what a node makes of the example inputs."""

    shape: tuple[int, ...]
    dtype: torch.dtype


def shapes(program: Program) -> dict[fx.Node, Value]:
    """Run the example inputs and tell shape and dtype of every tensor in the graph; B, the batch, is the example's."""
    found: dict[fx.Node, Value] = {}

    class Run(fx.Interpreter):
        def run_node(self, n: fx.Node) -> Any:
            result = super().run_node(n)
            if isinstance(result, Tensor):
                found[n] = Value(tuple(result.shape), result.dtype)
            return result

    with torch.no_grad():
        Run(program.graph_module).run(*program.example_inputs())
    return found


@dataclass(frozen=True)
class FoldBatchNorm:
    """Merge each batch-norm into the convolution or linear layer before it. Exact up to rounding; has no options."""


@step("fold_batch_norm")
def fold_batch_norm(program: Program, config: FoldBatchNorm | None = None, context: Context | None = None) -> tuple[Program, Outcome]:
    """Fold batch-norms in eval mode into the weights before them (Jacob et al. 2018, section 3.2, eq. 14).

    A batch-norm is folded when its input is a convolution or linear layer that nobody else reads, with weights that nobody else uses.

    Returns:
        A new program, and how many were folded; those that were not are listed with the reason.
    """
    program = copy.deepcopy(program).eval()
    folded, skipped = 0, []
    for node in [n for n in program.graph.nodes if n.target is aten.batch_norm.default]:
        reason = _fold(program, node)
        folded += reason is None
        if reason is not None:
            skipped.append(Skipped(module_path(node) or node.name, reason))
    return clean(program), Outcome("fold_batch_norm", {"folded": folded}, tuple(skipped))


def _fold(program: Program, norm: fx.Node) -> str | None:
    layer: Any = norm.args[0]
    if not isinstance(layer, fx.Node) or layer.target not in _FOLDABLE:
        return "its input is not a convolution or linear layer"
    if len(layer.users) > 1:
        return f"the output of {module_path(layer) or layer.name} is read elsewhere too"
    if argument(norm, 5):
        return "it normalises with batch statistics also in eval mode"
    weight: Any = layer.args[1]
    rounded = weight if is_fake_quant(weight) and weight.target in (PER_CHANNEL, LEARNED_CHANNEL) and len(weight.users) == 1 else None
    weight = weight if rounded is None else rounded.args[0]
    bias: Any = argument(layer, 2)
    shared = [n for n in (weight, bias) if isinstance(n, fx.Node) and (n.op != "get_attr" or len(_readers(program, n)) > 1)]
    if shared:
        return f"the weights of {module_path(layer) or layer.name} are shared or computed"
    statistics: Any = norm.args[1:5]
    gamma, beta, mean, var = (None if n is None else get_tensor(program, n) for n in statistics)
    assert mean is not None
    assert var is not None
    with torch.no_grad():
        kernel = get_tensor(program, weight).double()
        scale = (var.double() + argument(norm, 7)).rsqrt()
        scale = scale if gamma is None else scale * gamma.double()
        old = torch.zeros_like(scale) if bias is None else get_tensor(program, bias).double()
        shift = (old - mean.double()) * scale + (0.0 if beta is None else beta.double())
        dtype = get_tensor(program, weight).dtype
        set_parameter(program, weight.target, (kernel * scale.view(-1, *[1] * (kernel.dim() - 1))).to(dtype))
        if rounded is not None:  # a rounded kernel times a factor is the kernel times the factor, rounded with the step times its magnitude
            step = get_tensor(program, rounded.args[1])
            step.data = (step.double().abs() * scale.abs()).to(step.dtype)
        if bias is not None:
            set_parameter(program, bias.target, shift.to(dtype))
        else:
            name = free_name(program, f"{str(weight.target).removesuffix('weight')}bias")
            set_parameter(program, name, shift.to(dtype))
            with program.graph.inserting_before(layer):
                node = program.graph.get_attr(name)
            _set_bias(layer, node)
    norm.replace_all_uses_with(layer)
    program.graph.erase_node(norm)
    return None


@torch.no_grad()
def reestimate_batch_norm(program: Program, batches: Iterable[Sequence[Tensor]]) -> int:
    """Replace the running statistics by the mean over the batches of each batch's own (Sun et al. 2019, section 3.3); returns how many norms have some.

    Args:
        program: changed in place, left in eval mode.
        batches: flat inputs, each of two or more examples.

    Raises:
        BadInput: a batch-norm is given one value per channel.
    """
    norms = [n for n in program.graph.nodes if n.target is aten.batch_norm.default and isinstance(n.args[3], fx.Node)]
    if not norms:
        return 0
    momenta = [argument(n, 6) for n in norms]
    modes = [(n, argument(n, 5)) for n in norms]
    checks = insert_checks(program.graph, norms)
    try:
        for n in norms:
            set_argument(n, 5, True)
        for index, leaves in enumerate(batches):
            for n in norms:
                set_argument(n, 6, 1.0 / (index + 1))
            program.graph_module.recompile()
            program.graph_module(*leaves)
    finally:
        remove_checks(program.graph, checks)
        for (n, mode), momentum in zip(modes, momenta, strict=True):
            set_argument(n, 5, mode)
            set_argument(n, 6, momentum)
        program.graph_module.recompile()
    return len(norms)


def _set_bias(layer: fx.Node, bias: fx.Node) -> None:
    args = list(layer.args)
    if len(args) > 2:
        args[2] = bias
    else:
        args.append(bias)
    layer.args = tuple(args)


def _readers(program: Program, attribute: fx.Node) -> list[fx.Node]:
    """Every use of the tensor behind an attribute node, also through other attribute nodes and tied names."""
    tensor = get_tensor(program, attribute)
    same = [n for n in program.graph.nodes if n.op == "get_attr" and get_tensor(program, n) is tensor]
    return [user for n in same for user in n.users]


def get_tensor(program: Program, node: fx.Node) -> Tensor:
    """The parameter or buffer that a `get_attr` node reads."""
    owner, _, leaf = str(node.target).rpartition(".")
    value = getattr(program.graph_module.get_submodule(owner), leaf)
    assert isinstance(value, Tensor)
    return value


def set_parameter(program: Program, name: str, value: Tensor) -> None:
    """Put a new parameter (or replace one) under a dotted name."""
    owner, _, leaf = name.rpartition(".")
    module = program.graph_module.get_submodule(owner)
    module.register_parameter(leaf, nn.Parameter(value.contiguous()))


def free_name(program: Program, wanted: str) -> str:
    """A name for a new tensor: the wanted one, with a number behind it where a tensor or a module has it already."""
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
    if not any(node.target in DROPOUTS for node in program.graph.nodes):
        return program
    found = copy.deepcopy(program)
    for node in list(found.graph.nodes):
        if node.target in DROPOUTS:
            node.replace_all_uses_with(node.args[0])
            found.graph.erase_node(node)
        elif node.target is aten.squeeze.dim and node.args[0].target is aten.unsqueeze.default and node.args[0].args[1] == node.args[1]:
            node.replace_all_uses_with(node.args[0].args[0])
    return clean(found)


def clean(program: Program) -> Program:
    """Drop what no output needs: dead operators, and the tensors that only they read."""
    graph = copy.deepcopy(program.graph)
    graph.eliminate_dead_code()
    for node in reversed(list(graph.nodes)):
        if node.op == "get_attr" and not node.users:
            graph.erase_node(node)
    read = {str(node.target) for node in graph.nodes if node.op == "get_attr"}
    tensors = [(name, rest) for name, rest in tensors_of(program.graph_module) if name in read]
    return Program(assemble(graph, tensors), program.interface, program.example_inputs())
