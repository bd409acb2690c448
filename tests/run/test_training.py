"""`laconic.fit`: the loop, the teacher and what a task knows, together."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import laconic as lc
from laconic.core.errors import BadInput
from laconic.distill.distillation import teach
from laconic.tasks.data import ArrayDataset
from laconic.train.augment import Augmenter

RNG = np.random.default_rng(0)
X = RNG.normal(size=(64, 6)).astype(np.float32)
DATA = ArrayDataset(X, (X[:, 0] > 0).astype(np.int64))
PLAN = lc.FitPlan(epochs=3, optimizer="sgd", lr=0.1, batch_size=16, distill=0.5)


def net(width: int = 8, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, width), nn.ReLU(), nn.Linear(width, 2))


class Counting(nn.Module):
    """A teacher that knows how many examples it was asked."""

    def __init__(self) -> None:
        super().__init__()
        self.net, self.asked = net(16, seed=1), 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.asked += len(x)
        return self.net(x)  # type: ignore[no-any-return]


def task(**more: Any) -> lc.Task:
    return lc.Task(net(), DATA, DATA, loss=F.cross_entropy, **more)


def state(model: nn.Module) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def test_a_task_gives_data_and_loss() -> None:
    one, two = net(), net()
    plan = dataclasses.replace(PLAN, distill=0.0)
    lc.fit(one, plan, task())
    lc.fit(two, plan, train=DATA, loss=F.cross_entropy)
    assert torch.equal(state(one), state(two))


def test_without_data_or_loss() -> None:
    with pytest.raises(BadInput, match="needs train and loss"):
        lc.fit(net(), PLAN)
    with pytest.raises(BadInput, match="needs loss"):
        lc.fit(net(), PLAN, lc.Task(net(), DATA, DATA))


def test_without_a_teacher() -> None:
    with pytest.raises(BadInput, match="there is no teacher"):
        lc.fit(net(), PLAN, task())


@pytest.mark.parametrize("captured", [False, True])
def test_it_equals_a_plain_loop_beside_a_teacher(captured: bool) -> None:
    """The slow twin: soft targets written out, the same order of examples."""
    student, twin, teacher = net(), net(), net(16, seed=1).eval()
    model: nn.Module = lc.capture(student.eval(), torch.from_numpy(X[:2])) if captured else student
    lc.fit(model, dataclasses.replace(PLAN, schedule="constant"), task(), teacher=teacher)
    optimizer = torch.optim.SGD(twin.parameters(), lr=0.1, momentum=0.9)
    for epoch in range(3):
        order = torch.Generator().manual_seed(epoch)
        torch.empty((), dtype=torch.int64).random_(generator=order)
        for rows in torch.randperm(64, generator=order).split(16):
            x, y = torch.from_numpy(X)[rows], DATA.target[rows]
            out = twin(x)
            with torch.no_grad():
                told = teacher(x)
            soft = (F.softmax(told / 2, 1) * (F.log_softmax(told / 2, 1) - F.log_softmax(out / 2, 1))).sum(1).mean() * 4
            loss = 0.5 * F.cross_entropy(out, y) + 0.5 * soft
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    assert torch.allclose(state(model), state(twin), atol=1e-6)


@pytest.mark.parametrize("epochs", [1, 2], ids=["asked each time", "kept answers"])
def test_label_smoothing_beside_a_teacher_leaves_its_weight(epochs: int) -> None:
    """d = 0.5 and s = 0.2: 0.4 of the labels, 0.1 of the even distribution, 0.5 of the teacher."""
    smoothed, twin, teacher = net(), net(), net(16, seed=1).eval()
    plan = dataclasses.replace(PLAN, epochs=epochs, label_smoothing=0.2)
    lc.fit(smoothed, plan, task(), teacher=teacher)
    told = lc.Task(net(), DATA, DATA, loss=lambda out, y: F.cross_entropy(out, y, label_smoothing=0.2))
    lc.fit(twin, dataclasses.replace(plan, label_smoothing=0.0), told, teacher=teacher)
    assert torch.allclose(state(smoothed), state(twin), atol=1e-6)


def test_a_lesson_in_the_loop_is_not_smoothed_twice() -> None:
    one, two, teacher = net(), net(), net(16, seed=1).eval()
    plan = dataclasses.replace(PLAN, epochs=1, label_smoothing=0.2)
    lc.fit(one, plan, task(), teacher=teacher)
    distillation = teach(two, teacher, plan, loss=F.cross_entropy)
    lc.fit(distillation.module, plan, train=DATA, loss=distillation.loss)
    assert torch.equal(state(one), state(two))


def test_label_smoothing_looks_where_the_task_says() -> None:
    """The logits are the second of what the model puts out; the first has other classes."""

    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = net()

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return x, self.net(x)

    one, two = Two(), net()
    plan = dataclasses.replace(PLAN, distill=0.0, label_smoothing=0.2)
    lc.fit(one, plan, lc.Task(one, DATA, DATA, loss=lambda out, y: F.cross_entropy(out[1], y), logits=lambda out: out[1]))
    lc.fit(two, plan, task())
    assert torch.equal(state(one), state(two))


@pytest.mark.parametrize("distill", [0.0, 0.5])
def test_label_smoothing_leaves_out_what_the_task_ignores(distill: float) -> None:
    """Class 0 does not count: PyTorch's smoothing with that index ignored is the reference."""
    plan = dataclasses.replace(PLAN, distill=distill, label_smoothing=0.2)
    one, two, teacher = net(), net(), net(16, seed=1).eval()
    lc.fit(one, plan, lc.Task(net(), DATA, DATA, loss=lambda out, y: F.cross_entropy(out, y, ignore_index=0), ignore=0), teacher=teacher)
    told = lc.Task(net(), DATA, DATA, loss=lambda out, y: F.cross_entropy(out, y, ignore_index=0, label_smoothing=0.2))
    lc.fit(two, dataclasses.replace(plan, label_smoothing=0.0), told, teacher=teacher)
    assert torch.allclose(state(one), state(two), atol=1e-6)


