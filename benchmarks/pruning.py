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
import gc
import tempfile
import time
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
from laconic.core.errors import LaconicError
from laconic.core.target import Target
from laconic.core.task import calibration_subset
from laconic.deploy.export import parity, write_onnx
from laconic.deploy.runtime import runtime
from laconic.pruning import allocation
from laconic.pruning.collect import score
from laconic.pruning.coupling import Coupling
from laconic.pruning.criteria import CRITERIA
from laconic.pruning.masked import Masked
from laconic.pruning.proof import prove, random_choice
from laconic.pruning.sizes import Sizes, keep_of
from laconic.pruning.surgery import remove
from laconic.run import gate
from laconic.run.latency_table import latency_table
from laconic.tasks.models import DataShape, build

DOCS = Path(__file__).parents[1] / "docs"
BOTH = ("onnxruntime", "openvino")


# Coverage ---------------------------------------------------------------------------------------------------------------------------------


def covered(name: str, folder: Path) -> tuple[str, bool]:
    """A row of the table, and whether all holds."""
    found = architectures.ARCHITECTURES[name]
    model = architectures.settled(found.make(), found.inputs)
    cells: dict[str, str] = {}
    try:
        program = lc.capture(model, found.inputs(2), dynamic=found.dynamic)
        if len(program.outputs[0].shape) == 3 and isinstance(found.inputs(2), dict):
            model, name = _headed(model, found.inputs(2)), f"{name}, head added"
            program = lc.capture(model, found.inputs(2), dynamic=found.dynamic)
        coupling = lc.couple(program)
        free, total = coupling.prunable()
        cells["prunable"] = f"{100 * free / total:.1f}"
        cells["groups"] = str(len(coupling.groups))
        leaves = program.flatten_inputs(found.inputs(3))
        moved = []
        for share in (0.7, 0.3):
            keep = random_choice(coupling, share, seed=1)
            pruned = remove(coupling, keep)
            proof = prove(coupling, keep, pruned, [leaves])
            cells[f"{share}"] = f"{proof.difference:.0e}"
            moved += proof.moved.values()
        cells["moved"] = f"{min(moved):.0e}"
        _trains(pruned, leaves)
        file = folder / "pruned.onnx"
        write_onnx(pruned, file, file.name)
        with torch.no_grad():
            expected = [leaf.numpy() for leaf in pruned.graph_module(*leaves)]
        for kind in BOTH:
            got = runtime(kind).load(file, Target(kind)).run([leaf.numpy() for leaf in leaves])
            evidence, reason = gate.parity(parity(got, expected), "fp32")
            cells[kind] = f"{evidence['max_rel']:.0e}"
            if reason is not None:
                raise LaconicError(f"{kind}: {reason.text}")
    except (LaconicError, RuntimeError, ValueError, TypeError, IndexError, KeyError, AssertionError) as error:
        cells["reason"] = architectures.told(error)
    shown = [cells.get(key, "–") for key in ("prunable", "groups", "0.7", "0.3", "moved", *BOTH)]
    return f"| {name} | {' | '.join(shown)} | {'no: ' + cells['reason'] if 'reason' in cells else 'yes'} |", "reason" not in cells


