"""A process that answers requests, one JSON object a line, on file descriptors that no library's prints can reach.

A request may bring a payload of bytes behind its line; before its answer, the process may send events. The parent gives each request a time limit and the
process a memory limit; whichever way it ends, the parent hears a `WorkerFailed` with the reason and the last lines that the process wrote. The process ends
with its parent, and what it started with it (`hold`).
"""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

from laconic.core.errors import LaconicError, WorkerFailed
from laconic.core.memory import available_bytes, memory_of, oom_kills
from laconic.deploy.hold import PARENT, hold
from laconic.deploy.warned import warn, warnings_told

_PAYLOAD = "payload_bytes"  # the entry of a request that tells how many bytes follow its line
_POLL_S = 0.1
_TAIL, _TAIL_BYTES = 12, 1 << 16  # lines that are told, and where they are looked for
_PATIENCE = 3.0  # so many times its limit a process that others keep from the cores may go on
_SHARE = 0.8  # of the memory that there is
# Signals by which others end a process; its own faults raise others (SIGSEGV, SIGABRT, SIGFPE, …).
_OTHERS = ("SIGKILL", "SIGTERM", "SIGINT", "SIGHUP", "SIGQUIT")


class Child:
    """The parent's side.

    Args:
        argv: the command; its module calls `answer_requests`.
        timeout_s: for each request. Time in which the process was ready to work and had no core does not count, up to three times the limit.
        memory_limit_bytes: resident memory beyond which the process is ended; None: four fifths of what there is when it starts. Needs /proc.
        environment: variables beside the parent's.
    """

    def __init__(
        self, argv: Sequence[str], *, timeout_s: float, memory_limit_bytes: int | None = None, environment: Mapping[str, str] | None = None
    ) -> None:
        self.timeout_s = timeout_s
        self.memory_limit_bytes = memory_limit_bytes if memory_limit_bytes is not None else _default_limit()
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed by close()
        requests, self._to = os.pipe()
        self._from, answers = os.pipe()
        self.started, self._oom_kills = time.monotonic(), oom_kills()
        try:
            self._process = subprocess.Popen(
                [*argv, str(requests), str(answers)],
                stdin=subprocess.DEVNULL,
                stdout=self._errors,
                stderr=self._errors,
                pass_fds=(requests, answers),
                env={**os.environ, **_paths(), **(environment or {}), PARENT: str(os.getpid())},
                start_new_session=True,
            )
        finally:
            os.close(requests)
            os.close(answers)
        os.set_blocking(self._to, False)  # a process that reads nothing is held to its time limit, however much is sent
        self._buffer = b""
        self._memory_read = self._waited_before = 0.0
        self._paused_since: float | None = None
        self._paused_s = self._paused_before = 0.0
        self.killed = False  # something else ended it, and that was noticed
        self._broken = ""  # the limit for which it was ended

    @property
    def alive(self) -> bool:
        """Whether it can be asked."""
        return self._process.poll() is None

    def ask(
        self, request: Mapping[str, Any], payload: bytes = b"", on_event: Callable[[Any], None] | None = None, *, events_renew: bool = False
    ) -> dict[str, Any]:
        """Send a request and wait for its answer.

        Args:
            request: plain values.
            payload: bytes that the process gets as `Channel.payload`.
            on_event: called with what the process sends before its answer; without it that is dropped.
            events_renew: each event is given the whole time limit anew.

        Raises:
            WorkerFailed: the process crashed, took too long, used too much memory, or answered with an error.
        """
        deadline = self._deadline()
        self._waited_before = waited_s(self._process.pid)
        self._send(json.dumps({**request, _PAYLOAD: len(payload)} if payload else dict(request)).encode() + b"\n", deadline)
        self._send(payload, deadline)
        while not ("answer" in (message := json.loads(self._line(deadline))) or "error" in message):
            if "warning" in message:
                warn(message["warning"])
            elif on_event is not None:
                on_event(message["event"])
            if events_renew:
                deadline = self._deadline()
            self._check_limits(deadline)
        if "error" in message:
            raise WorkerFailed(message["error"], message.get("kind", "error"))
        return dict(message["answer"])

    def _send(self, data: bytes, deadline: float) -> None:
        rest = memoryview(data)
        while rest:
            try:
                rest = rest[os.write(self._to, rest) :]
            except BrokenPipeError:
                raise self._died() from None
            except BlockingIOError:
                select.select([], [self._to], [], _POLL_S)
                if not self.alive:
                    raise self._died() from None
                self._check_limits(deadline)

    def _line(self, deadline: float) -> bytes:
        while b"\n" not in self._buffer:
            gone = not self.alive  # looked at before the pipe, which holds what it wrote last, and which what it started may keep open
            ready, _, _ = select.select([self._from], [], [], 0 if gone else _POLL_S)
            if ready:
                data = os.read(self._from, 1 << 20)
                if not data:
                    raise self._died()
                self._buffer += data
            elif gone:
                raise self._died()
            else:
                self._check_limits(deadline)
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line

    def _check_limits(self, deadline: float) -> None:
        """End a process that is beyond its time or its memory; the latter is read no more often than the pipes are polled."""
        now = time.monotonic() - (self._paused_now() - self._paused_before)
        if now > deadline and now > deadline + min(waited_s(self._process.pid) - self._waited_before, _PATIENCE * self.timeout_s):
            self._broken = "timeout"
            self._end()
            raise WorkerFailed(f"no answer within {self.timeout_s:g} s; it was ended{self._tail()}", "timeout")
        now = time.monotonic()
        if self.memory_limit_bytes is None or now < self._memory_read + _POLL_S:
            return
        self._memory_read = now
        used = memory_of(self._process.pid).get("rss_bytes")
        if used is not None and used > self.memory_limit_bytes:
            self._broken = "memory"
            self._end()
            raise WorkerFailed(
                f"it used {used / 1e9:.2f} GB of memory; {self.memory_limit_bytes / 1e9:.2f} GB are allowed{self._tail()}", "memory"
            )

    def _deadline(self) -> float:
        """Return when its time is over, of the time in which it is not paused from now on."""
        self._paused_before = self._paused_now()
        return time.monotonic() + self.timeout_s

    def _paused_now(self) -> float:
        """Return for how long it has been paused, in seconds."""
        since = self._paused_since
        return self._paused_s + (0.0 if since is None else time.monotonic() - since)

    def pause(self) -> None:
        """Stop it and what it started until `resume`, and wait until they stand still. The time does not count against its limit."""
        if self._paused_since is not None or not self.alive:
            return
        self._paused_since = time.monotonic()
        for pid in signal_group(self._process.pid, signal.SIGSTOP):
            _wait_stopped(pid)

    def resume(self) -> None:
        """Let it go on."""
        if self._paused_since is None:
            return
        if self.alive:
            signal_group(self._process.pid, signal.SIGCONT)
        self._paused_s, self._paused_since = self._paused_now(), None

    def kill(self) -> None:
        """End it and whatever it started. Whoever waits for its answer hears of it, and closes it."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)

    def _died(self) -> WorkerFailed:
        """Say how it ended; whatever it left running is ended too."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(5)
        code = self._process.poll()
        self._end()
        if code is None or code >= 0:
            return WorkerFailed(f"it ended with code {code}{self._tail()}", "crash")
        name = signal.Signals(-code).name
        if self._broken:
            return WorkerFailed(f"it was ended before, for its limit of {self._broken}{self._tail()}", self._broken)
        if name not in _OTHERS:
            return WorkerFailed(f"it was killed by {name}{self._tail()}", "crash")
        self.killed = True
        return WorkerFailed(f"it was killed by {name}{self._who(name)}{self._tail()}", "killed")

    def _who(self, name: str) -> str:
        """Say whether the system ended it for want of memory, as far as that can be told."""
        now = oom_kills()
        if name != "SIGKILL":
            return ""
        if now is None or self._oom_kills is None:
            return " (out of memory, if nobody else did it)"
        return ": the machine ran out of memory" if now > self._oom_kills else " by another process"

    def _tail(self) -> str:
        self._errors.seek(max(0, os.fstat(self._errors.fileno()).st_size - _TAIL_BYTES))
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        return "; its last lines:\n  " + "\n  ".join(telling(lines)) if lines else ""

    def memory(self) -> dict[str, int]:
        """Return its memory now; see `memory_of`."""
        return memory_of(self._process.pid)

    def _end(self) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def close(self) -> None:
        """End it and whatever it started, and wait until it is gone. It keeps no state, and files appear whole: nothing is lost by killing it.

        Closed again, nothing happens: its descriptors may be somebody else's by then.
        """
        if self._errors.closed:
            return
        for descriptor in (self._to, self._from):
            with contextlib.suppress(OSError):
                os.close(descriptor)
        self._end()
        self._errors.close()


