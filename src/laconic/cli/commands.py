"""The commands. Each is one call; what is typed is read by `inputs`, what is shown by `output`."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from laconic.cli.app import app
from laconic.cli.budget import BudgetOptions, takes_budget
from laconic.cli.inputs import Until, consumption, count, giga, loaded, named_size, numbers, split
from laconic.cli.interrupt import command, resumable
from laconic.cli.options import (
    BatchOption,
    DataOption,
    DeviceOption,
    DriverOption,
    FolderOption,
    JsonOption,
    LimitOption,
    MeterOption,
    MlflowOption,
    OutOption,
    PriceOption,
    PricesOption,
    QuietOption,
    SeedOption,
    StepsOption,
    StudyNameOption,
    StudyOption,
    TaskArgument,
    ThreadsOption,
    TrialOption,
    TryOption,
    WaitOption,
    WithoutOption,
    WorkersOption,
)
from laconic.cli.output import display, finish, guarded, run_folder, say, show

if TYPE_CHECKING:
    from laconic.search.result import Result


@app.command()
@takes_budget
def optimize(
    task: TaskArgument,
    budget: BudgetOptions,
    frontier: Annotated[
        str | None,
        typer.Option(
            "--frontier", metavar="DROPS", help="Answer these drops too, each a budget of its own, from the same candidates: 0.1,0.5,1."
        ),
    ] = None,
    time_limit: LimitOption = None,
    runtimes: Annotated[str | None, typer.Option("--runtimes", help="Try only these, separated by commas.")] = None,
    precisions: Annotated[str | None, typer.Option("--precisions", help="Try only these, by commas: fp32, bf16, fp16-weights.")] = None,
    quantize: Annotated[
        str | None, typer.Option("--quantize", help="Try only these, separated by commas: static, dynamic, weights, mixed, qat; or none.")
    ] = None,
    prune: Annotated[
        str | None,
        typer.Option("--prune", help="Shares of the multiply-adds that pruning keeps, separated by commas, e.g. 0.5,0.3; or none."),
    ] = None,
    tried: TryOption = None,
    without: WithoutOption = None,
    effort: Annotated[
        str, typer.Option("--effort", help="low: nothing that trains; medium; high: then what a sampler proposes, too.")
    ] = "medium",
    trials: Annotated[
        int | None,
        typer.Option(
            "--trials", min=0, help="How many recipes a sampler proposes.  [default: --effort high: 24, or what --time-limit holds]"
        ),
    ] = None,
    threads: ThreadsOption = None,
    device: DeviceOption = "cpu",
    batch: BatchOption = 1,
    data: DataOption = None,
    out: OutOption = None,
    seed: SeedOption = 0,
    candidate_timeout: Annotated[float, typer.Option("--candidate-timeout", help="Seconds after which a candidate has failed.")] = 900.0,
    memory_limit: Annotated[
        float | None,
        typer.Option("--memory-limit", help="GB (10^9 bytes) that a candidate's process may use.  [default: 4/5 of what is free]"),
    ] = None,
    rounds: Annotated[int, typer.Option("--rounds", min=3, help="Turns that each candidate has when latency is measured.")] = 15,
    workers: WorkersOption = 1,
    driver: DriverOption = "here",
    study: StudyOption = None,
    study_name: StudyNameOption = None,
    by_step: StepsOption = False,
    wait_quiet: WaitOption = False,
    meter: MeterOption = None,
    prices: PricesOption = None,
    price: PriceOption = None,
    mlflow: MlflowOption = False,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Find the fastest (or smallest) artifact that keeps the promise, with a report.

    Example: laconic optimize digits --max-drop 0.5 --time-limit 5m
    """

    def work() -> Result:
        import laconic as lc

        until = Until(time_limit)
        options = lc.Options(
            batch=batch,
            rounds=rounds,
            candidate_timeout_s=candidate_timeout,
            memory_limit_bytes=giga(memory_limit),
            seed=seed,
            by_step=by_step,
            wait_quiet=wait_quiet,
            **consumption(prices, price, meter),
        )
        space = lc.SearchSpace(
            split(runtimes),
            split(precisions),
            threads,
            device,
            levers=split(tried),
            without=split(without) or (),
            effort=effort,
            trials=trials,
            quantize=split(quantize),
            prune=split(prune),
        )
        wanted = loaded(task, data, seed, timeout_s=candidate_timeout, memory_limit_bytes=giga(memory_limit), builds=True)
        folder = run_folder(out, wanted.name)
        with display(quiet or as_json) as progress, resumable(folder):
            return lc.optimize(
                wanted,
                lc.Budget.from_plain(budget),
                frontier=numbers("--frontier", frontier),
                out=out or folder,
                time_limit=until.left_s(),
                space=space,
                options=options,
                workers=workers,
                driver=driver,
                study=study,
                study_name=study_name,
                progress=progress,
                command=command(),
            )

    result = guarded(work)
    finish(result, as_json, mlflow, result.folder / "report.html")


