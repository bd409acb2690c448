"""Ranks, paired gains and the sentence that says what won, on runs that were written by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy import stats

import laconic as lc
from laconic.studies.gains import Measured, compared, verdict
from laconic.studies.variants import Variant
from laconic.tasks.metrics import METRICS, MetricSpec

PLAN = lc.FitPlan(epochs=2, batch_size=10)
BASE = [80.0, 84.0, 90.0, 70.0]


def runs(valid: list[float], test: list[float] | None = None) -> list[dict[str, Any]]:
    test = valid if test is None else test
    return [{"valid": v, "final": t, "curve": [v - 5, v], "loss": [1.0, 0.5]} for v, t in zip(valid, test, strict=True)]


def measured(metric: MetricSpec = METRICS["accuracy"], test: int | None = 400) -> Measured:
    return Measured(metric, 100, 200, test)


def table(found: dict[str, list[dict[str, Any]]], what: Measured | None = None) -> list[dict[str, Any]]:
    return compared([Variant(name) for name in found], found, PLAN, what or measured())


def shifted(by: list[float]) -> list[float]:
    return [base + gain for base, gain in zip(BASE, by, strict=True)]


def test_gains_are_paired_by_seed() -> None:
    """The seeds differ by 20 points, the gains by one: scipy's paired test on the differences."""
    gains = [2.0, 3.0, 2.5, 3.0]
    row = table({"none": runs(BASE), "crop": runs(shifted(gains))})[1]
    low, high = stats.t.interval(0.95, 3, np.mean(gains), stats.sem(gains))
    assert (row["valid_gain"].low, row["valid_gain"].high) == (pytest.approx(low), pytest.approx(high))
    assert row["p"] == pytest.approx(stats.ttest_rel(shifted(gains), BASE).pvalue)
    assert row["valid_gain"].unit == "points"


def test_valid_data_ranks_whatever_test_data_say() -> None:
    """On test data the order is the other way round."""
    found = table(
        {
            "none": runs(BASE, [50.0] * 4),
            "a": runs(shifted([3.0, 3.1, 2.9, 3.0]), [40.0] * 4),
            "b": runs(shifted([1.0, 1.1, 0.9, 1.0]), [60.0] * 4),
        }
    )
    assert [row["rank"] for row in found] == [3, 1, 2]
    said = verdict(found, 4, tested=True)
    assert said["winner"] == "a"
    assert said["text"].startswith("a won: +3.00 [+")
    assert "On test data, which chose nothing, it gains −10.00 [" in said["text"]
    assert "Holm's correction for 2 comparisons" in said["text"]


def test_many_variants_are_corrected() -> None:
    """Each alone is told from the first at the level of 5 %; five of them together are not."""
    gains = [[2.0, 0.5, 1.5, 0.75 + 0.01 * i] for i in range(5)]
    alone = table({"none": runs(BASE), "0": runs(shifted(gains[0]))})
    assert alone[1]["p"] < 0.05
    assert verdict(alone, 4, tested=False)["winner"] == "0"
    found = table({"none": runs(BASE), **{str(i): runs(shifted(gain)) for i, gain in enumerate(gains)}})
    plain = sorted(stats.ttest_rel(shifted(gain), BASE).pvalue for gain in gains)
    assert min(row["p"] for row in found[1:]) == pytest.approx(5 * plain[0])
    said = verdict(found, 4, tested=False)
    assert said["winner"] is None
    assert said["text"].startswith(
        "Nothing won: on valid data no variant is better than none by more than 4 seeds explain; 4 comes nearest"
    )


def test_what_is_told_apart_but_worse_wins_nothing() -> None:
    found = table({"none": runs(BASE), "bad": runs(shifted([-3.0, -3.1, -2.9, -3.0]))})
    assert found[1]["p"] < 0.01
    assert verdict(found, 4, tested=False)["winner"] is None


@pytest.mark.parametrize("gain", [0.0, 1.5])
def test_two_seeds_that_agree_are_not_certain(gain: float) -> None:
    found = table({"none": runs(BASE[:2]), "a": runs([base + gain for base in BASE[:2]])})
    low, high = found[1]["valid_gain"].low, found[1]["valid_gain"].high
    assert low < gain < high
    assert found[1]["p"] > 0.01


def test_intervals_end_where_the_metric_does() -> None:
    found = table({"none": runs([97.0, 99.0]), "a": runs([99.5, 100.0])})
    assert found[1]["valid"].high == found[1]["final"].high == 100.0
    assert found[1]["valid_gain"].high <= 100 - 98
    assert found[1]["epochs_to_first"].low >= 1


def test_a_falling_error_is_a_gain_in_its_own_unit() -> None:
    found = table(
        {"none": runs([0.50, 0.52, 0.48]), "a": runs([0.40, 0.41, 0.39])},
        measured(MetricSpec("m", "min", 1.0, "kW", lambda outputs, target: 0.0, bounds=(0.0, None))),
    )
    assert found[1]["valid_gain"].value == pytest.approx(0.1)
    assert found[1]["valid_gain"].unit == "kW"
    assert table({"none": runs([0.01, 0.02]), "a": runs([0.0, 0.01])}, measured(METRICS["mse"]))[1]["valid"].low == 0
    assert [row["rank"] for row in found] == [2, 1]


def test_the_first_is_compared_with_nothing() -> None:
    first = table({"none": runs(BASE), "a": runs(BASE)})[0]
    assert (first["valid_gain"].value, first["valid_gain"].low, first["gain"].value) == (0.0, None, 0.0)


def test_one_seed_says_nothing() -> None:
    found = table({"none": runs(BASE[:1]), "a": runs([99.0])})
    assert verdict(found, 1, tested=True) == {
        "winner": None,
        "text": "One seed cannot tell what is better than none: ask for more (--seeds).",
    }


def test_what_stopped_is_not_ranked() -> None:
    found = table({"none": runs(BASE), "a": [*runs(BASE[:3]), {"stopped": "NaN"}]})
    assert found[1]["rank"] is None
    assert found[1]["valid"].note == found[1]["gain"].note == "NaN"
    assert verdict(found, 4, tested=True)["text"].startswith("Nothing was compared")
