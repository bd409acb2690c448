"""Laconic extended from outside: the package in `outside/` adds one of everything, and each works in `optimize`, recipe, command line, gate and report.

All runs in processes of their own with that package on their path, as after `pip install acme-laconic`; no file of Laconic knows of it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
OUTSIDE = Path(__file__).parent / "outside"
TASK = "tests.run.tiny:task"
RECIPE = """\
steps:
- prune:
    macs: 0.7
    criterion: acme_l3
    recovery: {epochs: 1, lr: 0.001, distill: 0.5, soft: acme_absolute, augment: [{name: acme_shift, strength: 0.5}]}
- acme_snap: {share: 0.2}
deploy: {runtime: acme_rt, threads: 1}
"""


def environment(outside: bool = True) -> dict[str, str]:
    """Variables with which the package is found, or is not."""
    places = [str(OUTSIDE)] * outside + [str(ROOT / "src"), str(ROOT)]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(places), "OMP_NUM_THREADS": "1"}


def ran(*arguments: str, codes: tuple[int, ...] = (0, 3)) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "laconic.cli", *arguments, "--json"],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode in codes, done.stderr
    return dict(json.loads(done.stdout.splitlines()[-1]))


@pytest.fixture(scope="module")
def optimized(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    """A search over the step and the runtime from outside, whose best is that of the quantity from outside, within a limit of it."""
    out = tmp_path_factory.mktemp("acme") / "run"
    names = (
        "--try",
        "acme_snap,onnxruntime,acme_rt",
        "--max-drop",
        "any",
        "--objective",
        "acme_energy",
        "--limit",
        "max_acme_energy_mj=1e6",
    )
    return ran("optimize", TASK, *names, "--rounds", "5", "--threads", "1", "--out", str(out)), out


@pytest.fixture(scope="module")
def carried_out(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    """A recipe with criterion, augmentation, loss, step and runtime from outside, and a limit that nothing holds."""
    folder = tmp_path_factory.mktemp("acme")
    (folder / "recipe.yaml").write_text(RECIPE + "budget: {max_drop: any, max_acme_energy_mj: 1e-9}\n", encoding="utf-8")
    return ran("run", str(folder / "recipe.yaml"), "--task", TASK, "--out", str(folder / "run"), codes=(3,)), folder / "run"


def recipes(result: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {row["title"].removesuffix(" · 1 thread"): row for row in result["candidates"]}


def test_a_lever_and_a_runtime_are_searched(optimized: tuple[dict[str, Any], Path]) -> None:
    result, _ = optimized
    tried = recipes(result)
    measured = {title for title, row in tried.items() if row["status"] in ("passed", "rejected")}
    assert measured >= {"Acme RT · fp32", "snap 10 % · Acme RT · fp32", "snap 10 % · ONNX Runtime · fp32"}
    step = tried["snap 10 % · Acme RT · fp32"]["outcomes"][0]
    assert (step["step"], step["title"], step["section"]) == ("acme_snap", "snap 10 %", "acme")
    assert step["changed"]["zeroed_weights"] > 0


def test_a_quantity_is_measured_of_every_candidate_and_orders_them(optimized: tuple[dict[str, Any], Path]) -> None:
    result, _ = optimized
    timed = [row for row in (result["baseline"], *result["candidates"]) if row["measured"].get("latency_ms")]
    assert len(timed) > 3
    for row in timed:
        assert row["measured"]["acme_energy_mj"]["value"] == pytest.approx(5 * row["measured"]["latency_ms"]["value"])
    chosen = next(row for row in result["candidates"] if row["key"] == (result["best"] or result["nearest"]))
    assert chosen["measured"]["acme_energy_mj"]["value"] < result["baseline"]["measured"]["acme_energy_mj"]["value"]


def test_a_limit_of_a_quantity_is_judged_by_the_gate(carried_out: tuple[dict[str, Any], Path]) -> None:
    result, _ = carried_out
    (row,) = result["candidates"]
    assert row["status"] == "rejected"
    assert "budget:max_acme_energy_mj" in [reason["rule"] for reason in row["reasons"]]
    assert not result["met"]


def test_a_recipe_prunes_trains_and_deploys_with_them(carried_out: tuple[dict[str, Any], Path]) -> None:
    result, _ = carried_out
    (row,) = result["candidates"]
    pruned, snapped = row["outcomes"]
    assert pruned["changed"]["criterion"] == "acme_l3"
    told = pruned["changed"]["recovery"]
    assert "acme_shift" in json.dumps(told)
    assert "acme_absolute" in json.dumps(told)
    assert snapped["changed"]["zeroed_weights"] > 0
    assert row["recipe"]["deploy"]["runtime"] == "acme_rt"
    assert row["parity"]["max_rel"] < 1e-3


@pytest.mark.parametrize("run", ["optimized", "carried_out"])
def test_the_report_tells_of_them(run: str, request: pytest.FixtureRequest) -> None:
    _, out = request.getfixturevalue(run)
    page = (out / "report.html").read_text(encoding="utf-8")
    for word in ("Acme RT", "Energy of a call", "snap", "zeroed weights"):
        assert word.lower() in page.lower(), word


MANY = """
import json, sys
from typer.testing import CliRunner
from laconic.cli import app
done = [CliRunner().invoke(app, words) for words in json.loads(sys.argv[1])]
print(json.dumps([[one.exit_code, one.stdout, one.stderr] for one in done]))
"""


def in_one_process(*commands: Sequence[str], outside: bool = True) -> list[tuple[int, str, str]]:
    """What each command ends with, prints, and says beside."""
    done = subprocess.run(
        [sys.executable, "-c", MANY, json.dumps(commands)], cwd=ROOT, env=environment(outside), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return [tuple(one) for one in json.loads(done.stdout.splitlines()[-1])]


COMMANDS = {
    "levers": (("levers", "--json"), ("acme_snap", "set the smallest weights to zero", "acme_rt")),
    "levers of a task": (("levers", TASK, "--json"), ("acme_snap", "acme_rt")),
    "doctor": (("doctor",), ("acme_rt",)),
    "help": (("optimize", "--help"), ("--limit",)),
    "operators": (("inspect", "acme_laconic:doubled", "--no-sensitivity", "--json"), ()),
}


@pytest.fixture(scope="module")
def printed() -> dict[str, str]:
    """What the commands print, by their names."""
    done = in_one_process(*(arguments for arguments, _ in COMMANDS.values()))
    assert [code for code, _, _ in done] == [0] * len(COMMANDS), done
    return {name: stdout for name, (_, stdout, _) in zip(COMMANDS, done, strict=True)}


@pytest.mark.parametrize("name", COMMANDS)
def test_the_command_line_lists_them(name: str, printed: dict[str, str]) -> None:
    assert all(word in printed[name] for word in COMMANDS[name][1]), printed[name]


OPERATORS_FROM_OUTSIDE = """\
import dataclasses, json
import laconic as lc, torch, acme_laconic
from laconic.pruning import rules
from laconic.pruning.proof import prove, random_choice
from laconic.pruning.surgery import remove

