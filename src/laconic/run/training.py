"""Training as the user calls it: the loop of `train`, the teachers of `distill` and the coupled groups of `prune` together."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.utils.data import default_collate

from laconic.core.errors import BadInput
from laconic.core.fields import typed
from laconic.core.graph import get_tensor
from laconic.core.model import as_module
from laconic.core.operators import family_of
from laconic.core.plan import FitPlan
from laconic.core.program import Program
from laconic.core.progress import Progress
from laconic.core.smoothing import PlanLoss, SmoothedLoss
from laconic.core.step import check_tensors
from laconic.core.task import Task, default_logits, split_batch
from laconic.display import shown
from laconic.distill.distillation import teach
from laconic.distill.teacher import Taught, UnkeptAnswers, answers
from laconic.pruning.coupling import couple
from laconic.pruning.unstructured.masks import Masks
from laconic.tasks import metrics
from laconic.train import engine
from laconic.train.augment import Augmenter, EmbeddingNeighbors, Synonyms, WordNet, augmentations
from laconic.train.engine import FitRecord


@typed("model", "progress")
def fit(
    model: nn.Module,
    plan: FitPlan,
    task: Task | None = None,
    *,
    teacher: nn.Module | Sequence[nn.Module] | None = None,
    kept: Path | None = None,
    progress: Progress | bool = False,
    **more: Any,
) -> FitRecord:
    """Train a module or a Program in place.

    Args:
        model: trained in train mode, left in eval mode. The zeros of a program that `sparsify` made stay zero.
        plan: how: `FitPlan` lists all options.
        task: whose train data, loss, splitting and collating are used; with `plan.patience`, also its valid data and metric. A program of a task with a part
            is trained as that part (`Task.of_part`).
        teacher: one or several that answer beside the data, where `plan.distill` or `plan.hints` say so.
        kept: a folder for the teacher's answers. They are computed once, not in each epoch, whenever the student sees the same inputs every time (no
            augmentation, no hints) for two epochs or more.
        progress: True shows the training live; or what is told of it (`core.progress.Progress`). The logger `laconic` is told in any case.
        more: of the loop (`train.engine.fit`): `train`, `loss`, `split`, `collate`, `valid`, `score`, `direction`, `checkpoint`, `hooks`, `rate`, `augment`,
            `groups`, `logits`; they go before those of the task.

    Raises:
        TrainingStopped: a loss or weights that are not numbers.
        BadInput: a plan that makes no sense, no data, no module, a program whose gradients are not its module's, no teacher where one is wanted, or one that
            does not fit.
        LaconicError: buffers that are no numbers in the end, such as statistics of a batch-norm.
    """
    masks = Masks({})
    if isinstance(model, Program):
        task = None if task is None else task.of_part()
        model.interface.limits.check_trainable("fit")
        masks = _zeros(model)
    else:
        as_module(model, "fit")
    with shown(progress) as told:
        record = _fit(model, plan, task, teacher, kept, {**more, "progress": told, "hooks": (masks, *more.get("hooks", ()))})
    masks.apply(model)  # what is delivered may be made of weights that no hook saw (schedule_free)
    check_tensors("fit", model)
    return record


def _zeros(program: Program) -> Masks:
    """Return masks that hold the zeros of a program which was made sparse."""
    known = dict(program.named_parameters(remove_duplicate=False))
    return Masks.of_zeros(program, [name for name in program.interface.sparse if name in known])


def _fit(model: nn.Module, plan: FitPlan, task: Task | None, teacher: Any, kept: Path | None, more: dict[str, Any]) -> FitRecord:
    options = {**_of_task(task, plan), **more}
    missing = [name for name in ("train", "loss") if options.get(name) is None]
    if missing:
        raise BadInput(f"training needs {' and '.join(missing)}: give fit a task that has them, or the arguments {', '.join(missing)}")
    if task is not None and plan.label_smoothing and not isinstance(options["loss"], PlanLoss):  # the task knows which labels count
        logits = options.get("logits", task.logits)
        options["loss"] = SmoothedLoss(options["loss"], plan.label_smoothing, logits, task.ignore, task.class_axis)
        plan = replace(plan, label_smoothing=0.0)
    options.setdefault("augment", augmenter(plan, model, None if task is None else task.words))
    if "group_lasso" in [choice.name for choice in plan.regularize] and "groups" not in options:
        options["groups"] = _groups(model)
    if isinstance(options["loss"], PlanLoss) or not (plan.distill or plan.hints):  # the loss of distillation holds what the teacher says
        return engine.fit(model, plan, **options)
    if teacher is None:
        raise BadInput("the plan has distill or hints, but there is no teacher: fit(…, teacher=program)")
    return _taught(model, plan, teacher, kept, options)


def _taught(model: nn.Module, plan: FitPlan, teacher: Any, kept: Path | None, options: dict[str, Any]) -> FitRecord:
    """Train beside the teacher: it is asked once where the student sees the same inputs in every epoch, else batch by batch."""
    split, collate, data = options.get("split", split_batch), options.get("collate"), options["train"]
    logits: Callable[[Any], Tensor] = options.get("logits", default_logits)
    example = split((collate or default_collate)([data[i] for i in range(min(2, len(data)))]))[0] if len(data) > 1 else None
    distillation = teach(model, teacher, plan, loss=options["loss"], logits=logits, example=example)
    plain = options.get("valid") is None or (split is split_batch and collate is None)  # valid data goes the same way
    if plain and plan.epochs > 1 and not plan.hints and options["augment"] is None and isinstance(teacher, nn.Module):
        try:
            told = answers(teacher, data, split=split, collate=collate, logits=logits, batch_size=plan.batch_size, folder=kept)
        except UnkeptAnswers:
            return engine.fit(distillation.module, plan, inner=model, **{**options, "loss": distillation.loss})
        distillation = teach(model, (), plan, loss=options["loss"], logits=logits, cached=True)
        taught = Taught(data, told, split, collate)
        options = {**options, "train": taught, "split": split_batch, "collate": taught.collate}
    return engine.fit(distillation.module, plan, inner=model, **{**options, "loss": distillation.loss})


def _of_task(task: Task | None, plan: FitPlan) -> dict[str, Any]:
    if task is None:
        return {}
    options: dict[str, Any] = {"train": task.train, "loss": task.loss, "split": task.split, "collate": task.collate, "logits": task.logits}
    if plan.patience is not None:
        metric = metrics.of(task)
        options["valid"], options["direction"] = task.valid, metric.direction
        options["score"] = lambda outputs, target: metric.score(task.logits(outputs), target)
    return options


_WORDNET = (os.environ.get("WNSEARCHDIR", ""), "/usr/share/wordnet")  # WordNet's own variable, and where Debian's wordnet-base puts it
_SPECIAL = re.compile(r"<.*>|\[.+\]|")  # words that stand for no word: padding, unknown, [CLS]


def augmenter(plan: FitPlan, model: nn.Module, words: Sequence[str] | None = None) -> Augmenter | None:
    """Return the augmenter that a plan asks for; None where it asks for none.

    Synonyms are WordNet's where it is installed and the task tells its words, else neighbors in the model's own embedding.
    """
    if not plan.augment:
        return None
    special = [index for index, word in enumerate(words or ()) if _SPECIAL.fullmatch(word)]
    text = augmentations()["text"]
    wanted = any(choice.name in text and text[choice.name].synonyms for choice in plan.augment)
    return Augmenter(plan.augment, synonyms=_synonyms(model, words) if wanted else None, special=special)


def _synonyms(model: nn.Module, words: Sequence[str] | None) -> Synonyms | None:
    folder = next((Path(name) for name in _WORDNET if name and (Path(name) / "index.noun").exists()), None)
    if words is not None and folder is not None:
        return WordNet(folder, words)
    weight = _embedding(model)
    return None if weight is None else EmbeddingNeighbors(weight)


def _embedding(model: nn.Module) -> Tensor | None:
    """Return the table (V, D) of the first embedding that the model has."""
    if isinstance(model, Program):
        embeddings = [node for node in model.graph.nodes if family_of(node) == "embedding"]
        return get_tensor(model, embeddings[0].args[0]) if embeddings else None
    return next((module.weight.detach() for module in model.modules() if isinstance(module, nn.Embedding)), None)


def _groups(model: nn.Module) -> Sequence[Any]:
    if not isinstance(model, Program):
        raise BadInput("group_lasso acts on coupled groups, which only a Program has: capture the model first, or give fit `groups`")
    return couple(model).groups
