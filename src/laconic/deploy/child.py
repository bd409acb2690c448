"""A process that answers requests, one JSON object a line, on file descriptors that no library's prints can reach.

The parent gives each request a time limit and the process a memory limit; whichever way it ends, the parent hears a `WorkerFailed` with the reason and the last
lines that the process wrote. The process ends with its parent.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from laconic.core.errors import LaconicError, WorkerFailed
from laconic.core.memory import memory_of

_POLL_S = 0.1
_TAIL = 12


class Child:
    """The parent's side.

    Args:
        argv: the command; its module calls `answer_requests`.
        timeout_s: for each request.
        memory_limit_bytes: resident memory beyond which the process is ended; None sets no limit. Needs /proc.
        environment: variables beside the parent's.
    """

    def __init__(
        self, argv: Sequence[str], *, timeout_s: float, memory_limit_bytes: int | None = None, environment: Mapping[str, str] | None = None
    ) -> None:
        self.timeout_s, self.memory_limit_bytes = timeout_s, memory_limit_bytes
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed by close()
        requests, self._to = os.pipe()
        self._from, answers = os.pipe()
        self.started = time.monotonic()
        try:
            self._process = subprocess.Popen(
                [*argv, str(requests), str(answers)],
                stdin=subprocess.DEVNULL,
                stdout=self._errors,
                stderr=self._errors,
                pass_fds=(requests, answers),
                env={**os.environ, **(environment or {})},
                start_new_session=True,
            )
        finally:
            os.close(requests)
            os.close(answers)
        self._buffer = b""

    @property
    def alive(self) -> bool:
        """Whether it can be asked."""
        return self._process.poll() is None

    def ask(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Send a request and wait for its answer.

        Raises:
            WorkerFailed: the process crashed, took too long, used too much memory, or answered with an error.
        """
        try:
            os.write(self._to, json.dumps(request).encode() + b"\n")
        except BrokenPipeError:
            raise self._died() from None
        answer = json.loads(self._line())
        if "error" in answer:
            raise WorkerFailed(answer["error"], answer.get("kind", "error"))
        return dict(answer["answer"])

    def _line(self) -> bytes:
        deadline = time.monotonic() + self.timeout_s
        while b"\n" not in self._buffer:
            ready, _, _ = select.select([self._from], [], [], _POLL_S)
            if ready:
                data = os.read(self._from, 1 << 20)
                if not data:
                    raise self._died()
                self._buffer += data
            elif time.monotonic() > deadline:
                self._end()
                raise WorkerFailed(f"no answer within {self.timeout_s:g} s; it was ended{self._tail()}", "timeout")
            else:
                self._watch_memory()
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line

    def _watch_memory(self) -> None:
        used = memory_of(self._process.pid).get("rss_bytes")
        if self.memory_limit_bytes is not None and used is not None and used > self.memory_limit_bytes:
            self._end()
            raise WorkerFailed(
                f"it used {used / 1e9:.2f} GB of memory; {self.memory_limit_bytes / 1e9:.2f} GB are allowed{self._tail()}", "memory"
            )

    def _died(self) -> WorkerFailed:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(5)
        code = self._process.poll()
        if code is not None and code < 0:
            name = signal.Signals(-code).name
            why = f"it was killed by {name}" + (" (out of memory, if nobody else did it)" if name == "SIGKILL" else "")
            return WorkerFailed(why + self._tail(), "memory" if name == "SIGKILL" else "crash")
        return WorkerFailed(f"it ended with code {code}{self._tail()}", "crash")

    def _tail(self) -> str:
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").strip().splitlines()[-_TAIL:]
        return "; its last lines:\n  " + "\n  ".join(lines) if lines else ""

    def memory(self) -> dict[str, int]:
        """Its memory now; see `memory_of`."""
        return memory_of(self._process.pid)

    def _end(self) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def close(self) -> None:
        """End it and whatever it started, and wait until it is gone. It keeps no state, and files appear whole: nothing is lost by killing it."""
        for descriptor in (self._to, self._from):
            with contextlib.suppress(OSError):
                os.close(descriptor)
        self._end()
        self._errors.close()


def answer_requests(handle: Callable[[dict[str, Any]], Any], expected: type[Exception] = LaconicError) -> None:
    """The child's side: answer each request until the parent is gone. Descriptors are the last two arguments of the command."""
    _die_with_parent()
    requests, answers = (int(argument) for argument in sys.argv[-2:])
    with os.fdopen(requests, "r", encoding="utf-8") as incoming, os.fdopen(answers, "w", encoding="utf-8") as outgoing:
        for line in incoming:
            try:
                answer = {"answer": handle(json.loads(line))}
            except WorkerFailed as error:
                answer = {"error": str(error), "kind": error.kind}
            except expected as error:
                answer = {"error": str(error), "kind": "error"}
            except MemoryError as error:
                answer = {"error": f"out of memory: {error}", "kind": "memory"}
            except Exception as error:  # noqa: BLE001 - whatever a runtime raises is this candidate's failure and is reported
                answer = {"error": f"{type(error).__name__}: {error}", "kind": "error"}
            outgoing.write(json.dumps(answer) + "\n")
            outgoing.flush()


def _die_with_parent() -> None:
    if sys.platform != "linux":
        return
    import ctypes

    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
