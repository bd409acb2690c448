"""The commands that read finished runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from laconic.cli.app import app
from laconic.cli.budget import BudgetOptions, takes_budget
from laconic.cli.options import JsonOption, MlflowOption, QuietOption
from laconic.cli.output import EXIT_FAILED, display, finish, guarded, say, show, summary


@app.command()
def report(
    run: Annotated[str | None, typer.Argument(metavar="RUN", help="A finished run's folder, or the URL where it is mirrored.")] = None,
    to: Annotated[Path | None, typer.Option("--to", help="Where to write the page. [default: RUN/report.html]")] = None,
    both: Annotated[
        tuple[str, str] | None,
        typer.Option("--compare", metavar="RUN RUN", help="Two finished runs side by side; --to writes a page of it."),
    ] = None,
    mlflow: MlflowOption = False,
    as_json: JsonOption = False,
) -> None:
    """Write a finished run's report again and print its summary; or show two runs side by side.

    Example: laconic report --compare laconic-runs/A laconic-runs/B
    """
    if both is not None:
        return _side_by_side(run, both, to, as_json)

    def work() -> tuple[dict[str, Any], Any]:
        from laconic.core.errors import BadInput
        from laconic.core.reading import reading
        from laconic.report.page import write_page
        from laconic.report.tracking import log_to_mlflow
        from laconic.run.mirror import read_here
        from laconic.run.store import RESULT, read_result

        if run is None:
            raise BadInput("give the folder of a finished run (`laconic runs` lists them), or two of them with --compare")
        folder = read_here(run)
        result = read_result(folder)
        with reading(folder / RESULT, "a run's result", "Delete it and give the run's command again; what was measured is kept."):
            drawn = None if as_json else summary(result)
            page = str(write_page(result, to or folder / "report.html"))
        logged = {"mlflow": log_to_mlflow(folder, result)} if mlflow else {}
        return {"report": page, "result": result, **logged}, drawn

    result, drawn = guarded(work)
    show(result, as_json, lambda: drawn)
    say(f"Report: {result['report']}", as_json)
    if mlflow:
        say(f"MLflow: {result['mlflow']}", as_json)


def _side_by_side(third: str | None, both: tuple[str, str], to: Path | None, as_json: bool) -> None:
    def work() -> Any:
        from laconic.core.errors import BadInput
        from laconic.report.side_by_side import side_by_side, write_page
        from laconic.run.mirror import read_here

        if third is not None:
            raise BadInput(f"--compare takes two runs and nothing else; {third} is a third")
        result = side_by_side(*map(read_here, both))
        return result, None if to is None else write_page(result, to)

    result, page = guarded(work)

    def table() -> Any:
        from laconic.report.side_by_side import table as drawn

        return drawn(result)

    show(result, as_json, table)
    if page is not None:
        say(f"Report: {page}", as_json)


@app.command()
@takes_budget
def pick(
    run: Annotated[str, typer.Argument(metavar="RUN", help="A finished run's folder, or the URL where it is mirrored.")],
    budget: BudgetOptions,
    to: Annotated[Path | None, typer.Option("--to", help="Write the page of this answer.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Answer another budget from a finished run, without computing.

    Example: laconic pick laconic-runs/A --max-drop 1
    """

    def work() -> tuple[Any, Path | None]:
        import laconic as lc

        found = lc.pick(run, lc.Budget.from_plain(budget))
        return found, None if to is None else found.report(to)

    result, page = guarded(work)
    finish(result, as_json, page=page)


@app.command()
def watch(
    run: Annotated[
        str, typer.Argument(metavar="RUN", help="The folder of a run that goes on in another process, or the URL where it is mirrored.")
    ],
    to: Annotated[Path | None, typer.Option("--to", help="Where to write the page. [default: RUN/watch.html]")] = None,
    every: Annotated[int, typer.Option("--every", min=1, help="Seconds between two looks at the folder.")] = 10,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Follow a run from its folder: candidates as they become known here, and a page of what is known so far that reads itself again. Ends with the run.

    Example: laconic watch laconic-runs/A
    """

    def work() -> dict[str, Any]:
        from laconic.report.watching import page_of, state, watch

        state(run)
        say(f"Page:   {page_of(run, to)}", True)
        with display(quiet or as_json) as progress:
            return watch(run, to, progress, every)

    result = guarded(work)
    known = result["result"]
    show(result, as_json, lambda: "" if known is None else summary(known))
    say(f"The run is {result['kind']}. Page: {result['page']}", as_json)
    raise typer.Exit(EXIT_FAILED if result["kind"] == "ended" else 0)


@app.command()
def hardware(
    records: Annotated[
        list[Path], typer.Argument(metavar="RECORD.json…", help="What `laconic bench ARTIFACT --record` wrote on each machine.")
    ],
    to: Annotated[Path | None, typer.Option("--to", "--out", help="Write a page of it.")] = None,
    prices: Annotated[
        Path | None,
        typer.Option("--prices", help="TOML file with prices, a table for each machine by its name in the records; see docs/cost.md."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Show artifacts on many machines: latency by batch, throughput, energy, money, cold start, beside what each machine is.

    Example: laconic bench model --record laptop.json; laconic hardware laptop.json server.json
    """

    def work() -> Any:
        from laconic.core.machine_record import MachineRecord
        from laconic.core.records import to_json
        from laconic.report.hardware import hardware, write_page

        read = [MachineRecord.read(path) for path in records]
        if prices is not None:
            from laconic.run.hardware import priced_by_name
            from laconic.run.prices import read_prices

            read = priced_by_name(read, read_prices(prices))
        found = hardware(read)
        if to is not None:
            write_page(found, to)
        return to_json(read), found

    result, found = guarded(work)

    def table() -> Any:
        from laconic.report.hardware import table as drawn

        return drawn(found)

    show(result, as_json, table)
    if to is not None:
        say(f"Page: {to}", as_json)


@app.command()
def runs(
    folder: Annotated[
        str | None, typer.Argument(metavar="FOLDER", help="Where the runs are: a folder or a URL. [default: laconic-runs]")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """List the runs in a folder, the latest first: task, budget, how it ended, what won, its speed-up and drop."""

    def work() -> list[dict[str, Any]]:
        from laconic.report.runs import DEFAULT, runs
        from laconic.run.mirror import Mirror, is_url, read_here

        if folder is None or not is_url(folder):
            return runs(Path(folder or DEFAULT))
        found = [(url, read_here(url)) for url in Mirror(folder).runs()]
        rows = [(url, str(here), runs(here)[0]) for url, here in found]
        there = [{**row, "folder": url, "artifact": row["artifact"].replace(here, url, 1)} for url, here, row in rows]
        return sorted(there, key=lambda row: row["when"], reverse=True)

    result = guarded(work)

    def table() -> Any:
        from laconic.report.runs import listing

        return listing(result)

    show(result, as_json, table)
