"""The way from the baseline to what was chosen, quantity by quantity: what each part of the recipe took away or added."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from laconic.core import quantities
from laconic.report.payoff import Payoff
from laconic.report.units import Amount, rescaled, shared_unit
from laconic.report.words import Words


@dataclass(frozen=True)
class Bar:
    """One bar: its title, whether it is a whole (the baseline or the end) or a change, its length in the unit of the axis, and words."""

    title: str
    whole: bool
    value: float
    text: str


@dataclass(frozen=True)
class Waterfall:
    """One quantity from the baseline to the end, whether less of it is better; `alt` says it in words."""

    id: str
    label: str
    unit: str
    less: bool
    bars: tuple[Bar, ...]
    alt: str


def waterfalls(payoff: Payoff | None, words: Words) -> tuple[Waterfall, ...]:
    """Return the waterfall of each quantity that every part of the chain has; none where there is one part only."""
    return () if payoff is None or len(payoff.chain) < 2 else tuple(_waterfalls(payoff, words))


def _waterfalls(payoff: Payoff, words: Words) -> Iterator[Waterfall]:
    for row in payoff.rows:
        effects = [(part.title, effect) for part in payoff.chain if (effect := part.effect(row.name)) is not None]
        if len(effects) < len(payoff.chain):
            continue
        shown = effects[0][1].shown
        size, unit = shared_unit(shown, [amount for _, effect in effects for amount in (effect.before, effect.after)])

        def text(amount: Amount, of: tuple[float, str] = (size, unit), row: quantities.Quantity = shown) -> str:
            return rescaled(row, amount, of).text

        changes = [Bar(title, False, effect.change / size, effect.told) for title, effect in effects]
        first, last = effects[0][1].before, effects[-1][1].after
        ends = [Bar(title, True, (amount.raw or 0.0) / size, text(amount)) for title, amount in (("Baseline", first), ("Chosen", last))]
        label = words.label(shown)
        alt = (
            f"{label} from {ends[0].text} of the baseline to {ends[1].text}: "
            + "; ".join(f"{bar.title} {bar.text}" for bar in changes)
            + "."
        )
        yield Waterfall(f"payoff-{row.name.replace('_', '-')}", label, unit, shown.direction == "min", (ends[0], *changes, ends[1]), alt)
