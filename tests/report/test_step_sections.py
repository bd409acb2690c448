"""Sections on steps are found by the section that outcomes name; one that nobody knows is shown as its steps told it."""

from __future__ import annotations

from typing import Any

import pytest

from laconic.report.facts import facts
from laconic.report.page import page
from tests.report.results import Json, named, section
from tests.report.test_page import Reader, words


def shared(**more: Any) -> Json:
    """The outcome of a step from another package."""
    changed = {
        "values": 16,
        "layers": ["a", "b"],
        "groups": [{"name": "a", "size_bytes": 10}, {"name": "b", "size_bytes": 20, "kept": True}],
    }
    skipped = [{"name": "head", "reason": "too few numbers"}]
    return {
        "step": "share_weights", "title": "share 16 weights", "section": "weight_sharing", "changed": changed, "skipped": skipped, "notes": ["by k-means"],
        **more,
    }  # fmt: skip


def with_outcomes(*outcomes: Json) -> Json:
    made = named("met")
    made["candidates"][0]["outcomes"] = list(outcomes)
    return made


def test_known_sections_come_first_and_each_once() -> None:
    made = named("pruned")
    made["candidates"][0]["outcomes"] = [shared(), shared()]
    assert [(one.name, one.id, one.heading) for one in facts(made).steps] == [
        ("pruning", "pruning", "Pruning"),
        ("quantization", "quantization", "Quantization"),
        ("weight_sharing", "weight-sharing", "Weight sharing"),
    ]


def test_steps_without_a_section_have_none() -> None:
    assert facts(with_outcomes(shared(section=""), {"step": "old"})).steps == ()


def test_an_unknown_section_tells_what_its_step_changed() -> None:
    told = section(with_outcomes(shared()), "weight_sharing")
    assert told.lead == "OpenVINO · bf16: share 16 weights."
    assert told.settings == (("Step", "share_weights"), ("Values", "16"), ("Layers", "a, b"))
    (listing,) = told.listings
    assert listing.heading == "Groups: 2 rows"
    assert listing.columns == ("Name", "Size bytes", "Kept")
    assert listing.rows == (("a", "10", "not recorded"), ("b", "20", "yes"))
    assert [(left.reason, left.names) for left in told.left] == [("too few numbers", ("head",))]
    assert told.notes == ("by k-means",)


def test_of_several_steps_each_change_names_its_own() -> None:
    told = section(with_outcomes(shared(), shared(title="", changed={"values": 4}, notes=[])), "weight_sharing")
    assert told.settings[0] == ("Steps", "share_weights → share_weights")
    assert ("share 16 weights: Values", "16") in told.settings
    assert told.settings[-1] == ("share weights: Values", "4")


@pytest.mark.parametrize("changed", [{}, None, {"n": [1, {"a": 2}]}, {"n": float("inf")}], ids=str)
def test_whatever_a_step_told_makes_a_page(changed: Any) -> None:
    assert "Weight sharing" in words(Reader(page(with_outcomes(shared(changed=changed, skipped=None)))).seen)


def test_an_unknown_section_is_on_the_page() -> None:
    made = page(with_outcomes(shared()))
    text = words(Reader(made).seen)
    assert 'id="h-weight-sharing"' in made
    assert all(part in text for part in ("Weight sharing", "share 16 weights", "by k-means", "too few numbers", "Size bytes"))


def test_markup_in_a_section_is_shown_and_not_run() -> None:
    bad = '"><script>alert(1)</script>'
    made = page(with_outcomes(shared(section=bad, title=bad, changed={bad: bad, "t": [{bad: bad}]}, notes=[bad])))
    assert "<script>alert(1)" not in made
    assert 'id="h-script-alert-1-script"' in made
