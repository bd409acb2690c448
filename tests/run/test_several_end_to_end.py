"""A run whose candidates several processes build, beside the same run without them: the same records, and nobody computes while something is timed."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from torch import nn

import laconic as lc
from laconic.measure import latency
from laconic.run.build import Builder
from laconic.search.drivers import driver
from tests.deploy.test_child import spent_s
from tests.run import tiny
from tests.run.test_resumed_end_to_end import without_times

PRUNED = [lc.Prune(macs=share, recovery={"epochs": 40, "lr": 1e-3, "batch_size": 4}) for share in (0.7, 0.5)]
TARGET = lc.Target("onnxruntime", threads=1)
RECIPES = [
    lc.Recipe((PRUNED[0], lc.Quantize(mode="dynamic", target="onnxruntime")), TARGET),
    *(lc.Recipe((one,), TARGET) for one in PRUNED),
]


def optimize(folder: Path, **options: Any) -> dict[str, Any]:
    """The smallest file wins, so that the winner does not hang on times."""
    task = tiny.task(nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10)))
    chosen = lc.Options(rounds=5, turn_seconds=0.01, candidate_timeout_s=120)
    budget = lc.Budget(max_drop=100.0, objective="size")
    return lc.optimize(task, budget, out=folder, recipes=RECIPES, options=chosen, **options).data


@pytest.mark.slow
def test_two_workers_find_what_one_finds_and_stand_still_while_something_is_timed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One of the builders is killed meanwhile; what it built is built once more."""
    members: list[Builder] = []
    used: list[tuple[float, bool]] = []
    killed: list[int] = []
    another, interleave = Builder.another, latency.interleave

    def noted(self: Builder, *given: Any) -> Builder:
        members.append(another(self, *given))
        return members[-1]

    def groups() -> list[int]:
        return [one._child._process.pid for one in members if one._child is not None and one._child.alive]

    def timed(*given: Any, **more: Any) -> Any:
        before = {pid: spent_s(pid) for pid in groups()}
        run = interleave(*given, **more)
        used.append((sum(spent_s(pid) - spent for pid, spent in before.items()), bool(before)))
        if len(groups()) == 2 and not killed:
            killed.append(groups()[0])
            os.kill(killed[0], signal.SIGKILL)
        return run

    expected = optimize(tmp_path / "one")
    monkeypatch.setattr(Builder, "another", noted)
    monkeypatch.setattr(latency, "interleave", timed)
    found = optimize(tmp_path / "two", workers=2)
    assert without_times(found["candidates"]) == without_times(expected["candidates"])
    assert found["best"] == expected["best"]
    assert len(members) == 2
    assert [spent for spent, _ in used] == [0.0] * len(used)
    assert any(alive for _, alive in used)
    assert killed
    built = sorted(path.parent.parent.name for path in (tmp_path / "two" / "models").glob("*/onnx/built.json"))
    assert built == sorted(path.parent.parent.name for path in (tmp_path / "one" / "models").glob("*/onnx/built.json"))
    assert json.loads((tmp_path / "two" / "run.json").read_text()) == json.loads((tmp_path / "one" / "run.json").read_text())


@pytest.mark.parametrize(
    ("name", "workers", "said"),
    [
        ("here", 0, "workers: 0 must be a whole number of 1 or more"),
        ("here", True, "workers: True must be a whole number"),
        ("hear", 2, "driver 'hear': there is none of that name. Did you mean 'here'?"),
    ],
)
def test_what_makes_no_sense_is_refused(name: str, workers: Any, said: str) -> None:
    with pytest.raises(lc.BadInput, match=said.replace("?", r"\?")):
        driver(name, workers)
