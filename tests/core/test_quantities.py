"""The rows of quantities: how values are told and compared, and what a table refuses."""

from __future__ import annotations

import math

import pytest

from laconic.core import quantities
from laconic.core.errors import BadInput
from laconic.core.quantities import QUANTITIES, Limit, Objective, Quantity
from laconic.core.records import Measurement
from tests.quantities import CARBON


def test_every_row_stands_under_its_name_and_names_rows_that_are_there() -> None:
    assert all(name == row.name for name, row in QUANTITIES.items())
    for row in QUANTITIES.values():
        assert {row.compares, row.stands_in, row.on_test} - {""} <= set(QUANTITIES)
        assert row.reference is None or row.direction == ("max" if row.reference == 1 else "min")


def test_limits_and_objectives_are_those_of_the_rows() -> None:
    assert list(quantities.limits()) == [
        "min_speedup", "max_latency_ms", "max_latency_p95_ms", "max_drop", "max_size_mb", "max_packed_mb", "max_memory_mb", "max_mmacs",
        "max_flash_kb", "max_ram_kb",
        "min_throughput_per_s", "max_energy_mj", "max_cost",
    ]  # fmt: skip
    assert {name: row.name for name, row in quantities.objectives().items()} == {
        "latency": "speedup",
        "p95": "latency_p95_ms",
        "size": "packed_size_bytes",
        "memory": "peak_memory_bytes",
        "macs": "macs",
        "flash": "flash_bytes",
        "ram": "ram_bytes",
        "throughput": "throughput_per_s",
        "energy": "energy_mj",
        "cost": "cost_per_million",
    }
    assert [row.name for row in quantities.limited("max_drop")] == ["drop", "test_drop"]


@pytest.mark.parametrize(
    ("row", "found", "bad", "good"),
    [
        (QUANTITIES["drop"], Measurement(0.1, "points", 100, -0.2, 0.4), 0.4, -0.2),
        (QUANTITIES["speedup"], Measurement(2.0, "x", 15, 1.8, 2.2), 1.8, 2.2),
        (QUANTITIES["speedup"], Measurement(2.0, "x", 1), None, None),
        (QUANTITIES["size_bytes"], Measurement(7.0, "B"), 7.0, 7.0),
        (QUANTITIES["size_bytes"], Measurement.missing("B", "no file"), None, None),
    ],
    ids=["less is better", "more is better", "no interval", "exact", "not measured"],
)
def test_the_bad_end_is_the_worse_one(row: Quantity, found: Measurement, bad: float | None, good: float | None) -> None:
    assert (row.bad_end(found), row.good_end(found)) == (bad, good)


@pytest.mark.parametrize(
    ("row", "found", "text"),
    [
        (QUANTITIES["size_bytes"], Measurement(1_250_000, "B"), "1.25 MB"),
        (QUANTITIES["size_bytes"], Measurement(999, "B"), "999 B"),
        (QUANTITIES["latency_ms"], Measurement(0.351, "ms", 100, 0.340, 0.362), "351 µs (95 % interval 340 to 362)"),
        (QUANTITIES["speedup"], Measurement(2.0, "x", 15, 1.8, 2.25), "2.00× (95 % interval 1.80 to 2.25)"),
        (QUANTITIES["drop"], Measurement(0.5, "kg", 15), "0.500 kg"),
        (CARBON, Measurement.missing("mg", "no counter"), "not measured: no counter"),
    ],
    ids=["scaled", "whole", "scaled with an interval", "ratio", "its own unit", "missing"],
)
def test_a_measurement_in_words(row: Quantity, found: Measurement, text: str) -> None:
    assert row.described(found).replace("\xa0", " ") == text


def test_words_for_better_follow_the_direction() -> None:
    assert (CARBON.better, CARBON.worse) == ("less", "more")
    more = Quantity("rate_per_s", "Rate", "1/s", "max")
    assert (more.better, more.worse, more.cost(2.0) < more.cost(1.0)) == ("more", "less", True)
    assert (QUANTITIES["size_bytes"].better, CARBON.noun, Quantity("a", "CO2", "g").noun) == ("smaller", "carbon of an inference", "CO2")


def test_what_nobody_knows_gets_a_plain_row() -> None:
    row = quantities.row("water_ml", "ml")
    assert (row.label, row.unit, row.limit, row.objective) == ("Water ml", "ml", None, None)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_number_that_is_not_finite_is_no_measurement(value: float) -> None:
    with pytest.raises(BadInput, match="leave out what was not measured"):
        quantities.as_measurement("size_bytes", value)


def test_a_wrong_name_is_told_with_the_nearest() -> None:
    with pytest.raises(BadInput, match=r"'size_byte' is no quantity\. Did you mean 'size_bytes'\?"):
        quantities.as_measurement("size_byte", 1)


class Entry:
    """An entry point of another package."""

    group, value, dist = quantities.GROUP, "pkg:ROW", None

    def __init__(self, name: str, row: object) -> None:
        self.name, self._row = name, row

    def load(self) -> object:
        return self._row


@pytest.mark.parametrize(
    ("name", "row", "words"),
    [
        ("size_bytes", CARBON, "'size_bytes' .* taken"),
        ("carbon", CARBON, "must name a laconic.Quantity called 'carbon'"),
        ("carbon_mg", "text", "must name a laconic.Quantity called 'carbon_mg'; it names 'text'"),
        (
            "other_mj",
            Quantity("other_mj", "Other", "mg", limit=Limit("max_size_mb")),
            "the limit 'max_size_mb' of 'other_mj' .*is that of 'size_bytes'",
        ),
        ("other_mj", Quantity("other_mj", "Other", "mg", objective=Objective("size")), "the objective 'size' of 'other_mj'"),
        ("other_mj", Quantity("other_mj", "Other", "mg", limit=Limit("confident")), "the limit 'confident' of 'other_mj'"),
    ],
    ids=["taken", "another name", "no row", "taken limit", "taken objective", "a word of the budget"],
)
def test_a_row_that_cannot_be_is_refused(monkeypatch: pytest.MonkeyPatch, name: str, row: object, words: str) -> None:
    monkeypatch.setattr("laconic.core.extensions.entry_points", lambda group: [Entry(name, row)])
    quantities._outside.cache_clear()
    try:
        with pytest.raises(BadInput, match=words):
            quantities.rows()
    finally:
        monkeypatch.undo()
        quantities._outside.cache_clear()


def test_a_row_of_another_package_stands_behind_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("laconic.core.extensions.entry_points", lambda group: [Entry("carbon_mg", CARBON)])
    quantities._outside.cache_clear()
    try:
        assert list(quantities.rows())[-1] == "carbon_mg"
        assert "max_carbon_mg" in quantities.limits()
    finally:
        monkeypatch.undo()
        quantities._outside.cache_clear()
