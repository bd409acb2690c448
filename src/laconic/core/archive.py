"""Archives of PyTorch's kind (`.pt2`, TorchScript): read without unpacking more than is there, and written so that equal content gives equal bytes."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from laconic.core.errors import CorruptFile

_JSON_LIMIT = 256 << 20
_ROOT = "archive"
_EPOCH = (1980, 1, 1, 0, 0, 0)
# Made of random names, or of nothing that a reader needs.
_LEFT_OUT = (".data/serialization_id",)


class Archive:
    """The entries of an archive, by their names below its root; checksums are verified as they are read.

    Raises:
        CorruptFile: compressed entries, entries that overlap or have one name: so no archive unpacks to more than its file's size.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = zipfile.ZipFile(path)
        try:
            self._check(path.stat().st_size)
        except BaseException:
            self._file.close()
            raise

    def _check(self, there: int) -> None:
        items = self._file.infolist()
        self.root = items[0].filename.split("/")[0] if items else ""
        if any(item.compress_type != zipfile.ZIP_STORED for item in items):
            raise self.refuse("it holds compressed entries, which PyTorch does not write")
        if any(item.file_size != item.compress_size for item in items) or sum(item.file_size for item in items) > there:
            raise self.refuse("its entries claim more bytes than the file has")
        if len({item.filename for item in items}) != len(items):
            raise self.refuse("two of its entries have one name")

    def refuse(self, why: str) -> CorruptFile:
        """Return the error that refuses the file."""
        return CorruptFile(f"{self.path} is refused: {why}. Load only files that Laconic saved.")

    def bytes(self, name: str) -> bytes:
        """Return an entry."""
        return self._file.read(f"{self.root}/{name}")

    def json(self, name: str) -> Any:
        """Return an entry of JSON."""
        if self._file.getinfo(f"{self.root}/{name}").file_size > _JSON_LIMIT:
            raise self.refuse(f"{name} is larger than any graph")
        return json.loads(self.bytes(name))

    def __enter__(self) -> Archive:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._file.close()


def rewrite(
    source: IO[bytes], target: IO[bytes], edit: Callable[[str, bytes], tuple[str, bytes] | None], edited: Callable[[str], bool]
) -> None:
    """Copy an archive that PyTorch wrote to memory, under a fixed root, without dates, so that equal content is equal byte by byte.

    PyTorch itself writes the name of the file into the archive, and where a disk is full its writer ends the process.

    Args:
        source: the archive.
        target: an open file; a full disk is an `OSError` of its own writer.
        edit: from an entry's name below the root and its content to those that are written; None leaves it out.
        edited: which entries `edit` gets; the others are copied.
    """
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as new:
        for item in old.infolist():
            name = item.filename.partition("/")[2]
            if name in _LEFT_OUT:
                continue
            entry = (name, old.read(item))
            changed = edit(*entry) if edited(name) else entry
            if changed is not None:
                new.writestr(zipfile.ZipInfo(f"{_ROOT}/{changed[0]}", _EPOCH), changed[1])
