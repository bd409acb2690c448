"""What was predicted of candidates whose sizes were solved for, what was measured, and how a prediction comes about group by group."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from laconic.report.candidates import Candidate
from laconic.report.steps import ABSENT, counted, mapping, mappings, rank, why_shown
from laconic.report.units import finite, fixed, number, percent

# What is said of a choice that changes a part, by its kind.
_WORDS = {"channels": "{after} of {before}", "rank": "{after}", "bits": "in floats", "block": "left out"}


@dataclass(frozen=True)
class Prediction:
    """One candidate: the share of the layers' time, its latency and the rise of its loss before recovery, each as predicted and as measured; and how much
    slower or faster the machine was then."""

    title: str
    share: str
    predicted: str
    measured: str
    off: str
    pace: str
    loss: str
    measured_loss: str


@dataclass(frozen=True)
class Size:
    """One part: what a group keeps of its components or a layer becomes, what that alone was measured to lose, and to save of the layers' time."""

    name: str
    kept: str
    loss: str
    saves: str


@dataclass(frozen=True)
class Predicted:
    """All candidates with a prediction, and the groups of one. `settings` are label and text."""

    title: str
    lead: str
    settings: tuple[tuple[str, str], ...]
    rows: tuple[Prediction, ...]
    sizes: tuple[Size, ...]


def predicted(
    result: Mapping[str, Any], candidates: Sequence[Candidate], chosen: Candidate | None, metric: str, unit: str
) -> Predicted | None:
    """Return predictions beside what was measured; None where sizes were not solved for. Arguments as of `step_sections`."""
    known = [
        (one, told)
        for one, record in zip(candidates, mappings(list(result.get("candidates") or ())), strict=True)
        if (told := mapping(record.get("predicted")))
    ]
    if not known:
        return None
    one, told = min(known, key=lambda pair: rank(pair[0], chosen))
    offs = [off for _, item in known if (off := _off(item)) is not None]
    timed = f"their latency was off by {percent(max(map(abs, offs)))} at most" if offs else "none of them was timed"
    return Predicted(
        title=one.title,
        lead=f"Sizes were solved for {counted(len(known), 'candidate')} from the times and losses of single groups; {timed}.{why_shown(one, chosen)}",
        settings=tuple(_factors([item for _, item in known])),
        rows=tuple(_row(candidate, item) for candidate, item in known),
        sizes=tuple(
            _size(row) for row in mappings(told.get("groups")) if _kind(row) == "channels" or row.get("after") != row.get("before")
        ),
    )


def _off(told: Mapping[str, Any]) -> float | None:
    """Return by what share of the measured latency the predicted one was too long."""
    before, after = finite(told.get("latency_ms")), finite(told.get("measured_ms"))
    return None if before is None or not after else before / after - 1


def _row(one: Candidate, told: Mapping[str, Any]) -> Prediction:
    off = _off(told)
    share = finite(told.get("share"))
    return Prediction(
        title=one.title,
        share=ABSENT if share is None else percent(share),
        predicted=_ms(told.get("latency_ms")),
        measured=_ms(told.get("measured_ms")),
        off=ABSENT if off is None else f"{'+' if off > 0 else '−'}{percent(abs(off))}",
        pace=_pace(told.get("slowed")),
        loss=_rise(told.get("loss")),
        measured_loss=_rise(told.get("measured_loss")),
    )


def _size(row: Mapping[str, Any]) -> Size:
    loss, saves = finite(row.get("loss")), finite(row.get("saves"))
    return Size(str(row.get("name") or "unnamed"), _kept(row), _rise(loss), ABSENT if saves is None else percent(saves))


def _kind(row: Mapping[str, Any]) -> str:
    """Return the kind of a part; that of records that do not say it is channels."""
    return str(row.get("kind") or "channels")


def _kept(row: Mapping[str, Any]) -> str:
    """Return what a part becomes, in words: `12 of 16`, `spatial 24`, `left out`."""
    ends = {name: fixed(value, 0) if (value := finite(row.get(name))) is not None else row.get(name) for name in ("before", "after")}
    words = _WORDS.get(_kind(row))
    return ABSENT if words is None or None in ends.values() else words.format(**ends)


def _factors(known: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, str]]:
    """Yield by runtime and precision how many times as long a model takes as the table says, and how many times as much it loses as its parts.

    Each as it was first known, and by all that was measured.
    """
    for place in dict.fromkeys((str(told.get("runtime")), str(told.get("precision"))) for told in known):
        own = [told for told in known if (str(told.get("runtime")), str(told.get("precision"))) == place]
        first = finite(own[0].get("factor"))
        ratios = [
            measured / (layers + (finite(told.get("beside_ms")) or 0.0))
            for told in own
            if (measured := finite(told.get("measured_ms"))) and (layers := finite(told.get("layers_ms")))
        ]
        if ratios := ratios or ([] if first is None else [first]):
            corrected = math.exp(sum(map(math.log, ratios)) / len(ratios))
            began = "" if first is None else f"{number(first, 3)} when the first was predicted; "
            yield f"Model over what the table says, {' '.join(place)}", f"{began}{number(corrected, 3)} by all that was measured"
    losses = [pair for told in known if all(pair := (finite(told.get("measured_loss")), finite(told.get("parts_loss"))))]
    if ratios := [after / before for after, before in losses if after is not None and before is not None and after > 0 < before]:
        yield "Loss over that of its parts", f"{number(math.exp(sum(map(math.log, ratios)) / len(ratios)), 3)} by all that was measured"


def _ms(value: object) -> str:
    known = finite(value)
    return ABSENT if known is None else f"{number(known)}\u00a0ms"


def _pace(value: object) -> str:
    """Return how the machine was when a candidate was timed: `12 % slower`."""
    known = finite(value)
    return ABSENT if not known else f"{percent(abs(known - 1))} {'slower' if known > 1 else 'faster'}"


def _rise(value: object) -> str:
    known = finite(value)
    return ABSENT if known is None else number(known, 3)
