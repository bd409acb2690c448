"""Sizes that are solved for against uniform and ranked ones: `python -m benchmarks.solver {before,criteria,joint,after,timed,predicted} [NAME …]`.

ResNet-20 on Fashion-MNIST, at equal predicted time of the layers, batch-norms estimated anew. Losses of groups are of 256 examples of the train data that the
seed draws; what is compared before recovery is the loss of 2048 others and the accuracy on 2000 valid ones. Names: a runtime (onnxruntime), seeds (s0 s1 s2).

- before: the same criterion everywhere (group_l2), solved, uniform and ranked by score over all groups, at 80, 65 and 50 % of the time in float and in int8.
- criteria: which criterion, and whether each size has a pass of its own or the scores do (what was removed, summed, through one pass at the middle size of each
  group); and the rank correlation of both with the true rise of the loss of random allocations.
- joint: what channels alone lose before recovery, and with ranks of large layers, blocks that go and floats among integers beside them, in int8 at the same
  predicted time: as predicted and as measured. More names: nets (resnet20), shares of the time (0.5).
- after: the same ways, channels with blocks that go (joint), and the same number of blocks in each stage (depth), all recovered alike beside the whole net as
  their teacher (`PLAN`): accuracy on test data in float and, behind static rounding, in int8, by seed. Each net is trained once and kept, beside those of
  `benchmarks.trained`. More names: ways, shares of the time (0.5), the precision whose time it is (int8), `epochs=N`.
- timed: the files of those nets in float and in int8 against each other and the whole net's, interleaved. Names as of after.
- predicted: the time of solved and uniform sizes in float and in int8, as the layers and what the whole net takes beside them predict it, against what was
  measured; and by layers and call alone. No losses are measured for it: a group loses the square of what goes of it. Names: nets (resnet20 mobilenet_v2),
  runtimes (onnxruntime openvino).
"""

from __future__ import annotations

import itertools
import json
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

import laconic as lc
from benchmarks import trained
from benchmarks.command import command
from benchmarks.contest import Entry, contest
from laconic.core.choices import Cost, Kind, Part, Table
from laconic.core.loss import mean_loss, train_batches
from laconic.core.macs import LayerShape
from laconic.deploy.export import write_onnx
from laconic.pruning import allocation
from laconic.pruning.allocation import Limits
from laconic.pruning.collect import score
from laconic.pruning.coupling import couple
from laconic.pruning.criteria import named
from laconic.pruning.inputs import renew_statistics
from laconic.pruning.sizes import Sizes, keep_of
from laconic.pruning.surgery import remove
from laconic.pruning.tables import Making, choices, group_losses, layer_costs, size_table
from laconic.run.latency_table import EDITION, LayerLatencyTable, latency_table
from laconic.run.layer_parts import LayerParts
from laconic.run.sizing import moves
from laconic.search.solve import solve

SHARES = (0.8, 0.65, 0.5)


@dataclass
class Setting:
    """ResNet-20, its groups, their sizes and the milliseconds of its layers."""

    task: lc.Task
    program: lc.Program
    sizes: Sizes
    counts: list[list[int]]
    prices: dict[str, Any]
    costs: list[Cost]
    price: LayerLatencyTable

    @classmethod
    def of(cls, runtime: str, net: str = "resnet20") -> Setting:
        """Time the layers; where they are known already, their table is read."""
        task = trained.task(net)
        assert task.valid is not None
        program = lc.capture(task.build(), torch.stack([torch.as_tensor(task.valid[i][0]) for i in range(2)]))
        price = latency_table(lc.Target(runtime), trained.FOLDER / f"solver-{runtime}-{EDITION}.json")

        def floats(layer: LayerShape) -> float:
            return price(replace(layer, bits=None))

        def rounded(layer: LayerShape) -> float:
            return price(replace(layer, bits=layer.bits or 8))

        sizes, prices = Sizes(couple(program)), {"fp32": floats, "int8": rounded}
        counts, start = choices(sizes, Making()), time.perf_counter()
        costs = [*layer_costs(sizes, counts, prices, lc.Context(task)), price.call_cost(list(prices))]
        price.keep()
        print(
            f"{price.measured} layers timed in {time.perf_counter() - start:.0f} s, a call takes {1e3 * price.call_ms:.1f} µs", flush=True
        )
        return cls(task, program, sizes, counts, prices, costs, price)

    def ms(self, counts: Sequence[int], precision: str) -> float:
        """The time of the layers with these counts, and of the call."""
        return self.price.call_ms + float(sum(self.prices[precision](self.sizes.layer(node, counts)) for node in self.sizes.layers))

    def moved(self, counts: Sequence[int]) -> float:
        """How many numbers the layers read and write with these counts."""
        return sum(moves(self.sizes.layer(node, counts)) for node in self.sizes.layers)


