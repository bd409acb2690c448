"""The ten lines that run an artifact without Laconic."""

from __future__ import annotations

import json
from collections.abc import Sequence

from laconic.core.interface import TensorSpec
from laconic.core.target import Target
from laconic.deploy.runtime import runtime

_INPUTS = """\
import sys
from pathlib import Path
import numpy as np
batch, file = int(sys.argv[1]) if len(sys.argv) > 1 else 1, str(Path(__file__).parent / {file!r})
inputs = [np.ones([batch if d == "batch" else d if isinstance(d, int) else 16 for d in shape], kind) for _, shape, kind in {inputs}]
"""
_OUTPUT = "print([(o.shape, o.dtype.name) for o in outputs])\n"


def script(file: str, target: Target, inputs: Sequence[TensorSpec]) -> str:
    """Return Python that runs a file as a target says on inputs of ones and prints the shapes of the outputs.

    Args:
        file: its name; the script lies beside it.
        target: runtime, precision, threads, device.
        inputs: of the model.
    """
    one = runtime(target.runtime)
    rows = json.dumps([[spec.name, list(spec.shape), spec.dtype] for spec in inputs])
    about = f'"""Runs {file} with {one.title}, without Laconic: python run.py [BATCH]."""\n'
    return about + _INPUTS.format(file=file, inputs=rows) + one.start_script(target) + _OUTPUT
