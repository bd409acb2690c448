"""When a run spent its time on what: a row for each candidate, stretches of training, building, checking and timing, and sums by candidate."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from laconic.report.candidates import Candidate
from laconic.report.sections import PHASES
from laconic.report.steps import mappings
from laconic.report.units import clock, finite, percent

_SHARED = "The run as a whole"


@dataclass(frozen=True)
class Stretch:
    """One bar: its row, the part's label, when it began and how long it took in seconds, and what hovering says."""

    row: int
    part: str
    start_s: float
    seconds: float
    text: str


@dataclass(frozen=True)
class Spender:
    """One row: who spent the time, its status, seconds by part as text (empty where none), and all of it."""

    title: str
    status: str
    parts: tuple[str, ...]
    total: str


@dataclass(frozen=True)
class Timeline:
    """All stretches of a run. `parts` are labels in the order of the columns; `rows` stand in the order of their first stretch; `lead` and `alt` are words."""

    parts: tuple[str, ...]
    rows: tuple[Spender, ...]
    stretches: tuple[Stretch, ...]
    lead: str
    alt: str


def timeline(result: Mapping[str, Any], candidates: Sequence[Candidate]) -> Timeline | None:
    """Return when the time was spent on whom; None where that was not recorded.

    Args:
        result: the content of the run's result.json.
        candidates: all, the baselines among them.
    """
    spans = sorted(_spans(result), key=lambda span: span[2])
    if not spans:
        return None
    by_key = {one.key: one for one in candidates}
    keys = list(dict.fromkeys(of for _, of, _, _ in spans))
    parts = [name for name in PHASES if any(part == name for part, *_ in spans)]
    spent = {(part, of): sum(s for p, o, _, s in spans if (p, o) == (part, of)) for part, of, _, _ in spans}
    rows = tuple(_row(key, by_key.get(key), parts, spent) for key in keys)
    return Timeline(
        parts=tuple(PHASES[name] for name in parts),
        rows=rows,
        stretches=tuple(_stretch(rows, keys, span) for span in spans),
        lead=_lead(result, spans),
        alt=_alt(rows, keys, spent),
    )


def _spans(result: Mapping[str, Any]) -> Iterator[tuple[str, str, float, float]]:
    """Yield part, key, start and seconds of each stretch that can be read."""
    for span in mappings(result.get("timeline")):
        start_s, seconds = finite(span.get("start_s")), finite(span.get("seconds"))
        if span.get("part") in PHASES and start_s is not None and seconds is not None and seconds > 0:
            yield str(span["part"]), str(span.get("of") or ""), start_s, seconds


def _row(key: str, one: Candidate | None, parts: Sequence[str], spent: Mapping[tuple[str, str], float]) -> Spender:
    title = one.title if one is not None else key or _SHARED
    each = [spent.get((part, key), 0.0) for part in parts]
    return Spender(title, "" if one is None else one.status, tuple(clock(s) if s else "" for s in each), clock(sum(each)))


def _stretch(rows: Sequence[Spender], keys: Sequence[str], span: tuple[str, str, float, float]) -> Stretch:
    part, of, start_s, seconds = span
    row = keys.index(of)
    return Stretch(row, PHASES[part], start_s, seconds, f"{PHASES[part]}: {clock(seconds)}, from {clock(start_s)} on")


def _lead(result: Mapping[str, Any], spans: Sequence[tuple[str, str, float, float]]) -> str:
    """Return how much of the time something ran, and how much nothing of this did."""
    total = finite((result.get("spent") or {}).get("total")) or max(start + seconds for _, _, start, seconds in spans)
    busy, end = 0.0, 0.0
    for _, _, start, seconds in spans:  # in the order of their starts; those of several processes may overlap
        busy += max(0.0, start + seconds - max(start, end))
        end = max(end, start + seconds)
    idle = max(0.0, total - busy)
    return f"In {clock(idle)} of {clock(total)} ({percent(idle / total if total else 0.0)}) none of these ran: Laconic's own work, and waiting."


def _alt(rows: Sequence[Spender], keys: Sequence[str], spent: Mapping[tuple[str, str], float]) -> str:
    totals = {key: sum(seconds for (_, of), seconds in spent.items() if of == key) for key in keys}
    most = max((key for key in keys if key), key=totals.__getitem__, default=None)
    told = "" if most is None else f" Most went to {rows[keys.index(most)].title}: {clock(totals[most])}."
    return f"When the run spent its time, by candidate, {len(rows)} rows in the order of their turns.{told}"
