"""From a task and a budget to the best artifact that keeps the promise, with the evidence."""

from __future__ import annotations

import contextlib
import datetime
import itertools
import re
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from laconic.core.errors import BadInput, need
from laconic.core.fields import typed
from laconic.core.progress import Progress
from laconic.core.records import to_json
from laconic.core.task import Task
from laconic.display import shown
from laconic.run import identity, prepare, trial
from laconic.run.evaluate import Evaluator
from laconic.run.ledger import Ledger
from laconic.run.live import Live
from laconic.run.mirror import Mirror, is_url
from laconic.run.options import Options
from laconic.run.recipe import Recipe
from laconic.run.record import Record, opponent
from laconic.run.store import RESULT, RunStore, read_result
from laconic.run.whole import with_whole
from laconic.search import drivers, several
from laconic.search.beginnings import measured
from laconic.search.beside import beside
from laconic.search.budget import Budget
from laconic.search.content import Facts, content
from laconic.search.drivers import Driver
from laconic.search.given import as_budget, as_task, check_devices, check_told
from laconic.search.lever import Surroundings
from laconic.search.propose import propose
from laconic.search.result import REPORT, Result
from laconic.search.select import Selection, confirm, judged_by, so_far
from laconic.search.select import frontier as marked
from laconic.search.sofar import SoFar
from laconic.search.space import SearchSpace, baseline_recipe, baseline_recipes
from laconic.search.stopped import INTERRUPT, LIMIT, stopped
from laconic.search.study import NoStudy, SharedStudy, this_machine
from laconic.search.study_place import hidden
from laconic.search.timeplan import TimePlan
from laconic.search.tune import Tuner
from laconic.search.verdict import Scale
from laconic.search.walk import Walk
from laconic.tasks import metrics


@typed("task", "budget", "time_limit", "progress")
def optimize(
    task: Task | str,
    budget: Budget | Mapping[str, Any] | None = None,
    *,
    frontier: Sequence[float] = (),
    out: str | Path | None = None,
    time_limit: str | float | None = None,
    space: SearchSpace | None = None,
    recipes: Sequence[Recipe] | None = None,
    options: Options | None = None,
    workers: int = 1,
    driver: str = "here",
    study: str | None = None,
    study_name: str | None = None,
    progress: Progress | bool = False,
    command: str = "",
) -> Result:
    """Find the best artifact within the budget.

    Args:
        task: the trained model (or one with a plan of how to train it), its data and its metric; or the name of such a task, as of `load_task`.
        budget: what may be lost and what must be won; a mapping of limits too, ``{"max_drop": 0.5}``.
        frontier: further drops that are allowed, each a budget of its own: all are answered from the same candidates, in ``data["budgets"]``.
        out: the run's folder, or a URL (``s3://bucket/run``) where it is mirrored; by default `laconic-runs/NAME-TIME`. A
            folder that holds the same run, unfinished or ended by a time limit, is continued.
        time_limit: seconds from the call on, or text like ``90s``, ``5m``, ``2h``. The model is trained, where it is untrained, and the baseline measured
            in any case; candidates whose turn comes later are not tried, and the best so far is delivered. Called again with the same `out`, the run goes
            on with the rest.
        space: what is tried; ignored when `recipes` are given.
        recipes: these and no others.
        options: how evidence is gathered.
        workers: candidates that are built at once, ahead of their turns; nobody of them computes while something is timed.
        driver: where: ``here``, in processes of this machine; or another row of `search.drivers`.
        study: shared with other drivers: ``postgresql://USER@HOST/DATABASE``, or the path of Optuna's journal file; see `search.study`.
        study_name: its name there; by default that of the task.
        progress: True shows every stage live; or what is told of it (`core.progress.Progress`). The logger `laconic` is told in any case.
        command: how the run can be repeated, for the report.

    Returns:
        The result; if no budget is met, with the nearest miss and the reason.

    Raises:
        BadInput: the task, the budget or an option cannot be used; everything wrong with the task is told at once, before any work.
        KeyboardInterrupt: as it came; the best so far is then written down like a result, as interrupted.
    """
    limit, space, budget = seconds(time_limit), space or SearchSpace(), as_budget(budget)
    several.budgets(budget, frontier)
    if recipes is None and (space.trials or (space.trials is None and space.effort == "high")):
        need("optuna", "search")  # what is missing is told before any work
    deadline = None if limit is None else time.monotonic() + limit
    crew = drivers.driver(driver, workers)
    check_devices(recipes, space.device)
    options = options or Options()
    if study is None and study_name is not None:
        raise BadInput(
            f"study name '{study_name}': there is no study without a place. Say where: --study postgresql://USER@HOST/DATABASE, or a file."
        )
    check_told(budget, options, [space.device] if recipes is None else [recipe.deploy.device for recipe in recipes])
    with shown(progress) as told, contextlib.closing(trial):  # what waits for its builder waits no longer
        if isinstance(task, str):
            prepare.try_ref(task, options)
        task = as_task(task)
        others = NoStudy() if study is None else SharedStudy(study, study_name or task.name)
        command = command if study is None else command.replace(study, hidden(study))
        mirror = Mirror(str(out), progress=told) if is_url(out) else None
        folder = mirror.folder if mirror is not None else Path(out) if out is not None else new_folder(task.name)
        if mirror is not None:
            crew.sees(folder)
        with contextlib.closing(others), contextlib.nullcontext() if mirror is None else mirror.held():
            push = None if mirror is None else mirror.push
            data = search(task, budget, frontier, folder, deadline, space, recipes, options, told, command, crew, push, others)
            result = Result(folder, data)
            if not (folder / REPORT).exists():
                result.report()
    return result


