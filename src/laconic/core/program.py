"""The captured model: one graph of ATen operators that trains, saves, loads and exports.

`capture` runs `torch.export` once, in eval mode, on flat tensors (see `structure`), and keeps the result as a plain `fx.GraphModule`. Batch-norm, dropout and
recurrent nodes carry their mode as an argument; `Program.train()` and `Program.eval()` set it, which PyTorch's own exported module refuses.
"""

from __future__ import annotations

import copy
import hashlib
import html
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.export import ExportedProgram

from laconic.core import pt2, structure
from laconic.core.assembly import assemble, tensors_of
from laconic.core.errors import BadInput
from laconic.core.example import generate
from laconic.core.interface import Interface as Interface
from laconic.core.interface import TensorSpec as TensorSpec
from laconic.core.interface import as_call as as_call
from laconic.core.interface import signature
from laconic.core.model import show_signature
from laconic.core.norms import insert_checks, normalizes_by_batch, remove_checks
from laconic.core.operators import OPERATORS, argument, family_of, set_argument
from laconic.core.origin import module_path
from laconic.core.reading import reads
from laconic.core.recurrent import traced_by_shape

aten = torch.ops.aten


class Program(nn.Module):
    """A captured model: an `nn.Module` whose forward is a graph of ATen operators.

    Parameters and buffers keep the names that they had in the module. It is made by `capture` or `Program.load`.

    `inspect.signature(program.forward)` names its inputs as the module's did, for loops that choose a batch's columns by them.

    Attributes:
        graph_module: flat tensors in, a flat tuple of tensors out. Passes edit it and then call `recompile`.
        interface: names, shapes and nesting of inputs and outputs, and how example inputs are made.
    """

    graph_module: fx.GraphModule
    _training: bool

    def __init__(
        self,
        graph_module: fx.GraphModule,
        interface: Interface,
        example: Sequence[Tensor] | None = None,
        exported: ExportedProgram | None = None,
    ) -> None:
        super().__init__()
        self.interface = interface
        self._example = None if example is None else tuple(t.detach() for t in example)  # None: made when it is asked for
        self._exported = exported
        self._exported_code = ""
        # Kept out of the registry of submodules, and sharing its registries, so that names carry no prefix.
        self.__dict__["graph_module"] = graph_module
        for registry in ("_parameters", "_buffers", "_modules", "_non_persistent_buffers_set"):
            self.__dict__[registry] = graph_module.__dict__[registry]
        self._norms_frozen = False
        self._checks: list[fx.Node] = []  # of norms, in the graph in training mode only
        self.recompile()
        self.__dict__["_training"] = False
        show_signature(self, signature(interface))
        if exported is not None:
            self._exported_code = self._shape_code()

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """The flat inputs, in order."""
        return self.interface.inputs

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """The flat outputs, in order."""
        return self.interface.outputs

    def __repr__(self) -> str:
        return "\n".join(
            [f"Program({self._facts()})", *(f"  {kind} {spec.name} {_shape(spec)} {spec.dtype}" for kind, spec in self._specs())]
        )

    def _repr_html_(self) -> str:
        """Return its inputs and outputs as a table, for notebooks."""
        cells = ([kind, spec.name, _shape(spec), spec.dtype] for kind, spec in self._specs())
        rows = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in cells)
        head = "<tr><th></th><th>name</th><th>shape</th><th>type</th></tr>"
        notes = "".join(f"<li>{html.escape(note)}</li>" for note in self.interface.notes)
        return f"<b>Program</b> {html.escape(self._facts())}<table>{head}{rows}</table>" + (f"<ul>{notes}</ul>" if notes else "")

    def _specs(self) -> Iterator[tuple[str, TensorSpec]]:
        yield from (("input", spec) for spec in self.inputs)
        yield from (("output", spec) for spec in self.outputs)

    def _facts(self) -> str:
        numbers = sum(parameter.numel() for parameter in self.parameters())
        operators = sum(node.op == "call_function" for node in self.graph.nodes)
        return f"{numbers:,} parameters, {operators} operators, in {'training' if self.training else 'evaluation'} mode"

    @property
    def graph(self) -> fx.Graph:
        """The graph of ATen operators."""
        return self.graph_module.graph

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the model as it was called at capture."""
        if self.training:
            for counter in self._counters:
                counter.add_(1)
        leaves = self.graph_module.forward(*self.interface.bind(args, kwargs))
        return self.unflatten_outputs(leaves)

    def call(self, inputs: Any) -> Any:
        """Run on inputs written as a tensor, a tuple (positional) or a mapping (keywords); see `as_call`."""
        args, kwargs = as_call(inputs)
        return self(*args, **kwargs)

    def flatten_inputs(self, inputs: Any) -> tuple[Tensor, ...]:
        """Return the flat tensors of `inputs` (written as for `call`; numpy arrays are taken too), in the order of `self.inputs`."""
        args, kwargs = as_call(inputs)
        return tuple(self.interface.bind(args, kwargs))

    def unflatten_outputs(self, leaves: Sequence[Any]) -> Any:
        """Nest flat outputs (tensors or arrays, in the order of `self.outputs`) as the model returns them."""
        spec = self.interface.output_structure
        return leaves[0] if spec["kind"] == "tensor" else structure.build(spec, iter(leaves))

    def example_inputs(self) -> tuple[Tensor, ...]:
        """Return flat inputs of the shapes, types and coarse ranges of those at capture, batch 2 or more; generated, never anybody's data."""
        if self._example is None:
            device = self._device()
            made = generate(self.interface.samples)
            self._example = made if device is None else tuple(t.to(device) for t in made)
        return self._example

    def _device(self) -> torch.device | None:
        return next((t.device for t in [*self.parameters(), *self.buffers()]), None)

    @property
    def training(self) -> bool:
        """Whether it is in training mode. Setting it sets the mode, as `train()` and `eval()` do: loops that restore modes set it alone."""
        return self._training

    @training.setter
    def training(self, mode: bool) -> None:
        before = self.__dict__.get("_training", mode)  # none while `nn.Module` is set up
        self.__dict__["_training"] = mode
        if mode != before:
            self._set_modes(mode)

    def _set_modes(self, mode: bool) -> None:
        """Let the mode arguments of batch-norm, dropout and recurrent nodes follow."""
        for node, index in self._mode_nodes:
            set_argument(node, index, mode and not (self._norms_frozen and family_of(node) == "batch norm"))
        remove_checks(self.graph, self._checks)
        self._checks = insert_checks(self.graph, [node for node in self.graph.nodes if normalizes_by_batch(node)] if mode else ())
        self.graph_module.recompile()

    def freeze_batch_norm(self) -> None:
        """Let batch-norms use their running statistics in training mode too from now on, and no longer change them."""
        if self._norms_frozen:
            return
        self._norms_frozen, training = True, self.training
        self.eval()
        self._counters = list(self._batch_counters())
        self.train(training)

    def recompile(self) -> None:
        """Make edits of the graph take effect. The graph must be in eval mode, as every pass finds it."""
        rows = ((node, OPERATORS.get(node.target)) for node in self.graph.nodes)
        modes = ((node, row.mode) for node, row in rows if row is not None and row.mode is not None)
        frozen = frozenset(self.interface.frozen)
        self._mode_nodes = [(node, index) for node, index in modes if argument(node, index) is False and module_path(node) not in frozen]
        self._counters = list(self._batch_counters())
        self.graph_module.graph.lint()
        self.graph_module.recompile()

    def _batch_counters(self) -> Iterator[Tensor]:
        if self._norms_frozen:
            return
        buffers = dict(self.graph_module.named_buffers())
        for node, _ in self._mode_nodes:
            if family_of(node) == "batch norm" and isinstance(node.args[3], fx.Node):
                name = str(node.args[3].target).removesuffix("running_mean") + "num_batches_tracked"
                if name in buffers:
                    yield buffers[name]

    def _apply(self, fn: Any, recurse: bool = True) -> Program:
        before = self._device()
        super()._apply(fn, recurse)
        device = self._device()
        self._counters = list(self._batch_counters())
        if device is not None and device != before:
            self._example = None if self._example is None else tuple(t.to(device) for t in self._example)
            self._exported = None
            for node in self.graph.nodes:
                if node.kwargs.get("device") is not None:
                    node.update_kwarg("device", device)
            self.graph_module.recompile()
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Program:
        was_training = self.training
        self.eval()
        try:
            twin = Program(assemble(copy.deepcopy(self.graph), tensors_of(self.graph_module), memo), self.interface, self._example)
            twin._norms_frozen = self._norms_frozen
        finally:
            self.train(was_training)
        return twin.train(was_training)

    def exported(self) -> ExportedProgram:
        """Return the eval graph as a `torch.export.ExportedProgram` with flat inputs and outputs, parameters shared with this program."""
        if self.training:
            return copy.deepcopy(self).eval().exported()
        tensors = dict(tensors_of(self.graph_module))
        if self._exported is None or self._exported_code != self._shape_code():
            shapes = tuple(dynamic_shape(spec) for spec in self.inputs)
            with traced_by_shape():
                self._exported = torch.export.export(self.graph_module, self.example_inputs(), dynamic_shapes=shapes, strict=False)
            self._exported_code = self._shape_code()
        for name in self._exported.state_dict:
            self._exported.state_dict[name] = tensors[name][0]
        for name in self._exported.constants:
            if name in tensors:
                self._exported.constants[name] = tensors[name][0]
        return self._exported

    def _shape_code(self) -> str:
        shapes = [f"{name}{tuple(value.shape)}" for name, (value, *_) in tensors_of(self.graph_module)]
        return self.graph_module.code + ",".join(shapes)

    def fingerprint(self) -> str:
        """Return the SHA-256 over the eval graph and all tensors: equal programs have equal fingerprints, whatever their nodes are called."""
        was_training = self.training
        self.eval()
        digest = hashlib.sha256("\n".join(canonical(self.graph)).encode())
        self.train(was_training)
        for name, (value, *_) in sorted(tensors_of(self.graph_module), key=lambda item: item[0]):
            digest.update(f"{name}{value.dtype}{tuple(value.shape)}".encode())
            digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()

    def save(self, path: str | Path) -> Path:
        """Write a `.pt2` that `Program.load` and `torch.export.load` read. A program in training mode is written in eval mode, as every file is."""
        return pt2.write(self.exported(), self.interface, Path(path))

    @staticmethod
    @reads("a .pt2 written by Laconic", "Save the program again; a file of torch.export.save is captured anew with laconic.capture.")
    def load(path: str | Path) -> Program:
        """Read a `.pt2` written by `save`. Nothing of it is unpickled, evaluated or put into code; see `docs/security.md`.

        Raises:
            CorruptFile: truncated, altered, another kind of file, or one that would have to be unpickled or evaluated.
        """
        graph_module, interface, exported = pt2.read(Path(path))
        return Program(graph_module, interface, exported=exported)


