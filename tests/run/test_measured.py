"""Rows that measure by themselves: what they are given, and that one which fails spoils its own figure and no more."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from laconic.core import quantities
from laconic.core.quantities import Evidence, Quantity
from laconic.core.records import Measurement
from laconic.core.turn import Turn
from laconic.run.measured import measured_by_rows
from tests.quantities import MONEY


@dataclasses.dataclass(frozen=True)
class Known:
    """Evidence by hand: two calls of a millisecond each."""

    measured: Mapping[str, Measurement]
    recipe: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    folder: Path = Path()
    batch: int = 1
    rounds_ns: Sequence[Sequence[float]] = ((1e6, 1e6),)

    def run(self, seconds: float) -> Turn:
        return Turn([1_000_000] * int(seconds * 1000))


KNOWN = Known({"throughput_per_s": Measurement(1000.0, "1/s", 9, 800.0, 1250.0)})


def grams(evidence: Evidence) -> Measurement:
    """A counter that rises by 2 mg a call."""
    turn = evidence.run(0.1)
    return Measurement(2.0 * len(turn.times_ns) / len(turn.times_ns), "mg", len(turn.times_ns))


def broken(evidence: Evidence) -> Measurement:
    raise RuntimeError("the counter is gone")


def added(monkeypatch: pytest.MonkeyPatch, *rows: Quantity) -> dict[str, Measurement]:
    for row in rows:
        monkeypatch.setitem(quantities.QUANTITIES, row.name, row)
    return measured_by_rows(KNOWN)


def test_rows_without_a_measure_are_not_asked() -> None:
    assert measured_by_rows(KNOWN) == {}


def test_money_from_the_throughput(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thousand a second are 3.6 million an hour, which costs 36 cents."""
    found = added(monkeypatch, MONEY)["bill_ct"]
    assert (found.value, found.low, found.high) == (pytest.approx(10.0), pytest.approx(8.0), pytest.approx(12.5))


def test_a_counter_is_read_while_the_process_works(monkeypatch: pytest.MonkeyPatch) -> None:
    assert added(monkeypatch, Quantity("carbon_mg", "Carbon", "mg", measure=grams)) == {"carbon_mg": Measurement(2.0, "mg", 100)}


@pytest.mark.parametrize(
    ("measure", "note"),
    [
        (broken, "RuntimeError: the counter is gone"),
        (lambda _: 3.0, "its row returned 3.0, which is no Measurement"),
        (lambda _: None, None),
    ],
    ids=["raises", "no measurement", "nothing"],
)
def test_what_a_row_cannot_measure_is_unknown_with_the_reason(monkeypatch: pytest.MonkeyPatch, measure: Any, note: str | None) -> None:
    found = added(monkeypatch, Quantity("carbon_mg", "Carbon", "mg", measure=measure), MONEY)
    assert "bill_ct" in found
    assert found.get("carbon_mg") == (None if note is None else Measurement.missing("mg", note))
