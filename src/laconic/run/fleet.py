"""Time artifacts on another machine, reached by the user's own ssh: they and the few modules that time them go there into a folder that is gone afterwards.

One connection carries everything. The far end (`steward`) measures by itself, so that the network is in no figure, and ends itself when the connection does;
what was told until then is kept, and the next connection asks for the rest.
"""

from __future__ import annotations

import ast
import contextlib
import importlib.util
import json
import os
import select
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from laconic.core.errors import BadInput, LaconicError, WorkerFailed
from laconic.core.fields import check_types
from laconic.core.machine_record import MachineRecord, measurement_from_plain
from laconic.core.progress import Progress, silent
from laconic.core.records import to_json
from laconic.deploy import runtime as runtimes
from laconic.deploy.portable import Portable
from laconic.run.hardware import Event, Timing, folded

_MODULE, _NEEDS = "laconic.run.afar", ("numpy",)
_ROOT = "laconic"
_OPTIONS = ("-T", "-o", "BatchMode=yes", "-o", "ServerAliveInterval=10", "-o", "ServerAliveCountMax=3")
_FIRST = "import sys;b=sys.stdin.buffer;exec(compile(b.read(int(b.readline())),'steward','exec'))"
_POLL_S, _LINE = 0.2, 1 << 27
_PAUSE_S = 2.0  # before the next connection; longer each time
_SSH_FAILED = 255


@dataclass(frozen=True)
class Remote:
    """A machine.

    Args:
        host: as ssh knows it, with what the user's configuration says of it.
        ssh: the client and options of one's own, as typed: `ssh -F FILE -p 2222`.
        python: of the machine, with what the artifact's runtime needs installed, and nothing of Laconic.
        limit_s: for all connections together.
        attempts: connections that may break.

    Raises:
        BadInput: names what makes no sense.
    """

    host: str
    ssh: str = "ssh"
    python: str = "python3"
    limit_s: float = 3600.0
    attempts: int = 5

    def __post_init__(self) -> None:
        check_types(self, "a machine cannot be reached so:")
        if not self.host or self.host.startswith("-"):
            raise BadInput(f"'{self.host}' is not a host. Give one as ssh knows it: name, user@name, or a Host of ~/.ssh/config")
        if not self.limit_s > 0 or self.attempts < 1 or not shlex.split(self.ssh) or not self.python:
            raise BadInput(f"a machine cannot be reached so: {self!r}")

    @property
    def argv(self) -> list[str]:
        """The command that runs Python there."""
        home = self.python.startswith("~/")  # the shell there knows whose home it is, where it is not quoted
        python = f"~/{shlex.quote(self.python[2:])}" if home else shlex.quote(self.python)
        return [*shlex.split(self.ssh), *_OPTIONS, "--", self.host, f"exec {python} -c {shlex.quote(_FIRST)}"]


class _Dropped(LaconicError):
    """The connection ended before the measurement did."""


def record_on(
    remote: Remote,
    items: Mapping[str, Portable],
    timing: Timing,
    machine: str = "",
    progress: Progress = silent,
    on_event: Callable[[Event], None] = lambda event: None,
) -> MachineRecord:
    """Time artifacts on another machine and return its record. A connection that breaks is made again, and what was measured is kept.

    Args:
        remote: the machine.
        items: artifacts by a name for people.
        timing: how.
        machine: a name for it in the record; empty: what it calls itself.
        progress: told of connections and of what is known.
        on_event: called with each event.

    Raises:
        BadInput: it cannot be reached, or lacks something; an artifact that cannot travel.
        WorkerFailed: it took too long, or its end failed.
    """
    if sys.platform == "win32":
        raise BadInput("--on needs Linux, macOS or another POSIX system on both sides; record on that machine itself with --record")
    if timing.metering is not None and timing.metering.meter is not None:
        raise BadInput(
            f"--meter {timing.metering.meter} cannot be read with --on {remote.host}: a meter's file is read where the artifact runs, by the clock there. "
            "Record on that machine itself, --record FILE --meter FILE.csv, or by its own counters: --energy"
        )
    payload, deadline, events = _payload(items), time.monotonic() + remote.limit_s, list[Event]()
    progress.start(f"timing on {remote.host}", timing.rounds * len(timing.batches))
    for attempt in range(1, remote.attempts + 1):
        try:
            for event in _session(remote, items, timing, payload, events, deadline):
                events.append(event)
                on_event(event)
                for _ in range(event["rounds"] if event["kind"] == "times" else 0):
                    progress.advance()
            break
        except _Dropped as error:
            if attempt == remote.attempts:
                raise WorkerFailed(f"{remote.host}: {error}; {attempt} connections broke. Give the command again", "crash") from error
            progress.log(f"{remote.host}: {error}; connecting again")
            time.sleep(max(0.0, min(_PAUSE_S * attempt, deadline - time.monotonic())))
    progress.finish()
    return folded(events, items, timing, machine or remote.host)


