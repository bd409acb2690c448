"""The whole way of models whose batch is fixed, or on another axis than the first."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import laconic as lc
from tests.core.test_axes import DATA, Fixed
from tests.core.test_capture import State
from tests.deploy.test_private import holding


def one_recipe(task: lc.Task, out: Path) -> lc.Result:
    recipe = lc.Recipe((), lc.Target("onnxruntime", threads=1))
    return lc.optimize(task, lc.Budget(max_drop=1.0), out=out, recipes=[recipe], options=lc.Options(rounds=2, turn_seconds=0.01))


@pytest.fixture(scope="module", params=[1, 4])
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> lc.Result:
    n = request.param
    task = lc.Task(Fixed(n).eval(), DATA, DATA, loss=F.cross_entropy, batch_size=n, dynamic_batch=False)
    return one_recipe(task, tmp_path_factory.mktemp("fixed") / "run")


@pytest.mark.slow
def test_a_model_for_a_fixed_number_of_examples_is_measured(run: lc.Result) -> None:
    assert run.data["candidates"][0]["measured"]["metric"]["value"] is not None


@pytest.mark.slow
def test_no_example_is_in_any_artifact_of_a_run(run: lc.Result) -> None:
    rows = DATA.tensors[0].flatten(1)
    folders = list(run.folder.glob("candidates/*/artifact"))
    assert folders
    assert not any(holding(folder, rows) for folder in folders)
    assert not [path for path in run.folder.rglob("*.pt2") if holding(path.parent, rows) & {path.name}]


def test_a_rest_of_the_data_is_refused_before_any_work(tmp_path: Path) -> None:
    task = lc.Task(Fixed(5).eval(), DATA, DATA, loss=F.cross_entropy, batch_size=5, dynamic_batch=False)
    with pytest.raises(lc.BadInput, match="of the valid data 4 would be left over"):
        one_recipe(task, tmp_path / "run")


class Rows(torch.utils.data.Dataset[Any]):
    def __len__(self) -> int:
        return 20

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor, Tensor]:
        return torch.full((5, 6), i / 20), torch.zeros(2, 8), torch.zeros(5, 3)


def joined(rows: list[tuple[Tensor, Tensor, Tensor]]) -> tuple[tuple[Tensor, Tensor], Tensor]:
    x, h, y = zip(*rows, strict=True)
    return (torch.stack(x), torch.stack(h, 1)), torch.stack(y)


@pytest.mark.slow
def test_a_recurrent_state_is_cut_along_its_own_axis_which_is_found(tmp_path: Path) -> None:
    task = lc.Task(
        State().eval(),
        Rows(),
        Rows(),
        loss=lambda o, y: F.mse_loss(o[0], y),
        metric="mae",
        collate=joined,
        batch_size=8,
    )
    result = one_recipe(task, tmp_path / "run")
    assert result.data["candidates"][0]["measured"]["metric"]["value"] is not None
