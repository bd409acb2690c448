"""A model that answers otherwise each time is told, with how far its metric moves; one that does not, is not."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import laconic as lc
from laconic.core.records import to_json
from laconic.run.record import Record
from laconic.run.repeats import noted, repeated, spread
from laconic.search.select import Selection
from laconic.search.verdict import Scale, verdict
from laconic.tasks import metrics
from tests.run import tiny


class Chancy(nn.Module):
    """Answers by chance, in one of several ways."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.fc, self.how = nn.Linear(64, 10), how
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(1)
        if self.how == "dropout":
            x = F.dropout(x, 0.5)
        if self.how == "noise":
            x = x + torch.randn_like(x)
        if self.how == "python":
            x = x * random.random()
        if self.how == "state":
            self.calls += 1
            x = x * self.calls
        return self.fc(x)


@pytest.mark.parametrize("how", ["dropout", "noise", "python"])
def test_answers_that_differ_are_found_and_scored(how: str) -> None:
    task, state, drawn = tiny.task(Chancy(how)), torch.get_rng_state(), random.getstate()
    known = repeated(task, metrics.of(task))
    assert known is not None
    assert (known["times"], known["n"]) == (5, 96)
    assert 0 <= known["low"] <= known["high"] <= 100
    assert known["low"] < known["high"] or how == "python"  # a factor moves no argmax
    assert torch.equal(torch.get_rng_state(), state)
    assert random.getstate() == drawn
    assert task.build().training


@pytest.mark.parametrize("how", ["plain", "state"])
def test_answers_that_are_the_same_are_no_news(how: str) -> None:
    """What forward keeps in a buffer is given back, so that it is no chance."""
    task = tiny.task(Chancy(how))
    assert repeated(task, metrics.of(task)) is None
    assert not task.build().calls  # type: ignore[operator]


def test_a_metric_that_has_no_value_is_no_reason_to_stop() -> None:
    task = tiny.task(Chancy("noise"))
    task.metric, task.direction = (lambda logits, target: float("nan")), "max"
    known = repeated(task, metrics.of(task))
    record = noted(Record("torch", "PyTorch", {}), to_json(known), metrics.of(task))
    assert "otherwise each time" in record.notes[0]
    assert "repeats" not in record.notes[0]
    assert spread([record]) is None


def told(low: float, high: float, limit: Any) -> str:
    task = tiny.task()
    metric = metrics.of(task)
    record = noted(Record("torch", "PyTorch", {}, "baseline"), {"times": 5, "n": 96, "low": low, "high": high}, metric)
    assert f"over 5 repeats its accuracy on the first 96 valid examples was {low}.0 to " in record.notes[0]
    return str(verdict(Selection(None, None, "nothing held"), [record], lc.Budget(max_drop=limit), Scale.of(metric)))


def test_the_verdict_says_it_where_it_matters_to_the_budget() -> None:
    said = "its accuracy moves by 1.50 points, more than the 0.5 points that may be lost, so that whether the limit holds is a matter of chance"
    assert said in told(90, 91.5, 0.5)
    assert "moves by" not in told(90, 91.5, 2)
    assert "moves by" not in told(90, 91.5, "any")


@pytest.mark.slow
def test_a_run_of_a_model_with_noise_goes_on_and_says_so(tmp_path: Path) -> None:
    """Its file cannot agree with its program, since neither agrees with itself: the metric alone judges."""
    recipes = [lc.Recipe((), lc.Target("torchscript", threads=1))]
    options = lc.Options(rounds=3, turn_seconds=0.01, candidate_timeout_s=60)
    result = lc.optimize(tiny.task(Chancy("noise")), lc.Budget(max_drop=0.5), out=tmp_path / "run", recipes=recipes, options=options)
    baseline, (candidate,) = result.data["baseline"], result.data["candidates"]
    assert baseline["repeats"]["times"] == 5
    assert any("otherwise each time" in note for note in baseline["notes"])
    assert all("draws random numbers" in note for note in candidate["notes"])
    assert candidate["status"] in ("passed", "rejected")
    assert "a matter of chance" in result.verdict
