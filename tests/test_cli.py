"""The command line as a user meets it: in processes of its own where that is what is looked at, else in this one, which has loaded PyTorch already."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import laconic as lc
from laconic.cli import app
from laconic.run.store import read_result

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[1]
COMMANDS = ("optimize", "run", "bench", "inspect", "compare", "pick", "report", "levers", "doctor", "tasks")
QUICK = ("--runtimes", "onnxruntime", "--precisions", "fp32", "--quantize", "none", "--prune", "none", "--rounds", "6", "--threads", "1")
KEY = "onnxruntime-fp32-1t"


def laconic(*args: str | Path, cwd: Path = ROOT, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {
        **os.environ,
        "COLUMNS": "120",
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
        **variables,
    }
    return subprocess.run(
        [sys.executable, "-m", "laconic", *map(str, args)],
        cwd=cwd,
        env=environment,
        capture_output=True,
        encoding=variables.get("PYTHONIOENCODING", "utf-8"),
        check=False,
        timeout=300,
    )


def here(*args: str | Path) -> subprocess.CompletedProcess[str]:
    """What `laconic` returns, without a process of its own."""
    words = list(map(str, args))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["laconic", *words])
        done = CliRunner().invoke(app, words, env={"COLUMNS": "120"})
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return subprocess.CompletedProcess(words, done.exit_code, done.stdout, done.stderr)


def answer(done: subprocess.CompletedProcess[str]) -> Any:
    assert done.returncode in (0, 3), done.stderr
    assert done.stdout.count("\n") == 1, "one JSON object and nothing else"
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cli") / "run"
    done = laconic("optimize", "tests.run.tiny:task", *QUICK, "--out", folder)
    assert done.returncode == 0, done.stderr
    assert f"Report: {folder}/report.html" in done.stdout
    assert f"Ships:  {folder}/candidates/{KEY}/artifact" in done.stdout
    assert done.stdout.startswith("Budget met")
    assert "timing, interleaved" in done.stderr
    return folder


def test_another_budget_is_picked_from_a_finished_run(run_folder: Path, tmp_path: Path) -> None:
    before = read_result(run_folder)
    same = answer(here("pick", run_folder, "--json"))
    assert (same["best"], same["budget"], same["readings"]) == (before["best"], before["budget"], before["readings"])
    speedup = before["candidates"][0]["speedup"]
    missed = here("pick", run_folder, "--min-speedup", "1000", "--to", tmp_path / "page.html")
    assert missed.returncode == 3
    assert f"Relaxing one limit would do: at least {speedup['low']:.3g}"[:-1] in " ".join(missed.stdout.split())
    assert "Budget not met" in (tmp_path / "page.html").read_text(encoding="utf-8")
    assert read_result(run_folder) == before, "nothing of the run changed"
    unknown = here("pick", run_folder, "--objective", "size")
    assert (unknown.returncode, "did not measure: Packed size" in unknown.stderr) == (2, True)
    assert here("pick", tmp_path).returncode == 2


def test_one_run_answers_several_budgets(tmp_path: Path) -> None:
    done = here("optimize", "tests.run.tiny:task", *QUICK, "--frontier", "50,0.1", "--out", tmp_path / "run", "--json")
    found = answer(done)
    assert [one["budget"]["max_drop"] for one in found["budgets"]] == [0.1, 0.5, 50.0]
    for one in found["budgets"]:
        again = lc.pick(tmp_path / "run", {"max_drop": one["budget"]["max_drop"]})
        assert (again.data["best"], again.data["headline"]) == (one["best"], one["headline"])
    assert "One run, several budgets" in (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert "Handed over" in here("report", tmp_path / "run").stdout
    assert here("optimize", "tests.run.tiny:task", "--frontier", "0.1,x").returncode == 2


@pytest.mark.parametrize("command", COMMANDS)
def test_help_tells_every_option(command: str) -> None:
    done = here(command, "--help")
    assert done.returncode == 0
    assert "--json" in done.stdout
    assert len(done.stdout) > 300 or command in ("doctor", "tasks")


def test_the_bare_command_lists_the_commands() -> None:
    told = laconic("--help").stdout
    assert all(f"  {command} " in told for command in COMMANDS)
    assert "3 budget not met" in " ".join(told.split())
    assert laconic("--version").stdout.strip() == f"laconic {lc.__version__}"


def test_optimize_prints_its_result_as_json(run_folder: Path) -> None:
    found = answer(here("optimize", "tests.run.tiny:task", *QUICK, "--out", run_folder, "--json"))
    assert found == read_result(run_folder)


def test_what_was_given_reaches_the_budget(tmp_path: Path) -> None:
    """Told before any work: the folder holds a run of another budget."""
    (tmp_path / "run.json").write_text(
        '{"format": 1, "run": {"answers": {"ignore": null, "class_axis": null, "target": null}}}', encoding="utf-8"
    )
    done = here("optimize", "tests.run.tiny:task", *QUICK, "--out", tmp_path, "--max-drop", "any", "--confident", "--wait-quiet")
    assert done.returncode == 2
    assert "'max_drop': 'any'" in done.stderr
    assert "'confident': True" in done.stderr
    assert "wait_quiet" not in done.stderr


@pytest.mark.parametrize("encoding", ["cp1252", "ascii"])
def test_a_report_is_shown_on_any_console(run_folder: Path, encoding: str) -> None:
    for args in (("report", run_folder), ("report", run_folder, "--json")):
        done = laconic(*args, PYTHONIOENCODING=encoding)
        assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["result"] == read_result(run_folder)


def test_a_run_out_of_time_has_tried_nothing_and_files_are_utf8_in_the_locale_c(tmp_path: Path) -> None:
    """Commands and recipes with letters; Python decodes arguments as ASCII there and keeps the bytes of the others."""
    plain = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    folder = tmp_path / "run"
    done = laconic("optimize", "tests.run.tiny:task", *QUICK, "--time-limit", "0.001", "--data", "Größe", "--out", folder, **plain)
    assert done.returncode == 3, done.stderr
    assert done.stdout.startswith("Nothing was tried: 1 candidate was not tried")
    assert "--data 'Größe'" in json.loads((folder / "result.json").read_text(encoding="utf-8"))["reproduce"]["command"]
    assert "Größe" in (folder / "report.html").read_text(encoding="utf-8")
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("# Größe\ntask: nosuchtask\nsteps: [fold_batch_norm]\n", encoding="utf-8")
    done = laconic("run", recipe, **plain)
    assert (done.returncode, "nosuchtask" in done.stderr) == (2, True)


def test_run_carries_out_the_recipe_that_a_run_tells_and_a_budget_that_nothing_meets_exits_with_3(run_folder: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(read_result(run_folder)["reproduce"]["recipe_yaml"], encoding="utf-8")
    done = here("run", recipe, "--out", tmp_path / "again", "--max-size", "0.000001", "--json")
    assert done.returncode == 3
    found = answer(done)
    assert [record["key"] for record in found["candidates"]] == [KEY]
    assert found["candidates"][0]["measured"]["drop"]["value"] == 0
    assert (found["met"], found["best"], found["nearest"]) == (False, None, KEY)
    assert "Run: " in done.stderr


def test_report_writes_the_page_again(run_folder: Path, tmp_path: Path) -> None:
    done = here("report", run_folder, "--to", tmp_path / "page.html")
    assert done.returncode == 0
    assert (tmp_path / "page.html").read_bytes() == (run_folder / "report.html").read_bytes()
    assert "Budget met" in done.stdout
    assert answer(here("report", run_folder, "--json"))["result"]["met"] is True


def test_bench_compares_two_artifacts(run_folder: Path) -> None:
    best, base = (run_folder / "candidates" / key / "artifact" for key in (KEY, "torch-fp32-1t"))
    found = answer(here("bench", best, "--vs", base, "--batch", "1,4", "--rounds", "3", "--json"))
    rows = [(row["name"].split(" ")[0], row["batch"]) for row in found["timings"]]
    assert rows == [("baseline", 1), ("artifact", 1), ("baseline", 4), ("artifact", 4)]
    assert all((row["speedup"] is None) == row["name"].startswith("baseline") for row in found["timings"])
    told = here("bench", best / "model.onnx", "--runtime", "openvino", "--rounds", "3", "--threads", "1")
    assert told.returncode == 0, told.stderr
    assert "artifact (openvino, fp32)" in " ".join(told.stdout.split())
    assert "Timing(" not in told.stdout


def test_compare_prints_a_table_and_writes_a_page(tmp_path: Path) -> None:
    args = (
        "compare",
        "lr",
        "tests.run.tiny:untrained",
        "--epochs",
        "1",
        "--seeds",
        "2",
        "--fraction",
        "0.5",
        "--choices",
        "one_cycle",
        "--out",
        tmp_path / "c",
    )
    done = here(*args)
    assert done.returncode == 0, done.stderr
    assert "Learning rates of tiny" in done.stdout
    assert "one_cycle, seed 1: " in done.stderr
    assert f"Report: {tmp_path}/c/report.html" in done.stdout
    assert "plot-curves" in (tmp_path / "c" / "report.html").read_text(encoding="utf-8")
    assert [row["name"] for row in answer(here(*args, "--json"))["rows"]] == ["constant", "one_cycle"]


def test_inspect_doctor_and_tasks() -> None:
    done = here("inspect", "tests.run.tiny:task", "--json", "--quiet")
    layers = answer(done)
    assert done.stderr == ""
    assert layers["params"] + layers["unused_params"] == sum(layer["params"] for layer in layers["layers"]) > 0
    assert layers["inputs"][0]["shape"] == ["batch", 1, 8, 8]
    assert (layers["groups"][0]["name"], layers["groups"][0]["removed"], layers["sensitivity"]) == (
        "stem",
        4,
        {"share": 0.5, "examples": 32},
    )
    told = laconic("inspect", "tests.run.tiny:task")
    assert "sensitivity: " in told.stderr
    for words in ("Conv2d", "What can be pruned", "Output with half gone", "70.6 % of output channels can be removed"):
        assert words in told.stdout
    health = answer(here("doctor", "--json"))
    assert {row["runtime"] for row in health["runtimes"]} >= {"torch", "torch.compile", "torchscript", "onnxruntime", "openvino"}
    assert health["extras"]["search"] == []
    assert bool(health["energy"]["cpu"]["counters"]) != bool(health["energy"]["cpu"]["why"])
    assert "processor" in here("doctor").stdout
    assert "digits" in {row["name"] for row in answer(here("tasks", "--json"))}
    assert "resnet8" in here("tasks").stdout


def test_inspect_without_sensitivity_runs_nothing() -> None:
    told = here("inspect", "tests.run.tiny:task", "--no-sensitivity")
    assert told.returncode == 0
    assert "sensitivity: " not in told.stderr
    assert "Output with half gone" not in told.stdout
    assert "note: the sensitivity of groups was not measured, as asked" in told.stdout
    assert answer(here("inspect", "tests.run.tiny:task", "--no-sensitivity", "--json"))["groups"][0]["sqnr_db"] is None


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("optimize", "digit"), "'digit' is not a built-in task. Did you mean 'digits'"),
        (("optimize", "digits", "--max-drop", "-1", "--min-speedup", "0"), "(?s)max_drop: -1.0 must be.*min_speedup: 0.0 must be"),
        (("optimize", "digits", "--runtimes", "onnxruntim"), "Did you mean 'onnxruntime'"),
        (("optimize", "digits", "--time-limit", "soon"), "time limit 'soon'"),
        (
            ("optimize", "digits", "--objective", "beauty"),
            "objective: 'beauty'; choose from latency, p95, size, memory, macs, flash, ram, throughput",
        ),
        (("optimize", "digits", "--max-drop", "much"), "max_drop: 'much' is not a number, nor 'any'"),
        (("optimize", "digits", "--threads", "many"), "should be a valid integer"),
        (("optimize",), "(?i)missing argument 'TASK'"),
        (("optimise", "digits"), "(?i)no such command 'optimise'"),
        (("run", "nowhere.yaml"), "there is no recipe file nowhere.yaml"),
        (("bench", "nowhere.onnx"), "there is no artifact nowhere.onnx"),
        (("bench", "README.md"), "not a model file that Laconic runs"),
        (("inspect", "no.such.module:task"), "there is no module"),
        (("report", "tests"), "tests holds no run"),
        (("compare", "augmen", "digits"), "'augmen'. Did you mean 'augment'"),
        (("compare", "lr", "digits", "--choices", "cosin"), "Did you mean 'cosine'"),
        (("compare", "lr", "digits", "--out", "s3://bucket/run"), "only runs of optimize and run are mirrored"),
    ],
)
def test_wrong_input_is_told_and_exits_with_2(args: tuple[str, ...], said: str) -> None:
    check_wrong(here(*args), said)


def check_wrong(done: subprocess.CompletedProcess[str], said: str) -> None:
    assert done.returncode == 2, (done.stdout, done.stderr)
    assert re.search(said, done.stderr)
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_wrong_input_ends_the_process_likewise() -> None:
    check_wrong(laconic("optimize", "digit"), "'digit' is not a built-in task. Did you mean 'digits'")


def test_ctrl_c_keeps_the_best_so_far_and_the_run_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = ["optimize", "tests.run.tiny:task", *QUICK, "--runtimes", "onnxruntime,torchscript,torch.compile", "--max-drop", "any"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    process = subprocess.Popen(
        [sys.executable, "-m", "laconic.cli", *command],
        cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob("laconic-runs/*/candidates/torchscript-fp32-1t")) and time.monotonic() < deadline:
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    folder = next(tmp_path.glob("laconic-runs/*")).relative_to(tmp_path)
    best = folder / "candidates" / KEY
    said = f"Interrupted. The best so far, ONNX Runtime · fp32 · 1 thread, is in {best / 'artifact'}. What was finished is kept; to go on:"
    assert said in errors
    assert f"--out {folder}" in errors
    known = read_result(tmp_path / folder)
    assert known["stopped"] is not None
    assert (known["stopped"]["by"], known["stopped"]["tried"], known["stopped"]["of"]) == ("interrupt", 1, 3)
    assert "no test data was read" in known["verdict"]
    assert (tmp_path / folder / "report.html").exists()
    timed = (tmp_path / best / "timing.json").stat().st_mtime_ns
    monkeypatch.chdir(tmp_path)
    done = here(*command, "--time-limit", "0.001s", "--out", folder, "--json")
    result = answer(done)
    assert "Goes on: laconic optimize tests.run.tiny:task" in done.stderr
    assert (result["best"], result["stopped"]["by"], result["stopped"]["tried"]) == (KEY, "time limit", 1)
    assert (tmp_path / best / "timing.json").stat().st_mtime_ns == timed


HELD_UP = """
import hashlib, sys
from pathlib import Path
from laconic.cli import interrupt
interrupt._PATIENCE_S = float(sys.argv[1])
with interrupt.resumable(Path("my run")):
    print("ready", flush=True)
    hashlib.pbkdf2_hmac("sha256", b"", b"", 2**31 - 1)  # minutes in C, which hears no signal