class _Text(nn.Module):
    """A linear head on the mean of the hidden states, which else are the output and fix the width."""

    def __init__(self, model: nn.Module, width: int) -> None:
        super().__init__()
        self.model, self.head = model, nn.Linear(width, 3)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Ids and mask (B, L) to (B, 3)."""
        return self.head(_first(self.model(input_ids=input_ids, attention_mask=attention_mask)).mean(1))  # type: ignore[no-any-return]


class _Vision(_Text):
    """The same for pictures."""

    def forward(self, pixel_values: Tensor) -> Tensor:  # type: ignore[override]
        """Pixels (B, C, H, W) to (B, 3)."""
        return self.head(_first(self.model(pixel_values=pixel_values)).mean(1))  # type: ignore[no-any-return]


def _headed(model: nn.Module, inputs: dict[str, Tensor]) -> nn.Module:
    """The model with a head, where its inputs are text or pictures; else as it is."""
    kind = {("attention_mask", "input_ids"): _Text, ("pixel_values",): _Vision}.get(tuple(sorted(inputs)))
    with torch.no_grad():
        found = _first(model(**inputs))
    return model if kind is None or found.dim() != 3 else kind(model, found.shape[-1]).eval()


def _trains(pruned: lc.Program, leaves: tuple[Tensor, ...]) -> None:
    """One step of SGD moves every parameter that has a gradient."""
    program = copy.deepcopy(pruned).train()
    outputs = [leaf for leaf in program.graph_module(*leaves) if leaf.is_floating_point()]
    total = torch.stack([leaf.square().mean() for leaf in outputs]).sum()
    total.backward()  # type: ignore[no-untyped-call]
    gradients = [p.grad for p in program.parameters() if p.grad is not None]
    assert gradients, "no parameter has a gradient"
    assert all(bool(g.isfinite().all()) for g in gradients), "a gradient is not finite"
    torch.optim.SGD(program.parameters(), 1e-3).step()


def coverage(names: list[str]) -> None:
    """Print the rows; all of them are written to the docs."""
    rows, held = [], 0
    for name in names or architectures.ARCHITECTURES:
        with tempfile.TemporaryDirectory() as folder:
            row, good = covered(name, Path(folder))
        rows.append(row)
        held += good
        print(row, flush=True)
    print(f"{held} of {len(rows)} hold")
    if names:
        return
    head = [
        "# Pruned architectures\n",
        "Random components of every group removed, 70 % and then 30 % kept: the pruned program against the one whose slices are masked (largest difference,"
        " relative to the largest output; 1e-4 is allowed), as it is and with perturbed parameters, at the captured batch size and others (and lengths)."
        " *Moved* is by how much the cut in a group moves the output with perturbed parameters, in the group where it does least: where that is no more than"
        " the difference, the proof says nothing. At 30 % it also trains a step, is exported and answers alike in both runtimes. Where hidden states are the"
        " output, which fixes the width, a linear head on their mean was added.",
        f"Written by `python -m benchmarks.pruning coverage`. **{held} of {len(rows)} hold.**\n",
        "| architecture | output channels that can go, % | groups | 70 % kept | 30 % kept | moved | ONNX Runtime | OpenVINO | holds |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | --- |",
    ]
    (DOCS / "pruned.md").write_text("\n".join([*head, *rows]) + "\n", encoding="utf-8")


# Analysis ---------------------------------------------------------------------------------------------------------------------------------


def large(name: str) -> tuple[nn.Module, Any]:
    """A full-size net with random weights, and an input of two examples."""
    import transformers

    torch.manual_seed(0)
    pixels = lambda size: {"pixel_values": torch.randn(2, 3, size, size)}  # noqa: E731
    if name == "resnet50":
        return build("resnet50", DataShape("image", (3, 224, 224), 1000)).eval(), torch.randn(2, 3, 224, 224)
    if name == "efficientnet-b7":
        config = transformers.EfficientNetConfig(width_coefficient=2.0, depth_coefficient=3.1, image_size=224, hidden_dim=2560)
        return transformers.EfficientNetForImageClassification(config).eval(), pixels(224)
    if name == "swin":
        return transformers.SwinForImageClassification(transformers.SwinConfig()).eval(), pixels(224)
    net = transformers.BertForSequenceClassification(transformers.BertConfig()).eval()
    ids = torch.randint(5, 30_000, (2, 64))
    return net, {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


LARGE = ("resnet50", "efficientnet-b7", "swin", "bert")


def analysis(names: list[str]) -> None:
    """Print milliseconds and ratios to the peer, interleaved: group building alone, and the whole way from the module.

    Alone: ours from the captured program to the groups, the peer's from its traced graph to its groups. Whole: capture included, tracing included.
    """
    for name in names or LARGE:
        net, inputs = large(name)
        ours, theirs = _Ours(net, inputs), _Theirs(net, inputs)
        work: dict[str, Callable[[], Any]] = {
            "ours": ours.groups,
            "peer": theirs.groups,
            "ours, whole": ours.whole,
            "peer, whole": theirs.whole,
        }
        times: dict[str, list[float]] = {key: [] for key in work}
        said = ""
        for turn in range(9):
            for key, call in work.items():
                if "whole" in key and turn >= 3:
                    continue
                gc.collect()  # what one leaves behind is not cleared away in the other's time
                try:
                    with warnings.catch_warnings():
                        warnings.simplefilter("ignore")
                        if key == "peer":
                            theirs.prepare()
                        start = time.perf_counter()
                        call()
                except Exception as error:  # noqa: BLE001 - whatever stops the peer is its result
                    said = f"; Torch-Pruning: {type(error).__name__}: {str(error)[:80]}"
                    continue
                times[key].append(1e3 * (time.perf_counter() - start))
        print(f"{name}: groups alone {_beside(times['ours'], times['peer'])}", end="; ")
        print(f"whole way from the module {_beside(times['ours, whole'], times['peer, whole'])}{said}", flush=True)


def _beside(ours: list[float], peer: list[float]) -> str:
    own = float(np.median(ours))
    if not peer:
        return f"ours {own:.1f} ms, Torch-Pruning failed"
    return f"ours {own:.1f} ms, Torch-Pruning {np.median(peer):.1f} ms: {np.median(peer) / own:.2f} times as fast"


class _Ours:
    """Capture, and what follows it."""

    def __init__(self, net: nn.Module, inputs: Any) -> None:
        self.net, self.inputs = net, inputs
        self.program = lc.capture(net, inputs)

    def groups(self) -> int:
        """From the captured program."""
        return len(lc.couple(self.program).groups)

    def whole(self) -> int:
        """From the module."""
        return len(lc.couple(lc.capture(self.net, self.inputs)).groups)


class _Theirs:
    """Torch-Pruning's tracing, and what follows it; the groups of all convolutions and linear layers."""

    def __init__(self, net: nn.Module, inputs: Any) -> None:
        self.net, self.inputs = net, inputs
        self.graph: Any = None

    def traced(self) -> Any:
        """The graph of dependencies."""
        import torch_pruning as tp

        return tp.DependencyGraph().build_dependency(self.net, example_inputs=self.inputs, output_transform=_first)

    def prepare(self) -> None:
        """Trace, once."""
        self.graph = self.graph or self.traced()

    def groups(self) -> int:
        """From the traced graph."""
        return self._count(self.graph)

    def whole(self) -> int:
        """From the module."""
        return self._count(self.traced())

    def _count(self, graph: Any) -> int:
        return len(list(graph.get_all_groups(root_module_types=[nn.modules.conv._ConvNd, nn.Linear])))