def signal_group(leader: int, number: signal.Signals) -> list[int]:
    """Send a signal to a leader of a group and to those of the group whose parent is in it, the leader first; returns whom it was sent to.

    Who waits for the leader's end on behalf of all (`hold`) is nobody's child there, and gets none.
    """
    sent: list[int] = []
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(leader, number)
        sent.append(leader)
    group = {pid: parent for pid, parent, of in _processes() if of == leader}
    for pid in [pid for pid, parent in group.items() if pid != leader and parent in group]:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, number)
            sent.append(pid)
    return sent


def _processes() -> Iterator[tuple[int, int, int]]:
    """Yield number, parent and group of each process; nothing where the system has no /proc."""
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError, IndexError, ValueError):
            told = path.read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
            yield int(path.parent.name), int(told[1]), int(told[2])


def _wait_stopped(pid: int) -> None:
    """Wait a moment until a process that was told to stop has done so."""
    until = time.monotonic() + _POLL_S * 10
    while time.monotonic() < until:
        try:
            state = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[0]
        except (OSError, IndexError):
            return
        if state in "TtZX":
            return
        time.sleep(0.001)


def _default_limit() -> int | None:
    free = available_bytes()
    return None if free is None else int(_SHARE * free)


def telling(lines: Sequence[str]) -> list[str]:
    """Return the last lines that a process wrote; of a crash or a hang that Python wrote down, where it was.

    >>> telling(["Fatal Python error: Aborted", "", "Current thread 0x1 (most recent call first):", '  File "a.py", line 2 in f', "", "Extension modules: a"])
    ['Fatal Python error: Aborted', 'Current thread 0x1 (most recent call first):', '  File "a.py", line 2 in f']
    """
    crash = next((index for index, line in enumerate(lines) if line.startswith(("Fatal Python error:", "Timeout ("))), None)
    if crash is None:
        return list(lines[-_TAIL:])
    return list(
        itertools.takewhile(lambda line: not line.startswith("Extension modules:"), [line for line in lines[crash:] if line][:_TAIL])
    )


