"""Which value answers which question: shapes, ignored entries, and what is refused."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from laconic.core.answers import OutOfRange, class_axis, read_answers, read_values, stand_in
from laconic.core.errors import BadInput

G = torch.Generator().manual_seed(0)


def numbers(*shape: int, high: int = 5) -> Tensor:
    return torch.randint(0, high, shape, generator=G)


@pytest.mark.parametrize(
    ("logits", "target", "axis"),
    [
        ((6, 5), (6,), 1),
        ((6, 5, 7), (6, 7), 1),
        ((6, 7, 5), (6, 7), 2),
        ((6, 5, 4, 3), (6, 4, 3), 1),
        ((6, 4, 3, 5), (6, 4, 3), 3),
        ((6, 5), (6, 1), 1),
        ((6, 7, 5), (6, 7, 1), 2),
        ((6, 5, 4, 3), (6, 1, 4, 3), 1),
    ],
)
def test_classes_are_found_by_shape(logits: tuple[int, ...], target: tuple[int, ...], axis: int) -> None:
    values, wanted = torch.randn(logits, generator=G), numbers(*target)
    found = read_answers(values, wanted)
    positions = wanted.numel() // 6
    assert (found.form, found.axis) == ("classes", axis)
    assert torch.equal(found.scores, values.movedim(axis, -1).reshape(6, positions, 5))
    assert torch.equal(found.target, wanted.reshape(6, positions))
    assert read_answers(stand_in(found, values, wanted), wanted).scores.shape == found.scores.shape


@pytest.mark.parametrize("dtype", [torch.float32, torch.int64, torch.bool, torch.uint8, torch.float16])
@pytest.mark.parametrize(
    ("logits", "target", "answers"),
    [
        ((6,), (6,), (6, 1, 1)),
        ((6, 1), (6,), (6, 1, 1)),
        ((6,), (6, 1), (6, 1, 1)),
        ((6, 1), (6, 1), (6, 1, 1)),
        ((6, 4), (6, 4), (6, 1, 4)),
        ((6, 1, 3, 2), (6, 3, 2), (6, 6, 1)),
        ((6, 1, 3, 2), (6, 1, 3, 2), (6, 6, 1)),
        ((6, 4, 3, 2), (6, 4, 3, 2), (6, 6, 4)),
        ((6, 7, 1), (6, 7), (6, 7, 1)),
    ],
)
def test_labels_are_found_by_shape(logits: tuple[int, ...], target: tuple[int, ...], answers: tuple[int, ...], dtype: torch.dtype) -> None:
    wanted = numbers(*target, high=2).to(dtype)
    found = read_answers(torch.randn(logits, generator=G), wanted)
    assert found.form == "labels"
    assert tuple(found.scores.shape) == tuple(found.target.shape) == answers
    assert int(found.target.sum()) == int(wanted.long().sum())
    again = read_answers(stand_in(found, torch.zeros(logits), wanted), wanted)
    assert torch.equal(again.target, found.target)


@pytest.mark.parametrize(("logits", "target"), [((6, 4, 4), (6, 4)), ((6, 3, 3, 3), (6, 3, 3))])
def test_two_axes_that_fit_are_asked_about(logits: tuple[int, ...], target: tuple[int, ...]) -> None:
    values, wanted = torch.randn(logits, generator=G), numbers(*target, high=3)
    with pytest.raises(BadInput, match=r"dimension 1 or .: say which, Task\(class_axis=1\)"):
        read_answers(values, wanted)
    assert torch.equal(read_answers(values, wanted, axis=1).predicted.reshape(target), values.argmax(1))
    assert torch.equal(read_answers(values, wanted, axis=-1).predicted.reshape(target), values.argmax(-1))


def test_an_axis_in_the_middle_can_be_told() -> None:
    values, wanted = torch.randn(6, 2, 5, 3, generator=G), numbers(6, 2, 3)
    assert class_axis(values, wanted) is None
    assert read_answers(values, wanted, axis=2).axis == 2


@pytest.mark.parametrize("dtype", [torch.float32, torch.int64])
def test_one_hot_and_soft_targets_mean_their_largest(dtype: torch.dtype) -> None:
    classes = numbers(40)
    hard = torch.nn.functional.one_hot(classes, 5).to(dtype)
    soft = hard.double() * 0.9 + 0.02
    for target in (hard, soft):
        found = read_answers(torch.randn(40, 5, generator=G), target)
        assert (found.form, found.target.flatten().tolist()) == ("classes", classes.tolist())


@pytest.mark.parametrize(("ignore", "marked"), [(None, -100), (-1.0, -1), (255.0, 255), (3.0, 3), (3.0, -100)])
def test_ignored_entries_do_not_count(ignore: float | None, marked: int) -> None:
    target = numbers(6, 7, high=3)
    target[2:4, 1] = marked
    found = read_answers(torch.randn(6, 5, 7, generator=G), target, ignore)
    assert torch.equal(found.known, target != marked)


def test_ignored_labels_do_not_count() -> None:
    target = numbers(6, 4, high=2).float()
    target[1] = -1
    assert read_answers(torch.zeros(6, 4), target, -1.0).known.sum() == 20
    target[1] = float("nan")
    assert read_answers(torch.zeros(6, 4), target, float("nan")).known.sum() == 20


def test_255_is_void_only_where_it_can_be_nothing_else() -> None:
    logits, target = torch.zeros(6, 5, 3, 3), numbers(6, 3, 3, high=2)
    target[0] = 255
    assert read_answers(logits, target).known.sum() == 45
    assert read_answers(logits, target.to(torch.uint8)).known.sum() == 45
    with pytest.raises(OutOfRange, match=r"a target is 255; the model knows the classes 0 to 1. If 255 marks .* say Task\(ignore=255\)"):
        read_answers(torch.zeros(6, 2, 3, 3), (target > 0) * 255)  # a mask of 0 and 255
    target[1] = 7
    with pytest.raises(OutOfRange, match="a target is 255"):
        read_answers(logits, target)
    with pytest.raises(OutOfRange, match="a target is 255"):
        read_answers(torch.zeros(6, 5), torch.tensor([0, 1, 2, 3, 4, 255]))


@pytest.mark.parametrize(
    ("logits", "target", "said"),
    [
        (torch.zeros(6, 3), torch.tensor([0, 1, 2, 3, 0, 0]), "a target is 3; the model knows the classes 0 to 2"),
        (torch.zeros(6, 3), torch.tensor([0, 1, 2, -1, 0, 0]), r"a target is -1; .* Task\(ignore=-1\)"),
        (torch.zeros(6, 3), torch.tensor([0, 1, 2, 0.5, 0, 0]), "must be class numbers; one is 0.5"),
        (torch.zeros(6), torch.tensor([0, 1, 2, 0, 0, 0]), "a target is 2; .* each entry is 0 or 1"),
        (torch.zeros(6, 3), torch.zeros(6, 4), "do not answer a target"),
        (torch.zeros(6, 3), torch.tensor([0, 1, float("nan"), 0, 0, 0]), "not a finite number"),
        (torch.zeros(6, 4, 3), numbers(6, 4, 3, high=2), "may hold their labels in dimension 1 or 2"),
    ],
)
def test_what_cannot_be_read_is_refused(logits: Tensor, target: Tensor, said: str) -> None:
    with pytest.raises(BadInput, match=said):
        read_answers(logits, target)


def test_values_must_have_one_shape() -> None:
    assert read_values(torch.zeros(6, 1), torch.zeros(6)).scores.shape == (6, 1, 1)
    assert read_values(torch.zeros(6, 1, 4), torch.zeros(6, 4)).scores.shape == (6, 1, 4)
    with pytest.raises(BadInput, match=r"outputs \(6, 2, 3\) and target \(6, 3, 2\) must have the same shape"):
        read_values(torch.zeros(6, 2, 3), torch.zeros(6, 3, 2))
    with pytest.raises(BadInput, match="not a finite"):
        read_values(torch.zeros(2), torch.tensor([1.0, float("inf")]))
    assert read_values(torch.zeros(2), torch.tensor([1.0, float("nan")]), float("nan")).known.sum() == 1
