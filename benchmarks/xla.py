"""The runtime `xla`: which architectures it takes, and how fast it is: `python -m benchmarks.xla PART [NAME …]`.

`covered`: every architecture of `benchmarks/zoo.py`, each in a process of its own: lowered, and its answers at two batch sizes from one artifact against the
program's; writes the table docs/xla.md. `speed`: four nets, against PyTorch eager, interleaved, beside the fastest of the other runtimes, in fp32 and int8.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import laconic as lc
from benchmarks import architectures, coverage
from benchmarks.command import command
from benchmarks.coupling import large
from laconic.core.errors import LaconicError
from laconic.core.target import Target
from laconic.deploy.artifact import Artifact
from laconic.deploy.export import parity, write_model
from laconic.deploy.process import WorkerProcess
from laconic.deploy.runtime import runtime
from laconic.run.bench import random_inputs
from laconic.run.examples import write_arrays
from laconic.tasks.models import DataShape, build

DOCS = Path(__file__).parents[1] / "docs" / "xla.md"
SIZES = (2, 3)
ALLOWED = 1e-4
_HEAD = f"""# Architectures in XLA

Captured, decomposed to core ATen, lowered by the table of `deploy/xla/rules/` and compiled by XLA for a processor: the largest difference to the captured
program, relative to the largest output, at batch sizes {SIZES[0]} and {SIZES[1]} from one file ({ALLOWED:.0e} is allowed). Written by
`python -m benchmarks.xla covered`.
"""
_LIMIT_S = 600
RIVALS = ("onnxruntime", "openvino")


def covered(names: list[str]) -> None:
    """Print the rows; all of them are written to the docs."""
    rows = coverage.covered("xla", one, len(SIZES) + 1, names, _LIMIT_S)
    held = sum(cells[-1] == "yes" for cells in rows.values())
    print(f"{held} of {len(rows)} hold")
    if not names:
        titles = [*(f"batch {size}" for size in SIZES), "holds"]
        coverage.write_page(DOCS, f"{_HEAD}**{held} of {len(rows)} hold.**\n", titles, rows)


def one(name: str) -> list[str]:
    """Return the cells of one architecture."""
    found = architectures.ARCHITECTURES[name]
    cells, reason = [], ""
    try:
        torch.manual_seed(0)
        program = lc.capture(architectures.settled(found.make(), found.inputs), found.inputs(SIZES[0]), dynamic=found.dynamic)
        with tempfile.TemporaryDirectory() as folder:
            session = runtime("xla").load(write_model(program, Path(folder), "xla"), Target("xla", threads=1))
        for size in SIZES:
            leaves = program.flatten_inputs(found.inputs(size))
            with torch.no_grad():
                expected = [leaf.numpy() for leaf in program.graph_module(*leaves)]
            difference = parity(session.run([leaf.numpy() for leaf in leaves]), expected)["max_rel"]
            cells.append(f"{difference:.0e}")
            if not difference <= ALLOWED:
                reason = f"they differ by {difference:.0e}"
    except (LaconicError, RuntimeError, ValueError, TypeError, IndexError, KeyError, AssertionError, NotImplementedError) as error:
        reason = architectures.told(error)
    shown = (cells + ["–"] * len(SIZES))[: len(SIZES)]
    return [*shown, coverage.NO + reason if reason else "yes"]


# Speed ------------------------------------------------------------------------------------------------------------------------------------


def _net(name: str) -> tuple[nn.Module, Any]:
    """A net with random weights, and an input of two examples."""
    if name in ("resnet50", "bert"):
        return large(name)
    size = 32 if name == "resnet20" else 224
    net = build(name, DataShape("image", (3, size, size), 10 if size == 32 else 1000)).eval()
    return net, torch.randn(2, 3, size, size)


NETS = ("resnet20", "resnet50", "mobilenet_v2", "bert")


def speed(names: list[str]) -> None:
    """Print milliseconds at batch 1 and the ratio to PyTorch eager, interleaved, on all cores; loading and the first run (with compiling) apart."""
    for name in names or NETS:
        torch.manual_seed(0)
        net, inputs = _net(name)
        program = lc.capture(net, inputs)
        with tempfile.TemporaryDirectory() as folder:
            files = [(f"{kind} fp32", _exported(program, Path(folder), kind)) for kind in ("xla", *RIVALS)]
            if isinstance(inputs, Tensor):
                files += [("xla int8", _exported(_rounded(program, inputs), Path(folder), "xla"))]
            for title, artifact in files:
                found = lc.bench(artifact, program, rounds=9, turn_seconds=0.3)
                eager, mine = found.timings
                print(
                    f"{name}, {title}: {mine.p50_ms:.3g} ms, eager {eager.p50_ms:.3g} ms, {mine.speedup} as fast {found.busy}", flush=True
                )
            starts(files[0][1], Path(folder))


def starts(artifact: Artifact, folder: Path) -> None:
    """Print what a new process takes to load a file and to run it for the first time, which compiles it."""
    inputs = write_arrays(folder / "one.npz", random_inputs(artifact.inputs, 1, {}, 0))
    worker = WorkerProcess(artifact)
    try:
        facts = worker.start(inputs)
    finally:
        worker.close()
    told = f"reading {facts['load_ms']:.0f} ms, compiling and the first run {facts['first_ms']:.0f} ms"
    print(f"  cold start {facts['cold_start_ms']:.0f} ms, of that {told}", flush=True)


def _exported(program: lc.Program, folder: Path, kind: str) -> Artifact:
    place = Path(tempfile.mkdtemp(dir=folder))
    return lc.export(program, place / ("model.xla" if kind == "xla" else "model.onnx"), runtime=kind)


def _rounded(program: lc.Program, inputs: Tensor) -> lc.Program:
    """Rounded by the rules of OpenVINO, calibrated on the two examples: for its time, not for what it knows."""
    data = torch.utils.data.TensorDataset(inputs, torch.zeros(len(inputs)).long())
    return lc.quantize(program, lc.Quantize(target="openvino"), lc.Task(program, data, data))[0]


if __name__ == "__main__":
    command(__doc__, {"covered": covered, "speed": speed})
