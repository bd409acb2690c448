"""The command line: parsing and printing only. A command is one call."""

from __future__ import annotations

import contextlib
import json
import shlex
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from laconic.core.errors import LaconicError

if TYPE_CHECKING:
    from laconic.search.result import Result

EXIT_BAD_INPUT, EXIT_NOT_MET, EXIT_FAILED, EXIT_INTERRUPTED = 2, 3, 1, 130

app = typer.Typer(
    name="laconic",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Make a trained PyTorch model small and fast without losing what it knows, and show the evidence. "
    "Exit codes: 0 done and budget met, 2 bad input, 3 budget not met or nothing tried, 1 another failure, 130 interrupted.",
)

TaskArgument = Annotated[
    str, typer.Argument(metavar="TASK", help="A built-in task (`laconic tasks`), NAME@MODEL, or your own as module:attribute.")
]
DataOption = Annotated[
    Path | None, typer.Option("--data", help="Folder with the data of built-in tasks. Default: $LACONIC_DATA.", envvar="LACONIC_DATA")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else on standard output.")]
OutOption = Annotated[
    Path | None, typer.Option("--out", help="The run's folder. An unfinished run in it is continued. [default: laconic-runs/TASK-TIME]")
]
DropOption = Annotated[
    str | None,
    typer.Option(
        "--max-drop",
        metavar="NUMBER",
        help="What may be lost: points of a percentage, else in the metric's own unit; or any.  [default: 0.5 points of a percentage]",
    ),
]
SpeedOption = Annotated[float | None, typer.Option("--min-speedup", help="Times faster than PyTorch eager, at the least.")]
LatencyOption = Annotated[float | None, typer.Option("--max-latency", help="Median latency in ms, at the most.")]
SizeOption = Annotated[float | None, typer.Option("--max-size", help="Size of the file in MB (10^6 bytes), at the most.")]
ObjectiveOption = Annotated[
    str | None, typer.Option("--objective", help="What is to be best: latency, size or memory.  [default: latency]")
]
ConfidentOption = Annotated[
    bool, typer.Option("--confident", help="Each limit must hold at the bad end of its figure's 95 % interval, not only as measured.")
]
WaitOption = Annotated[
    bool, typer.Option("--wait-quiet", help="Wait, a bounded while, until the machine does little else before anything is timed.")
]
LimitOption = Annotated[str | None, typer.Option("--time-limit", help="Start no further candidate after this long, e.g. 90s, 5m, 2h.")]
ThreadsOption = Annotated[int | None, typer.Option("--threads", min=1, help="Threads of every runtime. [default: all cores]")]
DeviceOption = Annotated[str, typer.Option("--device", help="cpu or cuda.")]
SeedOption = Annotated[int, typer.Option("--seed", help="Seed of every random choice.")]
BatchOption = Annotated[int, typer.Option("--batch", min=1, help="Examples per call when latency is measured.")]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="No progress display.")]


