"""OpenVINO. This file imports nothing but numpy and openvino, so that a worker's cold start and memory are the runtime's own."""

from __future__ import annotations

import functools
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
# Devices beside the processor, as OpenVINO calls them, and what makes it see them. From https://docs.openvino.ai, "inference devices and modes".
_DRIVERS = {
    "GPU": "an Intel GPU and its OpenCL driver (on Debian and Ubuntu: apt install intel-opencl-icd; user in the group render)",
    "NPU": "an Intel Core Ultra and the driver of its NPU (github.com/intel/linux-npu-driver)",
}
_NO_BF16 = "this processor has no bf16 instructions (avx512_bf16 or amx_bf16)"
_FIXED = ("NPU",)  # has no dynamic shapes, and computes in fp16 whatever it is told


class OpenVino(Runtime):
    """Tuned for latency: one stream of `threads`."""

    name = "openvino"
    title = "OpenVINO"
    package = "openvino"
    format = "onnx"
    devices = ("cpu", *(f"openvino:{device}" for device in _DRIVERS))
    unproven = devices[1:]
    quantizes = "openvino"
    promise = "high"

    def available(self, precision: str = "fp32", device: str = "cpu") -> str | None:
        """See `Runtime.available`."""
        if installed(self.package) is None:
            return "the package openvino is not installed"
        if (why := self.lacking(precision, device)) is not None:
            return why
        own = _own(device)
        there = _core().available_devices
        if own not in {name.partition(".")[0] for name in there}:
            return f"OpenVINO sees {', '.join(there) or 'no device'} here and no {own}. To get it: {_DRIVERS.get(own, 'another build of OpenVINO')}"
        if precision == "bf16" and "BF16" not in _core().get_property(own, "OPTIMIZATION_CAPABILITIES"):
            return _NO_BF16 if own == "CPU" else f"OpenVINO's {own} does not compute in bf16"
        return None

    def seen(self) -> list[str]:
        """See `Runtime.seen`."""
        if installed(self.package) is None:
            return []
        core = _core()
        return [f"{name} ({core.get_property(name, 'FULL_DEVICE_NAME').strip()})" for name in core.available_devices]

    def load(self, file: Path, target: Target) -> Session:
        """See `Runtime.load`."""
        own, core = _own(target.device), _core()
        if own in _FIXED:
            return _FixedSession(core, core.read_model(str(file)), own, properties(target))
        return _Session(core.compile_model(str(file), own, properties(target)))

    def start_script(self, target: Target) -> str:
        """See `Runtime.start_script`."""
        hints = f'"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "{HINT[target.precision]}"'
        if _own(target.device) == "CPU":
            hints += f', "INFERENCE_NUM_THREADS": {target.threads or 0}'
        elif _own(target.device) in _FIXED:
            hints = '"PERFORMANCE_HINT": "LATENCY"'
        return f"""\
import openvino as ov
core, hints = ov.Core(), {{{hints}}}  # threads 0: all cores
model = core.read_model(file)
{"model.reshape([i.shape for i in inputs])" if _own(target.device) in _FIXED else "# as it is"}
compiled = core.compile_model(model, {_own(target.device)!r}, hints)
outputs = list(compiled(inputs).values())
"""


def _own(device: str) -> str:
    """Return OpenVINO's own name of a device."""
    return device.partition(":")[2] or "CPU"


def properties(target: Target) -> dict[str, Any]:
    """Return the properties of the compiled model that a target stands for. Threads and streams are the processor's."""
    latency, own = {"PERFORMANCE_HINT": "LATENCY"}, _own(target.device)
    if own in _FIXED:
        return latency
    told = {**latency, "INFERENCE_PRECISION_HINT": HINT[target.precision]}
    return told if own != "CPU" else {**told, "INFERENCE_NUM_THREADS": target.threads or cores(), "NUM_STREAMS": 1}


@functools.cache
def _core() -> Any:
    """Return OpenVINO's core of this process: each new one looks for devices anew."""
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


class _FixedSession(Session):
    """For devices without dynamic shapes: compiled for the sizes that it is given, anew where they change."""

    def __init__(self, core: Any, model: Any, device: str, told: dict[str, Any]) -> None:
        self._core, self._model, self._device, self._told = core, model, device, told
        self._shapes: list[tuple[int, ...]] = []
        self._session: _Session | None = None

    def run(self, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        shapes = [array.shape for array in inputs]
        if self._session is None or shapes != self._shapes:
            self._model.reshape(dict(zip(self._model.inputs, shapes, strict=True)))
            self._session, self._shapes = _Session(self._core.compile_model(self._model, self._device, self._told)), shapes
        return self._session.run(inputs)
