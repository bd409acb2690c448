"""PyTorch as a runtime: eager, `torch.compile`, and TorchScript."""

from __future__ import annotations

import contextlib
import shutil
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from laconic.core.errors import CorruptFile
from laconic.core.program import Program
from laconic.core.target import Target
from laconic.deploy.runtime import Runtime, Session, cores

Forward = Callable[..., Any]


class _Native(Runtime):
    package = "torch"
    spins = True  # libgomp

    def available(self, precision: str = "fp32", device: str = "cpu") -> str | None:
        """See `Runtime.available`."""
        if device == "cuda" and not torch.cuda.is_available():
            return "PyTorch finds no CUDA device here"
        if precision == "bf16" and device == "cpu" and not _has_bf16():
            return "this processor has no bf16 instructions (avx512_bf16 or amx_bf16); PyTorch would emulate them"
        return None

    def load(self, file: Path, settings: Target) -> Session:
        """See `Runtime.load`."""
        torch.set_num_threads(settings.threads or cores())
        return _Session(self.forward(file, settings), settings)

    def forward(self, file: Path, settings: Target) -> Forward:
        """The function from flat tensors to flat tensors."""
        raise NotImplementedError


class Eager(_Native):
    """The captured graph, operator by operator."""

    name = "torch"
    format = "pt2"

    def forward(self, file: Path, settings: Target) -> Forward:
        """See `_Native.forward`."""
        return Program.load(file).to(settings.device).graph_module.forward


class Compiled(_Native):
    """The captured graph through TorchInductor; compiled at the first run, for the shapes that it sees."""

    name = "torch.compile"
    format = "pt2"

    def available(self, precision: str = "fp32", device: str = "cpu") -> str | None:
        """See `Runtime.available`."""
        if device == "cpu" and not any(shutil.which(name) for name in ("g++", "clang++", "c++", "cl")):
            return "torch.compile needs a C++ compiler on processors, and none is on the PATH"
        return super().available(precision, device)

    def forward(self, file: Path, settings: Target) -> Forward:
        """See `_Native.forward`."""
        return torch.compile(Program.load(file).to(settings.device).graph_module)


class TorchScript(_Native):
    """The scripted and frozen graph."""

    name = "torchscript"
    format = "torchscript"

    def available(self, precision: str = "fp32", device: str = "cpu") -> str | None:
        """See `Runtime.available`."""
        return "Laconic runs TorchScript on processors only" if device != "cpu" else super().available(precision, device)

    def forward(self, file: Path, settings: Target) -> Forward:
        """See `_Native.forward`."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            try:
                return torch.jit.load(str(file), map_location=settings.device)
            except RuntimeError as error:
                raise CorruptFile(
                    f"{file} is not a whole TorchScript file ({str(error).splitlines()[0][:200]}). Export it again."
                ) from error


class _Session(Session):
    def __init__(self, forward: Forward, settings: Target) -> None:
        self._forward, self._device = forward, settings.device
        self._bf16 = settings.precision == "bf16"

    @torch.inference_mode()
    def run(self, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        tensors = [torch.from_numpy(array).to(self._device) for array in inputs]
        with torch.autocast(self._device, torch.bfloat16) if self._bf16 else contextlib.nullcontext():
            found = self._forward(*tensors)
        leaves = [found] if isinstance(found, Tensor) else found
        # Copying to the processor waits for the device, so that what is timed is finished.
        return [(leaf.float() if leaf.dtype == torch.bfloat16 else leaf).cpu().numpy() for leaf in leaves]


def _has_bf16() -> bool:
    flags = Path("/proc/cpuinfo").read_text(encoding="utf-8") if Path("/proc/cpuinfo").exists() else ""
    return "avx512_bf16" in flags or "amx_bf16" in flags
