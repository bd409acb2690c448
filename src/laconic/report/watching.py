"""A run looked at while it goes on: from its folder alone, or the URL where it is mirrored, what it does, and a page of what is known so far that reads itself
again. No server is needed.

The run itself writes `live.json` and `so_far.json` (`run.live`, `search.sofar`); whether a process still works in the folder is told by its lock.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from laconic.core.errors import BadInput, LaconicError
from laconic.core.files import read_json, write_whole
from laconic.core.progress import Progress, silent
from laconic.report.facts import facts
from laconic.report.page import draw, render
from laconic.report.steps import mapping, mappings
from laconic.report.units import clock, finite, fixed
from laconic.run.following import Look, following
from laconic.run.store import LIVE, MANIFEST, RESULT, SO_FAR

PAGE, EVERY_S = "watch.html", 10
_REST = 20  # times as long as a page took to make passes before the next: the run is measured on the same machine
RUNNING, FINISHED, STOPPED, ENDED = "running", "finished", "stopped", "ended"
_BADGES = {RUNNING: "Running", FINISHED: "Finished", STOPPED: "Stopped early", ENDED: "Ended without a result"}


@dataclass(frozen=True)
class State:
    """What a run does at a moment.

    Attributes:
        kind: `RUNNING`, `FINISHED`, `STOPPED` (by a time limit or Ctrl-C, with a result) or `ENDED` (killed: without one).
        name: of its folder.
        live: the content of `live.json`; empty where there is none.
        result: the content of `result.json`, or of `so_far.json` while there is none; None where neither is there.
        every_s: seconds between two readings of the page.
        now_s: seconds since the epoch.
    """

    kind: str
    name: str
    live: Mapping[str, Any]
    result: Mapping[str, Any] | None
    every_s: int
    now_s: float

    @property
    def running(self) -> bool:
        """Whether it goes on."""
        return self.kind == RUNNING

    @property
    def badge(self) -> str:
        """The kind in words."""
        return _BADGES[self.kind]

    @property
    def headline(self) -> str:
        """How far it is, in a sentence."""
        rows = mappings(self.live.get("rows"))
        if not self.running:
            ended = {FINISHED: "The run is finished.", STOPPED: str(mapping((self.result or {}).get("stopped")).get("told") or "")}
            return ended.get(self.kind) or "No process works in the folder, and there is no result. Give the run's command again to go on."
        if not rows:
            return "Getting ready: no candidate is known yet."
        last, known = rows[-1], fixed(len(rows), 0)
        total = finite(last.get("total"))
        told = f"{known} of {fixed(total, 0)} candidates are known" if total else f"{known} candidates are known"
        best = last.get("best")
        return f"{told}; the best so far: {best}." if best else f"{told}; none passed yet."

    @property
    def lines(self) -> tuple[str, ...]:
        """What it does just now, a line for each thing."""
        return tuple(self._lines()) if self.running else ()

    def _lines(self) -> Iterator[str]:
        if self.live.get("now"):
            yield f"Now: {self.live['now']}"
        for piece in mappings(self.live.get("stack")):
            done, total = finite(piece.get("done")), finite(piece.get("total"))
            far = f" {fixed(min(done, total), 0)} of {fixed(total, 0)}" if done is not None and total else ""
            figures = ", ".join(f"{name} {_told(value)}" for name, value in mapping(piece.get("facts")).items())
            yield f"{str(piece.get('name')).capitalize()}{far}{': ' + figures if figures else ''}"
        if (left_s := self.left_s) is not None:
            yield f"Time left: {clock(left_s)}"

    @property
    def left_s(self) -> float | None:
        """Seconds until its time limit; None where there is none."""
        rows = mappings(self.live.get("rows"))
        left_s, at = (finite(rows[-1].get(name)) for name in ("left_s", "at")) if rows else (None, None)
        return None if left_s is None or at is None else max(0.0, left_s - (self.now_s - at))


def _told(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def state(place: str | Path, every_s: int = EVERY_S, now_s: float | None = None) -> State:
    """Return what the run in a folder or at a URL does.

    Raises:
        BadInput: no run is there.
    """
    return _state(place, *following(place), every_s, now_s)


def _state(place: str | Path, folder: Path, look: Look, every_s: int, now_s: float | None = None) -> State:
    busy = look()
    if not (folder / MANIFEST).exists():
        raise BadInput(f"{place} holds no run. `laconic optimize TASK --out {place}` makes one there.")
    live = _read(folder / LIVE) or {}
    # A run that goes on has the result of an earlier call until it has its own; one that has its own takes the other two away.
    so_far, result = _read(folder / SO_FAR), _read(folder / RESULT)
    goes_on = bool(live) if busy is None else busy
    if goes_on:
        kind = RUNNING
    elif result is None or live:
        kind = ENDED
    else:
        kind = STOPPED if result.get("stopped") else FINISHED
    shown = result if kind in (FINISHED, STOPPED) else so_far or result
    return State(kind, Path(place).name or folder.name, live, shown, every_s, time.time() if now_s is None else now_s)


def _read(path: Path) -> dict[str, Any] | None:
    """Return a mapping that is there and whole; it may be taken away at any moment."""
    try:
        made = read_json(path) if path.exists() else None
    except LaconicError:
        return None
    return made if isinstance(made, dict) else None


def page(now: State) -> str:
    """Return the page of a state: the report of what is known so far, with what the run does above it; a few lines where nothing is known."""
    if now.result is not None:
        return draw(facts(now.result), now if now.kind in (RUNNING, ENDED) else None)
    return render("waiting.html", None, live=now)


def page_of(place: str | Path, to: Path | None = None) -> Path:
    """Return where the page of a run is written, unless `to` says so."""
    return Path(to) if to is not None else following(place)[0] / PAGE


def watch(
    place: str | Path,
    to: Path | None = None,
    progress: Progress = silent,
    every_s: int = EVERY_S,
    sleep: Callable[[float], None] = time.sleep,
) -> dict[str, Any]:
    """Follow a run until it ends: tell its candidates and stages, and write its page whenever something changed.

    Args:
        place: the folder of the run, which another process carries out, or the URL where it is mirrored; one that has ended is told and drawn once.
        to: the page; `watch.html` in the run's folder by default, of a URL in the folder here that follows it.
        progress: is told what the run tells.
        every_s: seconds between two looks; more where making the page takes long, for the run is measured on the same machine.
        sleep: waits.

    Returns:
        ``kind`` (``finished``, ``stopped`` by a time limit or Ctrl-C, ``ended`` without a result), ``page``, and ``result``: the last that is known.

    Raises:
        BadInput: no run is there.
    """
    folder, look = following(place)
    target = page_of(folder, to)
    told, drawn = _Told(progress), ""
    while True:
        start = time.perf_counter()
        now = _state(place, folder, look, every_s)
        told.tell(now)
        text = page(now)
        if text != drawn:
            write_whole(target, text)
            drawn = text
        if not now.running:
            told.end()
            return {"kind": now.kind, "page": str(target), "result": now.result}
        sleep(max(every_s, _REST * (time.perf_counter() - start)))


class _Told:
    """Tells a `Progress` what is new in a state: candidates, lines, and pieces of work that began or ended."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._open: list[tuple[str, int]] = []
        self._rows, self._log = 0, list[str]()

    def tell(self, now: State) -> None:
        """Tell what is new."""
        log = [str(line) for line in now.live.get("log") or ()]
        for line in _news(self._log, log):
            self._progress.log(line)
        self._log = log or self._log
        stack = [(str(piece.get("name")), piece) for piece in mappings(now.live.get("stack"))]
        alike = next(
            (n for n, ((a, _), (b, _)) in enumerate(zip(self._open, stack, strict=False)) if a != b), min(len(self._open), len(stack))
        )
        self._finish(alike)
        for place, (name, piece) in enumerate(stack):
            done = int(finite(piece.get("done")) or 0)
            if place >= alike:
                self._progress.start(name, int(finite(piece.get("total")) or 0))
                self._open.append((name, 0))
            if place == len(stack) - 1 and done > self._open[place][1]:
                self._progress.advance(done - self._open[place][1], **mapping(piece.get("facts")))
            self._open[place] = (name, done)
            if place == 0:
                self._candidates(now)

    def _candidates(self, now: State) -> None:
        rows = mappings(now.live.get("rows"))
        self._rows = min(self._rows, len(rows))  # the run was begun anew
        for row in rows[self._rows :]:
            facts = {name: value for name, value in row.items() if name != "at"}
            if "left_s" in facts and finite(row.get("at")) is not None:
                facts["left_s"] = max(0.0, facts["left_s"] - (now.now_s - row["at"]))
            self._progress.advance(0, **facts)
        self._rows = len(rows)

    def _finish(self, kept: int) -> None:
        while len(self._open) > kept:
            self._progress.finish()
            self._open.pop()

    def end(self) -> None:
        """End what is open."""
        self._finish(0)


def _news(before: list[str], now: list[str]) -> list[str]:
    """Return the lines that were added to the last ones.

    >>> _news(["a", "b"], ["a", "b", "c"]), _news(["a", "b"], ["b", "c"]), _news([], ["a"])
    (['c'], ['c'], ['a'])
    """
    for start in range(len(before) + 1):
        same = before[start:]
        if now[: len(same)] == same:
            return now[len(same) :]
    return now