def search(
    task: Task,
    budget: Budget,
    drops: Sequence[float],
    folder: Path,
    deadline: float | None,
    space: SearchSpace,
    recipes: Sequence[Recipe] | None,
    options: Options,
    progress: Progress,
    command: str,
    crew: Driver,
    push: Callable[[], object] | None = None,
    study: NoStudy = NoStudy(),  # noqa: B008 - it has no state
) -> dict[str, Any]:
    """Search; see `laconic.optimize`. `deadline` is one of `time.monotonic`. Returns the content of the run's `result.json`."""
    ledger = Ledger()
    metric = metrics.of(task)
    prepare.check(task, options, progress)
    budget = budget.filled(metric.name, metric.scale == 100)
    asked = several.budgets(budget, drops)
    with RunStore(folder, _manifest(task, asked, space, recipes, options), push) as store:
        if (known := _finished(store, folder, progress)) is not None:
            return known
        if store.resumed:
            progress.log(f"continuing the run in {folder}; what is finished is kept")
        if isinstance(study, SharedStudy):
            study.join({**store.manifest, **this_machine()}, budget, folder)
        ledger.resume(store)
        progress = live = Live(progress, store)
        program, training = prepare.program(task, store, options, ledger, progress)
        store.push()
        if isinstance(study, SharedStudy):
            study.agree({"trained model": program.fingerprint()})
        around = Surroundings(program, task.of_part(), budget)
        chosen = list(recipes) if recipes is not None else propose(around, space)
        judge = several.judge(asked)
        evaluator = Evaluator(store, task, metric, program, judge, options, ledger, progress, crew.man)
        evaluator.deadline = deadline
        evaluator.fetch = lambda record: study.fetch(record, folder)
        named = recipes is not None or space.names_targets  # whoever names something wants to see it
        plan = TimePlan(deadline, ledger, task, training, len(asked), progress.log)
        walk = Walk(
            evaluator,
            budget,
            judge if options.early_stop and budget.goal.name == "speedup" and not named else None,
            plan,
            study,
            space,
            crew.workers,
        )
        context = Facts(task, metric, budget, program, training, command, ledger, options)
        live.after = SoFar(store, context, walk).write
        try:
            with contextlib.closing(evaluator):
                tried(walk, chosen, around, space, follow=recipes is None)
                if recipes is None and (trials := plan.trials(space.trials, space.effort)):
                    walk.tuned(
                        Tuner(walk.around or around, space, walk.records, options.seed),
                        trials,
                        crew.workers,
                        deadline is None or space.trials is not None,
                    )
                walk.together()
                evaluator.crew.close()  # what nobody waits for any more
                records, choices, told = _delivered(walk.records, asked, evaluator)
        except KeyboardInterrupt:
            if walk.records:
                records = marked(judged_by([*walk.records, *walk.untried()], budget), budget)
                Result(folder, write(store, context, records, so_far(records, budget), INTERRUPT, {"plan": plan.said})).report()
                live.end()
            raise
        records = marked([_placed(record, store) for record in records], budget)
        ended = stopped(records, LIMIT, ledger.spent()["total"])
        told["plan"] = plan.said
        if (shared := study.facts()) is not None:
            told["study"] = shared
        told["budgets"] = several.answers(records, asked, choices, Scale.of(metric), to_json(program.inputs), ended)
        data = write(store, context, records, confirm(choices[0], records, budget), LIMIT, told)
        live.end()
        shutil.rmtree(store.path("examples"), ignore_errors=True)
        return data


