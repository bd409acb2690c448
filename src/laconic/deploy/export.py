"""Lower a program to a file that a runtime reads."""

from __future__ import annotations

import contextlib
import copy
import io
import re
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import fx

from laconic.core.archive import rewrite
from laconic.core.constants import fold_constants
from laconic.core.errors import BadInput, ExportError, need
from laconic.core.exported import quiet_export
from laconic.core.files import sync, write_whole
from laconic.core.graph import without_dropout, without_unused
from laconic.core.operators import family_of
from laconic.core.precision import check_float32
from laconic.core.program import Program
from laconic.core.recurrent import traced_by_shape
from laconic.deploy import qdq, recurrent
from laconic.deploy.executorch.write import write_pte
from laconic.deploy.ncnn.write import write_param
from laconic.deploy.parity import parity as parity
from laconic.deploy.simplify import simplified
from laconic.deploy.xla.write import write_xla

OPSET = 20
# Protocol buffers hold at most 2 GiB; larger weights go into a second file.
_EXTERNAL_OVER = (2 << 30) - (64 << 20)


def write_onnx(program: Program, path: Path, name: str) -> None:
    """Write an ONNX file: opset 20, dynamic dimensions under the names of `program.inputs`, weights inside, and no word of the exporter's machine.

    Weights of more than 2 GiB go into `NAME.data` beside it, which is of no use to anybody until the file itself is there.

    Raises:
        ExportError: an operator that cannot be lowered, or complex inputs or outputs, which the exporter would write as two numbers each.
    """
    for spec in (*program.inputs, *program.outputs):
        if spec.dtype.startswith("complex"):
            raise ExportError(
                f"'{spec.name}' is {spec.dtype}, which ONNX files do not hold. Take or give its two parts: torch.view_as_real(…)."
            )
    recurrent.check(program.graph)
    program = simplified(without_dropout(program))
    quantized = qdq.is_quantized(program)
    program = qdq.lower(program) if quantized else program
    model = _lowered_somehow(program, quantized)
    symbols = {
        str(dim): label
        for value, spec in zip(model.graph.inputs, program.inputs, strict=True)
        for dim, label in zip(value.shape or (), spec.shape, strict=True)
    }
    _rename_dimensions(model, {old: new for old, new in symbols.items() if isinstance(new, str)})
    if quantized:
        qdq.finish(model)
    for item in (model, model.graph, *model.graph.all_nodes()):
        item.metadata_props.clear()  # stack traces with the paths of the exporting machine, and the graph once more as text
    size = sum(tensor.numel() * tensor.element_size() for tensor in program.state_dict().values())
    ir = need("onnx_ir")
    with quiet_export():
        if size > _EXTERNAL_OVER:
            _save_apart(lambda file, weights: ir.save(model, file, external_data=weights), path, name)
        else:
            path.write_bytes(ir.to_proto(model).SerializeToString(deterministic=True))
            if (weights := path.with_name(f"{name}.data")).exists():  # of an older model
                path.with_name(name).unlink(missing_ok=True)
                weights.unlink()


def _save_apart(save: Callable[[Path, str], object], path: Path, name: str) -> None:
    """Save a model with its weights in a second file, which appears whole before the model does.

    An older model of that name goes first: it would be read with weights that are not its own.
    """
    weights = f"{name}.data"
    with tempfile.TemporaryDirectory(prefix=".writing-", dir=path.parent) as folder:
        save(Path(folder) / name, weights)
        sync(Path(folder) / weights)
        path.with_name(name).unlink(missing_ok=True)
        (Path(folder) / weights).replace(path.with_name(weights))
        (Path(folder) / name).replace(path)


def _lowered_somehow(program: Program, quantized: bool) -> Any:
    """Lower a program as it is; where that fails, with plain attention, or with what is computed from parameters alone (matrix exponentials) stored.

    Raises:
        ExportError: none of it can be lowered.
    """
    try:
        return _lowered(program)
    except ExportError:
        stored, names = (program, ()) if quantized else fold_constants(program)  # codes of weights would become floats
        if any(family_of(node) == "attention" for node in program.graph.nodes):
            stored = _with_plain_attention(stored)
        elif not names:
            raise
    return _lowered(stored)


def _lowered(program: Program) -> Any:
    names = [spec.name for spec in program.inputs]
    with quiet_export(), traced_by_shape(), _kept_translations():
        try:
            lowered = torch.onnx.export(
                program.exported(),
                dynamo=True,
                verbose=False,
                opset_version=OPSET,
                custom_translation_table=recurrent.TRANSLATIONS,
                input_names=names,
                output_names=_distinct([spec.name for spec in program.outputs], names),
            )
        except Exception as error:
            raise ExportError(f"the model cannot be lowered to ONNX: {_first_line(error)}") from error
    assert lowered is not None
    return lowered.model


@contextlib.contextmanager
def _kept_translations() -> Iterator[None]:
    """Let PyTorch's exporter take its table of translations from the first export of this process: it makes one for each, a sixth of the work of a small net.

    Where a later PyTorch has its table elsewhere, nothing is kept.
    """
    try:
        from torch.onnx._internal.exporter import _registration

        registry: Any = _registration.ONNXRegistry
        before = vars(registry)["from_torchlib"]
    except (ImportError, KeyError):
        yield
        return

    def kept(kind: Any, opset_version: int) -> Any:
        twin = copy.copy(_translations(before.__func__, kind, opset_version))
        twin.functions = {name: list(rows) for name, rows in twin.functions.items()}  # own translations are added to it
        return twin

    registry.from_torchlib = classmethod(kept)
    try:
        yield
    finally:
        registry.from_torchlib = before


