"""Scores and paired differences."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from laconic.measure import stats
from laconic.run.score import compare, measure, with_others
from laconic.tasks.metrics import METRICS, resolve
from tests.run import tiny
from tests.search.records import record

G = torch.Generator().manual_seed(5)
LOGITS, TARGET = torch.randn(80, 3, generator=G), torch.randint(0, 3, (80,), generator=G)


def test_a_figure_that_is_not_defined_is_missing_and_says_why() -> None:
    found = measure(METRICS["auroc"], LOGITS, TARGET * 0)
    assert found.value is None
    assert "every example is of class 0" in found.note
    assert measure(METRICS["accuracy"], LOGITS * float("nan"), TARGET).value is None


@pytest.mark.parametrize(("name", "unit"), [("accuracy", "points"), ("f1", "points"), ("mae", ""), ("rmse", ""), ("r2", "")])
def test_a_drop_has_the_unit_of_the_metric(name: str, unit: str) -> None:
    target = TARGET if METRICS[name].unit else torch.randn(80, 3, generator=G)
    found = compare(METRICS[name], LOGITS, LOGITS + torch.randn(80, 3, generator=G), target)
    assert found.unit == unit
    assert found.value is not None
    assert found.value > 0, "worse is more, whichever way the metric goes"


def test_resamples_of_trees_take_the_same_examples_of_every_part() -> None:
    target = {"class": TARGET, "name": [str(i) for i in range(80)], "pair": (TARGET * 2, TARGET.double())}

    def own(logits: Tensor, wanted: Any) -> float:
        assert [int(name) for name in wanted["name"]] == wanted["row"].tolist()
        assert torch.equal(wanted["pair"][0], wanted["class"] * 2)
        return float((logits.argmax(1) == wanted["class"]).double().mean())

    spec = resolve(own, "max")
    changed = LOGITS + 0.5 * torch.randn(80, 3, generator=G)
    whole = {**target, "row": torch.arange(80)}
    assert measure(spec, LOGITS, whole).n == 80
    found = compare(spec, LOGITS, changed, whole)
    assert found.value == pytest.approx(own(LOGITS, whole) - own(changed, whole))
    assert found.low is not None
    assert found.low < found.value < found.high  # type: ignore[operator]


def test_a_metric_of_ones_own_may_refuse_a_resample(monkeypatch: pytest.MonkeyPatch) -> None:
    def own(logits: Tensor, target: Tensor) -> float:
        if len(target.unique()) < 2:
            raise ValueError("Only one class present")
        return float(logits[target == 1].mean())

    seen: list[float] = []

    def bootstrap(difference: Any, n: int, **more: Any) -> Any:
        seen.extend((difference(np.array([0, 1, 2])), difference(np.array([0, 1, 9]))))
        return stats.Measurement(0.0, "points", n=n)

    monkeypatch.setattr(stats, "paired_bootstrap", bootstrap)
    compare(resolve(own, "max"), LOGITS[:10], LOGITS[10:20], torch.tensor([0] * 9 + [1]))
    assert np.isnan(seen[0])
    assert np.isfinite(seen[1])


def test_uneven_answers_are_resampled_by_example(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where examples have different numbers of answers, the accuracy is no mean over examples, and its interval is the bootstrap's."""
    logits, target = torch.randn(40, 6, 3, generator=G), torch.randint(0, 3, (40, 6), generator=G)
    worse = logits + torch.randn(40, 6, 3, generator=G)
    target[:20, 2:] = -100
    kept = target != -100
    right = [(answers.argmax(-1) == target)[kept].double().mean() for answers in (logits, worse)]
    found = compare(METRICS["accuracy"], logits, worse, target)
    assert found.value == pytest.approx(100 * float(right[0] - right[1]))
    monkeypatch.setattr(stats, "paired_difference", None)
    assert compare(METRICS["accuracy"], logits, worse, target) == found


def test_a_resample_without_a_class_is_a_difference_that_is_no_number(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, float] = {}

    def bootstrap(difference: Any, n: int, **more: Any) -> Any:
        seen["without"], seen["with"] = difference(np.array([0, 1, 2])), difference(np.array([0, 1, 9]))
        return stats.Measurement(0.0, "points", n=n)

    monkeypatch.setattr(stats, "paired_bootstrap", bootstrap)
    compare(METRICS["auroc"], LOGITS[:10, :2], LOGITS[10:20, :2], torch.tensor([0] * 9 + [1]))
    assert np.isnan(seen["without"])
    assert np.isfinite(seen["with"])


def test_a_drop_knows_how_many_test_examples_there_are_for_each_valid_one_where_both_are_counted() -> None:
    scored = record("a", drop=0.1)
    known = with_others(scored, tiny.task())
    assert known.drop is not None
    assert known.drop.others == len(tiny.TEST) / len(tiny.VALID)
    unknown = tiny.task()
    unknown.test = None
    assert with_others(scored, unknown) == scored
