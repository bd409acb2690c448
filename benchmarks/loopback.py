"""A second machine over loopback: a real sshd with keys, port and temporary folder of its own. For `benchmarks.fleet` and the tests of `run.fleet`."""

from __future__ import annotations

import contextlib
import getpass
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from laconic.run.fleet import Remote

SSHD = shutil.which("sshd") or next((path for path in ("/usr/sbin/sshd", "/usr/local/sbin/sshd") if Path(path).exists()), None)
SEPARATION = Path("/run/sshd")  # without which an sshd of root does not start
_PATIENCE_S = 20.0


class NoServer(Exception):
    """No sshd serves here; says why."""


@dataclass(frozen=True)
class Server:
    """A server that runs: how it is reached, its process, and where everything of it lies."""

    remote: Remote
    pid: int
    scratch: Path
    config: Path

    def left(self) -> list[str]:
        """What lies in its temporary folder, and processes that have it, given a moment to be cleared."""
        until = time.monotonic() + _PATIENCE_S
        while (names := [*(path.name for path in self.scratch.iterdir()), *self._processes()]) and time.monotonic() < until:
            time.sleep(0.05)
        return names

    def drop(self) -> None:
        """End the connections, not the server."""
        for line in Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text(encoding="ascii").split():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(line), signal.SIGKILL)

    def _processes(self) -> Iterator[str]:
        """Yield processes that were started there, by what stands in their environment."""
        mark = f"TMPDIR={self.scratch}".encode()
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if mark in (process / "environ").read_bytes():
                    yield f"process {process.name}"


@contextlib.contextmanager
def server(folder: Path, limit_s: float = 300.0) -> Iterator[Server]:
    """Serve from a folder until the context ends.

    Args:
        folder: for keys, configuration and what the other side writes.
        limit_s: of a measurement there.

    Raises:
        NoServer: there is no sshd, or it does not start.
    """
    if SSHD is None or shutil.which("ssh") is None or not sys.platform.startswith("linux"):
        raise NoServer("no sshd here: apt install openssh-server openssh-client")
    port = _written(folder)
    made = os.geteuid() == 0 and not SEPARATION.exists()
    if made:
        SEPARATION.mkdir()
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([SSHD, "-D", "-e", "-f", str(folder / "sshd_config")], stdout=log, stderr=log)
    try:
        remote = Remote("board", f"ssh -F {folder}/ssh_config", sys.executable, limit_s=limit_s)
        until = time.monotonic() + 30
        while subprocess.run([*remote.ssh.split(), "board", "true"], capture_output=True).returncode != 0:
            if process.poll() is not None or time.monotonic() > until:
                raise NoServer(f"sshd does not serve on port {port}: {(folder / 'log').read_text(encoding='utf-8')[-300:]}")
            time.sleep(0.1)
        yield Server(remote, process.pid, folder / "scratch", folder / "ssh_config")
    finally:
        process.kill()
        process.wait()
        if made:
            SEPARATION.rmdir()


def _written(folder: Path) -> int:
    """Write keys and both configurations; returns the port."""
    (folder / "scratch").mkdir()
    for name in ("host", "user"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)], check=True)
    shutil.copy(folder / "user.pub", folder / "authorized")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    lines = ("ListenAddress 127.0.0.1", f"Port {port}", f"HostKey {folder}/host", f"AuthorizedKeysFile {folder}/authorized", "StrictModes no",
             "UsePAM no", "PasswordAuthentication no", "PermitRootLogin yes", f"PidFile {folder}/pid", f"SetEnv TMPDIR={folder}/scratch")  # fmt: skip
    (folder / "sshd_config").write_text("\n".join(lines) + "\n", encoding="utf-8")
    lines = ("Host board", "HostName 127.0.0.1", f"Port {port}", f"User {getpass.getuser()}", f"IdentityFile {folder}/user", "IdentitiesOnly yes",
             f"UserKnownHostsFile {folder}/known", "StrictHostKeyChecking no", "LogLevel ERROR")  # fmt: skip
    (folder / "ssh_config").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return port
