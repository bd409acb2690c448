from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from laconic.core.capture import capture
from laconic.core.example import Sample, generate
from tests.core.models import Tied


@given(st.lists(st.floats(-(2.0**100), 2.0**100, width=32, allow_subnormal=False), min_size=1, max_size=5))
def test_floats_lie_within_twice_the_range_that_was_seen(values: list[float]) -> None:
    seen = torch.tensor(values)
    made = Sample.of(seen).make(0)
    low, high = float(seen.min()), float(seen.max())
    assert made.shape == seen.shape
    assert float(made.min()) >= (2 * low if low < 0 else low / 2)
    assert float(made.max()) <= (2 * high if high > 0 else high / 2)


@given(st.lists(st.integers(-(2**40), 2**40), min_size=1, max_size=5))
def test_whole_numbers_lie_within_the_range_that_was_seen(values: list[int]) -> None:
    seen = torch.tensor(values)
    made = Sample.of(seen).make(0)
    assert made.dtype == seen.dtype
    assert int(seen.min()) <= int(made.min()) <= int(made.max()) <= int(seen.max())


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64, torch.bool, torch.uint8, torch.int32, torch.complex64], ids=str)
def test_types_stay(dtype: torch.dtype) -> None:
    seen = torch.ones(3, 2, dtype=dtype)
    assert generate([Sample.of(seen)])[0].dtype == dtype


def test_extreme_and_infinite_values_give_finite_ones() -> None:
    seen = torch.tensor([torch.finfo(torch.float32).min, 0.0, float("-inf"), float("nan"), torch.finfo(torch.float32).max])
    assert bool(Sample.of(seen).make(0).isfinite().all())


class Masked(nn.Module):
    """Fails where a mask leaves nothing: the answers are no numbers, as those of a softmax over nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(50, 4)

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        scores = self.embed(ids).sum(-1).masked_fill(mask, float("-inf"))
        return torch.softmax(scores, -1)


@pytest.mark.parametrize("length", [1, 2, 9])
def test_masks_are_made_valid(length: int) -> None:
    mask = torch.zeros(4, length, dtype=torch.bool)
    mask[0, 1:] = True
    program = capture(Masked().eval(), (torch.randint(0, 50, (4, length)), mask))
    assert all(bool(out.isfinite().all()) for out in program.graph_module(*program.example_inputs()))


class Gather(nn.Module):
    """Takes a position inside each row, which a value larger than any seen would miss."""

    def forward(self, x: torch.Tensor, position: torch.Tensor) -> torch.Tensor:
        return x.gather(1, position.unsqueeze(1)).log()


def test_positions_and_positive_numbers_are_made_valid() -> None:
    program = capture(Gather(), (torch.rand(5, 7) + 0.1, torch.tensor([0, 6, 3, 2, 5])))
    assert all(bool(out.isfinite().all()) for out in program.graph_module(*program.example_inputs()))


def test_no_value_of_the_example_is_kept() -> None:
    x = torch.randn(6, 9) * 3
    program = capture(nn.Linear(9, 2), x)
    made = program.example_inputs()[0]
    assert made.shape == x.shape
    assert not set(made.flatten().tolist()) & set(x.flatten().tolist())
    assert not np.isin(np.abs(np.asarray([program.interface.samples[0].low, program.interface.samples[0].high])), x.abs().numpy()).any()


def test_ids_are_those_an_embedding_takes() -> None:
    ids = torch.tensor([[10, 3, 7], [0, 9, 2]])
    program = capture(Tied(), ids)
    made = program.example_inputs()[0]
    assert int(made.max()) <= 10
    assert not torch.equal(made, ids)
