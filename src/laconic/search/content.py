"""What a finished run says of itself: the content of its `result.json`."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from laconic.core.program import Program
from laconic.core.records import to_json
from laconic.core.task import Task
from laconic.core.version import VERSION
from laconic.deploy.runtime import packages
from laconic.measure.counts import count
from laconic.measure.environment import environment
from laconic.run import prepare
from laconic.run.ledger import Ledger
from laconic.run.options import Options
from laconic.run.record import Record, opponent
from laconic.run.store import FORMAT
from laconic.search.beside import shipped
from laconic.search.budget import Budget
from laconic.search.select import Selection
from laconic.search.stopped import Stopped
from laconic.search.verdict import Verdict, verdict
from laconic.tasks import metrics


@dataclass(frozen=True)
class Facts:
    """What the content is made from, beside the records."""

    task: Task
    metric: metrics.MetricSpec
    budget: Budget
    program: Program
    training: list[dict[str, Any]]
    command: str
    ledger: Ledger
    options: Options


def content(
    known: Facts, records: Sequence[Record], choice: Selection, ended: Stopped | None = None, told: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Return the run's content, of plain values and records; `report` and `Result` read it.

    Args:
        known: what it is made from, beside the records.
        records: all, the baselines first.
        choice: what is delivered.
        ended: how far the run came, where it ended before everything was tried.
        told: of the chosen one beside its figures; see `search.beside`.
    """
    counts = count(known.program)
    chosen = choice.best or choice.nearest
    baseline = records[0] if chosen is None else opponent(chosen, records)
    words: Verdict = verdict(choice, records, known.budget, known.metric, ended)
    return {
        "format": FORMAT,
        "laconic": VERSION,
        "finished": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "task": _task_facts(known),
        "budget": known.budget.to_plain(),
        "batch": known.options.batch,
        "met": choice.best is not None,
        "stopped": None if ended is None else {**to_json(ended), "told": str(ended)},
        "verdict": str(words),
        "headline": words.headline,
        "certainty": words.certainty,
        "readings": known.budget.readings(chosen) if chosen else [],
        "tied": choice.tied,
        "best": choice.best.key if choice.best else None,
        "nearest": choice.nearest.key if choice.nearest else None,
        "reason": choice.reason,
        "ships": shipped(choice.best, to_json(known.program.inputs)) if choice.best and choice.best.artifact else None,
        **(told or {}),
        "baseline": _row(baseline),
        "other_baselines": [_row(record) for record in records if record.baseline is None and record is not baseline],
        "candidates": [_row(record) for record in records if record.baseline is not None],
        "layers": counts.layers,
        "totals": {"params": counts.params, "macs": counts.macs, "unused_params": counts.unused_params},
        "unknown_operators": counts.unknown,
        "environment": environment(None, packages()),
        "training": known.training,
        "notes": [*known.program.interface.notes, *counts.notes()],
        "reproduce": {"command": known.command, "recipe_yaml": _yaml(known, chosen) if chosen else ""},
        "spent": known.ledger.spent(),
    }


def _row(record: Record) -> dict[str, Any]:
    """Return a record in plain values; each quantity also stands under its own name, where readers of results look for it."""
    plain = dict(to_json(record))
    return {**plain["measured"], **plain}


def _task_facts(known: Facts) -> dict[str, Any]:
    task, metric = known.task, known.metric
    return {
        "name": task.name,
        "ref": task.ref,
        "part": task.part,
        "description": task.description,
        "dataset_note": task.dataset_note,
        "metric": {"name": metric.name, "direction": metric.direction, "unit": metric.unit, "scale": metric.scale},
        "n_valid": prepare.length(task.valid),
        "n_test": None if task.test is None else prepare.length(task.test),
        "inputs": known.program.inputs,
    }


def _yaml(known: Facts, chosen: Record) -> str:
    from laconic.run.recipe import parse

    recipe = parse({"steps": chosen.recipe["steps"], "deploy": chosen.recipe["deploy"]}).recipe
    task = {"task": known.task.ref} if known.task.ref else {}
    return recipe.to_yaml(**task, budget={key: value for key, value in known.budget.to_plain().items() if value not in (None, False)})
