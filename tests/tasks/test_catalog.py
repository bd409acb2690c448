from __future__ import annotations

import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from laconic.core.errors import BadInput, CorruptFile
from laconic.core.task import Task
from laconic.tasks import sources
from laconic.tasks.catalog import TASKS, describe, load
from laconic.tasks.check import check_task

# task -> examples of train and valid together, of test, shape of an input; from the table in ../shared/data/README.md
SIZES = {
    "mnist": (60_000, 10_000, (1, 28, 28)),
    "fashion-mnist": (60_000, 10_000, (1, 28, 28)),
    "sst2": (6_920 + 872, 1_821, (64,)),
    "trec": (5_452, 500, (32,)),
    "gunpoint": (50, 150, (1, 150)),
    "italy-power-demand": (67, 1_029, (1, 24)),
    "osuleaf": (200, 242, (1, 427)),
    "basic-motions": (40, 40, (6, 100)),
    "japanese-vowels": (270, 370, (12, 25)),
}


def size(data: Any) -> int:
    return len(data)


@pytest.mark.parametrize("name", SIZES)
def test_a_built_in_task_is_the_published_set(name: str, data_dir: Path) -> None:
    task = load(name, data=data_dir)
    both, test, shape = SIZES[name]
    assert (size(task.train) + size(task.valid), size(task.test)) == (both, test)
    example = task.valid[0][0]
    assert tuple((example["input_ids"] if isinstance(example, dict) else example).shape) == shape
    check_task(task)


def test_digits_need_nothing() -> None:
    task = load("digits")
    assert (size(task.train), size(task.valid), size(task.test)) == (1151, 287, 359)
    check_task(task)


@pytest.mark.parametrize("ref", ["digits@lenet300", "digits@lenet5", "digits@mobilenet_v2"])
def test_a_task_takes_another_net(ref: str) -> None:
    task = load(ref)
    assert (task.name, task.ref) == (ref, ref)
    check_task(task)


def test_splits_are_the_same_every_time_and_disjoint() -> None:
    first, again = load("digits"), load("digits", seed=7)
    assert first.train is not None
    rows = {tuple(x.flatten().tolist()) for x, _ in (first.train[i] for i in range(200))}
    assert rows == {tuple(x.flatten().tolist()) for x, _ in (again.train[i] for i in range(200))}  # type: ignore[index]
    assert not any(tuple(first.valid[i][0].flatten().tolist()) in rows for i in range(100))


def test_the_seed_changes_weights_and_training() -> None:
    assert load("digits", seed=3).plan.seed == 3  # type: ignore[union-attr]
    first, other = (next(iter(load("digits", seed=seed).build().parameters())) for seed in (0, 1))
    assert not first.equal(other)


def test_what_is_at_hand_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LACONIC_DATA", raising=False)
    rows = {row["name"]: row for row in describe()}
    assert rows.keys() == TASKS.keys()
    assert rows["digits"]["ready"]
    assert rows["mnist"]["why"] == "no data folder was named (--data DIR or LACONIC_DATA)"
    assert f"{tmp_path} has no sst2/train.tsv" in {row["why"] for row in describe(tmp_path)}
    monkeypatch.setenv("LACONIC_DATA", str(tmp_path))
    np.savez(tmp_path / "mnist.npz", x_train=np.zeros(1))
    assert {row["name"]: row["ready"] for row in describe()}["mnist"]


def test_data_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(BadInput, match=r"has no mnist.npz. Or fetch it from the hub: pip install 'laconic\[hf\]'"):
        load("mnist", data=tmp_path)
    with pytest.raises(BadInput, match="lies on no hub; put timeseries/GunPoint.npz"):
        load("gunpoint", data=tmp_path)
    (tmp_path / "mnist.npz").write_bytes(b"PK\x03\x04 half of a file")
    with pytest.raises(CorruptFile, match="the data of 'mnist' in"):
        load("mnist", data=tmp_path)


def test_the_hub_is_asked_where_no_file_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """The hub cannot be reached here: what stands for it has the two calls that are made of `datasets`."""
    monkeypatch.delenv("LACONIC_DATA", raising=False)
    rows = {"text": ["what is it ?", "who is it ?"] * 20, "label_coarse": [0, 1] * 20}
    asked = []

    def load_dataset(name: str) -> Any:
        asked.append(name)
        return {"train": rows, "test": rows}

    module = types.ModuleType("datasets")
    module.load_dataset = load_dataset  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "datasets", module)
    task = load("trec")
    assert asked == ["SetFit/TREC-QC"]
    assert (size(task.train), size(task.valid), size(task.test), task.classes) == (36, 4, 40, 2)


USERS = """
import torch
from torch import nn
import laconic as lc
from laconic.tasks.data import ArrayDataset
import numpy as np
data = ArrayDataset(np.zeros((8, 4), np.float32), np.zeros(8, np.int64))
ready = lc.Task(nn.Linear(4, 2), data, data, name="mine")
def made(): return ready
number = 3
"""


@pytest.fixture
def users_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "users_tasks.py").write_text(USERS)
    (tmp_path / "users_broken.py").write_text("import nowhere_to_be_found")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield "users_tasks"  # type: ignore[misc]
    sys.modules.pop("users_tasks", None)


@pytest.mark.parametrize("attribute", ["ready", "made"])
def test_a_users_task_by_module_and_attribute(users_module: str, attribute: str) -> None:
    task = load(f"{users_module}:{attribute}")
    assert isinstance(task, Task)
    assert (task.name, task.ref) == ("mine", f"users_tasks:{attribute}")


@pytest.mark.parametrize(
    ("ref", "said"),
    [
        ("digit", "'digit' is not a built-in task. Did you mean 'digits'"),
        ("digits@resnet9", "the task 'digits' has no such model: 'resnet9' is not a reference net. Did you mean 'resnet8'"),
        ("digits@lstm", "'lstm' takes another kind of data"),
        ("no_such_module:x", "there is no module 'no_such_module'"),
        ("users_broken:x", "the module 'users_broken' needs 'nowhere_to_be_found', which is not installed"),
        ("users_tasks:raedy", "users_tasks has no 'raedy'. Did you mean 'ready'"),
        ("users_tasks:number", "must be a laconic.Task or a function that returns one; it is int"),
    ],
)
def test_a_reference_that_leads_nowhere(users_module: str, ref: str, said: str) -> None:
    with pytest.raises(BadInput, match=said):
        load(ref)


def test_labels_are_numbered_from_zero(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", x_train=np.zeros((3, 1, 4)), y_train=[5, 7, 5], x_test=np.zeros((1, 1, 4)), y_test=[7])
    raw = sources.arrays("x.npz")(tmp_path)
    assert raw.train[1].tolist() == [0, 1, 0]
    assert raw.test is not None
    assert raw.test[1].tolist() == [1]


@pytest.mark.parametrize("name", ["mine", "mine.py"])
def test_a_file_of_ones_own_is_given_with_its_function(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine.py").write_text("")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BadInput, match=f"'{name}' is not a built-in task.*given as mine:FUNCTION"):
        load(name)
