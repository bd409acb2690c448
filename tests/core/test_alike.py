"""Answers that hold the same values."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from laconic.core.alike import alike

ONE = [torch.tensor([1.0, -100.0, float("nan"), float("inf")])]


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        (ONE, [ONE[0] * (1 + 1e-6)], True),
        (ONE, [ONE[0] * (1 + 1e-3)], False),
        (ONE, [ONE[0].numpy()], True),
        (ONE, [torch.nan_to_num(ONE[0])], False),
        (ONE, [ONE[0][None]], False),
        (ONE, [], False),
        ([np.array([100_000, 2])], [np.array([100_000, 2])], True),
        ([np.array([100_000, 2])], [np.array([100_000, 3])], False),
        ([torch.zeros(2)], [torch.full((2,), 1e-12)], True),
        ([torch.ones(2, dtype=torch.bfloat16)], [torch.ones(2, dtype=torch.bfloat16)], True),
        ([torch.ones(1, dtype=torch.complex64)], [torch.full((1,), 1j)], False),
    ],
    ids=["near", "far", "array", "NaN", "shape", "none", "whole", "another whole", "zero", "bfloat16", "complex"],
)  # fmt: skip
def test_values_are_held_against_the_largest(one: list[Any], other: list[Any], expected: bool) -> None:
    assert alike(one, other, 1e-4) is expected
