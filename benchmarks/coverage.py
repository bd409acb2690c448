"""What the pages of architectures share: each architecture in a process of its own, and rows that are kept, so that a run that was stopped goes on.

A page's rows lie in `LACONIC_BENCH` (`benchmarks/trained.py`), in `covered-PAGE.json`: `covered` computes those that are missing, `covered NAME …` computes
these anew, and `page` writes the page from what is there, the rest as not tried. Delete the file to begin anew.
"""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from pathlib import Path

from benchmarks import architectures, trained
from laconic.core.files import write_whole

NO = "no: "  # how a cell begins that does not hold
UNTRIED = "not tried"
Cells = Callable[[str], list[str]]


def covered(page: str, compute: Cells, columns: int, names: Sequence[str], limit_s: float) -> dict[str, list[str]]:
    """Return the cells of each architecture, and print them as they come.

    Args:
        page: names the file of rows.
        compute: the cells of an architecture.
        columns: how many these are; all of them say why, where a process ended without them.
        names: of architectures to compute anew; none: all that are missing.
        limit_s: seconds that one may take.
    """
    found = kept(page)
    for name in names or [name for name in architectures.ARCHITECTURES if name not in found]:
        found[name] = apart(compute, name, columns, limit_s)
        print(row(name, found[name]), flush=True)
        _file(page).parent.mkdir(parents=True, exist_ok=True)
        write_whole(_file(page), json.dumps(found, indent=1).encode())
    return {name: found[name] for name in names or architectures.ARCHITECTURES}


def kept(page: str) -> dict[str, list[str]]:
    """Return the rows that were computed."""
    return dict(json.loads(_file(page).read_text(encoding="utf-8"))) if _file(page).exists() else {}


def _file(page: str) -> Path:
    return trained.FOLDER / f"covered-{page}.json"


def apart(compute: Cells, name: str, columns: int, limit_s: float) -> list[str]:
    """Return the cells of one architecture, computed in a fork of this process, which has imported most of what it needs."""
    context = multiprocessing.get_context("fork")
    reader, writer = context.Pipe(duplex=False)
    child = context.Process(target=_tell, args=(compute, name, writer))
    child.start()
    writer.close()  # ours; the end of the fork's is then seen here
    try:
        if not reader.poll(limit_s):
            return [f"{NO}more than {limit_s:.0f} s"] * columns
        found: list[str] = reader.recv()
        return found
    except EOFError:
        child.join()
        return [f"{NO}its process ended with {child.exitcode}"] * columns
    finally:
        child.kill()
        child.join()


def _tell(compute: Cells, name: str, writer: Connection) -> None:
    writer.send(compute(name))


def row(name: str, cells: Sequence[str]) -> str:
    """Return a line of a table."""
    return f"| {' | '.join((name, *cells))} |"


def write_page(page: Path, head: str, titles: Sequence[str], rows: dict[str, list[str]]) -> None:
    """Write a page: its head, and a table with a line for each architecture, those without a row as not tried."""
    table = [row(name, rows.get(name, [UNTRIED] * len(titles))) for name in architectures.ARCHITECTURES]
    lines = [head, row("architecture", titles), row("---", ["---"] * len(titles)), *table]
    page.write_text("\n".join(lines) + "\n", encoding="utf-8")
