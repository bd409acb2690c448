"""Write a program as a model file for XLA."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path

from laconic.core.errors import ExportError, need
from laconic.core.program import Program
from laconic.deploy.xla import file
from laconic.deploy.xla.graph import Lowered, lower
from laconic.deploy.xla.late import export, jax

# One program for all of them: where they differ, it asks on which it runs.
PLATFORMS = ("cpu", "cuda", "rocm", "tpu")


def write_xla(program: Program, path: Path, name: str) -> None:
    """Write a program's weights once, and its StableHLO in fp32 and in bf16 (products of bf16 operands, added up in fp32), with dynamic dimensions.

    Raises:
        ExportError: operators without a row, all of them by name; sizes that XLA cannot know beforehand.
        MissingExtra: JAX is not installed.
    """
    need("jax", "xla")
    with file.wide():
        lowered = lower(program)
        programs = {precision: _exported(lowered, precision) for precision in ("fp32", "bf16")}
    weights = need("safetensors.torch").save({key: value.cpu().contiguous().clone() for key, value in lowered.weights.items()})
    told = {
        "inputs": [asdict(spec) for spec in program.inputs],
        "outputs": [asdict(spec) for spec in program.outputs],
        "bits": lowered.bits,
    }
    file.write(path, weights, programs, told)


def _exported(lowered: Lowered, precision: str) -> bytes:
    weights = {
        name: jax.ShapeDtypeStruct(tuple(value.shape), str(value.dtype).removeprefix("torch.")) for name, value in lowered.weights.items()
    }
    function = jax.jit(partial(lowered.function, precision == "bf16"), keep_unused=True)
    try:
        with _without_places():
            return bytes(export.export(function, platforms=PLATFORMS)(weights, *lowered.inputs).serialize())
    except (TypeError, ValueError, NotImplementedError) as error:
        raise ExportError(f"the model cannot be lowered to XLA: {type(error).__name__}: {str(error).splitlines()[0][:300]}") from error


@contextmanager
def _without_places() -> Iterator[None]:
    """Keep the lines of Python that made each operator, with the paths of this machine, out of the file."""
    before = jax.config.jax_traceback_in_locations_limit
    jax.config.update("jax_traceback_in_locations_limit", 0)
    try:
        yield
    finally:
        jax.config.update("jax_traceback_in_locations_limit", before)
