"""A task: the model, its data, its loss and the number that may not be lost. And what a step may use of it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, Subset

from laconic.core.errors import BadInput
from laconic.core.model import as_module

Direction = Literal["max", "min"]
_TARGET_KEYS = ("labels", "label", "target", "targets")


def split_batch(batch: Any) -> tuple[Any, Any]:
    """Split a batch into the model's inputs and the target.

    A pair is `(inputs, target)`; of a mapping, the entry named labels, label, target or targets is the target and the rest the inputs.
    """
    if isinstance(batch, (tuple, list)) and len(batch) == 2:
        return batch[0], batch[1]
    if isinstance(batch, Mapping):
        for key in _TARGET_KEYS:
            if key in batch:
                return {name: value for name, value in batch.items() if name != key}, batch[key]
    raise BadInput(
        f"a batch must be (inputs, target) or a mapping with one of {', '.join(_TARGET_KEYS)}; this one is {_shape_of(batch)}. "
        "Give the task its own rule: Task(split=lambda batch: (inputs, target))."
    )


def default_logits(outputs: Any) -> Tensor:
    """The tensor that the metric looks at: the output itself, its `logits`, or the first of several."""
    if isinstance(outputs, Tensor):
        return outputs
    if isinstance(outputs, Mapping) and outputs:
        return default_logits(outputs["logits"] if "logits" in outputs else next(iter(outputs.values())))
    if isinstance(outputs, (tuple, list)) and outputs:
        return default_logits(outputs[0])
    raise BadInput(f"cannot tell which part of the model's output the metric is for: {_shape_of(outputs)}. Give Task(logits=…).")


def _shape_of(value: Any) -> str:
    if isinstance(value, Mapping):
        return f"{type(value).__name__} with keys {sorted(map(str, value))}"
    if isinstance(value, (tuple, list)):
        return f"{type(value).__name__} of {len(value)}"
    return type(value).__name__


@dataclass(frozen=True)
class Choice:
    """Something of a table, by its name, and how strongly it acts; what a strength means is said beside each row of that table."""

    name: str
    strength: float = 1.0


@dataclass(frozen=True)
class Hint:
    """A loss between what two modules put out, one of the student and one of the teacher.

    Args:
        loss: a name in `distill.losses.HINTS`.
        student: module path in the student.
        teacher: module path in the teacher; None: the same.
        weight: of this loss beside the others.
    """

    loss: str
    student: str
    teacher: str | None = None
    weight: float = 1.0


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
        soft: a name in `distill.losses.SOFT`.
        hints: losses between inner values of student and teacher.
        channels_last: lay pictures (B, C, H, W) and kernels out pixel by pixel, which is often faster and sums in another order.
        seed: of the order, and of every random choice.
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
    augment: tuple[Choice, ...] = ()
    regularize: tuple[Choice, ...] = ()
    distill: float = 0.0
    temperature: float = 2.0
    soft: str = "soft_targets"
    hints: tuple[Hint, ...] = ()
    channels_last: bool = False
    seed: int = 0


# option of a plan -> what it must be, and the check
_RULES: dict[str, tuple[str, Callable[[float], bool]]] = {
    **dict.fromkeys(("batch_size", "accumulate", "cycles", "patience"), ("must be 1 or more", lambda v: v >= 1)),
    **dict.fromkeys(("lr", "grad_clip", "temperature"), ("must be more than 0", lambda v: v > 0)),
    **dict.fromkeys(("epochs", "weight_decay", "sam"), ("must be 0 or more", lambda v: v >= 0)),
    "warmup": ("is a fraction of all steps, 0 to 1", lambda v: 0 <= v <= 1),
    "distill": ("is a weight, 0 to 1", lambda v: 0 <= v <= 1),
    "label_smoothing": ("is a share, 0 or more and less than 1", lambda v: 0 <= v < 1),
    "ema_decay": ("lies between 0 and 1", lambda v: 0 < v < 1),
}


def out_of_range(plan: Any) -> Iterator[str]:
    """The numbers of a plan (or of changes of one, where None says nothing) that make no sense, one sentence each."""
    for name, (rule, holds) in _RULES.items():
        value = getattr(plan, name)
        if value is not None and not holds(value):
            yield f"{name}: {value} {rule}"


@dataclass
class Task:
    """A trained model, its data and the metric that may not drop.

    Args:
        model: the module, or a function that makes it.
        train: examples for fitting and calibration; may be None.
        valid: examples that select between candidates.
        test: examples touched once, for the final table; may be None.
        loss: `(outputs, target) -> scalar tensor`; needed only to train.
        metric: a name (`laconic.tasks.metrics.METRICS`) or a function `(logits, target) -> float`, of all examples at once.
        direction: whether more is better; known for named metrics.
        split: `batch -> (inputs, target)`; inputs as a tensor, a tuple (positional) or a mapping (keywords).
        logits: `outputs -> tensor` that the metric looks at.
        fit: how to train a model that is still untrained; None means that it is trained.
        recovery: how what is left of it is trained after a step took something away (pruning); None: with optimizer, batches and augmentation of `fit`, at a
            rate that a range test finds.
        dynamic: further dynamic dimensions, `{input name: {dimension: name}}`, as of `capture`.
        dynamic_batch: the model takes any number of examples. Without it, every call holds `batch_size` of them.
        words: of text: the word of each token id; pictures of augmented sentences show them.
        nets: a name to an untrained net that fits the data; students are made by it.
        ref: name or `module:attribute` by which another process can load the same task; `tasks.catalog.load` sets it.
        data_dir: folder that the data was read from, where one was named.
        ignore: entries of the target that do not count; -100 never does for class metrics.
        class_axis: the dimension of the logits that holds the classes or labels, where their shape does not say it.
    """

    model: nn.Module | Callable[[], nn.Module]
    train: Dataset[Any] | None
    valid: Dataset[Any]
    test: Dataset[Any] | None = None
    loss: Callable[[Any, Any], Tensor] | None = None
    metric: str | Callable[[Any, Any], float] = "accuracy"
    direction: Direction | None = None
    name: str = "task"
    split: Callable[[Any], tuple[Any, Any]] = split_batch
    logits: Callable[[Any], Tensor] = default_logits
    collate: Callable[[list[Any]], Any] | None = None
    batch_size: int = 64
    fit: FitPlan | None = None
    recovery: FitPlan | None = None
    dynamic: dict[str, dict[int, str]] | None = None
    dynamic_batch: bool = True
    classes: int | None = None
    description: str = ""
    dataset_note: str = ""
    words: tuple[str, ...] | None = None
    nets: Callable[[str], nn.Module] | None = None
    ref: str | None = None
    data_dir: str | None = None
    ignore: float | None = None
    class_axis: int | None = None

    def build(self) -> nn.Module:
        """The module itself; a factory is called once and its result kept.

        Raises:
            BadInput: neither a module nor a function without arguments that makes one; says what it is.
        """
        if not isinstance(self.model, nn.Module):
            self.model = self._made()
        self.model = as_module(self.model, f"the task '{self.name}'")
        return self.model

    def _made(self) -> Any:
        """What the factory makes; anything that is no factory, as it is."""
        given: Any = self.model
        if isinstance(given, (torch.export.ExportedProgram, torch.jit.ScriptFunction)):
            return given
        try:
            inspect.signature(given).bind()
        except (TypeError, ValueError):  # it is no function, or one that wants arguments
            return given
        return given()


def calibration_subset(data: Dataset[Any], n: int, seed: int = 0) -> Subset[Any]:
    """`n` examples drawn without replacement; all of them where there are fewer."""
    size = len(data)  # type: ignore[arg-type]
    chosen = torch.randperm(size, generator=torch.Generator().manual_seed(seed))[:n]
    return Subset(data, chosen.sort().values.tolist())


class Progress(Protocol):
    """How long work reports itself. The command line shows it live; a library call may stay silent."""

    def start(self, name: str, total: int) -> None:
        """A piece of work of `total` units begins."""

    def advance(self, n: int = 1, **facts: Any) -> None:
        """`n` units are done; `facts` are figures worth showing (loss, metric)."""

    def finish(self, **facts: Any) -> None:
        """The piece of work that began last is over."""

    def log(self, text: str) -> None:
        """One line for the reader."""


class Silent:
    """Progress that says nothing; what listens to one of its calls is made from it."""

    def start(self, name: str, total: int) -> None:
        """See `Progress`."""

    def advance(self, n: int = 1, **facts: Any) -> None:
        """See `Progress`."""

    def finish(self, **facts: Any) -> None:
        """See `Progress`."""

    def log(self, text: str) -> None:
        """See `Progress`."""


silent: Progress = Silent()


@dataclass(frozen=True)
class Target:
    """Where the artifact will run. `threads` None means all cores that the process may use."""

    runtime: str = "onnxruntime"
    precision: str = "fp32"
    threads: int | None = None
    device: str = "cpu"


@dataclass(frozen=True)
class Context:
    """What a step may use: it is given what trains, prices and teaches, and never imports a training loop, a runtime or a clock.

    Attributes:
        task: model, data, loss, metric.
        fit: `laconic.fit`.
        target: where the result will run.
        seed: of random choices.
        progress: shows long work.
        scratch: a folder for what a step wants to keep.
        price: the milliseconds of a layer on the target.
        teacher: the program before all steps, from which a changed one recovers; None: each step's own input.
    """

    task: Task | None = None
    fit: Callable[..., Any] | None = None
    target: Target = field(default_factory=Target)
    seed: int = 0
    progress: Progress = silent
    scratch: Path | None = None
    price: Callable[[Any], float] | None = None
    teacher: Any = None
