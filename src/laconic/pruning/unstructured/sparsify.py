"""Weight pruning as a step: choose which weights become zero, train around them, and let all later training keep them so."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from laconic.core.context import Context
from laconic.core.errors import BadInput
from laconic.core.program import Program
from laconic.core.records import Outcome, Skipped
from laconic.core.recovery import recovery
from laconic.core.retraining import check_trainable
from laconic.core.step import step
from laconic.core.task import Task
from laconic.core.weights import check_paths
from laconic.pruning.unstructured.allocation import ALLOCATIONS
from laconic.pruning.unstructured.choice import Chooser
from laconic.pruning.unstructured.criteria import criterion_named
from laconic.pruning.unstructured.dynamics import Gradual, Surgery
from laconic.pruning.unstructured.masks import Masks
from laconic.pruning.unstructured.options import Sparsify
from laconic.pruning.unstructured.patterns import FREE, Pattern
from laconic.pruning.unstructured.permutation import permuted
from laconic.pruning.unstructured.regrowth import Regrow
from laconic.pruning.unstructured.schedules import AT_ONCE, SCHEDULES, Schedule, Timing, Work
from laconic.pruning.unstructured.unread import Unread
from laconic.pruning.unstructured.weights import Weight, weights_of

_NAME = "sparsify"
_NAMED = 3  # layers that a note lists by name


@step(_NAME, Sparsify)
def sparsify(
    program: Program,
    config: Sparsify | None = None,
    context: Context | Task | None = None,
    hooks: Sequence[Callable[..., None]] = (),
) -> tuple[Program, Outcome]:
    """Set weights of a copy of a program to zero, and train the rest.

    Zeros are stored in the weights, the graph stays as it is. They stay zero in every later training of the program (`Interface.sparse`), and through
    folding and rounding. Norms and biases are left alone.

    Args:
        program: in eval mode; not changed. It is the teacher in training, unless that does without.
        config: what goes, when, and how the rest trains.
        context: or the task alone, which is needed for training, for batch-norms and for criteria that look at data. Training needs `fit`.
        hooks: of `fit`, called after the masks.

    Returns:
        A program with zeros, and what was done: zeros by layer, what stayed dense and why, how it trained.

    Raises:
        BadInput: data, loss or `fit` are missing where they are needed; nothing can become sparse; an unknown module path; patience with masks that change.
    """
    config = config or Sparsify()
    context = context if isinstance(context, Context) else Context(task=context)
    plan = recovery(config.recovery, context.task)
    if plan.plan.epochs:
        check_trainable(_NAME, context)
    name = config.when(bool(plan.plan.epochs))
    schedule = SCHEDULES[name]
    if plan.plan.patience is not None and schedule.make is not None:
        raise BadInput(
            f"patience: the best epoch's weights have other zeros than the last one's with the schedule '{name}'. Leave patience out."
        )
    result, moved = permuted(program, Pattern.read(config.pattern), config.freeze) if config.permute else (program, 0)
    result = copy.deepcopy(result).eval()
    weights, skipped = chosen(result, config)
    names = tuple(weight.name for weight in weights)
    before = tuple(name for name in result.interface.sparse if name not in names)
    result.interface = replace(result.interface, sparse=before)  # zeros of what is chosen may move
    chooser = _chooser(weights, config, context.seed)
    # where each layer or output keeps its number, there is nobody else to give it to
    shared = config.pattern == FREE and config.amount.unit == "sparsity" and chooser.criterion.comparable and not schedule.by_layer
    unread = Unread(result, weights) if shared else None
    chooser.unread = None if unread is None else unread.of
    work = Work(result, chooser, plan, context, program, config.examples, _timing(config, schedule), config.rounds, config.rewind, hooks)
    epochs = schedule.run(work)
    result.eval()
    if _mixes(work):
        work.settle()
    idle = unread.silence(work.masks.kept) if unread else 0
    result.interface = replace(result.interface, sparse=(*before, *names))
    outcome = _outcome(config, name, work, epochs, skipped, idle)
    return result, replace(outcome, changed={**outcome.changed, "moved": moved}) if config.permute else outcome


def mask_hook(model: nn.Module, config: Sparsify | None = None, seed: int = 0) -> Masks | Gradual | Surgery | Regrow:
    """Return the hook that makes a plain module or a Program sparse while it trains, in `fit` or in any loop that calls it after each optimizer step.

    Masks that hold from the beginning are applied at once. After the training, `hook.masks` are those of the result; where means of weights are delivered,
    `hook.masks.apply(model)` sets their zeros.

    Args:
        model: changed where it stands.
        config: what goes, and when: a schedule of one training, with a criterion that looks at weights, or at the gradients during it.
        seed: of random choices.

    Raises:
        BadInput: the schedule takes several trainings, the criterion looks at data beforehand, or nothing can become sparse.
    """
    config = config or Sparsify()
    name, criterion = config.when(), criterion_named(config.criterion)
    schedule = SCHEDULES[name]
    if schedule.make is None and name != AT_ONCE:
        raise BadInput(f"schedule: '{name}' takes several trainings, and a hook sees one. Capture the model and use sparsify.")
    if criterion.needs and schedule.once:
        raise BadInput(
            f"criterion: '{config.criterion}' looks at data before the training, which a hook does not see. Capture the model and use sparsify."
        )
    weights, _ = chosen(model, config)
    chooser = _chooser(weights, config, seed)
    hook = Masks(chooser.kept(chooser.scores())) if schedule.make is None else schedule.make(chooser, _timing(config, schedule))
    hook.masks.apply(model)
    return hook


def _chooser(weights: Sequence[Weight], config: Sparsify, seed: int) -> Chooser:
    return Chooser(
        weights,
        criterion_named(config.criterion),
        Pattern.read(config.pattern),
        ALLOCATIONS[config.how()],
        config.amount,
        config.least(),
        generator=torch.Generator().manual_seed(seed),
    )


def _timing(config: Sparsify, schedule: Schedule) -> Timing:
    return Timing(config.updates or schedule.updates, config.until, config.share)


def chosen(model: nn.Module, config: Sparsify) -> tuple[list[Weight], list[Skipped]]:
    """Return the weights that become sparse, and what stays dense, with the reason.

    Raises:
        BadInput: a path in `freeze` names nothing, or nothing is left.
    """
    weights, skipped = weights_of(model)
    check_paths(weights, config.freeze, "freeze")
    pattern = Pattern.read(config.pattern)
    result = []
    for index, weight in enumerate(weights):
        reason = pattern.misfit(weight.shape)
        if weight.named(config.freeze):
            reason = "it is in freeze"
        elif index == 0 and not config.first:
            reason = "it is the first layer"
        elif index == len(weights) - 1 and not config.head:
            reason = "it is the head"
        if reason:
            skipped.append(Skipped(weight.name, reason))
        else:
            result.append(weight)
    if not result:
        told = "; ".join(dict.fromkeys(item.reason for item in skipped)) or "there is no convolution, linear or recurrent layer"
        raise BadInput(f"no weight can become sparse: {told}")
    return result, skipped


def _mixes(work: Work) -> bool:
    """Return whether what was delivered is not zero where the masks are: a mean over steps with other masks."""
    return any(bool((weight.parameter.detach()[~work.masks.kept[weight.name]] != 0).any()) for weight in work.chooser.weights)


def _outcome(config: Sparsify, schedule: str, work: Work, epochs: list[dict[str, Any]], skipped: Sequence[Skipped], idle: int) -> Outcome:
    layers: list[dict[str, Any]] = [
        {"name": weight.name, "weights": weight.parameter.numel(), "zeros": int((weight.parameter == 0).sum())}
        for weight in work.chooser.weights
    ]
    amount = config.amount
    zeros, total = (sum(int(layer[name]) for layer in layers) for name in ("zeros", "weights"))
    changed = {
        "asked": amount.unit,
        "amount": amount.value,
        "sparsity": zeros / total,
        "criterion": config.criterion,
        "pattern": config.pattern,
        "allocation": config.how(),
        "schedule": schedule,
        "about": SCHEDULES[schedule].about,
        "layers": layers,
        "params": [
            sum(p.numel() for p in work.program.parameters()),
            sum(int((p != 0).sum()) for p in work.program.parameters()),
        ],
        "epochs": epochs,
        "recovery": work.plan.told() if epochs else None,
    }
    notes = [work.plan.note()] if epochs else []
    if idle:
        notes.append(f"{idle} numbers of weights and biases went last: they made channels that no weight reads any more")
    blind = _blind(work)
    if blind:
        names = ", ".join(blind[:_NAMED]) + (", …" if len(blind) > _NAMED else "")
        notes.append(f"'{config.criterion}' cannot look at the inputs of {len(blind)} of {len(layers)} layers ({names}): magnitude there")
    return Outcome(_NAME, changed, tuple(skipped), tuple(notes))


def _blind(work: Work) -> list[str]:
    """Return the names of weights of which the criterion did not see what it looks at."""
    criterion = work.chooser.criterion
    return [] if criterion.trains else [weight.name for weight in work.chooser.weights if weight.name not in work.chooser.seen]
