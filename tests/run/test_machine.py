"""What a run keeps of the machine that its candidates were timed on."""

from __future__ import annotations

import json
from typing import Any

import pytest

from laconic.core.records import to_json
from laconic.core.target import Target
from laconic.run.recipe import Recipe
from laconic.run.record import Record
from laconic.run.timing import ALONE, timed

BUSY = "machine busy: in 9 of 12 turns other work had the processor; these times are not those of a quiet machine"


def timings(**more: Any) -> dict[str, Any]:
    """A baseline and a candidate that by the clock is 100 times faster, by processor time 10 times."""
    rounds = {"base": [[200_000, 200_010]] * 6, "new": [[2_000, 2_001]] * 6}
    return {"rounds": rounds, "failed": {}, "batch": 1, **more}


def record(name: str) -> Record:
    recipe = Recipe(deploy=Target("onnxruntime"))
    return Record(name, recipe.title, recipe.to_plain(), baseline="base")


def test_times_of_a_busy_machine_mark_each_record() -> None:
    machine = {"busy": BUSY, "cpu_ns": {"base": [[100, 100]] * 7, "new": [[10, 10]] * 7}}
    found = timed(record("new"), timings(machine=machine), ALONE)
    assert found.busy == f"{BUSY}; by processor time 10.00× [10.00, 10.00]"
    assert found.value("speedup_cpu") == pytest.approx(10)
    assert found.speedup is not None
    assert found.speedup.value == pytest.approx(100, rel=1e-3)
    assert Record.from_json(json.loads(json.dumps(to_json(found)))) == found
    base = timed(record("base"), timings(machine=machine), ALONE)
    assert (base.busy, base.value("speedup_cpu")) == (BUSY, None)


@pytest.mark.parametrize("more", [{}, {"machine": {"busy": ""}}], ids=["of an older version", "quiet"])
def test_times_of_a_quiet_machine_stand(more: dict[str, Any]) -> None:
    found = timed(record("new"), timings(**more), ALONE)
    assert (found.busy, found.value("speedup_cpu")) == ("", None)
