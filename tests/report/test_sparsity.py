from __future__ import annotations

from typing import Any

import pytest

from laconic.report.charts import charts
from laconic.report.facts import facts
from laconic.report.page import page
from laconic.report.sparsity import Sparsity
from tests.report.results import Json, named, section
from tests.report.test_page import Reader, words


def outcome(**changed: Any) -> Json:
    told = {
        "asked": "sparsity", "amount": 0.9, "criterion": "magnitude", "pattern": "unstructured", "allocation": "erdos_renyi_kernel", "schedule": "rigl",
        "about": "at once, regrown by gradients (RigL)", "params": [1100, 210],
        "layers": [{"name": "stem.weight", "weights": 100, "zeros": 50}, {"name": "conv.weight", "weights": 900, "zeros": 850}],
        "epochs": [{"epoch": 1, "loss": 0.5, "metric": 80.0, "lr": 0.1, "seconds": 1.0}, {"epoch": 1, "loss": 0.4, "metric": 81.0, "lr": 0.1, "seconds": 1.0}],
    }  # fmt: skip
    skipped = [{"name": "head.weight", "reason": "it is the head"}]
    return {"step": "sparsify", "section": "sparsity", "title": "sparsify", "changed": {**told, **changed}, "skipped": skipped, "notes": []}


def with_outcomes(*outcomes: Json) -> Json:
    made = named("met")
    made["candidates"][0]["outcomes"] = list(outcomes)
    return made


def found(*outcomes: Json) -> Sparsity:
    made: Sparsity = section(with_outcomes(*outcomes), "sparsity")
    return made


def plain(text: str) -> str:
    return text.replace("\xa0", " ").replace("\u202f", " ")


def test_what_was_asked_and_what_came() -> None:
    told = found(outcome())
    assert plain(told.lead) == "OpenVINO · bf16: 900 of 1 000 weights of 2 layers are zero (90.0 %)."
    assert [(label, plain(text)) for label, text in told.settings] == [
        ("Step", "sparsify"),
        ("Asked for", "90 % zeros"),
        ("Pattern", "unstructured"),
        ("Criterion", "magnitude"),
        ("Allocation", "erdos renyi kernel"),
        ("Zeros come", "at once, regrown by gradients (RigL)"),
        ("Parameters", "1 100, of which 210 are not zero"),
        ("Training", "2 epochs"),
    ]
    assert [(row.name, row.before_text, row.after_text, plain(row.kept_text)) for row in told.cuts.rows] == [
        ("stem.weight", "100", "50", "50.0 %"),
        ("conv.weight", "900", "50", "5.6 %"),
    ]
    assert [(left.reason, left.names) for left in told.left] == [("it is the head", ("head.weight",))]
    assert told.epochs is not None
    assert [epoch.epoch for epoch in told.epochs.epochs] == [1, 2]


@pytest.mark.parametrize(
    ("asked", "amount", "said"),
    [
        ("threshold", 0.05, "weights below 0.05 go"),
        ("deviations", 1.5, "weights below 1.5 deviations of their layer's go"),
        (None, None, "not recorded"),
    ],
)
def test_how_much_was_asked_for(asked: Any, amount: Any, said: str) -> None:
    assert dict(found(outcome(asked=asked, amount=amount)).settings)["Asked for"] == said


def test_two_steps_say_what_differs() -> None:
    settings = dict(found(outcome(amount=0.5), outcome()).settings)
    assert settings["Steps"] == "sparsify → sparsify"
    assert plain(settings["Asked for"]) == "50 % zeros, then 90 % zeros"
    assert settings["Criterion"] == "magnitude"


def test_the_chart_has_a_bar_for_each_layer() -> None:
    drawn = charts(facts(with_outcomes(outcome())))
    (before, after) = drawn["sparsity"]["data"]
    assert before["x"] == [100.0, 100.0]
    assert after["x"] == pytest.approx([50.0, 100 * 50 / 900])
    assert {"sparsity-loss", "sparsity-score"} <= set(drawn)


@pytest.mark.parametrize(
    "changed", [{}, {"layers": [{"name": "a", "weights": None}]}, {"layers": None, "params": 3, "epochs": None}], ids=str
)
def test_whatever_is_missing_makes_a_page(changed: Any) -> None:
    text = words(Reader(page(with_outcomes({**outcome(), "changed": changed}))).seen)
    assert "Sparsity by layer" in text
    assert "not recorded" in text


def test_the_section_is_on_the_page() -> None:
    text = words(Reader(page(with_outcomes(outcome()))).seen)
    assert all(part in text for part in ("Sparsity", "conv.weight", "What stayed dense", "they make no dense kernel faster"))