program = lc.capture(acme_laconic.Twice().eval(), torch.randn(2, 8))
rows, told = dict(rules.table()), {}

def tried(changed):
    rules.table = lambda: {**rows, **changed}
    coupling = lc.couple(program)
    if not coupling.groups:
        return [0, "nothing to remove"]
    keep = random_choice(coupling, 0.5)
    try:
        return [coupling.prunable()[0], prove(coupling, keep, remove(coupling, keep)).difference]
    except lc.LaconicError as error:
        return [coupling.prunable()[0], str(error)]

centered = rows["centered"]
told["as they are"] = tried({})
told["no edit"] = tried({"centered": dataclasses.replace(centered, edit=None)})
told["no mask"] = tried({"centered": dataclasses.replace(centered, mask=None)})
rows.pop("twice")
told["no rule"] = tried({})
print(json.dumps(told))
"""


def test_operators_with_rules_are_pruned_through_and_proven(printed: dict[str, str]) -> None:
    """Without its rule an operator freezes the hidden units; without its edit or its mask the proof fails."""
    shown = json.loads(printed["operators"])
    done = subprocess.run([sys.executable, "-c", OPERATORS_FROM_OUTSIDE], env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["as they are"][0] == 16
    assert told["as they are"][1] < 1e-5
    assert "does not compute what the masked one does" in told["no edit"][1]
    assert "does not compute what the masked one does" in told["no mask"][1]
    assert told["no rule"] == [0, "nothing to remove"]
    assert shown["no_rule"] == {}
    assert shown["prunable"]["channels"] == 16


def test_without_the_package_its_names_are_unknown(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(RECIPE, encoding="utf-8")
    run, optimize = in_one_process(
        ("run", str(tmp_path / "recipe.yaml"), "--task", TASK), ("optimize", TASK, "--limit", "max_acme_energy_mj=1"), outside=False
    )
    assert (run[0], optimize[0]) == (2, 2)
    assert "'acme_snap' is not a step" in run[2]
    assert "'acme_rt' is not a runtime" in run[2]
    assert "max_acme_energy_mj" in optimize[2]
