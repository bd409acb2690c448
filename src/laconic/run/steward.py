"""The far end of `fleet`: takes files over standard input into a fresh folder, runs a module there, passes on what it tells, and deletes the folder at last.

Sent as text and run by the Python of the other machine, before anything of Laconic is there: it imports the standard library alone, of Python 3.8 or later.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path

_POLL_S, _TAIL = 0.2, 4000
_OLDEST = (3, 10)  # Python that Laconic's modules are written for


def say(event: dict) -> None:
    """Send one line of JSON."""
    sys.stdout.write(json.dumps(event) + "\n")
    sys.stdout.flush()


def unpacked(files: list, folder: Path) -> None:
    """Write files of which name and size are told, in their order; none outside of the folder."""
    for name, size in files:
        path = (folder / name).resolve()
        if folder.resolve() not in path.parents:
            raise ValueError("a file outside of the folder: " + name)
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as handle:
            while size:
                block = sys.stdin.buffer.read(min(size, 1 << 20))
                if not block:
                    raise EOFError("the connection ended while files were sent")
                handle.write(block)
                size -= len(block)


def started(folder: Path, module: str) -> tuple:
    """Start the module with its plan and a descriptor for what it tells; everything that it writes lies in the folder."""
    scratch = folder / "scratch"
    scratch.mkdir()
    paths = os.pathsep.join(filter(None, [str(folder / "code"), os.environ.get("PYTHONPATH")]))
    environment = dict(os.environ, PYTHONPATH=paths, PYTHONDONTWRITEBYTECODE="1", TMPDIR=str(scratch))
    mine, its = os.pipe()
    with (folder / "log").open("wb") as log:
        child = subprocess.Popen(
            [sys.executable, "-m", module, str(folder / "plan.json"), str(its)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            pass_fds=(its,),
            cwd=str(folder),
            env=environment,
            start_new_session=True,
        )
    os.close(its)
    return child, mine


def relay(mine: int, deadline: float) -> str:
    """Pass on what comes until it ends; returns why it was ended before, or nothing."""
    while True:
        if time.monotonic() > deadline:
            return "limit"
        ready = select.select([mine, 0], [], [], _POLL_S)[0]
        if 0 in ready and not os.read(0, 1 << 16):
            return "gone"
        if mine in ready:
            data = os.read(mine, 1 << 16)
            if not data:
                return ""
            sys.stdout.buffer.write(data)
            sys.stdout.buffer.flush()


def end(child: subprocess.Popen) -> None:
    """End the module and what it started, and wait for it."""
    with contextlib.suppress(OSError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()


def delete(folder: Path) -> None:
    """Delete the folder; processes that end may write for a moment more."""
    for _ in range(50):
        shutil.rmtree(str(folder), ignore_errors=True)
        if not folder.exists():
            return
        time.sleep(0.1)


def serve() -> None:
    """Do what the header asks."""
    say({"kind": "hello", "python": sys.version.split()[0]})
    header = json.loads(sys.stdin.buffer.readline())
    deadline = time.monotonic() + header["limit_s"]
    lacking = [name for name in header["needs"] if find_spec(name) is None]
    if lacking or sys.version_info[:2] < _OLDEST:
        say({"kind": "end", "why": "lacks", "lacking": lacking})
        return
    folder = Path(tempfile.mkdtemp(prefix="laconic-fleet-"))
    child = None
    try:
        unpacked(header["files"], folder)
        child, mine = started(folder, header["module"])
        why = relay(mine, deadline)
        if why != "gone":
            code = None if why else child.wait()
            told = (folder / "log").read_bytes()[-_TAIL:].decode("utf-8", "replace")
            say({"kind": "end", "why": why, "code": code, "told": told})
    finally:
        if child is not None:
            end(child)
        delete(folder)


def leave(number: int, frame: object) -> None:
    """Leave by way of every `finally`."""
    sys.exit(1)


if __name__ == "__main__":
    for name in ("SIGHUP", "SIGTERM", "SIGINT"):
        signal.signal(getattr(signal, name), leave)
    serve()
