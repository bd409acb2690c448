"""A run that was asked to wait for a quiet machine does so before each comparison: of the baseline, the candidate, and the one that is published."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import laconic as lc
from laconic.measure import quiet
from tests.run import tiny


@pytest.mark.slow
@pytest.mark.parametrize("wanted", [True, False], ids=["asked to", "not asked to"])
def test_it_waits_before_each_comparison(wanted: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[Any] = []
    monkeypatch.setattr(quiet, "wait_quiet", lambda **options: waits.append(options) is None)
    options = lc.Options(rounds=3, turn_seconds=0.01, wait_quiet=wanted)
    recipes = [lc.Recipe((), lc.Target("onnxruntime", threads=1))]
    lc.optimize(tiny.task(), lc.Budget(max_drop="any"), out=tmp_path / "run", recipes=recipes, options=options)
    assert [sorted(call) for call in waits] == ([["progress"]] * 3 if wanted else [])
