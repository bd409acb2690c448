"""What each step gave, against numbers worked out by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest
from rich.console import Console

from laconic.report.facts import Facts, facts
from laconic.report.page import page
from laconic.report.payoff import Effect, Part
from laconic.report.text import summary
from tests.report.results import Json, measured, record

SIZES = {"": 1_000_000, "p": 500_000, "pf": 500_000, "pfq": 125_000, "q": 250_000}
SPEEDS = {"": 2.0, "p": 3.0, "pf": 3.0, "pfq": 6.0, "q": 3.9}
DROPS = {"": 0.0, "p": 4.0, "pf": 0.3, "pfq": 0.4, "q": 0.1}
STEPS: dict[str, Any] = {"p": {"prune": {"macs": 0.5}}, "f": {"fit": {"plan": {"epochs": 2}}}, "q": "quantize"}


def tried(steps: str, width: float = 0.05, **more: Any) -> Json:
    """A candidate with these steps; its speed-up is known to within this share on either side, its drop to 0.2 points."""
    speed, drop = SPEEDS[steps], DROPS[steps]
    figures = measured(
        2.44 / speed, (speed, speed * (1 - width), speed * (1 + width)), 87.44 - drop, (drop, drop - 0.2, drop + 0.2), SIZES[steps], 9 * 10**7, 300.0
    )  # fmt: skip
    made = record(f"ort-{steps}", f"{steps or 'plain'} · ONNX Runtime", "passed", "onnxruntime", "fp32", **{**figures, **more})
    made["recipe"]["steps"] = [STEPS[name] for name in steps]
    return made


def run(met: Json, *steps: str) -> Facts:
    """The facts of a run that tried these, of which the first is the best."""
    made = [tried(one) for one in steps]
    return facts({**met, "candidates": made, "best": made[0]["key"]})


def given(part: Part, name: str) -> Effect:
    effect = part.effect(name)
    assert effect is not None
    return effect


def test_each_part_stands_between_the_candidates_that_differ_by_it(met: Json) -> None:
    found = run(met, "pfq", "pf", "q", "p", "").payoff
    assert found is not None
    assert [(part.title, part.steps, part.after.key) for part in found.chain] == [
        ("ONNX Runtime fp32, 2 threads", (), "ort-"),
        ("prune", (0,), "ort-p"),
        ("fit", (1,), "ort-pf"),
        ("quantize", (2,), "ort-pfq"),
    ]
    assert (found.alone, found.unmeasured) == ((), ())
    last = found.chain[-1]
    assert last.source == "pfq · ONNX Runtime, against pf · ONNX Runtime"
    # independent intervals: their half widths in the logarithm, about 5 % each, add up in squares
    half = math.hypot(*[math.log(1.05 / 0.95) / 2] * 2)
    speed = given(last, "speedup")
    assert (speed.factor, speed.low, speed.high) == pytest.approx((2.0, 2 * math.exp(-half), 2 * math.exp(half)))
    assert (speed.shown.name, speed.before.raw, speed.after.raw) == ("latency_ms", pytest.approx(2.44 / 3), pytest.approx(2.44 / 6))
    assert (given(last, "size_bytes").told, given(last, "size_bytes").arrow) == ("4.00× smaller", "0.500 → 0.125\xa0MB")
    assert given(last, "drop").told == "0.10\xa0points more, which the examples cannot tell from none"


def test_the_effects_of_a_chain_add_up_to_the_whole(met: Json) -> None:
    whole = run(met, "pfq", "pf", "p", "")
    assert whole.payoff is not None
    assert whole.chosen is not None
    for row in whole.payoff.rows:
        total = sum(given(part, row.name).change for part in whole.payoff.chain)
        first, last = given(whole.payoff.chain[0], row.name).before.raw, given(whole.payoff.chain[-1], row.name).after.raw
        assert total == pytest.approx((last or 0.0) - (first or 0.0))
    assert given(whole.payoff.chain[-1], "drop").after.raw == 0.4


def test_what_pays_is_what_the_intervals_tell(met: Json) -> None:
    made = run(met, "pfq", "pf", "p", "")
    assert made.payoff is not None
    assert [part.pays(made.words) for part in made.payoff.chain] == [
        "Median latency, File size",  # the ONNX file of the baseline is larger by a fifth
        "Median latency, File size",
        "Accuracy",
        "Median latency, File size",
    ]
    prune = made.payoff.chain[1]
    assert given(prune, "drop").told == "4.00\xa0points more"
    assert given(made.payoff.chain[2], "speedup").told == "no difference that can be told (0.932 to 1.07×)"


@pytest.mark.parametrize("better", [True, False], ids=["faster", "slower"])
def test_slower_is_told_the_other_way_round(met: Json, better: bool) -> None:
    made = [tried("q"), tried("")]
    made[0]["measured"]["speedup"].update(value=4.0 if better else 1.0, low=None, high=None)
    made[1]["measured"]["speedup"].update(low=1.8, high=2.2)
    found = facts({**met, "candidates": made, "best": "ort-q"}).payoff
    assert found is not None
    assert given(found.chain[1], "speedup").told == f"2.00× {'faster' if better else 'slower'} (1.81 to 2.21)"


def test_steps_that_are_only_known_together_are_looked_for_elsewhere(met: Json) -> None:
    found = run(met, "pfq", "p", "q", "").payoff
    assert found is not None
    assert [part.title for part in found.chain] == ["ONNX Runtime fp32, 2 threads", "prune", "fit + quantize"]
    # fit is between no two of them; quantize between the plain one and `q`
    assert [(part.title, part.source) for part in found.alone] == [("quantize", "q · ONNX Runtime, against plain · ONNX Runtime")]
    assert found.unmeasured == ("fit",)
    assert found.lead.endswith("By itself the step fit was not measured: no two candidates of this run differ by this step alone.")


def test_a_run_of_one_recipe_says_that_its_steps_were_not_measured(met: Json) -> None:
    found = run(met, "pfq").payoff
    assert found is not None
    (part,) = found.chain
    assert part.title == "ONNX Runtime fp32, 2 threads + prune + fit + quantize"
    assert given(part, "size_bytes").factor == pytest.approx(1_202_176 / 125_000)
    assert found.unmeasured == ("prune", "fit", "quantize")


@pytest.mark.parametrize("change", [{"runtime": "openvino"}, {"threads": 1}, {"precision": "bf16"}], ids=lambda change: next(iter(change)))
def test_what_runs_elsewhere_or_was_not_measured_is_no_source(met: Json, change: Json) -> None:
    made = [tried("pfq"), tried("pf"), {**tried("p"), "measured": {}, "status": "failed"}]
    made[1]["recipe"]["deploy"].update(change)
    found = facts({**met, "candidates": made, "best": "ort-pfq"}).payoff
    assert found is not None
    assert len(found.chain) == 1


def test_other_settings_of_a_step_are_another_step(met: Json) -> None:
    made = [tried("pfq"), tried("pf")]
    made[1]["recipe"]["steps"][0] = {"prune": {"macs": 0.7}}
    found = facts({**met, "candidates": made, "best": "ort-pfq"}).payoff
    assert found is not None
    assert len(found.chain) == 1


def test_a_rounding_of_the_score_is_no_effect(met: Json) -> None:
    made = [tried("q"), tried("")]
    made[0]["measured"]["drop"].update(value=1e-6, low=1e-6, high=1e-6)
    made[1]["measured"]["drop"].update(low=0.0, high=0.0)
    found = facts({**met, "candidates": made, "best": "ort-q"})
    assert found.payoff is not None
    assert given(found.payoff.chain[1], "drop").told == "the same"
    assert "Accuracy" not in found.payoff.chain[1].pays(found.words)


def test_nothing_is_told_where_nothing_was_chosen(any_result: Json) -> None:
    found = facts(any_result)
    assert (found.payoff is None) == (found.chosen is None or found.chosen.status == "baseline")


def test_page_and_terminal_show_it(met: Json) -> None:
    found = run(met, "pfq", "p", "q", "")
    made = [tried(one) for one in ("pfq", "p", "q", "")]
    text = page({**met, "candidates": made, "best": "ort-pfq"})
    for words in ("What each step gave", "fit + quantize", "4.00× smaller", "Single steps, from other candidates"):
        assert words in text
    console = Console(width=160, record=True)
    console.print(summary(found))
    told = console.export_text()
    assert "What gave what" in told
    assert "fit + quantize" in told