class Judged:
    """Losses of groups by one criterion and one seed, and the true rise of the loss of any allocation."""

    def __init__(self, setting: Setting, criterion: str, seed: int) -> None:
        self.setting, self.context = setting, lc.Context(setting.task, seed=seed)
        self.making, coupling = Making(criterion=criterion), setting.sizes.coupling
        start = time.perf_counter()
        file = trained.FOLDER / f"solver-losses-{criterion}-s{seed}.json"
        known = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}

        def keep(found: Any) -> None:
            file.write_text(json.dumps(found), encoding="utf-8")

        self.whole, losses = group_losses(coupling, setting.counts, self.making, self.context, known, keep)
        self.seconds = time.perf_counter() - start
        self.scores = score(coupling, criterion, self.context, self.making.examples)
        parts = [
            Part(group.name, tuple(own), tuple(losses[group.name])) for group, own in zip(coupling.groups, setting.counts, strict=True)
        ]
        self.table = Table(tuple(parts), tuple(setting.costs))
        self.batches = train_batches(setting.program, lc.Context(setting.task, seed=seed + 1000), 2048)
        self.base = mean_loss(setting.program, setting.task, self.batches)

    def scored(self) -> Table:
        """The table with one pass for each group: the sum of the scores that go, scaled to what was measured at the middle size."""
        parts = []
        for part, scores in zip(self.table.parts, self.scores, strict=True):
            gone = np.concatenate([[0.0], np.cumsum(np.sort(scores.double().numpy()))])
            sums, middle = [float(gone[part.values[0] - count]) for count in part.values], len(part.values) // 2
            scale = part.loss[middle] / sums[middle] if sums[middle] > 0 else 0.0
            parts.append(Part(part.name, part.values, tuple(scale * value for value in sums)))
        return Table(tuple(parts), self.table.costs)

    def cut(self, counts: Sequence[int]) -> lc.Program:
        """The program with these counts, before recovery."""
        result = remove(self.setting.sizes.coupling, keep_of(self.setting.sizes.coupling, self.scores, counts))
        renew_statistics(result, self.making.examples, 64, self.context)
        return result

    def rise(self, counts: Sequence[int]) -> float:
        """By how much the loss of other examples rises."""
        return mean_loss(self.cut(counts), self.setting.task, self.batches) - self.base

    def counts(self, chosen: Sequence[int]) -> list[int]:
        """The counts of a choice."""
        return [part.values[k] for part, k in zip(self.table.parts, chosen, strict=True)]


def before(names: list[str]) -> None:
    """Print loss and accuracy by share and precision, each the mean of the seeds and their ends."""
    runtime, seeds = _read(names)
    setting = Setting.of(runtime)
    valid = setting.task.valid.take(np.arange(2000))  # type: ignore[union-attr]
    rows: dict[tuple[str, float, str], list[tuple[float, float, float]]] = {}
    for seed in seeds:
        judged = Judged(setting, "group_l2", seed)
        print(f"seed {seed}: {sum(len(own) - 1 for own in setting.counts)} passes in {judged.seconds:.0f} s", flush=True)
        for precision in setting.prices:
            for share in SHARES:
                for how, counts, predicted in _allocations(judged, precision, share):
                    accuracy = trained.accuracy(judged.cut(counts), valid)
                    rows.setdefault((precision, share, how), []).append((judged.rise(counts), accuracy, predicted))
    for (precision, share, how), found in rows.items():
        rise, accuracy, predicted = np.array(found).T
        told = f", predicted {predicted.mean():.2f}" if how == "solved" else ""
        ends = f"({rise.min():.2f} to {rise.max():.2f})"
        print(
            f"{precision} {share:.0%} of the time, {how:8}: loss +{rise.mean():.2f} {ends}{told}; accuracy {accuracy.mean():.1f} %",
            flush=True,
        )


