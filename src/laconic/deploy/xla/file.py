"""The model file: an archive with the weights (safetensors), a program for each precision (StableHLO, as `jax.export` writes it) and how it is called.

Nothing in it is unpickled, evaluated or imported. A program may call what is compiled into JAX by its name; of such calls only those are let through that an
exported program of ours has.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from laconic.core.archive import Archive
from laconic.core.errors import CorruptFile, need
from laconic.core.interface import TensorSpec
from laconic.core.reading import reads
from laconic.deploy.xla.late import export, jax

WEIGHTS, ABOUT = "weights.safetensors", "interface.json"
FORMAT = 1
ROOT = "archive"
_EPOCH = (1980, 1, 1, 0, 0, 0)
# Calls that `jax.export` writes for what has no StableHLO operator of its own, or that check sizes; none runs code of a user's.
_CALLS = frozenset(
    (
        "shape_assertion",
        "mhlo.erf",
        "mhlo.topk",
        "mhlo.acosh",
        "mhlo.asin",
        "mhlo.asinh",
        "mhlo.atanh",
        "mhlo.cosh",
        "mhlo.sinh",
        "mhlo.acos",
    )
)
_FUNCTIONS = ("stablehlo.custom_call", "mhlo.custom_call")


def program_entry(precision: str) -> str:
    """Return the name of the program that computes in a precision."""
    return f"{precision}.stablehlo"


def write(path: Path, weights: bytes, programs: Mapping[str, bytes], about: Mapping[str, Any]) -> None:
    """Write an archive, stored, not compressed; equal content gives equal bytes.

    Args:
        path: where.
        weights: a safetensors file.
        programs: by precision.
        about: plain values.
    """
    entries = {
        ABOUT: json.dumps({"format": FORMAT, **about}).encode(),
        **{program_entry(name): content for name, content in programs.items()},
        WEIGHTS: weights,
    }
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name, content in entries.items():
            archive.writestr(zipfile.ZipInfo(f"{ROOT}/{name}", _EPOCH), content)
    path.write_bytes(buffer.getvalue())


@reads("an XLA model that Laconic wrote", "Export it again.")
def about(path: Path) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...], int | None]:
    """Return inputs and outputs of a file, and the bits of its integers (None: it holds floats)."""
    with Archive(path) as archive:
        told = archive.json(ABOUT)
        if told["format"] > FORMAT:
            raise archive.refuse(f"it has format {told['format']}, and this Laconic reads up to {FORMAT}")
        specs = [tuple(TensorSpec.from_json(item) for item in told[key]) for key in ("inputs", "outputs")]
        bits = told["bits"]
        if not (bits is None or (isinstance(bits, int) and 1 <= bits <= 64)):
            raise archive.refuse("it does not say what it rounds to")
    return specs[0], specs[1], bits


@reads("an XLA model that Laconic wrote", "Export it again.")
def read(path: Path, precision: str) -> tuple[Any, dict[str, np.ndarray]]:
    """Return the program of a precision, as `jax.export.Exported`, and the weights by name.

    Raises:
        CorruptFile: the file is not whole, or its program calls what no file may.
    """
    with Archive(path) as archive:
        content, weights = archive.bytes(program_entry(precision)), archive.bytes(WEIGHTS)
    arrays = need("safetensors.numpy").load(weights)
    with wide():
        program = export.deserialize(bytearray(content))
        calls = sorted(set(_calls(program)) - _CALLS)
    if calls:
        raise CorruptFile(
            f"{path} is refused: its program calls {calls[0]}, which no file of Laconic's does. Load only files that Laconic saved."
        )
    return program, arrays


def _calls(program: Any) -> Iterator[str]:
    """Yield the names of what a program calls outside of itself."""
    ir = need("jaxlib.mlir.ir")
    mlir = need("jax.interpreters.mlir")
    found: list[str] = []

    def visit(operation: Any) -> Any:
        if operation.name in _FUNCTIONS:
            found.append(ir.StringAttr(operation.attributes["call_target_name"]).value)
        return ir.WalkResult.ADVANCE

    with mlir.make_ir_context():
        ir.Module.parse(program.mlir_module()).operation.walk(visit)
    yield from found


@contextmanager
def wide() -> Iterator[None]:
    """Let JAX compute with 64-bit integers, as PyTorch does, where it is asked to."""
    with jax.enable_x64(True):
        yield
