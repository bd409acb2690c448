"""From a module to a `Program`: one `torch.export`, and an error that names the operator and the user's line where that fails."""

from __future__ import annotations

import contextlib
import inspect
import io
import itertools
import logging
import re
import sysconfig
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.export import ExportedProgram

from laconic.core import structure
from laconic.core.errors import BadInput, CaptureError
from laconic.core.program import Interface, Program, Tensors, TensorSpec, as_call, assemble, aten, dynamic_shape

Dynamic = Mapping[str, Mapping[int, str]]

# What a message of torch.export contains, and the usual mend.
MENDS = (
    (
        "data-dependent",
        "the value of a tensor decides what runs. Write the branch with torch.where or torch.cond, or move it out of forward.",
    ),
    ("_local_scalar_dense", "a tensor is turned into a Python number (.item(), int(), if). Keep it a tensor."),
    (
        "Could not guard",
        "the value of a tensor decides what runs. Write the branch with torch.where or torch.cond, or move it out of forward.",
    ),
    (
        "specialized",
        "the model fixes a dimension that was to stay dynamic. Make it independent of that size, or capture with dynamic_batch=False.",
    ),
    (
        "Constraints violated",
        "the model fixes a dimension that was to stay dynamic. Make it independent of that size, or capture with dynamic_batch=False.",
    ),
    ("nonzero", "an operator returns a number of values that depends on the data. Use a mask of fixed shape (torch.where)."),
)
# Wrappers that `with torch.no_grad()` and `with torch.autocast()` leave in the graph: positions of the subgraph and of its first input.
_REGIONS = {"wrap_with_set_grad_enabled": 1, "wrap_with_autocast": 4}
_CHECKS = (
    aten._assert_tensor_metadata.default,
    aten._assert_scalar.default,
    aten.sym_constrain_range_for_size.default,
    aten.sym_constrain_range.default,
)


def capture(model: nn.Module, example: Any, *, dynamic: Dynamic | None = None, dynamic_batch: bool = True) -> Program:
    """Capture a module as one graph of ATen operators. The module itself is not changed, and its tensors are copied.

    Args:
        model: the module; it is captured in eval mode, whichever mode it is in.
        example: its inputs: a tensor or a tuple (positional), or a mapping (keywords). Dimension 0 of the first tensor is the batch; a batch of one is doubled,
            since `torch.export` would fix it.
        dynamic: further dynamic dimensions by input name, e.g. `{"input_ids": {1: "length"}}`.
        dynamic_batch: keep dimension 0 dynamic in every input that shares it.

    Returns:
        The program, in eval mode.

    Raises:
        CaptureError: names the operator, the line of the model and the usual mend.
        BadInput: the example cannot be passed to the model.
    """
    if isinstance(model, Program):
        return model
    args, kwargs = as_call(example)
    names = argument_names(model, args, kwargs)
    values = dict(zip(names, [*args, *kwargs.values()], strict=True))
    leaves: list[Tensor] = []
    input_structure = structure.describe(values, leaves)
    if not leaves:
        raise BadInput("the example holds no tensor; give the model's inputs as a tensor, a tuple or a mapping")
    leaves = _two_or_more([leaf.detach() for leaf in leaves]) if dynamic_batch else [leaf.detach() for leaf in leaves]
    specs = _specs(input_structure, leaves, dynamic or {}, dynamic_batch)
    outputs: list[structure.Spec] = []

    def forward(*flat: Tensor) -> tuple[Tensor, ...]:
        bound = structure.build(input_structure, iter(flat))
        result = type(model).forward(
            model, *[bound[name] for name in names[: len(args)]], **{name: bound[name] for name in names[len(args) :]}
        )
        found: list[Tensor] = []
        outputs.append(structure.describe(result, found, "output"))
        return tuple(found)

    exported = _export(model, forward, leaves, specs)
    graph, unchanged = plain_graph(exported)
    interface = Interface(specs, _output_specs(graph, outputs[-1], specs, leaves), input_structure, outputs[-1], tuple(_notes(graph)))
    return Program(assemble(graph, tensors_in(exported)), interface, leaves, exported if unchanged else None)


