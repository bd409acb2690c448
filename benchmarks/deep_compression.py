"""Pruned, shared, packed: `python -m benchmarks.deep_compression {best,published,fewer,surgery,control} [NET …] [SEED …] [valid] [NAME=VALUE …]`.

LeNet-300-100 (`lenet300`) and LeNet-5 (`lenet5`) on MNIST (Han et al. 2016, table 1): trained, pruned weight by weight, given few values, exported, packed.

- best: pruned gradually, values chosen by loss and bits, ties fine-tuned; on digits turned and shifted a little, the trained net as teacher.
- published: as in the paper: magnitude pruning with retraining, k-means of 5 bits (8 in convolutions) from linear starts, centroids fine-tuned.
- fewer: as many weights as dynamic network surgery leaves (Guo et al. 2016, table 1), pruned gradually by curvature; values neither shared nor chosen.
- surgery: the same by the schedule `surgery`.
- control: nothing pruned, trained on as in `fewer`, so that what pruning costs is told apart from what more training gives.

Printed by seed: accuracy on test data of the trained net and of what ships (the model that comes out of the archive, in ONNX Runtime), and the drop in
points; weights kept, and how many times fewer; bits a weight and bytes of the archive, all of it; how many times smaller it is than the weights in float32.
With `valid` the accuracies are on the valid data: so settings are chosen. Test data is read for the table alone, once, after the last epoch. NAME=VALUE changes
a setting of `Net`, such as `zeros=0.96`, or of the plan behind the first training, such as `lr=0.001`. Trained nets are kept in `LACONIC_BENCH`.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

import laconic as lc
from benchmarks import trained
from benchmarks.command import command
from laconic.core.plan import Scaled
from laconic.core.target import Target
from laconic.deploy.export import write_onnx
from laconic.deploy.runtime import runtime
from laconic.tasks.data import ArrayDataset

HEAD = "seed  before  after   drop     kept  fewer    bits   bytes   ratio seconds"
BASE = lc.FitPlan(optimizer="adamw", lr=2e-3, schedule="cosine", weight_decay=1e-2, batch_size=128, warmup=0.1)
REST = lc.FitPlan(optimizer="adamw", lr=3e-3, schedule="cosine", batch_size=128, warmup=0.02, distill=0.5)
VALUES = lc.FitPlan(optimizer="adamw", lr=1e-3, schedule="cosine", batch_size=128, distill=0.5)
TURNED = {"augment": (Scaled("rotation", 0.4), Scaled("crop", 0.3)), "distill": 0.3}  # up to 6° and 2 pixels
# few weights have no room for much variation, nor for what a teacher says of pictures that it never saw: chosen on the valid data
FEW = {"augment": (Scaled("crop", 0.25),), "distill": 0.0, "lr": 1.5e-3, "batch_size": 256}  # up to 1 pixel
# a convolutional net goes further with a high rate whose noise is averaged away, which costs no time: chosen likewise
AVERAGED = {**FEW, "lr": 3e-3, "average": "ema"}
SGD = {"optimizer": "sgd", "lr": 0.02}  # as in the paper of surgery
QUICK = {"channels_last": True, "precision": "bf16"}  # half the time of a convolution here


@dataclass(frozen=True)
class Net:
    """How long a net is trained, before and behind pruning, and how far each way goes.

    Attributes:
        base: epochs of the net itself.
        rest: epochs of pruning.
        few: of pruning where as few weights stay as in the paper of surgery, and of the control.
        values: epochs of fine-tuning shared values.
        zeros: their share, in the way `best`.
        bits: a weight, likewise.
        published: the share of zeros in the paper.
        fewer: the share of zeros at which about as many weights and biases stay as in the paper of surgery.
        wider: layers whose values have 8 bits in the paper, instead of 5.
        plan: options of all trainings behind the first.
        criterion: which weights stay, in the way `fewer`.
        tuned: options of the trainings in which few stay, and of the control.
    """

    base: int
    rest: int
    few: int
    values: int
    zeros: float
    bits: float
    published: float
    fewer: float
    wider: tuple[tuple[str, int], ...] = ()
    plan: Mapping[str, Any] = field(default_factory=dict, repr=False)
    criterion: str = "curvature"
    tuned: Mapping[str, Any] = field(default_factory=lambda: FEW, repr=False)

    def rests(self, seed: int, epochs: int | None = None, **options: Any) -> lc.FitPlan:
        """Return how it is trained while it is pruned."""
        return replace(REST, epochs=self.rest if epochs is None else epochs, seed=seed, **{**options, **self.plan})

    def tunes(self, seed: int, **options: Any) -> lc.FitPlan:
        """Return how shared values are fine-tuned."""
        return replace(VALUES, epochs=self.values, seed=seed, **{**options, **self.plan})


NETS = {
    "lenet300": Net(20, 24, 40, 4, 0.93, 0.5, 0.92, 0.9832),
    "lenet5": Net(12, 14, 24, 3, 0.975, 0.22, 0.92, 0.9915, (("conv1", 8), ("conv2", 8)), QUICK, tuned=AVERAGED),
}


def _best(net: Net, seed: int) -> tuple[lc.StepConfig, ...]:
    prune = lc.Sparsify(net.zeros, until=0.5, updates=40, recovery=net.rests(seed, **TURNED))
    return prune, lc.RateDistortion(bits_per_weight=net.bits, biases=True, recovery=net.tunes(seed, **TURNED))


def _published(net: Net, seed: int) -> tuple[lc.StepConfig, ...]:
    prune = lc.Sparsify(net.published, schedule="iterative", recovery=net.rests(seed))
    return prune, lc.ShareWeights(bits=5, layers=net.wider, start="linear", recovery=net.tunes(seed))


def _fewer(net: Net, seed: int) -> tuple[lc.StepConfig, ...]:
    return (lc.Sparsify(net.fewer, criterion=net.criterion, until=0.6, updates=120, recovery=net.rests(seed, net.few, **net.tuned)),)


def _surgery(net: Net, seed: int) -> tuple[lc.StepConfig, ...]:
    return (lc.Sparsify(net.fewer, schedule="surgery", until=0.6, updates=120, recovery=net.rests(seed, net.few, **{**FEW, **SGD})),)


def _control(net: Net, seed: int) -> tuple[lc.StepConfig, ...]:
    return (lc.Fit(net.rests(seed, net.few, **net.tuned)),)


WAYS: dict[str, Callable[[Net, int], tuple[lc.StepConfig, ...]]] = {
    "best": _best,
    "published": _published,
    "fewer": _fewer,
    "surgery": _surgery,
    "control": _control,
}


def _task(name: str, seed: int) -> lc.Task:
    """A task of this net, trained here if it was not yet."""
    plan = replace(BASE, epochs=NETS[name].base, seed=seed)
    task = lc.load_task(f"mnist@{name}", data=trained.DATA, seed=seed)
    net = task.build()
    file = trained.FOLDER / f"{name}-mnist-{plan.epochs}-seed{seed}.safetensors"
    if file.exists():
        net.load_state_dict(load_file(file))
    else:
        lc.fit(net, plan, task)
        trained.FOLDER.mkdir(parents=True, exist_ok=True)
        save_file({key: value.contiguous() for key, value in net.state_dict().items()}, file)
    task.model = net.eval()
    return task


def _shipped(program: lc.Program, data: ArrayDataset) -> tuple[float, int]:
    """Pack a program, unpack it and run it: accuracy in percent, and the bytes of the archive."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        write_onnx(program, folder / "model.onnx", "model.onnx")
        packed = lc.pack(folder / "model.onnx", folder / "model.lac")
        file = lc.unpack(folder / "model.lac", folder / "again.onnx")
        session = runtime("onnxruntime").load(file, Target("onnxruntime", threads=1))
        answers = [session.run([data._inputs[""][start : start + 500].numpy()])[0] for start in range(0, len(data), 500)]
    right = (np.concatenate(answers).argmax(1) == data.target.numpy()).sum()
    return 100 * float(right) / len(data), packed.packed_bytes


