"""Runs as a list, two runs side by side, and a run in MLflow."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console, RenderableType
from typer.testing import CliRunner

from laconic.cli import app
from laconic.core.errors import BadInput
from laconic.report.runs import listing, runs
from laconic.report.side_by_side import side_by_side, table, write_page
from laconic.report.tracking import log_to_mlflow
from tests.report.results import Json, named
from tests.report.test_page import Reader, words

RUN = CliRunner()


def told(drawn: RenderableType, width: int = 80) -> str:
    console = Console(file=io.StringIO(), width=width, record=True)
    console.print(drawn)
    return console.export_text()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Runs that ended in every way."""
    made: dict[str, Callable[[Json], Any]] = {
        "met": lambda result: result.update(finished="2026-11-23T08:43:47+00:00"),
        "not-met": lambda result: result.update(finished="2026-11-24T08:43:47+00:00"),
        "quantized": lambda result: result.update(
            finished="2026-11-22T08:43:47+00:00", stopped={"by": "time limit", "after_s": 60.0, "tried": 3, "of": 9, "told": "…"}
        ),
    }
    for name, change in made.items():
        result = named(name)
        change(result)
        write(tmp_path / name, result)
    write(tmp_path / "begun", None)
    write(tmp_path / "damaged", {"format": 2, "candidates": 3})
    (tmp_path / "other").mkdir()
    return tmp_path


def write(folder: Path, result: Json | None) -> None:
    folder.mkdir()
    manifest = {"task": "mypkg.tasks:cifar", "budget": {"max_drop": 0.5, "min_speedup": None, "objective": "latency"}}
    (folder / "run.json").write_text(json.dumps({"format": 2, "run": manifest}))
    if result is not None:
        (folder / "result.json").write_text(json.dumps(result))


def test_every_run_is_a_row_the_latest_first(folder: Path) -> None:
    rows = {Path(row["folder"]).name: row for row in runs(folder)}
    finished = [name for name in rows if name in ("met", "not-met", "quantized")]
    assert finished == ["not-met", "met", "quantized"]
    assert set(rows) == {*finished, "begun", "damaged"}
    met = rows["met"]
    assert (met["state"], met["badge"], met["winner"]) == ("finished", "Budget met", "OpenVINO · bf16")
    assert met["artifact"] == str(folder / "met" / "candidates/openvino-bf16/artifact")
    assert met["speedup"] == {"value": 6.93, "unit": "x", "low": 6.71, "high": 7.18}
    assert met["budget"] == {"max_drop": 0.5, "objective": "latency"}
    assert (rows["not-met"]["badge"], rows["not-met"]["winner"], rows["not-met"]["speedup"]) == ("Budget not met", "", None)
    assert rows["quantized"]["state"] == "stopped"
    assert (rows["begun"]["state"], rows["begun"]["task"]) == ("unfinished", "mypkg.tasks:cifar")
    assert rows["damaged"]["state"] == "unreadable"
    assert "should hold tables" in rows["damaged"]["verdict"]


def test_one_run_is_a_list_too_and_an_empty_folder_says_what_to_do(folder: Path) -> None:
    assert [row["winner"] for row in runs(folder / "met")] == ["OpenVINO · bf16"]
    assert runs(folder / "other") == []
    assert "no runs here" in told(listing([]))
    with pytest.raises(BadInput, match="there is no folder"):
        runs(folder / "absent")


def test_the_list_fits_a_narrow_terminal(folder: Path) -> None:
    lines = told(listing(runs(folder))).splitlines()
    assert max(map(len, lines)) <= 80
    text = " ".join(" ".join(lines).split())
    for said in ("met", "Budget not met", "6.93×", "−0.04 points", "max_drop 0.5; best latency", "stopped", "unfinished"):
        assert said in text


def test_the_command_prints_one_json_object(folder: Path) -> None:
    done = RUN.invoke(app, ["runs", str(folder), "--json"])
    assert (done.exit_code, done.stdout.count("\n")) == (0, 1)
    assert json.loads(done.stdout) == runs(folder)
    assert RUN.invoke(app, ["runs", str(folder / "absent")]).exit_code == 2


