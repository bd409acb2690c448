"""What a quantizing step did: ranges of activations, sensitivity by layer, what stayed float and why."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from laconic.report.candidates import Candidate, Left, runtime_titles
from laconic.report.sections import Training, training
from laconic.report.steps import ABSENT, counted, mapping, mappings, names_of, stayed, steps_row, whose, why_shown
from laconic.report.units import finite, fixed, joined, number

_SECTION = "quantization"
MODES = {
    "static": "static: activations are rounded to ranges seen in calibration",
    "dynamic": "dynamic: activations are rounded to each input's own range",
    "weights": "weights alone: activations stay float",
}
COUNTS = {"smoothed_norms": "Norms smoothed", "equalized_pairs": "Pairs equalized", "corrected_biases": "Biases corrected"}
_NO_RANGES = {"dynamic": "Ranges are chosen anew for each input.", "weights": "Activations stay float: there are no ranges."}
_HALF = {True: "half: codes within ±63, so that sums of products fit into 16 bits", False: "the whole range of codes"}
_DRAWN = 30  # layers: the chart of sensitivity has no more, the table has all


@dataclass(frozen=True)
class _Kind:
    """What a step's list of operators holds: a heading, and a verb for one and for many."""

    heading: str
    one: str
    many: str

    def said(self, operators: int | None) -> str:
        """Return how many there are; None: not recorded."""
        if operators is None:
            return f"how many operators {self.many} was not recorded"
        return f"{fixed(operators, 0)} operator {self.one}" if operators == 1 else f"{fixed(operators, 0)} operators {self.many}"


_INTEGERS = _Kind("Operators in integers", "is computed in integers", "are computed in integers")
# Such a step lists all that read a rounded weight: embeddings, and with weights alone all others too, compute in float.
_WEIGHTS_ONLY = _Kind("Operators with rounded weights", "has rounded weights", "have rounded weights")


@dataclass(frozen=True)
class Range:
    """The range that an activation is rounded to; None: not recorded."""

    name: str
    low: float | None
    high: float | None
    low_text: str
    high_text: str
    zero_text: str

    @property
    def known(self) -> bool:
        """Whether both ends were recorded."""
        return self.low is not None and self.high is not None


@dataclass(frozen=True)
class Ranges:
    """The ranges of all activations in the order recorded; `note` says why there are none."""

    rows: tuple[Range, ...]
    drawn: tuple[Range, ...]
    alt: str
    note: str


@dataclass(frozen=True)
class Sensitive:
    """The signal-to-noise ratio of the model's output when this operator alone is rounded; `kept` None: not recorded.

    `sqnr_db` is None where the output did not change and where nothing was recorded: `text` says which.
    """

    name: str
    sqnr_db: float | None
    text: str
    kept: bool | None

    @property
    def fate(self) -> str:
        """`kept float`, `rounded`, or that it was not recorded."""
        return ABSENT if self.kept is None else "kept float" if self.kept else "rounded"


@dataclass(frozen=True)
class Sensitivity:
    """All operators, the most harmful first, and those that are drawn; `note` is on what is not drawn."""

    rows: tuple[Sensitive, ...]
    drawn: tuple[Sensitive, ...]
    alt: str
    note: str


@dataclass(frozen=True)
class Quantization:
    """What the quantizing steps of one candidate did.

    `settings` are label and text, `listed` says what `operators` are, `left` is what stayed float, one entry for each reason.
    """

    title: str
    lead: str
    settings: tuple[tuple[str, str], ...]
    listed: str
    operators: tuple[str, ...]
    left: tuple[Left, ...]
    ranges: Ranges
    sensitivity: Sensitivity | None
    epochs: Training | None


def quantization(
    result: Mapping[str, Any], candidates: Sequence[Candidate], chosen: Candidate | None, metric: str, unit: str
) -> Quantization | None:
    """Return the chosen candidate's quantization, or that of the fastest that has one; None where nothing was quantized.

    Args:
        result: the content of the run's result.json.
        candidates: its candidates as read, in the same order.
        chosen: the best or nearest miss.
        metric: its name as a heading, for the curve of quantization-aware training.
        unit: the metric's unit.
    """
    shown = whose(result, candidates, chosen, _SECTION)
    if shown is None:
        return None
    one, steps = shown
    changed = {key: value for step in steps for key, value in mapping(step.get("changed")).items()}  # the last step's word counts
    operators = changed.get("operators")
    names = tuple(str(name) for name in operators) if isinstance(operators, list) else ()
    left = _left(steps)
    kind = _WEIGHTS_ONLY if changed.get("mode") in ("dynamic", "weights") else _INTEGERS
    return Quantization(
        title=one.title,
        lead=_lead(one, chosen, kind.said(None if operators is None else len(names)), sum(group.count for group in left)),
        settings=tuple(_settings(steps, changed, runtime_titles(result))),
        listed=kind.heading,
        operators=names,
        left=left,
        ranges=_ranges(changed),
        sensitivity=_sensitivity(mappings(changed.get("sensitivity"))),
        epochs=training({"training": mappings(changed.get("epochs"))}, metric, unit),
    )


