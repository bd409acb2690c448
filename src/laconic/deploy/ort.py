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
    package = "onnxruntime"
    format = "onnx"

    def available(self, precision: str = "fp32", device: str = "cpu") -> str | None:
        """See `Runtime.available`."""
        if installed(self.package) is None and installed("onnxruntime-gpu") is None:
            return "the package onnxruntime is not installed"
        if precision != "fp32":
            return f"its {PROVIDERS[device]} has no switch to compute an fp32 model in {precision}"
        if PROVIDERS[device] not in need("onnxruntime").get_available_providers():
            return f"this build of onnxruntime has no {PROVIDERS[device]}"
        return None

    def load(self, file: Path, settings: Target) -> Session:
        """See `Runtime.load`."""
        ort = need("onnxruntime")
        ort.disable_telemetry_events()
        return _Session(ort.InferenceSession(str(file), options(settings), providers=[PROVIDERS[settings.device]]))


def options(settings: Target) -> Any:
    """The session options that these settings stand for."""
    ort = need("onnxruntime")
    found = ort.SessionOptions()
    found.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    found.intra_op_num_threads = settings.threads or cores()
    found.inter_op_num_threads = 1
    found.log_severity_level = 3
    return found


class _Session(Session):
    def __init__(self, session: Any) -> None:
        self._session = session
        self._names = [item.name for item in session.get_inputs()]

    def run(self, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        found: list[np.ndarray] = self._session.run(None, dict(zip(self._names, inputs, strict=True)))
        return found