# Side by side ------------------------------------------------------------------------------------------------------------------------


def test_two_runs_are_compared_candidate_by_candidate(folder: Path) -> None:
    both = side_by_side(folder / "met", folder / "quantized")
    assert (both.a, both.b) == ("met", "quantized")
    about = {line.label: line for line in both.runs}
    assert not about["Task"].differs
    assert about["Tried"].b == "9 candidates"
    delivered = {line.label: line for line in both.delivered}
    assert (delivered["Speed-up"].a, delivered["Speed-up"].b) == ("6.93× (6.71 to 7.18)", "10.20× (9.90 to 10.60)")
    assert delivered["Speed-up"].differs
    assert delivered["Accuracy on test data"].b == "–"
    tried = {line.label: line for line in both.candidates}
    assert (tried["OpenVINO · int8"].a, tried["OpenVINO · int8"].b) == ("–", "passed, 11.60×, loses 0.24\xa0points")
    assert not tried["OpenVINO · fp32"].differs


def test_other_machines_and_batches_are_told(folder: Path) -> None:
    result = named("met")
    result["environment"]["processor"], result["batch"] = "another", 8
    write(folder / "elsewhere", result)
    notes = " ".join(side_by_side(folder / "met", folder / "elsewhere").notes)
    assert "different machines" in notes
    assert "1 and 8 examples" in notes
    assert "laconic bench" in " ".join(side_by_side(folder / "met", folder / "met").notes)


def test_what_one_alone_tried_where_the_time_went_and_winner_against_winner_are_told(folder: Path) -> None:
    for name, budgets in (("one", ["lose at most 1 point"]), ("two", ["lose at most 1 point", "lose at most 2 points"])):
        result = named("met" if name == "one" else "searched")
        result["budgets"] = [{"told": told, "met": True, "best": "openvino-bf16", "budget": {}} for told in budgets]
        if name == "two":
            best = next(record for record in result["candidates"] if record["key"] == result["best"])
            best["measured"]["size_bytes"]["value"] /= 2
            best["measured"]["speedup"]["value"] = 3.465
            best["measured"]["drop"]["value"] += 0.25
            result["candidates"] = result["candidates"][:1] + result["candidates"][2:]
            result["budget"]["max_drop"] = 1.0
        write(folder / name, result)
    both = side_by_side(folder / "one", folder / "two")
    parts = dict(both.parts)
    assert list(parts) == [
        "The runs", "What each delivers", "The answers to each budget", "Where the time went", "Candidates of both", "Tried by one alone", "Tried by two alone",
    ]  # fmt: skip
    assert [line.label for line in parts["Tried by one alone"]] == ["ONNX Runtime · fp32"]
    assert len(parts["Tried by two alone"]) == 24
    change = {line.label: line.change for line in both.delivered}
    assert (change["Speed-up"], change["File size"]) == ("2\u00a0× slower", "2\u00a0× smaller") or (
        change["Speed-up"],
        change["File size"],
    ) == (
        "2.00× slower",
        "2.00× smaller",
    )
    assert change["Accuracy drop on validation data"] == "0.25\u00a0points more"
    assert [(line.a, line.b) for line in both.answers] == [("OpenVINO · bf16",) * 2, ("–", "OpenVINO · bf16")]
    assert {line.label: (line.a, line.b) for line in both.spent}["Training candidates"] == ("–", "1\u00a0min 00\u00a0s, 31.6\u00a0%")
    assert "They were asked for different things" in both.notes[0]
    page = write_page(both, folder / "apart.html").read_text(encoding="utf-8")
    assert "the second, against the first" in page


