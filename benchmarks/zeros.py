"""Where a zero is time: `python -m benchmarks.zeros {build,map,quick,write} [KIND …]`.

One or two layers with zeros in their weights against the same layers without, on the same runtime, taking turns in one process, on one thread. Ratios are the
dense layers' time divided by that of those with zeros: above 1 the zeros are time. Whole channels, which become a smaller dense net, are the control.

- build: make the files that are timed, by Laconic's own steps, and keep them beside those of `benchmarks.trained`; the other parts do it too where they lack.
- map: time all, print the ratios and keep them. Names: kinds of layers, as `linear-1`.
- quick: the same with a few rows and short turns, to try the script; nothing is kept.
- write: write docs/zeros.md from what `map` kept.

What this machine cannot run is named with the reason.
"""

from __future__ import annotations

import contextlib
import json
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
import torch.nn.functional as F
from onnx import numpy_helper
from torch import Tensor, nn

import laconic as lc
from benchmarks import trained
from benchmarks.command import command
from benchmarks.zeros_page import CHANNELS, CUDA, DENSE, DENSITIES, OPENVINO, ORT, PATTERNS, TORCH, UNPACKING, XNNPACK, Gap, Row, page
from laconic.core.errors import BadInput
from laconic.core.files import write_whole
from laconic.core.turn import Turn
from laconic.deploy.export import write_onnx
from laconic.deploy.ov import properties
from laconic.deploy.runtime import installed, runtime
from laconic.deploy.turns import take_turn
from laconic.measure import latency
from laconic.measure.environment import environment
from laconic.tasks.data import ArrayDataset

FOLDER = trained.FOLDER / "zeros"
KEPT = FOLDER / "map.json"
DOCS = Path(__file__).parents[1] / "docs" / "zeros.md"
RATE = "CPU_SPARSE_WEIGHTS_DECOMPRESSION_RATE"
_SMALLEST = 8  # channels that stay of any layer


@dataclass(frozen=True)
class Kind:
    """A kind of layer: how a net of it is made with so many channels inside, the shape of one input, and how it is rounded to int8."""

    title: str
    make: Callable[[int], nn.Module]
    shape: tuple[int, ...]
    inside: int
    rounding: str = "static"