def _allocations(judged: Judged, precision: str, share: float) -> Iterator[tuple[str, list[int], float]]:
    """Yield solved, uniform and ranked counts of the same time, and what is predicted of the first."""
    setting, limits = judged.setting, Limits(judged.making.floor, judged.making.multiple)
    (found,) = solve(judged.table, [share], precision)
    yield "solved", judged.counts(found.chosen), found.loss

    def cost(counts: Sequence[int]) -> float:
        return setting.ms(counts, precision)

    budget = share * cost(setting.sizes.full)
    yield "uniform", _widest(setting, cost, budget, limits), 0.0
    comparable = named(judged.making.criterion).comparable
    yield "ranked", allocation.ranked(setting.sizes, cost, budget, limits, judged.scores, comparable), 0.0


def _widest(setting: Setting, cost: Callable[[Sequence[int]], float], budget: float, limits: Limits) -> list[int]:
    """Return the equal share of all groups, in multiples of 4, 8 or 16, with the most multiply-adds within the time, which may rise where the share falls."""
    tries = {
        tuple(replace(limits, multiple=multiple).rounded(share / 32 * n, n) for n in setting.sizes.full)
        for share in range(3, 32)
        for multiple in (4, 8, 16)
    }
    within = [counts for counts in tries if cost(counts) <= budget]
    if not within:
        raise SystemExit(f"no uniform sizes keep to it: {min(map(cost, tries)) / cost(setting.sizes.full):.2f} of the time is their least")
    return list(max(within, key=setting.sizes.macs))


def criteria(names: list[str]) -> None:
    """Print, for each criterion, the rise of the loss by both estimates, and how both rank random allocations."""
    from scipy.stats import spearmanr

    runtime, seeds = _read(names)
    setting = Setting.of(runtime)
    for criterion in ("group_l2", "taylor", "obd"):
        for seed in seeds:
            judged = Judged(setting, criterion, seed)
            tables = {"a pass for each size": judged.table, "scores": judged.scored()}
            draw = np.random.default_rng(seed)
            chosen = [[min(len(own) - 1, int(draw.geometric(0.5)) - 1) for own in setting.counts] for _ in range(16)]
            true = [judged.rise(judged.counts(one)) for one in chosen]
            for name, table in tables.items():
                ranks = spearmanr([table.loss(one) for one in chosen], true).statistic
                rises = [judged.rise(judged.counts(solve(table, [share], "int8")[0].chosen)) for share in SHARES]
                told = ", ".join(f"{rise:.2f} at {share:.0%}" for rise, share in zip(rises, SHARES, strict=True))
                print(f"{criterion}, seed {seed}, {name}: rank correlation {ranks:.2f}; int8 loss +{told}", flush=True)


# Ranks, blocks and bits beside channels ---------------------------------------------------------------------------------------------------------

KINDS: dict[str, tuple[Kind, ...]] = {
    "channels": ("channels",),
    "and blocks": ("channels", "block"),
    "and ranks": ("channels", "rank"),
    "all kinds": ("channels", "rank", "bits", "block"),
}


def joint(names: list[str]) -> None:
    """Print for each share and set of kinds what was chosen, and the rise of the loss before recovery as predicted and as measured on other examples."""
    nets, shares = (
        [name for name in names if name in trained.NETS] or ["resnet20"],
        [float(name) for name in names if name[:2] == "0."] or [0.5],
    )
    runtime, seeds = _read([name for name in names if name not in trained.NETS and name[:2] != "0."])
    for net, seed in itertools.product(nets, seeds[:1]):
        setting = Setting.of(runtime, net)
        context, table = lc.Context(setting.task, target=lc.Target(runtime), seed=seed), _table(setting, net, runtime, seed)
        batches = train_batches(setting.program, lc.Context(setting.task, seed=seed + 1000), 2048)
        base = mean_loss(setting.program, setting.task, batches)
        for share, (name, kinds) in itertools.product(shares, KINDS.items()):
            known, start = table.only(kinds), time.perf_counter()
            (found,) = solve(known, [share], "int8")
            took, chosen = time.perf_counter() - start, table.among_all(found.chosen, kinds)
            values = {kind: table.values(chosen, kind) for kind in kinds}
            program, _ = lc.apply(setting.program, list(_steps(values)), context)
            renew_statistics(program, Making().examples, 64, context)
            rise = mean_loss(program, setting.task, batches) - base
            others = {kind: own for kind, own in values.items() if kind != "channels" and own}
            print(
                f"  {share:g} of the time, {name:10}: loss +{found.loss:.2f} predicted, +{rise:.2f} measured (solved in {took:.1f} s) {others or ''}",
                flush=True,
            )


