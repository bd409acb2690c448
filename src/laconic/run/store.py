"""One folder per run. Files appear whole, are never computed twice, and belong to one process at a time.

A folder may be a stranger's, named by mistake: it is looked at before anything in it is made, changed or deleted.
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
import stat
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from laconic.core.errors import BadInput, CorruptFile, LaconicError, Locked
from laconic.core.files import read_json, write_plain
from laconic.core.reading import reading, reads
from laconic.core.records import to_json

Made = TypeVar("Made")
FORMAT = 2
MANIFEST = "run.json"
RESULT = "result.json"
LOCK = "lock"
LIVE, SO_FAR = "live.json", "so_far.json"  # what a run does and would deliver now, for those who watch it; a finished one has neither
_HOLDER = b"process "  # how a lock of ours begins, unless it is empty
_ASIDE = re.compile(r"\.writing-\w+\.json")  # a manifest that a kill kept from its name


class RunStore:
    """A run's folder, locked while it is open.

    Args:
        folder: made if it is missing.
        manifest: what the run is (task, budget, options). A folder that holds another run is refused, one that holds this run is continued.
        push: puts what is finished where else it is wanted; None: it is wanted nowhere else.

    Raises:
        Locked: another process works in the folder; names it.
        BadInput: the folder holds another run, the same run with other data or code, or something else; nothing in it was touched.
        CorruptFile: the manifest is of a newer format or not whole.
    """

    def __init__(self, folder: Path, manifest: Mapping[str, Any], push: Callable[[], object] | None = None) -> None:
        self.folder, self._push = Path(folder), push
        self.manifest = to_json(manifest)
        self._lock: int | None = None
        try:
            look(self.folder, self.manifest)
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock = _lock(self.folder)
            self._open()
        except OSError as error:
            self.close()
            raise LaconicError(f"cannot use the run folder {self.folder}: {error.strerror or error}. Choose another with --out.") from error
        except BaseException:
            self.close()
            raise

    def _open(self) -> None:
        look(self.folder, self.manifest)  # another process may have been here before the lock was ours
        for leftover in self.folder.rglob(".writing-*"):
            if stat.S_ISREG(leftover.lstat().st_mode):
                leftover.unlink(missing_ok=True)
        if not self.has(MANIFEST):
            self.write(MANIFEST, {"format": FORMAT, "run": self.manifest})

    @property
    def resumed(self) -> bool:
        """Whether anything beyond the manifest is there already."""
        return any(item.name not in (LOCK, MANIFEST) for item in self.folder.iterdir())

    def path(self, *parts: str) -> Path:
        """Return a path inside the folder."""
        return self.folder.joinpath(*parts)

    def has(self, name: str) -> bool:
        """Return whether a file is there; since files appear whole, it is then complete."""
        return self.path(name).exists()

    def read(self, name: str) -> Any:
        """Read a JSON file."""
        return read_json(self.path(name))

    def read_as(self, name: str, make: Callable[[Any], Made]) -> Made:
        """Read a JSON file into what it holds.

        Raises:
            CorruptFile: it holds something else.
        """
        value = self.read(name)
        with reading(self.path(name), "what a run keeps there", "Delete it to have it made again."):
            return make(value)

    def write(self, name: str, value: Any) -> Any:
        """Write records as JSON, whole; returns them as plain values."""
        plain = to_json(value)
        write_plain(self.path(name), plain)
        return plain

    def push(self) -> None:
        """Put what is finished where else it is wanted; to be called while nothing is timed."""
        if self._push is not None:
            self._push()

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


def look(folder: Path, manifest: Any) -> None:
    """Look whether a run may use a folder, and touch nothing.

    Raises:
        BadInput: it is no folder, not empty and no run's, or another run's.
        CorruptFile: as of `check_manifest`.
    """
    if not folder.exists() and not folder.is_symlink():
        return
    if not folder.is_dir():
        raise BadInput(f"{folder} is not a folder. Choose a new folder with --out.")
    _check_lock(folder / LOCK)
    if (folder / MANIFEST).exists():
        check_manifest(folder, manifest)
        return
    strangers = sorted(item.name for item in folder.iterdir() if item.name != LOCK and not _ASIDE.fullmatch(item.name))
    if strangers:
        raise BadInput(f"{folder} is not empty and holds no run (it has {strangers[0]}). Choose a new folder with --out.")


@reads("a run's manifest", "Choose a new folder with --out.")
def check_manifest(folder: Path, manifest: Any) -> None:
    """Refuse a folder that holds another run, the same run with other data or code, or a newer format."""
    present = read_json(folder / MANIFEST)
    if not isinstance(present, dict) or not isinstance(present.get("format"), int) or not isinstance(present.get("run"), dict):
        raise CorruptFile(f"{folder / MANIFEST} is not a run's manifest. Choose a new folder with --out.")
    if present["format"] > FORMAT:
        raise CorruptFile(
            f"{folder} was written in run format {present['format']}; this Laconic reads up to {FORMAT}. Install a newer Laconic."
        )
    run = present["run"]
    differing = sorted(key for key in {*run, *manifest} if run.get(key) != manifest.get(key))
    if not differing:
        return
    if all(key in CONTENT and run.get(key) and manifest.get(key) for key in differing):
        told = "; ".join(CONTENT[key].format(", ".join(_parts(run.get(key), manifest.get(key)))) for key in differing)
        raise BadInput(
            f"{folder} holds this run as it began, but since then {told}. What was measured there does not hold for it. Choose a new folder with --out, "
            "or bring back what it was."
        )
    key = next((key for key in differing if key not in CONTENT), differing[0])
    raise BadInput(
        f"{folder} holds another run: its {key} is {run.get(key)!r}, this one's is {manifest.get(key)!r}. "
        "Choose a new folder with --out, or repeat the first command to continue that run."
    )


# Entries of a manifest that are digests by part: a change of them alone is no other run but the same one with other content.
CONTENT = {
    "data": "the data has changed ({})",
    "code": "the code of the task has changed ({})",
    "model": "the model's parameters have changed{}",
}


def _parts(before: Any, now: Any) -> list[str]:
    """Return the names under which two manifests have different digests; none of what is one digest."""
    if not isinstance(before, dict) or not isinstance(now, dict):
        return []
    return [name for name in {**before, **now} if before.get(name) != now.get(name)]


@reads("a run", "Delete its result.json and give the run's command again; what was measured is kept.")
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


def _check_lock(path: Path) -> None:
    """Refuse a lock that leads elsewhere or holds what no run wrote: whoever takes it writes into it."""
    try:
        found = path.lstat()
    except FileNotFoundError:
        return
    if not stat.S_ISREG(found.st_mode) or found.st_nlink > 1:
        what = "a link" if stat.S_ISLNK(found.st_mode) or found.st_nlink > 1 else "not a file"
        raise BadInput(f"{path} is {what}, which no run makes; it was not opened. Choose a new folder with --out, or remove it.")
    with path.open("rb") as handle:
        head = handle.read(len(_HOLDER))
    if head not in (b"", _HOLDER):
        raise BadInput(f"{path} is not a run's lock; it was not changed. Choose a new folder with --out.")


def in_use(folder: Path) -> bool | None:
    """Return whether a process works in a run's folder; None where this system cannot tell.

    The lock is ours for an instant, in which a run that begins waits (`_lock`).
    """
    try:
        import fcntl

        handle = os.open(folder / LOCK, os.O_RDONLY | os.O_NOFOLLOW)
    except ImportError:
        return None
    except OSError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(handle)
    return False


def _lock(folder: Path) -> int | None:
    try:
        import fcntl
    except ImportError:  # not on Windows; two processes on one folder are not told apart there
        return None
    handle = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
    try:
        _take(lambda: fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB))
    except BlockingIOError:
        holder = os.pread(handle, 200, 0).decode(errors="replace").strip() or "an unknown process"
        os.close(handle)
        raise Locked(f"{folder} is in use by {holder}. Wait for it, or choose another folder with --out.") from None
    os.ftruncate(handle, 0)
    os.pwrite(handle, _HOLDER + f"{os.getpid()} on {socket.gethostname()}".encode(), 0)
    return handle


def _take(lock: Callable[[], None]) -> None:
    """Take a lock, at the second or third attempt too: one who only looks whether it is taken has it for an instant (`in_use`)."""
    for wait_s in (0.02, 0.05):
        with contextlib.suppress(BlockingIOError):
            return lock()
        time.sleep(wait_s)
    lock()
