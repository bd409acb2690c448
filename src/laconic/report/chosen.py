"""The sections on the chosen artifact: what ships, which answers changed, how latency spreads and grows with the batch, the best of each technique."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from laconic.core.quantities import Quantity
from laconic.report.candidates import Candidate
from laconic.report.steps import mapping, mappings, rank
from laconic.report.units import TIME, finite, fixed, scaled
from laconic.report.words import Words

_CLASSES = 20  # rows of the table of changed answers


@dataclass(frozen=True)
class Ships:
    """What is delivered: the file in the run's folder, its size, where it runs, and the lines of Python that load and run it, with Laconic and without."""

    file: str
    size: str
    runs_in: str
    code: str
    code_without: str


@dataclass(frozen=True)
class Changed:
    """Which answers differ from the baseline's. `rows` are of classes: name, how many answers, changed, wrong now, right now; `flows` words for the most
    frequent changes; `more` says how many classes are not listed."""

    lead: str
    noun: str
    rows: tuple[tuple[str, str, str, str, str], ...]
    flows: tuple[str, ...]
    more: str


@dataclass(frozen=True)
class Spread:
    """How the latencies of single calls spread: by name, milliseconds and the share of calls (in percent) that took no longer; `alt` says it in words."""

    lines: Mapping[str, tuple[tuple[float, ...], tuple[float, ...]]]
    alt: str


@dataclass(frozen=True)
class Curve:
    """How latency grows with the batch: batch sizes, and by name milliseconds for one example; rows of a table; `note` on sizes that are missing."""

    batches: tuple[int, ...]
    lines: Mapping[str, tuple[float, ...]]
    rows: tuple[tuple[str, ...], ...]
    alt: str
    note: str


@dataclass(frozen=True)
class Technique:
    """The best of all candidates that were made by the same steps: its title, key, status, figures, how many were tried, and why none passed."""

    name: str
    key: str
    title: str
    passed: bool
    figures: tuple[str, ...]
    tried: int
    why: str


def ships(result: Mapping[str, Any], chosen: Candidate | None) -> Ships | None:
    """Return what is delivered; None where nothing is."""
    told = mapping(result.get("ships"))
    if chosen is None or not result.get("best") or not told.get("file"):
        return None
    codes = (str(told.get(name) or "") for name in ("code", "code_without"))
    return Ships(str(told["file"]), chosen.amount("size_bytes").text, chosen.recipe.rpartition(" → ")[2] or chosen.title, *codes)


def changed(result: Mapping[str, Any]) -> Changed | None:
    """Return which answers on validation data changed; None where that was not recorded, or answers are no classes."""
    told = mapping(result.get("answers"))
    n, other, worse, better = (finite(told.get(name)) for name in ("n", "changed", "worse", "better"))
    if not n or other is None or worse is None or better is None:
        return None
    noun = "Label" if told.get("form") == "labels" else "Class"
    if other == 0:
        return Changed(f"None of {fixed(n, 0)} answers on validation data differs from the baseline's.", noun, (), (), "")
    rest = other - worse - better
    lead = (
        f"{fixed(other, 0)} of {fixed(n, 0)} answers on validation data differ from the baseline's: {fixed(worse, 0)} that {_were(worse)} right "
        f"{_are(worse)} wrong now, {fixed(better, 0)} that {_were(better)} wrong {_are(better)} right now"
        + (f", {fixed(rest, 0)} {_are(rest)} wrong in another way." if rest else ".")
    )
    rows = mappings(told.get("classes"))
    cells = tuple(_class(row) for row in rows[:_CLASSES])
    flows = tuple(f"{f.get('from')} → {f.get('to')} ({f.get('n')}×)" for f in mappings(told.get("flows")))
    return Changed(lead, noun, cells, flows, f"{len(rows) - _CLASSES} more have a change." if len(rows) > _CLASSES else "")


def _class(row: Mapping[str, Any]) -> tuple[str, str, str, str, str]:
    n, other, worse, better = (fixed(finite(row.get(name)) or 0.0, 0) for name in ("n", "changed", "worse", "better"))
    return str(row.get("class")), n, other, worse, better


def _were(n: float) -> str:
    return "was" if n == 1 else "were"


def _are(n: float) -> str:
    return "is" if n == 1 else "are"


def spread(result: Mapping[str, Any], baseline: Candidate, chosen: Candidate | None) -> Spread | None:
    """Return the distribution of latencies of the published comparison; None where there was none."""
    told = mapping(result.get("spread"))
    quantiles, times = told.get("quantiles"), told.get("ms")
    if chosen is None or not quantiles or not times:
        return None
    shares = tuple(float(q) for q in quantiles)
    pairs = [(chosen, times[1]), (baseline, times[0])]  # the chosen one first, as everywhere on the page
    lines = {one.title: (tuple(map(float, ms)), shares) for one, ms in pairs}
    return Spread(lines, "; ".join(_tail(name, ms, shares) for name, (ms, _) in lines.items()) + ".")


def _tail(name: str, ms: Sequence[float], shares: Sequence[float]) -> str:
    at = dict(zip(shares, ms, strict=True))
    told = [
        f"{scaled(1e-3 * at[share], TIME).text} {words}"
        for share, words in ((50.0, "median"), (99.0, "for 99 % of calls"), (100.0, "at most"))
        if share in at
    ]
    return f"{name}: {', '.join(told)}"


def curve(result: Mapping[str, Any], baseline: Candidate, chosen: Candidate | None) -> Curve | None:
    """Return latency by batch size; None where fewer than two sizes were timed."""
    told = mapping(result.get("curve"))
    batches = tuple(int(batch) for batch in told.get("batches") or ())
    if chosen is None or len(batches) < 2:
        return None
    pairs = [(chosen, told["ms"][1]), (baseline, told["ms"][0])]
    each = {one.title: tuple(float(ms) / batch for ms, batch in zip(row, batches, strict=True)) for one, row in pairs}
    rows = tuple(
        (str(batch), *(scaled(1e-3 * row[at], TIME).text for row in told["ms"]), f"{told['ms'][0][at] / told['ms'][1][at]:.2f}×")
        for at, batch in enumerate(batches)
    )
    return Curve(batches, each, rows, f"Time for one example at batch sizes {', '.join(map(str, batches))}.", str(told.get("note") or ""))


def techniques(candidates: Sequence[Candidate], chosen: Candidate | None, words: Words, rows: Sequence[Quantity]) -> tuple[Technique, ...]:
    """Return the best candidate of each technique, the chosen one's first, then as they rank; a technique is what a candidate's steps are called.

    Args:
        candidates: without the baselines.
        chosen: the best or the nearest miss.
        words: of the task.
        rows: quantities that are shown.
    """
    groups: dict[str, list[Candidate]] = {}
    for one in candidates:
        if one.tried:
            groups.setdefault(one.technique, []).append(one)
    best = {name: min(group, key=lambda one: rank(one, chosen)) for name, group in groups.items()}
    order = sorted(best, key=lambda name: rank(best[name], chosen))
    return tuple(
        Technique(
            name,
            best[name].key,
            best[name].title,
            best[name].passed,
            tuple(best[name].amount(row.name).text if best[name].amount(row.name).raw is not None else "–" for row in rows),
            len(groups[name]),
            best[name].why,
        )
        for name in order
    )
