"""The ten lines that run an artifact without Laconic."""

from __future__ import annotations

import json
from collections.abc import Sequence

from laconic.core.program import TensorSpec
from laconic.core.target import Target

_INPUTS = """\
import sys
from pathlib import Path
import numpy as np
batch, file = int(sys.argv[1]) if len(sys.argv) > 1 else 1, str(Path(__file__).parent / {file!r})
inputs = [np.ones([batch if d == "batch" else d if isinstance(d, int) else 16 for d in shape], kind) for _, shape, kind in {inputs}]
"""
_BODIES = {
    "onnxruntime": """\
import onnxruntime as ort
options = ort.SessionOptions()
options.intra_op_num_threads = {threads}  # 0: all cores
session = ort.InferenceSession(file, options, providers=[{provider!r}])
outputs = session.run(None, dict(zip([i.name for i in session.get_inputs()], inputs)))
""",
    "openvino": """\
import openvino as ov
hints = {{"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": {hint!r}, "INFERENCE_NUM_THREADS": {threads}}}  # 0: all cores
compiled = ov.Core().compile_model(file, "CPU", hints)
outputs = list(compiled(inputs).values())
""",
    "torch": """\
import torch
model = torch.export.load(file).module().to({device!r})  # PyTorch unpickles parts of this file: load only your own
with torch.inference_mode(), torch.autocast({device!r}, torch.bfloat16, enabled={bf16}):
    outputs = [t.float().cpu().numpy() for t in model(*[torch.from_numpy(i).to({device!r}) for i in inputs])]
""",
    "torch.compile": """\
import torch
model = torch.compile(torch.export.load(file).module().to({device!r}))  # PyTorch unpickles parts of this file: load only your own
with torch.inference_mode(), torch.autocast({device!r}, torch.bfloat16, enabled={bf16}):
    outputs = [t.float().cpu().numpy() for t in model(*[torch.from_numpy(i).to({device!r}) for i in inputs])]
""",
    "torchscript": """\
import torch
model = torch.jit.load(file, map_location={device!r})
with torch.inference_mode(), torch.autocast({device!r}, torch.bfloat16, enabled={bf16}):
    found = model(*[torch.from_numpy(i).to({device!r}) for i in inputs])
outputs = [t.float().cpu().numpy() for t in (found if isinstance(found, (tuple, list)) else [found])]
""",
}
_OUTPUT = "print([(o.shape, o.dtype.name) for o in outputs])\n"


def script(kind: str, file: str, settings: Target, inputs: Sequence[TensorSpec]) -> str:
    """Python that runs the file with these settings on inputs of ones and prints the shapes of the outputs.

    Args:
        kind: the file's format; serves runtimes of other packages, which get the script of their format.
        file: its name; the script lies beside it.
        settings: runtime, precision, threads, device.
        inputs: of the model.
    """
    name = settings.runtime if settings.runtime in _BODIES else {"onnx": "onnxruntime", "pt2": "torch"}.get(kind, "torchscript")
    body = _BODIES[name].format(
        threads=settings.threads or 0,
        provider="CUDAExecutionProvider" if settings.device == "cuda" else "CPUExecutionProvider",
        hint="bf16" if settings.precision == "bf16" else "f32",
        device=settings.device,
        bf16=settings.precision == "bf16",
    )
    rows = json.dumps([[spec.name, list(spec.shape), spec.dtype] for spec in inputs])
    return (
        f'"""Runs {file} with {name}, without Laconic: python run.py [BATCH]."""\n'
        + _INPUTS.format(file=file, inputs=rows)
        + body
        + _OUTPUT
    )
