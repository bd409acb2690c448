"""Shared fixtures: where the real data lies, and single-threaded torch so that tests do not fight over cores."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

torch.set_num_threads(min(2, os.cpu_count() or 1))


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder with MNIST, SST-2 and the rest; tests that need it are skipped where it is absent."""
    folder = Path(os.environ.get("LACONIC_DATA") or Path(__file__).parents[2] / "shared" / "data")
    if not (folder / "README.md").exists():
        pytest.skip(f"the data folder {folder} is not here (set LACONIC_DATA)")
    return folder


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)
