"""Money for a million inferences: a price of an hour times the measured time, and a price of a kilowatt-hour times the measured energy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from laconic.core.errors import BadInput, Mistakes
from laconic.core.fields import check_types
from laconic.core.records import Measurement

MILLION = 1e6
_SECONDS, _JOULES = 3600.0, 3.6e6  # of an hour, of a kilowatt-hour


@dataclass(frozen=True)
class Price:
    """What a machine costs: by the hour, as a rented one does, by the kilowatt-hour, as one of your own or a battery does, or both.

    Args:
        per_hour: of the whole machine on which the model runs as it was measured.
        per_kwh: of energy above idle; it needs a counter or a meter.
        currency: in which both are.
        name: of the machine.
        source: where the price stands, and of which day it is.

    Raises:
        BadInput: neither is given, or one is not positive.
    """

    per_hour: float | None = None
    per_kwh: float | None = None
    currency: str = "USD"
    name: str = ""
    source: str = ""

    def __post_init__(self) -> None:
        head = f"the price{f' of {self.name}' * bool(self.name)} makes no sense:"
        check_types(self, head)
        given = {name: value for name, value in (("per_hour", self.per_hour), ("per_kwh", self.per_kwh)) if value is not None}
        mistakes = [f"{name}: {value!r} must be more than 0 and finite" for name, value in given.items() if not 0 < value < float("inf")]
        if not given:
            mistakes.append("per_hour or per_kwh is missing")
        if mistakes:
            raise Mistakes(head, mistakes)

    def __str__(self) -> str:
        parts = [
            f"{amount:g} {self.currency} {what}"
            for amount, what in ((self.per_hour, "an hour"), (self.per_kwh, "a kWh"))
            if amount is not None
        ]
        return " and ".join(parts) + f" of {self.name}" * bool(self.name) + f" ({self.source})" * bool(self.source)


# Examples, as third pages told the list prices for Linux on demand in us-east-1 in June 2026, without storage and traffic. Not checked with the provider.
_LISTED = "AWS on demand, us-east-1, as told by third pages in June 2026; an example that was not checked"
EXAMPLES: Mapping[str, Price] = {
    name: Price(per_hour, name=name, source=_LISTED)
    for name, per_hour in (("m7g.large", 0.0816), ("t3.large", 0.0832), ("g5.xlarge", 1.006))
}


def cost(price: Price, throughput_per_s: Measurement | None, energy_mj: Measurement | None = None) -> Measurement:
    """Return money for a million inferences, its interval from those of what it is made of: both at their good ends, both at their bad ones.

    Args:
        price: of the machine.
        throughput_per_s: examples in a second, at the batch size for which the cost is told.
        energy_mj: millijoules of one example; needed where energy has a price.
    """
    parts, n = list[tuple[float | None, ...]](), list[int]()
    if price.per_hour is not None:
        rate = throughput_per_s
        if rate is None or not rate.value:
            return Measurement.missing(price.currency, _why("the throughput was not measured", rate))
        parts.append(tuple(MILLION * price.per_hour / _SECONDS / end if end else None for end in (rate.value, rate.high, rate.low)))
        n.append(rate.n)
    if price.per_kwh is not None:
        energy = energy_mj
        if energy is None or energy.value is None:
            return Measurement.missing(price.currency, _why("energy has a price and was not measured", energy))
        ends = (energy.value, energy.low, energy.high)
        parts.append(tuple(None if end is None else MILLION * price.per_kwh * 1e-3 * end / _JOULES for end in ends))
        n.append(energy.n)
    value, low, high = (_sum([part[i] for part in parts]) for i in range(3))
    return Measurement(value, price.currency, min(n), low, high, price.name, f"at {price}")


def best(costs: Mapping[int, Measurement]) -> int | None:
    """Return the batch size at which a million inferences cost least; None where no cost is known."""
    known = {size: one.value for size, one in costs.items() if one.value is not None}
    return min(known, key=lambda size: known[size], default=None)


def choose(prices: Mapping[str, Price], name: str | None) -> Price:
    """Return the price of a name; the only one where none is given.

    Raises:
        BadInput: there is none of that name, or several and no name.
    """
    if name is None and len(prices) == 1:
        return next(iter(prices.values()))
    if name is None or name not in prices:
        which = "there are several" if name is None else f"there is none called '{name}'"
        raise BadInput(f"which price: {which}; choose from {', '.join(prices)}")
    return prices[name]


def _sum(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) if len(known) == len(values) else None


def _why(text: str, known: Measurement | None) -> str:
    return f"{text}: {known.note}" if known is not None and known.note else text
