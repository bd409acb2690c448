"""What was not handed over for a reason: failed, rejected, not tried and impossible here, by status and by rule, in one place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from laconic.report.candidates import Candidate
from laconic.report.units import NO_REASON

# status -> what is said of all that have it, in the order of the page
_STATUS = {
    "failed": "Failed",
    "rejected": "Measured, and not good enough",
    "not_tried": "Not tried",
    "unavailable": "Not possible on this machine",
}


@dataclass(frozen=True)
class Fallen:
    """Candidates of one status that fell by one rule: titles with their reasons. `label` is the rule in words."""

    status: str
    heading: str
    label: str
    rows: tuple[tuple[str, str], ...]


def fallen(candidates: Sequence[Candidate]) -> tuple[Fallen, ...]:
    """Return who fell and why, those of one status together, by the first rule that each broke; the most frequent rule first.

    Args:
        candidates: all; those that passed and baselines are passed over.
    """
    groups: dict[tuple[str, str], list[tuple[str, str]]] = {}
    for one in candidates:
        if one.status in _STATUS:
            label = one.reasons[0].label if one.reasons else ""
            groups.setdefault((one.status, label), []).append((one.title, one.why or NO_REASON))
    order = list(_STATUS)
    made = [Fallen(status, _STATUS[status], label, tuple(rows)) for (status, label), rows in groups.items()]
    return tuple(sorted(made, key=lambda group: (order.index(group.status), -len(group.rows))))
