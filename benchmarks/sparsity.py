"""Weight pruning of Fashion-MNIST's ResNet-20: `python -m benchmarks.sparsity {accuracy,criteria,table} [NAME …]`.

- accuracy: drops on test data after the last epoch, by seed. Names: ways (see `WAYS`), seeds as s0, s1, s2, `option=value` of the plan (`epochs=3`).
- criteria: drops without any training behind it, by criterion, at 50 and 70 % zeros (the same of every layer) and 2:4. Those that look at data see 256 train
  examples. Names: criteria.
- table: the same nets side by side: parameters, those that are not zero, multiply-adds, bytes of the ONNX file and of its `.lac` archive, latency on
  ONNX Runtime, drop. Names as of accuracy.

Each net is trained once and kept, beside those of `benchmarks.trained`.
"""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

import laconic as lc
from benchmarks import trained
from benchmarks.command import command
from benchmarks.contest import Entry, contest
from laconic.core.target import Target
from laconic.deploy.export import write_onnx
from laconic.pruning.unstructured.criteria import weight_criteria
from laconic.storage.pack import pack

# Named by what is done; all train alike: the same epochs, from the same trained weights, beside them as a teacher.
WAYS: dict[str, lc.StepConfig] = {
    "dense": lc.Fit(),
    "one_shot": lc.Sparsify(0.9, schedule="one_shot"),
    "gradual": lc.Sparsify(0.9, schedule="gradual"),
    "surgery": lc.Sparsify(0.9, schedule="surgery"),
    "rigl": lc.Sparsify(0.9, schedule="rigl"),
    "set": lc.Sparsify(0.9, schedule="set"),
    "2:4": lc.Sparsify(pattern="2:4"),
    "1x4": lc.Sparsify(0.9, pattern="1x4"),
    "structured": lc.Prune(macs=0.3),
}
PLAN = lc.FitPlan(
    epochs=3, optimizer="adamw", lr=3e-3, schedule="cosine", weight_decay=1e-2, batch_size=128, warmup=0.1, distill=0.5, channels_last=True
)


class Nets:
    """What the names on the command line ask for: ways, seeds and a plan; and the nets made so."""

    def __init__(self, names: list[str]) -> None:
        self.ways = [name for name in names if name in WAYS] or list(WAYS)
        self.seeds = [int(name[1:]) for name in names if name[0] == "s" and name[1:].isdigit()] or [0, 1, 2]
        options = {key: value for key, _, value in (name.partition("=") for name in names) if value}
        self.plan = replace(PLAN, **{key: type(getattr(PLAN, key))(value) for key, value in options.items()})
        known = {*self.ways, *(f"s{seed}" for seed in self.seeds)}
        unknown = [name for name in names if name not in known and "=" not in name]
        if unknown:
            raise SystemExit(f"unknown: {', '.join(unknown)}; ways are {', '.join(WAYS)}")
        self.task = trained.task("resnet20")
        self.net = self.task.build()
        self.program = lc.capture(self.net, torch.randn(2, 1, 28, 28))
        self.base = trained.accuracy(self.net, self.task.test)  # type: ignore[arg-type]
        print(f"resnet20: {self.base:.2f} % on test data; {self.plan}", flush=True)

    def made(self, way: str, seed: int) -> lc.Program:
        """Return a net, trained now or earlier."""
        plan = replace(self.plan, seed=seed)
        config = WAYS[way]
        changed = ",".join(f"{key}={value}" for key, value in vars(self.plan).items() if value != getattr(PLAN, key))
        file = trained.FOLDER / f"sparsity-{way.replace(':', 'of')}-{plan.epochs}-s{seed}{'-' if changed else ''}{changed}.pt2"
        if file.exists():
            return lc.Program.load(file)
        step: Any = lc.Fit(plan) if isinstance(config, lc.Fit) else replace(config, recovery=plan)
        result, _ = lc.apply(self.program, [step], lc.Context(self.task, lc.fit, seed=seed, teacher=self.program))
        result.save(file)
        return result

    def drop(self, program: lc.Program) -> float:
        """Return what is lost on test data, in points."""
        return self.base - trained.accuracy(program, self.task.test)  # type: ignore[arg-type]


def accuracy(names: list[str]) -> None:
    """Print drops by seed."""
    nets = Nets(names)
    for way in nets.ways:
        drops = []
        for seed in nets.seeds:
            program = nets.made(way, seed)
            drops.append(nets.drop(program))
        cells = "  ".join(f"{drop:+.2f}" for drop in drops)
        print(f"  {way:12s} {_zeros(program):5.1f} % zeros   drops {cells}   mean {np.mean(drops):+.2f}", flush=True)


def criteria(names: list[str]) -> None:
    """Print drops without training."""
    nets = Nets([])
    ways: dict[str, dict[str, Any]] = {
        "50 %": {"sparsity": 0.5},
        "70 %": {"sparsity": 0.7},
        "2:4": {"pattern": "2:4"},
        "2:4 permuted": {"pattern": "2:4", "permute": True},
    }
    for name in names or [name for name, row in weight_criteria().items() if not row.sums]:
        drops = []
        for options in ways.values():
            config = lc.Sparsify(**options, criterion=name, allocation="uniform", recovery={"epochs": 0})
            drops.append(nets.drop(lc.sparsify(nets.program, config, lc.Context(nets.task))[0]))  # type: ignore[operator]
        print(f"  {name:12s} " + "   ".join(f"{way} {drop:+.2f}" for way, drop in zip(ways, drops, strict=True)), flush=True)


def _zeros(program: lc.Program) -> float:
    """Return the share of zeros among kernels and matrices, in percent."""
    weights = [p for p in program.parameters() if p.dim() > 1]
    return 100 * sum(int((p == 0).sum()) for p in weights) / sum(p.numel() for p in weights)


def table(names: list[str]) -> None:
    """Print what each way leaves, costs and loses."""
    nets = Nets(names)
    with tempfile.TemporaryDirectory() as place:
        folder, rows, entries = Path(place), {}, {}
        for index, way in enumerate(["given", *nets.ways]):
            programs = [nets.program] if way == "given" else [nets.made(way, seed) for seed in nets.seeds]
            counts, file = lc.count(programs[0]), folder / f"{index}.onnx"
            write_onnx(programs[0], file, file.name)
            entries[way] = Entry(file, Target("onnxruntime", threads=1))
            packed = pack(file, file.with_suffix(".lac")).packed_bytes
            left = sum(int((p != 0).sum()) for p in programs[0].parameters())
            drops = [nets.drop(program) for program in programs]
            rows[way] = (
                f"{counts.params:9,} {left:9,} {counts.macs / 1e6:6.1f} {file.stat().st_size:10,} {packed:9,}",
                float(np.mean(drops)),
            )
        times = contest(entries, [np.zeros((1, 1, 28, 28), np.float32)], folder, "given")
    print(
        f"{'way':12s} {'params':>9s} {'not zero':>9s} {'M MACs':>6s} {'bytes':>10s} {'packed':>9s}  latency, ms [speed-up]        drop, points"
    )
    for way, (cells, drop) in rows.items():
        time = times[way]
        print(f"{way:12s} {cells}  {time.p50_ms:.3f} [{time.ratio:.2f}: {time.low:.2f} to {time.high:.2f}]  {drop:+.2f}", flush=True)


COMMANDS = {"accuracy": accuracy, "criteria": criteria, "table": table}

if __name__ == "__main__":
    command(__doc__, COMMANDS)
