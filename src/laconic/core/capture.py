"""From a module to a `Program`: one `torch.export`, and an error that names the operator and the user's line where that fails."""

from __future__ import annotations

import contextlib
import functools
import itertools
import re
import sysconfig
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.export import ExportedProgram

from laconic.core import capture_checks, cuts, known_stops, precision, structure
from laconic.core.allowed import written
from laconic.core.assembly import assemble
from laconic.core.axes import resize
from laconic.core.capture_limits import CaptureLimits
from laconic.core.capture_sizes import wrong_sizes
from laconic.core.capture_training import frozen_parts, training_note
from laconic.core.errors import BadInput, CaptureError
from laconic.core.example import Sample, generate, samples_like
from laconic.core.exported import plain_graph, quiet_export, tensors_in
from laconic.core.fields import typed
from laconic.core.interface import Interface, TensorSpec, argument_names, as_call
from laconic.core.model import as_module
from laconic.core.modes import evaluating
from laconic.core.program import Program, dynamic_shape
from laconic.core.recurrent import traced_by_shape

Dynamic = Mapping[str, Mapping[int, str]]

# What a message of torch.export, or the line that stopped it, contains, and the usual mend.
REMEDIES = (
    *known_stops.LINES,
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
        "the model fixes a dimension that was to stay dynamic. Make it independent of that size (x.shape[0] in the place of len(x), which makes a Python "
        "number of it), or capture with dynamic_batch=False.",
    ),
    (
        "was assigned during export",
        "forward keeps a tensor as an attribute of the module. Make such state an input and an output of forward.",
    ),
    (
        "fake tensor in the exported program constant",
        "forward makes a tensor that tracing cannot see, for instance through .data. Use operators alone.",
    ),
    ("nonzero", "an operator returns a number of values that depends on the data. Use a mask of fixed shape (torch.where)."),
)


@typed("model", "example")
def capture(model: nn.Module, example: Any, *, dynamic: Dynamic | None = None, dynamic_batch: bool = True) -> Program:
    """Capture a module as one graph of ATen operators. The module itself is not changed, and its tensors are copied.

    Args:
        model: the module; it is captured in eval mode, whichever mode it is in.
        example: its inputs: a tensor or a tuple (positional), or a mapping (keywords). Dimension 0 of the first tensor is the batch; a batch of one is doubled,
            since `torch.export` would fix it. Of the values no more than a coarse range is kept (`core.example`).
        dynamic: further dynamic dimensions by input name, e.g. `{"input_ids": {1: "length"}}`. Where the batch is another dimension it is named so:
            `{"state": {1: "batch"}}`. An input with an empty mapping has none, not even the batch.
        dynamic_batch: keep dimension 0 dynamic in every input that shares it with the first. Without it every call takes as many examples as this one.

    Returns:
        The program, in eval mode.

    Raises:
        CaptureError: names the operator, the module and line where it stands and the usual mend; and parts of the model that can be captured (`core.cuts`).
        BadInput: no module, one that is not in float32 or float64, or an example that cannot be passed to it.
    """
    if isinstance(model, Program):
        return model
    model = as_module(model, "laconic.capture")
    try:
        return _capture(model, example, dynamic or {}, dynamic_batch)
    except CaptureError as error:
        if known_stops.met(error.__cause__):  # which has a mend of its own
            raise
        offered = cuts.offer(model, example, error, lambda part, given: _capture(part, given, {}, dynamic_batch))
        if not offered:
            raise
        raise CaptureError(f"{error} {offered}") from error


def _capture(model: nn.Module, example: Any, dynamic: Dynamic, dynamic_batch: bool) -> Program:
    precision.check_module(model)
    known_stops.check_example(example)
    args, kwargs = as_call(example)
    names = argument_names(model, args, kwargs)
    values = dict(zip(names, [*args, *kwargs.values()], strict=True))
    tensors: list[Tensor] = []
    nesting = structure.describe(values, tensors)
    if not tensors:
        raise BadInput("the example holds no tensor; give the model's inputs as a tensor, a tuple or a mapping")
    call = _Call(model, nesting, names, len(args))
    leaves = [leaf.detach() for leaf in tensors]
    precision.check_inputs(structure.places(nesting, ""), leaves)
    if leaves[0].dim() and len(leaves[0]) == 0:
        raise BadInput(f"the example is a batch of no examples, {tuple(leaves[0].shape)}; give two or more, as the model is given them")
    try:
        return _captured(call, leaves, dynamic, dynamic_batch)
    except Exception as error:
        if isinstance(error, BadInput) and not isinstance(error, CaptureError):
            raise
        if (why := _unanswered(call, leaves)) is not None:
            raise BadInput(f"{type(model).__name__} cannot answer this example ({_told(nesting, leaves)}): {why}") from error
        if not isinstance(error, CaptureError) or not dynamic_batch or known_stops.met(error.__cause__) or not _fits(call, leaves, dynamic):
            raise
        raise CaptureError(
            f"{type(model).__name__} can be captured for batches of exactly this size and no other (dimension 0 of its first input is the batch): capture it "
            "with dynamic_batch=False, give Task(dynamic_batch=False), or make it independent of that size. With a dynamic batch: "
            f"{str(error).partition(' Usual mend:')[0]}"
        ) from error


