from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from laconic.core.errors import BadInput
from laconic.core.plan import FitPlan
from laconic.core.task import Task
from laconic.tasks import metrics
from laconic.tasks.check import check_task
from laconic.tasks.data import ArrayDataset


def data(n: int = 20, width: int = 4, classes: int = 3) -> ArrayDataset:
    return ArrayDataset(np.random.default_rng(0).standard_normal((n, width)).astype(np.float32), np.arange(n) % classes)


def task(**changes: Any) -> Task:
    whole = Task(model=nn.Linear(4, 3), train=data(), valid=data(), test=data(), loss=F.cross_entropy, name="t")
    return dataclasses.replace(whole, **changes)


class Unsized(torch.utils.data.IterableDataset):  # type: ignore[type-arg]
    def __iter__(self) -> Any:
        yield torch.zeros(4), 0


def test_a_sound_task_passes_and_nothing_is_changed() -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3)).train()
    sound = task(model=model)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    random = torch.get_rng_state()
    check_task(sound)
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"metric": "acuracy"}, "metric: 'acuracy' is not a metric. Did you mean 'accuracy'"),
        ({"train": None, "plan": FitPlan()}, "plan: a plan of training is given, but the task has no train data"),
        ({"loss": None, "plan": FitPlan()}, "has no a loss|has no loss"),
        ({"valid": None}, "valid: NoneType has no length"),
        ({"valid": Unsized()}, "valid: Unsized has no length; give a map-style dataset"),
        ({"test": data(0)}, "test: the dataset is empty"),
        ({"train": data(width=5)}, r"train: one example has shape \(5,\) float32; one of the valid data has shape \(4,\) float32"),
        (
            {"valid": data(width=7), "train": None, "test": None},
            r"model: it cannot answer the first batch of the valid data \(shape \(7,\) float32\): RuntimeError",
        ),
        ({"valid": data(classes=5)}, "valid: a target is 4; the model knows the classes 0 to 2"),
        ({"test": data(classes=4)}, "test: a target is 3; the model knows the classes 0 to 2"),
        ({"test": data(classes=5)}, "test: a target is 4; the model knows the classes 0 to 2"),
        ({"split": lambda batch: batch[2]}, "valid: no batch can be made of it: IndexError"),
        ({"model": lambda: nn.Linear("x", 3)}, "model: it cannot be made: TypeError"),  # type: ignore[arg-type]
        ({"model": nn.Sequential(nn.Linear(4, 3), nn.Flatten(0))}, "60 answers to 20 targets"),
        ({"metric": "mse"}, "metric: 'mse' cannot be computed from logits"),
        ({"loss": lambda out, target: out}, r"loss: it must return a scalar tensor; it returns \(20, 3\)"),
        ({"loss": lambda out, target: out @ out}, "loss: it cannot be computed: RuntimeError"),
    ],
)
def test_a_mistake_is_told(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(BadInput, match=said):
        check_task(task(**changes))


def test_all_mistakes_are_told_at_once() -> None:
    with pytest.raises(BadInput, match="the task 't' has 3 mistakes:") as caught:
        check_task(task(metric="acuracy", train=data(width=5), test=data(0)))
    assert [line.split(":")[0].strip() for line in str(caught.value).splitlines()[1:]] == ["metric", "test", "train"]


def rows(inputs: Any, target: Any) -> torch.utils.data.TensorDataset:
    return torch.utils.data.TensorDataset(torch.as_tensor(inputs), torch.as_tensor(target))


class Tokens(nn.Module):
    """Classes (B, T, 9) of token ids (B, T)."""

    def __init__(self) -> None:
        super().__init__()
        self.e = nn.Embedding(50, 9)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.e(ids)


class Texts(torch.utils.data.Dataset[Any]):
    """Texts of 3 to 8 tokens, short ones first, with a tag of each."""

    def __len__(self) -> int:
        return 40

    def __getitem__(self, index: int) -> Any:
        ids = torch.arange(3 + index // 8) + index % 20
        return ids, ids % 9


def padded(value: int) -> Any:
    def collate(items: list[Any]) -> Any:
        pad = nn.utils.rnn.pad_sequence
        return pad([ids for ids, _ in items], batch_first=True), pad([tags for _, tags in items], batch_first=True, padding_value=value)

    return collate


def texts(value: int, **changes: Any) -> Task:
    return Task(Tokens(), None, Texts(), collate=padded(value), batch_size=8, name="t", dynamic={"ids": {1: "length"}}, **changes)


@pytest.mark.parametrize(("value", "changes"), [(-100, {}), (-1, {"ignore": -1}), (0, {"ignore": 0}), (255, {})])
def test_batches_of_different_length_run_where_their_padding_does_not_count(value: int, changes: dict[str, Any]) -> None:
    check_task(texts(value, **changes))


def test_a_length_that_equals_the_number_of_classes_by_chance_is_no_question() -> None:
    class Nine(Texts):
        """Of lengths 9 in the first two batches, 3 and more in the next."""

        def __getitem__(self, index: int) -> Any:
            ids = torch.arange(9 if index < 16 else 3 + index // 8) + index % 20
            return ids, ids % 9

    with pytest.raises(BadInput, match="say which, Task"):
        check_task(dataclasses.replace(texts(-100), valid=Nine()))  # nine is the longest, too

    class Ten(Nine):
        def __getitem__(self, index: int) -> Any:
            return super().__getitem__(index) if index < 36 else (torch.arange(10), torch.arange(10) % 9)

    check_task(dataclasses.replace(texts(-100), valid=Ten()))


def test_padding_that_counts_is_told() -> None:
    with pytest.raises(BadInput, match=r"valid: batches of different length are filled up with 0, which counts .* Task\(ignore=0\)"):
        check_task(texts(0))
    check_task(texts(0, metric=lambda logits, target: float((logits.argmax(-1) == target).float().mean()), direction="max"))


class Sound(nn.Module):
    def forward(self, wave: torch.Tensor) -> torch.Tensor:
        return torch.stack([wave.mean(1), wave.amax(1)], 1)


def test_a_length_that_is_told_to_vary_may_differ() -> None:
    def waves(length: int) -> Any:
        return rows(torch.randn(12, length), torch.arange(12) % 2)

    given = Task(Sound(), waves(30), waves(40), waves(50), name="t")
    with pytest.raises(BadInput, match=r"train: one example has shape \(30,\) .*Task\(dynamic="):
        check_task(given)
    check_task(dataclasses.replace(given, dynamic={"wave": {1: "length"}}))
    check_task(dataclasses.replace(given, dynamic={"wave": {-1: "length"}}))
    with pytest.raises(BadInput, match=r"train: one example has shape \(length,\) float64; .* shape \(length,\) float32"):
        check_task(
            dataclasses.replace(given, train=rows(torch.randn(12, 30).double(), torch.arange(12) % 2), dynamic={"wave": {1: "length"}})
        )


@pytest.mark.parametrize("name", ["valid", "test"])
def test_all_targets_are_looked_at(name: str) -> None:
    late = rows(torch.randn(200, 4), torch.arange(200) % 3)
    late.tensors[1][170] = 7
    with pytest.raises(BadInput, match=f"{name}: a target is 7; the model knows the classes 0 to 2"):
        check_task(task(**{name: late}))


@pytest.mark.parametrize(
    ("metric", "target", "said"),
    [
        ("auroc", torch.zeros(30, dtype=torch.long), "'auroc' is not defined on these targets: every example is of class 0"),
        ("accuracy", torch.full((30,), -100), "'accuracy' is not defined on these targets: every entry"),
    ],
)
@pytest.mark.parametrize("name", ["valid", "test"])
def test_a_metric_without_a_value_is_told_before_any_work(name: str, metric: str, target: torch.Tensor, said: str) -> None:
    with pytest.raises(BadInput, match=f"{name}: {said}"):
        check_task(task(metric=metric, loss=None, **{name: rows(torch.randn(30, 4), target)}))


def test_r2_of_a_constant_is_told() -> None:
    data = rows(torch.randn(30, 4), torch.ones(30, 3))
    with pytest.raises(BadInput, match="valid: 'r2' is not defined on these targets: output 0 of the target is constant"):
        check_task(Task(nn.Linear(4, 3), None, data, metric="r2"))


def test_the_class_a_late_batch_shows_first_is_enough() -> None:
    """The first batch alone would have no AUROC."""
    check_task(task(metric="auroc", train=None, test=None, valid=rows(torch.randn(100, 4), (torch.arange(100) > 90).long())))


def test_whole_numbers_are_classes_of_class_metrics_only() -> None:
    values = rows(torch.randn(30, 4), torch.arange(30))
    wide = Task(nn.Linear(4, 3), None, values, metric=lambda out, y: float((out - y[:, None]).abs().mean()), direction="min", name="t")
    check_task(wide)
    check_task(Task(nn.Linear(4, 1), values, values, loss=lambda out, y: F.mse_loss(out[:, 0], y.float()), metric="mae"))
    with pytest.raises(BadInput, match="valid: a target is 29"):
        check_task(dataclasses.replace(wide, metric="accuracy", direction=None))


@pytest.mark.parametrize(
    ("form", "collate"),
    [
        (lambda y: (y, y * 2), None),
        (lambda y: {"a": y, "b": str(int(y))}, None),
        (lambda y: str(int(y)), None),
        (lambda y: {"boxes": torch.zeros(int(y), 4)}, lambda items: (torch.stack([x for x, _ in items]), [y for _, y in items])),
        (lambda y: torch.zeros(int(y), 4), lambda items: (torch.stack([x for x, _ in items]), [y for _, y in items])),
    ],
    ids=["tuple", "dict", "strings", "list of dicts", "list of tensors"],
)
def test_targets_may_be_trees_for_metrics_of_ones_own(form: Any, collate: Any) -> None:
    seen: list[Any] = []

    class Trees(torch.utils.data.Dataset[Any]):
        def __len__(self) -> int:
            return 20

        def __getitem__(self, index: int) -> Any:
            return torch.ones(4) * index, form(torch.tensor(index % 3))

    def own(logits: torch.Tensor, target: Any) -> float:
        seen.append(target)
        return 1.0

    check_task(Task(nn.Linear(4, 3), Trees(), Trees(), metric=own, direction="max", collate=collate, loss=lambda out, y: out.sum()))
    assert len(seen) == 1
    with pytest.raises(BadInput, match="metric: 'accuracy' cannot be computed .* looks at one tensor of targets; .* give a function"):
        check_task(Task(nn.Linear(4, 3), Trees(), Trees(), collate=collate))


def test_targets_of_other_numbers_are_told() -> None:
    def collate(items: list[Any]) -> Any:
        return torch.stack([x for x, _ in items]), {"boxes": torch.zeros(33, 5), "classes": torch.zeros(len(items))}

    with pytest.raises(BadInput, match="valid: the parts of a target hold different numbers of examples, in a batch of 20"):
        check_task(Task(nn.Linear(4, 3), None, data(), metric=lambda out, y: 1.0, direction="max", collate=collate))


def test_a_score_by_example_must_average_to_the_metric(monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = dataclasses.replace(metrics.METRICS["accuracy"], name="odd", per_example=lambda logits, target: torch.zeros(len(logits)))
    monkeypatch.setitem(metrics.METRICS, "odd", wrong)
    with pytest.raises(BadInput, match="metric: 'odd' is .*, the mean of its scores by example 0; leave per_example out"):
        check_task(task(metric="odd"))


def test_one_target_of_two_classes_axes_is_asked_about() -> None:
    square = Task(nn.Conv1d(4, 4, 1), None, rows(torch.randn(10, 4, 4), torch.zeros(10, 4, dtype=torch.long)))
    with pytest.raises(BadInput, match=r"say which, Task\(class_axis=1\)"):
        check_task(square)
    check_task(dataclasses.replace(square, class_axis=1))
