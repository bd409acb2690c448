"""A task: the model, its data, its loss and the number that may not be lost."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, Subset

from laconic.core.errors import BadInput
from laconic.core.fields import check_types
from laconic.core.model import as_module, is_function
from laconic.core.part import Cut, Part, PartLoss, PartSplit, Whole, flat_answers, no_metric
from laconic.core.plan import FitPlan, whole_plan

Direction = Literal["max", "min"]
# How a part trains otherwise than its task: it is not scored by itself, changed pictures would not be those that the rest sees, and its answers are no classes.
_OF_PART: dict[str, Any] = {"augment": (), "patience": None, "label_smoothing": 0.0, "soft": "mse_logits"}
_BATCH = 64  # examples, where nothing is said
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
    """Return the tensor that the metric looks at: the output itself, its `logits`, or the first of several."""
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


@dataclass
class Task:
    """A trained model, its data and the metric that may not drop.

    Args:
        model: the module, or a function that makes it.
        train: examples for fitting and calibration; may be None.
        valid: examples that select between candidates.
        test: examples touched once, for the final table; may be None.
        loss: `(outputs, target) -> scalar tensor`; needed only to train.
        metric: a name (`laconic.tasks.metrics.named_metrics()`) or a function `(logits, target) -> float`, of all examples at once.
        direction: whether more is better; known for named metrics.
        split: `batch -> (inputs, target)`; inputs as a tensor, a tuple (positional) or a mapping (keywords).
        logits: `outputs -> tensor` that the metric looks at.
        plan: how to train a model that is still untrained; None means that it is trained.
        recovery: how what is left of it is trained after a step took something away (pruning); None: with optimizer, batches and augmentation of `plan`, at a
            rate that a range test finds.
        target: `target -> tensor` that a named metric looks at, or the key of an entry of the target; needed where the target is a mapping, tuple or list of
            several tensors. The loss, and a metric that is a function, are given the whole target.
        batch_size: examples in a batch of valid and test data; by default 64, and 1 where `dynamic_batch` is False.
        dynamic: further dynamic dimensions, `{input name: {dimension: name}}`, as of `capture`: lengths that differ from batch to batch. Where the batch is
            another dimension than 0 (a recurrent net's state) it is found by collating one example several times.
        dynamic_batch: the model takes any number of examples. Without it, every call holds `batch_size` of them.
        words: of text: the word of each token id; pictures of augmented sentences show them.
        nets: a name to an untrained net that fits the data; students are made by it.
        ref: name or `module:attribute` by which another process can load the same task; `tasks.catalog.load` sets it.
        data_dir: folder that the data was read from, where one was named.
        ignore: entries of the target that do not count; -100 never does for class metrics.
        class_axis: the dimension of the logits that holds the classes or labels, where their shape does not say it.
        part: the dotted path of a module inside the model, e.g. ``backbone``. That module alone is captured, compressed and timed, with what it is given on
            this data; the rest runs around it as it is, and the metric is that of the whole. `dynamic` then names the module's inputs.
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
    batch_size: int = 0
    plan: FitPlan | None = None
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
    part: str | None = None
    target: Callable[[Any], Any] | str | int | None = None

    def __post_init__(self) -> None:
        if isinstance(self.part, (list, tuple)):
            raise BadInput(
                f"the task '{self.name}': part: {self.part!r}: one part is compressed at a time. Optimize the first, then give the task the model that "
                "laconic.place(model, part, artifact) returns, and the next part; or put them into one module of the model."
            )
        check_types(self, f"the task '{self.name}' makes no sense:")
        if self.batch_size < 0:
            raise BadInput(f"the task '{self.name}': batch_size: {self.batch_size} must be 1 or more")
        self.plan, self.recovery = whole_plan(self.plan), whole_plan(self.recovery)
        self.batch_size = self.batch_size or (_BATCH if self.dynamic_batch else 1)

    def build(self) -> nn.Module:
        """Return the module itself; a factory is called once and its result kept.

        Raises:
            BadInput: neither a module nor a function without arguments that makes one; says what it is.
        """
        if not isinstance(self.model, nn.Module):
            self.model = self._made()
        self.model = as_module(self.model, f"the task '{self.name}'")
        return self.model

    def cut(self) -> Cut:
        """Return what of the model is captured: the model itself, or its part.

        Raises:
            BadInput: the model has no such module.
        """
        return Whole(self.build()) if self.part is None else Part(self.build(), self.part)

    def of_part(self) -> Task:
        """Return the task of the part, for steps that run or train what is captured; without a part, the task itself.

        Its batches are what the part is given, its loss is the whole's (or, where that cannot be, how far the part's answers move; see `PartLoss`).
        """
        if self.part is None:
            return self
        cut, base = self.cut(), self.plan or FitPlan(batch_size=self.batch_size)
        return replace(
            self,
            model=cut.module,
            part=None,
            split=PartSplit(self.split, cut),
            loss=PartLoss(self.loss, cut),
            logits=flat_answers,
            metric=no_metric,
            direction="max",
            plan=replace(base, **_OF_PART),
            recovery=None if self.recovery is None else replace(self.recovery, **_OF_PART),
            nets=None,
            words=None,
        )

    def _made(self) -> Any:
        """Return what the factory makes; anything that is no factory, as it is."""
        given: Any = self.model
        try:
            signature = inspect.signature(given)
            signature.bind()
        except (TypeError, ValueError):  # it is no function, or one that wants arguments
            return given
        if signature.parameters and not is_function(given):  # an object that answers calls: a file's session, an artifact
            return given
        return given()


def calibration_subset(data: Dataset[Any], n: int, seed: int = 0) -> Subset[Any]:
    """Draw `n` examples without replacement; all of them where there are fewer."""
    size = len(data)  # type: ignore[arg-type]
    chosen = torch.randperm(size, generator=torch.Generator().manual_seed(seed))[:n]
    return Subset(data, chosen.sort().values.tolist())
