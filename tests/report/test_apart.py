"""Candidates of one title."""

from __future__ import annotations

from typing import Any

from laconic.report.apart import told_apart


def one(title: str, **options: Any) -> dict[str, Any]:
    return {"key": str(options), "title": title, "recipe": {"steps": [{"prune": options}, "fold_batch_norm"]}}


def test_those_of_one_title_are_told_apart_by_what_differs() -> None:
    records = [
        one("prune · ONNX Runtime", macs=0.5, recovery={"epochs": 5, "distill": 0.9}),
        one("prune · ONNX Runtime", macs=0.5, recovery={"epochs": 20, "distill": 0.9}),
        one("prune · OpenVINO", macs=0.5, recovery={"epochs": 5}),
    ]
    told = told_apart(records)
    assert [record["title"] for record in told] == [
        "prune · ONNX Runtime (epochs 5)",
        "prune · ONNX Runtime (epochs 20)",
        "prune · OpenVINO",
    ]
    assert told[2] is records[2]
    assert [{**record, "title": ""} for record in told] == [{**record, "title": ""} for record in records], "nothing else changes"


def test_equal_ones_and_such_without_a_recipe_have_nothing_to_tell() -> None:
    assert [record["title"] for record in told_apart([one("a", macs=0.5), one("a", macs=0.5)])] == ["a", "a"]
    same = [one("a", macs=0.5), one("a", macs=0.5), {"key": "c", "title": "a"}]
    assert [record["title"] for record in told_apart(same)] == ["a (macs 0.5, fold_batch_norm)", "a (macs 0.5, fold_batch_norm)", "a"]
    assert told_apart([]) == []
