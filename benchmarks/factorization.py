"""Cheaper layers: `python -m benchmarks.factorization {closed,accuracy,minilm,speed} [NAME …]`.

- closed: accuracy on 2,000 valid images straight after rewriting, without training: each way, weighed by the data and not, at equal multiply-adds.
- accuracy: drop of a net of the VGG type on Fashion-MNIST's test images, after distillation and then in int8, against the whole net's own int8.
- minilm: the same of MiniLM on SST-2 with its feed-forward layers at half rank, and without a third or half of its blocks (`third`, `half`).
- speed: the rewritten net (`vgg`, `minilm`) in int8 against our own int8 of the whole net, interleaved, in both runtimes, on one thread.

Names choose rows (`output`, `spatial`, …), how layers are fitted (`follow`, `weighed`, `unweighed`), seeds (`s0`, `s1`, …) and, of MiniLM, how long it is
trained (`epochs=3`); `untrained` leaves out what takes long.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

import laconic as lc
from benchmarks import trained
from benchmarks.command import command
from benchmarks.contest import Entry, Result, contest
from laconic.core.target import Target
from laconic.deploy.export import write_onnx
from laconic.run.latency_table import latency_table

FEWER = 2.5  # times fewer multiply-adds that are asked for
BOTH = ("openvino", "onnxruntime")
ALL = ("output", "input", "spatial", "tucker")
# name -> the step that rewrites; `times` is for rows whose ranks follow the measured time of int8 layers
ROWS: dict[str, lc.StepConfig] = {
    **{name: lc.LowRank(macs=1 / FEWER, methods=(name,)) for name in ALL},
    "best": lc.LowRank(macs=1 / FEWER, methods=ALL),
    "best-5": lc.LowRank(macs=1 / 5, methods=ALL),
    "separable": lc.Separable(),
    "separable-2": lc.Separable(multiplier=2),
}
PLAN = lc.FitPlan(epochs=2, optimizer="adamw", lr=1e-3, schedule="cosine", weight_decay=1e-2, batch_size=128, warmup=0.1, distill=0.5)
# MiniLM's feed-forward layers at half rank
HALF = lc.LowRank(rank=0.5, only=tuple(f"encoder.encoder.layer.{i}.{part}" for i in range(6) for part in ("intermediate", "output")))
FEWER_BLOCKS: dict[str, lc.StepConfig] = {"third": lc.DropBlocks(least=0.333), "half": lc.DropBlocks(least=0.5)}
_TRAINED = 15_000  # of the train images that are seen in each epoch of distillation


def vgg() -> tuple[lc.Task, lc.Program]:
    """The trained net, and its program."""
    task = trained.task("vgg")
    return task, lc.capture(task.build(), torch.randn(2, 1, 28, 28))


def rewritten(program: lc.Program, config: lc.StepConfig, context: lc.Context) -> tuple[lc.Program, lc.Outcome]:
    """Return the program after one step."""
    made, (outcome,) = lc.apply(program, [config], context)
    return made, outcome


def chosen(names: list[str]) -> Iterator[tuple[str, lc.StepConfig]]:
    """Yield the rows that are named; all where none is."""
    wanted = [name for name in names if name in ROWS]
    yield from ((name, config) for name, config in ROWS.items() if name in wanted or not wanted)


WAYS = {
    "follow": {},
    "weighed": {"follow": False},
    "unweighed": {"weighted": False},
}  # each behind the others, each by itself, all weights alike


def closed(names: list[str]) -> None:
    """Print accuracy by way, weighed and not, before any training."""
    task, program = vgg()
    full, valid = lc.count(program).macs, task.valid.take(np.arange(2000))  # type: ignore[union-attr]
    print(f"vgg: {trained.accuracy(program, valid):.2f} % of 2,000 valid images, {full / 1e6:.1f} M multiply-adds", flush=True)
    for name, config in chosen(names):
        told = []
        for label, options in WAYS.items():
            made, outcome = rewritten(program, replace(config, **options), lc.Context(task))  # type: ignore[arg-type]
            error = float(np.mean([row["error"] for row in outcome.changed["layers"]]))
            told.append(f"{label} {trained.accuracy(made, valid):.2f} % (mean error of a layer {error:.3f})")
        print(f"  {name:12s} {full / lc.count(made).macs:.2f} times fewer: {', '.join(told)}", flush=True)
        for row in outcome.changed["layers"]:
            print(f"    {row['name']:8s} {row['method']:10s} rank {row['rank']} of {row['full_rank']}", flush=True)


def seeds(names: list[str]) -> list[int]:
    """Return the seeds that are named; the first where none is."""
    return [int(name[1:]) for name in names if name[0] == "s" and name[1:].isdigit()] or [0]


@dataclass(frozen=True)
class Trial:
    """What every row of a table of drops shares: the task, its program and accuracy, and how rewritten programs are trained."""

    task: lc.Task
    program: lc.Program
    base: float
    plan: lc.FitPlan
    examples: int

    def drop(self, made: lc.Program) -> float:
        """Return the points that a program loses on test data."""
        return self.base - trained.accuracy(made, self.task.test)  # type: ignore[arg-type]

    def row(self, config: lc.StepConfig, names: list[str]) -> None:
        """Print times fewer multiply-adds, and the drops before training, after it and in int8, by seed; `untrained` leaves out what trains."""
        part: Any = self.task.train
        part = part.take(np.sort(np.random.default_rng(0).permutation(len(part))[: self.examples])) if len(part) > self.examples else part
        for seed in seeds(names):
            context = lc.Context(replace(self.task, train=part), lc.fit, seed=seed, teacher=self.program)
            made, _ = rewritten(self.program, config, context)
            fewer = lc.count(self.program).macs / lc.count(made).macs
            print(f"  {config.words()}, seed {seed}: {fewer:.2f} times fewer;  drop untrained {self.drop(made):+.2f}", end="", flush=True)
            if "untrained" not in names:
                made, _ = rewritten(made, lc.Fit(replace(self.plan, seed=seed)), context)
                print(f";  trained {self.drop(made):+.2f}", end="", flush=True)
                print(f";  and in int8 {self.drop(rewritten(made, lc.Quantize(target='openvino'), context)[0]):+.2f}", end="", flush=True)
            print(flush=True)


def accuracy(names: list[str]) -> None:
    """Print the drops of each row."""
    task, program = vgg()
    trial = Trial(task, program, trained.accuracy(program, task.test), PLAN, _TRAINED)  # type: ignore[arg-type]
    print(f"vgg: {trial.base:.2f} % of test images; {PLAN}; {_TRAINED} images", flush=True)
    if "untrained" not in names:
        print(
            f"  its own int8: drop {trial.drop(rewritten(program, lc.Quantize(target='openvino'), lc.Context(task))[0]):+.2f}", flush=True
        )
    for name, config in chosen(names):
        print(f"  {name}", flush=True)
        trial.row(config, names)


def minilm(names: list[str]) -> None:
    """Print the drops of MiniLM with its feed-forward layers at half rank, weighed by the data and not, and with fewer blocks."""
    task, program = encoder()
    epochs = next((int(name.removeprefix("epochs=")) for name in names if name.startswith("epochs=")), 1)
    plan = lc.FitPlan(epochs=epochs, lr=5e-5, batch_size=32, schedule="linear", warmup=0.1, distill=0.5)
    trial = Trial(task, program, trained.accuracy(program, task.test), plan, 6920)  # type: ignore[arg-type]
    print(f"minilm: {trial.base:.2f} % of test sentences; {plan}", flush=True)
    rows: dict[str, lc.StepConfig] = {**{label: replace(HALF, **options) for label, options in WAYS.items()}, **FEWER_BLOCKS}  # type: ignore[arg-type]
    for label in [name for name in names if name in rows] or rows:
        print(f"  {label}", flush=True)
        trial.row(rows[label], names)


def encoder() -> tuple[lc.Task, lc.Program]:
    """MiniLM on SST-2, and its program."""
    task = trained.task("minilm")
    return task, lc.capture(task.build(), next(iter(torch.utils.data.DataLoader(task.test, 2)))[0])  # type: ignore[arg-type]


def speed(names: list[str]) -> None:
    """Print measured milliseconds and the ratio to the whole net's own int8, by net, runtime and row; ranks of `time` are chosen by the time of int8 layers."""
    timed = {"time": lc.LowRank(latency=0.5, bits=8, methods=(*ALL, "depthwise"))}
    nets: dict[str, tuple[Callable[[], tuple[lc.Task, lc.Program]], dict[str, lc.StepConfig]]] = {
        "vgg": (vgg, {**dict(chosen(names)), **timed}),
        # of the weights alone, which changes no time of these
        "minilm": (
            encoder,
            {
                **{name: replace(HALF, rank=share, weighted=False) for name, share in (("rank 1/2", 0.5), ("rank 1/4", 0.25))},
                **FEWER_BLOCKS,
            },
        ),
    }
    for net in [name for name in names if name in nets] or ["vgg"]:
        make, rows = nets[net]
        task, program = make()
        for target in [name for name in names if name in BOTH] or BOTH:
            found = raced(task, program, rows, target)
            print(
                f"\n{net} in {target}, int8, one example, one thread: ms, times faster than the whole net's int8 [95 %], times fewer multiply-adds",
                flush=True,
            )
            for name, (result, fewer) in found.items():
                print(
                    f"  {name:14s} {result.p50_ms:7.3f} ms  {result.ratio:.2f} [{result.low:.2f}, {result.high:.2f}]  {fewer:.2f}",
                    flush=True,
                )


