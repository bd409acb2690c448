"""From a task and a budget to the best artifact that keeps the promise, with the evidence."""

from __future__ import annotations

import contextlib
import datetime
import itertools
import re
import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from laconic.core.errors import BadInput
from laconic.core.progress import Progress, silent
from laconic.core.records import to_json
from laconic.core.task import Task
from laconic.run import identity, prepare
from laconic.run.evaluate import Evaluator
from laconic.run.ledger import Ledger
from laconic.run.options import Options
from laconic.run.recipe import Recipe
from laconic.run.record import Record, opponent
from laconic.run.store import RESULT, RunStore, read_result
from laconic.search.budget import Budget
from laconic.search.content import Facts, content
from laconic.search.judge import Judge
from laconic.search.lever import COSTS, Surroundings
from laconic.search.propose import cost_of, follow_up, propose
from laconic.search.result import REPORT, Result
from laconic.search.select import choose, confirm, frontier
from laconic.search.space import SearchSpace, baseline_recipe, baseline_recipes
from laconic.tasks import metrics


def optimize(
    task: Task,
    budget: Budget | None = None,
    *,
    out: str | Path | None = None,
    time_limit: str | float | None = None,
    space: SearchSpace | None = None,
    recipes: Sequence[Recipe] | None = None,
    options: Options | None = None,
    progress: Progress = silent,
    command: str = "",
) -> Result:
    """Find the best artifact within the budget.

    Args:
        task: the trained model (or one with a plan of how to train it), its data and its metric.
        budget: what may be lost and what must be won.
        out: the run's folder; by default `laconic-runs/NAME-TIME`. A folder that holds the same run, unfinished, is continued.
        time_limit: seconds, or text like ``90s``, ``5m``, ``2h``; candidates whose turn comes later are not tried.
        space: what is tried; ignored when `recipes` are given.
        recipes: these and no others.
        options: how evidence is gathered.
        progress: told of every stage.
        command: how the run can be repeated, for the report.

    Returns:
        The result; if no budget is met, with the nearest miss and the reason.

    Raises:
        BadInput: the task, the budget or an option cannot be used; everything wrong with the task is told at once, before any work.
    """
    limit = seconds(time_limit)
    folder = Path(out) if out is not None else new_folder(task.name)
    data = search(task, budget or Budget(), folder, limit, space or SearchSpace(), recipes, options or Options(), progress, command)
    result = Result(folder, data)
    if not (folder / REPORT).exists():
        result.report()
    return result


def search(
    task: Task,
    budget: Budget,
    folder: Path,
    limit: float | None,
    space: SearchSpace,
    recipes: Sequence[Recipe] | None,
    options: Options,
    progress: Progress,
    command: str,
) -> dict[str, Any]:
    """Search; see `laconic.optimize`. `limit` is in seconds. Returns the content of the run's `result.json`."""
    ledger = Ledger()
    metric = metrics.of(task)
    budget = budget.filled(metric.name, metric.scale == 100)
    prepare.check(task)
    with RunStore(folder, _manifest(task, budget, space, recipes, options)) as store:
        if store.has(RESULT):
            progress.log(f"{folder} is finished already; nothing was computed again")
            return read_result(folder)
        if store.resumed:
            progress.log(f"continuing the run in {folder}; what is finished is kept")
        ledger.resume(store)
        program, training = prepare.program(task, store, ledger, progress)
        around = Surroundings(program, task.of_part(), budget)
        chosen = list(recipes) if recipes is not None else propose(around, space)
        evaluator = Evaluator(store, task, metric, program, Judge(budget), options, ledger, progress)
        evaluator.deadline = None if limit is None else time.monotonic() + limit
        with contextlib.closing(evaluator):
            bases = baseline_recipes(chosen) or [baseline_recipe(space.threads, space.device)]
            chosen = [recipe for recipe in chosen if recipe.key not in {base.key for base in bases}]
            records = evaluator.baselines(bases)
            if recipes is None:
                records = cheap_first(evaluator, chosen, around, space, records)
            else:
                records += evaluated(evaluator, chosen, "candidates")
            records, choice = choose(records, budget, evaluator.compare, evaluator.publish)
            handed = [r for r in (choice.best or choice.nearest,) if r is not None]
            tested = evaluator.test(opponent(handed[0], records) if handed else records[0], handed)
        records = frontier(list(_replaced(records, tested)), budget)
        choice = confirm(choice, records, budget)
        context = Facts(task, metric, budget, program, training, command, ledger, options)
        data = store.write(RESULT, content(context, records, choice))
        shutil.rmtree(store.path("examples"), ignore_errors=True)
        return dict(data)


def cheap_first(
    evaluator: Evaluator, recipes: Sequence[Recipe], around: Surroundings, space: SearchSpace, known: Sequence[Record]
) -> list[Record]:
    """Evaluate recipes and what follows from their results, the cheapest first; returns their records behind those that are known."""
    records, waiting = list(known), {recipe.key: recipe for recipe in recipes}
    done: set[str] = set()
    while waiting:
        cost = min(cost_of(recipe) for recipe in waiting.values())
        now = [recipe for recipe in waiting.values() if cost_of(recipe) == cost]
        records += evaluated(evaluator, now, f"candidates that cost {COSTS[cost]}")
        done |= {recipe.key for recipe in now}
        follows = {recipe.key: recipe for recipe in follow_up(around, space, records)}
        waiting = {key: recipe for key, recipe in (waiting | follows).items() if key not in done}
    return records


def evaluated(evaluator: Evaluator, recipes: Sequence[Recipe], name: str) -> list[Record]:
    """Return the records of these recipes, one after the other."""
    if not recipes:
        return []
    evaluator.progress.start(name, len(recipes))
    records = []
    for recipe in recipes:
        records.append(evaluator.evaluate(recipe))
        evaluator.progress.advance(candidate=recipe.title)
    evaluator.progress.finish()
    return records


def seconds(limit: str | float | None) -> float | None:
    """Read seconds from a number or from text like ``90s``, ``5m``, ``2h``.

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
    """Return a new run's folder, named for the task and the time; numbered where another run of the same second has it."""
    stamp = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    first = Path("laconic-runs") / f"{re.sub(r'[^A-Za-z0-9_.-]+', '-', name)}-{stamp}"
    numbered = (first.with_name(f"{first.name}-{n}") for n in itertools.count(2))
    return next(folder for folder in itertools.chain([first], numbered) if not folder.exists())


# Options that say when evidence is gathered, not which.
_NO_EVIDENCE = ("wait_quiet",)


def _manifest(task: Task, budget: Budget, space: SearchSpace, recipes: Sequence[Recipe] | None, options: Options) -> dict[str, Any]:
    """Return what makes two runs the same."""
    return {
        "task": task.ref or task.name,
        "metric": task.metric if isinstance(task.metric, str) else getattr(task.metric, "__qualname__", "custom"),
        "answers": {"ignore": task.ignore, "class_axis": task.class_axis},
        "budget": budget.to_plain(),
        "space": to_json(space),
        "recipes": None if recipes is None else [recipe.to_plain() for recipe in recipes],
        "options": {name: value for name, value in to_json(options).items() if name not in _NO_EVIDENCE},
        "plan": to_json(task.plan),
        "part": task.part,
        "model": None if task.plan is not None else prepare.fingerprint(task),
        "data": identity.data_of(task),
        "code": identity.code_of(task),
    }


def _replaced(records: Sequence[Record], tested: Sequence[Record]) -> Iterator[Record]:
    result = {record.key: record for record in tested}
    for record in records:
        yield result.get(record.key, record)