def _session(
    remote: Remote,
    items: Mapping[str, Portable],
    timing: Timing,
    payload: Mapping[str, bytes | Path],
    known: Sequence[Event],
    deadline: float,
) -> Iterator[Event]:
    """Yield what one connection tells."""
    with tempfile.TemporaryFile() as errors:
        try:
            process = subprocess.Popen(remote.argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, start_new_session=True)
        except OSError as error:
            raise BadInput(f"'{remote.ssh}' cannot be started: {error.strerror}. Install an ssh client, or name yours: --ssh") from error
        try:
            yield from _Talk(process, remote, items, known, deadline, errors).follow(_messages(items, timing, payload, known, deadline))
        finally:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            for pipe in (process.stdin, process.stdout):
                with contextlib.suppress(OSError):
                    pipe.close()  # type: ignore[union-attr]


class _Talk:
    """One connection: what is sent, and what is told."""

    def __init__(
        self,
        process: subprocess.Popen[bytes],
        remote: Remote,
        items: Mapping[str, Portable],
        known: Sequence[Event],
        deadline: float,
        errors: Any,
    ) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._process, self._remote, self._items, self._known = process, remote, items, known
        self._deadline, self._errors = deadline, errors
        self._to, self._from = process.stdin.fileno(), process.stdout.fileno()
        os.set_blocking(self._to, False)
        self._buffer, self._hello = b"", False

    def follow(self, blocks: Iterator[bytes]) -> Iterator[Event]:
        """Send everything, then yield events until the far end says that it is done."""
        for block in blocks:
            if not self._sent(block):
                break
        while True:
            event = self._event()
            if event["kind"] == "hello":
                self._hello = True
            elif event["kind"] == "end":
                self._check_end(event)
                return
            else:
                yield checked(event, self._items)

    def _sent(self, data: bytes) -> bool:
        """Send, and return whether the other side takes it; where it does not, it has told why."""
        rest = memoryview(data)
        while rest:
            self._check_time()
            if select.select([], [self._to], [], _POLL_S)[1]:
                try:
                    rest = rest[os.write(self._to, rest) :]
                except BrokenPipeError:
                    return False
        return True

    def _event(self) -> Event:
        while b"\n" not in self._buffer:
            self._check_time()
            if select.select([self._from], [], [], _POLL_S)[0]:
                data = os.read(self._from, 1 << 20)
                if not data:
                    self._ended()
                self._buffer += data
                if len(self._buffer) > _LINE:
                    raise WorkerFailed(f"{self._remote.host} sent a line without end")
        line, _, self._buffer = self._buffer.partition(b"\n")
        try:
            event = json.loads(line)
            if not isinstance(event, dict) or not isinstance(event.get("kind"), str):
                raise ValueError("no event")
        except (ValueError, RecursionError) as error:
            told = line[:200].decode(errors="replace")
            raise BadInput(
                f"{self._remote.host} told something of its own, “{told}”: its shell must print nothing when a command is run (see ~/.bashrc there)"
            ) from error
        return event

    def _check_time(self) -> None:
        if time.monotonic() > self._deadline:
            raise WorkerFailed(
                f"{self._remote.host}: not done within {self._remote.limit_s:g} s; it was ended there. Give it longer: --time-limit",
                "timeout",
            )

    def _ended(self) -> None:
        """Say why the connection ended."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(5)
        code, told = self._process.poll(), self._tail()
        if self._hello or self._known:
            raise _Dropped(f"the connection ended{told}")
        if code == _SSH_FAILED or code is None:
            raise BadInput(f"{self._remote.host} cannot be reached{told}. Try it: {self._remote.ssh} {self._remote.host} true")
        raise BadInput(
            f"{self._remote.host} has no Python as '{self._remote.python}'{told}. Name the one that has the runtime: --python PATH"
        )

    def _tail(self) -> str:
        self._errors.seek(0)
        lines = self._errors.read()[-2000:].decode(errors="replace").strip().splitlines()
        return f" ({'; '.join(lines[-3:])})" if lines else ""

    def _check_end(self, event: Event) -> None:
        host, python = self._remote.host, self._remote.python
        if event.get("why") == "lacks":
            lacking = ", ".join(map(str, event.get("lacking") or ())) or "Python 3.10 or later"
            raise BadInput(f"{host}: '{python}' lacks {lacking}. Install it there, or name another Python: --python PATH")
        if event.get("why") == "limit":
            raise WorkerFailed(f"{host}: not done within the time limit; it was ended there. Give it longer: --time-limit", "timeout")
        if event.get("code") != 0:
            raise WorkerFailed(
                f"{host}: the measurement ended with code {event.get('code')}; its last lines:\n{str(event.get('told'))[-2000:]}", "crash"
            )


def checked(event: Event, items: Mapping[str, Portable]) -> Event:
    """Return an event of another machine, whose word is not taken for its shape.

    Raises:
        WorkerFailed: it is none.
    """
    shape = _SHAPES.get(event["kind"])
    if shape is None or not shape(event, items):
        raise WorkerFailed(f"the other machine told what is no event: {str(event)[:200]}")
    return event


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < float("inf")


def _are_times(event: Event, items: Mapping[str, Portable]) -> bool:
    times = event.get("times_ns")
    return (
        isinstance(times, dict)
        and set(times) <= set(items)
        and all(type(event.get(name)) is int and event[name] > 0 for name in ("batch", "rounds"))
        and isinstance(event.get("busy"), str)
        and all(
            isinstance(rounds, list)
            and all(isinstance(turn, list) and turn and all(type(ns) is int and ns > 0 for ns in turn) for turn in rounds)
            for rounds in times.values()
        )
    )


def _is_energy(event: Event, items: Mapping[str, Portable]) -> bool:
    try:
        measurement_from_plain(event, "energy_mj")
    except ValueError:
        return False
    return event.get("name") in items and type(event.get("batch")) is int


_SHAPES: Mapping[str, Callable[[Event, Mapping[str, Portable]], bool]] = {
    "machine": lambda event, items: isinstance(event.get("name"), str) and isinstance(event.get("environment"), dict),
    "failed": lambda event, items: event.get("name") in items and isinstance(event.get("why"), str),
    "started": lambda event, items: event.get("name") in items and _is_number(event.get("cold_start_ms")),
    "memory": lambda event, items: event.get("name") in items and (event.get("peak_bytes") is None or _is_number(event["peak_bytes"])),
    "times": _are_times,
    "energy": _is_energy,
}


def _messages(
    items: Mapping[str, Portable], timing: Timing, payload: Mapping[str, bytes | Path], known: Sequence[Event], deadline: float
) -> Iterator[bytes]:
    """Yield what the far end reads: the steward, the header, the plan, the files."""
    steward = Path(__file__).with_name("steward.py").read_bytes()
    yield f"{len(steward)}\n".encode() + steward
    told = [{name: event[name] for name in ("kind", "name", "batch", "rounds") if name in event} for event in known]
    targets = [{"name": name, "target": asdict(item.target), "trusted": item.trusted} for name, item in items.items()]
    plan = json.dumps(to_json({"items": targets, "timing": asdict(timing), "known": told})).encode()
    files = {"plan.json": plan, **payload}
    sizes = [(name, len(content) if isinstance(content, bytes) else content.stat().st_size) for name, content in files.items()]
    header = {"files": sizes, "module": _MODULE, "needs": _NEEDS, "limit_s": max(1.0, deadline - time.monotonic())}
    yield json.dumps(header).encode() + b"\n"
    for content in files.values():
        if isinstance(content, bytes):
            yield content
            continue
        with content.open("rb") as handle:
            while block := handle.read(1 << 20):
                yield block


def _payload(items: Mapping[str, Portable]) -> dict[str, bytes | Path]:
    """Return the files that are sent: modules, and each artifact's folder.

    Raises:
        BadInput: the runtime of one is another package's.
    """
    wanted = {_MODULE, "laconic.deploy.hold", "laconic.deploy.worker"}
    for name, item in items.items():
        module, _ = runtimes.TABLE.get(item.target.runtime, ("", ""))
        if not module:
            raise BadInput(
                f"{name} runs in {item.target.runtime}, which another package brings: time it on that machine itself with --record"
            )
        wanted.add(module)
    files: dict[str, bytes | Path] = {f"code/{path}": content for path, content in code(sorted(wanted)).items()}
    for index, item in enumerate(items.values()):
        files |= {f"artifacts/{index}/{path.name}": path for path in item.files}
    return files


def code(modules: Sequence[str]) -> dict[str, bytes]:
    """Return the source of Laconic's modules and of those that they import when they are imported, by path; packages on the way are those of Laconic."""
    found: dict[str, bytes] = {}
    waiting = list(modules)
    while waiting:
        module = waiting.pop()
        path = _source(module)
        if path is None or path in found:
            continue
        content = _read(module)
        found[path] = content
        waiting += [module.rpartition(".")[0], *_imported(content)]
    return found


def _source(module: str) -> str | None:
    """Return the path of a module within the folder that holds Laconic; None of what is no module of Laconic."""
    if module.partition(".")[0] != _ROOT:
        return None
    try:
        spec = importlib.util.find_spec(module)
    except ModuleNotFoundError:
        return None
    if spec is None or spec.origin is None:
        return None
    parts = module.split(".")
    return "/".join([*parts, "__init__.py"] if spec.submodule_search_locations is not None else [*parts[:-1], f"{parts[-1]}.py"])


def _read(module: str) -> bytes:
    spec = importlib.util.find_spec(module)
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).read_bytes()


def _imported(content: bytes) -> Iterator[str]:
    """Yield the names that a module imports at its top level: modules, and what may be modules in packages."""
    for node in ast.parse(content).body:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
