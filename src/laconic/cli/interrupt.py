"""Ctrl-C: a command ends within three seconds, what was finished is kept, and the message says how to go on. A second Ctrl-C ends it at once."""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import NoReturn

import typer

from laconic.core.errors import LaconicError

EXIT_INTERRUPTED = 130
_PATIENCE_S = 2.0  # for processes to be ended and the best so far to be written down


def command() -> str:
    """Return the command as it was typed."""
    return shlex.join(["laconic", *sys.argv[1:]])


def command_again(folder: Path) -> str:
    """Return the command that goes on with the run in a folder."""
    return command() if any(part.startswith("--out") for part in sys.argv) else f"{command()} --out {shlex.quote(str(folder))}"


def end_at_once() -> NoReturn:
    """End this process as interrupted, without the seconds that taking the interpreter and its libraries down may need; its children end with it."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(EXIT_INTERRUPTED)


@contextlib.contextmanager
def resumable(folder: Path) -> Iterator[None]:
    """On Ctrl-C, say what is the best so far and how to go on; also where a library turned the interruption into an error of its own, or holds it up."""
    guard = _Guard(folder)
    try:
        with guard:
            yield
    except BaseException:
        if not guard.pressed:
            raise
        guard.tell()
        raise typer.Exit(EXIT_INTERRUPTED) from None


class _Guard:
    """Watches Ctrl-C from a thread of its own, since the main one may be inside a library for long.

    The system writes the signal's number into a pipe at once; Python tells the main thread when it comes back from what it does.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.pressed, self._said = folder, 0, threading.Lock()

    def __enter__(self) -> None:
        self._from, self._to = os.pipe()
        os.set_blocking(self._to, False)
        self._before = signal.signal(signal.SIGINT, self._raise)
        self._wakeup = signal.set_wakeup_fd(self._to, warn_on_full_buffer=False)
        threading.Thread(target=self._watch, args=(self._from,), daemon=True).start()

    def __exit__(self, *error: object) -> None:
        signal.signal(signal.SIGINT, self._before)
        if not self.pressed:  # else it goes on watching: the process is about to end
            signal.set_wakeup_fd(self._wakeup)
            os.close(self._to)

    def _raise(self, number: int, frame: FrameType | None) -> None:
        self.pressed += 1
        raise KeyboardInterrupt

    def _watch(self, pipe: int) -> None:
        times = 0
        while numbers := os.read(pipe, 64):
            times += numbers.count(signal.SIGINT)
            if times > 1:
                os._exit(EXIT_INTERRUPTED)
            if times == 1:
                timer = threading.Timer(_PATIENCE_S, self._end)
                timer.daemon = True
                timer.start()
        os.close(pipe)

    def _end(self) -> None:
        """End a process that did not end by itself; its children end with it, and files appear whole."""
        self.tell()
        end_at_once()

    def tell(self) -> None:
        """Say it once."""
        if self._said.acquire(blocking=False):
            typer.echo(
                f"\nInterrupted. {_best_so_far(self.folder)}What was finished is kept; to go on: {command_again(self.folder)}", err=True
            )


def _best_so_far(folder: Path) -> str:
    """Return a sentence on the best of an interrupted run; empty where nothing passed yet."""
    from laconic.run.store import read_result

    try:
        result = read_result(folder)
    except LaconicError:
        return ""
    record = next((one for one in result.get("candidates", ()) if one["key"] == result.get("best")), None)
    if record is None or record["artifact"] is None:
        return ""
    return f"The best so far, {record['title']}, is in {folder / record['artifact']}. "
