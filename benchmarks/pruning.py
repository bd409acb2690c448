"""Structured pruning beside its peer: `python -m benchmarks.pruning {coverage,analysis,growth,rank,accuracy,equal,minilm,speed} [NAME …]`.

- coverage: which of those in docs/architectures.md can be pruned, and is the pruned program the masked one; writes docs/pruned.md.
- analysis: the coupling analysis against Torch-Pruning's, interleaved: group building alone, and the whole way from the module.
- growth: seconds by number of ids, up to a million; draws docs/coupling.svg.
- rank: rank correlation of each criterion's scores with the true change of the loss, over all groups, as they are and relative to their group's mean.
- accuracy: drop of Fashion-MNIST's ResNet-20 at 2.1 and 3 times fewer multiply-adds after the same training, three seeds, against Torch-Pruning's group L1:
  by its defaults, ranked over all layers, and (`-taught`) with a teacher and batch-norms estimated anew, as ours.
- equal: the same at equal time of the layers, shared out by latency and uniformly.
- minilm: the same of MiniLM on SST-2 with half the heads and feed-forward units; `fallback`: taylor, and nobody says the rate: a range test does (one seed).
- speed: measured speed-up on the runtime by allocation, at the same time budget.
"""

from __future__ import annotations

import copy
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import laconic as lc
from benchmarks import architectures, trained
from benchmarks.command import command
from benchmarks.contest import Entry, contest
from benchmarks.coupling import BOTH, analysis, coverage, growth
from laconic.core.target import Target
from laconic.core.task import calibration_subset
from laconic.deploy.export import write_onnx
from laconic.pruning import allocation
from laconic.pruning.collect import score
from laconic.pruning.coupling import Coupling
from laconic.pruning.criteria import CRITERIA
from laconic.pruning.masked import Masked
from laconic.pruning.sizes import Sizes, keep_of
from laconic.pruning.surgery import remove
from laconic.run.latency_table import latency_table
from laconic.tasks.models import DataShape, build

# Accuracy ---------------------------------------------------------------------------------------------------------------------------------


# Torch-Pruning's settings: what its examples and defaults say, and ranked over all layers as ours are.
PEERS: dict[str, dict[str, Any]] = {"peer": {"global_pruning": False}, "peer-global": {"global_pruning": True}}


