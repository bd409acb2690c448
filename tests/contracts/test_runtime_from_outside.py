"""A runtime of another package: an entry point, and no file of Laconic touched. It is then known wherever runtimes are."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import laconic as lc
from laconic.core.errors import BadInput
from laconic.deploy.artifact import save_artifact
from laconic.deploy.runtime import matrix, names, runtime
from laconic.run.recipe import parse
from tests import outside
from tests.run import tiny

SOURCE = """
import onnx
from onnx.reference import ReferenceEvaluator
from laconic.deploy.runtime import Runtime, Session


class Loaded(Session):
    def __init__(self, file):
        self.model = ReferenceEvaluator(str(file))

    def run(self, inputs):
        return self.model.run(None, dict(zip(self.model.input_names, inputs)))


class Reference(Runtime):
    name = "reference"
    title = "ONNX Reference"
    package = "onnx"
    format = "onnx"
    precisions = ("fp32",)
    folds_batch_norm = False
    quantizes = "onnxruntime"

    def available(self, precision="fp32", device="cpu"):
        return self.elsewhere(device) or (None if precision == "fp32" else "it computes in fp32")

    def load(self, file, target):
        return Loaded(file)


class Stranger:
    name = "stranger"
"""
ENTRY_POINTS = "[laconic.runtimes]\nreference = reference_laconic:Reference\nstranger = reference_laconic:Stranger\n"


@pytest.fixture
def _installed(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    yield from outside.install(tmp_path_factory.mktemp("outside"), monkeypatch, "reference_laconic", SOURCE, ENTRY_POINTS)


def laconic(*args: Any) -> str:
    done = subprocess.run([sys.executable, "-m", "laconic.cli", *map(str, args)], capture_output=True, text=True)
    assert done.returncode in (0, 3), done.stderr
    return done.stdout


@pytest.mark.usefixtures("_installed")
class TestReference:
    def test_it_stands_behind_the_others_and_titles_recipes(self) -> None:
        assert names()[-2:] == ["reference", "stranger"]
        assert lc.Recipe((), lc.Target("reference")).title == "ONNX Reference · fp32"
        assert parse({"deploy": {"runtime": "reference"}}).recipe.deploy.runtime == "reference"

    def test_a_class_that_is_no_runtime_is_told(self) -> None:
        with pytest.raises(BadInput, match="'stranger' is reference_laconic:Stranger, which is no laconic.deploy.runtime.Runtime"):
            runtime("stranger")

    def test_its_artifact_ships_with_the_script_of_its_format(self, tmp_path: Path) -> None:
        program = lc.capture(tiny.task().build(), tiny.VALID[0][0][None].repeat(2, 1, 1, 1))
        artifact = save_artifact(program, tmp_path / "artifact", lc.Target("reference"), {})
        script = (artifact.folder / "run.py").read_text(encoding="utf-8")
        assert "with ONNX Reference, without Laconic" in script
        assert "ort.InferenceSession" in script


@pytest.fixture
def _alone(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Installed without the class that is no runtime."""
    entry = ENTRY_POINTS.partition("stranger")[0]
    yield from outside.install(tmp_path_factory.mktemp("outside"), monkeypatch, "reference_laconic", SOURCE, entry)


@pytest.mark.usefixtures("_alone")
def test_doctor_tells_what_it_can() -> None:
    rows = {(row["precision"], row["device"]): row for row in matrix() if row["runtime"] == "reference"}
    assert rows["fp32", "cpu"]["ready"]
    assert rows["fp32", "cpu"]["title"] == "ONNX Reference"
    elsewhere = {device: row["why"] for (_, device), row in rows.items() if device != "cpu"}  # where another runtime runs there
    assert set(elsewhere.values()) <= {"Laconic runs ONNX Reference on cpu only"}
    assert "ONNX Reference" in laconic("doctor")


@pytest.mark.slow
@pytest.mark.usefixtures("_alone")
def test_it_is_searched_folded_quantized_and_reported(tmp_path: Path) -> None:
    space = lc.SearchSpace(("reference", "torch"), ("fp32",), threads=1, quantize=("static",), prune=())
    options = lc.Options(rounds=3, turn_seconds=0.01, candidate_timeout_s=120)
    result = lc.optimize(tiny.task(), lc.Budget(max_drop="any"), out=tmp_path / "run", space=space, options=options)
    told = {
        record["title"].removesuffix(" · 1 thread"): record
        for record in result.data["candidates"]
        if record["recipe"]["deploy"]["runtime"] == "reference"
    }
    assert {"ONNX Reference · fp32", "fold batch norm · ONNX Reference · fp32", "quantize static · ONNX Reference · int8"} <= set(told)
    assert all(record["runtime"] == "ONNX Reference" for record in told.values())
    assert told["quantize static · ONNX Reference · int8"]["outcomes"][-1]["changed"]["target"] == "onnxruntime"
    assert all(record["measured"]["latency_ms"]["value"] > 0 for record in told.values()), [record["reasons"] for record in told.values()]
    assert "ONNX Reference" in (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    answer = json.loads(laconic("report", tmp_path / "run", "--json"))
    assert answer["result"]["candidates"] == result.data["candidates"]


@pytest.mark.usefixtures("_alone")
def test_steps_take_the_placement_rules_that_it_names() -> None:
    program = lc.capture(tiny.task().build(), tiny.VALID[0][0][None].repeat(2, 1, 1, 1))
    context = lc.Context(task=tiny.task(), target=lc.Target("reference"), placement=runtime("reference").quantizes)
    from laconic.quantization.quantize import quantize

    _, outcome = quantize(program, lc.Quantize(examples=8), context)
    assert outcome.changed["target"] == "onnxruntime"
    with pytest.raises(BadInput, match="there are no placement rules for 'reference'"):
        quantize(program, lc.Quantize(examples=8), lc.Context(task=tiny.task(), target=lc.Target("reference")))
