"""Label smoothing against PyTorch's own, for every form of answers and targets."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from laconic.core.errors import BadInput
from laconic.core.smoothing import smoothed
from laconic.core.task import default_logits

GENERATOR = torch.Generator().manual_seed(0)


def answers(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=GENERATOR)


def classes(*shape: int) -> Tensor:
    return torch.randint(0, 4, shape, generator=GENERATOR)


def with_ignored(target: Tensor, label: int) -> Tensor:
    found = target.clone()
    found.flatten()[::3] = label
    return found


CASES: dict[str, tuple[Tensor, Tensor, int]] = {
    "one label": (answers(6, 4), classes(6), -100),
    "ignored": (answers(6, 4), with_ignored(classes(6), -100), -100),
    "of positions": (answers(5, 4, 7), classes(5, 7), -100),
    "of pixels, void": (answers(2, 4, 3, 5), with_ignored(classes(2, 3, 5), 255), 255),
    "probabilities": (answers(6, 4), answers(6, 4).softmax(1), -100),
}


@pytest.mark.parametrize(("logits", "target", "ignored"), CASES.values(), ids=CASES)
@pytest.mark.parametrize("share", [0.1, 0.35])
def test_it_is_pytorchs(logits: Tensor, target: Tensor, ignored: int, share: float) -> None:
    def plain(outputs: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(outputs, y, ignore_index=ignored)

    found = smoothed(plain, share, default_logits)(logits, target)
    torch.testing.assert_close(found, F.cross_entropy(logits, target, ignore_index=ignored, label_smoothing=share))


def test_classes_may_come_last() -> None:
    logits, target = answers(5, 7, 4), with_ignored(classes(5, 7), -100)

    def plain(outputs: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(outputs.flatten(0, 1), y.flatten())

    found = smoothed(plain, 0.2, default_logits)(logits, target)
    torch.testing.assert_close(found, F.cross_entropy(logits.flatten(0, 1), target.flatten(), label_smoothing=0.2))


def test_targets_in_a_column_are_labels() -> None:
    logits, target = answers(6, 4), classes(6, 1)
    found = smoothed(lambda out, y: F.cross_entropy(out, y[:, 0]), 0.2, default_logits)(logits, target)
    torch.testing.assert_close(found, F.cross_entropy(logits, target[:, 0], label_smoothing=0.2))


NO_CLASSES = {
    "regression": (answers(6, 1), answers(6, 1)),
    "several labels": (answers(6, 4), torch.tensor([[1.0, 1.0, 0.0, 0.0]] * 6)),
    "another number": (answers(6, 4), classes(5)),
}


@pytest.mark.parametrize(("logits", "target"), NO_CLASSES.values(), ids=NO_CLASSES)
def test_what_has_no_classes_is_not_smoothed(logits: Tensor, target: Tensor) -> None:
    loss = smoothed(lambda out, y: out.mean(), 0.2, default_logits)
    with pytest.raises(BadInput, match="label_smoothing is for answers over classes"):
        loss(logits, target)


def test_without_a_share_the_loss_is_itself() -> None:
    assert smoothed(F.cross_entropy, 0.0, default_logits) is F.cross_entropy
