"""A task with a part: what is captured, what it is given, and that all figures of quality are those of the whole model."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import laconic as lc
from laconic.core.errors import BadInput, CaptureError
from laconic.core.part import Part
from laconic.run.inspect import inspect
from laconic.tasks.data import ArrayDataset
from tests.run import detector

ROOT = Path(__file__).parents[2]
QUICK = lc.Options(rounds=3, turn_seconds=0.01, candidate_timeout_s=60)


@pytest.fixture(scope="module")
def task() -> lc.Task:
    return detector.task()


@pytest.fixture(scope="module")
def images(task: lc.Task) -> Tensor:
    return torch.stack([task.valid[i][0] for i in range(4)])


def test_the_whole_cannot_be_captured_and_the_part_can(task: lc.Task, images: Tensor) -> None:
    with pytest.raises(CaptureError, match=r"aten\.unbind.*Task\(part='backbone'\) \(100 % of the parameters\) can be captured"):
        lc.capture(task.build(), images)
    found = inspect(task, sensitivity=False)
    assert (found["part"], [spec["name"] for spec in found["inputs"]], [spec["name"] for spec in found["outputs"]]) == (
        "backbone",
        ["x"],
        ["map"],
    )


def test_a_part_is_given_what_forward_gives_it(task: lc.Task, images: Tensor) -> None:
    cut = task.cut()
    (given,) = cut.inputs(images)
    assert torch.equal(given, 2 * images)
    assert cut.module is task.build().get_submodule("backbone")
    whole = task.build()(images)
    again = cut.outputs(images, cut.module(given))
    assert all(torch.equal(again[name], whole[name]) for name in whole)


def test_other_answers_move_the_whole_and_leave_the_model_as_it_was(task: lc.Task, images: Tensor) -> None:
    cut, model = task.cut(), task.build()
    before, mapped = model(images)["corners"], model.backbone(2 * images)["map"].detach()
    answers = mapped.roll(1, -1).requires_grad_()
    model.zero_grad()
    model.train()
    found = cut.outputs(images, {"map": answers})
    found["map"].sum().backward()
    assert model.training
    model.eval()
    assert not torch.equal(found["corners"], before)
    assert torch.equal(model(images)["corners"], before)
    assert torch.equal(answers.grad, torch.ones_like(mapped))
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())


class Keyed(nn.Module):
    def forward(self, x: Tensor, *, scale: Tensor) -> Tensor:
        return x * scale


class Odd(nn.Module):
    """Parts that are called by keyword, twice, and never."""

    def __init__(self) -> None:
        super().__init__()
        self.keyed, self.twice, self.never = Keyed(), nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.twice(self.twice(self.keyed(x, scale=x.abs())))


def test_arguments_by_keyword_keep_their_names() -> None:
    x = torch.randn(3, 4)
    found = Part(Odd(), "keyed").inputs(x)
    assert list(found) == ["x", "scale"]
    assert torch.equal(found["scale"], x.abs())


@pytest.mark.parametrize(
    ("path", "told"),
    [
        ("never", "never calls the module 'never'"),
        ("twice", "calls the module 'twice' 2 times"),
        ("keyd", "Did you mean 'keyed'"),
        ("", "no module ''"),
    ],
)
def test_what_cannot_be_cut_out_is_told_before_work_starts(path: str, told: str) -> None:
    data = ArrayDataset(torch.randn(8, 4).numpy(), torch.randn(8, 4).numpy())
    odd = lc.Task(Odd(), None, data, metric="mse", part=path)
    with pytest.raises(BadInput, match=told):
        inspect(odd)


def test_steps_train_the_part_by_the_loss_of_the_whole(task: lc.Task) -> None:
    cut = task.cut()
    program = lc.capture(cut.module, cut.inputs(task.valid[0][0][None]))
    fitted = program.__deepcopy__({})
    inputs, target = task.of_part().split(
        (torch.stack([task.train[i][0] for i in range(8)]), torch.stack([task.train[i][1] for i in range(8)]))
    )
    derived = task.of_part()
    assert torch.allclose(derived.loss(program.call(inputs), target), detector.map_loss(task.build()(target[1]), target[2]))
    record = lc.fit(fitted, lc.FitPlan(epochs=1, lr=1e-3, batch_size=32, distill=0.5, soft="mse_logits"), task, teacher=program)
    assert record.epochs[0].loss > 0
    assert not torch.equal(fitted.state_dict()["body.weight"], program.state_dict()["body.weight"])
    assert torch.equal(program.state_dict()["body.weight"], task.build().state_dict()["backbone.body.weight"])


@pytest.mark.parametrize(
    "loss", [None, lambda outputs, target: outputs["corners"].square().mean()], ids=["no loss", "no gradient through the head"]
)
def test_where_no_loss_reaches_it_a_part_learns_to_answer_as_before(task: lc.Task, loss: Any) -> None:
    derived = dataclasses.replace(task, loss=loss).of_part()
    inputs, target = derived.split((torch.stack([task.train[i][0] for i in range(8)]), torch.zeros(8, 2)))
    answer = task.cut().module(*inputs)["map"]
    moved = answer + 0.1 * answer.square().mean().sqrt()
    assert derived.loss({"map": answer}, target).item() < 1e-10
    assert derived.loss({"map": moved}, target).item() == pytest.approx(0.01, rel=1e-4)


@pytest.fixture(scope="module")
def finished(task: lc.Task, tmp_path_factory: pytest.TempPathFactory) -> lc.Result:
    recipes = [
        lc.Recipe((), lc.Target("onnxruntime", threads=1)),
        lc.Recipe((lc.Prune(macs=0.6, recovery={"epochs": 1, "lr": 1e-3}),), lc.Target("onnxruntime", threads=1)),
    ]
    return lc.optimize(task, lc.Budget(max_drop=5), out=tmp_path_factory.mktemp("part") / "run", recipes=recipes, options=QUICK)


@pytest.mark.slow
def test_the_metric_is_that_of_the_whole_model(finished: lc.Result, task: lc.Task) -> None:
    examples = [task.valid[i] for i in range(len(task.valid))]
    pictures, places = (torch.stack(column) for column in zip(*examples, strict=True))
    with torch.no_grad():
        own = detector.hits(task.build()(pictures)["corners"], places)
    assert own > 80
    assert finished.data["baseline"]["measured"]["metric"]["value"] == pytest.approx(own)
    assert finished.data["task"]["part"] == "backbone"
    assert [row["status"] for row in finished.data["candidates"]].count("failed") == 0


@pytest.mark.slow
def test_times_and_sizes_of_the_whole_stand_beside_those_of_the_part(finished: lc.Result, task: lc.Task) -> None:
    (best,) = [row for row in finished.data["candidates"] if row["key"] == (finished.data["best"] or finished.data["nearest"])]
    for row in (best, finished.data["baseline"]):
        assert row["measured"]["whole_latency_ms"]["value"] > 0
        rest = sum(value.nbytes for name, value in task.build().state_dict().items() if not name.startswith("backbone."))
        file = row["measured"].get("onnx_size_bytes", row["measured"]["size_bytes"])
        assert row["measured"]["whole_size_bytes"]["value"] == file["value"] + rest
    assert best["measured"]["whole_speedup"]["low"] is not None


@pytest.mark.slow
def test_the_folder_runs_the_whole_model_with_the_code_that_is_named(
    finished: lc.Result, task: lc.Task, images: Tensor, tmp_path: Path
) -> None:
    artifact = finished.best or finished.nearest
    assert artifact is not None
    assert not {file.suffix for file in artifact.folder.iterdir()} & {".pkl", ".pt", ".bin"}
    whole = lc.load_whole(artifact.folder, detector.Detector())
    program = lc.Program.load(finished.folder / "models" / _steps(finished) / "program.pt2")
    with torch.no_grad():
        answers = task.cut().outputs(images, program.call(task.cut().inputs(images)))
    assert torch.allclose(whole(images)["map"], answers["map"], atol=1e-4)
    assert torch.equal(whole(images)["corners"], answers["corners"])
    np.savez(tmp_path / "inputs.npz", images=images.numpy())
    command = [sys.executable, str(artifact.folder / "whole.py"), "tests.run.detector:Detector", str(tmp_path / "inputs.npz")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert "".join(str(whole(images)["corners"]).split()) in "".join(done.stdout.split())
    assert bool((whole(images)["corners"][:, 0] >= 0).any())


def _steps(result: lc.Result) -> str:
    (folder,) = [path.parent.parent.name for path in (result.folder / "models").glob("*/onnx/built.json") if _same(path, result)]
    return folder


def _same(built: Path, result: lc.Result) -> bool:
    artifact = result.best or result.nearest
    return artifact is not None and json.loads(built.read_text(encoding="utf-8"))["program"] == artifact.lineage["program"]


class Other(detector.Detector):
    def __init__(self) -> None:
        super().__init__()
        self.more = nn.Linear(2, 2)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "told"),
    [
        (Other(), "'more.bias' is not the same in both"),
        (nn.Linear(2, 2), "'bias' is not the same in both"),
        ("tests.run.detector:nothing", "has no 'nothing'"),
        ("tests.run.detector:hits", "'tests.run.detector:hits' must be a module"),
    ],
    ids=["another model", "one without the part", "no such attribute", "no factory"],
)
def test_another_model_is_refused(finished: lc.Result, model: Any, told: str) -> None:
    artifact = finished.best or finished.nearest
    assert artifact is not None
    with pytest.raises(BadInput, match=told):
        lc.load_whole(artifact.folder, model)


@pytest.mark.slow
def test_the_code_that_a_card_names_is_not_imported_unasked(finished: lc.Result) -> None:
    artifact = finished.best or finished.nearest
    assert artifact is not None
    done = subprocess.run([sys.executable, str(artifact.folder / "whole.py")], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "MODULE:ATTRIBUTE is your code" in done.stderr
