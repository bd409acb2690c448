"""The process that lowers one program to a `.pte` file; see `write` for the other side."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import torch
from torch.export import ExportedProgram

from laconic.core.errors import ExportError, need
from laconic.core.exported import quiet_export
from laconic.core.graph import without_dropout
from laconic.core.program import Program
from laconic.core.recurrent import traced_by_shape
from laconic.deploy import qdq
from laconic.deploy.child import Channel, answer_requests
from laconic.deploy.executorch.placed import signed
from laconic.deploy.executorch.write import BACKENDS, MOST_EXAMPLES, MOST_LENGTH
from laconic.deploy.numerics import INT8_MARK
from laconic.deploy.simplify import simplified


def convert(request: dict[str, Any], _: Channel) -> dict[str, Any]:
    """Write the file that a request names.

    Raises:
        ExportError: what cannot be lowered.
    """
    program = simplified(without_dropout(Program.load(request["source"])))
    quantized = qdq.is_quantized(program)
    program = signed(qdq.lower(program)) if quantized else program
    Path(request["to"]).write_bytes(lowered(program, request["backend"], quantized))
    return {}


def lowered(program: Program, backend: str, quantized: bool) -> bytes:
    """Return the file's content.

    Args:
        program: with integers and pairs where it rounds.
        backend: a name in `write.BACKENDS`.
        quantized: whether the file says of itself that it computes in integers.
    """
    exir = need("executorch.exir", "executorch")
    marks = {INT8_MARK: 8} if quantized else None
    config = exir.EdgeCompileConfig(
        _check_ir_validity=False
    )  # operators beyond the core ones have portable kernels too, or are told by name below
    with quiet_export(), torch.no_grad():
        partitioner = _partitioner(backend)
        edge = exir.to_edge_transform_and_lower(_bounded(program), partitioner=[partitioner], constant_methods=marks, compile_config=config)
        return bytes(edge.to_executorch().buffer)


def _partitioner(backend: str) -> Any:
    module, kind, _ = BACKENDS[backend]
    try:
        return getattr(importlib.import_module(module), kind)()
    except (ImportError, TypeError, OSError) as error:
        raise ExportError(
            f"this build of executorch cannot convert for {backend} ({error}). Install what its maker says, or take xnnpack"
        ) from error


def _bounded(program: Program) -> ExportedProgram:
    """Export with an upper bound for each dynamic size: memory is planned for it."""
    sizes = [
        {
            index: torch.export.Dim.DYNAMIC(max=MOST_LENGTH if index else MOST_EXAMPLES)
            for index, size in enumerate(spec.shape)
            if isinstance(size, str)
        }
        for spec in program.inputs
    ]
    with traced_by_shape():
        return torch.export.export(program.graph_module, program.example_inputs(), dynamic_shapes=tuple(sizes), strict=False)


if __name__ == "__main__":
    answer_requests(convert)
