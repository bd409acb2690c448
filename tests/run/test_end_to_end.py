"""A whole run on a small task, with real runtimes in real processes: what it tells, what it keeps, and that it is not computed again."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import laconic as lc
from laconic.core.errors import BadInput
from laconic.core.files import write_json
from laconic.measure import quiet
from laconic.run.store import read_result
from tests.run import tiny
from tests.run.tiny import QUICK, TOLERANCE

pytestmark = pytest.mark.slow
FLOATS = lc.SearchSpace(("onnxruntime", "openvino", "torchscript", "torch"), threads=1, quantize=(), prune=())


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> lc.Result:
    """It was not asked to wait for a quiet machine, and does not."""

    def wait(**_: Any) -> bool:
        raise AssertionError("nobody asked it to wait")

    out = tmp_path_factory.mktemp("run") / "folder"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(quiet, "wait_quiet", wait)
        return lc.optimize(tiny.task(), lc.Budget(max_drop=0.5), out=out, space=FLOATS, options=QUICK)


def by_key(result: lc.Result) -> dict[str, Any]:
    return {record["key"]: record for record in result.data["candidates"]}


def test_the_best_is_an_artifact_that_answers_as_the_model(finished: lc.Result, tmp_path: Path) -> None:
    assert finished.met
    best = finished.best
    assert best is not None
    assert best.target.runtime != "torch" or by_key(finished)[finished.data["best"]]["recipe"]["steps"]
    file = best.save(tmp_path / f"shipped{best.file.suffix}")
    x = np.random.default_rng(5).standard_normal((6, 1, 8, 8)).astype(np.float32)
    from laconic.deploy.runtime import runtime

    with torch.no_grad():
        expected = tiny.task().build().eval()(torch.from_numpy(x)).numpy()
    found = runtime(best.target.runtime).load(file, best.target).run([x])[0]
    assert np.abs(found - expected).max() < TOLERANCE[best.target.precision] * np.abs(expected).max()


def test_every_candidate_comes_with_its_evidence(finished: lc.Result) -> None:
    assert finished.data["baseline"]["status"] == "baseline"
    assert finished.data["baseline"]["measured"]["drop"]["value"] == 0
    onnx = finished.folder / by_key(finished)["onnxruntime-fp32-1t"]["artifact"] / "model.onnx"
    assert finished.data["baseline"]["measured"]["onnx_size_bytes"]["value"] == onnx.stat().st_size
    for record in finished.data["candidates"]:
        if record["status"] in ("passed", "rejected"):
            assert record["parity"]["max_rel"] < TOLERANCE[record["recipe"]["deploy"]["precision"]]
            assert record["parity"]["batches"] == 3
            assert record["parity"]["sizes"] == {"batch": [32, 1, 3]}
            assert record["baseline"] == finished.data["baseline"]["key"]
            assert record["measured"]["latency_ms"]["n"] >= 15
            assert record["measured"]["speedup"]["low"] <= record["measured"]["speedup"]["value"] <= record["measured"]["speedup"]["high"]
            assert record["measured"]["drop"]["n"] == 96
            assert record["measured"]["size_bytes"]["value"] == sum(
                p.stat().st_size for p in (finished.folder / record["artifact"]).glob("model.*")
            )
            assert record["measured"]["cold_start_ms"]["value"] > 0
            assert record["measured"]["peak_memory_bytes"]["value"] > 1e6
        assert record["status"] == "passed" or record["reasons"]


def timings(folder: Path) -> dict[str, Any]:
    """What was kept of each comparison, by its file."""
    return {
        str(p.relative_to(folder)): json.loads(p.read_text(encoding="utf-8"))
        for p in folder.rglob("*.json")
        if "timing" in str(p.relative_to(folder))
    }


def test_what_is_published_was_timed_anew_after_the_choice(finished: lc.Result) -> None:
    """The order comes from the finalists' comparison, the figures of the winner from a later one; all are kept, and each record says which is its own."""
    records, kept = by_key(finished), timings(finished.folder)
    best = records[finished.data["best"]]
    assert [key for key, record in records.items() if record["comparison"] == "published"] == [best["key"]]
    assert best["measured"]["speedup"] != best["measured"]["first_speedup"] is not None
    published = kept[f"timing/published-{best['key']}.json"]
    assert set(published["rounds"]) == {best["key"], "torch-fp32-1t"}
    finals = [content for name, content in kept.items() if name.startswith("timing/finalists-")]
    for key, record in records.items():
        if not record["comparison"]:
            assert record["status"] not in ("passed", "baseline")
            continue
        alone = kept[f"candidates/{key}/timing.json"]
        assert set(alone["rounds"]) == {key, "torch-fp32-1t"}
        source = {"alone": [alone], "published": [published], "finalists": [one for one in finals if key in one["rounds"]]}[
            record["comparison"]
        ]
        assert record["measured"]["latency_ms"]["value"] == pytest.approx(np.median(np.concatenate(source[-1]["rounds"][key])) / 1e6)
        assert record["settled"] == source[-1]["settled"]
    tied = [records[key] for key in finished.data["tied"]]
    assert best["key"] in finished.data["tied"]

    def loss_and_size(record: Any) -> tuple[float, float]:
        return tuple(record["measured"][name]["value"] for name in ("drop", "size_bytes"))  # type: ignore[return-value]

    assert loss_and_size(best) == min(map(loss_and_size, tied))


