"""What steps did that make layers cheaper: the chain in the place of each layer with its rank, cost and error, and blocks that were left out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from laconic.report.candidates import Candidate, Left
from laconic.report.steps import ABSENT, counted, mapping, mappings, reached, stayed, steps_row, title_of, whose, why_shown
from laconic.report.units import MACS, PARAMS, Scale, finite, percent, scaled, shared

_SECTION = "factorization"


@dataclass(frozen=True)
class Rewritten:
    """A layer that became a chain: its path, the way, ranks of full ranks, multiply-adds and parameters before and after, the error of its output."""

    name: str
    method: str
    rank: str
    macs: str
    params: str
    kept: str
    error: str


@dataclass(frozen=True)
class Factorization:
    """What the steps of one candidate did. `settings` are label and text, `left` is what stayed, one entry for each reason."""

    title: str
    lead: str
    settings: tuple[tuple[str, str], ...]
    rows: tuple[Rewritten, ...]
    left: tuple[Left, ...]
    notes: tuple[str, ...]


def factorization(
    result: Mapping[str, Any], candidates: Sequence[Candidate], chosen: Candidate | None, metric: str, unit: str
) -> Factorization | None:
    """Return what was rewritten in the chosen candidate, or in the fastest that has any; None where nothing was.

    Args:
        result: the content of the run's result.json.
        candidates: its candidates as read, in the same order.
        chosen: the best or nearest miss.
        metric: its name as a heading; not shown here.
        unit: the metric's unit; not shown here.
    """
    shown = whose(result, candidates, chosen, _SECTION)
    if shown is None:
        return None
    one, steps = shown
    changes = [mapping(step.get("changed")) for step in steps]
    rows = tuple(_row(item) for changed in changes for item in mappings(changed.get("layers")))
    blocks = [str(path) for changed in changes for path in changed.get("blocks") or ()]
    done = [f"{counted(len(rows), 'layer')} rewritten"] * bool(rows) + [f"{counted(len(blocks), 'block')} left out"] * bool(blocks)
    return Factorization(
        title=one.title,
        lead=f"{one.title}: {' and '.join(done) or 'what was done was not recorded'}.{why_shown(one, chosen)}",
        settings=(
            steps_row([title_of(step) for step in steps]),
            ("Multiply-adds", reached(changes, "macs", MACS, " for one example")),
            ("Parameters", reached(changes, "params", PARAMS, "")),
            *([("Blocks left out", ", ".join(blocks))] if blocks else []),
        ),
        rows=rows,
        left=stayed(steps),
        notes=tuple(str(note) for step in steps for note in step.get("notes") or ()),
    )


def _row(item: Mapping[str, Any]) -> Rewritten:
    macs, params = (_pair(item.get(name)) for name in ("macs", "params"))
    error = finite(item.get("error"))
    return Rewritten(
        name=str(item.get("name") or "unnamed"),
        method=str(item.get("method") or ABSENT),
        rank=f"{item.get('rank') or ABSENT} of {item.get('full_rank') or ABSENT}",
        macs=_arrow(macs, MACS),
        params=_arrow(params, PARAMS),
        kept=percent(macs[1] / macs[0]) if macs is not None and macs[0] else ABSENT,
        error=ABSENT if error is None else percent(error),
    )


def _pair(value: object) -> tuple[float, float] | None:
    ends = [finite(end) for end in value] if isinstance(value, list | tuple) and len(value) == 2 else []
    return (ends[0], ends[1]) if len(ends) == 2 and ends[0] is not None and ends[1] is not None else None


def _arrow(ends: tuple[float, float] | None, scale: Scale) -> str:
    if ends is None:
        return ABSENT
    unit = shared(scale, ends)
    return f"{scaled(ends[0], scale, unit=unit).number} → {scaled(ends[1], scale, unit=unit).text}"
