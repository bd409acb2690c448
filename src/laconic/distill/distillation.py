"""Distillation: a student beside its teachers, as one module and one loss that any training loop can take."""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from laconic.core import structure
from laconic.core.errors import BadInput, TrainingStopped, nearest
from laconic.core.model import show_signature
from laconic.core.plan import FitPlan, Hint
from laconic.core.program import Program, as_call
from laconic.core.smoothing import PlanLoss, smoothed
from laconic.core.task import default_logits
from laconic.distill.bridge import build
from laconic.distill.losses import hint_losses, soft_losses
from laconic.distill.teacher import Teacher, evaluating
from laconic.distill.watch import Tap, TappedRun, Watch, paths_of, watch

Loss = Callable[[Any, Any], Tensor]
Logits = Callable[[Any], Tensor]
Pair = tuple[Tensor, Tensor]
_ANY = "*"  # in a hint's path: any letters but a dot


class Exchange(NamedTuple):
    """What was computed of one batch: the student's outputs, each teacher's, and for each hint the pairs (student's, teacher's) of inner values."""

    outputs: Any
    teachers: tuple[Any, ...]
    hints: tuple[tuple[Pair, ...], ...]


class DistillationModule(nn.Module):
    """The module to be trained: the student and the projectors between it and its teachers, which are held but are no part of it.

    In training mode its forward gives an `Exchange`, in evaluation mode the student's outputs.
    """

    def __init__(self, student: nn.Module, teachers: Sequence[Teacher], hints: Sequence[tuple[Hint, Tap]], ours: Watch) -> None:
        super().__init__()
        self.student = student
        self.projectors = nn.ModuleDict()
        self.hints = tuple(hints)
        self._teachers = tuple(teachers)  # in a tuple, so that they are not registered
        self._watch = ours
        show_signature(self, inspect.signature(student.forward))

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the student; in training mode the teachers too, see the class."""
        if not self.training:
            return self.student(*args, **kwargs)
        ours, theirs = self.run_with_taps(args, kwargs)
        return Exchange(ours.outputs, tuple(run.outputs for run in theirs), tuple(self.pairs(ours, theirs)))

    def run_with_taps(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[TappedRun, list[TappedRun]]:
        """Run the student and each teacher; return the outputs and tapped values of the one and of the others."""
        with self._watch.recording() as values:
            ours = TappedRun(self.student(*args, **kwargs), values)
        held = next(self.student.parameters(), None)
        device = torch.device("cpu") if held is None else held.device
        return ours, [teacher(device, *args, **kwargs) for teacher in self._teachers]

    def pairs(self, ours: TappedRun, theirs: Sequence[TappedRun]) -> list[tuple[Pair, ...]]:
        """Return for each hint its values side by side: one pair for each teacher that has the path, made comparable."""
        pairs: list[tuple[Pair, ...]] = []
        for index, (hint, tap) in enumerate(self.hints):
            value = ours.values[tap]
            with _exactly(value.device):
                sides = [(self.projectors[_name(index, number)], other) for number, other in _with_path(theirs, hint, tap)]
                pairs.append(tuple(bridge(_exact(value), _exact(other)) for bridge, other in sides))
        return pairs

    def build_projectors(self, ours: TappedRun, theirs: Sequence[TappedRun], seed: int) -> None:
        """Build the bridges between student and teachers from example values.

        Raises:
            BadInput: shapes that nothing brings together.
        """
        for index, (hint, tap) in enumerate(self.hints):
            for number, other in _with_path(theirs, hint, tap):
                self.projectors[_name(index, number)] = build(
                    hint_losses()[hint.loss], hint, _exact(ours.values[tap]), _exact(other), seed + index
                )


def _with_path(theirs: Sequence[TappedRun], hint: Hint, tap: Tap) -> list[tuple[int, Tensor]]:
    """Return the number of each teacher that has the hint's path, and its value there."""
    other = _theirs(hint, tap)
    return [(number, run.values[other]) for number, run in enumerate(theirs) if other in run.values]


def _name(hint: int, teacher: int) -> str:
    return f"hint{hint}_teacher{teacher}"


def _theirs(hint: Hint, tap: Tap) -> Tap:
    return Tap(hint.teacher or hint.student, tap.kind)


def _exact(value: Tensor) -> Tensor:
    """Return half precisions as float32: relations between values are small differences."""
    return value.float() if value.dtype in (torch.bfloat16, torch.float16) else value


def _exactly(device: torch.device) -> torch.autocast:
    """Switch autocast off inside."""
    return torch.autocast(device.type, enabled=False)


@dataclass(frozen=True)
class Distillation:
    """How a student is taught in any loop: `loss(module(inputs), target)`, in training mode.

    Attributes:
        module: train this; the student inside is trained in place.
        loss: `(outputs of the module, target) -> scalar`; of outputs in evaluation mode it is the task's loss alone.
    """

    module: nn.Module
    loss: Loss