ASKED: dict[str, tuple[dict[str, Any], int]] = {
    "the same inputs every time": ({}, 64),
    "one epoch": ({"epochs": 1}, 64),
    "hints": ({"hints": (lc.Hint("features", "0", "net.0"),)}, 3 * 64),
}


@pytest.mark.parametrize(("options", "asked"), ASKED.values(), ids=ASKED)
def test_a_teacher_is_asked_once_where_that_is_enough(options: dict[str, Any], asked: int) -> None:
    teacher = Counting().eval()
    lc.fit(net(), dataclasses.replace(PLAN, **options), task(), teacher=teacher)
    assert teacher.asked == asked + 2  # two examples for the rehearsal


def test_augmented_inputs_ask_it_every_time() -> None:
    data = ArrayDataset(np.tile(X[:, None, :], (1, 2, 2)), DATA.target.numpy())

    class Series(Counting):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(nn.Flatten(), nn.Linear(24, 2))

    teacher = Series().eval()
    plan = dataclasses.replace(PLAN, augment=(lc.Scaled("jitter"),))
    lc.fit(Series(), plan, train=data, loss=F.cross_entropy, teacher=teacher)
    assert teacher.asked == 3 * 64 + 2


def test_answers_are_kept_in_a_folder(tmp_path: Path) -> None:
    teacher = Counting().eval()
    models = [net(), net()]
    for model in models:
        lc.fit(model, PLAN, task(), teacher=teacher, kept=tmp_path)
    assert teacher.asked == 64 + 4
    assert torch.equal(state(models[0]), state(models[1]))
    assert len(list(tmp_path.iterdir())) == 1


CHANGES: dict[str, Any] = {"distill": 0.9, "temperature": 5.0, "soft": "mse_logits", "hints": (lc.Hint("rkd_distance", "1"),)}


@pytest.mark.parametrize("option", CHANGES)
def test_an_option_of_distillation_changes_the_outcome(option: str) -> None:
    models = [net(), net()]
    for model, plan in zip(models, (PLAN, dataclasses.replace(PLAN, **{option: CHANGES[option]})), strict=True):
        lc.fit(model, plan, task(), teacher=net(16, seed=1).eval())
    assert not torch.equal(state(models[0]), state(models[1]))


