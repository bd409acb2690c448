"""ExecuTorch and ncnn: `python -m benchmarks.mobile {covered,page,accuracy,speed} [NAME …]`.

- covered, page: which of the architectures of `benchmarks/zoo.py` convert and agree with their program at another batch size, by the gate's rule, each in a
  process of its own; the table docs/mobile.md (`benchmarks/coverage.py`).
- accuracy: MobileNetV2 on Fashion-MNIST (`benchmarks/trained.py`): drop of the files themselves on test data, and their sizes; a name is a number of
  examples, a runtime, an option of `Quantize` (`observer=mse`), or `valid` for other data than test.
- speed: the same files beside ONNX Runtime's, on this processor, interleaved; one example, one thread. Of an Arm processor it says nothing.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch

import laconic as lc
from benchmarks import architectures, coverage, trained
from benchmarks.command import command
from benchmarks.contest import Entry, against, take_turns
from laconic.core.errors import LaconicError
from laconic.core.files import weights_beside
from laconic.core.target import Target
from laconic.deploy.export import write_model
from laconic.deploy.parity import parity
from laconic.deploy.runtime import runtime
from laconic.run import gate

DOCS = Path(__file__).parents[1] / "docs" / "mobile.md"
RUNTIMES = ("executorch", "ncnn")
ALL = ("onnxruntime", *RUNTIMES)
NET, TEST_EXAMPLES = "mobilenet_v2", 10_000
_LIMIT_S = 600
_TOLD = 160  # characters of a reason
_HEAD = """# ExecuTorch and ncnn: which architectures

Lowered to ExecuTorch (XNNPACK) and ncnn and run here with another batch size, held to the gate's parity rule ([budget](budget.md)). Written by
`python -m benchmarks.mobile page`. A difference is relative to the largest output; where there is none, the reason is told.
"""


def one(name: str) -> list[str]:
    """Return the cells of one architecture: for each runtime the difference, or why there is none."""
    found = architectures.ARCHITECTURES[name]
    torch.manual_seed(0)
    model = architectures.settled(found.make(), found.inputs)
    try:
        program = lc.capture(model, found.inputs(2), dynamic=found.dynamic)
    except LaconicError as error:
        return [f"{coverage.NO}{architectures.told(error)[:_TOLD]}"] * len(RUNTIMES)
    leaves = program.flatten_inputs(found.inputs(3))
    with torch.no_grad():
        expected = [leaf.numpy() for leaf in program.graph_module(*leaves)]
    arrays = [leaf.numpy() for leaf in leaves]
    return [_cell(kind, program, arrays, expected) for kind in RUNTIMES]


def _cell(kind: str, program: lc.Program, inputs: Sequence[np.ndarray], expected: Sequence[np.ndarray]) -> str:
    with tempfile.TemporaryDirectory() as folder:
        try:
            session = runtime(kind).load(write_model(program, Path(folder), runtime(kind).format), Target(kind))
            evidence, reason = gate.parity(parity(session.run(inputs), expected), "fp32")
        except (LaconicError, RuntimeError, ValueError, TypeError) as error:
            return f"{coverage.NO}{architectures.told(error).replace(f'{folder}/', '')[:_TOLD]}"
    return f"{evidence['max_rel']:.0e}" if reason is None else f"{coverage.NO}{reason.text}"


def covered(names: Sequence[str]) -> None:
    """Print the rows of these architectures, or of all that are missing."""
    coverage.covered("mobile", one, len(RUNTIMES), names, _LIMIT_S)


def page(_: Sequence[str]) -> None:
    """Write the docs from the rows that there are."""
    rows = coverage.kept("mobile")
    held = [sum(not cells[place].startswith(coverage.NO) for cells in rows.values()) for place in range(len(RUNTIMES))]
    titles = [runtime(kind).title for kind in RUNTIMES]
    told = f"**Of {len(rows)}: {', '.join(f'{count} hold in {title}' for count, title in zip(held, titles, strict=True))}.**\n"
    print(told)
    coverage.write_page(DOCS, f"{_HEAD}\n{told}", titles, rows)


def files(
    folder: Path, kinds: Sequence[str] = ALL, options: Mapping[str, Any] = MappingProxyType({})
) -> tuple[lc.Program, lc.Task, dict[str, Entry]]:
    """Return the trained net, its task, and its files in these runtimes: fp32, int8 (with options of `Quantize`), and what else a runtime has files for."""
    task = trained.task(NET)
    program = lc.capture(task.build(), torch.utils.data.default_collate([task.test[i][0] for i in range(2)]))  # type: ignore[index]
    entries = {}
    for kind in kinds:
        rounded, _ = lc.quantize(program, lc.Quantize(target=kind, **options), task)
        for label, one in (("fp32", program), ("int8", rounded)):
            file = write_model(one, folder / f"{kind}-{label}", runtime(kind).format)
            entries[f"{label} {kind}"] = Entry(file, Target(kind, threads=1))
        for precision, form in runtime(kind).formats.items():
            file = write_model(program, folder / f"{kind}-{precision}", form)
            entries[f"{precision} {kind}"] = Entry(file, Target(kind, precision, threads=1))
    return program, task, entries


def size_kb(file: Path) -> float:
    """Return the size of a model file and its weights."""
    beside = weights_beside(file)
    return (file.stat().st_size + (beside.stat().st_size if beside is not None and beside.exists() else 0)) / 1e3


def accuracy(names: Sequence[str]) -> None:
    """Print accuracy, drop against fp32 of the same runtime, and size."""
    examples = next((int(name) for name in names if name.isdigit()), TEST_EXAMPLES)
    options = {key: int(value) if value.isdigit() else value for key, _, value in (name.partition("=") for name in names) if value}
    with tempfile.TemporaryDirectory() as place:
        program, task, entries = files(Path(place), [kind for kind in ALL if kind in names] or ALL, options)
        data: Any = task.valid if "valid" in names else task.test
        batches = [
            (program.flatten_inputs(x), y.numpy())
            for x, y in torch.utils.data.DataLoader(data.take(np.arange(min(examples, len(data)))), 50)
        ]
        base = {}
        for label, entry in entries.items():
            session = runtime(entry.target.runtime).load(entry.file, entry.target)
            right = [session.run([leaf.numpy() for leaf in leaves])[0].argmax(1) == y for leaves, y in batches]
            percent = 100 * float(np.concatenate(right).mean())
            plain = base.setdefault(entry.target.runtime, percent)
            print(f"{label:22s} {percent:.2f} %  drop {plain - percent:+.2f}  {size_kb(entry.file):,.0f} kB", flush=True)


def speed(names: Sequence[str]) -> None:
    """Print latencies, interleaved, and the ratio of ONNX Runtime's int8 over each."""
    with tempfile.TemporaryDirectory() as place:
        _, task, entries = files(Path(place))
        data: Any = task.test
        rounds = take_turns(entries, [data[0][0].numpy()[None]], Path(place))
        print("one example, one thread: median ms; latency of ONNX Runtime's int8 over this one's with its 95 % interval")
        for label, row in sorted(against(rounds, "int8 onnxruntime").items(), key=lambda pair: pair[1].p50_ms):
            print(
                f"{label:22s} {row.p50_ms:8.3f}  {row.ratio:6.3f} [{row.low:.3f}, {row.high:.3f}]  {size_kb(entries[label].file):,.0f} kB"
            )


if __name__ == "__main__":
    command(__doc__, {"covered": covered, "page": page, "accuracy": accuracy, "speed": speed})
