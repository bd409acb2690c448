"""Whole runs that meet no limit, or that end early."""

from __future__ import annotations

import html
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

import laconic as lc
from laconic.core.errors import BadInput
from laconic.run import prepare
from tests.run import tiny
from tests.run.tiny import QUICK

pytestmark = pytest.mark.slow


class Twice(NamedTuple):
    """A run that its time limit ended at once, its page and when its baseline was timed; and the same run gone on with, under a budget that nothing meets."""

    early: lc.Result
    page: str
    timed: int
    late: lc.Result

    @property
    def baseline(self) -> Path:
        return self.late.folder / "candidates" / "torch-fp32-1t" / "timing.json"


@pytest.fixture(scope="module")
def twice(tmp_path_factory: pytest.TempPathFactory) -> Twice:
    out = tmp_path_factory.mktemp("twice") / "run"
    space = lc.SearchSpace(
        ("onnxruntime",), ("fp32",), threads=1, quantize=(), prune=(), sparsify=(), share_weights=(), rate_distortion=(), compact=()
    )
    budget = lc.Budget(min_speedup=10_000, max_size_mb=1000, max_latency_ms=1e4, objective="size")
    early = lc.optimize(tiny.task(), budget, out=out, space=space, options=QUICK, time_limit=0.001)
    known = Twice(early, (out / "report.html").read_text(encoding="utf-8"), 0, early)
    known = known._replace(timed=known.baseline.stat().st_mtime_ns)
    return known._replace(late=lc.optimize(tiny.task(), budget, out=out, space=space, options=QUICK))


def test_out_of_time_nothing_was_tried(twice: Twice) -> None:
    result = twice.early
    assert [record["status"] for record in result.data["candidates"]] == ["not_tried"]
    assert result.verdict == "Nothing was tried: 1 candidate was not tried: the time limit was reached before its turn."
    assert (result.met, result.best, result.nearest) == (False, None, None)
    assert str(result).startswith("Nothing was tried")
    assert "not tried" in twice.page
    assert result.stopped is not None
    assert (result.stopped["by"], result.stopped["tried"], result.stopped["of"]) == ("time limit", 0, 1)


def test_it_goes_on_where_the_limit_ended_it(twice: Twice) -> None:
    assert [record["status"] in ("passed", "rejected") for record in twice.late.data["candidates"]] == [True]
    assert twice.late.stopped is None
    assert twice.baseline.stat().st_mtime_ns == twice.timed
    assert "not tried" not in (twice.late.folder / "report.html").read_text(encoding="utf-8")


def test_no_budget_met_gives_the_nearest_miss_and_the_reason(twice: Twice) -> None:
    result = twice.late
    assert not result.met
    assert result.best is None
    assert result.nearest is not None
    assert "at least 10000× is asked for" in result.verdict
    assert "its packed size is not smaller than the baseline's" in result.verdict
    assert result.verdict in html.unescape((result.folder / "report.html").read_text())


def erring() -> tuple[lc.Task, list[lc.Recipe]]:
    """A task whose metric is an error, and what is tried."""
    net = torch.nn.Linear(6, 1).eval()
    x = torch.randn(40, 6)
    data = torch.utils.data.TensorDataset(x, net(x).detach() + 0.3)
    return lc.Task(net, None, data, metric="mae"), [lc.Recipe((), lc.Target("onnxruntime", threads=1))]


@pytest.mark.parametrize(
    ("budget", "said"),
    [
        (lc.Budget(), "has no fixed scale"),
        (lc.Budget(min_speedup=1.1), "Give max_drop"),
        (lc.Budget(max_drop=0.5), "^work begins$"),
        (lc.Budget("any"), "^work begins$"),
    ],
    ids=["default", "another limit", "the default's value, given", "any"],
)
def test_what_may_be_lost_of_an_error_is_asked_for_only_where_it_was_left_out(
    budget: lc.Budget, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def begin(*_: Any) -> None:
        raise BadInput("work begins")

    monkeypatch.setattr(prepare, "program", begin)
    task, recipes = erring()
    with pytest.raises(BadInput, match=said):
        lc.optimize(task, budget, out=tmp_path / "run", recipes=recipes, options=QUICK)


def test_an_error_is_told_in_no_points(tmp_path: Path) -> None:
    task, recipes = erring()
    result = lc.optimize(task, lc.Budget("any"), out=tmp_path / "run", recipes=recipes, options=QUICK)
    assert result.data["candidates"][0]["measured"]["drop"]["unit"] == ""
    assert "points" not in str(result)
    shown = result._repr_html_()
    assert str(result.folder / "report.html") in shown
    assert result.verdict.split()[0] in shown
    assert "max_drop: any" in result.data["reproduce"]["recipe_yaml"]
