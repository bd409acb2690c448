"""What steps did that leave weights few values: of each weight its numbers, zeros and values, what a number takes, and how the values were fine-tuned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from laconic.report.candidates import Candidate, Left
from laconic.report.sections import Training, training
from laconic.report.steps import ABSENT, counted, mapping, mappings, names_of, stayed, steps_row, whose, why_shown
from laconic.report.units import finite, fixed, joined, number

_SECTION = "sharing"
_BITS = 32  # of a number that was not shared


@dataclass(frozen=True)
class SharedWeight:
    """One weight in words: numbers, those that are not zero, values and their range, bits a number without and with context, signal over noise."""

    name: str
    numbers: str
    nonzero: str
    values: str
    span: str
    bits: str
    coded: str
    sqnr: str


@dataclass(frozen=True)
class Sharing:
    """What the steps of one candidate did. `settings` are label and text, `left` is what stayed, one entry for each reason."""

    title: str
    lead: str
    settings: tuple[tuple[str, str], ...]
    weights: tuple[SharedWeight, ...]
    left: tuple[Left, ...]
    epochs: Training | None


def sharing(result: Mapping[str, Any], candidates: Sequence[Candidate], chosen: Candidate | None, metric: str, unit: str) -> Sharing | None:
    """Return the sharing of weights in the chosen candidate, or in the fastest that has any; None where none was shared.

    Args:
        result: the content of the run's result.json.
        candidates: its candidates as read, in the same order.
        chosen: the best or nearest miss.
        metric: its name as a heading, for the curve of training.
        unit: the metric's unit.
    """
    shown = whose(result, candidates, chosen, _SECTION)
    if shown is None:
        return None
    one, steps = shown
    changed = mapping(steps[-1].get("changed"))  # what the last one left is what ships
    epochs = mappings(changed.get("epochs"))
    return Sharing(
        title=one.title,
        lead=f"{one.title}: {_said(changed)}.{why_shown(one, chosen)}",
        settings=tuple(_settings(steps, changed, len(epochs))),
        weights=tuple(_weight(item) for item in mappings(changed.get("weights"))),
        left=stayed(steps[-1:]),
        epochs=training({"training": epochs}, metric, unit),
    )


def _said(changed: Mapping[str, Any]) -> str:
    numbers, bits = finite(changed.get("numbers")), finite(changed.get("entropy_bits"))
    if numbers is None or bits is None:
        return "what its weights take was not recorded"
    return f"{counted(numbers, 'number')} of weights take {number(bits)} bits each in a code without context, of {_BITS} before"


def _settings(steps: Sequence[Mapping[str, Any]], changed: Mapping[str, Any], epochs: int) -> list[tuple[str, str]]:
    """Return label and text; the choices of each kind of step only where it has them."""
    nonzero, numbers = finite(changed.get("nonzero")), finite(changed.get("numbers"))
    rows = [steps_row(names_of(steps))]
    for key, label in (("start", "k-means starts"), ("weighting", "Errors weighted by"), ("grid", "Grid")):
        if key in changed:
            rows.append((label, str(changed[key])))
    for key, label, unit in (("slope", "A bit is worth", "of loss"), ("bits_per_weight", "With context", "bits a weight")):
        value = finite(changed.get(key))
        if value is not None:
            rows.append((label, joined(number(value), unit)))
    rows.append(("Not zero", ABSENT if nonzero is None or not numbers else _share(nonzero, numbers)))
    return [*rows, ("Fine-tuning", counted(epochs, "epoch") if epochs else "none")]


def _share(part: float, whole: float) -> str:
    return f"{fixed(part, 0)} of {fixed(whole, 0)} ({fixed(100 * part / whole, 1)}\u00a0%)"


def _weight(item: Mapping[str, Any]) -> SharedWeight:
    numbers, nonzero, values, low, high, bits, coded, sqnr = (
        finite(item.get(name)) for name in ("numbers", "nonzero", "values", "low", "high", "entropy_bits", "coded_bits", "sqnr_db")
    )
    return SharedWeight(
        str(item.get("name") or "unnamed"),
        ABSENT if numbers is None else fixed(numbers, 0),
        ABSENT if nonzero is None or not numbers else f"{fixed(100 * nonzero / numbers, 1)}\u00a0%",
        ABSENT if values is None else fixed(values, 0),
        ABSENT if low is None or high is None else f"{number(low)} to {number(high)}",
        ABSENT if bits is None else number(bits),
        number(coded) if coded is not None else "not tried" if item.get("coded_bits", ABSENT) is None else ABSENT,
        joined(number(sqnr), "dB") if sqnr is not None else "no change" if item.get("sqnr_db", ABSENT) is None else ABSENT,
    )
