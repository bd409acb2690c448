"""Whole runs in which something goes wrong, and nonsense that is refused before any."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

import laconic as lc
from laconic.core.errors import BadInput, LaconicError
from tests.run import tiny
from tests.run.tiny import QUICK

pytestmark = pytest.mark.slow


def test_candidates_that_go_wrong_fail_alone(faulty_package: None, tmp_path: Path) -> None:
    """Crash, hang, memory, NaN, wrong answers, a crash in the middle of timing, an exception: each is told, and the good one is found."""
    options = dataclasses.replace(QUICK, candidate_timeout_s=15, memory_limit_bytes=2_500_000_000)
    names = ("crash", "hang", "eat", "nan", "wrong", "late", "raises", "good")
    space = lc.SearchSpace(names, ("fp32",), threads=1, quantize=(), prune=())
    result = lc.optimize(tiny.task(), out=tmp_path / "run", space=space, options=options)
    found = {record["key"]: (record["status"], record["reasons"]) for record in result.data["candidates"]}
    told = {name: (found[f"{name}-fp32-1t"][0], [reason["rule"] for reason in found[f"{name}-fp32-1t"][1]]) for name in names}
    assert told == {
        "crash": ("failed", ["crash"]),
        "hang": ("failed", ["timeout"]),
        "eat": ("failed", ["memory"]),
        "nan": ("rejected", ["parity"]),
        "wrong": ("rejected", ["parity"]),
        "late": ("failed", ["crash"]),
        "raises": ("failed", ["error"]),
        "good": ("passed", []),
    }
    assert result.data["best"] == "good-fp32-1t"
    assert "no such kernel" in found["raises-fp32-1t"][1][0]["text"]


def test_steps_that_go_wrong_fail_alone(faulty_package: None, tmp_path: Path) -> None:
    from laconic.run.runner import STEPS

    step, target = STEPS.config("break"), lc.Target("onnxruntime", threads=1)
    recipes = [lc.Recipe((step(how),), target) for how in ("crash", "hang", "raise", "fine")]
    task = tiny.task()
    task.ref = "tests.run.tiny:task"
    result = lc.optimize(task, out=tmp_path / "run", recipes=recipes, options=dataclasses.replace(QUICK, candidate_timeout_s=12))
    told = [(record["status"], [reason["rule"] for reason in record["reasons"]]) for record in result.data["candidates"]]
    assert told == [("failed", ["killed"]), ("failed", ["timeout"]), ("failed", ["error"]), ("passed", [])]
    assert result.data["candidates"][3]["outcomes"] == [
        {"step": "break", "changed": {"how": "fine"}, "skipped": [], "notes": [], "title": "break", "section": "", "bits": None}
    ]


def test_a_baseline_of_nan_is_told(tmp_path: Path) -> None:
    with pytest.raises(LaconicError, match="its answer to example 0 of the valid data is not finite"):
        lc.optimize(tiny.poisoned(), out=tmp_path / "run", space=lc.SearchSpace(("onnxruntime",), quantize=(), prune=()), options=QUICK)


@pytest.mark.parametrize(
    ("work", "said"),
    [
        (lambda out: lc.optimize(dataclasses.replace(tiny.task(), metric="acuracy"), out=out), "not a metric. Did you mean 'accuracy'"),
        (lambda out: lc.optimize(dataclasses.replace(tiny.task(), metric="mse"), out=out), "mistake|has no fixed scale"),
        (lambda out: lc.optimize(dataclasses.replace(tiny.task(), valid=tiny.TRAIN.take([])), out=out), "valid: the dataset is empty"),
        (lambda out: lc.optimize(tiny.task(), time_limit="soon", out=out), "time limit 'soon'"),
        (
            lambda out: lc.optimize(tiny.task(), space=lc.SearchSpace(("onnxruntim",)), out=out),
            "runtimes: 'onnxruntim'. Did you mean 'onnxruntime'",
        ),
        (lambda out: lc.optimize(tiny.task(), space=lc.SearchSpace(None, ("fp31",)), out=out), "precisions: 'fp31'. Did you mean 'fp32'"),
        (
            lambda out: lc.optimize(tiny.task(), space=lc.SearchSpace(threads=0, device="tpu"), out=out),
            "(?s)threads: 0 must be.*device: 'tpu'",
        ),
        (lambda out: lc.optimize(tiny.task(), options=lc.Options(batch=0, rounds=0), out=out), "(?s)batch: 0 must be.*rounds: 0 must be"),
        (lambda out: lc.optimize(tiny.task(), lc.Budget(max_drop=-1, min_speedup=0), out=out), "max_drop: -1 must be"),
    ],
)
def test_nonsense_is_refused_before_any_work(work: Any, said: str, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=said):
        work(tmp_path / "run")
    assert not (tmp_path / "run").exists()
