"""What a finished run says of itself: the content of its `result.json`."""

from __future__ import annotations

import datetime
import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from laconic.core.program import Program
from laconic.core.records import to_json
from laconic.core.task import Task
from laconic.core.version import VERSION
from laconic.deploy.runtime import packages
from laconic.measure.counts import Counts, count
from laconic.measure.environment import environment
from laconic.run import prepare
from laconic.run.ledger import Ledger
from laconic.run.options import Options
from laconic.run.record import Record, opponent
from laconic.run.store import FORMAT
from laconic.search.beside import shipped
from laconic.search.budget import Budget
from laconic.search.relax import relaxations
from laconic.search.select import Selection
from laconic.search.stopped import Stopped
from laconic.search.verdict import Scale, Verdict, verdict
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

    @functools.cached_property
    def counts(self) -> Counts:
        """Parameters and multiply-adds of the model."""
        return count(self.program)


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
    counts, scale = known.counts, Scale.of(known.metric)
    return {
        "format": FORMAT,
        "laconic": VERSION,
        "finished": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "task": _task_facts(known),
        "batch": known.options.batch,
        "stopped": None if ended is None else {**to_json(ended), "told": str(ended)},
        **answer(records, choice, known.budget, scale, to_json(known.program.inputs), ended),
        **(told or {}),
        "layers": counts.layers,
        "totals": {"params": counts.params, "macs": counts.macs, "unused_params": counts.unused_params},
        "unknown_operators": counts.unknown,
        "environment": environment(None, packages()),
        "training": known.training,
        "notes": [*known.program.interface.notes, *counts.notes()],
        "reproduce": {"command": known.command, "recipe_yaml": recipe_yaml(choice.best or choice.nearest, known.task.ref, known.budget)},
        "spent": known.ledger.spent(),
        "timeline": to_json(known.ledger.spans()),
    }


def answer(
    records: Sequence[Record],
    choice: Selection,
    budget: Budget,
    scale: Scale,
    inputs: Sequence[Mapping[str, Any]],
    ended: Stopped | None = None,
) -> dict[str, Any]:
    """Return the part of the content that depends on the budget: what is chosen, why, and what becomes of each record.

    Args:
        records: all, judged by this budget, the baselines first.
        choice: what is delivered.
        budget: what was asked.
        scale: of the metric.
        inputs: of the model, in plain values.
        ended: how far the run came, where it ended before everything was tried.
    """
    chosen = choice.best or choice.nearest
    baseline = records[0] if chosen is None else opponent(chosen, records)
    words: Verdict = verdict(choice, records, budget, scale, ended)
    return {
        "budget": budget.to_plain(),
        "met": choice.best is not None,
        "verdict": str(words),
        "headline": words.headline,
        "certainty": words.certainty,
        "readings": budget.readings(chosen) if chosen else [],
        "relaxed": [] if choice.best is not None else relaxations(records, budget),
        "tied": choice.tied,
        "best": choice.best.key if choice.best else None,
        "nearest": choice.nearest.key if choice.nearest else None,
        "reason": choice.reason,
        "ships": shipped(choice.best, inputs) if choice.best and choice.best.artifact else None,
        "baseline": _row(baseline),
        "other_baselines": [_row(record) for record in records if record.baseline is None and record is not baseline],
        "candidates": [_row(record) for record in records if record.baseline is not None],
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
        "metric": {
            "name": metric.name,
            "direction": metric.direction,
            "unit": metric.unit,
            "scale": metric.scale,
            "of_examples": metric.per_example is not None,
        },
        "n_valid": prepare.length(task.valid),
        "n_test": None if task.test is None else prepare.length(task.test),
        "inputs": known.program.inputs,
    }


def recipe_yaml(chosen: Record | None, ref: str | None, budget: Budget) -> str:
    """Return the recipe file that makes a record's artifact again, with its task, where that has a name, and the budget; empty where nothing was chosen."""
    if chosen is None:
        return ""
    asked = {key: value for key, value in budget.to_plain().items() if value not in (None, False)}
    return chosen.made_by.to_yaml(**({"task": ref} if ref else {}), budget=asked)