def _told(nesting: structure.Spec, leaves: Sequence[Tensor]) -> str:
    """Write the inputs' names, shapes and types."""
    named = zip(structure.places(nesting, ""), leaves, strict=True)
    return ", ".join(f"'{name}' {tuple(leaf.shape)} {str(leaf.dtype).removeprefix('torch.')}" for name, leaf in named)


def _unanswered(call: _Call, leaves: Sequence[Tensor]) -> str | None:
    """Return what the module raises of its example without being captured, in one line; None where it answers. Its buffers stay as they are."""
    kept = [(buffer, buffer.clone()) for buffer in call.model.buffers()]
    try:
        with evaluating(call.model), torch.no_grad():
            call.flat(call.model, leaves)
    except (BadInput, NotImplementedError):  # it answers, with what is told otherwise
        return None
    except Exception as error:  # noqa: BLE001 - whatever forward raises
        return f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0][:300]}"
    finally:
        for buffer, value in kept:
            buffer.copy_(value)
    return None


@dataclass(frozen=True)
class _Call:
    """A module and how it is called: the nesting of its arguments by name, and how many are positional."""

    model: nn.Module
    nesting: structure.Spec
    names: Sequence[str]
    positional: int

    def __call__(self, model: nn.Module, leaves: Sequence[Tensor]) -> Any:
        """Call the module with flat inputs, nested as it takes them, and return what forward answers."""
        bound = structure.build(self.nesting, iter(leaves))
        named = {name: bound[name] for name in self.names[self.positional :]}
        return type(model).forward(model, *[bound[name] for name in self.names[: self.positional]], **named)

    def flat(self, model: nn.Module, leaves: Sequence[Tensor]) -> list[Tensor]:
        """Call the module with flat inputs and return the tensors in its answer, in order."""
        outputs: list[Tensor] = []
        structure.describe(self(model, leaves), outputs, "output")
        return outputs


def _traced(
    call: _Call, leaves: Sequence[Tensor], specs: Sequence[TensorSpec]
) -> tuple[ExportedProgram, capture_checks.Recording, structure.Spec]:
    """Run `torch.export`; return what it made, what ran meanwhile, and the nesting of the outputs."""
    nestings: list[structure.Spec] = []

    def forward(*flat: Tensor) -> tuple[Tensor, ...]:
        before = capture_checks.plain_attributes(call.model)
        outputs: list[Tensor] = []
        answer = call(call.model, flat)
        known_stops.check_answer(answer)
        nestings.append(structure.describe(answer, outputs, "output"))
        after = capture_checks.plain_attributes(call.model)
        ran.attributes[:] = [name for name, value in after.items() if before.get(name, value) != value]
        return tuple(outputs)

    with capture_checks.recording() as ran:
        exported = _export(call.model, forward, leaves, specs)
    return exported, ran, nestings[-1]


