"""The section on cheaper layers says what each became, and what was left out."""

from __future__ import annotations

from laconic.report.page import page
from tests.report.results import Json, named, section
from tests.report.test_page import words

LAYER = {
    "name": "features.3",
    "method": "spatial",
    "rank": "48",
    "full_rank": "384",
    "macs": [28_900_000, 9_600_000],
    "params": [147_456, 49_152],
    "error": 0.124,
}
OUTCOME = {
    "step": "low_rank", "title": "low rank to 50 % of the multiply-adds", "section": "factorization",
    "changed": {"goal": "macs", "share": 0.5, "weighted": True, "layers": [LAYER], "macs": [40_000_000, 20_700_000], "params": [200_000, 101_696]},
    "skipped": [{"name": "stem", "reason": "no rank that loses little enough makes it cheaper"}], "notes": [],
}  # fmt: skip
DROPPED = {
    "step": "drop_blocks", "title": "drop blocks", "section": "factorization",
    "changed": {"blocks": ["layer1.1"], "runs": [["layer1.0", "layer1.1"]], "macs": [20_700_000, 18_000_000], "params": [101_696, 90_000]},
    "skipped": [], "notes": ["a note"],
}  # fmt: skip


def with_outcomes(*outcomes: Json) -> Json:
    made = named("met")
    made["candidates"][0]["outcomes"] = list(outcomes)
    return made


def test_rank_cost_and_error_of_each_layer_are_told() -> None:
    told = section(with_outcomes(OUTCOME), "factorization")
    assert told.lead == "OpenVINO · bf16: 1 layer rewritten."
    (row,) = told.rows
    assert (row.name, row.method, row.rank, row.kept, row.error) == ("features.3", "spatial", "48 of 384", "33.2\u00a0%", "12.4\u00a0%")
    assert (row.macs, row.params) == ("28.9 → 9.60\u00a0M MACs", "147 → 49.2\u00a0k params")
    assert dict(told.settings)["Multiply-adds"] == "40.0 → 20.7\u00a0M MACs for one example: 51.7\u00a0% kept"
    assert [(left.reason, left.names) for left in told.left] == [("no rank that loses little enough makes it cheaper", ("stem",))]


def test_several_steps_are_told_from_the_first_to_the_last() -> None:
    told = section(with_outcomes(OUTCOME, DROPPED), "factorization")
    assert told.lead == "OpenVINO · bf16: 1 layer rewritten and 1 block left out."
    assert dict(told.settings)["Blocks left out"] == "layer1.1"
    assert dict(told.settings)["Multiply-adds"].startswith("40.0 → 18.0")
    assert told.notes == ("a note",)


def test_what_is_not_recorded_is_said_and_the_page_shows_the_table() -> None:
    told = section(
        with_outcomes({**OUTCOME, "changed": {"layers": [{"name": "a", "error": None, "macs": [1]}]}, "skipped": []}), "factorization"
    )
    (row,) = told.rows
    assert row.method == row.macs == row.params == row.kept == row.error == "not recorded"
    shown = words(page(with_outcomes(OUTCOME, DROPPED)))
    assert "Rank by layer" in shown
    assert "features.3" in shown