"""


@pytest.mark.parametrize(("patience", "presses"), [("0.2", 1), ("60", 2)], ids=["held up", "pressed twice"])
def test_ctrl_c_ends_a_command_that_does_not_listen(patience: str, presses: int) -> None:
    process = subprocess.Popen([sys.executable, "-c", HELD_UP, patience], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    for _ in range(presses):
        time.sleep(0.3)
        process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 130, errors
    assert ("to go on: laconic 0.2 --out 'my run'" in errors) is (presses == 1)


SWALLOWED = """
import contextlib, signal, sys
from pathlib import Path
import typer
import laconic as lc
from laconic.cli.interrupt import resumable
signal.signal(signal.SIGINT, signal.default_int_handler)
try:
    with resumable(Path(sys.argv.pop()) / "my run"):
        with contextlib.suppress(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        raise lc.MissingExtra("initialization failed")
except typer.Exit as stopped:
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    sys.exit(stopped.exit_code)
"""


def test_an_interruption_that_a_library_swallowed_is_one(tmp_path: Path) -> None:
    """Compiled modules that are being imported turn it into an ImportError."""
    done = subprocess.run([sys.executable, "-c", SWALLOWED, "optimize", "digits", tmp_path], capture_output=True, text=True, timeout=60)
    assert done.returncode == 130, done.stderr
    assert f"optimize digits --out '{tmp_path}/my run'" in done.stderr


def test_the_example_of_the_readme_runs(tmp_path: Path) -> None:
    found = answer(laconic("optimize", "examples.own_task:waves", *QUICK, "--out", tmp_path / "run", "--json"))
    assert found["met"]
    assert found["baseline"]["measured"]["test_metric"]["value"] > 90
