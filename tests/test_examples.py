"""The examples of training elsewhere run, and their programs learn there: float, taught after pruning, and with rounding in place."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import laconic as lc


def lightning_fit() -> Callable[..., dict[str, float]]:
    from examples.lightning_fit import main

    return main


def hf_trainer() -> Callable[..., dict[str, float]]:
    from examples.hf_trainer import main

    return main


@pytest.mark.slow
@pytest.mark.parametrize(("example", "epochs"), [(lightning_fit, 3), (hf_trainer, 3)], ids=["lightning", "hugging face"])
def test_it_trains_prunes_teaches_and_rounds(
    example: Callable[[], Callable[..., dict[str, float]]], epochs: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.ERROR)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # so small that several wait for each other more than they compute
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # theirs: of their own use of PyTorch, of workers, of what was not installed
        found = example()(tmp_path, epochs=epochs)
    torch.set_num_threads(threads)
    # chance is 0.1 and about 0.5; pruning alone, without what trains behind it, falls back to it
    assert found["trained"] > 0.7
    assert found["pruned"] > 0.7
    assert found["int8"] > 0.7
    (file,) = tmp_path.glob("*.onnx")
    assert lc.Artifact.open(file).numerics == "int8"