def waited_s(pid: int) -> float:
    """Return for how long the thread of a process that waited most for a core has done so, in seconds; 0 where the system does not tell."""
    waited_ns = [0]
    for path in Path(f"/proc/{pid}/task").glob("*/schedstat"):
        with contextlib.suppress(OSError, IndexError, ValueError):  # the thread ended, or the kernel keeps no such file
            waited_ns.append(int(path.read_text(encoding="ascii").split()[1]))
    return max(waited_ns) / 1e9


def _paths() -> dict[str, str]:
    """Return PYTHONPATH without its empty entries, which stand for the current folder."""
    paths = os.environ.get("PYTHONPATH")
    return {} if paths is None else {"PYTHONPATH": os.pathsep.join(filter(None, paths.split(os.pathsep)))}


class Channel:
    """What the child's side has beside the request itself: the bytes that came with it, and a way to send events before the answer."""

    def __init__(self, payload: bytes, outgoing: TextIO) -> None:
        self.payload, self._outgoing = payload, outgoing

    def send(self, event: Any) -> None:
        """Send plain values to the parent's `on_event`."""
        self.write({"event": event})

    def warn(self, told: Any) -> None:
        """Send a warning of the user's code, as of `warned.warnings_told`."""
        self.write({"warning": told})

    def write(self, message: Mapping[str, Any]) -> None:
        """Write one line."""
        self._outgoing.write(json.dumps(message) + "\n")
        self._outgoing.flush()


def answer_requests(handle: Callable[[dict[str, Any], Channel], Any], expected: type[Exception] = LaconicError) -> None:
    """Answer each request until the parent is gone: the child's side. Descriptors are the last two arguments of the command."""
    hold()
    requests, answers = (int(argument) for argument in sys.argv[-2:])
    with io.FileIO(requests) as raw, io.BufferedReader(raw) as incoming, os.fdopen(answers, "w", encoding="utf-8") as outgoing:
        while line := incoming.readline():
            request = json.loads(line)
            channel = Channel(incoming.read(request.pop(_PAYLOAD, 0)), outgoing)
            with warnings_told(channel.warn):
                answer = _answer(lambda request=request, channel=channel: handle(request, channel), expected)  # type: ignore[misc]
            channel.write(answer)


def _answer(work: Callable[[], Any], expected: type[Exception]) -> dict[str, Any]:
    """Return the answer, or what was raised instead."""
    try:
        return {"answer": work()}
    except WorkerFailed as error:
        return {"error": str(error), "kind": error.kind}
    except expected as error:
        return {"error": str(error), "kind": "error"}
    except MemoryError as error:
        return {"error": f"out of memory: {error}", "kind": "memory"}
    except BaseException as error:  # noqa: BLE001 - whatever a candidate raises is its failure and is reported
        return {"error": f"{type(error).__name__}: {error}", "kind": "error"}
