"""What a candidate takes while it answers: joules, where somebody asks for them, and money, where there is a price."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from laconic.core.consumption import COST, ENERGY
from laconic.core.records import Measurement
from laconic.measure import cost, energy
from laconic.measure.cost import Price
from laconic.run.judge import Judge
from laconic.run.measured import CandidateEvidence
from laconic.run.options import Options
from laconic.run.record import Record, opponent


def needs_energy(asks: Callable[[str], bool], price: Price | None) -> bool:
    """Return whether joules are asked for: by name, or since they are part of a cost that is asked for.

    Args:
        asks: whether a quantity of this name is limited or aimed at.
        price: of the machine.
    """
    return asks(ENERGY) or (asks(COST) and price is not None and price.per_kwh is not None)


def energy_beside(evidence: CandidateEvidence, judge: Judge, options: Options, bases: Sequence[Record]) -> dict[str, Measurement]:
    """Return the energy of a candidate or a baseline that has just been timed, by its name; nothing where nobody asks for it.

    It takes a minute or more, so of what is rejected already, whatever its energy is, it is unknown.

    Args:
        evidence: with its process.
        judge: what is asked of it.
        options: how it is measured.
        bases: the baselines.
    """
    if not needs_energy(judge.asks, options.price):
        return {}
    record = evidence.record
    without = record.replace(measured={name: known for name, known in record.measured.items() if name != ENERGY})
    if record.baseline is not None and judge.hopeless(without, opponent(record, bases)):
        return {ENERGY: Measurement.missing(energy.UNIT, "unknown: it was rejected before its energy was measured")}
    return {ENERGY: energy.joules(evidence.run, options.metering, record.recipe["deploy"]["device"], options.batch)}


def priced(record: Record, price: Price | None) -> Record:
    """Return the record with the money for a million inferences at its measured throughput and energy; unchanged without a price."""
    if price is None:
        return record
    known = cost.cost(price, record.measured.get("throughput_per_s"), record.measured.get(ENERGY))
    return record.with_measured(**{COST: known})