def raced(task: lc.Task, program: lc.Program, rows: Mapping[str, lc.StepConfig], target: str) -> dict[str, tuple[Result, float]]:
    """Return for the net as it is, in floats and in int8, and for each row in int8, its time and how many times fewer multiply-adds it has."""
    price, full = latency_table(Target(target, threads=1)), lc.count(program).macs
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)

        def shipped(made: lc.Program, name: str, *, rounded: bool) -> Entry:
            if rounded:
                made, _ = rewritten(made, lc.Quantize(target=target), lc.Context(task))
            write_onnx(made, folder / f"{name}.onnx", f"{name}.onnx")
            return Entry(folder / f"{name}.onnx", Target(target, threads=1))

        entries = {"whole, fp32": shipped(program, "fp32", rounded=False), "whole": shipped(program, "whole", rounded=True)}
        fewer = dict.fromkeys(entries, 1.0)
        for name, config in rows.items():
            try:
                made, outcome = rewritten(program, config, lc.Context(task, price=price))
            except lc.BadInput as error:  # a share of the time that no ranks reach at these prices
                print(f"  {name}: {error}", flush=True)
                continue
            entries[name], fewer[name] = shipped(made, name, rounded=True), full / lc.count(made).macs
            told = ", ".join(f"{row['name']} {row['method']} {row['rank']}" for row in outcome.changed["layers"])
            print(f"  {name}: {told}", flush=True)
        price.keep()
        example = [value.numpy()[:1] for value in program.example_inputs()]
        found = contest(entries, example, folder, "whole")
    return {name: (result, fewer[name]) for name, result in found.items()}


PARTS: Mapping[str, Callable[[list[str]], None]] = {"closed": closed, "accuracy": accuracy, "minilm": minilm, "speed": speed}

if __name__ == "__main__":
    command(__doc__, PARTS)