def _finished(store: RunStore, folder: Path, progress: Progress) -> dict[str, Any] | None:
    """Return the result of a run that is finished; None of one of which something is left to do."""
    if not store.has(RESULT) or (known := read_result(folder)).get("stopped") is not None:
        return None
    if lost := killed(known):
        progress.log(f"{folder} is finished, but something else ended processes of it; tried again: {', '.join(lost)}")
        return None
    progress.log(f"{folder} is finished already; nothing was computed again")
    return known


def _delivered(
    records: Sequence[Record], budgets: Sequence[Budget], evaluator: Evaluator
) -> tuple[list[Record], list[Selection], dict[str, Any]]:
    """Choose for each budget, take apart what the first one chose, and read the test data.

    Returns:
        All records with the last of their figures, the choices by the valid data, and what is told beside.
    """
    known, choices = several.choose_all(records, budgets, evaluator)
    handed = several.handed(choices)
    if evaluator.options.by_step and handed:
        known += measured(evaluator, handed[0], known)
    base = opponent(handed[0], known) if handed else known[0]
    base, *handed = with_whole(evaluator.task, evaluator.store, [base, *handed], evaluator.options, evaluator.ledger, evaluator.progress)
    tested = {record.key: record for record in evaluator.test(base, handed)}
    told = beside(evaluator, base, handed[0]) if handed else {}
    return [tested.get(record.key, record) for record in known], choices, told


def tried(walk: Walk, recipes: Sequence[Recipe], around: Surroundings, space: SearchSpace, follow: bool) -> None:
    """Measure the baselines of these recipes, then evaluate the recipes; where `follow`, also what follows from their results."""
    bases = baseline_recipes(recipes) or [baseline_recipe(space.threads, space.device)]
    others = [recipe for recipe in recipes if recipe.key not in {base.key for base in bases}]
    walk.records += walk.evaluator.baselines(bases)
    walk.plan.measured_baselines(walk.records)
    if follow:
        walk.likeliest_first(others, around, space)
    else:
        walk.in_order(others)


def killed(result: Mapping[str, Any]) -> list[str]:
    """Return the titles of a finished run's candidates of which nothing is known, since something else ended their processes."""
    failed = [record for record in result["candidates"] if record["status"] == "failed"]
    return [record["title"] for record in failed if record["reasons"][-1]["rule"] == "killed"]


def write(
    store: RunStore, known: Facts, records: Sequence[Record], choice: Selection, by: str, told: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Write the run's result, with how far it came where it ended early (`by`); a page of an earlier result goes. Returns the result."""
    known.ledger.keep(store, at_once=True)
    ended = stopped(records, by, known.ledger.spent()["total"])
    store.path(REPORT).unlink(missing_ok=True)
    return dict(store.write(RESULT, content(known, records, choice, ended, told)))


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


def _manifest(
    task: Task, budgets: Sequence[Budget], space: SearchSpace, recipes: Sequence[Recipe] | None, options: Options
) -> dict[str, Any]:
    """Return what makes two runs the same."""
    return {
        "task": task.ref or task.name,
        "metric": task.metric if isinstance(task.metric, str) else getattr(task.metric, "__qualname__", "custom"),
        "answers": {"ignore": task.ignore, "class_axis": task.class_axis, "target": getattr(task.target, "__qualname__", task.target)},
        "budget": budgets[0].to_plain(),
        "frontier": [budget.max_drop for budget in budgets[1:]],
        "space": to_json(space),
        "recipes": None if recipes is None else [recipe.to_plain() for recipe in recipes],
        "options": {name: value for name, value in to_json(options).items() if name not in _NO_EVIDENCE},
        "plan": to_json(task.plan),
        "part": task.part,
        "model": None if task.plan is not None else prepare.fingerprint(task),
        "data": identity.data_of(task),
        "code": identity.code_of(task),
    }


def _placed(record: Record, store: RunStore) -> Record:
    """Return a record with its artifact, where that is in this run's folder: another driver of a study may have it."""
    return record if record.artifact is None or store.has(record.artifact) else record.replace(artifact=None)
