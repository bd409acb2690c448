"""One folder per run. Files appear whole, are never computed twice, and belong to one process at a time."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from laconic.core.errors import BadInput, CorruptFile, LaconicError, Locked
from laconic.core.files import read_json, write_json
from laconic.core.records import to_json

FORMAT = 2
MANIFEST = "run.json"
RESULT = "result.json"


class RunStore:
    """A run's folder, locked while it is open.

    Args:
        folder: made if it is missing.
        manifest: what the run is (task, budget, options). A folder that holds another run is refused, one that holds this run is continued.

    Raises:
        Locked: another process works in the folder; names it.
        BadInput: the folder holds another run, or something else.
        CorruptFile: the manifest is of a newer format or not whole.
    """

    def __init__(self, folder: Path, manifest: Mapping[str, Any]) -> None:
        self.folder = Path(folder)
        self.manifest = to_json(manifest)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock = _lock(self.folder)
        except OSError as error:
            raise LaconicError(f"cannot use the run folder {self.folder}: {error.strerror or error}. Choose another with --out.") from error
        try:
            self._open()
        except BaseException:
            self.close()
            raise

    def _open(self) -> None:
        for leftover in self.folder.rglob(".writing-*"):
            leftover.unlink(missing_ok=True)
        if self.has(MANIFEST):
            check_manifest(self.folder, self.manifest)
            return
        strangers = [item.name for item in self.folder.iterdir() if item.name != "lock"]
        if strangers:
            raise BadInput(f"{self.folder} is not empty and holds no run (it has {strangers[0]}). Choose a new folder with --out.")
        self.write(MANIFEST, {"format": FORMAT, "run": self.manifest})

    @property
    def resumed(self) -> bool:
        """Whether anything beyond the manifest is there already."""
        return any(item.name not in ("lock", MANIFEST) for item in self.folder.iterdir())

    def path(self, *parts: str) -> Path:
        """Return a path inside the folder."""
        return self.folder.joinpath(*parts)

    def has(self, name: str) -> bool:
        """Return whether a file is there; since files appear whole, it is then complete."""
        return self.path(name).exists()

    def read(self, name: str) -> Any:
        """Read a JSON file."""
        return read_json(self.path(name))

    def write(self, name: str, value: Any) -> Any:
        """Write records as JSON, whole; returns them as plain values."""
        write_json(self.path(name), value)
        return to_json(value)

    def once(self, name: str, compute: Callable[[], Any]) -> Any:
        """Return the content of a JSON file, computed only if it is not there."""
        return self.read(name) if self.has(name) else self.write(name, compute())

    def close(self) -> None:
        """Let others in."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def __enter__(self) -> RunStore:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def check_manifest(folder: Path, manifest: Any) -> None:
    """Refuse a folder that holds another run or a newer format."""
    present = read_json(folder / MANIFEST)
    if not isinstance(present, dict) or "format" not in present:
        raise CorruptFile(f"{folder / MANIFEST} is not a run's manifest. Choose a new folder with --out.")
    if present["format"] > FORMAT:
        raise CorruptFile(
            f"{folder} was written in run format {present['format']}; this Laconic reads up to {FORMAT}. Install a newer Laconic."
        )
    differing = sorted(key for key in {*present["run"], *manifest} if present["run"].get(key) != manifest.get(key))
    if differing:
        key = differing[0]
        raise BadInput(
            f"{folder} holds another run: its {key} is {present['run'].get(key)!r}, this one's is {manifest.get(key)!r}. "
            "Choose a new folder with --out, or repeat the first command to continue that run."
        )


def read_result(folder: Path) -> dict[str, Any]:
    """Read the result of a finished run.

    Raises:
        BadInput: there is no run, or it is not finished; says how to finish it.
    """
    folder = Path(folder)
    if not (folder / MANIFEST).exists():
        raise BadInput(f"{folder} holds no run. `laconic optimize TASK` makes one; it prints where.")
    if not (folder / RESULT).exists():
        raise BadInput(f"the run in {folder} is not finished. Give the same command again to continue it.")
    result = read_json(folder / RESULT)
    if not isinstance(result, dict) or "format" not in result:
        raise CorruptFile(f"{folder / RESULT} is not a result. Delete it and give the run's command again; what was measured is kept.")
    return result


def _lock(folder: Path) -> int | None:
    try:
        import fcntl
    except ImportError:  # not on Windows; two processes on one folder are not told apart there
        return None
    path = folder / "lock"
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.pread(handle, 200, 0).decode(errors="replace").strip() or "an unknown process"
        os.close(handle)
        raise Locked(f"{folder} is in use by {holder}. Wait for it, or choose another folder with --out.") from None
    os.ftruncate(handle, 0)
    os.pwrite(handle, f"process {os.getpid()} on {socket.gethostname()}".encode(), 0)
    return handle