def _left(steps: Sequence[Mapping[str, Any]]) -> tuple[Left, ...]:
    """Return what the last step that tells of operators left float: what an earlier one skipped, it may have quantized."""
    telling = [step for step in steps if step.get("skipped") or "operators" in mapping(step.get("changed"))]
    return stayed(telling[-1:])


def _lead(one: Candidate, chosen: Candidate | None, operators: str, left: int) -> str:
    text = f"{one.title}: {operators}; {fixed(left, 0) if left else 'none'} listed as left float."
    return text + why_shown(one, chosen)


def _settings(steps: Sequence[Mapping[str, Any]], changed: Mapping[str, Any], runtimes: Mapping[str, str]) -> list[tuple[str, str]]:
    """Return label and text; the mode and calibration only where the step has them."""
    mode, weights = changed.get("mode"), mapping(changed.get("weights"))
    target = changed.get("target")
    half = weights.get("reduce_range")
    rows = [steps_row(names_of(steps))]
    if mode is not None:
        rows.append(("Mode", MODES.get(str(mode), str(mode))))
    group = finite(weights.get("group"))
    grouped_by = f", a scale for each {counted(group, 'input')} of an output" if group else ""
    rows += [
        ("Target", ABSENT if target is None else runtimes.get(str(target), str(target))),
        ("Weights", f"{counted(weights.get('bits'), 'bit')}, {counted(weights.get('tensors'), 'tensor')}{grouped_by}"),
        ("Range of weights", _HALF[half] if isinstance(half, bool) else ABSENT),
    ]
    if "examples" in changed or mode == "static":
        rows.append(("Calibration", counted(changed.get("examples"), "example")))
    counts = {key: value for key, value in changed.items() if isinstance(value, int) and not isinstance(value, bool) and key != "examples"}
    rows += [(COUNTS.get(key, key.replace("_", " ").capitalize()), fixed(value, 0)) for key, value in counts.items()]
    return rows if counts else [*rows, ("Corrections", "no counts were recorded")]


def _ranges(changed: Mapping[str, Any]) -> Ranges:
    rows = tuple(_range(item) for item in mappings(changed.get("activations")))
    if not rows:
        return Ranges((), (), "", _NO_RANGES.get(str(changed.get("mode")), "The ranges of activations were not recorded."))
    drawn = tuple(row for row in rows if row.known)
    alt = f"Ranges of {len(drawn)} activations."
    widest = max(drawn, key=lambda row: (row.high or 0.0) - (row.low or 0.0), default=None)
    if widest is not None:
        alt += f" The widest is that of {widest.name}: {widest.low_text} to {widest.high_text}."
    missing = len(rows) - len(drawn)
    return Ranges(rows, drawn, alt, f"Not drawn, because an end was not recorded: {missing} of {len(rows)}." if missing else "")


def _range(item: Mapping[str, Any]) -> Range:
    low, high, zero = (finite(item.get(name)) for name in ("low", "high", "zero_point"))
    low_text, high_text = (ABSENT if end is None else number(end) for end in (low, high))
    return Range(str(item.get("name") or "unnamed"), low, high, low_text, high_text, ABSENT if zero is None else fixed(zero, 0))


def _sensitivity(items: Sequence[Mapping[str, Any]]) -> Sensitivity | None:
    """Return rows sorted by harm: what changes nothing comes after all that does, what was not recorded last."""
    if not items:
        return None
    rows = sorted((_sensitive(item) for item in items), key=lambda row: (row.text == ABSENT, row.sqnr_db is None, row.sqnr_db or 0.0))
    known = [row for row in rows if row.sqnr_db is not None]
    alt = f"Signal-to-noise ratio of the output when one operator alone is rounded, for {len(known)} operators: lower hurts more."
    if known:
        worst = known[0]
        alt += f" The most harmful is {worst.name}: {worst.text}{' (kept float)' if worst.kept else ''}."
    drawn = known[:_DRAWN]
    silent, absent = (sum(row.sqnr_db is None and (row.text == ABSENT) is gone for row in rows) for gone in (False, True))
    notes = [
        f"The {_DRAWN} most harmful of {len(known)} are drawn." if len(known) > _DRAWN else "",
        f"No change at all, and no bar: {silent}." if silent else "",
        f"Not recorded: {absent}." if absent else "",
    ]
    return Sensitivity(tuple(rows), tuple(drawn), alt, " ".join(note for note in notes if note))


def _sensitive(item: Mapping[str, Any]) -> Sensitive:
    """Return a null is a ratio without end: the output did not change."""
    sqnr_db, kept = finite(item.get("sqnr_db")), item.get("kept_float")
    text = joined(number(sqnr_db), "dB") if sqnr_db is not None else "no change" if item.get("sqnr_db", ABSENT) is None else ABSENT
    return Sensitive(str(item.get("name") or "unnamed"), sqnr_db, text, kept if isinstance(kept, bool) else None)