def _table(setting: Setting, net: str, runtime: str, seed: int) -> Table:
    """Return the table of all kinds of choices, measured now or earlier."""
    file = trained.FOLDER / f"solver-{EDITION}-{net}-{runtime}-s{seed}.json"
    if not file.exists():
        context, making = lc.Context(setting.task, target=lc.Target(runtime), seed=seed), Making(kinds=KINDS["all kinds"])
        start = time.perf_counter()
        more = LayerParts(setting.program, context, setting.prices, making, runtime).every()
        table = size_table(setting.program, context, setting.prices, making, more=more)
        table = replace(table, costs=(*table.costs, setting.costs[-1]))
        counted = {kind: sum(part.kind == kind for part in table.parts) for kind in making.kinds}
        print(f"{net}, seed {seed}: {counted} parts in {time.perf_counter() - start:.0f} s", flush=True)
        file.write_text(json.dumps(table.to_json()), encoding="utf-8")
    return Table.from_json(json.loads(file.read_text(encoding="utf-8")))


def _steps(values: Mapping[Kind, Mapping[str, Any]]) -> Iterator[lc.StepConfig]:
    """Yield the steps that make these choices, without any training."""
    if values["channels"]:
        yield lc.Prune(keep=values["channels"], recovery={"epochs": 0})
    if values.get("block"):
        yield lc.DropBlocks(blocks=tuple(values["block"]))
    if values.get("rank"):
        yield lc.LowRank(ranks=values["rank"])


# After recovery -----------------------------------------------------------------------------------------------------------------------------

WAYS, PRECISIONS = ("joint", "depth", "solved", "uniform", "ranked"), ("fp32", "int8")
PLAN = lc.FitPlan(
    epochs=3, optimizer="adamw", lr=3e-3, schedule="cosine", weight_decay=1e-2, batch_size=128, warmup=0.1, distill=0.5, precision="bf16",
    channels_last=True,
)  # fmt: skip


class Recovered:
    """What the names ask for, and the nets made so."""

    def __init__(self, names: list[str]) -> None:
        self.ways = [name for name in names if name in WAYS] or list(WAYS)
        self.shares = [float(name) for name in names if name[:2] == "0."] or [0.5]
        epochs = [int(name[7:]) for name in names if name.startswith("epochs=")]
        self.plan = replace(PLAN, epochs=(epochs or [PLAN.epochs])[0])
        self.precision = next((name for name in names if name in PRECISIONS), "int8")
        known = (*WAYS, *PRECISIONS)
        self.runtime, self.seeds = _read([name for name in names if name not in known and name[:2] != "0." and "=" not in name])
        self.setting = Setting.of(self.runtime)
        self.judged: dict[int, Judged] = {}

    def steps(self, way: str, share: float, seed: int) -> list[lc.StepConfig]:
        """Return what is cut in this way, without any training."""
        if way in ("joint", "depth"):
            table, kinds = _table(self.setting, "resnet20", self.runtime, seed), KINDS["and blocks"]
            if way == "depth":
                return [lc.DropBlocks(blocks=_shallow(table, share, self.precision))]
            (found,) = solve(table.only(kinds), [share], self.precision)
            chosen = table.among_all(found.chosen, kinds)
            return list(_steps({kind: table.values(chosen, kind) for kind in kinds}))
        judged = self.judged.get(seed) or self.judged.setdefault(seed, Judged(self.setting, "group_l2", seed))
        counts = next(counts for name, counts, _ in _allocations(judged, self.precision, share) if name == way)
        groups = self.setting.sizes.coupling.groups
        return list(_steps({"channels": {group.name: n for group, n in zip(groups, counts, strict=True) if n < len(group)}}))

    def made(self, way: str, share: float, seed: int) -> lc.Program:
        """Return a net, trained now or earlier."""
        file = trained.FOLDER / f"solver-{EDITION}-{self.runtime}-{self.precision}-{way}-{share:g}-{self.plan.epochs}-s{seed}.pt2"
        if file.exists():
            return lc.Program.load(file)
        steps = self.steps(way, share, seed)
        print(f"  s{seed} {share:g} {way}: {'; '.join(f'{step.words()} {_told(step)}' for step in steps)}", flush=True)
        program = self.setting.program
        result, _ = lc.apply(
            program, [*steps, lc.Fit(replace(self.plan, seed=seed))], lc.Context(self.setting.task, lc.fit, seed=seed, teacher=program)
        )
        result.save(file)
        return result

    def rounded(self, program: lc.Program) -> lc.Program:
        """Return a net in int8."""
        context = lc.Context(self.setting.task, target=lc.Target(self.runtime))
        return lc.quantize(program, lc.Quantize(target=self.runtime), context)[0]  # type: ignore[operator]