@app.command()
def optimize(
    task: TaskArgument,
    max_drop: DropOption = None,
    min_speedup: SpeedOption = None,
    max_latency: LatencyOption = None,
    max_size: SizeOption = None,
    objective: ObjectiveOption = None,
    confident: ConfidentOption = False,
    time_limit: LimitOption = None,
    runtimes: Annotated[str | None, typer.Option("--runtimes", help="Try only these, separated by commas.")] = None,
    precisions: Annotated[str | None, typer.Option("--precisions", help="Try only these, separated by commas: fp32, bf16.")] = None,
    quantize: Annotated[
        str | None, typer.Option("--quantize", help="Try only these, separated by commas: static, dynamic, weights, mixed, qat; or none.")
    ] = None,
    prune: Annotated[
        str | None,
        typer.Option("--prune", help="Shares of the multiply-adds that pruning keeps, separated by commas, e.g. 0.5,0.3; or none."),
    ] = None,
    threads: ThreadsOption = None,
    device: DeviceOption = "cpu",
    batch: BatchOption = 1,
    data: DataOption = None,
    out: OutOption = None,
    seed: SeedOption = 0,
    candidate_timeout: Annotated[float, typer.Option("--candidate-timeout", help="Seconds after which a candidate has failed.")] = 900.0,
    memory_limit: Annotated[
        float | None, typer.Option("--memory-limit", help="GB (10^9 bytes) that a candidate's process may use.")
    ] = None,
    rounds: Annotated[int, typer.Option("--rounds", min=3, help="Turns that each contender has when latency is measured.")] = 15,
    wait_quiet: WaitOption = False,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Find the fastest (or smallest) artifact that keeps the promise, with a report.

    Example: laconic optimize digits --max-drop 0.5 --time-limit 5m
    """

    def work() -> Result:
        import laconic as lc

        limits = _limits(max_drop, min_speedup, max_latency, max_size, objective, confident)
        options = lc.Options(
            batch=batch,
            rounds=rounds,
            candidate_timeout_s=candidate_timeout,
            memory_limit_bytes=_giga(memory_limit),
            seed=seed,
            wait_quiet=wait_quiet,
        )
        space = lc.SearchSpace(_names(runtimes), _names(precisions), threads, device, _names(quantize), _shares("--prune", prune))
        found = lc.load_task(task, data=data, seed=seed)
        folder = _folder(out, found.name)
        with _display(quiet or as_json) as progress, _resumable(folder):
            return lc.optimize(
                found,
                lc.Budget(**limits),
                out=folder,
                time_limit=time_limit,
                space=space,
                options=options,
                progress=progress,
                command=_command(),
            )

    _finish(_guarded(work), as_json)


@app.command()
def run(
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE.yaml", help="The recipe file; it may name the task and the budget.")],
    task: Annotated[str | None, typer.Option("--task", help="The task, where the file names none or another is wanted.")] = None,
    max_drop: DropOption = None,
    min_speedup: SpeedOption = None,
    max_latency: LatencyOption = None,
    max_size: SizeOption = None,
    objective: ObjectiveOption = None,
    confident: ConfidentOption = False,
    batch: BatchOption = 1,
    data: DataOption = None,
    out: OutOption = None,
    seed: SeedOption = 0,
    wait_quiet: WaitOption = False,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Carry out one recipe: the same steps every time, measured and gated like any candidate."""

    def work() -> Result:
        import laconic as lc

        found = lc.read_recipe(recipe)
        name = task or found.task
        if name is None:
            raise lc.BadInput(f"{recipe} names no task; add `task: NAME` to it or give --task NAME")
        limits = {**(found.budget or {}), **_limits(max_drop, min_speedup, max_latency, max_size, objective, confident)}
        wanted = lc.load_task(name, data=data, seed=seed)
        folder = _folder(out, wanted.name)
        with _display(quiet or as_json) as progress, _resumable(folder):
            return lc.optimize(
                wanted,
                lc.Budget.from_plain(limits),
                out=folder,
                recipes=[found.recipe],
                space=lc.SearchSpace(threads=found.recipe.deploy.threads, device=found.recipe.deploy.device),
                options=lc.Options(batch=batch, seed=seed, wait_quiet=wait_quiet),
                progress=progress,
                command=_command(),
            )

    _finish(_guarded(work), as_json)


@app.command()
def bench(
    artifact: Annotated[Path, typer.Argument(metavar="MODEL", help="An artifact's folder, or a model file (.onnx, .pt2, .ts).")],
    versus: Annotated[Path | None, typer.Option("--vs", help="What it is compared with.")] = None,
    runtime: Annotated[str | None, typer.Option("--runtime", help="Run MODEL in this runtime instead of its own.")] = None,
    precision: Annotated[str | None, typer.Option("--precision", help="Run MODEL in this precision instead of its own.")] = None,
    batch: Annotated[str, typer.Option("--batch", help="Batch sizes, separated by commas.")] = "1",
    length: Annotated[list[str] | None, typer.Option("--length", help="Size of another dynamic dimension, NAME=SIZE.")] = None,
    threads: Annotated[int | None, typer.Option("--threads", min=1, help="Threads of both. [default: those of MODEL]")] = None,
    rounds: Annotated[int, typer.Option("--rounds", min=3, help="Turns that each contender has.")] = 15,
    wait_quiet: WaitOption = False,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Is it really faster? Latency side by side, interleaved, each in its own process, with a confidence interval."""

    def work() -> Any:
        import laconic as lc

        with _display(quiet or as_json) as progress:
            return lc.bench(
                artifact,
                versus,
                runtime=runtime,
                precision=precision,
                threads=threads,
                batch=[_number("--batch", size) for size in batch.split(",")],
                rounds=rounds,
                lengths=dict(_pair(item) for item in length or []),
                progress=progress,
                wait_quiet=wait_quiet,
            )

    found = _guarded(work)

    def table() -> Any:
        from laconic.core.records import to_json
        from laconic.report.listings import comparison

        return comparison(to_json(found))

    _print(found, as_json, table)


@app.command()
def inspect(
    task: TaskArgument,
    data: DataOption = None,
    no_sensitivity: Annotated[
        bool, typer.Option("--no-sensitivity", help="Leave out what the output loses with half of each group: a run of the model for each.")
    ] = False,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Show a task's model as it is captured: inputs, layers, parameters, multiply-adds, what can be pruned, and what is not known of it."""

    def work() -> dict[str, Any]:
        import laconic as lc
        from laconic.run.inspect import inspect

        with _display(quiet or as_json) as progress:
            return inspect(lc.load_task(task, data=data), not no_sensitivity, progress)

    found = _guarded(work)

    def table() -> Any:
        from laconic.report.listings import layers

        return layers(found)

    _print(found, as_json, table)


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
    out: OutOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Train a task's model in several ways with the same budget and several seeds; a table, and a page with the curves.

    Example: laconic compare lr digits --epochs 10
    """

    def work() -> tuple[dict[str, Any], Path]:
        import laconic as lc
        from laconic.report.comparison import write_page
        from laconic.studies.compare import Comparing, compare

        config = Comparing(kind, _names(choices), seeds, epochs, fraction, lr, optimizer, channels_last)
        found = lc.load_task(task, data=data)
        folder = _folder(out, f"compare-{kind}-{found.name}")
        with _display(quiet or as_json) as progress, _resumable(folder):
            result = compare(found, config, folder, progress)
        return result, write_page({**result, "command": _command()}, folder / "report.html")

    found, page = _guarded(work)

    def table() -> Any:
        from laconic.report.comparison import table as drawn

        return drawn(found)

    _print(found, as_json, table)
    _say(f"Report: {page}", as_json)


@app.command()
def report(
    folder: Annotated[Path, typer.Argument(metavar="RUN", help="A finished run's folder.")],
    to: Annotated[Path | None, typer.Option("--to", help="Where to write the page. [default: RUN/report.html]")] = None,
    as_json: JsonOption = False,
) -> None:
    """Write a finished run's report again and print its summary."""

    def work() -> dict[str, Any]:
        from laconic.report.page import write_page
        from laconic.run.store import read_result

        result = read_result(folder)
        return {"report": str(write_page(result, to or folder / "report.html")), "result": result}

    found = _guarded(work)
    _print(found, as_json, lambda: _summary(found["result"]))
    _say(f"Report: {found['report']}", as_json)


@app.command()
def doctor(as_json: JsonOption = False) -> None:
    """Say what this machine can run, and why it cannot run the rest."""

    def work() -> dict[str, Any]:
        from laconic.deploy.runtime import matrix
        from laconic.measure.environment import environment

        return {"environment": environment(None), "runtimes": matrix()}

    found = _guarded(work)

    def table() -> Any:
        from laconic.report.listings import health

        return health(found)

    _print(found, as_json, table)


@app.command()
def tasks(data: DataOption = None, as_json: JsonOption = False) -> None:
    """List the built-in tasks and whether their data is at hand."""

    def work() -> list[dict[str, Any]]:
        from laconic.tasks.catalog import describe

        return describe(data=data)

    found = _guarded(work)

    def table() -> Any:
        from laconic.report.listings import catalog

        return catalog(found)

    _print(found, as_json, table)


@app.callback(invoke_without_command=True)
def _root(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        import laconic as lc

        typer.echo(f"laconic {lc.__version__}")
        raise typer.Exit


# Helpers ----------------------------------------------------------------------------------------------------------------------------


def _limits(
    max_drop: str | None,
    min_speedup: float | None,
    max_latency: float | None,
    max_size: float | None,
    objective: str | None,
    confident: bool,
) -> dict[str, Any]:
    """The limits that were given; a recipe's own may stand beside them."""
    given = {
        "max_drop": _drop(max_drop),
        "min_speedup": min_speedup,
        "max_latency_ms": max_latency,
        "max_size_mb": max_size,
        "objective": objective,
        "confident": confident or None,
    }
    return {name: value for name, value in given.items() if value is not None}


def _drop(text: str | None) -> float | str | None:
    try:
        return text if text in (None, "any") else float(text)
    except ValueError as error:
        raise _bad(f"--max-drop: {text!r} is not a number, nor 'any', which sets no limit") from error


def _giga(value: float | None) -> int | None:
    return None if value is None else int(value * 1e9)


def _names(text: str | None) -> tuple[str, ...] | None:
    return None if text is None else tuple(part.strip() for part in text.split(",") if part.strip() not in ("", "none"))


def _shares(option: str, text: str | None) -> tuple[float, ...] | None:
    try:
        return None if text is None else tuple(float(part) for part in _names(text) or ())
    except ValueError as error:
        raise _bad(f"{option}: {text!r} is not a list of shares such as 0.5,0.3") from error


def _number(option: str, text: str) -> int:
    if not text.strip().isdigit() or int(text) < 1:
        raise _bad(f"{option}: {text!r} is not a whole number of 1 or more")
    return int(text)


def _pair(text: str) -> tuple[str, int]:
    name, equals, size = text.partition("=")
    if not equals:
        raise _bad(f"--length: {text!r}; write NAME=SIZE, e.g. length=64")
    return name, _number("--length", size)


def _bad(text: str) -> LaconicError:
    from laconic.core.errors import BadInput

    return BadInput(text)


def _command() -> str:
    return shlex.join(["laconic", *sys.argv[1:]])


def _display(quiet: bool) -> Any:
    from laconic.display import Display

    return Display(quiet)


def _guarded(work: Callable[[], Any]) -> Any:
    """Do the command's work; turn what goes wrong into a message and an exit code."""
    from laconic.core.errors import BadInput, MissingExtra

    try:
        return work()
    except (BadInput, MissingExtra) as error:
        _fail(error, EXIT_BAD_INPUT)
    except LaconicError as error:
        _fail(error, EXIT_FAILED)
    except KeyboardInterrupt:
        typer.echo("\nInterrupted.", err=True)
        raise typer.Exit(EXIT_INTERRUPTED) from None


def _folder(out: Path | None, name: str) -> Path:
    from laconic.search.optimize import new_folder

    return out if out is not None else new_folder(name)


@contextlib.contextmanager
def _resumable(folder: Path) -> Iterator[None]:
    """On Ctrl-C, say how to go on; also where a library turned the interruption into an error of its own."""
    pressed = []

    def note(number: int, frame: Any) -> None:
        pressed.append(number)
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, note)
    try:
        yield
    except BaseException:
        if not pressed:
            raise
        again = _command() if any(part.startswith("--out") for part in sys.argv) else f"{_command()} --out {shlex.quote(str(folder))}"
        typer.echo(f"\nInterrupted. What was finished is kept; to go on: {again}", err=True)
        raise typer.Exit(EXIT_INTERRUPTED) from None
    finally:
        signal.signal(signal.SIGINT, before)


def _fail(error: Exception, code: int) -> NoReturn:
    typer.echo(f"laconic: {error}", err=True)
    raise typer.Exit(code) from None


def _print(found: Any, as_json: bool, pretty: Callable[[], Any]) -> None:
    if as_json:
        from laconic.core.records import to_json
        from laconic.display import speaks_unicode

        typer.echo(json.dumps(to_json(found), ensure_ascii=not speaks_unicode(sys.stdout)))
    else:
        from rich.console import Console

        Console().print(pretty())


def _summary(result: dict[str, Any]) -> Any:
    from laconic.report.facts import facts
    from laconic.report.text import summary

    return summary(facts(result))


def _say(text: str, as_json: bool) -> None:
    typer.echo(text, err=as_json)


def _finish(result: Result, as_json: bool) -> None:
    _print(dict(result.data), as_json, lambda: _summary(dict(result.data)))
    _say(f"Run:    {result.folder}\nReport: {result.folder / 'report.html'}", as_json)
    if result.best is not None:
        _say(f"Ships:  {result.best.folder}", as_json)
    raise typer.Exit(0 if result.met else EXIT_NOT_MET)


def main() -> None:
    """The console script."""
    from laconic.display import forgiving_console

    forgiving_console()
    app()


if __name__ == "__main__":
    main()
