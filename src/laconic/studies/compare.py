"""The same model and the same budget, trained in several ways with several seeds: what does a learning rate, an augmentation, a regularizer bring?"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves
from torch.utils.data import Dataset, Subset, default_collate

from laconic.core.batches import join_tensors
from laconic.core.capture import capture
from laconic.core.context import Context
from laconic.core.errors import BadInput, LaconicError, nearest
from laconic.core.fields import check_types
from laconic.core.plan import FitPlan
from laconic.core.program import as_call
from laconic.core.progress import Progress, silent
from laconic.core.records import to_json
from laconic.core.task import Task, calibration_subset
from laconic.run import identity
from laconic.run.examples import batches, targets_of
from laconic.run.prepare import length
from laconic.run.runner import apply
from laconic.run.store import RunStore
from laconic.run.training import augmenter, fit
from laconic.studies.gains import Measured, compared, verdict
from laconic.studies.variants import KINDS, Variant, chosen
from laconic.tasks import catalog, metrics
from laconic.tasks.axes import dynamic_of
from laconic.tasks.check import check_task
from laconic.tasks.data import split_indices
from laconic.train.augment import kind_of
from laconic.train.optim import build
from laconic.train.rate import range_test

_GROWS = ("choices", "seeds")  # of these, more can be asked for later


@dataclass(frozen=True)
class Comparing:
    """What is compared, and at which cost.

    Args:
        kind: a name in `KINDS`.
        choices: names of variants; None: all of the kind. The first of the kind is always among them, since the others are compared with it. Augmentations
            can be combined, with strengths: ``flip+erasing=0.5``.
        seeds: runs of each variant.
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
        check_types(self, "the comparison makes no sense:")
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
    are on valid data, which ranks the variants and decides whether one won; what was trained is scored once on test data, for the table.

    Args:
        task: with train data and a loss.
        config: what is compared.
        out: a folder; each run is kept there, so that an interrupted comparison goes on, and one with more variants or seeds trains only these.
        progress: shows the runs.

    Returns:
        Plain values: `rows`, one for each variant, the `verdict` and for learning rates the `range_test`.

    Raises:
        BadInput: an unknown variant, or the task cannot be trained.
    """
    check_task(replace(task))  # which makes the model: the task itself keeps its factory
    if task.train is None or task.loss is None:
        raise BadInput(f"to compare trainings, the task '{task.name}' needs train data and a loss")
    plan = _plan(task, config)
    build(nn.Linear(1, 1), plan)  # checks it
    variants = chosen(config.kind, config.choices, next(batches(task, task.valid))[0])
    part = _part(task.train, config.fraction)
    told = {name: value for name, value in asdict(config).items() if name not in _GROWS}
    made_of = {"data": identity.data_of(task), "code": identity.code_of(task)}
    store = RunStore(out, {"compare": told, "task": task.name, "plan": plan, **made_of})
    try:
        runs = {each.name: [_kept(store, task, each, plan, part, seed, progress) for seed in range(config.seeds)] for each in variants}
        metric = metrics.of(task)
        measured = Measured(metric, length(part), length(task.valid), None if task.test is None else length(task.test))
        rows = compared(variants, runs, plan, measured)
        content = {
            "kind": config.kind,
            "task": task.name,
            "dataset_note": task.dataset_note,
            "metric": {"name": metric.name, "unit": metric.unit, "direction": metric.direction},
            "examples": length(part),
            "epochs": plan.epochs,
            "seeds": config.seeds,
            "scored_on": "test" if task.test is not None else "valid",
            "rows": rows,
            "verdict": verdict(rows, config.seeds, task.test is not None),
            "range_test": _range(store, task, plan, part) if config.kind == "lr" else None,
            "pictures": list(_pictures(task, variants, part)) if config.kind == "augment" else [],
        }
        return store.write("compare.json", content)
    finally:
        store.close()


def _plan(task: Task, config: Comparing) -> FitPlan:
    base = task.plan or FitPlan(batch_size=task.batch_size, epochs=5)
    changes = {name: getattr(config, name) for name in ("epochs", "lr", "optimizer") if getattr(config, name) is not None}
    return replace(base, channels_last=config.channels_last, **changes)


def _part(data: Dataset[Any], fraction: float) -> Dataset[Any]:
    """Return a share of the examples; each class alike where targets are whole numbers."""
    if fraction == 1:
        return data
    n = length(data)
    kinds = (Tensor, int, np.ndarray, np.generic)
    targets = [torch.as_tensor(data[i][1]) for i in range(n)] if isinstance(data[0], tuple) and isinstance(data[0][1], kinds) else []
    if targets and targets[0].dim() == 0 and not targets[0].is_floating_point():
        return Subset(data, split_indices(torch.stack(targets).numpy(), (fraction, 1 - fraction))[0].tolist())
    return calibration_subset(data, max(1, round(fraction * n)))


def _fresh(task: Task, seed: int) -> nn.Module:
    """Return the model that a seed starts from."""
    if isinstance(task.model, nn.Module):
        return copy.deepcopy(task.model)
    if task.ref is not None and ":" not in task.ref:
        return catalog.load(task.ref, task.data_dir, seed).build()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return copy.deepcopy(task.model())


def _kept(
    store: RunStore, task: Task, variant: Variant, plan: FitPlan, part: Dataset[Any], seed: int, progress: Progress
) -> dict[str, Any]:
    name = f"runs/{variant.name.replace(' ', '-')}-{seed}.json"
    if not store.has(name):
        run = _trained(task, variant, plan, part, seed, progress)
        progress.log(
            f"{variant.name}, seed {seed}: {run['valid']:.2f}" if "valid" in run else f"{variant.name}, seed {seed}: {run['stopped']}"
        )
        store.write(name, run)
    return store.read(name)


def _trained(task: Task, variant: Variant, plan: FitPlan, part: Dataset[Any], seed: int, progress: Progress) -> dict[str, Any]:
    """Train once and return the metric after each epoch on valid data, and at the end on test data; or what stopped it."""
    metric = metrics.of(task)
    model = _fresh(task, seed)
    if variant.steps:
        program = capture(model.eval(), next(batches(task, task.valid))[0], dynamic=dynamic_of(task), dynamic_batch=task.dynamic_batch)
        model, _ = apply(program, variant.steps, Context(replace(task, train=part), fit, seed=seed))
    try:
        record = fit(
            model,
            replace(plan, seed=seed, **variant.plan),
            task,
            train=part,
            valid=task.valid,
            score=lambda outputs, target: metric.score(task.logits(outputs), target),
            direction=metric.direction,
            progress=progress,
        )
    except LaconicError as error:
        return {"stopped": str(error)}
    valid = metric.score(*_answers(model, task, task.valid))
    return {
        "curve": [epoch.metric for epoch in record.epochs],
        "loss": [epoch.loss for epoch in record.epochs],
        "valid": valid,
        "final": valid if task.test is None else metric.score(*_answers(model, task, task.test)),
    }


@torch.no_grad()
def _answers(model: nn.Module, task: Task, data: Dataset[Any]) -> tuple[Tensor, Any]:
    logits = []
    for inputs, _ in batches(task, data):
        args, kwargs = as_call(inputs)
        logits.append(task.logits(model(*args, **kwargs)))
    return join_tensors(logits), targets_of(task, data)


def _range(store: RunStore, task: Task, plan: FitPlan, part: Dataset[Any]) -> dict[str, Any]:
    if not store.has("range.json"):
        try:
            tested = to_json(range_test(_fresh(task, 0), plan, train=part, loss=task.loss, split=task.split, collate=task.collate))  # type: ignore[arg-type]
        except BadInput as error:
            tested = {"stopped": str(error)}
        store.write("range.json", tested)
    return store.read("range.json")


_SHOWN, _LARGEST = 4, 64  # examples, and pixels of a side


def _pictures(task: Task, variants: Sequence[Variant], part: Dataset[Any]) -> Iterator[dict[str, Any]]:
    """Yield examples before and after each augmentation: bytes of pictures, values of series (the first channel), words of text."""
    collate = task.collate or default_collate
    inputs = task.split(collate([part[i] for i in range(min(_SHOWN, length(part)))]))[0]
    net = _fresh(task, 0)
    for variant in variants:
        plan = replace(FitPlan(), **variant.plan)
        if not plan.augment:
            continue
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(0)
            change = augmenter(plan, net, task.words)
            assert change is not None
            before, after = (_main(value) for value in (inputs, change(inputs)[0]))
        kind = kind_of(before)
        assert kind is not None
        yield {"name": variant.name, "kind": kind, "before": _seen(kind, before, before, task), "after": _seen(kind, after, before, task)}


def _main(inputs: Any) -> Tensor:
    return next(leaf for leaf in tree_leaves(inputs) if kind_of(leaf) is not None)


def _seen(kind: str, x: Tensor, scale: Tensor, task: Task) -> list[Any]:
    """Return what a person sees of a batch (B, …): `scale` says which values are black and white."""
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