def argument_names(model: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[str]:
    """Return the names under which the arguments of this call are known: those of `forward`, numbered for `*args`."""
    signature = inspect.signature(model.forward)
    try:
        bound = signature.bind(*args, **kwargs)
    except TypeError as error:
        raise BadInput(f"{type(model).__name__}.forward{signature} cannot be called with this example: {error}") from error
    positional = []
    for name, value in bound.arguments.items():
        kind = signature.parameters[name].kind
        positional += [f"{name}_{i}" for i in range(len(value))] if kind is inspect.Parameter.VAR_POSITIONAL else [name]
    return [*positional[: len(args)], *kwargs]


def _two_or_more(leaves: list[Tensor]) -> list[Tensor]:
    """Double a batch of one: `torch.export` takes a size of 1 for a constant."""
    if leaves[0].dim() == 0 or leaves[0].shape[0] != 1:
        return leaves
    return [leaf.repeat_interleave(2, 0) if leaf.dim() and leaf.shape[0] == 1 else leaf for leaf in leaves]


def _specs(spec: structure.Spec, leaves: Sequence[Tensor], dynamic: Dynamic, dynamic_batch: bool) -> tuple[TensorSpec, ...]:
    names = list(structure.places(spec, ""))
    unknown = [name for name in dynamic if name not in names]
    if unknown:
        raise BadInput(f"dynamic names the input '{unknown[0]}', which the model does not have; it has {', '.join(names)}")
    batch = leaves[0].shape[0] if leaves[0].dim() else None
    specs = []
    for name, leaf in zip(names, leaves, strict=True):
        shape: list[int | str] = list(leaf.shape)
        if dynamic_batch and shape and shape[0] == batch:
            shape[0] = "batch"
        for index, label in dynamic.get(name, {}).items():
            if not -len(shape) <= index < len(shape):
                raise BadInput(f"dynamic names dimension {index} of '{name}', which has {len(shape)} dimensions")
            shape[index] = label
        specs.append(TensorSpec(name, tuple(shape), str(leaf.dtype).removeprefix("torch.")))
    return tuple(specs)


@contextlib.contextmanager
def _borrowed(model: nn.Module, forward: Callable[..., Any]) -> Iterator[None]:
    """The module in eval mode with a forward on flat tensors; given back as it was."""
    modes = [(module, module.training) for module in model.modules()]
    before = model.__dict__.get("forward")
    model.eval()
    model.__dict__["forward"] = forward
    try:
        yield
    finally:
        del model.__dict__["forward"]
        if before is not None:
            model.__dict__["forward"] = before
        for module, training in modes:
            module.training = training


@contextlib.contextmanager
def quiet_export() -> Iterator[None]:
    """Keep the exporters' own warnings and log lines from the reader; what matters of them is raised."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _export(model: nn.Module, forward: Callable[..., Any], leaves: Sequence[Tensor], specs: Sequence[TensorSpec]) -> ExportedProgram:
    with _borrowed(model, forward), quiet_export():
        try:
            return torch.export.export(model, tuple(leaves), dynamic_shapes=(tuple(dynamic_shape(spec) for spec in specs),), strict=False)
        except BadInput:
            raise
        except Exception as error:
            raise CaptureError(explain(model, error)) from error


def explain(model: nn.Module, error: BaseException) -> str:
    """What stopped `torch.export`: the operator, the line in the user's file and the usual mend."""
    text = str(error)
    line = _user_line(error)
    mend = next(
        (mend for pattern, mend in MENDS if pattern in text or pattern in line),
        "Try torch.export.draft_export(model, example) for a full account.",
    )
    parts = [f"{type(model).__name__} cannot be captured"]
    if operator := _operator(error):
        parts.append(f"operator {operator}")
    if line:
        parts.append(line)
    reason = next((row.strip() for row in text.splitlines() if row.strip()), type(error).__name__)
    return f"{'; '.join(parts)}. {type(error).__name__}: {reason[:400]} Usual mend: {mend}"


def _operator(error: BaseException) -> str:
    """The ATen operator that was being traced: the innermost one that a frame of PyTorch held, or one that the message names."""
    held = [
        value
        for frame, _ in traceback.walk_tb(error.__traceback__)
        for value in frame.f_locals.values()
        if isinstance(value, torch._ops.OpOverload)
    ]
    named = re.search(r"aten[.:]+[a-zA-Z_]\w*(?:\.\w+)?", str(error))
    if held or named:
        return str(held[-1]) if held else named[0] if named else ""
    return "aten.item (Python reads the value of a tensor)" if "data-dependent" in str(error) else ""


def _user_line(error: BaseException) -> str:
    """The innermost line that is neither PyTorch's, Python's nor ours."""
    ours = (str(Path(torch.__file__).parent), str(Path(__file__).parent), sysconfig.get_paths()["stdlib"])
    chain: BaseException | None = error
    while chain is not None:
        for frame in reversed(traceback.extract_tb(chain.__traceback__)):
            outside = "site-packages" in frame.filename or not frame.filename.startswith(ours[2])
            if outside and not frame.filename.startswith(ours[:2]) and not frame.filename.startswith("<"):
                return f'line {frame.lineno} of {frame.filename}, in {frame.name}: "{frame.line}"'
        chain = chain.__cause__ or chain.__context__
    return ""


def plain_graph(exported: ExportedProgram) -> tuple[fx.Graph, bool]:
    """The graph with parameters as attributes, without checks and regions, and whether it had no region to begin with."""
    module = exported.module(check_guards=False)
    graph = module.graph
    graph.set_codegen(fx.graph.CodeGen())
    inlined = _inline_regions(module)
    for node in reversed(list(graph.nodes)):
        if node.target in _CHECKS or (node.op == "call_module" and "_guards_fn" in str(node.target)):
            graph.erase_node(node)
    for node in reversed(list(graph.nodes)):
        if not node.users and (node.op == "get_attr" or "sym_size" in str(node.target)):
            graph.erase_node(node)
    return graph, not inlined


def _inline_regions(module: Any) -> int:
    """Replace `no_grad` and `autocast` regions by their content and count them; what was computed without gradient is detached."""
    graph, count = module.graph, 0
    for node in list(graph.nodes):
        first = _REGIONS.get(str(getattr(node.target, "__name__", "")))
        if first is None:
            continue
        inner = module.get_submodule(node.args[first].target)
        inner_inputs = [n for n in inner.graph.nodes if n.op == "placeholder"]
        values = dict(zip(inner_inputs, node.args[first + 1 :], strict=True))
        with graph.inserting_before(node):
            results = graph.graph_copy(inner.graph, values)
            if node.target.__name__ == "wrap_with_set_grad_enabled" and node.args[0] is False:
                results = fx.node.map_arg(results, lambda n: _detached(graph, n))
        for user in list(node.users):
            user.replace_all_uses_with(results[user.args[1]])
            graph.erase_node(user)
        graph.erase_node(node)
        count += 1
    return count


def _detached(graph: fx.Graph, node: fx.Node) -> fx.Node:
    twin = graph.call_function(aten.detach.default, (node,))
    twin.meta = dict(node.meta)
    return twin


def tensors_in(exported: ExportedProgram) -> Tensors:
    """Parameters, buffers and lifted constants with their names."""
    signature = exported.graph_signature
    parameters, transient = set(signature.parameters), set(signature.non_persistent_buffers)
    found: Tensors = [(name, (value, name in parameters, name not in transient)) for name, value in exported.state_dict.items()]
    return found + [(name, (value, False, False)) for name, value in exported.constants.items() if isinstance(value, Tensor)]


def _output_specs(graph: fx.Graph, spec: structure.Spec, inputs: Sequence[TensorSpec], leaves: Sequence[Tensor]) -> tuple[TensorSpec, ...]:
    """Names, shapes and dtypes of the outputs; a dimension that carries an input's symbol carries its name."""
    symbols: dict[str, str] = {}
    placeholders = [node for node in graph.nodes if node.op == "placeholder"]
    for node, given in zip(placeholders, inputs, strict=True):
        for size, label in zip(node.meta["val"].shape, given.shape, strict=True):
            if isinstance(label, str):
                symbols.setdefault(str(size), label)
    counter = itertools.count()
    names = [name or "output" for name in structure.places(spec, "")]
    specs = []
    results: Any = graph.output_node().args[0]
    for name, node in zip(names, results, strict=True):
        shape = tuple(size if isinstance(size, int) else symbols.get(str(size), f"dim{next(counter)}") for size in node.meta["val"].shape)
        specs.append(TensorSpec(name, shape, str(node.meta["val"].dtype).removeprefix("torch.")))
    return tuple(specs)


def _notes(graph: fx.Graph) -> Iterator[str]:
    """What training the program would do otherwise than training the module."""
    if any(node.target is aten.scaled_dot_product_attention.default for node in graph.nodes):
        yield "dropout inside scaled_dot_product_attention, if the module has any, is not applied when the program trains"
    if any(node.target is aten.batch_norm.default and node.args[6] == 0.0 for node in graph.nodes):
        yield "a batch-norm with momentum=None (cumulative average) does not update its statistics when the program trains"
