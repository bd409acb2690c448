"""Built-in tasks by name, and a user's own by `module:attribute`."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from laconic.core.errors import BadInput, nearest
from laconic.core.fields import typed
from laconic.core.plan import FitPlan
from laconic.core.reading import reading
from laconic.core.task import Task, default_logits
from laconic.tasks import models, onnx_in, sources
from laconic.tasks.data import ArrayDataset, Vocabulary, split_indices
from laconic.tasks.models import DataShape
from laconic.tasks.sources import Raw, Source


@dataclass(frozen=True)
class Entry:
    """One built-in task: its data, the net it has by default, and how each net is trained where that differs from `plan`."""

    title: str
    kind: str
    source: Source
    model: str
    plan: FitPlan
    plans: Mapping[str, FitPlan] = field(default_factory=dict)
    length: int = 0
    valid: float = 0.2
    note: str = ""


_IMAGES = FitPlan(epochs=3, optimizer="adamw", lr=3e-3, schedule="cosine", weight_decay=1e-2, batch_size=128, warmup=0.1)
_TEXT = FitPlan(epochs=4, optimizer="adamw", lr=2e-3, schedule="linear", weight_decay=1e-2, batch_size=64, warmup=0.1)
_BERT = {"bert": replace(_TEXT, epochs=5, lr=5e-4)}
_SERIES = FitPlan(epochs=60, optimizer="adamw", lr=3e-3, schedule="cosine", weight_decay=1e-2, batch_size=16, warmup=0.1)


def _series(title: str, file: str, epochs: int = 60) -> Entry:
    name = f"timeseries/{file}.npz"
    return Entry(title, "series", Source((name,), sources.arrays(name)), "cnn1d", replace(_SERIES, epochs=epochs), note="UCR/UEA archive")


TASKS: dict[str, Entry] = {
    "digits": Entry(
        "scikit-learn's handwritten digits, 8×8", "image", Source((), sources.digits), "resnet8", replace(_IMAGES, epochs=12, batch_size=64)
    ),
    "mnist": Entry(
        "MNIST handwritten digits, 28×28",
        "image",
        Source(("mnist.npz",), sources.arrays("mnist.npz"), ("ylecun/mnist", "image", "label")),
        "lenet5",
        _IMAGES,
        valid=1 / 12,
    ),
    "fashion-mnist": Entry(
        "Fashion-MNIST (restored), 28×28",
        "image",
        Source(("fashion_mnist.npz",), sources.arrays("fashion_mnist.npz"), ("zalando-datasets/fashion_mnist", "image", "label")),
        "resnet8",
        _IMAGES,
        {"resnet20": replace(_IMAGES, epochs=5), "resnet56": replace(_IMAGES, epochs=5)},
        valid=1 / 12,
        note="Fashion-MNIST (restored): 87 % of the pixels are exact, the rest off by one gray level of 255; the hub's copy is the original",
    ),
    "sst2": Entry(
        "SST-2, sentiment of whole sentences",
        "text",
        Source(("sst2/train.tsv", "sst2/dev.tsv", "sst2/test.tsv"), sources.sst2, ("SetFit/sst2", "text", "label")),
        "lstm",
        _TEXT,
        _BERT,
        length=64,
    ),
    "trec": Entry(
        "TREC-6, kinds of questions",
        "text",
        Source(("trec/train.txt", "trec/test.txt"), sources.trec, ("SetFit/TREC-QC", "text", "label_coarse")),
        "lstm",
        _TEXT,
        _BERT,
        length=32,
        valid=0.1,
    ),
    "gunpoint": _series("GunPoint, motions of a hand", "GunPoint"),
    "italy-power-demand": _series("ItalyPowerDemand, season of a day's demand", "ItalyPowerDemand"),
    "osuleaf": _series("OSULeaf, outlines of leaves", "OSULeaf", epochs=80),
    "basic-motions": _series("BasicMotions, six sensors on a wrist", "BasicMotions", epochs=40),
    "japanese-vowels": _series("JapaneseVowels, nine speakers", "JapaneseVowels", epochs=40),
}
_VOCABULARY = 8000


def names() -> list[str]:
    """List the built-in tasks."""
    return list(TASKS)


def describe(data: str | Path | None = None) -> list[dict[str, Any]]:
    """Describe each built-in task: title, kind, whether its data is at hand (`ready`, `why` not), its models (the default first) and its note."""
    folder = sources.folder_of(data)
    rows = []
    for name, entry in TASKS.items():
        why = sources.missing(entry.source, folder)
        others = [model for model in models.models_for(entry.kind) if model != entry.model]
        rows.append(
            {
                "name": name,
                "title": entry.title,
                "kind": entry.kind,
                "ready": why is None,
                "why": why or "",
                "hub": entry.source.hub[0] if entry.source.hub else "",
                "models": [entry.model, *others],
                "note": entry.note,
            }
        )
    return rows


@typed()
def load(ref: str, data: str | Path | None = None, seed: int = 0) -> Task:
    """Load a task by its reference.

    Args:
        ref: a built-in name (``digits``), a name with another net (``digits@lenet5``), or ``module:attribute``; the attribute is a Task or a function that
            returns one. Modules are looked for in the working directory first. Or an ONNX file.
        data: folder of the built-in tasks' data; by default `LACONIC_DATA`. Of an ONNX file, the task that has the data, by its reference.
        seed: of the split and of the untrained net's weights.

    Raises:
        BadInput: there is no such task, model or data.
    """
    if seed < 0:
        raise BadInput(f"the seed {seed} must be 0 or more")
    if Path(ref).suffix == onnx_in.SUFFIX:
        task = _of_file(ref, data, seed)
    elif ":" in ref:
        task = _users(ref)
    else:
        name, _, model = ref.partition("@")
        if name not in TASKS:
            module = name.removesuffix(".py")
            own = f"{module}:FUNCTION, the function in {module}.py that makes it" if Path(f"{module}.py").exists() else "module:attribute"
            raise BadInput(f"'{name}' is not a built-in task." + nearest(name, TASKS) + f" Your own is given as {own}.")
        task = _built_in(name, TASKS[name], model or TASKS[name].model, data, seed)
    task.ref, task.data_dir = ref, None if data is None else str(data)
    return task


def _of_file(ref: str, data: str | Path | None, seed: int) -> Task:
    """Return a task with the model of an ONNX file and the rest of another task, which `data` names."""
    if data is None or Path(data).is_dir():
        raise BadInput(
            f"{ref} is a model without data. Name the task whose data, loss and metric it has: --data module:attribute, or a built-in name, e.g. --data digits"
        )
    task = load(str(data), seed=seed)
    return replace(task, model=onnx_in.read_onnx(ref, task.dynamic_batch), plan=None, name=Path(ref).stem)


def attribute(ref: str) -> Any:
    """Import ``module:attribute`` and return the attribute. Modules are looked for in the working directory first.

    Raises:
        BadInput: there is no such module or attribute.
    """
    module_name, _, path = ref.partition(":")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        missing = f"there is no module '{module_name}' in {here} or among the installed packages"
        if error.name is None or not (module_name == error.name or module_name.startswith(f"{error.name}.")):
            missing = f"the module '{module_name}' needs '{error.name}', which is not installed"
        raise BadInput(f"'{ref}': {missing}") from error
    target: Any = module
    for part in path.split("."):
        if part not in dir(target):
            raise BadInput(f"'{ref}': {module_name} has no '{part}'." + nearest(part, [n for n in dir(target) if not n.startswith("_")]))
        target = getattr(target, part)
    return target


def _users(ref: str) -> Task:
    target = attribute(ref)
    task = target() if callable(target) and not isinstance(target, Task) else target
    if not isinstance(task, Task):
        raise BadInput(f"'{ref}' must be a laconic.Task or a function that returns one; it is {type(task).__name__}")
    return task


def _built_in(name: str, entry: Entry, model: str, data: str | Path | None, seed: int) -> Task:
    try:
        models.check_name(model, entry.kind)
    except BadInput as error:
        raise BadInput(f"the task '{name}' has no such model: {error}") from None
    raw = sources.read(name, entry.source, data)
    with reading(f"the data of '{name}'", f"data of {entry.kind}s", "Fetch it again."):
        parts, shape, spelt = _prepared(raw, entry)
    plan = entry.plans.get(model, entry.plan)
    return Task(
        model=lambda: models.build(model, shape, seed),
        train=parts[0],
        valid=parts[1],
        test=parts[2],
        loss=cross_entropy,
        metric="accuracy",
        name=name if model == entry.model else f"{name}@{model}",
        batch_size=64,
        plan=replace(plan, seed=seed),
        classes=shape.classes,
        description=f"{entry.title}; {model}, trained on the spot",
        dataset_note=entry.note,
        words=spelt,
        nets=lambda name: models.build(name, shape, seed),
    )


def _prepared(raw: Raw, entry: Entry) -> Prepared:
    """Bring raw data to what a model takes; a part of the train data is set aside as valid data where there is none."""
    if raw.valid is None:
        train, valid = split_indices(raw.train[1], (1 - entry.valid, entry.valid), seed=2026)
        raw = Raw(_rows(raw.train, train), raw.test, _rows(raw.train, valid))
    return _PREPARE[entry.kind](raw, entry)


def cross_entropy(outputs: Any, target: Tensor) -> Tensor:
    """Compute the cross entropy of outputs of any form that holds logits."""
    return F.cross_entropy(default_logits(outputs), target)


def _rows(part: tuple[Any, np.ndarray], index: np.ndarray) -> tuple[Any, np.ndarray]:
    inputs, target = part
    return (inputs[index] if isinstance(inputs, np.ndarray) else [inputs[i] for i in index]), target[index]


Parts = tuple[ArrayDataset, ArrayDataset, ArrayDataset | None]
Prepared = tuple[Parts, DataShape, tuple[str, ...] | None]  # the last: the words of text, by id


def _images(raw: Raw, entry: Entry) -> Prepared:
    """Bring gray or color bytes to float32 (n, channels, height, width), with mean 0 and deviation 1 over the training images."""

    def layout(images: np.ndarray) -> np.ndarray:
        return images[:, None] if images.ndim == 3 else images.transpose(0, 3, 1, 2)

    mean, deviation = float(raw.train[0].mean()), float(raw.train[0].std())
    parts = _each(raw, lambda images: (layout(images).astype(np.float32) - mean) / deviation)
    return parts, DataShape("image", tuple(parts[0][0][0].shape), _classes(raw)), None


def _steps(raw: Raw, entry: Entry) -> Prepared:
    """Bring series (n, channels, length) to float32, each channel with mean 0 and deviation 1 over the training series."""
    train = raw.train[0].astype(np.float64)
    mean, deviation = train.mean((0, 2), keepdims=True), train.std((0, 2), keepdims=True) + 1e-8
    parts = _each(raw, lambda series: ((series - mean) / deviation).astype(np.float32))
    return parts, DataShape("series", tuple(parts[0][0][0].shape), _classes(raw)), None


def _texts(raw: Raw, entry: Entry) -> Prepared:
    """Encode sentences as ids and masks (n, length) over the commonest words of the training sentences."""
    vocabulary = Vocabulary(raw.train[0], _VOCABULARY)
    parts = _each(raw, lambda texts: vocabulary.encode(texts, entry.length))
    return parts, DataShape("text", (entry.length,), _classes(raw), len(vocabulary)), vocabulary.words


_PREPARE: dict[str, Callable[[Raw, Entry], Prepared]] = {"image": _images, "series": _steps, "text": _texts}


def _each(raw: Raw, prepare: Callable[[Any], Any]) -> Parts:
    assert raw.valid is not None
    train, valid = (ArrayDataset(prepare(inputs), target) for inputs, target in (raw.train, raw.valid))
    return train, valid, None if raw.test is None else ArrayDataset(prepare(raw.test[0]), raw.test[1])


def _classes(raw: Raw) -> int:
    return int(raw.train[1].max()) + 1
