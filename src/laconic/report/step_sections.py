"""The sections on what steps did: one for each section that the outcomes of a run name."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from laconic.report.candidates import Candidate
from laconic.report.changes import changes
from laconic.report.factorization import factorization
from laconic.report.predicted import predicted
from laconic.report.pruning import pruning
from laconic.report.quantization import quantization
from laconic.report.sharing import sharing
from laconic.report.sparsity import sparsity
from laconic.report.storage import storage


@dataclass(frozen=True)
class Section:
    """How a section is made: its heading, the function that reads it of `(result, candidates, chosen, metric, unit)`, and the template that shows it."""

    heading: str
    read: Callable[..., Any]
    template: str


# By the section that steps name (`StepConfig.section`), in the order of the page. Charts have a table by the same names (`charts.py`). A section without a
# row here, of a step from another package for instance, is shown as its steps told it.
SECTIONS = {
    "factorization": Section("Cheaper layers", factorization, "factorization.html"),
    "pruning": Section("Pruning", pruning, "pruning.html"),
    "sparsity": Section("Sparsity", sparsity, "sparsity.html"),
    "quantization": Section("Quantization", quantization, "quantization.html"),
    "sharing": Section("Weights of few values", sharing, "sharing.html"),
    # no step names these, but what was packed and what was predicted
    "storage": Section("Storage", storage, "storage.html"),
    "predicted": Section("Predicted and measured", predicted, "predicted.html"),
}


_OF_RECORDS = {"packed": "storage", "predicted": "predicted"}  # what a record holds -> the section on it


@dataclass(frozen=True)
class StepSection:
    """A section on what steps did: its name, an id for the page, the heading, what it says, and the template that shows it."""

    name: str
    id: str
    heading: str
    facts: Any
    template: str


def step_sections(
    result: Mapping[str, Any], candidates: Sequence[Candidate], chosen: Candidate | None, metric: str, unit: str
) -> tuple[StepSection, ...]:
    """Return a section for each that the outcomes name, the known ones first.

    Args:
        result: the content of the run's result.json.
        candidates: as read, in the same order.
        chosen: the best or nearest miss.
        metric: its name as a heading, for curves of training.
        unit: the metric's unit.
    """
    named = set(_named(result))
    names = [*(name for name in SECTIONS if name in named), *(name for name in dict.fromkeys(_named(result)) if name not in SECTIONS)]
    kinds = {name: SECTIONS.get(name) or _told(name) for name in names}
    read = {name: kind.read(result, candidates, chosen, metric, unit) for name, kind in kinds.items()}
    return tuple(StepSection(name, _id(name), kind.heading, read[name], kind.template) for name, kind in kinds.items() if read[name])


def _named(result: Mapping[str, Any]) -> Iterator[str]:
    for record in result.get("candidates") or ():
        for outcome in record.get("outcomes") or ():
            if outcome.get("section"):
                yield str(outcome["section"])
        yield from (section for fact, section in _OF_RECORDS.items() if record.get(fact))


def _told(name: str) -> Section:
    """Return the section of a name that has no row."""
    return Section(name[:1].upper() + name[1:].replace("_", " "), partial(changes, section=name), "changes.html")


def _id(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "steps"