def _captured(call: _Call, given: Sequence[Tensor], dynamic: Dynamic, dynamic_batch: bool) -> Program:
    specs = _specs(call.nesting, given, dynamic, dynamic_batch)
    leaves = [_two_or_more(leaf, spec) for leaf, spec in zip(given, specs, strict=True)]
    exported, ran, nesting = _traced(call, leaves, specs)
    exported._example_inputs = None  # they are the user's data
    graph, unchanged = plain_graph(exported)
    unchanged = not _leave_inputs_alone(graph) and unchanged
    precision.check_graph(graph)
    module = assemble(graph, tensors_in(exported))
    state = capture_checks.changed_state(module)
    if written := [name for name, _ in module.named_parameters(remove_duplicate=False) if name in (*state.read, *state.unread)]:
        raise CaptureError(
            f"{type(call.model).__name__} cannot be captured: forward changes the parameter '{written[0]}' in place. Compute its new value in another tensor."
        )
    few = functools.partial(resize, specs, sizes={"batch": 2})
    try:
        samples = samples_like(leaves, capture_checks.without_effects(module, state.read), few)
    except Exception as error:  # tracing does not look at every type
        said = f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0][:300]}"
        raise CaptureError(f"the graph of {type(call.model).__name__} does not answer the example: {said}") from error
    with evaluating(call.model):
        lost = capture_checks.lost_gradients(ran.functions, call.model, call.flat, module, leaves)
        if not (ran.attributes or state.read or state.unread):  # what a run leaves behind in the user's module would stay there
            _check_sizes(call, module, specs, leaves)
    dropped = tuple(capture_checks.dropout_notes(graph, call.model))
    notes = [*dropped, *capture_checks.notes(graph, ran, state, lost)]
    if samples is None:
        notes.append("no example inputs could be made on which the model runs: what compares programs on them may fail")
    interface = Interface(
        specs,
        _output_specs(graph, nesting, specs, leaves),
        call.nesting,
        nesting,
        tuple(notes),
        samples or tuple(map(Sample.of, leaves)),
        CaptureLimits(lost, state.read, tuple(ran.autocast)),
        frozen_parts(call.model),
    )
    example = [made.to(leaf.device) for made, leaf in zip(generate(interface.samples), leaves, strict=True)]
    program = Program(module, interface, example, exported if unchanged and not state.unread else None)
    # dropout that is not in the graph is a difference already, and told
    told = None if dropped else training_note(call.model, call.flat, program, few(leaves))
    if told is not None:
        program.interface = replace(interface, notes=(*interface.notes, told))
    return program


def _check_sizes(call: _Call, module: nn.Module, specs: Sequence[TensorSpec], leaves: Sequence[Tensor]) -> None:
    """Refuse a graph that holds for the example's sizes alone."""
    sizes = wrong_sizes(lambda given: call.flat(call.model, given), lambda given: module(*given), specs, leaves)
    if sizes is not None:
        raise CaptureError(
            f"{type(call.model).__name__} cannot be captured with dynamic dimensions: with {sizes} the graph answers otherwise than the module. Forward makes "
            "a Python number of a size (int(), min(), max(), range(), an attribute), which is that of the example from then on. Compute with x.shape as it is, "
            "or keep the size fixed: dynamic_batch=False, or leave the dimension out of dynamic."
        )


def _leave_inputs_alone(graph: fx.Graph) -> int:
    """Let the graph write into copies of the inputs that forward changes in place, and count them: a program changes nothing of its caller's."""
    changed = {base for _, base in written(graph) if base.op == "placeholder"}
    for node in changed:
        with graph.inserting_after(node):
            twin = graph.call_function(torch.ops.aten.clone.default, (node,))
        node.replace_all_uses_with(twin)
        twin.args = (node,)
        twin.meta = dict(node.meta)
    return len(changed)


def _fits(call: _Call, leaves: Sequence[Tensor], dynamic: Dynamic) -> bool:
    """Return whether the module can be captured with a fixed batch."""
    try:
        _captured(call, leaves, dynamic, False)
    except (CaptureError, BadInput):
        return False
    return True


def _two_or_more(leaf: Tensor, spec: TensorSpec) -> Tensor:
    """Double dynamic dimensions of size 1: `torch.export` takes a size of 1 for a constant."""
    for axis, size in enumerate(spec.shape):
        if isinstance(size, str) and leaf.shape[axis] == 1:
            leaf = leaf.repeat_interleave(2, axis)
    return leaf


def _specs(spec: structure.Spec, leaves: Sequence[Tensor], dynamic: Dynamic, dynamic_batch: bool) -> tuple[TensorSpec, ...]:
    names = list(structure.places(spec, ""))
    unknown = [name for name in dynamic if name not in names]
    if unknown:
        raise BadInput(f"dynamic names the input '{unknown[0]}', which the model does not have; it has {', '.join(names)}")
    labels = [_labels(name, leaf, dynamic.get(name, {})) for name, leaf in zip(names, leaves, strict=True)]
    batch = _batch(labels, leaves) if dynamic_batch else None
    specs = []
    for name, leaf, given in zip(names, leaves, labels, strict=True):
        shape: list[int | str] = [given.get(index, size) for index, size in enumerate(leaf.shape)]
        if batch is not None and shape and shape[0] == batch and "batch" not in shape and dynamic.get(name) != {}:
            shape[0] = "batch"
        specs.append(TensorSpec(name, tuple(shape), str(leaf.dtype).removeprefix("torch.")))
    return tuple(specs)


