"""The same model in several trainings: rows, curves, pictures, resuming."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import laconic as lc
from laconic.core.errors import BadInput
from laconic.core.plan import Scaled
from laconic.core.progress import Silent
from laconic.measure.stats import over_seeds
from laconic.studies.compare import Comparing, compare
from laconic.studies.variants import KINDS, chosen
from laconic.tasks.data import ArrayDataset

RNG = np.random.default_rng(0)
X = RNG.normal(size=(120, 2, 12)).astype(np.float32)
Y = (X[:, 0].mean(1) > 0).astype(np.int64)
PICTURES = RNG.normal(size=(120, 1, 8, 8)).astype(np.float32)


def net() -> nn.Module:
    return nn.Sequential(nn.Conv1d(2, 6, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(72, 2))


def conv() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(256, 2))


def task(make: Any = net, x: np.ndarray = X) -> lc.Task:
    parts = [ArrayDataset(x[start:stop], Y[start:stop]) for start, stop in ((0, 60), (60, 90), (90, 120))]
    plan = lc.FitPlan(epochs=3, lr=0.05, batch_size=16)
    return lc.Task(make, *parts, loss=F.cross_entropy, name="small", plan=plan)


def test_rows_tell_every_way_of_several_seeds(tmp_path: Path) -> None:
    found = compare(task(), Comparing("lr", ("one_cycle", "step"), seeds=2), tmp_path)
    assert [row["name"] for row in found["rows"]] == ["constant", "one_cycle", "step"]
    assert all(len(row["curves"]) == 2 and len(row["curves"][0]) == 3 for row in found["rows"])
    first = found["rows"][0]
    assert first["gain"]["value"] == 0
    assert first["final"]["n"] == 2
    assert found["rows"][1]["lr"] == pytest.approx(0.05 / 25)
    assert found["rows"][2]["peak_lr"] == 0.05
    assert found["examples"] == 60
    assert "proposal" in found["range_test"]


def test_test_data_is_scored_once_for_each_model_and_ranks_nothing(tmp_path: Path) -> None:
    """With other test data the rank, the p-values and the winner are the same."""
    data = task()
    asked: list[int] = []

    class Counted(ArrayDataset):
        def __getitem__(self, index: Any) -> Any:
            asked.append(index)
            return super().__getitem__(index)

        def __getitems__(self, indices: Any) -> Any:
            asked.extend(indices)
            return [super(Counted, self).__getitem__(i) for i in indices]

    other = task()
    other.test = Counted(X[90:], 1 - Y[90:])
    one, two = (compare(t, Comparing("lr", ("step",), seeds=2), tmp_path / str(i)) for i, t in enumerate((data, other)))
    assert [(row["rank"], row["p"], row["valid"]) for row in one["rows"]] == [(row["rank"], row["p"], row["valid"]) for row in two["rows"]]
    assert one["verdict"]["winner"] == two["verdict"]["winner"]
    assert [row["final"] for row in one["rows"]] != [row["final"] for row in two["rows"]]
    assert len(asked) <= 2 * 30 * (
        2 * 2 + 2
    )  # inputs and targets of 30 examples: two variants, two seeds, the task's check, and the data's digest


def test_a_run_is_what_fit_makes_of_the_plan(tmp_path: Path) -> None:
    found = compare(task(), Comparing("lr", (), seeds=2), tmp_path)
    finals = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        model, data = net(), task()
        lc.fit(model, lc.FitPlan(epochs=3, lr=0.05, batch_size=16, schedule="constant", seed=seed), data)
        x, y = torch.from_numpy(X[90:]), torch.from_numpy(Y[90:])
        finals.append(100 * float((model(x).argmax(1) == y).float().mean()))
    expected = over_seeds(finals, "%", (0.0, 100.0), 100 / 30)
    assert found["rows"][0]["final"]["value"] == pytest.approx(expected.value)
    assert found["rows"][0]["final"]["low"] == pytest.approx(expected.low)


def test_epochs_are_counted_until_the_first_ways_end(tmp_path: Path) -> None:
    found = compare(task(), Comparing("lr", ("cosine",), seeds=2), tmp_path)
    first, other = found["rows"]
    whole = [
        next((i + 1 for i, v in enumerate(run) if v >= base[-1]), None) for run, base in zip(other["curves"], first["curves"], strict=True)
    ]
    at = other["epochs_to_first"]
    assert at["value"] == (None if None in whole else pytest.approx(np.mean(whole)))


@pytest.mark.parametrize("kind", ["augment", "regularize"])
def test_every_way_of_a_kind_trains(kind: str, tmp_path: Path) -> None:
    data = task(conv, PICTURES) if kind == "regularize" else task()
    found = compare(data, Comparing(kind, seeds=1, epochs=1), tmp_path)
    assert next(row["name"] for row in found["rows"]) == "none"
    assert len(found["rows"]) == len(KINDS[kind](data.train[0][0][None]))  # type: ignore[index]
    assert [row["stopped"] for row in found["rows"]] == [[]] * len(found["rows"])
    curves = {row["name"]: row["losses"] for row in found["rows"]}
    assert all(curve != curves["none"] for name, curve in curves.items() if name not in ("none", "ema"))  # an average trains no other way
    if kind == "augment":
        shown = found["pictures"]
        assert {picture["name"] for picture in shown} == set(curves) - {"none"}
        assert all(np.shape(picture["before"]) == np.shape(picture["after"]) == (4, 12) for picture in shown)
        assert all(picture["before"] != picture["after"] for picture in shown if picture["name"] not in ("mixup",))


def test_an_interrupted_comparison_goes_on(tmp_path: Path) -> None:
    class Stop(Exception):
        pass

    class Stopping(Silent):
        seen = 0

        def start(self, name: str, total: int) -> None:
            self.seen += 1
            if self.seen == 3:
                raise Stop

    config = Comparing("lr", ("step",), seeds=2, epochs=2)
    with pytest.raises(Stop):
        compare(task(), config, tmp_path / "a", Stopping())
    assert len(list((tmp_path / "a" / "runs").iterdir())) == 2
    again = compare(task(), config, tmp_path / "a")
    assert again == compare(task(), config, tmp_path / "b")


def test_more_ways_and_seeds_train_only_these(tmp_path: Path) -> None:
    compare(task(), Comparing("lr", ("step",), seeds=1, epochs=1), tmp_path)
    before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "runs").iterdir()}
    found = compare(task(), Comparing("lr", ("step", "cosine"), seeds=2, epochs=1), tmp_path)
    assert [row["name"] for row in found["rows"]] == ["constant", "step", "cosine"]
    after = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "runs").iterdir()}
    assert len(after) == 6
    assert {name: after[name] for name in before} == before
    with pytest.raises(BadInput, match="holds another run"):
        compare(task(), Comparing("lr", ("step",), seeds=1, epochs=2), tmp_path)


COMBINED = {
    "jitter=2": (Scaled("jitter", 2.0),),
    "scaling+jitter=0.5": (Scaled("scaling"), Scaled("jitter", 0.5)),
    "all=2+mixup": (*(Scaled(name, 2.0) for name in ("jitter", "scaling", "time_warp", "window_slice")), Scaled("mixup")),
}


@pytest.mark.parametrize("name", COMBINED)
def test_augmentations_combine_with_strengths(name: str) -> None:
    variants = chosen("augment", (name, "none"), torch.zeros(2, 3, 8))
    assert [variant.name for variant in variants] == ["none", name]
    assert variants[1].plan["augment"] == COMBINED[name]


NONSENSE = {
    "jitter=much": "'jitter=much': the strength 'much' is no number",
    "jitter+flip": "'flip' is no variant to compare here",
    "jiter+scaling": "'jiter' is no variant to compare here. Did you mean 'jitter'",
    "=": "'' is no variant to compare here",
    "jitter=20": "'jitter': the strength must be from 0 to 10; it is 20.0",
    "mixup+mixup": "one mixture at most",
}


@pytest.mark.parametrize("name", NONSENSE)
def test_what_does_not_combine_is_told_before_anything_is_trained(name: str, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=NONSENSE[name]):
        compare(task(), Comparing("augment", (name,)), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_only_augmentations_combine() -> None:
    with pytest.raises(BadInput, match="'step=2' is no variant"):
        chosen("lr", ("step=2",), torch.zeros(2, 3, 8))


def test_a_training_that_breaks_is_told_in_its_row(tmp_path: Path) -> None:
    found = compare(task(), Comparing("lr", ("one_cycle",), seeds=1, lr=1e30, optimizer="sgd"), tmp_path)
    row = found["rows"][0]
    assert row["final"]["value"] is None
    assert "no numbers" in row["stopped"][0] or "the loss is" in row["stopped"][0]
    assert "diverged" in found["range_test"].get("stopped", "diverged")


CHANGES: dict[str, Any] = {"seeds": 1, "epochs": 2, "fraction": 0.5, "lr": 0.01, "optimizer": "sgd", "choices": ("cosine",)}


@pytest.mark.parametrize("option", CHANGES)
def test_an_option_changes_the_outcome(option: str, tmp_path: Path) -> None:
    base = Comparing("lr", (), seeds=2)
    one, two = (
        compare(task(), config, tmp_path / str(i))
        for i, config in enumerate((base, dataclasses.replace(base, **{option: CHANGES[option]})))
    )
    assert one["rows"] != two["rows"]


def test_a_share_of_the_data_has_each_class_alike(tmp_path: Path) -> None:
    assert compare(task(), Comparing("lr", (), seeds=1, fraction=0.5, epochs=1), tmp_path)["examples"] == pytest.approx(30, abs=2)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"kind": "augmen"}, "'augmen'. Did you mean 'augment'"),
        ({"kind": "lr", "fraction": 0.0}, "fraction: 0.0 is a share"),
        ({"kind": "lr", "seeds": 0}, "seeds and epochs must be 1 or more"),
        ({"kind": "lr", "choices": ("cosin",)}, "'cosin' is no variant to compare here. Did you mean 'cosine'"),
        ({"kind": "lr", "optimizer": "sgdd"}, "optimizer: 'sgdd'"),
    ],
)
def test_nonsense_is_told(options: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=said):
        compare(task(), Comparing(**options), tmp_path)


def test_students_interval_is_scipys() -> None:
    from scipy import stats

    values = [91.0, 92.5, 90.0]
    low, high = stats.t.interval(0.95, 2, np.mean(values), stats.sem(values))
    found = over_seeds(values, "%")
    assert (found.low, found.high) == (pytest.approx(low), pytest.approx(high))
    assert over_seeds([3.0], "%").low is None