def test_what_is_told_beside_the_figures_is_of_the_published_artifact(finished: lc.Result, monkeypatch: pytest.MonkeyPatch) -> None:
    """Answers, latencies, and lines that load the file: what they say is checked against the files of the run."""
    data, best = finished.data, finished.data["best"]
    assert data["stopped"] is None
    assert (data["answers"]["n"], data["answers"]["changed"]) == (96, 0)  # fp32: the same answers
    rounds = json.loads((finished.folder / f"timing/published-{best}.json").read_text())["rounds"]
    calls = sorted(ns for calls in rounds[best] for ns in calls)
    _, mine = data["spread"]["ms"]
    assert (mine[0], mine[-1]) == (calls[0] / 1e6, calls[-1] / 1e6)
    curve = data["curve"]
    assert curve["batches"][:1] == [1]
    assert [len(ms) for ms in curve["ms"]] == [len(curve["batches"])] * 2
    monkeypatch.chdir(finished.folder)
    for code in (data["ships"]["code"], data["ships"]["code_without"]):
        scope: dict[str, Any] = {}
        exec(code.replace("inputs = [...]", "import numpy; inputs = [numpy.zeros((3, 1, 8, 8), 'float32')]"), scope)
        outputs = scope["outputs"]
        assert (outputs[0] if isinstance(outputs, list) else outputs).shape == (3, 10)


def test_the_verdict_says_how_sure_it_is(finished: lc.Result) -> None:
    assert "0.5 points of 80 are 0.40 examples" in finished.verdict
    assert "candidates were judged on the same valid examples" in finished.verdict
    assert finished.verdict == " ".join([finished.data["headline"], *finished.data["certainty"]])
    assert "max_drop: 0.5" in finished.data["reproduce"]["recipe_yaml"]
    assert {(r["limit"], r["data"]) for r in finished.data["readings"]} == {
        ("max_drop", "valid"),
        ("max_drop", "test"),
        ("min_speedup", ""),
    }


def test_test_data_is_read_for_the_chosen_one_only(finished: lc.Result) -> None:
    tested = [record["key"] for record in finished.data["candidates"] if "test_metric" in record["measured"]]
    assert tested == [finished.data["best"]]
    assert finished.data["baseline"]["measured"]["test_metric"]["n"] == 80


def test_the_accuracy_is_that_of_the_module(finished: lc.Result) -> None:
    with torch.no_grad():
        right = (tiny.task().build().eval()(torch.stack([x for x, _ in tiny.VALID])).argmax(1) == tiny.VALID.target).float().mean()  # type: ignore[attr-defined]
    assert finished.data["baseline"]["measured"]["metric"]["value"] == pytest.approx(100 * float(right))


def test_the_report_is_written_and_the_summary_tells_the_verdict(finished: lc.Result, tmp_path: Path) -> None:
    assert finished.verdict in (finished.folder / "report.html").read_text(encoding="utf-8")
    assert str(finished).replace("\n", " ").startswith("Budget met")
    assert finished.report(tmp_path / "again.html").read_bytes() == (finished.folder / "report.html").read_bytes()


def test_a_finished_run_is_not_computed_again(finished: lc.Result) -> None:
    before = {path: path.stat().st_mtime_ns for path in finished.folder.rglob("*") if path.name != "lock"}
    again = lc.optimize(
        tiny.task(),
        lc.Budget(max_drop=0.5),
        out=finished.folder,
        space=FLOATS,
        options=QUICK,
    )
    assert again.data == finished.data
    assert {path: path.stat().st_mtime_ns for path in finished.folder.rglob("*") if path.name != "lock"} == before


def test_nothing_is_timed_again_by_a_run_that_goes_on(finished: lc.Result, tmp_path: Path) -> None:
    """It takes every comparison from its folder, and what something else ended is no result: a run that lost a candidate so goes on, as if it had no end."""
    folder = tmp_path / "again"
    shutil.copytree(finished.folder, folder)
    lost = read_result(folder)
    lost["candidates"][0] |= {"status": "failed", "reasons": [{"rule": "killed", "text": "it was killed by SIGKILL"}]}
    write_json(folder / "result.json", lost)
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*.json") if "timing" in str(path.relative_to(folder))}
    again = lc.optimize(tiny.task(), lc.Budget(max_drop=0.5), out=folder, space=FLOATS, options=QUICK)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*.json") if "timing" in str(path.relative_to(folder))} == before
    assert len(before) >= 3
    assert (again.data["best"], again.data["verdict"]) == (finished.data["best"], finished.data["verdict"])
    assert [record["status"] for record in again.data["candidates"]] == [record["status"] for record in finished.data["candidates"]]


def test_another_budget_in_the_same_folder_is_refused(finished: lc.Result) -> None:
    with pytest.raises(BadInput, match="holds another run: its budget is"):
        lc.optimize(tiny.task(), lc.Budget(max_drop=0.1), out=finished.folder, options=QUICK)


def test_another_model_in_the_same_folder_is_refused(finished: lc.Result) -> None:
    other = tiny.task()
    with torch.no_grad():
        next(other.build().parameters()).add_(1.0)
    with pytest.raises(BadInput, match="since then the model's parameters have changed"):
        lc.optimize(
            other,
            lc.Budget(max_drop=0.5),
            out=finished.folder,
            space=FLOATS,
            options=QUICK,
        )