def test_it_is_a_table_and_a_page_that_asks_nothing(folder: Path, tmp_path: Path) -> None:
    both = side_by_side(folder / "met", folder / "not-met")
    lines = told(table(both)).splitlines()
    assert max(map(len, lines)) <= 80
    made = write_page(both, tmp_path / "both.html").read_text(encoding="utf-8")
    read = Reader(made)
    assert "OpenVINO · bf16 (nearest miss)" in words(read.seen)
    assert not [attrs for _, attrs in read.tags for name in ("src", "href") if name in attrs]
    done = RUN.invoke(
        app, ["report", "--compare", str(folder / "met"), str(folder / "not-met"), "--to", str(tmp_path / "b.html"), "--json"]
    )
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout.splitlines()[0])["a"] == "met"
    assert (tmp_path / "b.html").read_text(encoding="utf-8") == made


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("--compare", "{}/met", "{}/begun"), "is not finished"),
        (("{}/met", "--compare", "{}/met", "{}/met"), "is a third"),
        ((), "give the folder of a finished run"),
    ],
    ids=["not finished", "three", "none"],
)
def test_what_cannot_be_compared_is_told(folder: Path, args: tuple[str, ...], said: str) -> None:
    done = RUN.invoke(app, ["report", *(arg.format(folder) for arg in args)])
    assert done.exit_code == 2
    assert said in " ".join(done.output.split())


# MLflow ------------------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def logged(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Any]:
    """Logs a run to MLflow's folder of files, and reads it back from there."""
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    mlflow.set_tracking_uri((folder / "mlruns").as_uri())

    def log(name: str) -> Any:
        run = mlflow.get_run(log_to_mlflow(folder / name, named(name)))
        files = {path.name for path in (folder / "mlruns").rglob(f"{run.info.run_id}/artifacts/**/*") if path.is_file()}
        under = mlflow.search_runs(filter_string=f"tags.`mlflow.parentRunId` = '{run.info.run_id}'", output_format="list")
        return SimpleNamespace(
            under={one.data.tags["laconic.key"]: one for one in under},
            name=run.info.run_name,
            status=run.info.status,
            files=files,
            **run.data.to_dictionary(),
        )

    return log


def test_a_run_is_logged_with_params_metrics_artifact_and_page(folder: Path, logged: Callable[[str], Any]) -> None:
    (folder / "met" / "report.html").write_text("…")
    (folder / "met" / "candidates/openvino-bf16/artifact").mkdir(parents=True)
    (folder / "met" / "candidates/openvino-bf16/artifact/model.onnx").write_bytes(b"onnx")
    run = logged("met")
    assert (run.name, run.status, run.tags["laconic.met"]) == ("met", "FINISHED", "True")
    assert (run.params["budget.max_drop"], run.params["deploy.runtime"]) == ("0.5", "openvino")
    assert (run.metrics["speedup"], run.metrics["speedup.low"], run.metrics["baseline.latency_ms"]) == (6.93, 6.71, 2.44)
    assert run.files == {"result.json", "report.html", "model.onnx"}
    assert set(run.under) == {record["key"] for record in named("met")["candidates"]}  # each candidate is a run under it
    one, failed = run.under["onnxruntime-fp32"], run.under["torchscript-bf16"]
    assert (one.info.run_name, one.info.status, one.data.tags["laconic.status"]) == ("ONNX Runtime · fp32", "FINISHED", "passed")
    assert (one.data.params["steps"], one.data.params["deploy.threads"]) == ('["fold_batch_norm"]', "2")
    assert (one.data.metrics["speedup"], one.data.metrics["speedup.high"]) == (4.36, 4.5)
    assert (failed.info.status, failed.data.metrics) == ("FAILED", {"seconds": 61.2})
    assert failed.data.tags["laconic.why"].startswith("timeout: no answer within 60 s")


def test_the_nearest_miss_is_logged_without_its_file(logged: Callable[[str], Any]) -> None:
    run = logged("not-met")
    assert run.files == {"result.json"}
    assert run.params["chosen"] == "OpenVINO · bf16"


def test_without_mlflow_the_option_is_refused_before_any_work(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name, *rest: None)
    done = RUN.invoke(app, ["optimize", "no-such-task", "--mlflow", "--out", str(tmp_path / "run")])
    assert done.exit_code == 2
    assert "laconic[mlflow]" in " ".join(done.output.split())
    assert not (tmp_path / "run").exists()


def test_a_page_without_figures_brings_no_plotting_library(folder: Path) -> None:
    page = write_page(side_by_side(folder / "met", folder / "not-met"), folder / "both.html").read_text(encoding="utf-8")
    assert "plotly.js" not in page
    assert page.rstrip().endswith("</html>")
