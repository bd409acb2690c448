"""What the page tells of the chosen artifact beside its figures."""

from __future__ import annotations

from typing import Any

import pytest

from laconic.report.chosen import Technique
from laconic.report.facts import facts
from laconic.report.page import page
from tests.report.results import Json, named, reason
from tests.report.test_page import Reader, words


def test_what_ships_is_the_file_its_size_and_the_lines_that_load_it(met: Json) -> None:
    told = facts(met).ships
    assert told is not None
    assert (told.file, told.size) == ("candidates/openvino-bf16/artifact/model.onnx", "1.12\xa0MB")
    assert told.runs_in == "OpenVINO bf16, 2 threads"
    made = page(met)
    assert made.index('id="h-ships"') < made.index('id="h-frontier"') < made.index('id="h-candidates"')
    seen = words(Reader(made).seen)
    assert "artifact = lc.Artifact.load('candidates/openvino-bf16/artifact')" in seen
    assert "compiled = ov.Core().compile_model(file," in seen


@pytest.mark.parametrize("name", ["not-met", "all-failed", "only-baseline"])
def test_a_miss_does_not_ship(name: str) -> None:
    assert facts(named(name)).ships is None
    assert "What you ship" not in page(named(name))


@pytest.mark.parametrize(
    ("changes", "lead"),
    [
        ({}, "12 of 5\u202f000 answers on validation data differ from the baseline's: 4 that were right are wrong now, 6 that were wrong are right now, "
             "2 are wrong in another way."),
        ({"changed": 2, "worse": 1, "better": 1}, "2 of 5\u202f000 answers on validation data differ from the baseline's: 1 that was right is wrong now, "
                                                  "1 that was wrong is right now."),
        ({"changed": 0, "worse": 0, "better": 0, "classes": [], "flows": []}, "None of 5\u202f000 answers on validation data differs from the baseline's."),
    ],
    ids=["several", "one each", "none"],
)  # fmt: skip
def test_changed_answers_are_counted_for_better_and_worse(met: Json, changes: Json, lead: str) -> None:
    met["answers"].update(changes)
    told = facts(met).changed
    assert told is not None
    assert told.lead == lead
    assert len(told.rows) == len(met["answers"]["classes"])


def test_many_classes_are_cut_and_counted(met: Json) -> None:
    met["answers"]["classes"] *= 15
    told = facts(met).changed
    assert told is not None
    assert (len(told.rows), told.more) == (20, "10 more have a change.")
    assert told.rows[0] == ("3", "512", "8", "3", "4")
    assert told.flows == ("3 → 5 (7×)", "5 → 3 (1×)")


@pytest.mark.parametrize("section", ["answers", "spread", "curve", "ships"])
@pytest.mark.parametrize("there", [None, "absent"])
def test_what_was_not_recorded_is_no_section(met: Json, section: str, there: Any) -> None:
    met[section] = None
    if there == "absent":
        del met[section]
    found = facts(met)
    assert {"answers": found.changed, "spread": found.spread, "curve": found.curve, "ships": found.ships}[section] is None
    page(met)


def test_latency_spreads_and_grows_with_the_batch(met: Json) -> None:
    found = facts(met)
    assert found.spread is not None
    assert found.curve is not None
    assert found.spread.alt == (
        "OpenVINO · bf16: 351\xa0µs median, 520\xa0µs for 99 % of calls, 1.90\xa0ms at most; "
        "PyTorch eager · fp32: 2.44\xa0ms median, 3.10\xa0ms for 99 % of calls, 9.80\xa0ms at most."
    )
    assert found.curve.rows[1] == ("8", "11.2\xa0ms", "1.90\xa0ms", "5.89×")
    assert found.curve.lines["OpenVINO · bf16"] == (0.351, 1.9 / 8, 7.4 / 32)


def steps(result: Json, key: str, *names: str, **changes: Any) -> None:
    one = next(one for one in result["candidates"] if one["key"] == key)
    one["recipe"]["steps"] = [{name: {}} for name in names]
    one.update(changes)


def test_the_best_of_each_technique_is_one_that_passed_where_one_did(met: Json) -> None:
    steps(met, "openvino-bf16")
    steps(met, "onnxruntime-fp32", "prune", "quantize")
    steps(met, "openvino-fp32", "prune", "quantize", status="rejected", reasons=[reason("budget:max_drop", "it loses 3 points")])
    steps(met, "torch-bf16", "drop_blocks")
    met["candidates"][2]["measured"]["speedup"]["value"] = 30.0
    best, *others = facts(met).techniques
    assert best.key == met["best"]
    told = {one.name: one for one in others}
    assert (told["prune + quantize"].title, told["prune + quantize"].passed, told["prune + quantize"].tried) == (
        "ONNX Runtime · fp32",
        True,
        2,
    )
    assert isinstance(told["drop blocks"], Technique)
    assert not told["drop blocks"].passed
    assert "latency is not better" in told["drop blocks"].why
    assert "The best of each technique" in page(met)


def test_each_row_says_how_long_it_took(met: Json) -> None:
    rows = {row.key: row for row in facts(met).table.rows}
    assert (rows["openvino-bf16"].cells[-1].key, rows["openvino-bf16"].cells[-1].text) == ("seconds", "6.40")
    met["candidates"][0]["seconds"] = 90.0
    assert {row.key: row for row in facts(met).table.rows}["openvino-bf16"].cells[-1].text == "90"