def _shallow(table: Table, share: float, precision: str) -> tuple[str, ...]:
    """Return the blocks that go so that each stage of ResNet-20 has the same number left, the most within the time: ResNet-14 or ResNet-8."""
    for left in (2, 1):
        blocks = tuple(f"layer{stage}.{block}" for stage in (1, 2, 3) for block in range(left, 3))
        chosen = [int(part.kind == "block" and part.name in blocks) for part in table.parts]
        if table.ms(chosen, precision) <= share * table.ms(table.whole, precision):
            return blocks
    raise SystemExit(f"ResNet-8 takes more than {share:g} of the time")


def _told(step: lc.StepConfig) -> str:
    """Return what a step of `_steps` names."""
    return str(getattr(step, "keep", None) or getattr(step, "blocks", None) or getattr(step, "ranks", None) or "")


def after(names: list[str]) -> None:
    """Print accuracies on test data by way and share, of each seed and their mean."""
    nets = Recovered(names)
    test: Any = nets.setting.task.test
    whole = [trained.accuracy(program, test) for program in (nets.setting.program, nets.rounded(nets.setting.program))]
    print(f"whole: {whole[0]:.2f} %, int8 {whole[1]:.2f} %; {nets.plan}", flush=True)
    rows: dict[tuple[float, str], list[tuple[float, float]]] = {}
    for seed in nets.seeds:
        for share in nets.shares:
            for way in nets.ways:
                program = nets.made(way, share, seed)
                counted, found = lc.count(program), (trained.accuracy(program, test), trained.accuracy(nets.rounded(program), test))
                rows.setdefault((share, way), []).append(found)
                print(
                    f"  s{seed} {share:g} {way:8} {counted.macs / 1e6:5.1f} M MACs {counted.params:8,} parameters: {found[0]:.2f} %, int8 {found[1]:.2f} %",
                    flush=True,
                )
    for (share, way), accuracies in rows.items():
        floats, ints = np.array(accuracies).T
        print(f"{share:g} {way:8}: {floats.mean():.2f} %; int8 {ints.mean():.2f} % ({ints.min():.2f} to {ints.max():.2f})", flush=True)


def timed(names: list[str]) -> None:
    """Print milliseconds in float and in int8, and how many times faster than the whole net's file of that precision."""
    nets = Recovered(names)
    programs = {"whole": nets.setting.program} | {
        f"{share:g} {way} s{seed}": nets.made(way, share, seed) for share in nets.shares for way in nets.ways for seed in nets.seeds
    }
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        for precision in ("fp32", "int8"):
            entries = dict[str, Entry]()
            for index, (name, program) in enumerate(programs.items()):
                file = folder / f"{precision}-{index}.onnx"
                write_onnx(nets.rounded(program) if precision == "int8" else program, file, file.name)
                entries[name] = Entry(file, lc.Target(nets.runtime, threads=1))
            for name, row in contest(entries, [np.zeros((1, 1, 28, 28), np.float32)], folder, "whole", rounds=9, seconds=0.2).items():
                print(
                    f"  {precision} {name:16} {1e3 * row.p50_ms:6.1f} µs, {row.ratio:.3f} times as fast [{row.low:.3f}, {row.high:.3f}]",
                    flush=True,
                )


