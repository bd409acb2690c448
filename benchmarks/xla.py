"""The runtime `xla`: which architectures it takes, and how fast it is: `python -m benchmarks.xla PART [NAME …]`.

`covered`, `page`: every architecture of `benchmarks/zoo.py`, each in a process of its own: lowered, and its answers at two batch sizes from one artifact
against the program's; the table docs/xla.md (`benchmarks/coverage.py`). `speed`: four nets, interleaved with PyTorch eager and the fastest of the other
runtimes, in fp32, bf16 and int8.
"""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import laconic as lc
from benchmarks import architectures, coverage
from benchmarks.command import command
from benchmarks.contest import Entry, against, take_turns
from benchmarks.coupling import large
from laconic.core.errors import LaconicError
from laconic.core.target import Target
from laconic.deploy.export import parity, write_model
from laconic.deploy.process import WorkerProcess
from laconic.deploy.runtime import runtime
from laconic.run.examples import write_arrays
from laconic.tasks.models import DataShape, build

DOCS = Path(__file__).parents[1] / "docs" / "xla.md"
SIZES = (2, 3)
ALLOWED = 1e-4
_HEAD = f"""# Architectures in XLA

Captured, decomposed to core ATen, lowered by the table of `deploy/xla/rules/` and compiled by XLA for a processor: the largest difference to the captured
program, relative to the largest output, at batch sizes {SIZES[0]} and {SIZES[1]} from one file ({ALLOWED:.0e} is allowed). Written by
`python -m benchmarks.xla page`.
"""
_LIMIT_S = 600
EAGER, RIVALS = "torch fp32", ("onnxruntime", "openvino")


def covered(names: list[str]) -> None:
    """Print the rows of these architectures, or of all that are missing."""
    coverage.covered("xla", one, len(SIZES) + 1, names, _LIMIT_S)


def page(_: list[str]) -> None:
    """Write the docs from the rows that there are."""
    rows = coverage.kept("xla")
    told = f"**{sum(cells[-1] == 'yes' for cells in rows.values())} of {len(rows)} hold.**"
    print(told)
    coverage.write_page(DOCS, f"{_HEAD}{told}\n", [*(f"batch {size}" for size in SIZES), "holds"], rows)


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


NETS = ("resnet20", "mobilenet_v2", "bert", "resnet50")
ROUNDED = ("resnet20",)  # XLA's int8 convolutions on processors take seconds a call in the others
_ROUNDS = 8


def speed(names: list[str]) -> None:
    """Print milliseconds at batch 1 on all cores, interleaved: XLA beside eager and the other runtimes, and its ratio to eager and to the best of them.

    A name is a net, or a number of rounds.
    """
    rounds = next((int(name) for name in names if name.isdigit()), _ROUNDS)
    for name in [name for name in names if not name.isdigit()] or NETS:
        torch.manual_seed(0)
        net, inputs = _net(name)
        program = lc.capture(net, inputs)
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place)
            entries = _entries(program, inputs if name in ROUNDED else None, folder)
            one = [leaf[:1].numpy() for leaf in program.flatten_inputs(inputs)]
            times = take_turns(entries, one, folder, rounds)
            print(f"{name}, one example, {rounds} rounds: median ms; latency of eager over this one's with its 95 % interval", flush=True)
            beside = against(times, EAGER)
            for title, found in sorted(beside.items(), key=lambda pair: pair[1].p50_ms):
                print(f"  {title:20s} {found.p50_ms:8.3f}  {found.ratio:6.3f} [{found.low:.3f}, {found.high:.3f}]", flush=True)
            best = min((title for title in beside if not title.startswith("xla")), key=lambda title: beside[title].p50_ms)
            for title, found in against(times, best).items():
                if title.startswith("xla"):
                    print(f"  {best} over {title}: {found.ratio:.3f} [{found.low:.3f}, {found.high:.3f}]", flush=True)
            starts(entries["xla fp32"], write_arrays(folder / "one.npz", one))


def _entries(program: lc.Program, pictures: Tensor | None, folder: Path) -> dict[str, Entry]:
    """Return what is timed: each runtime in fp32, XLA and OpenVINO in bf16 where the processor has it, and in int8 by the pictures given."""
    entries = {f"{kind} fp32": _entry(program, folder, kind) for kind in (EAGER.partition(" ")[0], *RIVALS, "xla")}
    for kind in ("openvino", "xla"):
        if runtime(kind).available("bf16") is None:
            entries[f"{kind} bf16"] = replace(entries[f"{kind} fp32"], target=Target(kind, "bf16"))
    if pictures is not None:
        rounded = _rounded(program, pictures)
        entries |= {f"{kind} int8": _entry(rounded, folder, kind) for kind in ("openvino", "xla")}
    return entries


def _entry(program: lc.Program, folder: Path, kind: str) -> Entry:
    return Entry(write_model(program, Path(tempfile.mkdtemp(dir=folder)), runtime(kind).format), Target(kind))


def starts(entry: Entry, inputs: Path) -> None:
    """Print what a new process takes to load a file and to run it for the first time, which compiles it."""
    worker = WorkerProcess(entry, timeout_s=900)  # type: ignore[arg-type]  # it has a file and a target, as an artifact
    try:
        facts = worker.start(inputs)
    finally:
        worker.close()
    told = f"reading {facts['load_ms']:.0f} ms, compiling and the first run {facts['first_ms']:.0f} ms"
    print(f"  XLA's cold start {facts['cold_start_ms']:.0f} ms, of that {told}", flush=True)


def _rounded(program: lc.Program, inputs: Tensor) -> lc.Program:
    """Rounded by the rules of OpenVINO, calibrated on the two examples: for its time, not for what it knows."""
    data = torch.utils.data.TensorDataset(inputs, torch.zeros(len(inputs)).long())
    return lc.quantize(program, lc.Quantize(target="openvino"), lc.Task(program, data, data))[0]


if __name__ == "__main__":
    command(__doc__, {"covered": covered, "page": page, "speed": speed})
