"""From a task and a budget to the best artifact that keeps the promise, with the evidence."""

from __future__ import annotations

import contextlib
import datetime
import itertools
import re
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import laconic
from laconic.core.errors import BadInput, nearest
from laconic.core.program import Program
from laconic.core.records import to_json
from laconic.core.task import Progress, Task
from laconic.deploy import runtime
from laconic.measure.counts import count
from laconic.measure.environment import environment
from laconic.run import prepare
from laconic.run.gate import gate
from laconic.run.ledger import Ledger
from laconic.run.recipe import PRECISIONS, Recipe
from laconic.run.record import Record, opponent
from laconic.run.session import Options, Session
from laconic.run.store import FORMAT, RESULT, RunStore
from laconic.search import space
from laconic.search.budget import Budget
from laconic.search.select import Choice, choose, confirm, frontier
from laconic.search.verdict import Verdict, verdict
from laconic.tasks import metrics


@dataclass(frozen=True)
class Sweep:
    """Which runtimes, precisions, threads and device are tried, which kinds of quantization (names in `space.QUANTIZATIONS`), and which shares of the
    multiply-adds structured pruning keeps; None means all.

    Raises:
        BadInput: everything in it that is unknown.
    """

    runtimes: tuple[str, ...] | None = None
    precisions: tuple[str, ...] | None = None
    threads: int | None = None
    device: str = "cpu"
    quantize: tuple[str, ...] | None = None
    prune: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        mistakes = list(self._mistakes())
        if mistakes:
            raise BadInput("the sweep cannot be made:\n" + "\n".join(f"  {m}" for m in mistakes))

    def _mistakes(self) -> Iterator[str]:
        for what, given, known in (
            ("runtimes", self.runtimes, runtime.names()),
            ("precisions", self.precisions, PRECISIONS),
            ("quantize", self.quantize, space.QUANTIZATIONS),
        ):
            yield from (f"{what}: '{name}'." + nearest(name, known) for name in given or () if name not in known)
        yield from (f"prune: {share} must lie between 0 and 1: it is kept" for share in self.prune or () if not 0 < share < 1)
        if self.threads is not None and self.threads < 1:
            yield f"threads: {self.threads} must be 1 or more, or None for all cores"
        if self.device not in runtime.DEVICES:
            yield f"device: '{self.device}'." + nearest(self.device, runtime.DEVICES)


def search(
    task: Task,
    budget: Budget,
    folder: Path,
    limit: float | None,
    sweep: Sweep,
    recipes: Sequence[Recipe] | None,
    options: Options,
    progress: Progress,
    command: str,
) -> dict[str, Any]:
    """The search itself, see `laconic.optimize`; `limit` is in seconds. Returns the content of the run's `result.json`."""
    ledger = Ledger()
    metric = metrics.of(task)
    budget = budget.filled(metric.name, metric.scale == 100)
    prepare.check(task)
    with RunStore(folder, _manifest(task, budget, sweep, recipes, options)) as store:
        if store.has(RESULT):
            progress.log(f"{folder} is finished already; nothing was computed again")
            return dict(store.read(RESULT))
        if store.resumed:
            progress.log(f"continuing the run in {folder}; what is finished is kept")
        ledger.resume(store)
        program, training = prepare.program(task, store, ledger, progress)
        chosen = (
            list(recipes)
            if recipes is not None
            else space.candidates(
                program, sweep.runtimes, sweep.precisions, sweep.threads, sweep.device, space.kinds(sweep.quantize, budget)
            )
        )
        session = Session(store, task, metric, program, options, ledger, progress)
        session.deadline = None if limit is None else time.monotonic() + limit
        with contextlib.closing(session):
            bases = space.baseline_recipes(chosen) or [space.baseline_recipe(sweep.threads, sweep.device)]
            chosen = [recipe for recipe in chosen if recipe.key not in {base.key for base in bases}]
            records = session.check(chosen, bases)
            if recipes is None:
                rounding = space.kinds(sweep.quantize, budget)
                shares = space.PRUNE_SHARES if sweep.prune is None else sweep.prune
                more = space.prunings(task, shares, sweep.runtimes, rounding, sweep.threads) if sweep.device == "cpu" else []
                more += space.followups(task, chosen, records, rounding)
                records += session.check_more(more, records)
            records = session.time(records)
            records = [gate(record, budget.rules(opponent(record, records))) for record in records]
            records, choice = choose(
                records, budget, session.rounds, lambda known, few: session.time_again(known, {record.key for record in few})
            )
            handed = [r for r in (choice.best or choice.nearest,) if r is not None]
            tested = session.test(opponent(handed[0], records) if handed else records[0], handed)
        records = frontier(list(_replaced(records, tested)), budget)
        choice = confirm(choice, records, budget)
        context = _Facts(task, metric, budget, program, training, command, ledger, options)
        data = store.write(RESULT, _result(context, records, choice))
        shutil.rmtree(store.path("examples"), ignore_errors=True)
        return dict(data)


