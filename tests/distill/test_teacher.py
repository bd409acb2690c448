from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, default_collate

from laconic.core.capture import capture
from laconic.core.errors import BadInput, CorruptFile
from laconic.core.plan import FitPlan
from laconic.distill.distillation import teach
from laconic.distill.losses import SOFT
from laconic.distill.teacher import Taught, answers, evaluating, fingerprint, mean_answers
from laconic.tasks.data import ArrayDataset

X = np.random.default_rng(0).standard_normal((10, 4)).astype(np.float32)
DATA = ArrayDataset(X, np.arange(10) % 3)


class Counting(nn.Module):
    """A classifier that counts the examples it is asked about."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.drop = nn.Linear(4, 3), nn.Dropout(0.5)
        self.asked = 0

    def forward(self, x: Tensor) -> Tensor:
        self.asked += len(x)
        return self.drop(self.linear(x))


def test_answers_are_those_of_evaluation_in_the_datas_order() -> None:
    teacher = Counting()
    found = answers(teacher, DATA, batch_size=4)
    torch.testing.assert_close(found, teacher.linear(torch.from_numpy(X)).detach())
    assert teacher.training
    assert teacher.drop.training


def test_a_teacher_is_asked_once(tmp_path: Path) -> None:
    teacher = Counting()
    first = answers(teacher, DATA, folder=tmp_path / "cache")
    assert teacher.asked == 10
    again = answers(teacher, DATA, folder=tmp_path / "cache", batch_size=3)
    assert teacher.asked == 10
    assert torch.equal(first, again)
    assert len(list((tmp_path / "cache").iterdir())) == 1


@pytest.mark.parametrize("change", ["weights", "inputs", "order", "more"])
def test_what_is_new_is_asked_anew(change: str, tmp_path: Path) -> None:
    teacher, data = Counting(), DATA
    first = answers(teacher, data, folder=tmp_path)
    if change == "weights":
        teacher.linear.weight.data[0, 0] += 1e-3
    elif change == "inputs":
        x = X.copy()
        x[9, 3] += 1e-3
        data = ArrayDataset(x, np.arange(10) % 3)
    elif change == "order":
        data = ArrayDataset(X[::-1].copy(), np.arange(10) % 3)
    else:
        data = ArrayDataset(np.concatenate([X, X[:1]]), np.arange(11) % 3)
    second = answers(teacher, data, folder=tmp_path)
    assert teacher.asked == 10 + len(second)
    assert first.shape != second.shape or not torch.equal(first, second)
    assert len(list(tmp_path.iterdir())) == 2


def test_other_targets_are_no_other_question(tmp_path: Path) -> None:
    teacher = Counting()
    answers(teacher, DATA, folder=tmp_path)
    answers(teacher, ArrayDataset(X, np.zeros(10, np.int64)), folder=tmp_path)
    assert teacher.asked == 10


def test_a_program_is_known_by_its_fingerprint() -> None:
    program = capture(nn.Linear(4, 3), torch.from_numpy(X[:2]))
    assert fingerprint(program) == program.fingerprint()
    assert fingerprint(nn.Sequential(nn.Linear(4, 3), nn.ReLU())) != fingerprint(nn.Sequential(nn.Linear(4, 3), nn.GELU()))


@pytest.mark.parametrize("harm", ["truncated", "altered", "empty"])
def test_a_file_that_is_not_whole_is_named(harm: str, tmp_path: Path) -> None:
    teacher = Counting()
    answers(teacher, DATA, folder=tmp_path)
    (path,) = tmp_path.iterdir()
    content = bytearray(path.read_bytes())
    content[-1] ^= 64
    path.write_bytes({"truncated": path.read_bytes()[:-9], "altered": bytes(content), "empty": b""}[harm])
    with pytest.raises(CorruptFile, match=rf"{path.name}.*Delete it to have the teacher asked again"):
        answers(teacher, DATA, folder=tmp_path)


def test_answers_that_are_not_finite_name_the_example() -> None:
    x = X.copy()
    x[7, 0] = np.nan
    with pytest.raises(BadInput, match="answer to example 7 is not finite"):
        answers(Counting(), ArrayDataset(x, np.zeros(10, np.int64)), batch_size=4)
    with pytest.raises(BadInput, match="answer to example 7 is not finite"):  # one number for each example
        answers(nn.Sequential(nn.Linear(X.shape[1], 1), nn.Flatten(0)), ArrayDataset(x, np.zeros(10, np.int64)), batch_size=4)
    with pytest.raises(BadInput, match="data for the teacher is empty"):
        answers(Counting(), ArrayDataset(X[:0], np.zeros(0, np.int64)))


def test_a_student_learns_from_kept_answers_without_the_teacher() -> None:
    teacher, student = Counting(), nn.Linear(4, 3)
    kept = answers(teacher, DATA)
    asked = teacher.asked
    distillation = teach(student, teacher, FitPlan(distill=0.5), loss=F.cross_entropy, cached=True)
    distillation.module.train()
    for inputs, target in DataLoader(Taught(DATA, kept), 5):
        rows = target["teacher"]
        wanted = 0.5 * F.cross_entropy(student(inputs), target["target"]) + 0.5 * SOFT["soft_targets"].loss(
            student(inputs), rows, None, 2.0
        )
        torch.testing.assert_close(distillation.loss(distillation.module(inputs), target), wanted)
    assert teacher.asked == asked
    distillation.module.eval()
    torch.testing.assert_close(distillation.loss(distillation.module(inputs), target), F.cross_entropy(student(inputs), target["target"]))
    distillation.module.train()
    with pytest.raises(BadInput, match="train on teacher.Taught"):
        distillation.loss(distillation.module(inputs), target["target"])


def test_a_tasks_own_collate_still_sees_its_items() -> None:
    data: Any = [{"x": torch.from_numpy(row), "label": index} for index, row in enumerate(X)]

    def collate(items: list[dict[str, Any]]) -> Any:
        batch = default_collate(items)
        return {"x": batch["x"] * 2, "label": batch["label"]}

    taught = Taught(data, torch.arange(30.0).view(10, 3), collate=collate)
    inputs, target = next(iter(DataLoader(taught, 4, collate_fn=taught.collate)))
    assert torch.equal(inputs["x"], 2 * torch.from_numpy(X[:4]))
    assert torch.equal(target["target"], torch.arange(4))
    assert torch.equal(target["teacher"], torch.arange(12.0).view(4, 3))
    plain = Taught(DATA, torch.arange(30.0).view(10, 3))
    inputs, target = next(iter(DataLoader(plain, 4, collate_fn=plain.collate)))
    assert inputs.shape == (4, 4)
    assert target["teacher"].shape == (4, 3)


def test_too_few_answers_are_told() -> None:
    with pytest.raises(BadInput, match="9 answers of the teacher for 10 examples"):
        Taught(DATA, torch.zeros(9, 3))


def test_several_teachers_as_one() -> None:
    several = [torch.randn(5, 3), torch.randn(5, 3)]
    wanted = (several[0].softmax(-1) + several[1].softmax(-1)) / 2
    torch.testing.assert_close(mean_answers(several).softmax(-1), wanted)
    torch.testing.assert_close(mean_answers(several).exp(), wanted)


def test_modes_are_given_back_one_by_one() -> None:
    net = nn.Sequential(nn.Dropout(), nn.BatchNorm1d(4)).train()
    net[1].eval()
    with evaluating(net):
        assert not any(module.training for module in net.modules())
        assert not torch.is_grad_enabled()
    assert [module.training for module in net.modules()] == [True, True, False]