def teach(
    student: nn.Module,
    teachers: nn.Module | Sequence[nn.Module],
    plan: FitPlan,
    *,
    loss: Loss,
    logits: Logits = default_logits,
    example: Any = None,
    cached: bool = False,
) -> Distillation:
    """Put a student beside its teachers; its loss is (1 − `plan.distill`) · loss + `plan.distill` · soft loss + Σ weight · hint.

    `plan.label_smoothing` is of the task's loss alone: with a share s of it and a weight d of the soft targets, the task's loss has (1 − d)(1 − s), the even
    distribution (1 − d) s. No training loop adds it a second time.

    Several teachers count alike: the soft loss is their mean, and so is each hint over the teachers that have its path. Without soft targets the
    task's loss has weight 1.

    Args:
        student: a program or a module, trained in place.
        teachers: one or several; a copy of the student too. Nothing of them is changed.
        plan: `distill`, `temperature`, `soft`, `hints`, `label_smoothing` and, for projectors, `seed`.
        loss: the task's, `(student's outputs, target) -> scalar`; not called if `plan.distill` is 1.
        logits: `outputs -> (B, K)`.
        example: inputs of two examples or more, for a first run that checks answers and builds projectors; of a program its own by default. Hints need it.
        cached: the teacher's answers come with the target (`teacher.Taught`) and no teacher is asked; `teachers` may be empty.

    Raises:
        BadInput: before training: options that make no sense, unknown paths, another number of classes, values that do not go together, answers that are
            not finite.
    """
    several = (teachers,) if isinstance(teachers, nn.Module) else tuple(teachers)
    _check(plan, several, cached)
    if isinstance(student, Program):
        student.interface.limits.check_trainable("teach")
    plan = replace(plan, hints=tuple(one for hint in plan.hints for one in _single(hint, student, several)))
    hints = [(hint, Tap(hint.student, hint_losses()[hint.loss].value)) for hint in plan.hints]
    ours = watch(student, [tap for _, tap in hints], "student")
    asked = _asked(several, hints, student) if hints or (plan.distill and not cached) else ()
    module = DistillationModule(student, asked, hints, ours)
    example = _own_example(student) if example is None else example
    if example is not None:
        _rehearse(module, plan, logits, example)
    elif hints:
        raise BadInput("hints need an example: teach(…, example=inputs of two examples), from which projectors are built.")
    return Distillation(module, _Loss(plan, loss, logits))


def _check(plan: FitPlan, teachers: Sequence[nn.Module], cached: bool) -> None:
    mistakes = []
    if plan.soft not in soft_losses():
        mistakes.append(f"soft: '{plan.soft}' is not a loss." + nearest(plan.soft, soft_losses()))
    known = hint_losses()
    mistakes += [f"hints: '{hint.loss}' is not a loss." + nearest(hint.loss, known) for hint in plan.hints if hint.loss not in known]
    mistakes += [
        f"hints: the weight {hint.weight} of '{hint.loss}' must be a number of 0 or more"
        for hint in plan.hints
        if not 0 <= hint.weight < math.inf
    ]
    if not 0 <= plan.distill <= 1:
        mistakes.append(f"distill: {plan.distill} must lie between 0 and 1")
    if not 0 < plan.temperature < math.inf:
        mistakes.append(f"temperature: {plan.temperature} must be more than 0")
    if cached and plan.hints:
        mistakes.append("hints need the teacher itself: answers that were kept hold no inner values. Leave cached or the hints out")
    if not teachers and not cached:
        mistakes.append("there is no teacher")
    if mistakes:
        raise BadInput("the distillation makes no sense:\n" + "\n".join(f"  {m}" for m in mistakes))


def _single(hint: Hint, student: nn.Module, teachers: Sequence[nn.Module]) -> list[Hint]:
    """Return the hints that one with a pattern stands for: one for each path that the student and a teacher have.

    Raises:
        BadInput: there is none, or the patterns of student and teacher do not go together.
    """
    theirs = hint.teacher or hint.student
    if _ANY not in hint.student + theirs:
        return [hint]
    if hint.student.count(_ANY) != theirs.count(_ANY):
        raise BadInput(f"hints: '{hint.student}' of the student and '{theirs}' of the teacher must have '{_ANY}' equally often.")
    ours, known = paths_of(student), set().union(*map(paths_of, teachers))
    like = re.compile(re.escape(hint.student).replace(re.escape(_ANY), "([^.]+)"))
    pairs = [(path, _filled(theirs, found.groups())) for path in sorted(ours) if (found := like.fullmatch(path))]
    hints = [replace(hint, student=path, teacher=other) for path, other in pairs if other in known]
    if not hints:
        raise BadInput(f"hints: no module path of student and teacher is like '{hint.student}'." + nearest(hint.student, ours))
    return hints


def _filled(pattern: str, names: Sequence[str]) -> str:
    """Return a pattern with names in place of what stands for any.

    >>> _filled("decoder.*.mlp", ["3"])
    'decoder.3.mlp'
    """
    left = iter(names)
    return "".join(next(left) if letter == _ANY else letter for letter in pattern)