def _labels(name: str, leaf: Tensor, dynamic: Mapping[int, str]) -> dict[int, str]:
    """Return the names of an input's dimensions, counted from the first one."""
    for index in dynamic:
        if not -leaf.dim() <= index < leaf.dim():
            raise BadInput(f"dynamic names dimension {index} of '{name}', which has {leaf.dim()} dimensions")
    return {index % leaf.dim(): label for index, label in dynamic.items()}


def _batch(labels: Sequence[Mapping[int, str]], leaves: Sequence[Tensor]) -> int | None:
    """Return the number of examples: the size of a dimension that is called ``batch``, or else dimension 0 of the first tensor."""
    named = [leaf.shape[index] for given, leaf in zip(labels, leaves, strict=True) for index, label in given.items() if label == "batch"]
    if len(set(named)) > 1:
        raise BadInput(
            f"dynamic calls dimensions of different sizes 'batch': {', '.join(map(str, named))}. In the example all have the same size."
        )
    first = leaves[0].shape[0] if leaves[0].dim() and 0 not in labels[0] else None
    return named[0] if named else first


@contextlib.contextmanager
def _borrowed(model: nn.Module, forward: Callable[..., Any]) -> Iterator[None]:
    """Put the module in eval mode with a forward on flat tensors; give it back as it was."""
    before = model.__dict__.get("forward")
    with evaluating(model):
        model.__dict__["forward"] = forward
        try:
            yield
        finally:
            del model.__dict__["forward"]
            if before is not None:
                model.__dict__["forward"] = before


def _export(model: nn.Module, forward: Callable[..., Any], leaves: Sequence[Tensor], specs: Sequence[TensorSpec]) -> ExportedProgram:
    # where opt_einsum is installed, PyTorch asks it for the order of an einsum of several, which fixes the batch size
    with _borrowed(model, forward), quiet_export(), traced_by_shape(), torch.backends.opt_einsum.flags(enabled=False):
        try:
            return torch.export.export(model, tuple(leaves), dynamic_shapes=(tuple(dynamic_shape(spec) for spec in specs),), strict=False)
        except BadInput:
            raise
        except Exception as error:
            raise CaptureError(explain(model, error)) from error


def explain(model: nn.Module, error: BaseException) -> str:
    """Say what stopped `torch.export`: the operator, the line in the user's file and the usual remedy."""
    text = str(error)
    line = _user_line(error)
    mend = known_stops.met(error) or next(
        (mend for pattern, mend in REMEDIES if pattern in text or pattern in line),
        "Try torch.export.draft_export(model, example) for a full account.",
    )
    parts = [f"{type(model).__name__} cannot be captured"]
    if operator := _operator(error):
        parts.append(f"operator {operator}")
    if path := cuts.stopped_at(model, error):
        parts.append(f"in the module '{path}'")
    if line:
        parts.append(line)
    reason = next((row.strip() for row in text.splitlines() if row.strip()), type(error).__name__)
    return f"{'; '.join(parts)}. {type(error).__name__}: {reason[:400]} Usual mend: {mend}"


def _operator(error: BaseException) -> str:
    """Return the ATen operator that was being traced: the innermost one that a frame of PyTorch held, or one that the message names."""
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
    """Return the innermost line that is neither PyTorch's, Python's nor ours."""
    ours = (str(Path(torch.__file__).parent), str(Path(__file__).parent), sysconfig.get_paths()["stdlib"])
    chain: BaseException | None = error
    while chain is not None:
        for frame in reversed(traceback.extract_tb(chain.__traceback__)):
            outside = "site-packages" in frame.filename or not frame.filename.startswith(ours[2])
            if outside and not frame.filename.startswith(ours[:2]) and not frame.filename.startswith("<"):
                return f'line {frame.lineno} of {frame.filename}, in {frame.name}: "{frame.line}"'
        chain = chain.__cause__ or chain.__context__
    return ""


def _output_specs(graph: fx.Graph, spec: structure.Spec, inputs: Sequence[TensorSpec], leaves: Sequence[Tensor]) -> tuple[TensorSpec, ...]:
    """Return names, shapes and dtypes of the outputs; a dimension that carries an input's symbol carries its name."""
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
