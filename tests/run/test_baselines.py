"""Each candidate against the baseline of its own threads; sizes against the fp32 ONNX file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import laconic as lc
from laconic.core.files import read_json
from laconic.core.quantities import QUANTITIES
from laconic.report.facts import facts
from laconic.run.gate import better
from laconic.run.record import Record, baseline_of, opponent
from laconic.search.space import baseline_recipes
from laconic.tasks.data import ArrayDataset
from tests.run import tiny

QUICK = lc.Options(rounds=3, turn_seconds=0.02, candidate_timeout_s=120)


def test_there_is_a_baseline_for_each_number_of_threads_and_device() -> None:
    settings = [(1, "cpu"), (2, "cpu"), (1, "cpu"), (None, "cpu"), (1, "cuda")]
    recipes = [lc.Recipe((), lc.Target("onnxruntime", "fp32", threads, device)) for threads, device in settings]
    bases = baseline_recipes(recipes)
    assert [(base.deploy.threads, base.deploy.device) for base in bases] == [(1, "cpu"), (2, "cpu"), (None, "cpu"), (1, "cuda")]
    assert {(base.deploy.runtime, base.deploy.precision, base.steps) for base in bases} == {("torch", "fp32", ())}
    records = [Record.of(base, status="baseline") for base in bases]
    assert [baseline_of(recipe, records).key for recipe in recipes] == [bases[i].key for i in (0, 1, 0, 2, 3)]
    candidates = [Record.of(recipe, baseline=bases[i].key) for recipe, i in zip(recipes, (0, 1, 0, 2, 3), strict=True)]
    assert [opponent(one, [*records, *candidates]).key for one in candidates] == [bases[i].key for i in (0, 1, 0, 2, 3)]


def comparison_file(run: Path, record: dict[str, Any]) -> Path:
    """The file of the comparison that a record's figures come from."""
    if record["comparison"] == "finalists":
        (file,) = (run / "timing").glob("finalists-*.json")
        return file
    return run / (
        f"timing/published-{record['key']}.json" if record["comparison"] == "published" else f"candidates/{record['key']}/timing.json"
    )


@pytest.mark.slow
def test_recipes_with_different_threads_have_different_baselines(tmp_path: Path) -> None:
    deploys = [lc.Target("onnxruntime", threads=2), lc.Target("onnxruntime", threads=1), lc.Target("torch", threads=1)]
    recipes = [lc.Recipe((), deploy) for deploy in deploys]
    result = lc.optimize(tiny.task(), lc.Budget(max_drop=1.0), out=tmp_path / "run", recipes=recipes, options=QUICK)
    data = result.data
    bases = {record["key"]: record for record in (data["baseline"], *data["other_baselines"])}
    assert {record["recipe"]["deploy"]["threads"] for record in bases.values()} == {1, 2}
    assert len(data["candidates"]) == 2  # the third is a baseline itself
    for record in data["candidates"]:
        base = bases[record["baseline"]]
        assert base["recipe"]["deploy"]["threads"] == record["recipe"]["deploy"]["threads"]
        rounds = read_json(comparison_file(tmp_path / "run", record))["rounds"]
        ratios = sorted(_median(a) / _median(b) for a, b in zip(rounds[base["key"]], rounds[record["key"]], strict=True))
        assert record["measured"]["speedup"]["value"] == pytest.approx(ratios[1])  # of three rounds, not across baselines
    chosen = next(r for r in data["candidates"] if r["key"] == (data["best"] or data["nearest"]))
    assert data["baseline"]["key"] == chosen["baseline"]
    assert "test_metric" in data["baseline"]["measured"]
    titles = {one.title for one in facts(data).candidates}
    assert {"PyTorch eager · fp32 · 1 thread", "PyTorch eager · fp32 · 2 threads", "ONNX Runtime · fp32 · 1 thread"} <= titles


def _median(turn: list[int]) -> float:
    return float(torch.tensor(turn, dtype=torch.float64).quantile(0.5))


def record(key: str, **known: Any) -> Record:
    status = known.pop("status", "passed")
    return Record(key, key, {"deploy": {"threads": 1, "device": "cpu"}}, status=status).with_measured(**known)


def test_the_size_to_beat_is_that_of_the_onnx_file() -> None:
    base = record("base", status="baseline", size_bytes=5_000, onnx_size_bytes=1_000)
    rule = better(QUANTITIES["size_bytes"], base)
    assert rule(record("small", size_bytes=999)) is None
    told = rule(record("large", size_bytes=1_000))
    assert told is not None
    assert "1.00\xa0kB against 1.00\xa0kB" in told.text
    assert better(QUANTITIES["size_bytes"], record("base", status="baseline", size_bytes=5_000))(record("large", size_bytes=4_999)) is None


class Bessel(nn.Module):
    """An operator that ONNX lacks."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return torch.special.bessel_j0(self.fc(x))


@pytest.mark.slow
def test_a_model_without_onnx_is_compared_with_what_runs_and_says_so(tmp_path: Path) -> None:
    x = torch.randn(40, 4)
    data = ArrayDataset(x.numpy(), Bessel()(x).argmax(1).numpy())
    task = lc.Task(Bessel(), None, data, loss=F.cross_entropy, batch_size=16)
    recipe = lc.Recipe((), lc.Target("torchscript", threads=1))
    result = lc.optimize(task, lc.Budget(max_drop=1.0), out=tmp_path / "run", recipes=[recipe], options=QUICK)
    base = result.data["baseline"]
    assert "onnx_size_bytes" not in base["measured"]
    assert any("sizes are compared with the file that runs" in note and "bessel_j0" in note for note in base["notes"])


@pytest.mark.slow
def test_bench_gives_both_the_threads_of_the_artifact(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 2)).eval()
    program = lc.capture(net, torch.randn(2, 6))
    artifact = lc.export(program, tmp_path / "a" / "model.onnx", threads=1)
    other = lc.export(program, tmp_path / "b" / "model.onnx", threads=2)
    for baseline, options, threads in (
        (net, {}, [1, 1]),
        (other, {}, [1, 1]),
        (other.file, {"threads": 2}, [2, 2]),
        (other, {"baseline_threads": 2}, [2, 1]),
    ):
        found = lc.bench(artifact, baseline, rounds=3, turn_seconds=0.01, **options)  # type: ignore[arg-type]
        assert [timing.threads for timing in found.timings] == threads
    assert [timing.name for timing in found.timings] == [
        "baseline (onnxruntime, fp32, 2 threads)",
        "artifact (onnxruntime, fp32, 1 thread)",
    ]
