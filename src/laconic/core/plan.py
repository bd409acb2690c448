"""How a model is trained: the plan, and what it names of tables."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, TypeVar, get_origin

from laconic.core.errors import BadInput, Mistakes, nearest
from laconic.core.fields import FrozenMapping, check_types, hints_of, wrong_type

Config = TypeVar("Config")


@dataclass(frozen=True)
class Scaled:
    """A row of a table of augmentations or regularizers, by name, and how strongly it acts.

    Args:
        name: in `train.augment.augmentations()` or `train.regularize.REGULARIZERS`.
        strength: 1 is the usual one; what it means, with its unit, is said beside each row.
    """

    name: str
    strength: float = 1.0

    def __post_init__(self) -> None:
        check_types(self, "a row with its strength makes no sense:")


@dataclass(frozen=True)
class Hint:
    """A loss between what two modules put out, one of the student and one of the teacher.

    Args:
        loss: a name in `distill.losses.hint_losses()`.
        student: module path in the student. ``*`` stands for any letters but a dot: one hint for each such path that student and teacher both have, so
            ``encoder.layer.*`` for each layer that was not dropped.
        teacher: module path in the teacher, with as many ``*``; None: the same.
        weight: of this loss beside the others.
    """

    loss: str
    student: str
    teacher: str | None = None
    weight: float = 1.0

    def __post_init__(self) -> None:
        check_types(self, "a hint makes no sense:")


@dataclass(frozen=True)
class FitPlan:
    """How a model is trained; the options of every step that trains.

    Args:
        epochs: passes over the data.
        optimizer: a name in `train.optim.OPTIMIZERS`.
        lr: the peak learning rate.
        schedule: of the learning rate: a name in `train.optim.SCHEDULES`.
        cycles: of a schedule that repeats; None: 1 of a cosine, 3 of the cyclical ones.
        weight_decay: of matrices and kernels; biases and the parameters of norms are left out.
        momentum: of the optimizers that have one.
        batch_size: examples in a batch.
        accumulate: batches whose gradients are averaged for one step.
        grad_clip: largest global norm of the gradient; None: any.
        gradients: `centralize` takes the mean off each filter's gradient, `standardize` makes each tensor's of mean 0 and deviation 1.
        sam: radius of sharpness-aware minimization; 0 leaves it out.
        average: deliver the exponential moving average of the weights (`ema`) or their mean over the last quarter (`swa`).
        ema_decay: what the moving average keeps at each step.
        precision: `bf16` computes in bfloat16 by autocast.
        warmup: the share of all steps in which the learning rate rises to its peak.
        patience: stop after so many epochs without a better metric on the valid data; None: never.
        label_smoothing: the share of each label that is spread over all classes.
        augment: of the table for the kind of data, in order.
        regularize: of `train.regularize.REGULARIZERS`.
        distill: weight of the teacher's soft targets beside the task's loss; 0 leaves them out.
        temperature: of the soft targets.
        soft: a name in `distill.losses.soft_losses()`.
        hints: losses between inner values of student and teacher.
        channels_last: lay pictures (B, C, H, W) and kernels out pixel by pixel, which is often faster and sums in another order.
        seed: of the order, and of every random choice.

    What makes no sense in it is told where it is used, all at once (`out_of_range`).
    """

    epochs: int = 1
    optimizer: str = "adamw"
    lr: float = 1e-3
    schedule: str = "cosine"
    cycles: int | None = None
    weight_decay: float = 0.0
    momentum: float = 0.9
    batch_size: int = 64
    accumulate: int = 1
    grad_clip: float | None = None
    gradients: Literal["plain", "centralize", "standardize"] = "plain"
    sam: float = 0.0
    average: Literal["none", "ema", "swa"] = "none"
    ema_decay: float = 0.999
    precision: Literal["fp32", "bf16"] = "fp32"
    warmup: float = 0.0
    patience: int | None = None
    label_smoothing: float = 0.0
    augment: tuple[Scaled, ...] = ()
    regularize: tuple[Scaled, ...] = ()
    distill: float = 0.0
    temperature: float = 2.0
    soft: str = "soft_targets"
    hints: tuple[Hint, ...] = ()
    channels_last: bool = False
    seed: int = 0


# option of a plan -> what it must be, and the check
_RULES: dict[str, tuple[str, Callable[[float], bool]]] = {
    **dict.fromkeys(("batch_size", "accumulate", "cycles", "patience"), ("must be 1 or more", lambda v: v >= 1)),
    **dict.fromkeys(("lr", "temperature"), ("must be more than 0 and finite", lambda v: 0 < v < math.inf)),
    "grad_clip": ("must be more than 0", lambda v: v > 0),
    **dict.fromkeys(("epochs", "weight_decay", "sam"), ("must be 0 or more and finite", lambda v: 0 <= v < math.inf)),
    "warmup": ("is a fraction of all steps, 0 to 1", lambda v: 0 <= v <= 1),
    "distill": ("is a weight, 0 to 1", lambda v: 0 <= v <= 1),
    "label_smoothing": ("is a share, 0 or more and less than 1", lambda v: 0 <= v < 1),
    "ema_decay": ("lies between 0 and 1", lambda v: 0 < v < 1),
}


def frozen_plan(plan: FitPlan | Mapping[str, Any] | None) -> FitPlan | FrozenMapping | None:
    """Return a plan, or changes of one, as a value that can be compared and hashed; changes of all options are a plan."""
    if plan is None or isinstance(plan, FitPlan):
        return plan
    return FitPlan(**FrozenMapping(plan)) if set(plan) == {option.name for option in fields(FitPlan)} else FrozenMapping(plan)


def options_of(plan: FitPlan | Mapping[str, Any] | None) -> dict[str, Any]:
    """Return what a plan says: of a whole one all options, of changes those that are given, of None nothing."""
    if isinstance(plan, FitPlan):
        return {option.name: getattr(plan, option.name) for option in fields(plan)}
    return dict(plan or {})


def with_plan(name: str) -> Callable[[type[Config]], type[Config]]:
    """Let options of the training be given beside a config's own: ``Prune(macs=0.5, epochs=3)`` for ``Prune(macs=0.5, recovery={"epochs": 3})``.

    The config has one field for the training all the same, and so have recipes; `StepConfig.trained` looks there for its epochs.

    Args:
        name: of that field.

    Raises:
        BadInput: when such a config is made with options beside a whole plan, or with one of them in both places.
    """

    def decorate(kind: type[Config]) -> type[Config]:
        own = kind.__init__
        apart = {option.name for option in fields(FitPlan)} - {option.name for option in fields(kind)}  # type: ignore[arg-type]

        @functools.wraps(own)
        def init(self: Any, *args: Any, **kwargs: Any) -> None:
            beside = {option: kwargs.pop(option) for option in list(kwargs) if option in apart}
            if beside:
                given = kwargs.get(name)
                if isinstance(given, FitPlan) or (twice := set(beside) & set(given or {})):
                    what = "a whole plan" if isinstance(given, FitPlan) else ", ".join(sorted(twice))
                    raise BadInput(f"{kind.__name__}: {what} is given in {name}; give {', '.join(sorted(beside))} there too")
                kwargs[name] = {**(given or {}), **beside}
            own(self, *args, **kwargs)

        kind.__init__ = init  # type: ignore[method-assign]
        kind.plan_field = name  # type: ignore[attr-defined]
        return kind

    return decorate


def completed(changes: FitPlan | Mapping[str, Any] | None, base: FitPlan) -> FitPlan:
    """Return the changes with what they leave out from `base`; a whole plan leaves nothing out.

    >>> completed({"epochs": 3}, FitPlan(lr=0.1)) == FitPlan(epochs=3, lr=0.1), completed(FitPlan(epochs=3), FitPlan(lr=0.1)).lr
    (True, 0.001)
    """
    return replace(base, **options_of(changes))


def whole_plan(given: FitPlan | Mapping[str, Any] | None) -> FitPlan | None:
    """Return a plan: the one that was given, one with these options, or None.

    Raises:
        BadInput: options that a plan does not have, or that make no sense.
    """
    if given is None or isinstance(given, FitPlan):
        return given
    if mistakes := list(out_of_range(given)):
        raise Mistakes("the plan of training makes no sense:", mistakes)
    return FitPlan(**given)


def out_of_range(plan: FitPlan | Mapping[str, Any] | None) -> Iterator[str]:
    """Yield what of a plan, or of changes of one, makes no sense, one sentence each: names that it does not have, and numbers."""
    defaults, hints = options_of(FitPlan()), hints_of(FitPlan)
    for name, value in options_of(plan).items():
        if name not in defaults:
            yield f"{name}: is no option of FitPlan." + nearest(name, defaults)
        elif value is None and defaults[name] is not None:
            yield f"{name}: None is no value of it; leave it out"
        elif name in _RULES and type(value) in (int, float) and not _RULES[name][1](value):
            yield f"{name}: {value} {_RULES[name][0]}"
        elif (
            get_origin(hints[name]) is not Literal and (wrong := wrong_type(hints[name], value)) is not None
        ):  # names are looked up in their tables
            yield f"{name}: {wrong}"
