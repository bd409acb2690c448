"""The script that runs an artifact without Laconic, on data of one's own."""

from __future__ import annotations

from collections.abc import Sequence

from laconic.core.interface import TensorSpec
from laconic.core.target import Target
from laconic.deploy.runtime import runtime

# What a user may have named stands in it as a Python value alone, never in its text.
_INPUTS = """\
import sys
from pathlib import Path
import numpy as np
file = str(Path(__file__).parent / {file!r})
INPUTS, OUTPUTS = {inputs!r}, {outputs!r}  # name, shape, type
data, *rest = sys.argv[1:] or ["1"]
if not data.isdigit() and Path(data).suffix not in (".npz", ".csv"):
    sys.exit(__doc__ + "\\n".join(["Inputs:", *map(repr, INPUTS), "Outputs:", *map(repr, OUTPUTS)]))


def read(name, shape, kind):
    if data.isdigit():
        return np.ones([int(data) if d == "batch" else d if isinstance(d, int) else 16 for d in shape], kind)
    if data.endswith(".npz"):
        arrays = np.load(data)
        return arrays[name].astype(kind) if name in arrays else sys.exit(f"{{data}} has no array {{name!r}}; it has {{arrays.files}}")
    if len(INPUTS) > 1:
        sys.exit(f"a CSV holds one input, and there are several: write an .npz with {{[name for name, *_ in INPUTS]}}")
    lines = [line for line in Path(data).read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    try:
        table = np.loadtxt(lines, delimiter=",", ndmin=2)
    except ValueError:
        table = np.loadtxt(lines[1:], delimiter=",", ndmin=2)  # the first line names the columns
    try:
        return table.reshape([len(table), *(d if isinstance(d, int) else -1 for d in shape[1:])]).astype(kind)
    except ValueError:
        sys.exit(f"a line of {{data}} has {{table.shape[1]}} numbers; an example of {{name!r}} has the shape {{shape[1:]}}")


inputs = [read(*spec) for spec in INPUTS]
"""
_OUTPUT = """\
if rest:
    np.savez(rest[0], **{name: output for (name, *_), output in zip(OUTPUTS, outputs)})
for (name, *_), output in zip(OUTPUTS, outputs):
    print(name, output.shape, output.dtype.name)
"""


def script(file: str, target: Target, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> str:
    """Return Python that runs a file as a target says and prints the shapes of the outputs.

    It takes an `.npz` with an array for each input by name, a CSV with an example in each line (for one input), or a number of examples, all ones; a second
    argument is an `.npz` that the answers are written to, by name.

    Args:
        file: its name; the script lies beside it.
        target: runtime, precision, threads, device.
        inputs: of the model.
        outputs: of the model.
    """
    one = runtime(target.runtime)
    about = f'"""Runs the model beside it with {one.title}, without Laconic: python run.py [DATA.npz | DATA.csv | EXAMPLES] [ANSWERS.npz]\n"""\n'
    given = _INPUTS.format(file=file, inputs=_rows(inputs), outputs=_rows(outputs))
    return about + given + one.start_script(target) + _OUTPUT


def _rows(specs: Sequence[TensorSpec]) -> list[tuple[str, list[int | str], str]]:
    return [(spec.name, list(spec.shape), spec.dtype) for spec in specs]
