"""Classes without an example, in every shape in which classes come."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from laconic.train.classes import Classes

ALONE = SimpleNamespace(device="cpu", reduce=lambda counts, how: counts)
ZEROS = torch.zeros


@pytest.mark.parametrize(
    ("logits", "target", "counts"),
    [
        (ZEROS(4, 3), torch.tensor([0, 2, 2, 7]), [1, 0, 2]),
        (ZEROS(2, 5, 3), torch.tensor([[0, 0, 2, 2, -100]] * 2), [4, 0, 4]),
        (ZEROS(2, 3, 5), torch.tensor([[0, 0, 2, 2, -100]] * 2), [4, 0, 4]),
        (ZEROS(2, 3, 2, 2), torch.tensor([[[0, 0], [1, 255]]] * 2), [4, 2, 0]),
        (ZEROS(3, 3), torch.tensor([[0.0, 1, 0], [0, 1, 1], [0, 0, 0]]), [0, 2, 1]),
        (ZEROS(3, 3), torch.tensor([[0, 1, 0], [1, 0, 0], [1, 0, 0]]), [2, 1, 0]),
        (ZEROS(4, 3), {"target": torch.tensor([1, 1, 1, 0])}, [1, 3, 0]),
    ],
)
def test_examples_of_each_class_are_counted(logits: torch.Tensor, target: Any, counts: list[int]) -> None:
    found = Classes()
    for _ in range(2):
        found.add(logits, target)
    assert found.counts is not None
    assert found.counts.tolist() == [2 * count for count in counts]
    missing = found.missing(ALONE)
    assert (missing is None) == all(counts)
    assert missing is None or missing.endswith(": " + ", ".join(str(k) for k, count in enumerate(counts) if not count))


@pytest.mark.parametrize(
    ("logits", "target"),
    [
        (ZEROS(4, 3), torch.rand(4, 3)),
        (ZEROS(4, 1), torch.tensor([0, 1, 1, 0])),
        (ZEROS(4, 3), [1, 2]),
        (ZEROS(4, 3), {"boxes": ZEROS(4)}),
        (ZEROS(2, 3, 3), torch.zeros(2, 3, dtype=torch.long)),
        (object(), torch.tensor([1])),
    ],
)
def test_what_is_no_classification_is_not_counted(logits: Any, target: Any) -> None:
    found = Classes()
    found.add(logits, target)
    assert found.counts is None
    assert found.missing(ALONE) is None
