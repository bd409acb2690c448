"""OpenVINO. This file imports nothing but numpy and openvino, so that a worker's cold start and memory are the runtime's own."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from laconic.core.errors import need
from laconic.core.target import Target
from laconic.deploy.runtime import Runtime, Session, cores, installed

# Said explicitly: where a processor has AMX, OpenVINO computes fp32 models in bf16 unless it is told not to.
HINT = {"fp32": "f32", "bf16": "bf16"}


class OpenVino(Runtime):
    """Tuned for latency: one stream of `threads`."""

    name = "openvino"
    title = "OpenVINO"
    package = "openvino"
    format = "onnx"
    quantizes = "openvino"
    promise = "high"

    def available(self, precision: str = "fp32", device: str = "cpu") -> str | None:
        """See `Runtime.available`."""
        if installed(self.package) is None:
            return "the package openvino is not installed"
        if (why := self.elsewhere(device)) is not None:
            return why
        if precision == "bf16" and "BF16" not in _core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
            return "this processor has no bf16 instructions (avx512_bf16 or amx_bf16)"
        return None

    def load(self, file: Path, target: Target) -> Session:
        """See `Runtime.load`."""
        return _Session(_core().compile_model(str(file), "CPU", properties(target)))

    def start_script(self, target: Target) -> str:
        """See `Runtime.start_script`."""
        hints = f'"INFERENCE_PRECISION_HINT": "{HINT[target.precision]}", "INFERENCE_NUM_THREADS": {target.threads or 0}'
        return f"""\
import openvino as ov
hints = {{"PERFORMANCE_HINT": "LATENCY", {hints}}}  # 0: all cores
compiled = ov.Core().compile_model(file, "CPU", hints)
outputs = list(compiled(inputs).values())
"""


def properties(target: Target) -> dict[str, Any]:
    """Return the properties of the compiled model that a target stands for."""
    return {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": HINT[target.precision],
        "INFERENCE_NUM_THREADS": target.threads or cores(),
        "NUM_STREAMS": 1,
    }


def _core() -> Any:
    os.environ.setdefault("OPENVINO_TELEMETRY_OPT_OUT", "1")
    return need("openvino").Core()


class _Session(Session):
    def __init__(self, compiled: Any) -> None:
        self.compiled = compiled
        self._request = compiled.create_infer_request()
        self._count = len(compiled.outputs)

    def run(self, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        outputs = self._request.infer(list(inputs), share_inputs=True, share_outputs=True)
        return [outputs[index] for index in range(self._count)]