@app.command()
@takes_budget
def run(
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE.yaml", help="The recipe file; it may name the task and the budget.")],
    budget: BudgetOptions,
    task: Annotated[str | None, typer.Option("--task", help="The task, where the file names none or another is wanted.")] = None,
    batch: BatchOption = 1,
    data: DataOption = None,
    out: OutOption = None,
    seed: SeedOption = 0,
    by_step: StepsOption = False,
    wait_quiet: WaitOption = False,
    meter: MeterOption = None,
    prices: PricesOption = None,
    price: PriceOption = None,
    mlflow: MlflowOption = False,
    trial_timeout: TrialOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Carry out one recipe: the same steps every time, measured and gated like any candidate."""

    def work() -> Result:
        import laconic as lc

        file = lc.read_recipe(recipe, lambda given: lc.Budget.from_plain({**given, **budget} if isinstance(given, dict) else given))
        name = task or file.task
        if name is None:
            raise lc.BadInput(f"{recipe} names no task; add `task: NAME` to it or give --task NAME")
        wanted = loaded(name, data, seed, timeout_s=trial_timeout, builds=True)
        folder = run_folder(out, wanted.name)
        with display(quiet or as_json) as progress, resumable(folder):
            return lc.optimize(
                wanted,
                lc.Budget.from_plain({**(file.budget or {}), **budget}),
                out=out or folder,
                recipes=[file.recipe],
                space=lc.SearchSpace(threads=file.recipe.deploy.threads, device=file.recipe.deploy.device),
                options=lc.Options(batch=batch, seed=seed, by_step=by_step, wait_quiet=wait_quiet, **consumption(prices, price, meter)),
                progress=progress,
                command=command(),
            )

    result = guarded(work)
    finish(result, as_json, mlflow, result.folder / "report.html")


@app.command()
def bench(
    artifact: Annotated[Path, typer.Argument(metavar="MODEL", help="An artifact's folder, or a file (.onnx, .pt2, .ts, .xla, .lac).")],
    versus: Annotated[Path | None, typer.Option("--vs", help="What it is compared with.")] = None,
    runtime: Annotated[str | None, typer.Option("--runtime", help="Run MODEL in this runtime instead of its own.")] = None,
    precision: Annotated[str | None, typer.Option("--precision", help="Run MODEL in this precision instead of its own.")] = None,
    device: Annotated[str | None, typer.Option("--device", help="Run MODEL on this device instead of its own; see optimize.")] = None,
    batch: Annotated[str, typer.Option("--batch", help="Batch sizes, separated by commas.")] = "1",
    length: Annotated[list[str] | None, typer.Option("--length", help="Size of another dynamic dimension, NAME=SIZE.")] = None,
    threads: Annotated[int | None, typer.Option("--threads", min=1, help="Threads of both. [default: those of MODEL]")] = None,
    rounds: Annotated[int, typer.Option("--rounds", min=3, help="Turns that each candidate has.")] = 15,
    trust: Annotated[bool, typer.Option("--trust", help="Run TorchScript files too, which are code: you know who made them.")] = False,
    record: Annotated[
        Path | None,
        typer.Option("--record", metavar="FILE", help="Write the times of MODEL, an artifact's or a run's folder, for `laconic hardware`."),
    ] = None,
    best: Annotated[int, typer.Option("--best", min=1, help="Of a run's folder: how many artifacts, what ships first.")] = 3,
    machine: Annotated[str, typer.Option("--machine", help="A name for the machine in the record. [default: its host name]")] = "",
    on: Annotated[
        str | None, typer.Option("--on", metavar="HOST", help="Record on this machine, reached by your own ssh; nothing is left there.")
    ] = None,
    ssh: Annotated[str, typer.Option("--ssh", help="With --on: the client and its options, e.g. 'ssh -p 2222'.")] = "ssh",
    python: Annotated[str, typer.Option("--python", help="With --on: the Python there that has the artifact's runtime.")] = "python3",
    time_limit: Annotated[str | None, typer.Option("--time-limit", help="With --on: how long it may take.  [default: 1h]")] = None,
    energy: Annotated[
        bool, typer.Option("--energy", help="Measure joules of an inference too: a minute or more for each candidate and batch size.")
    ] = False,
    meter: MeterOption = None,
    prices: PricesOption = None,
    price: PriceOption = None,
    wait_quiet: WaitOption = False,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Is it really faster? Latency side by side, interleaved, each in its own process, with a confidence interval.

    With --record the times of one artifact, or of a run's best, go to a file, to be compared with those of other machines; so do energy (--energy, --meter)
    and money (--prices). That needs no PyTorch where the artifact needs none.
    """
    if record is not None:
        from laconic.cli.fleet import Recording, record_times

        changes = {"runtime": runtime, "precision": precision, "device": device, "threads": threads}
        taken = partial(consumption, prices, price, meter)
        asked = Recording(artifact, record, versus, changes, best, machine, trust, on, ssh, python, time_limit, energy, taken)
        return record_times(asked, batch, length or [], rounds, wait_quiet, as_json, quiet)

    def work() -> Any:
        import laconic as lc

        if on is not None:
            raise lc.BadInput("--on records the times of another machine in a file: name it with --record FILE")
        with display(quiet or as_json) as progress:
            return lc.bench(
                artifact,
                versus,
                runtime=runtime,
                precision=precision,
                device=device,
                threads=threads,
                batch=[count("--batch", size) for size in batch.split(",")],
                rounds=rounds,
                lengths=dict(named_size(item) for item in length or []),
                progress=progress,
                wait_quiet=wait_quiet,
                trust=trust,
                energy=energy or meter is not None,
                **consumption(prices, price, meter),
            )

    result = guarded(work)

    def table() -> Any:
        from laconic.core.records import to_json
        from laconic.report.listings import comparison

        return comparison(to_json(result))

    show(result, as_json, table)


@app.command()
def inspect(
    task: TaskArgument,
    data: DataOption = None,
    no_sensitivity: Annotated[
        bool, typer.Option("--no-sensitivity", help="Leave out what the output loses with half of each group: a run of the model for each.")
    ] = False,
    trial_timeout: TrialOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Show a task's model as it is captured: inputs, layers, parameters, multiply-adds, what can be pruned, and what is not known of it."""

    def work() -> dict[str, Any]:
        wanted = loaded(task, data, timeout_s=trial_timeout)
        from laconic.run.inspect import inspect

        with display(quiet or as_json) as progress:
            return inspect(wanted, not no_sensitivity, progress)

    result = guarded(work)

    def table() -> Any:
        from laconic.report.listings import layers

        return layers(result)

    show(result, as_json, table)


@app.command()
def compare(
    kind: Annotated[str, typer.Argument(metavar="WHAT", help="lr, augment or regularize.")],
    task: TaskArgument,
    choices: Annotated[
        str | None,
        typer.Option(
            "--choices",
            help="Only these variants, separated by commas; the first of all is always there. Augmentations combine: flip+erasing=0.5.",
        ),
    ] = None,
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="Runs of each variant.")] = 3,
    epochs: Annotated[int | None, typer.Option("--epochs", min=1, help="Of each run. [default: as the task trains, or 5]")] = None,
    fraction: Annotated[float, typer.Option("--fraction", help="Share of the training set.")] = 1.0,
    lr: Annotated[float | None, typer.Option("--lr", help="Peak learning rate. [default: the task's]")] = None,
    optimizer: Annotated[str | None, typer.Option("--optimizer", help="[default: the task's]")] = None,
    channels_last: Annotated[bool, typer.Option("--channels-last", help="Lay pictures out pixel by pixel while training.")] = False,
    data: DataOption = None,
    out: FolderOption = None,
    trial_timeout: TrialOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Train a task's model in several ways with the same budget and several seeds; a table, and a page with the curves.

    Example: laconic compare lr digits --epochs 10
    """

    def work() -> tuple[dict[str, Any], Path]:
        from laconic.report.comparison import write_page
        from laconic.studies.compare import Comparing, compare

        config = Comparing(kind, split(choices), seeds, epochs, fraction, lr, optimizer, channels_last)
        wanted = loaded(task, data, timeout_s=trial_timeout)
        folder = run_folder(out, f"compare-{kind}-{wanted.name}", mirrored=False)
        with display(quiet or as_json) as progress, resumable(folder):
            rows = compare(wanted, config, folder, progress)
        return rows, write_page({**rows, "command": command()}, folder / "report.html")

    result, page = guarded(work)

    def table() -> Any:
        from laconic.report.comparison import table as drawn

        return drawn(result)

    show(result, as_json, table)
    say(f"Report: {page}", as_json)


@app.command()
@takes_budget
def levers(
    budget: BudgetOptions,
    task: Annotated[str | None, typer.Argument(metavar="TASK", help="Say for this task what is tried, and why not.")] = None,
    tried: TryOption = None,
    without: WithoutOption = None,
    device: DeviceOption = "cpu",
    data: DataOption = None,
    trial_timeout: TrialOption = None,
    as_json: JsonOption = False,
) -> None:
    """List what can be tried: levers, their settings, where in a recipe they stand, what they cost, and when they make sense.

    Example: laconic levers digits --try prune,quantize --without torch.compile
    """

    def work() -> dict[str, Any]:
        import laconic as lc
        from laconic.search.survey import survey

        space = lc.SearchSpace(device=device, levers=split(tried), without=split(without) or ())
        wanted = None if task is None else loaded(task, data, timeout_s=trial_timeout)
        return survey(wanted, lc.Budget.from_plain(budget), space)

    result = guarded(work)

    def table() -> Any:
        from laconic.report.listings import levers as drawn

        return drawn(result)

    show(result, as_json, table)


@app.command()
def doctor(as_json: JsonOption = False) -> None:
    """Say what this machine can run, and why it cannot run the rest."""

    def work() -> dict[str, Any]:
        from laconic.deploy.runtime import matrix, packages, sights
        from laconic.measure.energy import told_of
        from laconic.measure.environment import environment, extras

        env, runtimes = environment(None, packages()), matrix()
        there = dict.fromkeys(row["device"] for row in runtimes if row["ready"] and row["device"] in ("cpu", "cuda"))
        return {"environment": env, "runtimes": runtimes, "devices": sights(), "energy": told_of(list(there)), "extras": extras()}

    result = guarded(work)

    def table() -> Any:
        from laconic.report.listings import health

        return health(result)

    show(result, as_json, table)


@app.command()
def tasks(data: DataOption = None, as_json: JsonOption = False) -> None:
    """List the built-in tasks and whether their data is at hand."""

    def work() -> list[dict[str, Any]]:
        from laconic.tasks.catalog import describe

        return describe(data=data)

    result = guarded(work)

    def table() -> Any:
        from laconic.report.listings import catalog

        return catalog(result)

    show(result, as_json, table)


@app.callback(invoke_without_command=True)
def _root(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        import laconic as lc

        typer.echo(f"laconic {lc.__version__}")
        raise typer.Exit
