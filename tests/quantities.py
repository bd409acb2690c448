"""Quantities that another package would bring: carbon, which somebody writes into records, and money, which its row works out from the evidence."""

from __future__ import annotations

from laconic.core.quantities import Evidence, Limit, Objective, Quantity, Show
from laconic.core.records import Measurement

PRICE_PER_HOUR = 0.36


def money(evidence: Evidence) -> Measurement | None:
    """Return cents for a million answers at the measured throughput."""
    rate = evidence.measured["throughput_per_s"]
    if not rate.value or not rate.low or not rate.high:
        return Measurement.missing("ct", "no throughput")
    million = 1e6 / 3600 * PRICE_PER_HOUR * 100
    return Measurement(million / rate.value, "ct", rate.n, million / rate.high, million / rate.low)


CARBON = Quantity(
    "carbon_mg",
    "Carbon of an inference",
    "mg",
    show=Show("Carbon", "milligrams of one call, by a counter"),
    limit=Limit("max_carbon_mg", "mg", words="at most {limit} mg"),
    objective=Objective("carbon", "of one carbon"),
)
MONEY = Quantity(
    "bill_ct", "Bill of a million", "ct", timed=True, limit=Limit("max_bill_ct", "ct"), objective=Objective("bill"), measure=money
)
YIELD = Quantity("answers_per_ct", "Answers for a cent", "1/ct", "max", limit=Limit("min_answers", "1/ct"), objective=Objective("yield"))
OUTSIDE = (CARBON, MONEY, YIELD)
