"""The task's words for quantities: what its metric is called, how a loss of it is told, and where a quantity stands."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from laconic.core import quantities
from laconic.core.quantities import Limit, Place, Quantity
from laconic.report.units import finite

DATA = {"valid": "validation data", "test": "test data"}


@dataclass(frozen=True)
class Words:
    """The metric's name as a heading; of a score that is better when higher a loss is a drop, of an error a rise; and the loss's unit."""

    metric: str
    loss: str
    unit: str

    @classmethod
    def of(cls, metric: Mapping[str, Any]) -> Words:
        """From the metric as the result has it; percentages are lost in points."""
        unit = str(metric.get("unit") or "")
        points = unit == "%" or metric.get("scale") == 100
        name = _capital(str(metric.get("name") or "metric"))
        return cls(name, "rise" if metric.get("direction") == "min" else "drop", "points" if points else unit)

    def label(self, row: Quantity) -> str:
        """Return what a quantity is called by itself: `Accuracy drop`, `Peak memory`."""
        return self._said(row.label)

    def heading(self, row: Quantity) -> str:
        """Return what it is called above a column: `Drop`, `Peak memory`."""
        return self._said(row.show.heading or row.label)

    def full(self, row: Quantity) -> str:
        """Return the label, with the data that it was scored on: `Accuracy on test data`."""
        return f"{self.label(row)} on {DATA[row.data]}" if row.data else self.label(row)

    def _said(self, text: str) -> str:
        first = self.loss.capitalize() if text.startswith("{loss}") else self.loss
        return text.replace("{loss}", first).replace("{metric}", self.metric)  # the user's last: it may hold anything


def _capital(text: str) -> str:
    """Return a metric's name as a heading: `Accuracy`, `MSE`, `F1`."""
    return text.upper() if len(text) <= 4 else text[:1].upper() + text[1:]


def asked(budget: Mapping[str, Any]) -> list[tuple[Limit, float]]:
    """Return the limits that a result's budget sets, in its order; see `unknown` for those that are not known here."""
    known = quantities.limits()
    values = [(known.get(name), finite(value)) for name, value in budget.items()]
    return [(limit, value) for limit, value in values if limit is not None and value is not None]


def unknown(budget: Mapping[str, Any]) -> list[tuple[str, float]]:
    """Return numbers of a result's budget that no quantity here knows as a limit: the package that brings it is not installed."""
    known = quantities.limits()
    return [(name, number) for name, value in budget.items() if name not in known and (number := finite(value)) is not None]


def goal(budget: Mapping[str, Any]) -> Quantity:
    """Return what was to be best; the first objective where the result names none that is known."""
    objectives = quantities.objectives()
    return objectives.get(str(budget.get("objective")), next(iter(objectives.values())))


def placed(place: Place, budget: Mapping[str, Any], measured: Mapping[str, Quantity]) -> list[Quantity]:
    """Return the quantities that stand in a place: those whose row says so, and those that the budget names; the objective first.

    Args:
        place: see `core.quantities.Show`.
        budget: of the result.
        measured: the quantities of the result by name, those among them that are not known here.
    """
    named = {limit.name for limit, _ in asked(budget)}
    best = goal(budget)

    def stands(row: Quantity) -> bool:
        if place in row.show.places or row.data:
            return place in row.show.places
        return row.name == best.name or (row.limit is not None and row.limit.name in named)

    return sorted(filter(stands, measured.values()), key=lambda row: row.name != best.name)
