"""Training and distillation: `python -m benchmarks.training {overhead,lr,augment,series,text,regularize,bert,resnet} [NAME=VALUE …]`.

- overhead: seconds of the loop against a bare PyTorch loop, of distillation against teacher forward and student step, of kept answers against a
  live teacher; interleaved.
- lr, augment, series, text, regularize: the tables of `laconic compare` on real data; `seeds`, `epochs`, `fraction` can be given. lr: also one-cycle in
  six tenths of the epochs against the constant rate in all.
- bert: MiniLM-L6 to three of its layers on SST-2, with and without the teacher; accuracy, and speed on both runtimes.
- resnet: Fashion-MNIST's ResNet-20 teaches ResNet-8 and itself at half width; the same nets alone; three seeds.
"""

from __future__ import annotations

import copy
import json
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from rich.console import Console
from torch import nn
from torch.utils.data import DataLoader

import laconic as lc
from benchmarks import trained
from benchmarks.command import command
from benchmarks.contest import Entry, contest
from laconic.core.target import Target
from laconic.deploy.export import write_onnx
from laconic.distill.distillation import teach
from laconic.measure.stats import over_seeds, paired_gain, ratio_of_rounds
from laconic.report.comparison import table
from laconic.studies.compare import Comparing, compare
from laconic.tasks.models import DataShape, build


def _options(names: list[str]) -> dict[str, Any]:
    """`seeds=3 epochs=2` as numbers."""
    pairs = [name.partition("=") for name in names]
    return {key: float(value) if "." in value else int(value) for key, _, value in pairs}


# Seconds ----------------------------------------------------------------------------------------------------------------------------------


