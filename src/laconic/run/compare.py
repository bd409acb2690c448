"""The same model and the same budget, trained in several ways with several seeds: what does a learning rate, an augmentation, a regularizer bring?"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves
from torch.utils.data import Dataset, Subset, default_collate

from laconic.core.batches import join_tensors
from laconic.core.capture import capture
from laconic.core.errors import BadInput, LaconicError, nearest
from laconic.core.program import as_call
from laconic.core.records import Measurement, to_json
from laconic.core.task import Choice, Context, FitPlan, Progress, Task, calibration_subset, silent
from laconic.measure.stats import over_seeds
from laconic.run.examples import batches, targets_of
from laconic.run.prepare import length
from laconic.run.runner import apply
from laconic.run.store import RunStore
from laconic.run.training import augmenter, fit
from laconic.tasks import catalog, metrics
from laconic.tasks.check import check_task
from laconic.tasks.data import split_indices
from laconic.train.augment import AUGMENTATIONS, Augmenter, kind_of
from laconic.train.insert import InsertBatchNorm, InsertDropout
from laconic.train.optim import build
from laconic.train.rate import range_test


@dataclass(frozen=True)
class Way:
    """One way to train: what it changes in the plan, and the steps that change the graph before."""

    name: str
    plan: Mapping[str, Any] = field(default_factory=dict)
    steps: tuple[Any, ...] = ()


def rates(inputs: Any) -> list[Way]:
    """Schedules of the learning rate, the constant one first."""
    names = ("constant", "step", "exponential", "cosine", "triangular", "triangular2", "one_cycle", "inverse_sqrt", "plateau")
    return [Way(name, {"schedule": name, "warmup": 0.0}) for name in names]


# What is combined where nobody asks for something else.
_TOGETHER: dict[str, dict[str, tuple[str, ...]]] = {
    "image": {"rotation+scale": ("rotation", "scale"), "all": ("crop", "rotation", "scale", "color")},
    "series": {"all": ("jitter", "scaling", "time_warp", "window_slice")},
    "text": {"all": ("synonym", "insertion", "swap", "deletion")},
}


def augmentations(inputs: Any) -> list[Way]:
    """None, each of those for this kind of data, and some together."""
    kind = next(found for leaf in tree_leaves(inputs) if (found := kind_of(leaf)) is not None)
    single = {name: (name,) for name in AUGMENTATIONS[kind]}
    several = {**single, **_TOGETHER[kind]}
    return [Way("none"), *(Way(name, {"augment": tuple(Choice(part) for part in parts)}) for name, parts in several.items())]


def regularizations(inputs: Any) -> list[Way]:
    """None, penalties, insertions and what else keeps a net from learning its examples by heart."""
    return [
        Way("none", {"weight_decay": 0.0}),
        Way("l2", {"weight_decay": 0.0, "regularize": (Choice("l2", 1e-3),)}),
        Way("decoupled decay", {"weight_decay": 1e-1}),
        Way("l1", {"weight_decay": 0.0, "regularize": (Choice("l1", 1e-3),)}),
        Way("dropout", {"weight_decay": 0.0}, (InsertDropout(p=0.2),)),
        Way("batch-norm", {"weight_decay": 0.0}, (InsertBatchNorm(),)),
        Way("label smoothing", {"weight_decay": 0.0, "label_smoothing": 0.1}),
        Way("sam", {"weight_decay": 0.0, "sam": 0.05}),
        Way("ema", {"weight_decay": 0.0, "average": "ema"}),
    ]


KINDS: dict[str, Callable[[Any], list[Way]]] = {"lr": rates, "augment": augmentations, "regularize": regularizations}


_GROWS = ("choices", "seeds")  # of these, more can be asked for later


@dataclass(frozen=True)
class Comparing:
    """What is compared, and at which cost.

    Args:
        kind: a name in `KINDS`.
        choices: names of ways; None: all of the kind. The first of the kind is always among them, since the others are compared with it. Augmentations
            can be combined, with strengths: ``flip+erasing=0.5``.
        seeds: runs of each way.
        epochs: of each run; None: as the task's plan says, or 5.
        fraction: share of the training set, each class alike.
        lr: peak learning rate; None: the plan's.
        optimizer: None: the plan's.
        channels_last: as of `FitPlan`.
    """

    kind: str
    choices: tuple[str, ...] | None = None
    seeds: int = 3
    epochs: int | None = None
    fraction: float = 1.0
    lr: float | None = None
    optimizer: str | None = None
    channels_last: bool = False

    def __post_init__(self) -> None:
        mistakes = []
        if self.kind not in KINDS:
            mistakes.append(f"what is compared: '{self.kind}'." + nearest(self.kind, KINDS))
        if self.seeds < 1 or (self.epochs is not None and self.epochs < 1):
            mistakes.append("seeds and epochs must be 1 or more")
        if not 0 < self.fraction <= 1:
            mistakes.append(f"fraction: {self.fraction} is a share of the training set, above 0 and 1 at most")
        if mistakes:
            raise BadInput("the comparison makes no sense:\n" + "\n".join(f"  {m}" for m in mistakes))


def compare(task: Task, config: Comparing, out: Path, progress: Progress = silent) -> dict[str, Any]:
    """Train the task's model in several ways and tell what came of it.

    Every run starts from the same untrained net of its seed (a user's trained module: from that), sees the same examples and takes as many epochs. The curves
    are on valid data; the last epoch is scored on test data (on valid data, where there is none).

    Args:
        task: with train data and a loss.
        config: what is compared.
        out: a folder; each run is kept there, so that an interrupted comparison goes on, and one with more ways or seeds trains only these.
        progress: shows the runs.

    Returns:
        Plain values: `rows`, one for each way, and for learning rates the `range_test`.

    Raises:
        BadInput: an unknown way, or the task cannot be trained.
    """
    check_task(replace(task))  # which makes the model: the task itself keeps its factory
    if task.train is None or task.loss is None:
        raise BadInput(f"to compare trainings, the task '{task.name}' needs train data and a loss")
    plan = _plan(task, config)
    build(nn.Linear(1, 1), plan)  # checks it
    ways = _ways(config, next(batches(task, task.valid))[0])
    part = _part(task.train, config.fraction)
    told = {name: value for name, value in asdict(config).items() if name not in _GROWS}
    store = RunStore(out, {"compare": told, "task": task.name, "plan": plan})
    try:
        runs = {way.name: [_kept(store, task, way, plan, part, seed, progress) for seed in range(config.seeds)] for way in ways}
        found = {
            "kind": config.kind,
            "task": task.name,
            "dataset_note": task.dataset_note,
            "metric": _metric(task),
            "examples": length(part),
            "epochs": plan.epochs,
            "seeds": config.seeds,
            "scored_on": "test" if task.test is not None else "valid",
            "rows": _rows(ways, runs, plan, _metric(task)),
            "range_test": _range(store, task, plan, part) if config.kind == "lr" else None,
            "pictures": list(_pictures(task, ways, part)) if config.kind == "augment" else [],
        }
        return store.write("compare.json", found)
    finally:
        store.close()


def _plan(task: Task, config: Comparing) -> FitPlan:
    base = task.fit or FitPlan(batch_size=task.batch_size, epochs=5)
    changes = {name: getattr(config, name) for name in ("epochs", "lr", "optimizer") if getattr(config, name) is not None}
    return replace(base, channels_last=config.channels_last, **changes)


def _ways(config: Comparing, inputs: Any) -> list[Way]:
    every = {way.name: way for way in KINDS[config.kind](inputs)}
    if config.choices is None:
        return list(every.values())
    first = next(iter(every))
    found, mistakes = {first: every[first]}, []
    for name in config.choices:
        try:
            found[name] = every[name] if name in every else _combined(name, every, config.kind)
        except BadInput as error:
            mistakes.append(str(error))
    if mistakes:
        raise BadInput("\n".join(mistakes))
    return list(found.values())


def _combined(name: str, every: Mapping[str, Way], kind: str) -> Way:
    """Augmentations one behind the other, each with a strength: ``flip+erasing=0.5``.

    Raises:
        BadInput: a part is unknown, a strength is none, or they do not go together.
    """
    chosen: list[Choice] = []
    for part in name.split("+") if kind == "augment" else (name,):
        known, given, strength = part.partition("=") if kind == "augment" else (part, "", "")
        if known not in every:
            raise BadInput(f"'{known}' is no way to compare here." + nearest(known, every))
        try:
            factor = float(strength) if given else 1.0
        except ValueError:
            raise BadInput(f"'{part}': the strength '{strength}' is no number") from None
        chosen += [Choice(choice.name, choice.strength * factor) for choice in every[known].plan.get("augment", ())]
    Augmenter(chosen, synonyms=lambda ids: ids[:, None])  # checks them; the model's own synonyms come later
    return Way(name, {"augment": tuple(chosen)})


def _part(data: Dataset[Any], fraction: float) -> Dataset[Any]:
    """A share of the examples; each class alike where targets are whole numbers."""
    if fraction == 1:
        return data
    n = length(data)
    kinds = (Tensor, int, np.ndarray, np.generic)
    targets = [torch.as_tensor(data[i][1]) for i in range(n)] if isinstance(data[0], tuple) and isinstance(data[0][1], kinds) else []
    if targets and targets[0].dim() == 0 and not targets[0].is_floating_point():
        return Subset(data, split_indices(torch.stack(targets).numpy(), (fraction, 1 - fraction))[0].tolist())
    return calibration_subset(data, max(1, round(fraction * n)))


def _fresh(task: Task, seed: int) -> nn.Module:
    """The model that a seed starts from."""
    if isinstance(task.model, nn.Module):
        return copy.deepcopy(task.model)
    if task.ref is not None and ":" not in task.ref:
        return catalog.load(task.ref, task.data_dir, seed).build()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return copy.deepcopy(task.model())


def _kept(store: RunStore, task: Task, way: Way, plan: FitPlan, part: Dataset[Any], seed: int, progress: Progress) -> dict[str, Any]:
    name = f"runs/{way.name.replace(' ', '-')}-{seed}.json"
    if not store.has(name):
        found = _trained(task, way, plan, part, seed, progress)
        progress.log(
            f"{way.name}, seed {seed}: {found['final']:.2f}" if "final" in found else f"{way.name}, seed {seed}: {found['stopped']}"
        )
        store.write(name, found)
    return store.read(name)


def _trained(task: Task, way: Way, plan: FitPlan, part: Dataset[Any], seed: int, progress: Progress) -> dict[str, Any]:
    """One run: the metric after each epoch on valid data, and at the end on test data; or what stopped it."""
    metric = metrics.of(task)
    model = _fresh(task, seed)
    if way.steps:
        program = capture(model.eval(), next(batches(task, task.valid))[0], dynamic=task.dynamic)
        model, _ = apply(program, way.steps, Context(replace(task, train=part), fit, seed=seed))
    try:
        record = fit(
            model,
            replace(plan, seed=seed, **way.plan),
            task,
            train=part,
            valid=task.valid,
            score=lambda outputs, target: metric.score(task.logits(outputs), target),
            direction=metric.direction,
            progress=progress,
        )
    except LaconicError as error:
        return {"stopped": str(error)}
    last = _answers(model, task, task.test if task.test is not None else task.valid)
    return {
        "curve": [epoch.metric for epoch in record.epochs],
        "loss": [epoch.loss for epoch in record.epochs],
        "final": metric.score(*last),
    }


@torch.no_grad()
def _answers(model: nn.Module, task: Task, data: Dataset[Any]) -> tuple[Tensor, Any]:
    logits = []
    for inputs, _ in batches(task, data):
        args, kwargs = as_call(inputs)
        logits.append(task.logits(model(*args, **kwargs)))
    return join_tensors(logits), targets_of(task, data)


def _metric(task: Task) -> dict[str, str]:
    found = metrics.of(task)
    return {"name": found.name, "unit": found.unit, "direction": found.direction}


def _rows(ways: Sequence[Way], runs: Mapping[str, list[dict[str, Any]]], plan: FitPlan, metric: Mapping[str, str]) -> list[dict[str, Any]]:
    """A row for each way; the first is what the others are compared with, seed by seed."""
    base = runs[ways[0].name]
    return [_row(way, runs[way.name], base, plan, metric) for way in ways]


def _row(way: Way, runs: list[dict[str, Any]], base: list[dict[str, Any]], plan: FitPlan, metric: Mapping[str, str]) -> dict[str, Any]:
    sign = 1.0 if metric["direction"] == "max" else -1.0
    stopped = [run["stopped"] for run in runs if "stopped" in run]
    pairs = [(run, first) for run, first in zip(runs, base, strict=True) if "final" in run and "final" in first]
    missing = Measurement.missing(metric["unit"], stopped[0] if stopped else "the first way did not train")
    reached = [_reached(run["curve"], first["curve"][-1], sign) for run, first in pairs]
    whole = all(epoch is not None for epoch in reached) and bool(pairs)
    own = replace(plan, **way.plan)
    return {
        "name": way.name,
        "lr": build(nn.Linear(1, 1), own)[1](0.0),
        "peak_lr": own.lr,
        "final": over_seeds([run["final"] for run in runs], metric["unit"]) if not stopped else missing,
        "gain": over_seeds([sign * (run["final"] - first["final"]) for run, first in pairs], "points")
        if pairs and not stopped
        else missing,
        "epochs_to_first": over_seeds([float(e) for e in reached if e is not None], "epochs")
        if whole
        else Measurement.missing("epochs", "not reached"),
        "curves": [run.get("curve", []) for run in runs],
        "losses": [run.get("loss", []) for run in runs],
        "stopped": stopped,
    }


def _reached(curve: list[float], target: float, sign: float) -> int | None:
    """The first epoch, from 1, whose metric is as good as the first way's last."""
    return next((index + 1 for index, value in enumerate(curve) if sign * value >= sign * target), None)


def _range(store: RunStore, task: Task, plan: FitPlan, part: Dataset[Any]) -> dict[str, Any]:
    if not store.has("range.json"):
        try:
            found = to_json(range_test(_fresh(task, 0), plan, train=part, loss=task.loss, split=task.split, collate=task.collate))  # type: ignore[arg-type]
        except BadInput as error:
            found = {"stopped": str(error)}
        store.write("range.json", found)
    return store.read("range.json")


_SHOWN, _LARGEST = 4, 64  # examples, and pixels of a side


def _pictures(task: Task, ways: Sequence[Way], part: Dataset[Any]) -> Iterator[dict[str, Any]]:
    """Of each augmentation, examples before and after it: bytes of pictures, values of series (the first channel), words of text."""
    collate = task.collate or default_collate
    inputs = task.split(collate([part[i] for i in range(min(_SHOWN, length(part)))]))[0]
    net = _fresh(task, 0)
    for way in ways:
        plan = replace(FitPlan(), **way.plan)
        if not plan.augment:
            continue
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(0)
            found = augmenter(plan, net, task.words)
            assert found is not None
            before, after = (_main(value) for value in (inputs, found(inputs)[0]))
        kind = kind_of(before)
        assert kind is not None
        yield {"name": way.name, "kind": kind, "before": _seen(kind, before, before, task), "after": _seen(kind, after, before, task)}


def _main(inputs: Any) -> Tensor:
    return next(leaf for leaf in tree_leaves(inputs) if kind_of(leaf) is not None)


def _seen(kind: str, x: Tensor, scale: Tensor, task: Task) -> list[Any]:
    """What a person sees of a batch (B, …): `scale` says which values are black and white."""
    if kind == "series":
        return [row.tolist() for row in x[:, 0]]
    if kind == "text":
        words = task.words
        return [" ".join(str(i) if words is None else words[i] for i in row[row > 0].tolist()) for row in x]
    step = max(1, -(-max(x.shape[2:]) // _LARGEST))
    small = x[:, :, ::step, ::step].float()
    low, high = scale.min(), scale.max()
    pixels = ((small - low) / (high - low).clamp(min=1e-9) * 255).clamp(0, 255).round().to(torch.uint8)
    return (pixels.permute(0, 2, 3, 1) if x.shape[1] == 3 else pixels[:, 0]).tolist()
