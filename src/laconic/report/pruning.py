"""What pruning steps did: what was asked, components of each group before and after, what stayed and why, and how the rest recovered."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from laconic.report.candidates import Candidate, Left
from laconic.report.sections import Training, training
from laconic.report.steps import ABSENT, counted, each, epochs_of, mapping, mappings, names_of, reached, stayed, steps_row, whose, why_shown
from laconic.report.units import MACS, PARAMS, finite, fixed, given, number, percent

GOALS = {"macs": "the multiply-adds", "params": "the parameters", "latency": "the layers' measured time on the target"}
ALLOCATIONS = {
    "uniform": "uniform: the same share of every group",
    "global": "global: components of all groups are ranked together",
    "latency": "latency: the least score for the time it saves",
    "given": "given: so many components for each group that was named",
}
_SECTION = "pruning"
_PASSES, _PASSES_TEXT = 1e-4, "1e−4"  # the rule of the step: `pruning.structured` refuses a program beyond it
_DRAWN = 40  # groups: the chart has no more, the table has all


@dataclass(frozen=True)
class Cut:
    """Components of a group before and after; None: not recorded. `slices` says in how many dimensions of tensors each has a part."""

    name: str
    before: float | None
    after: float | None
    before_text: str
    after_text: str
    kept_text: str
    slices_text: str

    @property
    def known(self) -> bool:
        """Whether both counts were recorded."""
        return bool(self.before) and self.after is not None

    @property
    def gone(self) -> float:
        """How many components were removed; 0 where that was not recorded."""
        return 0.0 if self.before is None or self.after is None else self.before - self.after

    @property
    def kept(self) -> float:
        """The share that is kept, in %; 100 where that was not recorded."""
        return 100.0 if not self.before or self.after is None else 100 * self.after / self.before


@dataclass(frozen=True)
class Cuts:
    """All groups in the order recorded, and those that are drawn; `note` is on what is not drawn."""

    rows: tuple[Cut, ...]
    drawn: tuple[Cut, ...]
    alt: str
    note: str


@dataclass(frozen=True)
class Pruning:
    """What the pruning steps of one candidate did.

    `settings` are label and text, `left` is what stayed, one entry for each reason.
    """

    title: str
    lead: str
    settings: tuple[tuple[str, str], ...]
    cuts: Cuts
    left: tuple[Left, ...]
    epochs: Training | None


def pruning(result: Mapping[str, Any], candidates: Sequence[Candidate], chosen: Candidate | None, metric: str, unit: str) -> Pruning | None:
    """Return the chosen candidate's pruning, or that of the fastest that has one; None where nothing was pruned.

    Args:
        result: the content of the run's result.json.
        candidates: its candidates as read, in the same order.
        chosen: the best or nearest miss.
        metric: its name as a heading, for the curve of recovery.
        unit: the metric's unit.
    """
    shown = whose(result, candidates, chosen, _SECTION)
    if shown is None:
        return None
    one, steps = shown
    changes = [mapping(step.get("changed")) for step in steps]
    cuts = _cuts(changes)
    left = stayed(steps[-1:])  # what the last one could not remove
    return Pruning(
        title=one.title,
        lead=f"{one.title}: {_gone(cuts)}; {_stayed(left)} listed as what stayed.{why_shown(one, chosen)}",
        settings=tuple(_settings(steps, changes, cuts)),
        cuts=cuts,
        left=left,
        epochs=training({"training": epochs_of(changes)}, metric, unit),
    )


def _stayed(left: Sequence[Left]) -> str:
    count = sum(group.count for group in left)
    return f"{counted(count, 'place')} {'is' if count == 1 else 'are'}" if count else "nothing is"


def _epochs(changes: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    return [epoch for changed in changes for epoch in mappings(changed.get("epochs"))]


def _gone(cuts: Cuts) -> str:
    known = [row for row in cuts.rows if row.known]
    if not known:
        return "how many components are gone was not recorded"
    gone, total = (sum(value) for value in zip(*((row.gone, row.before or 0.0) for row in known), strict=True))
    touched = sum(row.gone > 0 for row in known)
    verb = "is" if gone == 1 else "are"
    return f"{_count(gone)} of {counted(total, 'component')} {verb} gone, from {fixed(touched, 0)} of {counted(len(known), 'group')}"


def _settings(steps: Sequence[Mapping[str, Any]], changes: Sequence[Mapping[str, Any]], cuts: Cuts) -> list[tuple[str, str]]:
    """Return label and text; of several steps, what was asked of each in turn."""
    return [
        steps_row(names_of(steps)),
        ("Asked to keep", each(changes, _asked)),
        ("Criterion", each(changes, lambda changed: _word(changed.get("criterion"), {}))),
        ("Allocation", each(changes, lambda changed: _word(changed.get("allocation"), ALLOCATIONS))),
        ("Multiply-adds", reached(changes, "macs", MACS, " for one example")),
        ("Parameters", reached(changes, "params", PARAMS, "")),
        ("Equivalence", _proof(changes, cuts)),
        ("Loss before recovery", each(changes, _loss)),
        ("Recovery", _recovery(changes)),
    ]


def _word(value: object, words: Mapping[str, str]) -> str:
    return ABSENT if value is None else words.get(str(value), str(value))


def _asked(changed: Mapping[str, Any]) -> str:
    """Write `50 % of the multiply-adds`, or `84 components in 3 groups`."""
    if keep := mapping(changed.get("keep")):
        counts = [finite(count) or 0.0 for count in keep.values()]
        return f"{counted(sum(counts), 'component')} in {counted(len(counts), 'group')}, and all of the others"
    share = finite(changed.get("share"))
    of = changed.get("goal")
    part = f"a share that was {ABSENT}" if share is None else f"{given(round(100 * share, 6))}\u00a0%"
    return ABSENT if share is None and of is None else f"{part} of {_word(of, GOALS) if of is not None else f'what was {ABSENT}'}"


def _proof(changes: Sequence[Mapping[str, Any]], cuts: Cuts) -> str:
    """Return the difference that the step itself measured, before recovery."""
    differences = [finite(changed.get("difference")) for changed in changes]
    known = [value for value in differences if value is not None]
    if len(known) < len(differences):
        return ABSENT
    worst = max(known)
    if worst == 0 and cuts.rows and all(row.known and not row.gone for row in cuts.rows):
        return "nothing was removed, and nothing compared"
    rule = f"up to {_PASSES_TEXT} passes" if worst <= _PASSES else f"more than the {_PASSES_TEXT} that passes"
    what = "the largest difference that removing components made to outputs with those components at zero, before recovery"
    moved = [value for changed in changes if (value := finite(changed.get("moved"))) is not None]
    worth = f"; with perturbed parameters each group's cut moves the output by {number(min(moved), 2)} of it or more" if moved else ""
    return f"{number(worst, 2)} of the largest output: {what}; {rule}{worth}"


def _loss(changed: Mapping[str, Any]) -> str:
    """Write `0.21 → 0.48`: on train examples, of the program before and of what the cut left."""
    pair = changed.get("loss")
    ends = [finite(end) for end in pair] if isinstance(pair, list | tuple) else []
    if len(ends) != 2 or ends[0] is None or ends[1] is None:
        return ABSENT
    return f"{number(ends[0], 3)} → {number(ends[1], 3)} on examples of the train data"


def _recovery(changes: Sequence[Mapping[str, Any]]) -> str:
    if not all(isinstance(changed.get("epochs"), list) for changed in changes):
        return ABSENT
    epochs = _epochs(changes)
    rounds = {(i, epoch.get("round")) for i, changed in enumerate(changes) for epoch in mappings(changed.get("epochs"))}
    return (
        f"{counted(len(epochs), 'epoch')} of training{f' in {len(rounds)} rounds' if len(rounds) > 1 else ''}"
        if epochs
        else "no training followed"
    )


def _cuts(changes: Sequence[Mapping[str, Any]]) -> Cuts:
    """Return groups by name, before the first step and after the last that knows them."""
    items: dict[str, Mapping[str, Any]] = {}
    for changed in changes:
        seen: dict[str, int] = {}
        for item in mappings(changed.get("groups")):
            name = str(item.get("name") or "unnamed")
            seen[name] = seen.get(name, 0) + 1
            key = f"{name}\0{seen[name]}"  # two groups may share a name: they stay two
            items[key] = {**item, "before": items[key].get("before") if key in items else item.get("before")}
    rows = tuple(_cut(item) for item in items.values())
    known = [row for row in rows if row.known]
    most = sorted(range(len(known)), key=lambda i: known[i].kept)[:_DRAWN]
    drawn = tuple(known[i] for i in sorted(most))
    return Cuts(rows, drawn, _alt(known), _note(rows, known))


def _cut(item: Mapping[str, Any]) -> Cut:
    before, after, slices = (finite(item.get(name)) for name in ("before", "after", "slices"))
    kept = percent(after / before) if before and after is not None else ABSENT
    before_text, after_text, slices_text = (ABSENT if value is None else _count(value) for value in (before, after, slices))
    return Cut(str(item.get("name") or "unnamed"), before, after, before_text, after_text, kept, slices_text)


def _alt(known: Sequence[Cut]) -> str:
    text = f"Components before and after pruning, in {counted(len(known), 'group')}."
    most = min(known, key=lambda row: row.kept, default=None)
    if most is not None and most.gone:
        text += f" The largest share is gone from {most.name}: {most.before_text} to {most.after_text}."
    return text


def _note(rows: Sequence[Cut], known: Sequence[Cut]) -> str:
    """Return what is not drawn."""
    if not rows:
        return "No groups were recorded."
    notes = [
        f"Drawn are the {_DRAWN} of {len(known)} groups that lost the largest share, in the order of the table; the table has all."
        if len(known) > _DRAWN
        else "",
        f"Not drawn, because a count was not recorded: {len(rows) - len(known)} of {len(rows)}." if len(known) < len(rows) else "",
    ]
    return " ".join(note for note in notes if note)


def _count(value: float) -> str:
    return fixed(value, 0) if value.is_integer() else number(value)
