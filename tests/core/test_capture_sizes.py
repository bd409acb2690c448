"""A graph that holds for the example's sizes alone is refused."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import laconic as lc
from laconic.core.errors import CaptureError


class Clipped(nn.Module):
    """Divides by the number of examples, up to a largest one."""

    def forward(self, x: Tensor) -> Tensor:
        return x / int(min(512, x.size(0)))


class Mean(nn.Module):
    """Sums over the places and divides by their number, up to a largest one."""

    def forward(self, x: Tensor) -> Tensor:
        return x.sum(1, keepdim=True) / int(min(100, x.shape[1]))


class Even(nn.Module):
    """Takes even lengths alone."""

    def forward(self, x: Tensor) -> Tensor:
        torch._check(x.shape[1] % 2 == 0)
        return x.view(x.shape[0], -1, 2).sum(2)


class Noisy(nn.Module):
    """Answers otherwise each time, by a generator that no seed reaches."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x) + torch.rand_like(x[:, :2])


def test_a_size_of_the_batch_that_became_a_number_is_refused() -> None:
    with pytest.raises(CaptureError, match="batches of exactly this size .*with batch 3 the graph answers otherwise"):
        lc.capture(Clipped(), torch.randn(2, 4))
    fixed = lc.capture(Clipped(), torch.randn(2, 4), dynamic_batch=False)
    assert torch.equal(fixed(torch.ones(2, 4)), torch.ones(2, 4) / 2)


def test_a_length_that_became_a_number_is_refused() -> None:
    with pytest.raises(CaptureError, match="with batch 3 and length 7 the graph answers otherwise"):
        lc.capture(Mean(), torch.randn(2, 6), dynamic={"x": {1: "length"}})


@pytest.mark.parametrize("model", [Noisy(), nn.Linear(4, 2), nn.Dropout(0.5)], ids=["noisy", "linear", "dropout"])
def test_what_answers_as_its_module_is_captured(model: nn.Module) -> None:
    state = torch.get_rng_state()
    lc.capture(model, torch.randn(2, 3 if isinstance(model, Noisy) else 4, generator=torch.Generator().manual_seed(0)))
    assert torch.equal(torch.get_rng_state(), state), "capturing draws from the user's random numbers"


def test_a_module_that_takes_no_such_length_is_asked_about_the_batch_alone() -> None:
    program = lc.capture(Even(), torch.randn(2, 6), dynamic={"x": {1: "length"}})
    assert program(torch.ones(5, 8)).shape == (5, 4)
