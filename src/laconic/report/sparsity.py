"""What weight pruning did: what was asked, the zeros of each layer, what stayed dense and why, and how the rest trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from laconic.report.candidates import Candidate, Left
from laconic.report.pruning import Cut, Cuts
from laconic.report.sections import Training, training
from laconic.report.steps import ABSENT, counted, each, epochs_of, mapping, mappings, names_of, stayed, steps_row, whose, why_shown
from laconic.report.units import finite, fixed, given

_SECTION = "sparsity"
_DRAWN = 40  # layers: the chart has no more, the table has all
_ASKED = {"sparsity": "{0} % zeros", "threshold": "weights below {1} go", "deviations": "weights below {1} deviations of their layer's go"}


@dataclass(frozen=True)
class Sparsity:
    """What the weight pruning of one candidate did.

    `settings` are label and text, `cuts` the weights of each layer and those that are not zero, `left` is what stayed dense, one entry for each reason.
    """

    title: str
    lead: str
    settings: tuple[tuple[str, str], ...]
    cuts: Cuts
    left: tuple[Left, ...]
    epochs: Training | None


def sparsity(
    result: Mapping[str, Any], candidates: Sequence[Candidate], chosen: Candidate | None, metric: str, unit: str
) -> Sparsity | None:
    """Return the chosen candidate's weight pruning, or that of the fastest that has one; None where no weight was pruned.

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
    changes = [mapping(step.get("changed")) for step in steps]
    cuts = _cuts(mappings(changes[-1].get("layers")))
    epochs = epochs_of(changes)
    return Sparsity(
        title=one.title,
        lead=f"{one.title}: {_zeros(cuts)}.{why_shown(one, chosen)}",
        settings=tuple(_settings(steps, changes, len(epochs))),
        cuts=cuts,
        left=stayed(steps[-1:]),
        epochs=training({"training": epochs}, metric, unit),
    )


def _zeros(cuts: Cuts) -> str:
    known = [row for row in cuts.rows if row.known]
    total = sum(row.before or 0.0 for row in known)
    if not total:
        return "how many weights are zero was not recorded"
    gone = sum(row.gone for row in known)
    return (
        f"{fixed(gone, 0)} of {counted(total, 'weight')} of {counted(len(known), 'layer')} are zero ({fixed(100 * gone / total, 1)}\u00a0%)"
    )


def _settings(steps: Sequence[Mapping[str, Any]], changes: Sequence[Mapping[str, Any]], epochs: int) -> list[tuple[str, str]]:
    """Return label and text; of several steps, what was asked of each in turn."""
    return [
        steps_row(names_of(steps)),
        ("Asked for", each(changes, _asked)),
        ("Pattern", each(changes, lambda changed: _word(changed.get("pattern")))),
        ("Criterion", each(changes, lambda changed: _word(changed.get("criterion")))),
        ("Allocation", each(changes, lambda changed: _word(changed.get("allocation")))),
        ("Zeros come", each(changes, lambda changed: _word(changed.get("about")))),
        ("Parameters", _params(changes[-1])),
        ("Training", counted(epochs, "epoch") if epochs else "no training followed"),
    ]


def _word(value: object) -> str:
    return ABSENT if value is None else str(value).replace("_", " ")


def _asked(changed: Mapping[str, Any]) -> str:
    amount = finite(changed.get("amount"))
    form = _ASKED.get(str(changed.get("asked")))
    return ABSENT if amount is None or form is None else form.format(given(round(100 * amount, 6)), given(amount)).replace(" %", "\u00a0%")


def _params(changed: Mapping[str, Any]) -> str:
    """Write `12,345, of which 1,234 are not zero`."""
    pair = changed.get("params")
    total, left = (finite(pair[i]) for i in (0, 1)) if isinstance(pair, list | tuple) and len(pair) == 2 else (None, None)
    return ABSENT if total is None or left is None else f"{fixed(total, 0)}, of which {fixed(left, 0)} are not zero"


def _cuts(layers: Sequence[Mapping[str, Any]]) -> Cuts:
    rows = tuple(_cut(item) for item in layers)
    known = [row for row in rows if row.known]
    most = sorted(range(len(known)), key=lambda i: known[i].kept)[:_DRAWN]
    text = f"Weights that are not zero, in {counted(len(known), 'layer')}."
    least = min(known, key=lambda row: row.kept, default=None)
    if least is not None:
        text += f" The fewest are left in {least.name}: {least.kept_text}."
    note = (
        f"Drawn are the {_DRAWN} sparsest of {len(known)} layers, in the order of the table; the table has all."
        if len(known) > _DRAWN
        else ""
    )
    return Cuts(rows, tuple(known[i] for i in sorted(most)), text, note if rows else "No layers were recorded.")


def _cut(item: Mapping[str, Any]) -> Cut:
    before, zeros = finite(item.get("weights")), finite(item.get("zeros"))
    after = None if before is None or zeros is None else before - zeros
    kept = f"{fixed(100 * after / before, 1)}\u00a0%" if before and after is not None else ABSENT
    before_text, after_text = (ABSENT if value is None else fixed(value, 0) for value in (before, after))
    return Cut(str(item.get("name") or "unnamed"), before, after, before_text, after_text, kept, "")
