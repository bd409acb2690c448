from __future__ import annotations

import os
import platform
from pathlib import Path

import pytest
import torch

from laconic.measure import environment as module
from laconic.measure.environment import cpuinfo, environment


def test_it_agrees_with_the_system() -> None:
    found = environment()
    assert found["cores"] == found["threads"] == len(os.sched_getaffinity(0))
    assert found["versions"]["torch"] == torch.__version__
    assert found["python"] == platform.python_version()
    total = next(line for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("MemTotal"))
    assert found["memory_bytes"] == 1024 * int(total.split()[1])
    assert found["instructions"]["avx2"] == ("avx2" in cpuinfo()["flags"].split()) if platform.machine() == "x86_64" else True
    assert environment(threads=1)["threads"] == 1
    assert "typer" not in environment()["versions"]
    assert environment(packages=("typer", "no-such-package"))["versions"].keys() - environment()["versions"].keys() == {"typer"}


def test_capability_agrees_with_pytorch() -> None:
    """PyTorch asks the processor by itself."""
    if platform.machine() == "x86_64":
        level = torch.backends.cpu.get_cpu_capability()
        assert environment()["instructions"]["avx512f"] == level.startswith("AVX512")


def test_extras_tell_what_they_lack(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = [
        "torch>=2",
        "numpy ; extra == 'one'",
        "no-such-package[x]>=1.0 ; extra == 'two'",
        'pytest; extra == "two"',
        "ruff ; extra == 'dev'",
    ]
    monkeypatch.setattr(module, "requires", lambda name: wanted)
    assert module.extras() == {"one": [], "two": ["no-such-package"]}