@cache
def _translations(make: Callable[..., Any], kind: Any, opset_version: int) -> Any:
    return make(kind, opset_version)


def _with_plain_attention(program: Program) -> Program:
    """A copy whose attention results are laid out contiguously.

    The fused kernel's result is not; the exporter traces twice, once with that layout and once without, and then cannot reshape what it could before
    (PyTorch 2.13).
    """
    twin = copy.deepcopy(program)
    for node in [node for node in twin.graph.nodes if family_of(node) == "attention"]:
        with twin.graph.inserting_after(node):
            plain = twin.graph.call_function(torch.ops.aten.clone.default, (node,), {"memory_format": torch.contiguous_format})
        node.replace_all_uses_with(plain, delete_user_cb=lambda user, plain=plain: user is not plain)
    twin.recompile()
    return twin


def _distinct(names: Sequence[str], taken: Sequence[str]) -> list[str]:
    """Output names that no input has: ONNX has one space of names."""
    return [f"{name}_out" if name in taken else name for name in names]


def _first_line(error: BaseException) -> str:
    cause: BaseException = error
    while cause.__cause__ is not None:
        cause = cause.__cause__
    return f"{type(cause).__name__}: {(str(cause).strip().splitlines() or [''])[0][:300]}"


def _rename_dimensions(model: Any, names: dict[str, str]) -> None:
    """Put readable names where the exporter wrote symbols like s77."""
    ir = need("onnx_ir")
    for value in (*model.graph.inputs, *model.graph.outputs, *(out for node in model.graph for out in node.outputs)):
        if value.shape is not None:
            value.shape = ir.Shape([names.get(str(dim), dim) if not isinstance(dim, int) else dim for dim in value.shape])


def check_shippable(program: Program) -> None:
    """Refuse what no file can carry.

    Raises:
        BadInput: a program that changes its own buffers, or one that is not in float32; says which and what to do.
    """
    program.interface.limits.check_stateless("the program cannot be exported")
    check_float32(program, "export")


def write_pt2(program: Program, path: Path, name: str) -> None:
    """Write a `.pt2`."""
    program.save(path)


def write_torchscript(program: Program, path: Path, name: str) -> None:
    """Script the graph, freeze it and write it. Scripted, not traced: tracing makes constants of the sizes that the graph asks for."""
    graph = copy.deepcopy(program.graph)
    for node in graph.nodes:
        if node.target is torch.ops.aten.sym_size.int:
            node.op, node.target = "call_method", "size"
        elif isinstance(node.target, torch._ops.OpOverload):
            node.target = node.target.overloadpacket  # the script compiler knows operators by their packets
        if node.kwargs.get("device") is not None:
            node.update_kwarg("device", None)
    module = fx.GraphModule(program.graph_module, graph)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        try:
            buffer = io.BytesIO()
            torch.jit.save(torch.jit.freeze(torch.jit.script(module.eval())), buffer)
        except RuntimeError as error:
            raise ExportError(f"the model cannot be lowered to TorchScript: {_first_line(error)}") from error
    with path.open("wb") as handle:
        rewrite(buffer, handle, _without_traces, lambda entry: entry.startswith("code/") or entry == "data.pkl")


def _without_traces(name: str, content: bytes) -> tuple[str, bytes] | None:
    """Leave out where the code came from on this machine, and how many modules its process had scripted before."""
    if name.endswith(".debug_pkl"):
        return None
    return re.sub(r"___torch_mangle_\d+", "___torch_mangle_0", name), re.sub(rb"___torch_mangle_\d+", b"___torch_mangle_0", content)


def write_ncnn(program: Program, path: Path, name: str, half: bool = False) -> None:
    """Write an ncnn model, see `ncnn.write`."""
    write_param(program, path, name, {"model.onnx": write_onnx, "model.ts": write_torchscript}, half)


# format -> file name and the function that writes it to a path, under the name that it will have in the end
FORMATS: dict[str, tuple[str, Callable[[Program, Path, str], None]]] = {
    "onnx": ("model.onnx", write_onnx),
    "pt2": ("model.pt2", write_pt2),
    "torchscript": ("model.ts", write_torchscript),
    "executorch": ("model.pte", write_pte),
    "ncnn": ("model.param", write_ncnn),
    "ncnn-fp16": ("model-fp16.param", partial(write_ncnn, half=True)),
    "xla": ("model.xla", write_xla),
}


def write_model(program: Program, folder: Path, kind: str) -> Path:
    """Write a model file into `folder`; it appears whole. Parameters that no output depends on are left out.

    Raises:
        ExportError: an operator cannot be lowered; names it.
        BadInput: unknown format; a program that no file can carry (`check_shippable`).
    """
    if kind not in FORMATS:
        raise BadInput(f"'{kind}' is not a model format; there are {', '.join(FORMATS)}")
    check_shippable(program)
    name, write = FORMATS[kind]
    program = without_unused(program)
    return write_whole(Path(folder) / name, lambda aside: write(program, aside, name))