def _shape(spec: TensorSpec) -> str:
    return "(" + ", ".join(map(str, spec.shape)) + ("," if len(spec.shape) == 1 else "") + ")"


def as_program(value: Any, where: str) -> Program:
    """Return a program that was given as one.

    Args:
        value: what was given.
        where: who asks; begins the message.

    Raises:
        BadInput: it is none; says how to make one of a module.
    """
    if isinstance(value, Program):
        return value
    raise BadInput(
        f"{where} takes a Program; it was given an object of the class {type(value).__name__}. Capture the module first: "
        "program = laconic.capture(model, example)."
    )


def dynamic_shape(spec: TensorSpec) -> dict[int, Any]:
    """Return the dynamic dimensions of an input, as `torch.export` takes them."""
    return {index: torch.export.Dim.DYNAMIC for index, dim in enumerate(spec.shape) if isinstance(dim, str)}


def canonical(graph: fx.Graph) -> Iterator[str]:
    """Write one line per operator, with inputs and results numbered in order and parameters by name."""
    names: dict[fx.Node, str] = {}
    counter = itertools.count()
    for node in graph.nodes:
        names[node] = f"<{node.target}>" if node.op == "get_attr" else f"%{next(counter)}"
        if node.op != "get_attr":
            arguments = fx.node.map_arg((node.args, node.kwargs), lambda n: names[n])
            yield f"{names[node]} = {node.op} {node.target if node.op == 'call_function' else ''} {arguments}"