def overhead(names: list[str]) -> None:
    """Print ratios of seconds for so many examples of Fashion-MNIST through ResNet-20: the median over interleaved rounds with its 95 % interval."""
    options = {"examples": 2560, "rounds": 7, **_options(names)}
    task = trained.task("resnet20")
    part = task.train.take(np.arange(options["examples"]))  # type: ignore[union-attr]
    plan = lc.FitPlan(epochs=1, optimizer="sgd", lr=1e-3, batch_size=128)
    teacher = lc.capture(task.build(), torch.randn(2, 1, 28, 28))
    student = build("resnet8", DataShape("image", (1, 28, 28), 10))

    def bare() -> None:
        net = copy.deepcopy(task.build()).train()
        optimizer = torch.optim.SGD(net.parameters(), 1e-3, momentum=0.9)
        for x, y in DataLoader(part, 128, shuffle=True):
            loss = F.cross_entropy(net(x), y)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()

    def both() -> None:
        net = copy.deepcopy(student).train()
        optimizer = torch.optim.SGD(net.parameters(), 1e-3, momentum=0.9)
        for x, y in DataLoader(part, 128, shuffle=True):
            with torch.no_grad():
                told = teacher(x)
            out = net(x)
            loss = 0.5 * F.cross_entropy(out, y) + 0.5 * 4 * F.kl_div(
                F.log_softmax(out / 2, 1), F.softmax(told / 2, 1), reduction="batchmean"
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    def ours(net: nn.Module, **more: Any) -> None:
        lc.fit(copy.deepcopy(net), replace(plan, **more), train=part, loss=F.cross_entropy)

    def taught(epochs: int) -> None:
        lc.fit(copy.deepcopy(student), replace(plan, distill=0.5, epochs=epochs), train=part, loss=F.cross_entropy, teacher=teacher)

    def live() -> None:
        lesson = teach(copy.deepcopy(student), teacher, replace(plan, distill=0.5), loss=F.cross_entropy)
        lc.fit(lesson.module, replace(plan, epochs=2), train=part, loss=lesson.loss)

    contests: dict[str, tuple[Callable[[], None], Callable[[], None]]] = {
        "loop against a bare one": (lambda: ours(task.build()), bare),
        "loop, channels last, against a bare one": (lambda: ours(task.build(), channels_last=True), bare),
        "distillation against teacher forward + student step": (lambda: taught(1), both),
        "two epochs with kept answers against a live teacher": (lambda: taught(2), live),
    }
    for label, (one, other) in contests.items():
        seconds: tuple[list[list[float]], list[list[float]]] = ([], [])
        one(), other()
        for _ in range(options["rounds"]):
            for work, taken in zip((one, other), seconds, strict=True):
                start = time.perf_counter()
                work()
                taken.append([time.perf_counter() - start])
        print(f"{label:54s} {ratio_of_rounds(*seconds)}", flush=True)


# Tables -----------------------------------------------------------------------------------------------------------------------------------

RATES = Comparing("lr", ("step", "triangular2", "one_cycle", "plateau"), epochs=10, fraction=0.1, lr=0.003, channels_last=True)
TABLES: dict[str, tuple[str, Comparing]] = {
    "augment": (
        "fashion-mnist@resnet8",
        Comparing("augment", ("crop", "flip", "rotation+scale", "color", "all"), epochs=20, fraction=0.1, channels_last=True),
    ),
    "series": (
        "japanese-vowels@gru",
        Comparing(
            "augment",
            ("jitter=4", "scaling=2", "magnitude_warp=2", "time_warp", "window_slice", "mixup=5", "all"),
            seeds=10,
            epochs=200,
            fraction=0.1,
            lr=0.003,
        ),
    ),
    "text": ("trec@lstm", Comparing("augment", None, epochs=20, fraction=0.1)),
    "regularize": (
        "fashion-mnist@lenet5",
        Comparing("regularize", ("l2", "dropout", "batch-norm", "label smoothing"), epochs=12, fraction=0.1),
    ),
}


def _table(kind: str) -> Callable[[list[str]], None]:
    def work(names: list[str]) -> None:
        ref, config = TABLES[kind]
        _compare(kind, ref, replace(config, **_options(names)))

    return work


def _compare(kind: str, ref: str, config: Comparing) -> Path:
    """Print a table; returns the folder in which its runs are kept."""
    out = trained.FOLDER / f"compare-{kind}-{config.epochs}x{config.fraction}"
    Console(width=160).print(table(compare(lc.load_task(ref, data=trained.DATA), config, out)))
    return out


def lr(names: list[str]) -> None:
    """Print the table of schedules, and one-cycle in six tenths of the epochs against the constant rate in all of them, on test data."""
    config = replace(RATES, **_options(names))
    short = replace(config, epochs=round(0.6 * (config.epochs or 0)), choices=("one_cycle",))
    whole, part = (_compare("lr", "fashion-mnist@resnet20", one) for one in (config, short))
    finals = [
        [json.loads((out / "runs" / f"{name}-{seed}.json").read_text(encoding="utf-8"))["final"] for seed in range(config.seeds)]
        for out, name in ((part, "one_cycle"), (whole, "constant"))
    ]
    gain = paired_gain(*finals, bounds=(0.0, 100.0))
    print(f"one_cycle in {short.epochs} epochs against constant in {config.epochs}: {gain}", flush=True)


# Students ---------------------------------------------------------------------------------------------------------------------------------


def resnet(names: list[str]) -> None:
    """Print test accuracy of ResNet-8 and of ResNet-20 at half width, taught and alone."""
    options = {"epochs": 3, "seeds": 3, **_options(names)}
    task = trained.task("resnet20")
    teacher = lc.capture(task.build(), torch.randn(2, 1, 28, 28))
    print(f"teacher: {trained.accuracy(teacher, task.test):.2f} %; {options['epochs']} epochs", flush=True)  # type: ignore[arg-type]
    plan = lc.FitPlan(epochs=options["epochs"], lr=3e-3, weight_decay=1e-2, batch_size=128, warmup=0.1, channels_last=True, temperature=4.0)
    for name in ("resnet8", "resnet20x0.5"):
        found: dict[str, list[float]] = {"taught": [], "alone": []}
        for seed in range(options["seeds"]):
            for label, share in (("taught", 0.9), ("alone", 0.0)):
                net = build(name, DataShape("image", (1, 28, 28), 10), seed)
                lc.fit(net, replace(plan, distill=share, seed=seed), task, teacher=teacher)
                found[label].append(trained.accuracy(net, task.test))  # type: ignore[arg-type]
        for label, values in found.items():
            print(f"  {name:14s} {label:7s} {over_seeds(values, '%', (0.0, 100.0))}   {'  '.join(f'{v:.2f}' for v in values)}", flush=True)
        print(f"  {name:14s} gain    {paired_gain(found['taught'], found['alone'], bounds=(0.0, 100.0))}", flush=True)


def bert(names: list[str]) -> None:
    """Print accuracy of three of MiniLM's six layers, taught and alone, as a share of the teacher's, and the speed-up on both runtimes."""
    options = {"epochs": 3, "seeds": 1, **_options(names)}
    task = trained.task("minilm")
    example = next(iter(DataLoader(task.test, 2)))[0]  # type: ignore[arg-type]
    teacher = lc.capture(task.build(), example)
    base = trained.accuracy(teacher, task.test)  # type: ignore[arg-type]
    small, outcome = lc.apply(teacher, [lc.DropBlocks(keep=3)], lc.Context(task))
    print(f"teacher {base:.2f} %; {outcome[0].changed}", flush=True)
    plan = lc.FitPlan(epochs=options["epochs"], lr=1e-4, batch_size=32, schedule="linear", warmup=0.1, temperature=2.0)
    for label, share in (("taught", 0.9), ("alone", 0.0)):
        for seed in range(options["seeds"]):
            student = copy.deepcopy(small)
            lc.fit(student, replace(plan, distill=share, seed=seed), task, teacher=teacher)
            found = trained.accuracy(student, task.test)  # type: ignore[arg-type]
            print(f"  {label:7s} seed {seed}: {found:.2f} %, {100 * found / base:.1f} % of the teacher's", flush=True)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        for name, program in (("teacher", teacher), ("student", small)):
            write_onnx(program, folder / f"{name}.onnx", f"{name}.onnx")
        leaves = [leaf.numpy() for leaf in teacher.flatten_inputs({key: value[:1] for key, value in example.items()})]
        for kind in ("onnxruntime", "openvino"):
            entries = {name: Entry(folder / f"{name}.onnx", Target(kind)) for name in ("teacher", "student")}
            row = contest(entries, leaves, folder, "teacher")["student"]
            print(f"  {kind}: {row.ratio:.2f} [{row.low:.2f}, {row.high:.2f}] times as fast", flush=True)


COMMANDS = {"overhead": overhead, "lr": lr, **{kind: _table(kind) for kind in TABLES}, "bert": bert, "resnet": resnet}

if __name__ == "__main__":
    command(__doc__, COMMANDS)
