from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import laconic as lc
from laconic.core.errors import WorkerFailed
from laconic.core.turn import Turn
from laconic.run.curve import BATCHES, QUANTILES, batch_curve, spread
from laconic.run.examples import read_arrays, write_arrays
from tests.core.models import ConvNet

PROGRAM = lc.capture(ConvNet(), torch.randn(2, 1, 8, 8))


class Worker:
    """Takes `ms` for each example; says the sizes that it was given."""

    def __init__(self, ms: float, most: int = 1000) -> None:
        self.ms, self.most, self.sizes = ms, most, list[int]()
        self.turns = 0

    def use_inputs(self, path: Path) -> None:
        self.sizes.append(len(read_arrays(path)[0]))
        if self.sizes[-1] > self.most:
            raise WorkerFailed("it wants more memory", "memory")

    def time(self, seconds: float, min_runs: int) -> Turn:
        self.turns += 1
        return Turn([int(self.ms * 1e6 * self.sizes[-1])] * 3)


@pytest.fixture
def first(tmp_path: Path) -> Path:
    return write_arrays(tmp_path / "000000.npz", [np.zeros((5, 1, 8, 8), np.float32)])


def test_each_size_is_timed_with_real_examples(first: Path, tmp_path: Path) -> None:
    pair: Any = [Worker(2.0), Worker(0.5)]
    told = batch_curve(PROGRAM, first, tmp_path, pair)
    assert told == {"batches": list(BATCHES), "ms": [[2.0 * n for n in BATCHES], [0.5 * n for n in BATCHES]], "note": ""}
    assert pair[0].sizes == pair[1].sizes == list(BATCHES)


def test_what_would_take_long_is_left_out(first: Path, tmp_path: Path) -> None:
    pair: Any = [Worker(20.0), Worker(1.0)]
    told = batch_curve(PROGRAM, first, tmp_path, pair)
    assert told["batches"] == [1, 8]
    assert told["note"] == "a call with 32 examples takes too long to be timed here"


def test_a_slow_model_is_timed_once(first: Path, tmp_path: Path) -> None:
    pair: Any = [Worker(2000.0), Worker(900.0)]
    told = batch_curve(PROGRAM, first, tmp_path, pair)
    assert (told["batches"], told["ms"]) == ([1], [[2000.0], [900.0]])
    assert [one.turns for one in pair] == [2, 2]  # to warm up, and to time


def test_a_size_that_fails_ends_the_curve_with_its_reason(first: Path, tmp_path: Path) -> None:
    pair: Any = [Worker(1.0), Worker(1.0, most=8)]
    told = batch_curve(PROGRAM, first, tmp_path, pair)
    assert (told["batches"], told["ms"]) == ([1, 8], [[1.0, 8.0]] * 2)
    assert told["note"] == "with 32 examples: it wants more memory"


def test_a_fixed_batch_has_no_curve(first: Path, tmp_path: Path) -> None:
    fixed = lc.capture(ConvNet(), torch.randn(2, 1, 8, 8), dynamic_batch=False)
    assert batch_curve(fixed, first, tmp_path, [])["note"] == "the model takes batches of one size"


def test_quantiles_of_single_calls() -> None:
    told = spread([[1e6, 2e6], [3e6]])
    assert (told[0], told[QUANTILES.index(50)], told[-1]) == (1.0, 2.0, 3.0)
