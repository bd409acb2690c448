"""ONNX Runtime. This file imports nothing but numpy and onnxruntime, so that a worker's cold start and memory are the runtime's own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from laconic.core.errors import need
from laconic.core.target import Target
from laconic.deploy.runtime import Runtime, Session, cores, installed

PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


class OnnxRuntime(Runtime):
    """All graph optimizations, sequential execution, one intra-op pool of `threads`."""

    name = "onnxruntime"
    title = "ONNX Runtime"
    package = "onnxruntime"
    format = "onnx"
    devices = ("cpu", "cuda")
    quantizes = "onnxruntime"
    promise = "high"

    def available(self, precision: str = "fp32", device: str = "cpu") -> str | None:
        """See `Runtime.available`."""
        if installed(self.package) is None and installed("onnxruntime-gpu") is None:
            return "the package onnxruntime is not installed"
        if precision != "fp32":
            return f"its {PROVIDERS[device]} has no switch to compute an fp32 model in {precision}"
        if PROVIDERS[device] not in need("onnxruntime").get_available_providers():
            return f"this build of onnxruntime has no {PROVIDERS[device]}"
        return None

    def load(self, file: Path, target: Target) -> Session:
        """See `Runtime.load`."""
        ort = need("onnxruntime")
        ort.disable_telemetry_events()
        return _Session(ort.InferenceSession(str(file), options(target), providers=[PROVIDERS[target.device]]))

    def start_script(self, target: Target) -> str:
        """See `Runtime.start_script`."""
        return f"""\
import onnxruntime as ort
options = ort.SessionOptions()
options.intra_op_num_threads = {target.threads or 0}  # 0: all cores
session = ort.InferenceSession(file, options, providers=[{PROVIDERS[target.device]!r}])
outputs = session.run(None, dict(zip([i.name for i in session.get_inputs()], inputs)))
"""


def options(target: Target) -> Any:
    """Return the session options that a target stands for."""
    ort = need("onnxruntime")
    session = ort.SessionOptions()
    session.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    session.intra_op_num_threads = target.threads or cores()
    session.inter_op_num_threads = 1
    session.log_severity_level = 3
    return session


class _Session(Session):
    def __init__(self, session: Any) -> None:
        self._session = session
        self._names = [item.name for item in session.get_inputs()]

    def run(self, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        outputs: list[np.ndarray] = self._session.run(None, dict(zip(self._names, inputs, strict=True)))
        return outputs
