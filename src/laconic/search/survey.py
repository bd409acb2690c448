"""The levers as a table: what each does and costs, and for a task whether it is tried, where, and if not why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from laconic.core.task import Task
from laconic.run.base import captured_model
from laconic.search.budget import Budget
from laconic.search.lever import COMBINED, Lever, Surroundings
from laconic.search.levers import levers
from laconic.search.propose import Chain, chains, propose, targets_of, unavailable
from laconic.search.space import Pick, SearchSpace
from laconic.tasks.check import check_task

_ALIKE = (
    "files and what they answer are alike there: one runtime is tried where the budget is about nothing else, unless runtimes are asked for"
)
_ONCE_FAST = "once what needs no training has shown which runtimes are fast, for the best candidate of each of these"


def survey(task: Task | None = None, budget: Budget | None = None, space: SearchSpace | None = None) -> dict[str, Any]:
    """Return all levers, and for a task what of them is tried.

    Args:
        task: it is captured as it comes; nothing is trained and nothing measured.
        budget: what is tried may depend on what is to be best.
        space: what was asked for.

    Returns:
        ``levers``: of each its name, stage, cost, promise, what it needs, a sentence about it, what it follows, and its settings: of each its label and
        what it costs, and for a task whether it is ``tried``, ``where`` (runtimes, or precisions of a runtime) and ``why`` not. ``candidates``: titles, in
        the order in which they are tried as long as no result changes it; None without a task.

    Raises:
        BadInput: the task cannot be used.
        CaptureError: its model cannot be captured.
    """
    space = space or SearchSpace()
    if task is None:
        return {
            "levers": [_row(lever, space.device, [_setting(pick) for pick in space.picks(lever)]) for lever in levers().values()],
            "candidates": None,
        }
    around = _surroundings(task, budget or Budget())
    tried = chains(around, space)
    rows = [_row(lever, space.device, list(_judged(lever, around, space, tried))) for lever in levers().values()]
    return {"levers": rows, "candidates": [recipe.title for recipe in propose(around, space)]}


def _surroundings(task: Task, budget: Budget) -> Surroundings:
    check_task(task)
    return Surroundings(captured_model(task), task.of_part(), budget)


def _row(lever: Lever, device: str, settings: list[dict[str, Any]]) -> dict[str, Any]:
    own = {name: getattr(lever, name) for name in ("name", "stage", "cost", "needs", "about", "follows")}
    return {**own, "promise": lever.promise_on(device), "family": lever.group, "value": lever.field, "settings": settings}


def _setting(pick: Pick, tried: bool | None = None, where: Sequence[str] = (), why: str = "") -> dict[str, Any]:
    known = {"label": pick.label, "options": dict(pick.setting.options), "cost": pick.cost}
    return {**known, "tried": tried, "where": list(where), "why": why}


def _judged(lever: Lever, around: Surroundings, space: SearchSpace, tried: Sequence[Chain]) -> Iterator[dict[str, Any]]:
    """Return the settings of a lever, with the judgment on each; one without a label where none is known beforehand."""
    picks = space.picks(lever)
    if not picks:
        yield {
            "label": f"{lever.name}=…",
            "options": {},
            "cost": lever.cost,
            "tried": False,
            "where": [],
            "why": lever.when(around) or lever.unasked(around) or "",
        }
    for pick in picks:
        if lever.stage == "threads":
            yield _setting(pick, False, (), space.left_out(pick) or lever.when(around) or _ONCE_FAST)
        else:
            yield _of_target(pick, around, space) if lever.stage in COMBINED else _of_steps(pick, around, space, tried)


def _of_target(pick: Pick, around: Surroundings, space: SearchSpace) -> dict[str, Any]:
    """Describe a runtime or a precision: it is tried in whatever it goes with on this machine."""
    if (reason := space.left_out(pick)) is not None:
        return _setting(pick, False, (), reason)
    other = next(stage for stage in COMBINED if stage != pick.lever.stage)
    mine = [t for t in space.targets() if all(getattr(t, name) == value for name, value in pick.setting.options.items())]
    reasons = {getattr(target, other): unavailable(target) for target in mine}
    tried = [getattr(target, other) for target in targets_of(around, space) if target in mine]
    ready = [name for name, reason in reasons.items() if reason is None and name in tried]
    why = "; ".join(f"{name}: {reason}" for name, reason in reasons.items() if reason is not None)
    return _setting(pick, bool(ready), ready, why or ("" if ready else _ALIKE))


def _of_steps(pick: Pick, around: Surroundings, space: SearchSpace, tried: Sequence[Chain]) -> dict[str, Any]:
    """Describe a lever that adds steps: it is tried where a chain has it."""
    where = list(dict.fromkeys(chain.target.runtime for chain in tried if pick in chain.picks))
    if where:
        return _setting(pick, True, where)
    ready = [around.at(target) for target in targets_of(around, space) if unavailable(target) is None]
    reasons = [space.left_out(pick) or pick.senseless(here) or space.unasked(pick, here) for here in ready]
    told = [reason for reason in reasons if reason is not None]
    if len(told) < len(reasons):
        if pick.setting.share is not None:
            why = "once what needs no training has shown the best runtime, for which sizes are then timed"
        else:
            why = f"only where {pick.lever.follows} lost a part of the metric" if space.waits(pick) else "no chain within bounds has it"
        return _setting(pick, False, (), why)
    return _setting(pick, False, (), Counter(told).most_common(1)[0][0] if told else "no runtime that is tried runs here")