def test_several_teachers() -> None:
    one, two = net(), net()
    lc.fit(one, PLAN, task(), teacher=[net(16, seed=1).eval(), net(16, seed=2).eval()])
    lc.fit(two, PLAN, task(), teacher=net(16, seed=1).eval())
    assert not torch.equal(state(one), state(two))


def test_a_teacher_with_other_classes() -> None:
    with pytest.raises(BadInput, match=r"answers \(2, 2\).*teacher 0 \(2, 3\)"):
        lc.fit(net(), PLAN, task(), teacher=nn.Linear(6, 3).eval())


def test_patience_takes_metric_and_direction_from_the_task() -> None:
    seen: list[float] = []

    def error(logits: torch.Tensor, target: torch.Tensor) -> float:
        seen.append(len(seen))
        return float(len(seen))

    plan = dataclasses.replace(PLAN, epochs=6, patience=2, distill=0.0)
    record = lc.fit(net(), plan, task(metric=error, direction="min"))
    assert len(record.epochs) == 3


def test_group_lasso_finds_the_groups_of_a_program() -> None:
    plan = dataclasses.replace(PLAN, distill=0.0, regularize=(lc.Scaled("group_lasso", 0.5),))
    program = lc.capture(net().eval(), torch.from_numpy(X[:2]))
    lc.fit(program, plan, task())
    assert float((program.state_dict()["0.weight"] == 0).all(1).float().mean()) > 0
    with pytest.raises(BadInput, match="capture the model first"):
        lc.fit(net(), plan, task())


class Words(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table, self.head = nn.Embedding(12, 4), nn.Linear(4, 2)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """(B, L) to (B, 2)."""
        return self.head(self.table(ids).mean(1))  # type: ignore[no-any-return]


@pytest.mark.parametrize("make", [Words, lambda: lc.capture(Words().eval(), torch.ones(2, 5, dtype=torch.long))], ids=["module", "program"])
def test_synonyms_are_neighbours_in_the_models_own_embedding(make: Callable[[], nn.Module], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("laconic.run.training._WORDNET", ())
    ids = np.random.default_rng(0).integers(1, 12, (40, 5))
    data = ArrayDataset(ids, ids[:, 0] % 2)
    seen: list[Augmenter] = []
    monkeypatch.setattr("laconic.run.training.Augmenter", lambda *a, **k: seen.append(Augmenter(*a, **k)) or seen[-1])
    plan = lc.FitPlan(epochs=1, augment=(lc.Scaled("synonym", 3.0),))
    lc.fit(make(), plan, train=data, loss=F.cross_entropy)
    assert seen[0].synonyms is not None


def test_an_empty_class_is_told_beside_a_teacher_too() -> None:
    one, teacher = nn.Linear(6, 3), nn.Linear(6, 3).eval()
    record = lc.fit(one, PLAN, task(), teacher=teacher)
    assert record.notes == ("1 of 3 classes have no example in the training data and cannot be learned: 2",)


class Texts(torch.utils.data.Dataset[Any]):
    """Token ids of other lengths in each batch, and a tag of each token."""

    def __len__(self) -> int:
        return 24

    def __getitem__(self, index: int) -> Any:
        ids = torch.arange(2 + index % 7)
        return ids, ids % 3


def padded(items: list[Any]) -> Any:
    pad = nn.utils.rnn.pad_sequence
    return pad([ids for ids, _ in items], batch_first=True), pad([tags for _, tags in items], batch_first=True, padding_value=-100)


@pytest.mark.parametrize("patience", [None, 2])
def test_a_teacher_is_asked_batch_by_batch_where_lengths_differ(patience: int | None) -> None:
    student, teacher = nn.Embedding(10, 3), nn.Embedding(10, 3)
    task = lc.Task(student, Texts(), Texts(), loss=lambda out, y: F.cross_entropy(out.transpose(1, 2), y), collate=padded, batch_size=4)
    before = student.weight.detach().clone()
    record = lc.fit(student, lc.FitPlan(epochs=2, batch_size=4, distill=0.5, patience=patience), task, teacher=teacher)
    assert [epoch.metric is None for epoch in record.epochs] == [patience is None] * 2
    assert not torch.equal(student.weight, before)
