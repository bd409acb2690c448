"""Capture, training in bf16, parity and latency on a GPU or another accelerator: `python benchmarks/gpu.py [--device cpu]`.

Runs every runtime of the table, in each precision, on each device beside the processor that it can use here. Needs torch, onnx and onnxruntime and nothing
else; run it with `PYTHONPATH=src` where Laconic is not installed. Says so where no such device is at hand, and what each runtime would need;
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
from laconic.deploy.runtime import devices, names, runtime, sights
from laconic.measure import latency
from laconic.run.timing import TimedWorker
from laconic.tasks.models import DataShape, build

SHAPE = DataShape("image", (3, 64, 64), 100)
# What runs, on which device, in which precision.
Branch = tuple[str, str, str]


def branches(only: str | None = None) -> tuple[list[Branch], list[str]]:
    """Return what can run here on this device (None: on every one beside the processor), and why the rest cannot."""
    able, whys = [], []
    for name in names():
        one = runtime(name)
        for device in one.devices[1:] if only is None else (only,):
            for precision in one.precisions:
                why = one.available(precision, device)
                if why is None:
                    able.append((name, precision, device))
                else:
                    whys.append(f"{name} {precision} on {device}: not measured: {why}")
    return able, whys


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


def measure(program: lc.Program, able: list[Branch], folder: Path, rounds: int = 15) -> None:
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
    for name, precision, device in able:
        title = f"{name} {precision} on {device}"
        place = f"{name}-{precision}-{device}".replace(":", "-")
        try:
            artifact = lowered(program, folder / place, Target(name, precision, device=device))
            worker = WorkerProcess(artifact, timeout_s=600)
            workers.append(worker)
            facts = worker.start(inputs / "000001.npz")
            worker.predict(inputs, folder / "out" / place)
        except LaconicError as error:
            print(f"{title}: failed: {str(error).splitlines()[0]}")
            continue
        with np.load(folder / "out" / place / "000000.npz") as found:
            difference = parity([found["0"]], expected)["max_rel"]
        print(f"{title}: parity {difference:.1e}, cold start {facts['cold_start_ms']:.0f} ms")
        candidates.append(TimedWorker(title, worker))
    if not candidates:
        print("nothing ran: nothing was measured")
        return
    run = latency.interleave(candidates, rounds, 0.2)
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


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", choices=("cpu", *devices()), help="only this one; cpu tries the script")
    parser.add_argument("--rounds", type=int, default=15)
    given = parser.parse_args(argv)
    able, whys = branches(given.device)
    print("\n".join(f"{title} sees {', '.join(there)}" for title, there in sights().items()))
    print("\n".join(whys))
    if not able:
        print("no device beside the processor is at hand: nothing was measured")
        return 0
    here = "cuda" if given.device != "cpu" and torch.cuda.is_available() else "cpu"
    print(
        torch.cuda.get_device_name()
        if here == "cuda"
        else "PyTorch computes on the processor: what follows of capture and training are no figures of a GPU"
    )
    module, program = capture(here)
    train(module, program, here)
    with tempfile.TemporaryDirectory() as folder:
        measure(program, able, Path(folder), given.rounds)
    return 0


if __name__ == "__main__":
    sys.exit(main())
