"""Whole runs on a small task, with real runtimes in real processes; and what happens when they go wrong."""

from __future__ import annotations

import dataclasses
import html
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import laconic as lc
from laconic.core.errors import BadInput, LaconicError
from laconic.core.files import write_json
from laconic.run.store import FORMAT, read_result
from tests.run import tiny

pytestmark = pytest.mark.slow
QUICK = lc.Options(rounds=7, turn_seconds=0.02, candidate_timeout_s=60)
FLOATS = lc.SearchSpace(("onnxruntime", "openvino", "torchscript", "torch"), quantize=(), prune=())
ROOT = Path(__file__).parents[2]
TOLERANCE = {"fp32": 1e-4, "bf16": 0.05}  # relative to the largest output; processors with bf16 instructions try it too


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> lc.Result:
    out = tmp_path_factory.mktemp("run") / "folder"
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
    onnx = finished.folder / by_key(finished)["onnxruntime-fp32"]["artifact"] / "model.onnx"
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
    assert set(published["rounds"]) == {best["key"], "torch-fp32"}
    finals = [content for name, content in kept.items() if name.startswith("timing/finalists-")]
    for key, record in records.items():
        if not record["comparison"]:
            assert record["status"] not in ("passed", "baseline")
            continue
        alone = kept[f"candidates/{key}/timing.json"]
        assert set(alone["rounds"]) == {key, "torch-fp32"}
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


