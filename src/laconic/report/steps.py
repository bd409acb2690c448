"""What the sections on steps share: whose steps are shown, and how to read what a record may lack."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from laconic.report.candidates import Candidate, Left, grouped
from laconic.report.units import Scale, finite, fixed, percent, scaled, shared

ABSENT = "not recorded"


def whose(
    result: Mapping[str, Any], candidates: Sequence[Candidate], chosen: Candidate | None, section: str
) -> tuple[Candidate, list[Mapping[str, Any]]] | None:
    """Return the chosen candidate with its outcomes of steps of this section, or the fastest that passed and has any; None where none has.

    Args:
        result: the content of the run's result.json.
        candidates: its candidates as read, in the same order.
        chosen: the best or nearest miss.
        section: that the outcomes name.
    """
    records: Sequence[Mapping[str, Any]] = result.get("candidates") or ()
    with_steps = []
    for one, record in zip(candidates, records, strict=True):
        steps = [outcome for outcome in record.get("outcomes") or () if outcome.get("section") == section]
        if steps:
            with_steps.append((one, steps))
    return min(with_steps, key=lambda pair: rank(pair[0], chosen), default=None)


def rank(one: Candidate, chosen: Candidate | None) -> tuple[bool, bool, float, float]:
    """Return what orders candidates: the chosen first, then those that passed; by speed-up, then by latency; what was not measured last."""
    speedup, latency = one.amount("speedup").raw, one.amount("latency_ms").raw
    return not is_chosen(one, chosen), not one.passed, -(speedup or 0.0), float("inf") if latency is None else latency


def is_chosen(one: Candidate, chosen: Candidate | None) -> bool:
    """Return whether this is the best or nearest miss."""
    return chosen is not None and one.key == chosen.key


def why_shown(one: Candidate, chosen: Candidate | None) -> str:
    """Return a sentence on why one that was not chosen is shown; empty for the chosen."""
    if is_chosen(one, chosen):
        return ""
    if one.passed:
        return " It was not chosen; it is shown as the fastest that passed with such a step."
    measured = any(one.amount(name).raw is not None for name in ("speedup", "latency_ms"))
    why = "the fastest of those with such a step" if measured else "the first of those with such a step, none of which was timed"
    return f" None with such a step passed; it is shown as {why}" + (f": {one.why}." if one.why else ".")


def title_of(outcome: Mapping[str, Any]) -> str:
    """Return a step in a few words: as it told them, else its name."""
    return str(outcome.get("title") or outcome.get("step") or "step").replace("_", " ")


def steps_row(names: Sequence[str]) -> tuple[str, str]:
    """Return the setting that names the steps, in their order."""
    return "Steps" if len(names) > 1 else "Step", " → ".join(names)


def names_of(steps: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the names of steps, as recipes have them."""
    return [str(step.get("step") or ABSENT) for step in steps]


def each(changes: Sequence[Mapping[str, Any]], told: Callable[[Mapping[str, Any]], str]) -> str:
    """Return what is told of each step's changes, once where it is the same."""
    return ", then ".join(dict.fromkeys(told(changed) for changed in changes))


def stayed(steps: Sequence[Mapping[str, Any]]) -> tuple[Left, ...]:
    """Return what these steps left as it was, one entry for each reason."""
    skipped = [item for step in steps for item in mappings(step.get("skipped"))]
    return grouped([(str(item.get("name", "")), str(item.get("reason", ""))) for item in skipped])


def epochs_of(changes: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return the epochs of all steps, counted on: rounds and steps count theirs from 1 each."""
    epochs = [epoch for changed in changes for epoch in mappings(changed.get("epochs"))]
    return [{**epoch, "epoch": number} for number, epoch in enumerate(epochs, start=1)]


def counted(value: object, noun: str) -> str:
    """Write `8 bits`, `1 tensor`, or `tensors not recorded`."""
    count = finite(value)
    return f"{noun}s {ABSENT}" if count is None else f"{fixed(count, 0)} {noun}{'s' if count != 1 else ''}"


def mapping(value: object) -> Mapping[str, Any]:
    """Return the value where it is a mapping, else an empty one."""
    return value if isinstance(value, Mapping) else {}


def mappings(value: object) -> list[Mapping[str, Any]]:
    """Return the mappings of a list; none where it is no list."""
    return [item for item in value if isinstance(item, Mapping)] if isinstance(value, list) else []


def reached(changes: Sequence[Mapping[str, Any]], name: str, scale: Scale, what: str) -> str:
    """Write `44.1 → 17.9 k MACs for one example: 40.5 % kept`: from before the first step to after the last."""
    before, after = _end(changes[0], name, 0), _end(changes[-1], name, 1)
    if before is None or after is None:
        return ABSENT
    unit = shared(scale, (before, after))
    arrow = f"{scaled(before, scale, unit=unit).number} → {scaled(after, scale, unit=unit).text}{what}"
    return f"{arrow}: {percent(after / before)} kept" if before else arrow


def _end(changed: Mapping[str, Any], name: str, position: int) -> float | None:
    pair = changed.get(name)
    return finite(pair[position]) if isinstance(pair, list | tuple) and len(pair) == 2 else None
