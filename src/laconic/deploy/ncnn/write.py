"""Write ncnn's two files: the program as ONNX, without what it rounds; what pnnx makes of that; and the integers put in their place."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from laconic.core.errors import ExportError, WorkerFailed
from laconic.core.files import weights_beside, write_whole
from laconic.core.interface import TensorSpec
from laconic.core.program import Program
from laconic.deploy.child import Child
from laconic.deploy.hold import command
from laconic.deploy.ncnn import int8

TIMEOUT_S = 600.0
Writer = Callable[[Program, Path, str], None]
# Of an output's largest number: another order of sums is far below; weights in 16 bits are off by 5e-4 each.
_OFF, _OFF_HALF = 1e-2, 5e-2
_SIZES = (16, 24)  # of other dynamic sizes than the batch: two examples of each, from which pnnx learns that they differ


def write_param(program: Program, path: Path, name: str, sources: Mapping[str, Writer], half: bool = False) -> None:
    """Write a `.param`; its weights appear whole beside it, under its final name, before it does.

    Args:
        program: in eval mode; each input and output is a batch.
        path: of the `.param`.
        name: that it will have in the end.
        sources: what writes the files from which pnnx converts, by their names, in the order in which they are tried.
        half: weights that stay floats are stored in 16 bits; biases stay in 32.

    Raises:
        ExportError: an input or output without a batch, an operator that ncnn has no layer for (by name), integers that it cannot compute with, weights that
            16 bits do not hold.
    """
    for spec in (*program.inputs, *program.outputs):
        if not spec.shape or spec.shape[0] != "batch":
            raise ExportError(
                f"'{spec.name}' has the shape {list(spec.shape)}: ncnn runs examples one by one, so each tensor begins with a dynamic batch"
            )
    floats, rounded = int8.taken_apart(program)
    if half:
        _check_range(floats)
    with tempfile.TemporaryDirectory(prefix="laconic-ncnn-") as place:
        folder = Path(place)
        _convert(floats, folder, sources, half)
        param, weights = (folder / f"model.{end}" for end in ("param", "bin"))
        text, content = int8.put_in(param, weights.read_bytes(), rounded)
        beside = weights_beside(path.with_name(name))
        assert beside is not None
        beside.with_suffix(".param").unlink(missing_ok=True)  # an older graph would be read with weights that are not its own
        write_whole(beside, content)
        path.write_text(text, encoding="utf-8")


def _convert(program: Program, folder: Path, sources: Mapping[str, Writer], half: bool) -> None:
    """Leave `model.param` and `model.bin` in a folder, which answer as the program does.

    pnnx reads ONNX and TorchScript, and knows other operators of each (recurrent layers, embeddings): where the first does not serve, the second may.

    Raises:
        ExportError: neither does; says why the first did not.
    """
    child = Child(command("laconic.deploy.ncnn.convert"), timeout_s=TIMEOUT_S)
    first: ExportError | None = None
    try:
        for file, write in sources.items():
            try:
                _convert_from(write, folder / file, program, child, half)
                return
            except ExportError as error:
                first = first or error
    finally:
        child.close()
    assert first is not None
    raise first


def _convert_from(write: Writer, source: Path, program: Program, child: Child, half: bool) -> None:
    asked, answers = source.with_name("asked.npz"), source.with_name("answers.npz")
    write(program, source, source.name)
    example = program.example_inputs()
    np.savez(asked, **{str(index): tensor.numpy() for index, tensor in enumerate(example)})  # type: ignore[arg-type]
    inputs = [([_sizes(spec, length) for length in _SIZES], spec.dtype) for spec in program.inputs]
    try:
        child.ask({"source": str(source), "inputs": inputs, "asked": str(asked), "answers": str(answers), "half": half})
    except WorkerFailed as error:
        raise ExportError(f"the model cannot be lowered to ncnn: {error}") from error
    with torch.no_grad():
        wanted = [leaf.numpy() for leaf in program.graph_module(*example)]
    with np.load(answers, allow_pickle=False) as given:
        _compare([given[str(index)] for index in range(len(given.files))], wanted, program.outputs, _OFF_HALF if half else _OFF)


def _compare(given: Sequence[np.ndarray], wanted: Sequence[np.ndarray], outputs: Sequence[TensorSpec], allowed: float) -> None:
    for spec, one, other in zip(outputs, given, wanted, strict=True):
        if one.shape != other.shape:
            raise ExportError(
                f"ncnn's converter lost its way: '{spec.name}' has the shape {list(one.shape)} there and {list(other.shape)} in the program"
            )
        off = float(np.abs(one - other).max(initial=0.0)) / max(float(np.abs(other).max(initial=0.0)), 1e-30)
        if not off <= allowed:
            raise ExportError(f"ncnn's converter lost its way: '{spec.name}' differs from the program's by {off:.2g} of its largest number")


def _check_range(program: Program) -> None:
    most = float(torch.finfo(torch.float16).max)
    for name, weight in program.named_parameters():
        if (largest := float(weight.detach().abs().max()) if weight.numel() else 0.0) > most:
            raise ExportError(f"'{name}' holds {largest:.3g}, and floats of 16 bits end at {most:g}. Export it with precision='fp32'.")


def _sizes(spec: TensorSpec, length: int) -> Sequence[int]:
    return [1, *(length if isinstance(size, str) else size for size in spec.shape[1:])]
