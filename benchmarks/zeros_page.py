"""The page docs/zeros.md: what `benchmarks.zeros` measured, by runtime."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

PATTERNS = ("unstructured", "2:4", "1x4", "4x1", "16x1", "channels")
DENSITIES = (0.5, 0.1, 0.05)
DENSE, CHANNELS = "dense", "channels"
ORT, OPENVINO, UNPACKING, TORCH, CUDA, XNNPACK = "onnxruntime", "openvino", "openvino-sparse", "torch-csr", "torch-2:4", "xnnpack"
TITLES = {
    ORT: "ONNX Runtime",
    OPENVINO: "OpenVINO",
    UNPACKING: "OpenVINO, sparse weights decompressed",
    TORCH: "PyTorch, matrices in compressed sparse rows",
    CUDA: "PyTorch on a GPU, semi-structured 2:4",
    XNNPACK: "XNNPACK",
}
PAYS = 1.05  # zeros are time where the lower end of the ratio's interval is above it


@dataclass(frozen=True)
class Row:
    """One measured cell of the map."""

    kind: str
    runtime: str
    precision: str
    pattern: str
    density: float
    ms: float
    ratio: float
    low: float
    high: float
    busy: str = ""


@dataclass(frozen=True)
class Gap:
    """What could not be measured, and why; without a kind, a whole runtime."""

    runtime: str
    kind: str
    precision: str
    why: str


HEAD = """\
# Where a zero is time

One or two layers with zeros in their weights against the same layers without, by runtime, kind of layer, pattern and density. Written by
`python -m benchmarks.zeros map` and `write`, on one thread of {processor} ({instructions}); {versions}.

A figure is how many times faster the layers with zeros are than the dense ones in the same runtime, taking turns. Where a cell has three, 50, 10 and 5 % of the
weights are not zero; 2:4 keeps 50 %. **Bold**: the 95 % interval lies above 1.05. *Whole channels* are no zeros in the end but smaller dense layers, as
[structured pruning](pruning.md) makes them, with these shares of the channels between two layers (of an LSTM's states): the control.
What zeros are good for everywhere: [bytes](storage.md)."""
TAIL = """\
## What follows

`Runtime.fast_zeros` names the patterns that are time in a runtime of Laconic; `laconic optimize` tries the lever `sparsify` for speed
only there, and else for the size of the packed file. The timing of the artifact itself against the baseline decides in any case.

OpenVINO keeps weights packed, and unpacks them before each product, where `CPU_SPARSE_WEIGHTS_DECOMPRESSION_RATE` is below 1 and below the share of zeros. Its
source (`intel_cpu`, FullyConnected) does so for int8 linear layers whose channels are multiples of 64, on processors with AMX alone; on others the property
changes nothing. Where the table above was not made on such a processor, it says nothing of one, and no artifact sets the property.

Compressed rows are a layout of tensors in a PyTorch program of your own: no file that Laconic exports holds them, so no runtime of Laconic has their speed."""


def page(kept: Mapping[str, Any], layers: Mapping[str, str]) -> Iterator[str]:
    """Yield the lines of docs/zeros.md, of what was kept and the titles of the kinds of layers."""
    rows, gaps = [Row(**row) for row in kept["rows"]], [Gap(**gap) for gap in kept["gaps"]]
    machine = kept["machine"]
    versions = ", ".join(f"{name} {number}" for name, number in machine["versions"].items())
    yield from (HEAD.format(processor=machine["processor"], instructions=", ".join(machine["instructions"]), versions=versions), "")
    for way in dict.fromkeys(row.runtime for row in rows):
        yield from (f"## {TITLES[way]}", "", *_told([row for row in rows if row.runtime == way], layers), "")
        for gap in gaps:
            if gap.runtime == way:
                yield from (f"{layers[gap.kind]}, {gap.precision}: not measured: {gap.why}.", "")
    yield from ("## Not measured", "", *(f"- {TITLES[gap.runtime]}: {gap.why}." for gap in gaps if not gap.kind), "", TAIL)
    if any(row.busy for row in rows):
        yield "\nThe machine was busy during some of it, which makes ratios of zeros scatter."


def _told(rows: Sequence[Row], layers: Mapping[str, str]) -> Iterator[str]:
    patterns = [pattern for pattern in PATTERNS if any(row.pattern == pattern for row in rows)]
    yield _summary([row for row in rows if row.pattern not in (DENSE, CHANNELS)])
    yield ""
    yield f"| layer | dense, ms | {' | '.join('whole channels' if pattern == CHANNELS else pattern for pattern in patterns)} |"
    yield f"| --- | ---: |{' --- |' * len(patterns)}"
    for kind, precision in dict.fromkeys((row.kind, row.precision) for row in rows):
        mine = [row for row in rows if (row.kind, row.precision) == (kind, precision)]
        dense = next(row for row in mine if row.pattern == DENSE)
        cells = [" ".join(_cell(row) for row in mine if row.pattern == pattern) for pattern in patterns]
        yield f"| {layers[kind]}, {precision} | {dense.ms:.3f} | {' | '.join(cells)} |"


def _cell(row: Row) -> str:
    return f"**{row.ratio:.2f}**" if row.low > PAYS else f"{row.ratio:.2f}"


def _summary(rows: Sequence[Row]) -> str:
    ratios, told = [row.ratio for row in rows], []
    for density in DENSITIES:
        mine = [row for row in rows if row.density == density]
        if mine:
            middle = median(row.ratio for row in mine)
            faster = sum(row.low > PAYS for row in mine)
            told.append(f"{faster} of {len(mine)} where {100 * density:g} % are not zero (median of the ratios {middle:.2f})")
    return f"Faster than the dense layers are {', '.join(told)}; ratios go from {min(ratios):.2f} to {max(ratios):.2f}."
