"""XLA through JAX: StableHLO that `jax.export` wrote, compiled here for whatever device JAX sees. This file does not import PyTorch."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from laconic.core.errors import need
from laconic.core.processor import instructions
from laconic.core.target import Target
from laconic.deploy.runtime import Runtime, Session, cores
from laconic.deploy.xla import file as xla_file
from laconic.deploy.xla.late import jax

_BF16 = {"avx512_bf16", "amx_bf16"}


class Xla(Runtime):
    """The program as one StableHLO module. Loading reads it and moves the weights to the device; it is compiled at the first run of each size."""

    name = "xla"
    title = "XLA"
    package = "jax"
    format = "xla"
    devices = ("cpu", "cuda")
    folds_batch_norm = False  # weights are arguments, of which XLA knows nothing when it compiles
    promise = "low"
    aside = "on processors ONNX Runtime and OpenVINO were faster (docs/runtimes.md); --try xla tries it"

    def available(self, precision: str = "fp32", device: str = "cpu") -> str | None:
        """See `Runtime.available`."""
        if (why := self.lacking(precision, device, "jax")) is not None:
            return why
        if device == "cpu":
            lacking = precision == "bf16" and not _BF16 & instructions()
            return "this processor has no bf16 instructions (avx512_bf16 or amx_bf16); XLA would emulate them" if lacking else None
        try:
            need("jax").devices(device)
        except RuntimeError:
            return f"JAX finds no {device} device here; its plugins for GPUs come with pip install 'jax[cuda13]'"
        return None

    def load(self, file: Path, target: Target) -> Session:
        """See `Runtime.load`. The number of threads is that of the first load in a process: XLA makes its threads once."""
        os.environ.setdefault("NPROC", str(target.threads or cores()))
        return _Session(*xla_file.read(file, target.precision), target.device)

    def start_script(self, target: Target) -> str:
        """See `Runtime.start_script`."""
        entry = xla_file.program_entry(target.precision)
        return f"""\
import os
import zipfile
os.environ.setdefault("NPROC", {str(target.threads or "")!r} or str(os.cpu_count()))  # threads of XLA, made once in a process
import jax
import jax.export
import safetensors.numpy
jax.config.update("jax_enable_x64", True)
with zipfile.ZipFile(file) as archive:
    program = jax.export.deserialize(bytearray(archive.read("{xla_file.ROOT}/{entry}")))
    weights = safetensors.numpy.load(archive.read("{xla_file.ROOT}/{xla_file.WEIGHTS}"))
with jax.default_device(jax.devices({target.device!r})[0]):
    outputs = [np.asarray(output) for output in jax.jit(program.call)(jax.device_put(weights), *inputs)]
"""


class _Session(Session):
    def __init__(self, program: Any, weights: dict[str, np.ndarray], device: str) -> None:
        with xla_file.wide():
            self._device = jax.devices(device)[0]
            self._weights = jax.block_until_ready(jax.device_put(weights, self._device))
            self._call = jax.jit(program.call)

    def run(self, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        with xla_file.wide(), jax.default_device(self._device):
            return [np.asarray(output) for output in self._call(self._weights, *inputs)]
