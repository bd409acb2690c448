"""Shared fixtures: where the real data lies, and single-threaded torch so that tests do not fight over cores."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

# Before PyTorch is imported, and for the processes that tests start: two workers with as many threads as cores each would wait for each other.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch
from hypothesis import settings

from tests import faulty

# Locally new examples each time; where a submission hangs on it, always the same. No deadlines: no test asserts a time.
settings.register_profile("laconic", deadline=None, derandomize=bool(os.environ.get("CI")))
settings.load_profile("laconic")

# No test asserts a time: what runs compute only to be timed, beyond the rounds that tests ask for, is short, and so are looks at the machine.
SECONDS = {
    "measure.latency.WARM_UP_SECONDS": 0.01,
    "measure.latency.WORK_SECONDS": 0.01,
    "run.curve._SECONDS": 0.005,
    "run.sharing.LOOK_SECONDS": 0.02,
}

torch.set_num_threads(1 if "PYTEST_XDIST_WORKER" in os.environ else min(2, os.cpu_count() or 1))


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder with MNIST, SST-2 and the rest; tests that need it are skipped where it is absent."""
    folder = Path(os.environ.get("LACONIC_DATA") or Path(__file__).parents[2] / "shared" / "data")
    if not (folder / "README.md").exists():
        pytest.skip(f"the data folder {folder} is not here (set LACONIC_DATA)")
    return folder


@pytest.fixture(autouse=True, scope="session")
def _short_turns() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for place, seconds in SECONDS.items():
            patch.setattr(f"laconic.{place}", seconds)
        yield


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the files that take longest first: two workers that take a file at a time then end at about the same time (see `make test`).

    How long is told by the marks: a slow test takes some ten seconds, the others a tenth of one.
    """
    seconds: Counter[Path] = Counter()
    for item in items:
        seconds[item.path] += 100 if item.get_closest_marker("slow") else 1
    items.sort(key=lambda item: -seconds[item.path])  # stable: a file stays together, and in its order


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture
def faulty_package(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Runtimes and steps of another package that go wrong."""
    yield from faulty.install(tmp_path_factory.mktemp("faulty"), monkeypatch)