def seconds(limit: str | float | None) -> float | None:
    """Seconds from a number or from text like ``90s``, ``5m``, ``2h``.

    >>> seconds("5m"), seconds(2.5), seconds(None)
    (300.0, 2.5, None)
    """
    if limit is None:
        return None
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(s|sec|m|min|h)?\s*", str(limit))
    value = float(match[1]) * {"h": 3600, "m": 60}.get((match[2] or "s")[0], 1) if match else 0.0
    if value <= 0:
        raise BadInput(f"time limit {limit!r}: write a positive number of seconds, or 90s, 5m, 2h")
    return value


def new_folder(name: str) -> Path:
    """A new run's folder, named for the task and the time; numbered where another run of the same second has it."""
    stamp = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    first = Path("laconic-runs") / f"{re.sub(r'[^A-Za-z0-9_.-]+', '-', name)}-{stamp}"
    numbered = (first.with_name(f"{first.name}-{n}") for n in itertools.count(2))
    return next(folder for folder in itertools.chain([first], numbered) if not folder.exists())


# Options that say when evidence is gathered, not which.
_NO_EVIDENCE = ("wait_quiet",)


def _manifest(task: Task, budget: Budget, sweep: Sweep, recipes: Sequence[Recipe] | None, options: Options) -> dict[str, Any]:
    """What makes two runs the same."""
    return {
        "task": task.ref or task.name,
        "metric": task.metric if isinstance(task.metric, str) else getattr(task.metric, "__qualname__", "custom"),
        "answers": {"ignore": task.ignore, "class_axis": task.class_axis},
        "budget": budget.to_plain(),
        "sweep": to_json(sweep),
        "recipes": None if recipes is None else [recipe.to_plain() for recipe in recipes],
        "options": {name: value for name, value in to_json(options).items() if name not in _NO_EVIDENCE},
        "fit": to_json(task.fit),
        "model": None if task.fit is not None else prepare.fingerprint(task),
    }


def _replaced(records: Sequence[Record], tested: Sequence[Record]) -> Iterator[Record]:
    found = {record.key: record for record in tested}
    for record in records:
        yield found.get(record.key, record)


@dataclass(frozen=True)
class _Facts:
    task: Task
    metric: metrics.MetricSpec
    budget: Budget
    program: Program
    training: list[dict[str, Any]]
    command: str
    ledger: Ledger
    options: Options


def _result(known: _Facts, records: Sequence[Record], choice: Choice) -> dict[str, Any]:
    counts = count(known.program)
    chosen = choice.best or choice.nearest
    baseline = records[0] if chosen is None else opponent(chosen, records)
    words: Verdict = verdict(choice, records, known.budget, known.metric)
    return {
        "format": FORMAT,
        "laconic": laconic.__version__,
        "finished": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "task": _task_facts(known),
        "budget": known.budget.to_plain(),
        "batch": known.options.batch,
        "met": choice.best is not None,
        "verdict": str(words),
        "headline": words.headline,
        "certainty": words.certainty,
        "readings": known.budget.readings(chosen) if chosen else [],
        "tied": choice.tied,
        "best": choice.best.key if choice.best else None,
        "nearest": choice.nearest.key if choice.nearest else None,
        "reason": choice.reason,
        "baseline": baseline,
        "other_baselines": [record for record in records if record.baseline is None and record is not baseline],
        "candidates": [record for record in records if record.baseline is not None],
        "layers": counts.layers,
        "totals": {"params": counts.params, "macs": counts.macs},
        "unknown_operators": counts.unknown,
        "environment": environment(None),
        "training": known.training,
        "notes": list(known.program.interface.notes),
        "reproduce": {"command": known.command, "recipe_yaml": _yaml(known, chosen) if chosen else ""},
        "spent": known.ledger.spent(),
    }


def _task_facts(known: _Facts) -> dict[str, Any]:
    task, metric = known.task, known.metric
    return {
        "name": task.name,
        "ref": task.ref,
        "description": task.description,
        "dataset_note": task.dataset_note,
        "metric": {"name": metric.name, "direction": metric.direction, "unit": metric.unit, "scale": metric.scale},
        "n_valid": prepare.length(task.valid),
        "n_test": None if task.test is None else prepare.length(task.test),
        "inputs": known.program.inputs,
    }


def _yaml(known: _Facts, chosen: Record) -> str:
    from laconic.run.recipe import parse

    recipe = parse({"steps": chosen.recipe["steps"], "deploy": chosen.recipe["deploy"]}).recipe
    task = {"task": known.task.ref} if known.task.ref else {}
    return recipe.to_yaml(**task, budget={key: value for key, value in known.budget.to_plain().items() if value not in (None, False)})
