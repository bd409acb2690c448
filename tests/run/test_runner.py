"""The registry of steps, and a step of another package: found by its entry point, known to recipes, gate and report by what its options tell."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import laconic as lc
from laconic.core.records import to_json
from laconic.run import runner
from laconic.run.gate import TOLERANCES, tolerance
from laconic.run.recipe import Recipe, parse
from laconic.run.runner import STEPS
from laconic.tasks.data import ArrayDataset
from tests.report.results import named, section

SOURCE = '''
import copy
from dataclasses import dataclass
import torch
import laconic as lc


@dataclass(frozen=True)
class Grid(lc.StepConfig):
    """Round all weights to a grid."""

    stage = "rounding"
    section = "grids"
    bits: int = 6

    def words(self):
        return f"grid of {self.bits} bits"

    def depends_on_target(self):
        return self.bits == 4

    def integer_bits(self):
        return self.bits


def grid(program, config, context):
    result = copy.deepcopy(program)
    levels = 2 ** (config.bits - 1) - 1
    rows = []
    with torch.no_grad():
        for name, value in result.named_parameters():
            step = value.abs().max() / levels
            value.copy_((value / step).round() * step)
            rows.append({"name": name, "step": float(step)})
    return result, lc.Outcome("grid", {"bits": config.bits, "tensors": rows})
'''


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    (tmp_path / "grid_laconic.py").write_text(SOURCE, encoding="utf-8")
    info = tmp_path / "grid_laconic-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: grid-laconic\nVersion: 1.0\n", encoding="utf-8")
    (info / "entry_points.txt").write_text("[laconic.steps]\ngrid = grid_laconic:Grid,grid\n", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    runner._table.cache_clear()
    yield
    runner._table.cache_clear()


def recipe(runtime: str = "onnxruntime", **options: Any) -> Recipe:
    return parse({"steps": [{"grid": options}], "deploy": {"runtime": runtime}}).recipe


def outcome(**options: Any) -> lc.Outcome:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)).eval()
    data = ArrayDataset(np.zeros((4, 4), np.float32), np.zeros(4, np.int64))
    context = lc.Context(lc.Task(net, data, data, loss=F.cross_entropy))
    _, (told,) = lc.apply(lc.capture(net, torch.randn(2, 4)), recipe(**options).steps, context)
    return told


@pytest.mark.usefixtures("installed")
class TestFromOutside:
    def test_recipes_know_its_options_and_its_words(self) -> None:
        assert "grid" in STEPS.names()
        assert recipe(bits=5).to_plain()["steps"] == [{"grid": {"bits": 5}}]
        assert recipe(bits=5).title == "grid of 5 bits · ONNX Runtime · int5"
        with pytest.raises(lc.BadInput, match=r"steps\[0\].grid.bit: unknown option. Did you mean 'bits'"):
            recipe(bit=5)

    @pytest.mark.parametrize(("bits", "keys"), [(5, 1), (4, 2)], ids=["the same everywhere", "of the runtime"])
    def test_what_depends_on_the_target_is_built_for_each(self, bits: int, keys: int) -> None:
        assert len({recipe(runtime, bits=bits).steps_key for runtime in ("onnxruntime", "openvino")}) == keys

    def test_the_gate_compares_what_it_rounds_by_signal_to_noise(self) -> None:
        told = outcome(bits=5)
        assert (told.rounds, told.bits) == (True, 5)
        assert tolerance("fp32", rounded=told.rounds) is TOLERANCES["rounded"]

    def test_the_report_has_its_section(self) -> None:
        made = named("met")
        made["candidates"][0]["outcomes"] = [to_json(outcome(bits=5))]
        told = section(made, "grids")
        assert told.lead == "OpenVINO · bf16: grid of 5 bits."
        assert told.settings[1:] == (("Bits", "5"),)
        assert [row[0] for row in told.listings[0].rows] == ["0.weight", "0.bias", "2.weight", "2.bias"]


def test_steps_are_there_by_name_and_by_options() -> None:
    assert set(STEPS.names()) >= set(runner.TABLE)
    for name in runner.TABLE:
        assert STEPS.name_of(STEPS.config(name)()) == name