def _row(way: str, name: str, net: Net, seed: int, part: str) -> list[float]:
    """Print what becomes of one net; return the drop, how many times fewer weights, and how many times smaller."""
    task, start = _task(name, seed), time.perf_counter()
    base = lc.capture(task.build(), torch.zeros(2, 1, 28, 28))
    program, _ = lc.apply(base, WAYS[way](net, seed), lc.Context(task, fit=lc.fit, teacher=base, seed=seed))
    data = getattr(task, part)
    weights = sum(p.numel() for p in program.parameters())
    kept = sum(int(torch.count_nonzero(p)) for p in program.parameters())
    before = trained.accuracy(base, data)
    after, size_bytes = _shipped(program, data)
    seconds = time.perf_counter() - start
    ratio = 4 * weights / size_bytes
    print(
        f"{seed:4d} {before:7.2f} {after:6.2f} {before - after:+6.2f} {kept:8,} {weights / kept:6.1f} {8 * size_bytes / weights:7.3f} {size_bytes:7,}"
        f" {ratio:7.1f} {seconds:7.0f}",
        flush=True,
    )
    return [before - after, weights / kept, ratio]


def _value(text: str) -> Any:
    """Read a number; what is none is a name."""
    try:
        return int(text) if text.isdigit() else float(text)
    except ValueError:
        return text


def _way(way: str) -> Callable[[list[str]], None]:
    def work(names: list[str]) -> None:
        seeds = [int(name) for name in names if name.isdigit()] or [0, 1, 2]
        changes = {key: _value(value) for key, _, value in (name.partition("=") for name in names) if value}
        plan = {key: changes.pop(key) for key in list(changes) if key in {option.name for option in fields(lc.FitPlan)}}
        part = "valid" if "valid" in names else "test"
        for name in [name for name in names if name in NETS] or list(NETS):
            net = replace(NETS[name], **changes, plan={**NETS[name].plan, **plan})
            print(f"{name}, {way}, {part} data: {net}{f', {plan}' if plan else ''}\n{HEAD}", flush=True)
            rows = [_row(way, name, net, seed, part) for seed in seeds]
            drop, fewer, ratio = (sum(column) / len(rows) for column in zip(*rows, strict=True))
            print(f"mean drop {drop:+.2f} points, {fewer:.1f} times fewer weights, {ratio:.1f} times smaller", flush=True)

    return work


COMMANDS = {way: _way(way) for way in WAYS}

if __name__ == "__main__":
    command(__doc__, COMMANDS)