# Predicted and measured ---------------------------------------------------------------------------------------------------------------------


def predicted(names: list[str]) -> None:
    """Print shares of the whole net's time as predicted and as measured, by net, runtime, precision and sizes."""
    nets = [name for name in names if name in trained.NETS] or ["resnet20", "mobilenet_v2"]
    runtimes = [name for name in names if name in ("onnxruntime", "openvino")] or ["onnxruntime", "openvino"]
    for net, runtime in itertools.product(nets, runtimes):
        setting = Setting.of(runtime, net)
        coupling = setting.sizes.coupling
        scores = score(coupling, "group_l2", lc.Context(setting.task), 0)
        rows = [(precision, *row) for precision in setting.prices for row in _sized(setting, precision)]
        with tempfile.TemporaryDirectory() as place:
            folder, entries = Path(place), dict[str, Entry]()
            for index, (precision, name, counts) in enumerate(rows):
                program = remove(coupling, keep_of(coupling, scores, counts))
                if precision == "int8":
                    context = lc.Context(setting.task, target=lc.Target(runtime))
                    program, _ = lc.quantize(program, lc.Quantize(target=runtime, examples=32), context)  # type: ignore[operator]
                file = folder / f"{index}.onnx"
                write_onnx(program, file, file.name)
                entries[f"{precision} {name}"] = Entry(file, lc.Target(runtime, threads=1))
            inputs = [np.stack([np.asarray(setting.task.valid[0][0], np.float32)])]  # type: ignore[index]
            whole_ms = {precision: setting.price.whole_ms(entries[f"{precision} whole"].file, inputs) for precision in setting.prices}
            times = contest(entries, inputs, folder, "int8 whole", rounds=8, seconds=0.2)
        for precision, name, counts in rows:
            whole, own = times[f"{precision} whole"].p50_ms, times[f"{precision} {name}"].p50_ms
            full_ms, ms = setting.ms(setting.sizes.full, precision), setting.ms(counts, precision)
            beside_ms, moved = max(0.0, whole_ms[precision] - full_ms), setting.moved(counts) / setting.moved(setting.sizes.full)
            share = (ms + moved * beside_ms) / (full_ms + beside_ms)
            told = f"predicted {share:.3f}, measured {own / whole:.3f}, off by {_off(share, own / whole)}"
            alone = f"by layers and call alone {_off(ms / full_ms, own / whole)}"
            print(
                f"{net} {runtime} {precision} {name:12}: {1e3 * own:7.1f} µs, {1e3 * beside_ms:.1f} beside the layers; {told}, {alone}",
                flush=True,
            )


def _off(predicted: float, measured: float) -> str:
    return f"{100 * (predicted / measured - 1):+.1f} %"


def _sized(setting: Setting, precision: str) -> Iterator[tuple[str, list[int]]]:
    """Yield the whole net's counts, solved ones and uniform ones."""
    yield "whole", list(setting.sizes.full)
    parts = [
        Part(group.name, tuple(own), tuple((1 - count / own[0]) ** 2 for count in own))
        for group, own in zip(setting.sizes.coupling.groups, setting.counts, strict=True)
    ]
    for share in (0.9, 0.8, 0.6, 0.5):
        try:
            (found,) = solve(Table(tuple(parts), tuple(setting.costs)), [share], precision)
        except lc.BadInput as error:  # integer kernels leave channels alone little to win
            print(f"{precision}: {error}", flush=True)
            continue
        yield f"solved {share:g}", [part.values[k] for part, k in zip(parts, found.chosen, strict=True)]
    for share in (0.75, 0.5):
        yield f"uniform {share:g}", [max(1, 4 * round(share * n / 4)) for n in setting.sizes.full]


def _read(names: Sequence[str]) -> tuple[str, list[int]]:
    """Return the runtime and the seeds among names."""
    seeds = [int(name[1:]) for name in names if name[:1] == "s" and name[1:].isdigit()]
    others = [name for name in names if not (name[:1] == "s" and name[1:].isdigit())]
    return (others or ["onnxruntime"])[0], seeds or [0, 1, 2]


if __name__ == "__main__":
    command(__doc__, {"before": before, "criteria": criteria, "joint": joint, "after": after, "timed": timed, "predicted": predicted})
