"""Which architectures can be captured, exported and run, and do their answers agree: `python -m benchmarks.architectures`.

Every model of `benchmarks/zoo.py` is captured with batch 2 and compared with batch 3. Writes the table docs/architectures.md; `--only NAME …`
prints the rows of some.
"""

from __future__ import annotations

import argparse
import re
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

import laconic as lc
from benchmarks.zoo import ARCHITECTURES, Inputs
from laconic.core.errors import LaconicError
from laconic.core.target import Target
from laconic.deploy.export import parity, write_model
from laconic.deploy.runtime import runtime
from laconic.run import gate

DOCS = Path(__file__).parents[1] / "docs" / "architectures.md"
RUNTIMES = ("onnxruntime", "openvino")


@dataclass(frozen=True)
class Row:
    """What came of it: parameters, seconds, relative difference by runtime; `reason` where it failed."""

    name: str
    kind: str
    params: int
    capture_s: float
    export_s: float
    differences: dict[str, float]
    reason: str = ""


def settled(model: nn.Module, inputs: Callable[[int], Inputs]) -> nn.Module:
    """Batch-norm statistics of the inputs: with those of a new model, activations vanish on the way and every output equals the last bias."""
    norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = None  # the mean over all batches, without what it was before
    model.train()
    with torch.no_grad():
        for seed in range(5):
            batch = inputs(8 + seed)
            model(**batch) if isinstance(batch, dict) else model(batch)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    return model.eval()


def check(name: str, folder: Path) -> Row:
    """Capture, export, run in every runtime at another batch size, and put the outputs before the gate."""
    found = ARCHITECTURES[name]
    model = settled(found.make(), found.inputs)
    params = sum(p.numel() for p in model.parameters())
    start = time.perf_counter()
    differences: dict[str, float] = {}
    captured = exported = 0.0
    try:
        program = lc.capture(model, found.inputs(2), dynamic=found.dynamic)
        captured = time.perf_counter() - start
        file = write_model(program, folder, "onnx")
        exported = time.perf_counter() - start - captured
        inputs = found.inputs(3)
        with torch.no_grad():
            outputs = model(**inputs) if isinstance(inputs, dict) else model(inputs)
            expected = [leaf.numpy() for leaf in program.graph_module(*program.flatten_inputs(inputs))]
            answer = program.call(inputs)
            first, twin = (np.asarray(found if isinstance(found, Tensor) else found[0]) for found in (answer, outputs))
        differences["program"] = parity([first], [twin])["max_rel"]
        for kind in RUNTIMES:
            session = runtime(kind).load(file, Target(kind))
            evidence, reason = gate.parity(parity(session.run([leaf.numpy() for leaf in program.flatten_inputs(inputs)]), expected), "fp32")
            differences[kind] = evidence["max_rel"]
            if reason is not None:
                return Row(name, found.kind, params, captured, exported, differences, f"{kind}: {reason.text}")
    except (LaconicError, RuntimeError, ValueError, TypeError) as error:
        return Row(name, found.kind, params, captured, exported, differences, told(error))
    return Row(name, found.kind, params, captured, exported, differences)


def told(error: BaseException) -> str:
    """The reason in one line, without the paths of this machine."""
    text = " ".join(str(error).split())
    text = re.sub(r"/\S*/site-packages/", "", text)
    text = re.sub(r"Exception from \S+ |Check '\w+' failed at \S+ ", "", text)
    return text if len(text) <= 400 else f"{text[:250]} … {text[-150:]}"


def line(row: Row) -> str:
    """One line of the table; seconds are left out, because they change from machine to machine."""
    shown = [f"{row.differences[kind]:.0e}" if kind in row.differences else "–" for kind in ("program", *RUNTIMES)]
    return f"| {row.name} | {row.kind} | {row.params:,} | {' | '.join(shown)} | {'yes' if not row.reason else 'no: ' + row.reason} |"


def table(rows: list[Row]) -> Iterator[str]:
    passed = sum(not row.reason for row in rows)
    yield "# Architectures\n"
    yield "Captured, exported to ONNX, run in ONNX Runtime and OpenVINO with another batch size, held to the gate's parity rule."
    yield f"Written by `python -m benchmarks.architectures`; CI makes some of the rows again. **{passed} of {len(rows)} hold.**\n"
    yield "Differences are relative to the largest output: of the captured program to the module, and of each runtime to the program.\n"
    yield "| architecture | kind | parameters | program | ONNX Runtime | OpenVINO | holds |"
    yield "| --- | --- | ---: | ---: | ---: | ---: | --- |"
    yield from (line(row) for row in rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="*", choices=list(ARCHITECTURES), help="print these rows and write nothing")
    only = parser.parse_args().only
    rows = []
    for name in only or ARCHITECTURES:
        with tempfile.TemporaryDirectory() as folder:
            row = check(name, Path(folder))
        rows.append(row)
        print(f"{line(row)}  capture {row.capture_s:.1f} s, export {row.export_s:.1f} s", flush=True)
    passed = sum(not row.reason for row in rows)
    print(f"{passed} of {len(rows)} hold")
    if not only:
        DOCS.write_text("\n".join(table(rows)) + "\n", encoding="utf-8")
        print(f"wrote {DOCS}")


if __name__ == "__main__":
    main()
