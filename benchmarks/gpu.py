"""Capture, training in bf16, parity and latency on a GPU: `python benchmarks/gpu.py [--device cpu]`.

Needs torch, onnx and onnxruntime and nothing else; run it with `PYTHONPATH=src` where Laconic is not installed. Says so where no GPU is at hand;
`--device cpu` takes the same way on a processor, to try the script itself.
"""

from __future__ import annotations

import argparse
import copy
import importlib.util
import sys
import tempfile
import warnings
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

import laconic as lc
from laconic.core.errors import LaconicError
from laconic.core.target import Target
from laconic.deploy.artifact import Artifact, pack, save_artifact
from laconic.deploy.export import parity
from laconic.deploy.process import WorkerProcess
from laconic.deploy.runtime import runtime
from laconic.measure import latency
from laconic.run.timing import TimedWorker
from laconic.tasks.models import DataShape, build

SHAPE = DataShape("image", (3, 64, 64), 100)
RUNTIMES = (("torch", "fp32"), ("torch", "bf16"), ("torch.compile", "fp32"), ("torch.compile", "bf16"), ("onnxruntime", "fp32"))


def capture(device: str) -> tuple[nn.Module, lc.Program]:
    module = build("resnet50", SHAPE).eval().to(device)
    program = lc.capture(module, torch.randn(2, *SHAPE.shape, device=device))
    x = torch.randn(8, *SHAPE.shape, device=device)
    with torch.no_grad():
        print(f"capture on {device}: the program equals the module: {torch.equal(program(x), module(x))}")
    return module, program


def train(module: nn.Module, program: lc.Program, device: str) -> None:
    """The same bf16 steps for both; a GPU's kernels may add in another order each time, so the largest difference is told."""
    steps, batch = (10, 32) if device == "cuda" else (2, 8)  # a processor without bf16 instructions emulates them, slowly
    torch.manual_seed(0)
    x, y = torch.randn(batch, *SHAPE.shape, device=device), torch.randint(0, SHAPE.classes, (batch,), device=device)
    losses: list[list[float]] = []
    for model in (module, program):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
        model.train()
        losses.append([])
        for _ in range(steps):
            with torch.autocast(device, torch.bfloat16):
                loss = F.cross_entropy(model(x).float(), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses[-1].append(loss.item())
        model.eval()
    gap = max(abs(a - b) for a, b in zip(*losses, strict=True))
    print(
        f"training in bf16 on {device}: loss {losses[1][0]:.3f} → {losses[1][-1]:.3f}; largest difference of losses to the module {gap:.2g}"
    )


def lowered(program: lc.Program, folder: Path, settings: Target) -> Artifact:
    """The artifact; where onnxscript is not installed, PyTorch's older exporter writes the ONNX file, which needs onnx alone."""
    if runtime(settings.runtime).format != "onnx" or importlib.util.find_spec("onnxscript") is not None:
        return save_artifact(program, folder, settings, {})
    print("onnxscript is not installed: the ONNX file is written by PyTorch's older exporter")
    file = folder.with_name("older") / "model.onnx"
    file.parent.mkdir(exist_ok=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        axes = {"x": {0: "batch"}, "output": {0: "batch"}}
        torch.onnx.export(
            program.graph_module,
            program.example_inputs(),
            str(file),
            dynamo=False,
            input_names=["x"],
            output_names=["output"],
            dynamic_axes=axes,
        )
    return pack(file, program.interface, folder, settings, {})


def measure(program: lc.Program, device: str, folder: Path) -> None:
    program = copy.deepcopy(program).to("cpu")
    x = torch.randn(4, *SHAPE.shape)
    with torch.no_grad():
        expected = [leaf.numpy() for leaf in program.graph_module(x)]
    inputs = folder / "inputs"
    inputs.mkdir()
    for index, array in enumerate((x.numpy(), x[:1].numpy())):
        np.savez(inputs / f"{index:06d}.npz", **{"0": array})
    candidates: list[TimedWorker] = []
    workers: list[WorkerProcess] = []
    for name, precision in RUNTIMES:
        title = f"{name} {precision} on {device}"
        why = runtime(name).available(precision, device)
        if why is not None:
            print(f"{title}: not measured: {why}")
            continue
        try:
            artifact = lowered(program, folder / f"{name}-{precision}", Target(name, precision, device=device))
            worker = WorkerProcess(artifact, timeout_s=600)
            workers.append(worker)
            facts = worker.start(inputs / "000001.npz")
            worker.predict(inputs, folder / "out" / f"{name}-{precision}")
        except LaconicError as error:
            print(f"{title}: failed: {str(error).splitlines()[0]}")
            continue
        with np.load(folder / "out" / f"{name}-{precision}" / "000000.npz") as found:
            difference = parity([found["0"]], expected)["max_rel"]
        print(f"{title}: parity {difference:.1e}, cold start {facts['cold_start_ms']:.0f} ms")
        candidates.append(TimedWorker(title, worker))
    run = latency.interleave(candidates, 15, 0.2)
    if run.machine["busy"]:
        print(run.machine["busy"])
    first = next(iter(run.rounds))
    for name, rounds in run.rounds.items():
        found_ms, ratio = latency.summarize(rounds), latency.ratio(run.rounds[first], rounds)
        print(
            f"{name}, batch 1: {found_ms.p50_ms:.3f} ms (p95 {found_ms.p95_ms:.3f}), {ratio.value:.2f} [{ratio.low:.2f}, {ratio.high:.2f}] × {first}"
        )
    for worker in workers:
        worker.close()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    device = parser.parse_args().device
    if device == "cuda" and not torch.cuda.is_available():
        print("no GPU that PyTorch can use is at hand: nothing was measured")
        return 0
    print(torch.cuda.get_device_name() if device == "cuda" else "on the processor, to try the script: these are no figures of a GPU")
    module, program = capture(device)
    train(module, program, device)
    with tempfile.TemporaryDirectory() as folder:
        measure(program, device, Path(folder))
    return 0


if __name__ == "__main__":
    sys.exit(main())
