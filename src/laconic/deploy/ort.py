"""ONNX Runtime. This file imports nothing but numpy and onnxruntime, so that a worker's cold start and memory are the runtime's own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from laconic.core.errors import BadInput, need
from laconic.core.target import Target
from laconic.deploy.runtime import Runtime, Session, cores

_IN_PLACE = ", in the place of onnxruntime (pip uninstall onnxruntime first)"


@dataclass(frozen=True)
class Provider:
    """One of ONNX Runtime's execution providers.

    Attributes:
        names: as ONNX Runtime has called it, the present one first.
        get: how to come by a build that has it.
        behind: the device whose provider takes what this one leaves; before the processor, which takes the rest.
        options: that it is given.
        memory_pattern: whether it may plan its memory beforehand.
    """

    names: tuple[str, ...]
    get: str = ""
    behind: str = ""
    options: Mapping[str, str] = field(default_factory=dict)
    memory_pattern: bool = True


# By the short name that stands in a target. From https://onnxruntime.ai/docs/execution-providers
PROVIDERS: dict[str, Provider] = {
    "cpu": Provider(("CPUExecutionProvider",)),
    "cuda": Provider(("CUDAExecutionProvider",), f"pip install onnxruntime-gpu{_IN_PLACE}, with CUDA 12 and cuDNN 9"),
    "tensorrt": Provider(("TensorrtExecutionProvider",), f"pip install onnxruntime-gpu{_IN_PLACE}, with CUDA 12 and TensorRT 10", "cuda"),
    "directml": Provider(
        ("DmlExecutionProvider",), f"on Windows with DirectX 12, pip install onnxruntime-directml{_IN_PLACE}", memory_pattern=False
    ),
    "coreml": Provider(("CoreMLExecutionProvider",), "pip install onnxruntime on macOS, whose build has it"),
    "qnn": Provider(
        ("QNNExecutionProvider",), f"on Windows with a Snapdragon, pip install onnxruntime-qnn{_IN_PLACE}", options={"backend_type": "htp"}
    ),
    "rocm": Provider(
        ("MIGraphXExecutionProvider", "ROCMExecutionProvider"), f"with AMD's ROCm, install its build onnxruntime-migraphx{_IN_PLACE}"
    ),
}


class OnnxRuntime(Runtime):
    """All graph optimizations, sequential execution, one intra-op pool of `threads`."""

    name = "onnxruntime"
    title = "ONNX Runtime"
    package = "onnxruntime"
    format = "onnx"
    devices = tuple(PROVIDERS)
    unproven = tuple(device for device in PROVIDERS if device != "cpu")
    quantizes = "onnxruntime"
    promise = "high"

    def available(self, precision: str = "fp32", device: str = "cpu") -> str | None:
        """See `Runtime.available`."""
        if find_spec("onnxruntime") is None:  # several packages bring it
            return "the package onnxruntime is not installed"
        if (why := self.elsewhere(device)) is not None:
            return why
        provider = PROVIDERS[device]
        if precision != "fp32":
            return f"its {provider.names[0]} has no switch to compute an fp32 model in {precision}"
        if _provider(device) is None:
            there = ", ".join(self.seen())
            return f"this build of onnxruntime has no {provider.names[0]}; it has {there}. To get it: {provider.get}"
        return None

    def seen(self) -> list[str]:
        """See `Runtime.seen`."""
        return [] if find_spec("onnxruntime") is None else list(need("onnxruntime").get_available_providers())

    def load(self, file: Path, target: Target) -> Session:
        """See `Runtime.load`.

        Raises:
            BadInput: ONNX Runtime gave the file to another device, which it does without a word where a library of the provider is missing.
        """
        ort = need("onnxruntime")
        ort.disable_telemetry_events()
        chosen = providers(target.device)
        session = ort.InferenceSession(str(file), options(target), providers=[(name, dict(given)) for name, given in chosen])
        wanted, taken = chosen[0][0], session.get_providers()
        if wanted not in taken:
            raise BadInput(
                f"ONNX Runtime does not run {file} with {wanted} but with {', '.join(taken)}: the provider's libraries or its device are not here. "
                f"It needs: {PROVIDERS[target.device].get}"
            )
        return _Session(session)

    def start_script(self, target: Target) -> str:
        """See `Runtime.start_script`."""
        return f"""\
import onnxruntime as ort
options = ort.SessionOptions()
options.intra_op_num_threads = {target.threads or 0}  # 0: all cores
session = ort.InferenceSession(file, options, providers={[name for name, _ in providers(target.device)]!r})
outputs = session.run(None, dict(zip([i.name for i in session.get_inputs()], inputs)))
"""


def _provider(device: str) -> str | None:
    """Return the name of a device's provider in the build that is installed; None where it has none."""
    there = need("onnxruntime").get_available_providers()
    return next((name for name in PROVIDERS[device].names if name in there), None)


def providers(device: str) -> list[tuple[str, Mapping[str, str]]]:
    """Return the providers that a session on a device is given, each with its options: the device's own, those behind it, without the processor's, which ONNX
    Runtime adds itself where it is left out."""
    chosen = []
    while device:
        row = PROVIDERS[device]
        chosen.append((_provider(device) or row.names[0], row.options))
        device = row.behind
    return chosen


def options(target: Target) -> Any:
    """Return the session options that a target stands for."""
    ort = need("onnxruntime")
    session = ort.SessionOptions()
    session.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    session.intra_op_num_threads = target.threads or cores()
    session.inter_op_num_threads = 1
    session.log_severity_level = 3
    session.enable_mem_pattern = PROVIDERS[target.device].memory_pattern
    return session


class _Session(Session):
    def __init__(self, session: Any) -> None:
        self._session = session
        self._names = [item.name for item in session.get_inputs()]

    def run(self, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        outputs: list[np.ndarray] = self._session.run(None, dict(zip(self._names, inputs, strict=True)))
        return outputs
