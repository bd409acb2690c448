"""Money for a million inferences, by worked examples."""

from __future__ import annotations

from typing import Any

import pytest

from laconic.core.errors import BadInput
from laconic.core.records import Measurement
from laconic.measure.cost import EXAMPLES, Price, best, choose, cost

RATE = Measurement(500.0, "1/s", 15, 400.0, 625.0)
JOULES = Measurement(360.0, "mJ", 10, 324.0, 396.0)


def test_by_the_hour() -> None:
    """500 a second are 1.8 million an hour; at 0.90 an hour a million costs 0.50, and 0.40 to 0.625 at the ends of the rate."""
    found = cost(Price(0.90, currency="EUR", name="rack", source="contract"), RATE)
    assert (found.value, found.low, found.high) == tuple(map(pytest.approx, (0.50, 0.40, 0.625)))
    assert (found.unit, found.n, found.note) == ("EUR", 15, "at 0.9 EUR an hour of rack (contract)")


def test_by_the_kilowatt_hour() -> None:
    """A million times 0.36 J are 0.1 kWh; at 0.30 a kWh that is 0.03, and 0.027 to 0.033 at the ends."""
    found = cost(Price(per_kwh=0.30), RATE, JOULES)
    assert (found.value, found.low, found.high, found.n) == (*map(pytest.approx, (0.03, 0.027, 0.033)), 10)


def test_both_add_up_end_by_end() -> None:
    found = cost(Price(0.90, 0.30), RATE, JOULES)
    assert (found.value, found.low, found.high) == tuple(map(pytest.approx, (0.53, 0.427, 0.658)))


@pytest.mark.parametrize(
    ("price", "rate", "joules", "why"),
    [
        (Price(1.0), None, None, "the throughput was not measured"),
        (Price(per_kwh=1.0), RATE, None, "energy has a price and was not measured"),
        (
            Price(1.0, 1.0),
            RATE,
            Measurement.missing("mJ", "unknown: no counter"),
            "energy has a price and was not measured: unknown: no counter",
        ),
    ],
    ids=["no time", "no energy", "unknown energy"],
)
def test_what_is_not_known_is_not_told(price: Price, rate: Any, joules: Any, why: str) -> None:
    found = cost(price, rate, joules)
    assert (found.value, found.note) == (None, why)


def test_without_an_interval_there_is_none() -> None:
    assert cost(Price(0.90), Measurement(500.0, "1/s")).low is None


@pytest.mark.parametrize("given", [{}, {"per_hour": 0.0}, {"per_kwh": float("inf")}, {"per_hour": "dear"}], ids=str)
def test_a_price_that_is_none_is_refused(given: dict[str, Any]) -> None:
    with pytest.raises(BadInput, match="makes no sense"):
        Price(**given)


def test_the_cheapest_batch_and_the_named_price() -> None:
    sizes = {1: Measurement(3.0, "USD"), 8: Measurement(1.0, "USD"), 64: Measurement.missing("USD", "no")}
    assert (best(sizes), best({1: sizes[64]})) == (8, None)
    assert choose(EXAMPLES, "t3.large").per_hour == 0.0832
    assert all("June 2026" in price.source for price in EXAMPLES.values())
    with pytest.raises(BadInput, match="there are several"):
        choose(EXAMPLES, None)
    assert choose({"one": Price(1.0)}, None) == Price(1.0)