def _peer(net: nn.Module, inputs: Tensor, macs: float, settings: dict[str, Any]) -> nn.Module:
    """Torch-Pruning's group L1, step by step until so many multiply-adds are left."""
    import torch_pruning as tp

    found = copy.deepcopy(net).eval()
    heads = [m for m in found.modules() if isinstance(m, nn.Linear)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pruner = tp.pruner.BasePruner(
            found,
            inputs,
            tp.importance.GroupMagnitudeImportance(p=1),
            pruning_ratio=1.0,
            max_pruning_ratio=0.9,
            iterative_steps=400,
            ignored_layers=heads,
            **settings,
        )
        while lc.count(lc.capture(found, inputs)).macs > macs:
            for _ in range(2):
                pruner.step()
    return found


def _renewed(net: nn.Module, task: lc.Task, examples: int, seed: int) -> nn.Module:
    """Batch-norm statistics estimated anew on train examples, as `prune` does."""
    norms = [m for m in net.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the mean over all batches
    assert task.train is not None
    loader = torch.utils.data.DataLoader(calibration_subset(task.train, examples, seed), 128, collate_fn=task.collate)
    net.train()
    with torch.no_grad():
        for batch in loader:
            net(task.split(batch)[0])
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    return net.eval()


PLAN = lc.FitPlan(
    epochs=5, optimizer="adamw", lr=3e-3, schedule="cosine", weight_decay=1e-2, batch_size=128, warmup=0.1, channels_last=True
)
CONTENDERS = ("own", "peer", "peer-global", "own-alone", "peer-taught", "peer-global-taught")


def accuracy(names: list[str]) -> None:
    """Print drops in points of the last epoch on test data, by seed.

    Names: times fewer multiply-adds (2.1, 3), contenders, criteria, `option=value` of the plan, and seeds as s0, s1, s2.
    """
    task = trained.task("resnet20")
    net, test = task.build(), task.test
    assert test is not None
    inputs = torch.randn(2, 1, 28, 28)
    program = lc.capture(net, inputs)
    full = lc.count(program).macs
    base = trained.accuracy(net, test)  # type: ignore[arg-type]
    numbers = [float(name) for name in names if name[0].isdigit()] or [2.1, 3.0]
    criteria = [name for name in names if name in CRITERIA] or [lc.Prune().criterion]
    contenders = [name for name in names if name in CONTENDERS] or CONTENDERS
    seeds = [int(name[1:]) for name in names if name[0] == "s" and name[1:].isdigit()] or [0, 1, 2]
    options = {key: value for key, _, value in (name.partition("=") for name in names) if value}
    plan = replace(PLAN, **{key: type(getattr(PLAN, key))(value) for key, value in options.items()})
    print(f"resnet20: float {base:.2f} %, {full / 1e6:.1f} M multiply-adds; {plan}; drops by seed {seeds}", flush=True)

    def own(seed: int, times: float, criterion: str, share: float) -> nn.Module:
        config = lc.Prune(macs=1 / times, criterion=criterion, recovery=replace(plan, seed=seed, distill=share))
        return lc.prune(program, config, lc.Context(task, lc.fit, seed=seed))[0]  # type: ignore[no-any-return, operator]

    def peer(seed: int, times: float, share: float, settings: dict[str, Any], renew: bool) -> nn.Module:
        found = _peer(net, inputs, full / times, settings)
        found = _renewed(found, task, lc.Prune().examples, seed) if renew else found
        lc.fit(found, replace(plan, seed=seed, distill=share), task, teacher=program)
        return found.eval()

    for times in numbers:
        made: dict[str, Callable[[int], nn.Module]] = {}
        for name in contenders:
            taught = name == "own" or name.endswith("-taught")
            share = 0.5 if taught else 0.0
            if name.startswith("own"):
                made |= {f"{name} {c}": lambda seed, c=c, share=share, times=times: own(seed, times, c, share) for c in criteria}  # type: ignore[misc]
            else:
                settings = PEERS[name.removesuffix("-taught")]
                made[name] = lambda seed, share=share, times=times, settings=settings, taught=taught: peer(  # type: ignore[misc]
                    seed, times, share, settings, taught
                )
                print(f"  {name}: Torch-Pruning group L1, {settings}, teacher {share}, batch-norms estimated anew {taught}", flush=True)
        for label, make in made.items():
            drops, left = [], 0
            for seed in seeds:
                found = make(seed)
                left = lc.count(found if isinstance(found, lc.Program) else lc.capture(found, inputs)).macs
                drops.append(base - trained.accuracy(found, test))  # type: ignore[arg-type]
            cells = "  ".join(f"{drop:+.2f}" for drop in drops)
            print(f"  {full / left:.2f} times fewer  {label:24s} {cells}   mean {np.mean(drops):+.2f}", flush=True)


def equal(names: list[str]) -> None:
    """Print drops and measured speed of ResNet-20 at three quarters of its layers' time, shared out by latency and uniformly. Names: runtimes, seeds as s0."""
    task = trained.task("resnet20")
    net, test = task.build(), task.test
    assert test is not None
    program = lc.capture(net, torch.randn(2, 1, 28, 28))
    base = trained.accuracy(net, test)  # type: ignore[arg-type]
    seeds = [int(name[1:]) for name in names if name[0] == "s" and name[1:].isdigit()] or [0, 1, 2]
    for target in [name for name in names if name in BOTH] or BOTH:
        price, sizes = latency_table(lc.Target(target)), Sizes(lc.couple(program))

        def time_of(counts: Any, sizes: Sizes = sizes, price: Any = price) -> float:
            return sum(price(sizes.layer(node, counts)) for node in sizes.layers)

        even = allocation.uniform(sizes, time_of, 0.75 * time_of(sizes.full), allocation.Limits(multiple=4))
        ways: dict[str, dict[str, Any]] = {
            "latency": {"latency": 0.75, "allocation": "latency"},
            "uniform": {"macs": sizes.macs(even) / sizes.macs(sizes.full), "allocation": "uniform"},
        }
        with tempfile.TemporaryDirectory() as place:
            folder, drops, left = Path(place), {}, {}
            write_onnx(program, folder / "full.onnx", "full.onnx")
            entries = {"full": Entry(folder / "full.onnx", Target(target, threads=1))}
            for label, options in ways.items():
                drops[label] = []
                for seed in seeds:
                    config = lc.Prune(multiple=4, recovery=replace(PLAN, epochs=2, seed=seed, distill=0.5), **options)
                    found, _ = lc.prune(program, config, lc.Context(task, lc.fit, seed=seed, price=price))  # type: ignore[operator]
                    drops[label].append(base - trained.accuracy(found, test))  # type: ignore[arg-type]
                left[label] = lc.count(program).macs / lc.count(found).macs
                write_onnx(found, folder / f"{label}.onnx", f"{label}.onnx")
                entries[label] = Entry(folder / f"{label}.onnx", Target(target, threads=1))
            price.keep()
            row = contest(entries, [np.zeros((1, 1, 28, 28), np.float32)], folder, "full")
        for label, values in drops.items():
            cells = "  ".join(f"{drop:+.2f}" for drop in values)
            speed = f"{row[label].ratio:.2f} [{row[label].low:.2f}, {row[label].high:.2f}] times as fast"
            print(
                f"{target} {label}: {left[label]:.2f} times fewer multiply-adds, {speed}; drops {cells}  mean {np.mean(values):+.2f}",
                flush=True,
            )


def minilm(names: list[str]) -> None:
    """Print drops of MiniLM with half the heads and feed-forward units."""
    task = trained.task("minilm")
    net, test = task.build(), task.test
    assert test is not None
    program = lc.capture(net, next(iter(torch.utils.data.DataLoader(test, 2)))[0])
    base = trained.accuracy(net, test)  # type: ignore[arg-type]
    freeze = ("encoder.embeddings",)
    coupling = lc.couple(program, freeze=freeze)
    sizes = Sizes(coupling)
    share = sizes.macs([n // 2 for n in sizes.full]) / sizes.macs(sizes.full)
    print(f"minilm: float {base:.2f} %; {100 * share:.1f} % of the multiply-adds with half of {sizes.full}", flush=True)
    for name in names or ["taylor", "group_l2", "fallback"]:
        drops = []
        searched = name == "fallback"
        for seed in (0,) if searched else (0, 1, 2):
            told = {"epochs": 2, "batch_size": 32, "schedule": "linear", "warmup": 0.1, "distill": 0.5, "seed": seed}
            recovery = told if searched else lc.FitPlan(**told, lr=1e-4)  # type: ignore[arg-type]
            criterion = "taylor" if searched else name
            config = lc.Prune(macs=share * 1.0001, criterion=criterion, allocation="uniform", freeze=freeze, recovery=recovery)  # type: ignore[arg-type]
            pruned, outcome = lc.prune(program, config, lc.Context(task, lc.fit, seed=seed))  # type: ignore[operator]
            drops.append(base - trained.accuracy(pruned, test))  # type: ignore[arg-type]
        rate = f"   {next(note for note in outcome.notes if note.startswith('recovery'))}" if searched else ""
        print(f"  {name:12s} {'  '.join(f'{d:+.2f}' for d in drops)}   mean {np.mean(drops):+.2f}{rate}", flush=True)


# Speed ------------------------------------------------------------------------------------------------------------------------------------


def speed(names: list[str]) -> None:
    """Print multiply-adds, measured speed-up and their quotient, by allocation, without training (time does not depend on weights)."""
    for name in names or ("resnet50@openvino", "resnet50@onnxruntime", "mobilenet_v2@openvino", "mobilenet_v2@onnxruntime"):
        kind, _, target = name.partition("@")
        net = architectures.settled(build(kind, DataShape("image", (3, 224, 224), 1000)), lambda n: torch.randn(n, 3, 224, 224))
        x = torch.randn(2, 3, 224, 224)
        program = lc.capture(net, x)
        full = lc.count(program).macs
        coupling = lc.couple(program)
        sizes = Sizes(coupling)
        scores = [torch.rand(n, generator=torch.Generator().manual_seed(i)) + 0.5 for i, n in enumerate(sizes.full)]
        price = latency_table(lc.Target(target))
        made = {
            "uniform": allocation.uniform(sizes, sizes.macs, 0.5 * full, allocation.Limits()),
            "uniform, multiples of 8": allocation.uniform(sizes, sizes.macs, 0.5 * full, allocation.Limits(multiple=8)),
            "latency": allocation.by_latency(sizes, price, 0.5, allocation.Limits(multiple=8), scores),
        }
        price.keep()
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place)
            write_onnx(program, folder / "full.onnx", "full.onnx")
            entries = {"unpruned": Entry(folder / "full.onnx", Target(target))}
            fewer = {"unpruned": 1.0}
            for label, counts in made.items():
                pruned = remove(coupling, keep_of(coupling, scores, counts))
                file = folder / f"{len(entries)}.onnx"
                write_onnx(pruned, file, file.name)
                entries[label] = Entry(file, Target(target))
                fewer[label] = full / lc.count(pruned).macs
            found = contest(entries, [x[:1].numpy()], folder, "unpruned")
        print(f"\n{name}: {price.measured} layer shapes measured; speed-up [95 %], times fewer multiply-adds, quotient", flush=True)
        for label, row in found.items():
            lost = sum(
                float(1 - np.sort(s.numpy())[::-1][:c].sum() / s.sum()) for s, c in zip(scores, made.get(label, sizes.full), strict=True)
            ) / len(scores)
            print(
                f"  {label:24s} {row.p50_ms:8.2f} ms  {row.ratio:.2f} [{row.low:.2f}, {row.high:.2f}]  {fewer[label]:.2f}  "
                f"{row.ratio / fewer[label]:.2f}  score lost {lost:.3f}",
                flush=True,
            )


# Criteria across groups -------------------------------------------------------------------------------------------------------------------


def rank(names: list[str]) -> None:
    """Print Spearman's rank correlations, mean over the nets: with the change of the train loss when one component is masked.

    Names: criteria; seeds of the nets as s0, s1, s2.
    """
    from scipy.stats import spearmanr

    seeds = [int(name[1:]) for name in names if name[0] == "s" and name[1:].isdigit()] or [0, 1, 2]
    criteria = [name for name in names if name in CRITERIA] or list(CRITERIA)
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in criteria}
    for seed in seeds:
        for ref in ("digits@resnet8", "digits@lenet5"):
            task = lc.load_task(ref, seed=seed)
            assert task.train is not None
            net = task.build()
            lc.fit(net, lc.FitPlan(epochs=5, lr=3e-3, optimizer="adamw", schedule="cosine", batch_size=64, seed=seed), task)
            coupling = lc.couple(lc.capture(net.eval(), next(iter(torch.utils.data.DataLoader(task.train, 2)))[0]))
            change = np.concatenate(_loss_changes(coupling, task))
            for name in criteria:
                scores = score(coupling, name, lc.Context(task, seed=seed), examples=256)
                pair = [float(spearmanr(np.concatenate(allocation.across(scores, raw)), change)[0]) for raw in (True, False)]
                found[name].append((pair[0], pair[1]))
    print(f"digits, ResNet-8 and LeNet-5, seeds {seeds}, 256 train examples: rank correlation with the true loss change")
    for name, pairs in found.items():
        raw, relative = np.mean(pairs, axis=0)
        print(
            f"  {name:16s} as it is {raw:+.3f}   relative to its group {relative:+.3f}   used: {'as it is' if CRITERIA[name].comparable else 'relative'}"
        )


@torch.no_grad()
def _loss_changes(coupling: Coupling, task: lc.Task, examples: int = 256) -> list[Any]:
    """For each group, how the loss changes when one component is masked: (n,)."""
    assert task.train is not None
    assert task.loss is not None
    subset = calibration_subset(task.train, examples, 0)
    inputs, target = task.split(next(iter(torch.utils.data.DataLoader(subset, examples, collate_fn=task.collate))))
    leaves = coupling.program.flatten_inputs(inputs)

    def loss(keep: Any) -> float:
        return float(task.loss(coupling.program.unflatten_outputs(Masked(coupling, keep).run(*leaves)), target))  # type: ignore[misc]

    whole = loss(coupling.everything())
    changes = []
    for group in coupling.groups:
        values = []
        for component in group.components:
            keep = coupling.everything()
            keep[component] = False
            values.append(loss(keep) - whole)
        changes.append(np.array(values))
    return changes


COMMANDS = {
    "coverage": coverage,
    "analysis": analysis,
    "growth": growth,
    "rank": rank,
    "accuracy": accuracy,
    "equal": equal,
    "minilm": minilm,
    "speed": speed,
}

if __name__ == "__main__":
    command(__doc__, COMMANDS)
