"""Files appear whole or not at all: written aside, synced, renamed."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from laconic.core.errors import CorruptFile, LaconicError
from laconic.core.records import to_json

_JSON_LIMIT = 1 << 30


# Ending of a model file -> the name of the second file that may hold its weights.
_BESIDE: dict[str, Callable[[Path], str]] = {".onnx": lambda file: f"{file.name}.data", ".param": lambda file: f"{file.stem}.bin"}


def weights_beside(file: Path) -> Path | None:
    """Return where the weights of a model file lie if they lie in a second one; None of a format that has one file.

    >>> weights_beside(Path("model.param")), weights_beside(Path("model.pte"))
    (PosixPath('model.bin'), None)
    """
    name = _BESIDE.get(file.suffix)
    return None if name is None else file.with_name(name(file))


def write_whole(path: Path, write: bytes | str | Callable[[Path], object]) -> Path:
    """Write a file so that a reader sees the old one or the whole new one, also after a kill or a power cut.

    Args:
        path: where the file is to appear; missing folders are made.
        write: the content, or a function that writes it to the path it is given (same folder, same suffix).

    Raises:
        LaconicError: the disk is full, the folder read-only, …; names the file. What was there before stays.
    """
    path = Path(path)
    aside: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=".writing-", suffix=path.suffix, dir=path.parent)
        os.close(handle)
        aside = Path(name)
        if callable(write):
            write(aside)
        else:
            aside.write_bytes(utf8(write) if isinstance(write, str) else write)
        sync(aside)
        aside.chmod(0o644)
        aside.replace(path)
        sync(path.parent)
    except OSError as error:
        raise LaconicError(
            f"cannot write {path}: {error.strerror or error}. Free space or choose another folder; nothing was changed."
        ) from error
    finally:
        if aside is not None:
            with contextlib.suppress(OSError):
                aside.unlink(missing_ok=True)
    return path


def utf8(text: str) -> bytes:
    r"""Encode text in UTF-8, whatever the locale; names that Python could not decode (in the locale C it keeps their bytes) get these back.

    >>> utf8("Größe"), utf8(b"Gr\xc3\xb6\xc3\x9fe".decode("ascii", "surrogateescape")), utf8("\udcff")
    (b'Gr\xc3\xb6\xc3\x9fe', b'Gr\xc3\xb6\xc3\x9fe', b'\xef\xbf\xbd')
    """
    try:
        return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace").encode()
    except UnicodeEncodeError:
        return text.encode("utf-8", "replace")


def sync(path: Path) -> None:
    """Ask the system to put a file or folder on disk; where folders cannot be synced, nothing happens."""
    try:
        handle = os.open(path, os.O_RDONLY)
    except PermissionError:
        if path.is_dir():
            return
        raise
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextlib.contextmanager
def alone(path: Path) -> Iterator[None]:
    """Be the only process in here that names this path; others wait. A file `.lock` beside it is made; where the system has no locks, nobody waits."""
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(path.with_name(path.name + ".lock"), os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def write_json(path: Path, value: Any) -> Path:
    """Write records as indented JSON, whole."""
    return write_plain(path, to_json(value))


def write_plain(path: Path, value: Any) -> Path:
    """Write plain values, as `to_json` makes them, as indented JSON, whole."""
    return write_whole(path, json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        CorruptFile: it is not whole JSON, nested without end, or larger than anything that Laconic writes; names the file and the place.
    """
    try:
        if (size := Path(path).stat().st_size) > _JSON_LIMIT:
            raise CorruptFile(
                f"{path} has {size:,} bytes, more than any file of JSON that Laconic writes. Delete it to have it made again."
            )
        return json.loads(Path(path).read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:  # ValueError: no JSON, no UTF-8, or a number of thousands of digits
        raise CorruptFile(f"{path} is not whole JSON ({error}). Delete it to have it made again.") from error
    except OSError as error:
        raise CorruptFile(f"{path} cannot be read: {error.strerror or error}. Delete it to have it made again.") from error


def sha256(path: Path) -> str:
    """Return the file's SHA-256 in hexadecimal."""
    with Path(path).open("rb") as handle:
        return _digest(handle)


def _digest(handle: Any) -> str:
    digest = hashlib.sha256()
    while block := handle.read(1 << 20):
        digest.update(block)
    return digest.hexdigest()
