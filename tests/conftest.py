"""Shared fixtures: where the real data lies, and single-threaded torch so that tests do not fight over cores."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import settings

from tests import faulty

# Locally new examples each time; where a submission hangs on it, always the same. No deadlines: no test asserts a time.
settings.register_profile("laconic", deadline=None, derandomize=bool(os.environ.get("CI")))
settings.load_profile("laconic")

torch.set_num_threads(1 if "PYTEST_XDIST_WORKER" in os.environ else min(2, os.cpu_count() or 1))


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


@pytest.fixture
def faulty_package(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Runtimes and steps of another package that go wrong."""
    yield from faulty.install(tmp_path_factory.mktemp("faulty"), monkeypatch)
