"""PyTorch as a runtime: eager, `torch.compile`, and TorchScript."""

from __future__ import annotations

import contextlib
import shutil
import warnings
from abc import abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from laconic.core import runnable
from laconic.core.errors import CorruptFile
from laconic.core.target import Target
from laconic.deploy.runtime import Runtime, Session, cores

Forward = Callable[..., Any]
_UNPICKLES = "PyTorch unpickles parts of this file: load only your own"


class _Native(Runtime):
    package = "torch"
    devices: ClassVar[tuple[str, ...]] = ("cpu", "cuda")
    unproven: ClassVar[tuple[str, ...]] = ("cuda",)
    spins = True  # libgomp
    loading: ClassVar[str]  # in Python, of the model in the start script

    def available(self, precision: str = "fp32", device: str = "cpu") -> str | None:
        """See `Runtime.available`."""
        if (why := self.lacking(precision, device)) is not None:
            return why
        if device == "cuda" and not torch.cuda.is_available():
            return f"PyTorch finds no CUDA device here. To get it: {_no_cuda()}"
        if precision == "bf16" and device == "cpu" and not _has_bf16():
            return "this processor has no bf16 instructions (avx512_bf16 or amx_bf16); PyTorch would emulate them"
        return None

    def seen(self) -> list[str]:
        """See `Runtime.seen`."""
        gpus = range(torch.cuda.device_count() if torch.cuda.is_available() else 0)
        return ["cpu", *(f"cuda ({torch.cuda.get_device_name(index)})" for index in gpus)]

    def load(self, file: Path, target: Target) -> Session:
        """See `Runtime.load`."""
        torch.set_num_threads(target.threads or cores())
        return _Session(self.forward(file, target), target)

    @abstractmethod
    def forward(self, file: Path, target: Target) -> Forward:
        """Return the function from flat tensors to flat tensors."""

    def start_script(self, target: Target) -> str:
        """See `Runtime.start_script`."""
        enabled = target.precision == "bf16"
        return f"""\
import torch
model = {self.loading.format(device=repr(target.device))}
with torch.inference_mode(), torch.autocast({target.device!r}, torch.bfloat16, enabled={enabled}):
    answer = model(*[torch.from_numpy(i).to({target.device!r}) for i in inputs])
outputs = [t.float().cpu().numpy() for t in (answer if isinstance(answer, (tuple, list)) else [answer])]
"""


class Eager(_Native):
    """The captured graph, operator by operator."""

    name = "torch"
    title = "PyTorch eager"
    promise = "low"
    format = "pt2"
    folds_batch_norm = False
    loading = f"torch.export.load(file).module().to({{device}})  # {_UNPICKLES}"

    def forward(self, file: Path, target: Target) -> Forward:
        """See `_Native.forward`."""
        return runnable.read(file, target.device).forward


class Compiled(_Native):
    """The captured graph through TorchInductor; compiled at the first run, for the shapes that it sees."""

    name = "torch.compile"
    title = "torch.compile"
    kin = Eager.name
    promise = "low"
    promises = MappingProxyType({"cuda": "high"})  # it compiles in less time there, and joins what launches kernel by kernel
    format = "pt2"
    loading = f"torch.compile(torch.export.load(file).module().to({{device}}))  # {_UNPICKLES}"

    def available(self, precision: str = "fp32", device: str = "cpu") -> str | None:
        """See `Runtime.available`."""
        if device == "cpu" and not any(shutil.which(name) for name in ("g++", "clang++", "c++", "cl")):
            return "torch.compile needs a C++ compiler on processors, and none is on the PATH"
        return super().available(precision, device)

    def forward(self, file: Path, target: Target) -> Forward:
        """See `_Native.forward`."""
        return torch.compile(runnable.read(file, target.device))


class TorchScript(_Native):
    """The scripted and frozen graph."""

    name = "torchscript"
    title = "TorchScript"
    format = "torchscript"
    devices = ("cpu",)
    unproven = ()
    runs_code = "TorchScript is a programming language: the file may read, write and delete what you may"
    loading = "torch.jit.load(file, map_location={device})"

    def forward(self, file: Path, target: Target) -> Forward:
        """See `_Native.forward`."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            try:
                return torch.jit.load(str(file), map_location=target.device)
            except RuntimeError as error:
                raise CorruptFile(
                    f"{file} is not a whole TorchScript file ({str(error).splitlines()[0][:200]}). Export it again."
                ) from error


class _Session(Session):
    def __init__(self, forward: Forward, target: Target) -> None:
        self._forward, self._device = forward, target.device
        self._bf16 = target.precision == "bf16"

    @torch.inference_mode()
    def run(self, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        tensors = [torch.from_numpy(array).to(self._device) for array in inputs]
        with torch.autocast(self._device, torch.bfloat16) if self._bf16 else contextlib.nullcontext():
            outputs = self._forward(*tensors)
        leaves = [outputs] if isinstance(outputs, Tensor) else outputs
        # Copying to the processor waits for the device, so that what is timed is finished.
        return [(leaf.float() if leaf.dtype == torch.bfloat16 else leaf).cpu().numpy() for leaf in leaves]


def _no_cuda() -> str:
    """Say what PyTorch lacks: a build for GPUs, or a GPU and its driver."""
    if torch.version.cuda is None and torch.version.hip is None:
        return f"this is PyTorch {torch.__version__}, built for processors alone; install the build for CUDA (or ROCm): pytorch.org/get-started"
    return "a GPU and its driver (nvidia-smi, or rocm-smi, lists it)"


def _has_bf16() -> bool:
    flags = Path("/proc/cpuinfo").read_text(encoding="utf-8") if Path("/proc/cpuinfo").exists() else ""
    return "avx512_bf16" in flags or "amx_bf16" in flags
