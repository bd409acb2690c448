"""When weights become zero: the table of ways to train around masks. Each takes the work at hand, trains, and returns what its epochs were like."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from laconic.core.context import Context
from laconic.core.program import Program
from laconic.core.recovery import Recovery
from laconic.core.retraining import retrain
from laconic.pruning.inputs import renew_statistics
from laconic.pruning.unstructured.choice import Chooser
from laconic.pruning.unstructured.dynamics import Gradual, Surgery
from laconic.pruning.unstructured.evidence import look
from laconic.pruning.unstructured.masks import Masks
from laconic.pruning.unstructured.regrowth import Regrow

Epochs = list[dict[str, Any]]


@dataclass(frozen=True)
class Timing:
    """When masks change during a training: how often, until which progress, and which share of each layer goes first where weights grow again."""

    updates: int = 100
    until: float = 0.75
    share: float = 0.3


Make = Callable[[Chooser, Timing], Gradual | Surgery | Regrow]


@dataclass
class Work:
    """A program that is to become sparse, and all that a schedule needs for it.

    Attributes:
        program: changed in place.
        chooser: of masks.
        plan: how it is trained, in all rounds together.
        context: task, `fit`, seed.
        teacher: the program before.
        examples: that criteria look at, and batch-norms are estimated with.
        timing: of the masks.
        rounds: of pruning and training, where they alternate.
        rewind: progress of a training whose weights come back in each round; None: weights go on.
        hooks: of `fit`.
        masks: of the result.
    """

    program: Program
    chooser: Chooser
    plan: Recovery
    context: Context
    teacher: Program
    examples: int = 256
    timing: Timing = field(default_factory=Timing)
    rounds: int = 3
    rewind: float | None = None
    hooks: Sequence[Callable[..., None]] = ()
    masks: Masks = field(default_factory=lambda: Masks({}))

    def look(self) -> None:
        """See the program as it is now, as far as the criterion needs it."""
        weights, need = self.chooser.weights, self.chooser.criterion.needs
        self.chooser.seen = look(self.program, weights, need, self.context, self.examples)

    @torch.no_grad()
    def cut(self, fraction: float = 1.0) -> None:
        """Make masks of the program as it is now, set what goes to zero, and estimate batch-norms anew."""
        self.look()
        values = self.chooser.solved() if fraction == 1.0 else {}
        self.masks = Masks(self.chooser.kept(self.chooser.scores(), fraction))
        for weight in self.chooser.weights:
            if weight.name in values:
                weight.parameter.copy_(values[weight.name])
                self.masks.kept[weight.name] = weight.parameter != 0
        self.settle()

    def settle(self) -> None:
        """Let zeros be zeros, and batch-norms know of it."""
        self.masks.apply(self.program)
        renew_statistics(self.program, self.examples, self.plan.plan.batch_size, self.context)

    def train(self, hook: Callable[..., None], epochs: int | None = None) -> Epochs:
        """Train so many epochs, all by default, and call the hook first after each step."""
        if epochs is None:
            epochs = self.plan.plan.epochs
        if not epochs:
            return []
        self.plan = self.plan.settled(self.program, self.context, self.teacher)
        plan = replace(self.plan.plan, epochs=epochs)
        return retrain(self.program, plan, self.context, self.teacher, (hook, *self.hooks))


def one_shot(work: Work) -> Epochs:
    """Set all zeros at once, then train the rest."""
    work.cut()
    return work.train(work.masks)


def iterative(work: Work) -> Epochs:
    """Set zeros and train in rounds, each further than the one before: of what is left, the same share goes each time (Frankle & Carbin 2019, section 2).

    With `rewind`, the rest goes back to its values at that progress of a first training, at 0 to those that were given (Frankle et al. 2019, section 3).
    """
    epochs: Epochs = []
    early = {name: value.clone() for name, value in work.program.state_dict().items()}
    total, trainings = work.plan.plan.epochs, work.rounds + bool(work.rewind)
    shares = [total * (i + 1) // trainings - total * i // trainings for i in range(trainings)]
    if work.rewind:
        keep = _Keep(work.rewind)
        epochs += [{**epoch, "round": 0} for epoch in work.train(keep, shares.pop(0))]
        early = dict(keep.values) or early
    final = work.chooser.amount.value
    for number, share in enumerate(shares, start=1):
        part = (1 - (1 - final) ** (number / work.rounds)) / final if work.chooser.amount.unit == "sparsity" else number / work.rounds
        work.cut(1.0 if number == work.rounds else part)
        if work.rewind is not None:
            work.program.load_state_dict(early)
            work.settle()
        epochs += [{**epoch, "round": number} for epoch in work.train(work.masks, share)]
    return epochs


def along(work: Work, make: Make, looks: bool = False) -> Epochs:
    """Train with a hook that changes masks; where it looks first, its first masks hold before the training."""
    if looks:
        work.look()
    hook = make(work.chooser, work.timing)
    if looks:
        work.masks = hook.masks
        work.settle()
    epochs = work.train(hook)
    work.masks = hook.masks
    return epochs


class _Keep:
    """Keeps the weights at a progress of a training."""

    def __init__(self, at: float) -> None:
        self.at = at
        self.values: Mapping[str, Tensor] = {}

    def __call__(self, model: nn.Module, progress: float) -> None:
        """See `core.hook.Hook`."""
        if not self.values and progress >= self.at:
            self.values = {name: value.detach().clone() for name, value in model.state_dict().items()}


@dataclass(frozen=True)
class Schedule:
    """A row: what is done, and what it goes together with.

    Attributes:
        run: does it, with all trainings that it takes.
        about: it, in a few words.
        make: the hook that changes masks during one training; None: masks stay, or there are several trainings.
        updates: how often masks are made, where nobody says it.
        once: it looks at the program between trainings, so criteria that look at inputs go with it; else it asks them at each update.
        grouped: it goes with N:M.
        by_weight: it scores by the weights alone.
        by_layer: each layer keeps its number of weights.
    """

    run: Callable[[Work], Epochs]
    about: str
    make: Make | None = None
    updates: int = 100
    once: bool = False
    grouped: bool = True
    by_weight: bool = False
    by_layer: bool = False


def _gradual(chooser: Chooser, timing: Timing) -> Gradual:
    return Gradual(chooser, timing.updates, timing.until)


def _surgery(chooser: Chooser, timing: Timing) -> Surgery:
    return Surgery(chooser, timing.updates, timing.until)


def _rigl(chooser: Chooser, timing: Timing) -> Regrow:
    return Regrow(chooser, "gradient", timing.updates, timing.until, timing.share)


def _set(chooser: Chooser, timing: Timing) -> Regrow:
    return Regrow(chooser, "random", timing.updates, timing.until, timing.share)


def _hooked(make: Make, about: str, once: bool = False, **facts: Any) -> Schedule:
    return Schedule(partial(along, make=make, looks=once), about, make, once=once, **facts)


AT_ONCE = "one_shot"  # what is done where nothing trains

SCHEDULES: dict[str, Schedule] = {
    AT_ONCE: Schedule(one_shot, "all at once", once=True),
    "gradual": _hooked(_gradual, "gradually, by a cubic"),
    "iterative": Schedule(iterative, "in rounds", once=True),
    "surgery": _hooked(_surgery, "by dynamic network surgery", grouped=False, by_weight=True),
    "rigl": _hooked(_rigl, "at once, regrown by gradients (RigL)", once=True, updates=30, grouped=False, by_layer=True),
    "set": _hooked(_set, "at once, regrown at random (SET)", once=True, updates=30, grouped=False, by_layer=True),
}