def test_out_of_time_nothing_was_tried(tmp_path: Path) -> None:
    space = lc.SearchSpace(("onnxruntime",), ("fp32",), quantize=(), prune=())
    result = lc.optimize(tiny.task(), out=tmp_path / "run", space=space, options=QUICK, time_limit=0.001)
    assert [record["status"] for record in result.data["candidates"]] == ["not_tried"]
    assert result.verdict == "Nothing was tried: 1 candidate was not tried: the time limit was reached before its turn."
    assert (result.met, result.best, result.nearest) == (False, None, None)
    assert str(result).startswith("Nothing was tried")
    assert "not tried" in (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert result.stopped is not None
    assert (result.stopped["by"], result.stopped["tried"], result.stopped["of"]) == ("time limit", 0, 1)
    baseline = tmp_path / "run" / "candidates" / "torch-fp32" / "timing.json"
    before = baseline.stat().st_mtime_ns
    again = lc.optimize(tiny.task(), out=tmp_path / "run", space=space, options=QUICK)  # goes on where the limit ended it
    assert [record["status"] in ("passed", "rejected") for record in again.data["candidates"]] == [True]
    assert again.stopped is None
    assert baseline.stat().st_mtime_ns == before
    assert "not tried" not in (tmp_path / "run" / "report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("budget", "said"),
    [
        (lc.Budget(), "has no fixed scale"),
        (lc.Budget(min_speedup=1.1), "Give max_drop"),
        (lc.Budget(max_drop=0.5), ""),
        (lc.Budget("any"), ""),
    ],
    ids=["default", "another limit", "the default's value, given", "any"],
)
def test_what_may_be_lost_of_an_error_is_asked_for_only_where_it_was_left_out(budget: lc.Budget, said: str, tmp_path: Path) -> None:
    net = torch.nn.Linear(6, 1).eval()
    x = torch.randn(40, 6)
    data = torch.utils.data.TensorDataset(x, net(x).detach() + 0.3)
    task, recipes = lc.Task(net, None, data, metric="mae"), [lc.Recipe((), lc.Target("onnxruntime", threads=1))]

    def run() -> lc.Result:
        return lc.optimize(task, budget, out=tmp_path / "run", recipes=recipes, options=QUICK)

    if said:
        with pytest.raises(BadInput, match=said):
            run()
        return
    result = run()
    assert result.data["candidates"][0]["measured"]["drop"]["unit"] == ""
    assert "points" not in str(result)
    shown = result._repr_html_()
    assert str(result.folder / "report.html") in shown
    assert result.verdict.split()[0] in shown
    assert ("max_drop: any" in result.data["reproduce"]["recipe_yaml"]) == (budget.max_drop == float("inf"))


def test_quantized_candidates_are_built_gated_and_delivered(tmp_path: Path) -> None:
    task = tiny.untrained()
    task.plan = dataclasses.replace(task.plan, epochs=30)  # type: ignore[type-var]
    task.valid = tiny.TRAIN  # learned by heart, so that rounding has something to lose
    space = lc.SearchSpace(("onnxruntime", "openvino"), ("fp32",), quantize=("static", "weights", "mixed", "qat"), prune=())
    result = lc.optimize(task, lc.Budget(max_drop="any", objective="size"), out=tmp_path / "run", space=space, options=QUICK)
    found = by_key(result)
    static = {r["recipe"]["deploy"]["runtime"]: r for r in found.values() if "quantize static" in r["title"]}
    assert set(static) == {"onnxruntime", "openvino"}
    for record in static.values():
        assert record["status"] == "passed", record["reasons"]
        assert record["parity"]["sqnr_db"] > 20
        assert record["measured"]["size_bytes"]["value"] < found["onnxruntime-fp32"]["measured"]["size_bytes"]["value"]
        assert record["outcomes"][0]["changed"]["target"] == record["recipe"]["deploy"]["runtime"]
        assert record["outcomes"][0]["changed"]["operators"]
    lost = {name for name, record in static.items() if record["measured"]["drop"]["value"] > 0}
    for title in ("quantize mixed", "qat"):
        assert {r["recipe"]["deploy"]["runtime"] for r in found.values() if r["title"].startswith(title)} == lost
    assert "quantize" in str(result.data["reproduce"]["recipe_yaml"])
    assert result.met


def test_pruned_candidates_are_built_and_quantized_from_what_was_pruned(tmp_path: Path) -> None:
    space = lc.SearchSpace(("onnxruntime",), ("fp32",), quantize=("static",), prune=(0.6,))
    result = lc.optimize(tiny.task(), lc.Budget(max_drop="any", objective="size"), out=tmp_path / "run", space=space, options=QUICK)
    pruned, both = (r for r in by_key(result).values() if r["title"].startswith("prune"))
    assert [outcome["step"] for outcome in both["outcomes"]] == ["prune", "quantize"]
    assert both["outcomes"][0] == pruned["outcomes"][0]  # not done twice
    assert pruned["parity"]["max_rel"] < TOLERANCE["fp32"]
    assert (
        both["measured"]["size_bytes"]["value"]
        < pruned["measured"]["size_bytes"]["value"]
        < result.data["baseline"]["measured"]["size_bytes"]["value"]
    )
    before, after = pruned["outcomes"][0]["changed"]["macs"]
    assert after <= 0.6 * before


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


def test_candidates_that_go_wrong_fail_alone(faulty_package: None, tmp_path: Path) -> None:
    """Crash, hang, memory, NaN, wrong answers, a crash in the middle of timing, an exception: each is told, and the good one is found."""
    options = dataclasses.replace(QUICK, candidate_timeout_s=15, memory_limit_bytes=2_500_000_000)
    names = ("crash", "hang", "eat", "nan", "wrong", "late", "raises", "good")
    result = lc.optimize(tiny.task(), out=tmp_path / "run", space=lc.SearchSpace(names, ("fp32",), quantize=(), prune=()), options=options)
    found = {record["key"]: (record["status"], record["reasons"]) for record in result.data["candidates"]}
    told = {name: (found[f"{name}-fp32"][0], [reason["rule"] for reason in found[f"{name}-fp32"][1]]) for name in names}
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
    assert result.data["best"] == "good-fp32"
    assert "no such kernel" in found["raises-fp32"][1][0]["text"]


def test_steps_that_go_wrong_fail_alone(faulty_package: None, tmp_path: Path) -> None:
    from laconic.run.runner import STEPS

    step, target = STEPS.config("break"), lc.Target("onnxruntime")
    recipes = [lc.Recipe((step(how),), target) for how in ("crash", "hang", "raise", "fine")]
    task = tiny.task()
    task.ref = "tests.run.tiny:task"
    result = lc.optimize(task, out=tmp_path / "run", recipes=recipes, options=dataclasses.replace(QUICK, candidate_timeout_s=12))
    told = [(record["status"], [reason["rule"] for reason in record["reasons"]]) for record in result.data["candidates"]]
    assert told == [("failed", ["killed"]), ("failed", ["timeout"]), ("failed", ["error"]), ("passed", [])]
    assert result.data["candidates"][3]["outcomes"] == [
        {"step": "break", "changed": {"how": "fine"}, "skipped": [], "notes": [], "title": "break", "section": "", "bits": None}
    ]


def test_no_budget_met_gives_the_nearest_miss_and_the_reason(tmp_path: Path) -> None:
    budget = lc.Budget(min_speedup=10_000, max_size_mb=1000, max_latency_ms=1e4, objective="size")
    result = lc.optimize(
        tiny.task(), budget, out=tmp_path / "run", space=lc.SearchSpace(("onnxruntime",), quantize=(), prune=()), options=QUICK
    )
    assert not result.met
    assert result.best is None
    assert result.nearest is not None
    assert "at least 10000× is asked for" in result.verdict
    assert "its file size is not smaller than the baseline's" in result.verdict  # the baseline's size is that of the same ONNX file
    assert result.verdict in html.unescape((result.folder / "report.html").read_text())


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


SCRIPT = """
import sys
from pathlib import Path
import laconic as lc
from tests.run import tiny
from tests.run.test_end_to_end import QUICK
task = tiny.untrained()
lc.optimize(task, out=Path(sys.argv[1]), space=lc.SearchSpace(("onnxruntime", "openvino"), ("fp32",), quantize=(), prune=()), options=QUICK)
"""
# A file whose appearance is the moment of the kill; the run is started again after each.
# A few; `python -m benchmarks.campaign kills` kills at random ones, and others than the parent.
MOMENTS = (
    "training/checkpoint.safetensors",
    "models/base/onnx/model.onnx",
    "candidates/onnxruntime-fp32/timing.json",
    "timing",
)


def start(folder: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", SCRIPT, str(folder)], cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )


def without_times(value: Any) -> Any:
    """What must be equal: everything but what a clock, a load or a memory counter said, and what was chosen by it."""
    if isinstance(value, dict):
        changing = {
            "latency_ms",
            "latency_p95_ms",
            "latency_p99_ms",
            "speedup",
            "throughput_per_s",
            "cold_start_ms",
            "peak_memory_bytes",
            "seconds",
            "finished",
            "spent",
            "load_average",
            "first_speedup",
            "speedup_cpu",
            "comparison",
            "settled",
            "busy",
            "spread",
            "curve",
        }
        chosen = {
            "verdict",
            "headline",
            "certainty",
            "readings",
            "tied",
            "best",
            "nearest",
            "frontier",
            "test_metric",
            "test_drop",
            "reproduce",
            "status",
            "reasons",
            "met",
            "reason",
        }
        return {key: without_times(item) for key, item in value.items() if key not in changing | chosen}
    return [without_times(item) for item in value] if isinstance(value, list) else value


def test_killed_at_many_moments_it_resumes_to_the_same_result(tmp_path: Path) -> None:
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    seen = []
    for moment in MOMENTS:
        process = start(killed)
        deadline = time.monotonic() + 120
        while not (killed / moment).exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.002)
        if process.poll() is None:
            seen.append(moment)
            os.kill(process.pid, signal.SIGKILL)
        process.wait()
        assert process.stderr is not None
        process.stderr.close()
    assert len(seen) >= len(MOMENTS) - 1, f"only at {seen} was there anything to kill"
    for folder in (killed, whole):
        process = start(folder)
        _, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors.decode()
    found, expected = read_result(killed), read_result(whole)
    assert without_times(found) == without_times(expected)
    assert found["training"] != []
    assert lc.Program.load(killed / "program.pt2").fingerprint() == lc.Program.load(whole / "program.pt2").fingerprint()
    assert not list(killed.rglob(".writing-*"))
    assert json.loads((killed / "run.json").read_text())["format"] == FORMAT