def _asked(teachers: Sequence[nn.Module], hints: Sequence[tuple[Hint, Tap]], student: nn.Module) -> tuple[Teacher, ...]:
    """Return the teachers, each watched at the paths that it has; a path must be in one of them."""
    wanted = [_theirs(hint, tap) for hint, tap in hints]
    known = [paths_of(teacher) for teacher in teachers]
    for tap in wanted:
        if not any(tap.path in paths for paths in known):
            raise BadInput(f"no teacher has the module path '{tap.path}'." + nearest(tap.path, set().union(*known)))
    return tuple(
        Teacher(teacher, [tap for tap in wanted if tap.path in paths], student) for teacher, paths in zip(teachers, known, strict=True)
    )


def _own_example(student: nn.Module) -> Any:
    """Return the example that a program was captured with, as it is called; None for a module."""
    if not isinstance(student, Program):
        return None
    spec = student.interface.input_structure
    built = structure.build(spec, iter(student.example_inputs()))
    return (built[spec["keys"][0]],) if len(spec["keys"]) == 1 else built


def _rehearse(module: DistillationModule, plan: FitPlan, logits: Logits, example: Any) -> None:
    """Run an example once, check the answers and build the bridges."""
    args, kwargs = as_call(example)
    with evaluating(module):
        ours, theirs = module.run_with_taps(args, kwargs)
        module.build_projectors(ours, theirs, plan.seed)
        for number, run in enumerate(theirs if plan.distill else ()):
            _agree(plan, logits(ours.outputs), logits(run.outputs), number)
            if not bool(logits(run.outputs).isfinite().all()):
                raise BadInput(f"the answers of teacher {number} to the example are not finite. Look at its weights and at the example.")
        module.pairs(ours, theirs)


def _agree(plan: FitPlan, ours: Tensor, theirs: Tensor, number: int = 0) -> None:
    """Check that student and teacher answer in one shape, with enough classes for the loss."""
    if ours.shape != theirs.shape:
        raise BadInput(
            f"the student answers {tuple(ours.shape)} (examples, classes) and teacher {number} {tuple(theirs.shape)}: soft targets need the same classes "
            "in the same order. Give the student the teacher's head, or set distill=0 and use hints alone."
        )
    if (least := soft_losses()[plan.soft].classes) > 1 and (ours.dim() < 2 or ours.shape[-1] < least):
        raise BadInput(f"'{plan.soft}' needs answers over two classes or more; these are {tuple(ours.shape)}. Use soft='mse_logits'.")


class _Loss(PlanLoss):
    """The loss of distillation."""

    def __init__(self, plan: FitPlan, hard: Loss, logits: Logits) -> None:
        self.plan, self.hard, self.logits = plan, hard, logits
        self.smooth = smoothed(hard, plan.label_smoothing, logits)

    def __call__(self, outputs: Any, target: Any) -> Tensor:
        """Compute what `Distillation.loss` says."""
        plan = self.plan
        target, kept = _parts(target)
        if not isinstance(outputs, Exchange):
            return self.hard(outputs, target)
        terms = [(1 - plan.distill) * self.smooth(outputs.outputs, target)] if plan.distill < 1 else []
        if plan.distill:
            terms.append(plan.distill * self._soft(outputs, target, kept))
        for hint, pairs in zip(plan.hints, outputs.hints, strict=True):
            with _exactly(pairs[0][0].device):
                losses = [hint_losses()[hint.loss].loss(ours, theirs.detach()) for ours, theirs in pairs]
            terms.append(hint.weight * torch.stack(losses).mean())
        return torch.stack(terms).sum()

    def _soft(self, outputs: Exchange, target: Any, kept: Tensor | None) -> Tensor:
        """Return the mean over teachers of the loss between answers.

        Raises:
            TrainingStopped: a teacher's answers are not finite.
        """
        plan, row = self.plan, soft_losses()[self.plan.soft]
        ours = _exact(self.logits(outputs.outputs))
        theirs = [self.logits(answer) for answer in outputs.teachers] if kept is None else [kept.to(ours.device)]
        if not theirs:
            raise BadInput(
                "the distillation is cached, but the target holds no answers of a teacher: train on teacher.Taught(data, answers, split)."
            )
        losses = []
        for number, answer in enumerate(theirs):
            _agree(plan, ours, answer, number)
            with _exactly(ours.device):
                losses.append(row.loss(ours, _exact(answer.detach()), target if row.needs_target else None, plan.temperature))
            if not math.isfinite(float(losses[-1].detach())) and not bool(answer.isfinite().all()):
                raise TrainingStopped(f"the answers of teacher {number} are not finite. Look at the data, or at the teacher's weights.")
        return torch.stack(losses).mean()


def _parts(target: Any) -> tuple[Any, Tensor | None]:
    """Return the target itself and, of `teacher.Taught`, the teacher's answers."""
    if isinstance(target, Mapping) and {"target", "teacher"} <= set(target):
        return target["target"], target["teacher"]
    return target, None