class Series(nn.Module):
    """An LSTM that answers with its states; (B, L, D) to (B, L, H)."""

    def __init__(self, features: int, hidden: int) -> None:
        super().__init__()
        self.lstm = nn.LSTM(features, hidden, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        """Return the states."""
        return self.lstm(x)[0]


def _linear(outside: int, copies: int, inside: int) -> nn.Module:
    rows = [(nn.Linear(outside, inside), nn.ReLU(), nn.Linear(inside, outside)) for _ in range(copies)]
    return nn.Sequential(*[module for row in rows for module in row])


def _convolutions(outside: int, kernel: int, inside: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(outside, inside, kernel, padding=kernel // 2), nn.ReLU(), nn.Conv2d(inside, outside, kernel, padding=kernel // 2)
    )


# Two layers with so many channels between them, so that whole channels can be left out; of the shortest, several, so that a call weighs little.
KINDS = {
    "linear-1": Kind("linear 384 × 1536, 1 row", partial(_linear, 384, 4), (384,), 1536),
    "linear-128": Kind("linear 384 × 1536, 128 rows", partial(_linear, 384, 1), (128, 384), 1536),
    "conv-1x1": Kind("convolution 1×1, 256 channels, 14 × 14", partial(_convolutions, 256, 1), (256, 14, 14), 256),
    "conv-3x3": Kind("convolution 3×3, 128 channels, 14 × 14", partial(_convolutions, 128, 3), (128, 14, 14), 128),
    "lstm": Kind("LSTM of 128 features and 256 states, 16 steps", partial(Series, 128), (16, 128), 256, "dynamic"),
}


# Making -------------------------------------------------------------------------------------------------------------------------------


def cells(quick: bool) -> list[tuple[str, float]]:
    """Return patterns and densities, without the dense net."""
    if quick:
        return [("unstructured", 0.1), ("2:4", 0.5), (CHANNELS, 0.5)]
    return [(pattern, density) for pattern, density in product(PATTERNS, DENSITIES) if ":" not in pattern or density == 0.5]


def net(kind: Kind, pattern: str, density: float) -> nn.Module:
    """Return the net: of whole channels, that with fewer of them."""
    torch.manual_seed(0)
    inside = max(_SMALLEST, round(kind.inside * density)) if pattern == CHANNELS else kind.inside
    return kind.make(inside).eval()


def program(kind: Kind, pattern: str, density: float) -> lc.Program:
    """Return the captured net with its zeros, as `laconic.sparsify` sets them."""
    made = lc.capture(net(kind, pattern, density), torch.randn(2, *kind.shape))
    if pattern in (DENSE, CHANNELS):
        return made
    share: dict[str, Any] = {} if ":" in pattern else {"sparsity": 1 - density}
    return lc.sparsify(made, lc.Sparsify(pattern=pattern, allocation="uniform", recovery={"epochs": 0}, **share))[0]  # type: ignore[no-any-return, operator]


def task(kind: Kind) -> lc.Task:
    """Return random inputs to calibrate with."""
    x = np.random.default_rng(0).normal(size=(32, *kind.shape)).astype(np.float32)
    data = ArrayDataset(x, np.zeros(len(x), np.int64))
    return lc.Task(model=lambda: net(kind, DENSE, 1), train=data, valid=data, metric=lambda outputs, target: 0.0, direction="max")


def file_of(name: str, where: str, precision: str, pattern: str, density: float) -> Path:
    """Return the ONNX file, made now or earlier; fp32 files serve both runtimes."""
    label = f"{name}-{precision}{'-' + where if precision == 'int8' else ''}-{pattern.replace(':', 'of')}-{density:g}"
    path = FOLDER / f"{label}.onnx"
    if path.exists():
        return path
    FOLDER.mkdir(parents=True, exist_ok=True)
    kind, made = KINDS[name], program(KINDS[name], pattern, density)
    if precision == "int8":
        config = lc.Quantize(mode=kind.rounding, target=where, min_sqnr_db=None, correct_bias=False)  # type: ignore[arg-type]
        made, _ = lc.quantize(made, config, task(kind))  # type: ignore[operator]
    aside = path.with_suffix(".part")
    write_onnx(made, aside, path.name)
    if pattern not in (DENSE, CHANNELS):
        _check(aside, density)
    aside.rename(path)
    return path


def _check(path: Path, density: float) -> None:
    """Fail where the file's weights do not have the zeros that were asked for: rounding adds some."""
    weights = [numpy_helper.to_array(tensor) for tensor in onnx.load(path).graph.initializer if len(tensor.dims) > 1]
    large = [weight for weight in weights if weight.size > 4096]
    found = sum(int((weight != 0).sum()) for weight in large) / sum(weight.size for weight in large)
    if not 0.8 * density < found < 1.1 * density:
        raise SystemExit(f"{path}: {found:.3f} of the weights are not zero, {density:g} were to be")


# Running ------------------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Here:
    """Something that is timed in this process: all of a comparison are small, and processes of their own would take minutes to start."""

    name: str
    run: Callable[[], object]

    def time(self, seconds: float, min_runs: int) -> Turn:
        """See `latency.Timed`."""
        return take_turn(self.run, seconds, min_runs)

    def work(self, turns: int, seconds: float, min_runs: int) -> list[Turn]:
        """See `latency.Timed`."""
        return [self.time(seconds, min_runs) for _ in range(turns)]


def session(name: str, where: str, precision: str, pattern: str, density: float) -> Callable[[], object]:
    """Return a run of an artifact in one of Laconic's runtimes."""
    opened = runtime(where).load(file_of(name, where, precision, pattern, density), lc.Target(where, threads=1))
    x = np.random.default_rng(1).normal(size=(1, *KINDS[name].shape)).astype(np.float32)
    return lambda: opened.run([x])


def decompressed(name: str, where: str, precision: str, pattern: str, density: float) -> Callable[[], object]:
    """Return a run in OpenVINO that keeps weights packed where at least half of them are zero."""
    import openvino as ov

    settings = {**properties(lc.Target("openvino", threads=1)), RATE: 0.45}
    compiled = ov.Core().compile_model(str(file_of(name, "openvino", precision, pattern, density)), "CPU", settings)
    request = compiled.create_infer_request()
    x = np.random.default_rng(1).normal(size=(1, *KINDS[name].shape)).astype(np.float32)
    return lambda: request.infer([x], share_inputs=True, share_outputs=True)


def csr(name: str, where: str, precision: str, pattern: str, density: float) -> Callable[[], object]:
    """Return a run in PyTorch whose matrices are stored row by row without their zeros (MKL multiplies); the dense net runs as a module."""
    kind = KINDS[name]
    made = program(kind, pattern, density)
    x = torch.randn(1, *kind.shape)
    if pattern in (DENSE, CHANNELS):
        return torch.inference_mode()(lambda: made(x))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the layout is "in beta state"
        layers = [p.detach().flatten(1).to_sparse_csr() for p in made.parameters() if p.dim() > 1]
    biases = [p.detach()[:, None] for p in made.parameters() if p.dim() == 1]
    matrix = x[0].flatten(1) if "conv" in name else x.reshape(-1, kind.shape[-1])

    @torch.inference_mode()
    def run() -> Tensor:
        h = matrix if "conv" in name else matrix.T.contiguous()
        for index, (weight, bias) in enumerate(zip(layers, biases, strict=True)):
            h = weight @ h + bias
            h = h.relu() if index % 2 == 0 else h
        return h

    with torch.inference_mode():
        answer = run() if "conv" in name else run().T
        torch.testing.assert_close(answer.reshape(-1), made(x).reshape(-1), rtol=1e-3, atol=1e-3)
    return run


def semi_structured(name: str, where: str, precision: str, pattern: str, density: float) -> Callable[[], object]:
    """Return a run on a GPU in fp16 whose 2:4 matrices are kept as such."""
    from torch.sparse import to_sparse_semi_structured

    kind = KINDS[name]
    made = net(kind, DENSE, 1) if pattern == DENSE else program(kind, pattern, density)
    weights = [p.detach().half().cuda() for p in made.parameters() if p.dim() > 1]
    layers = weights if pattern == DENSE else [to_sparse_semi_structured(weight) for weight in weights]
    x = torch.randn(max(64, int(np.prod(kind.shape[:-1]))), kind.shape[-1]).half().cuda()

    @torch.inference_mode()
    def run() -> Tensor:
        h = x
        for layer in layers:
            h = F.linear(h, layer)
        torch.cuda.synchronize()
        return h

    return run


Run = Callable[[str, str, str, str, float], Callable[[], object]]


@dataclass(frozen=True)
class Way:
    """A way to run layers: which kinds and precisions it has, the patterns that it can make use of (None: all), and why it cannot run here."""

    run: Run
    kinds: Sequence[str] = tuple(KINDS)
    precisions: Sequence[str] = ("fp32", "int8")
    patterns: Sequence[str] | None = None
    absent: Callable[[], str | None] = lambda: None


def _no_gpu() -> str | None:
    return None if torch.cuda.is_available() else "PyTorch finds no CUDA device here"


def _no_xnnpack() -> str:
    found = installed("executorch")
    return (
        "ExecuTorch asks XNNPACK for dense kernels alone: its delegate makes runtimes without the flag XNN_FLAG_HINT_SPARSE_INFERENCE, "
        f"without which XNNPACK does not look for zeros in 1×1 convolutions ({'executorch ' + found if found else 'not installed here'})"
    )


def _never(*cell: Any) -> Callable[[], object]:
    raise AssertionError("a way that is absent is not run")


WAYS: dict[str, Way] = {
    ORT: Way(session),
    OPENVINO: Way(session),
    UNPACKING: Way(decompressed, ("linear-1", "linear-128"), ("int8",)),
    TORCH: Way(csr, ("linear-1", "linear-128", "conv-1x1"), ("fp32",)),
    CUDA: Way(semi_structured, ("linear-1", "linear-128"), ("fp16",), ("2:4",), _no_gpu),
    XNNPACK: Way(_never, absent=_no_xnnpack),
}


def measured(way: str, name: str, precision: str, quick: bool) -> list[Row]:
    """Time the patterns and densities of one kind in one way beside the dense net."""
    row = WAYS[way]
    wanted = [cell for cell in cells(quick) if row.patterns is None or cell[0] in row.patterns]
    labels = {f"{pattern} {density:g}": (pattern, density) for pattern, density in [(DENSE, 1.0), *wanted]}
    torch.set_num_threads(1)
    entries = [Here(label, row.run(name, way, precision, *cell)) for label, cell in labels.items()]
    rounds = latency.interleave(entries, *((3, 0.005) if quick else (9, 0.025)))
    base = rounds.rounds[f"{DENSE} 1"]
    rows = []
    for label, (pattern, density) in labels.items():
        times = rounds.rounds[label]
        ratio = latency.ratio(base, times)
        figures = (latency.summarize(times).p50_ms, ratio.value or 0.0, ratio.low or 0.0, ratio.high or 0.0)
        rows.append(Row(name, way, precision, pattern, density, *figures, rounds.machine["busy"] or ""))
    return rows


def take(names: Sequence[str], quick: bool) -> tuple[list[Row], list[Gap]]:
    """Time everything, or some kinds, and print the ratios; also what could not be measured, and why."""
    rows, gaps = [], []
    for way, row in WAYS.items():
        if (why := row.absent()) is not None:
            gaps.append(Gap(way, "", "", why))
            print(f"{way}: not measured: {why}", flush=True)
            continue
        for name, precision in product(row.kinds, row.precisions):
            if names and name not in names:
                continue
            told = f"{way}, {KINDS[name].title}, {precision}"
            try:
                found = measured(way, name, precision, quick)
            except BadInput as error:
                gaps.append(Gap(way, name, precision, str(error).split(": ")[-1].split(". ")[0]))
                print(f"{told}: not measured: {gaps[-1].why}", flush=True)
                continue
            rows += found
            shown = "  ".join(f"{one.pattern} {one.density:g}: {one.ratio:.2f}" for one in found[1:])
            print(f"{told}: {found[0].ms:.3f} ms dense; {shown}{'  BUSY' * bool(found[0].busy)}", flush=True)
    return rows, gaps


def build(names: list[str]) -> None:
    """Make the files."""
    for way, row in WAYS.items():
        if row.run is session:
            for name, precision in product(row.kinds, row.precisions):
                if not names or name in names:
                    with contextlib.suppress(BadInput):  # `take` tells it
                        for cell in [(DENSE, 1.0), *cells(False)]:
                            file_of(name, way, precision, *cell)
                        print(f"{way}, {name}, {precision}: made", flush=True)


def measure_map(names: list[str]) -> None:
    """Time all of it, and keep it."""
    rows, gaps = take(names, quick=False)
    here = environment(None, ("onnxruntime", "openvino"))
    machine = {
        "processor": here["processor"],
        "instructions": [key for key, value in here["instructions"].items() if value],
        "versions": {name: here["versions"].get(name) for name in ("onnxruntime", "openvino", "torch")},
    }
    kept = json.loads(KEPT.read_text(encoding="utf-8")) if KEPT.exists() and names else {"rows": [], "gaps": []}
    others = {key: [row for row in kept[key] if row["kind"] and row["kind"] not in names] for key in ("rows", "gaps")}
    found = {"rows": [vars(row) for row in rows], "gaps": [vars(gap) for gap in gaps]}
    write_whole(KEPT, json.dumps({"machine": machine, **{key: others[key] + found[key] for key in found}}, indent=1))
    print(f"kept in {KEPT}")


def quick(names: list[str]) -> None:
    """Try the script."""
    take(names, quick=True)


# Writing ------------------------------------------------------------------------------------------------------------------------------


def write(names: list[str]) -> None:
    """Write the page."""
    if not KEPT.exists():
        raise SystemExit(f"there is no {KEPT}: first run `python -m benchmarks.zeros map`")
    DOCS.write_text(
        "\n".join(page(json.loads(KEPT.read_text(encoding="utf-8")), {name: kind.title for name, kind in KINDS.items()})) + "\n",
        encoding="utf-8",
    )
    print(f"wrote {DOCS}")


if __name__ == "__main__":
    command(__doc__, {"build": build, "map": measure_map, "quick": quick, "write": write})