def _first(out: Any) -> Any:
    return out if isinstance(out, Tensor) else out[0]


def growth(names: list[str]) -> None:
    """Print seconds by ids, and draw them."""
    points = []
    for width in (16, 64, 256, 1024, 4096, 16_384):
        layers = [m for _ in range(30) for m in (nn.Conv2d(width, width, 1, groups=width), nn.BatchNorm2d(width), nn.ReLU())]
        blocks = nn.Sequential(nn.Conv2d(3, width, 1), *layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 2))
        program = lc.capture(_Doubled(blocks).eval(), torch.randn(2, 3, 4, 4))
        lc.couple(program)
        times = []
        for _ in range(5):
            start = time.perf_counter()
            coupling = lc.couple(program)
            len(coupling.groups)
            times.append(time.perf_counter() - start)
        ids = sum(len(found) for dims in coupling.tensors.values() for found in dims if found is not None)
        points.append((ids, float(np.median(times))))
        print(f"{ids:9,d} ids in {len(program.graph.nodes)} nodes: {1e3 * points[-1][1]:.1f} ms", flush=True)
    (DOCS / "coupling.svg").write_text(_drawn(points), encoding="utf-8")


class _Doubled(nn.Module):
    """A net and a residual sum of its two halves' inputs, so that components are joined."""

    def __init__(self, net: nn.Sequential) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        """x (B, 3, H, W) to (B, 2)."""
        found = self.net[0](x)
        for index in range(1, len(self.net) - 3, 3):
            found = found + self.net[index + 2](self.net[index + 1](self.net[index](found)))
        return self.net[-1](self.net[-2](self.net[-3](found)))  # type: ignore[no-any-return]


def _drawn(points: list[tuple[int, float]]) -> str:
    """Both axes logarithmic; the dashed line is proportional."""
    x0, x1, y0, y1 = 3.0, 6.3, 0.0, 3.5  # powers of ten: ids, milliseconds

    def place(ids: float, ms: float) -> tuple[float, float]:
        return 60 + 400 * (np.log10(ids) - x0) / (x1 - x0), 250 - 220 * (np.log10(ms) - y0) / (y1 - y0)

    marks = [place(ids, 1e3 * s) for ids, s in points]
    last = points[-1]
    line = [place(ids, 1e3 * last[1] * ids / last[0]) for ids in (points[2][0], last[0])]
    path = " ".join(f"{x:.0f},{y:.0f}" for x, y in marks)
    text = [f'<text x="{place(10**p, 1)[0]:.0f}" y="268" text-anchor="middle">10^{p}</text>' for p in (3, 4, 5, 6)]
    text += [f'<text x="52" y="{place(1e3, 10**p)[1] + 4:.0f}" text-anchor="end">{10**p}</text>' for p in (0, 1, 2, 3)]
    dots = "".join(f'<circle cx="{x:.0f}" cy="{y:.0f}" r="3.5" fill="#2a6f97"/>' for x, y in marks)
    dashed = " ".join(f"{x:.0f},{y:.0f}" for x, y in line)
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 480 300" font-family="sans-serif" font-size="12" fill="#333">'
        '<rect width="480" height="300" fill="#fff"/>'
        f'<polyline points="{path}" fill="none" stroke="#2a6f97" stroke-width="2"/>{dots}'
        f'<polyline points="{dashed}" fill="none" stroke="#999" stroke-dasharray="4 4"/>{"".join(text)}'
        '<text x="260" y="290" text-anchor="middle">ids (dashed: proportional)</text>'
        '<text x="16" y="140" text-anchor="middle" transform="rotate(-90 16 140)">milliseconds</text></svg>\n'
    )


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
