"""Rows of what running a model takes: processor time, energy and money. `core.quantities` puts them behind the others."""

from __future__ import annotations

from laconic.core.quantity import MILLIJOULES, MILLISECONDS, Limit, Objective, Quantity, Show

ENERGY, COST = "energy_mj", "cost_per_million"

ROWS = (
    Quantity(
        "cpu_ms",
        "Processor time of an inference",
        "ms",
        optional=True,
        timed=True,
        show=Show(
            "Processor",
            "of one example, summed over threads; those that spin while they wait use it too",
            MILLISECONDS,
            ("candidates",),
        ),
    ),
    Quantity(
        ENERGY,
        "Energy of an inference",
        "mJ",
        optional=True,
        show=Show("Energy", "of one example, above what the idle machine takes; by a counter or a meter that is named", MILLIJOULES),
        limit=Limit(
            "max_energy_mj",
            "mJ",
            words="at most {limit} mJ an inference",
            option="--max-energy-mj",
            help="Energy of one example in mJ, above idle, at the most; needs a counter or --meter.",
        ),
        objective=Objective("energy", "of one energy"),
    ),
    Quantity(
        COST,
        "Cost of a million inferences",
        "",
        optional=True,
        timed=True,
        noun="cost of a million inferences",
        better="cheaper",
        worse="dearer",
        show=Show("A million cost", "price of an hour × time at the run's batch size, and of a kWh × energy"),
        limit=Limit(
            "max_cost",
            words="a million inferences for at most {limit}",
            option="--max-cost",
            help="Money for a million inferences, in the currency of --prices, at the most.",
        ),
        objective=Objective("cost", "of one cost"),
    ),
)
