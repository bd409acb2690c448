"""The `.lac` archive: model files, their tensors in the smallest exact coding, all other bytes compressed by LZMA; read piece by piece, within a stated bound.

```
89 "LAC"  version  bytes of front (packed, whole)  bytes of all files  memory bound  digest of all this and the front     42 bytes, little endian
front     LZMA of: JSON {"files": [{"name", "parts"}], "settings"} · 0 · all bytes of the files that are not in tensors
payload   of each tensor: CRC-32 of its bytes · its pieces, each in a coding
digest    of the payload
```
Digests are the first 8 bytes of SHA-256. That of the payload is looked at before anything is decoded; the sum of a tensor says that it was decoded as it was
encoded. Archives of version 1, which have a digest of each tensor's bytes in place of both, are read too.
`parts` are numbers, of bytes that come from the front, and tensors as [kind, shape, [bytes of each piece]]. A tensor is cut into pieces of at most 2²² values.
"""

from __future__ import annotations

import hashlib
import io
import json
import lzma
import math
import struct
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import IO, Any

from laconic.core.errors import BadInput, CorruptFile
from laconic.storage import codings
from laconic.storage.coded import Values
from laconic.storage.kinds import KINDS, Kind

SUFFIX = ".lac"
VERSION = 2
PIECE = 1 << 22  # values
_MAGIC = b"\x89LAC"
_HEAD = struct.Struct("<4sBIIQQ")
_DIGEST, _SUM = 8, 4
_BLOCK = 1 << 18  # bytes that are digested at once: what a cache holds
_FRONT_MOST, _TEXT_MOST = 1 << 28, 1 << 23  # bytes of the front, and of what it says of files and settings
_DICTIONARY_MOST = 1 << 24
# Bytes that reading takes: of each value of the largest piece, of each letter of what the front says, and in any case.
_A_VALUE, _A_LETTER, _ALWAYS = 40, 32, 4 << 20


@dataclass(frozen=True)
class Stored:
    """A tensor in an archive.

    Attributes:
        kind: number format of its values.
        shape: of it.
        pieces: bytes of each piece.
    """

    kind: Kind
    shape: tuple[int, ...]
    pieces: tuple[int, ...]

    @property
    def count(self) -> int:
        """How many values it has."""
        return math.prod(self.shape)

    def to_json(self) -> list[Any]:
        """Return it as it stands in the front."""
        return [self.kind.name, list(self.shape), list(self.pieces)]


@dataclass(frozen=True)
class File:
    """A file in an archive: its name without a folder, and what it is made of, one after the other: bytes from the front and tensors."""

    name: str
    parts: tuple[int | Stored, ...]

    @property
    def size_bytes(self) -> int:
        """Of the file."""
        return sum(part if isinstance(part, int) else part.count * part.kind.width for part in self.parts)


@dataclass(frozen=True)
class Front:
    """What an archive says before its payload.

    Attributes:
        files: in it.
        others: all bytes of the files that are not in tensors.
        settings: what the packer added, plain values.
        packed_bytes: of the front itself, compressed, with the head.
        version: of the archive.
    """

    files: tuple[File, ...]
    others: bytes
    settings: Mapping[str, Any] = field(default_factory=dict)
    packed_bytes: int = 0
    version: int = VERSION

    @property
    def stored(self) -> list[Stored]:
        """All tensors, in the order of the payload."""
        return [part for file in self.files for part in file.parts if isinstance(part, Stored)]

    @property
    def memory_bytes(self) -> int:
        """The most that reading the archive takes, beside what Python and its packages take."""
        largest = max((min(PIECE, one.count) for one in self.stored), default=0)
        return _ALWAYS + 3 * len(self.others) + _A_LETTER * len(self.text) + largest * _A_VALUE

    @cached_property
    def text(self) -> bytes:
        """What the front says of files and settings, in the one way in which it is written."""
        files = [
            {"name": file.name, "parts": [part if isinstance(part, int) else part.to_json() for part in file.parts]} for file in self.files
        ]
        told = {"files": files, **({"settings": self.settings} if self.settings else {})}
        return json.dumps(told, separators=(",", ":"), sort_keys=True).encode()

    @property
    def unpacked_bytes(self) -> int:
        """Of all files."""
        return sum(file.size_bytes for file in self.files)


def cut(kind: Kind, shape: Sequence[int]) -> Iterator[Values]:
    """Yield what is known of each piece of a tensor: whole rows where a piece holds any."""
    count = math.prod(shape)
    columns = math.prod(shape[1:]) if len(shape) > 1 else 1
    inner = math.prod(shape[2:]) if len(shape) > 2 else 1
    step = PIECE // columns * columns if columns <= PIECE else PIECE
    for first in range(0, count, step):
        yield Values(kind, min(step, count - first), columns, inner)


def digest(*data: bytes | memoryview) -> bytes:
    """Return eight bytes that say whether bytes are the same."""
    made = hashlib.sha256()
    for piece in data:
        made.update(piece)
    return made.digest()[:_DIGEST]


def checksum(data: bytes | memoryview) -> bytes:
    """Return the four bytes that stand before a tensor."""
    return zlib.crc32(data).to_bytes(_SUM, "little")


def head_and_front(front: Front) -> bytes:
    """Return everything before the payload.

    Raises:
        BadInput: there are more tensors than a front has room for.
    """
    if len(front.text) > _TEXT_MOST or len(front.text) + len(front.others) >= _FRONT_MOST:
        raise BadInput("the model has too many tensors, or too much that is no tensor, for an archive")
    whole = front.text + b"\0" + front.others
    packed = lzma.compress(whole, lzma.FORMAT_RAW, filters=_filters(len(whole)))
    head = _HEAD.pack(_MAGIC, VERSION, len(packed), len(whole), front.unpacked_bytes, front.memory_bytes)
    return head + digest(head, packed) + packed


def _filters(size: int) -> list[dict[str, int]]:
    """Return how the front is compressed; a dictionary no larger than it, and than what a reader allows."""
    room = max(4096, min(_DICTIONARY_MOST, 1 << max(0, size - 1).bit_length()))
    return [{"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME, "dict_size": room}]


def read_front(handle: IO[bytes], archive: Path, most_bytes: int) -> Front:
    """Return what an archive says, leaving the handle at its payload. Nothing is allocated before its size is known to be allowed.

    Args:
        handle: the archive, at its beginning.
        archive: its path.
        most_bytes: that its files may have together.

    Raises:
        CorruptFile: it is none, of a later version, altered, or its files are larger than that.
        ValueError, …: it is not whole.
    """
    size_bytes = archive.stat().st_size
    head = handle.read(_HEAD.size)
    if head[:4] != _MAGIC:
        raise CorruptFile(f"{archive} is no .lac archive: it does not begin as one. Get it again from where it came.")
    _, version, packed, whole, unpacked, memory = _HEAD.unpack(head)
    if not 1 <= version <= VERSION:
        raise CorruptFile(f"{archive} has version {version}; this Laconic reads up to {VERSION}. Install a newer Laconic.")
    if unpacked > most_bytes:
        raise CorruptFile(
            f"{archive} ({size_bytes:,} bytes) unpacks to {unpacked:,}, more than the {most_bytes:,} that are allowed. If you know who made it, allow more "
            "(--max-bytes, in Python most_bytes)."
        )
    if whole > _FRONT_MOST or packed > size_bytes or whole > memory:
        raise ValueError("its front claims more bytes than any has")
    told = handle.read(_DIGEST)
    data = handle.read(packed)
    if digest(head, data) != told:
        raise ValueError("its front is not what was written")
    reader = lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=_filters(whole))
    plain = reader.decompress(data, max_length=whole)
    text, _, others = plain.partition(b"\0")
    if len(text) > _TEXT_MOST:
        raise ValueError("its front says more than any has to say")
    front = _front(json.loads(text), others, len(head) + _DIGEST + packed, version)
    if front.text != text or len(plain) != whole or front.unpacked_bytes != unpacked or front.memory_bytes != memory:
        raise ValueError("its front is not the one that its head describes")
    check = _CHECKS[version]
    payload = sum(sum(one.pieces) + check.each for one in front.stored) + check.end
    if front.packed_bytes + payload != size_bytes:
        raise ValueError(f"its payload has {size_bytes - front.packed_bytes:,} bytes in place of {payload:,}")
    return front


def _front(told: Any, others: bytes, packed_bytes: int, version: int) -> Front:
    files = []
    for file in told["files"]:
        name = file["name"]
        if (
            not isinstance(name, str)
            or Path(name).name != name
            or name in ("", ".", "..")
            or "\0" in name
            or "\\" in name
            or len(name) > 200
        ):
            raise ValueError("the name of a file in it is none")
        files.append(File(name, tuple(part if type(part) is int else _stored(*part) for part in file["parts"])))
    if len({file.name for file in files}) != len(files):
        raise ValueError("two files in it have one name")
    taken = [part for file in files for part in file.parts if isinstance(part, int)]
    if min(taken, default=0) < 0 or sum(taken) != len(others):
        raise ValueError("its files do not take the bytes that are there")
    settings = told.get("settings", {})
    if not isinstance(settings, dict):
        raise ValueError("its settings are none")
    return Front(tuple(files), others, settings, packed_bytes, version)


def _stored(kind: Any, shape: Any, pieces: Any) -> Stored:
    numbers = [*shape, *pieces]
    if not all(type(number) is int and 0 <= number < 1 << 40 for number in numbers) or len(shape) > 32 or math.prod(shape) >= 1 << 44:
        raise ValueError("a tensor in it has no such shape")
    one = Stored(KINDS[kind], tuple(shape), tuple(pieces))
    columns = math.prod(shape[1:]) if len(shape) > 1 else 1
    step = PIECE // columns * columns if 0 < columns <= PIECE else PIECE
    if not one.count or -(-one.count // step) != len(pieces):
        raise ValueError("a tensor in it is not cut as tensors are")
    return one


class _Sum:
    """A CRC-32 as `hashlib` has digests."""

    def __init__(self) -> None:
        self._sum = 0

    def update(self, data: bytes | memoryview) -> None:
        """Take more bytes."""
        self._sum = zlib.crc32(data, self._sum)

    def digest(self) -> bytes:
        """Return the sum of all bytes so far."""
        return self._sum.to_bytes(_SUM, "little")


@dataclass(frozen=True)
class _Check:
    """How a version says what was written: in so many bytes before each tensor, made so, and in so many behind the payload."""

    each: int
    made: Callable[[], Any]
    end: int


_CHECKS = {1: _Check(_DIGEST, hashlib.sha256, 0), 2: _Check(_SUM, _Sum, _DIGEST)}


def read_files(handle: IO[bytes], front: Front) -> Iterator[tuple[File, Iterator[bytes | memoryview]]]:
    """Yield each file with its bytes, piece by piece; both must be taken in their order.

    Raises:
        ValueError, …: the payload, or a tensor, is not what was written.
    """
    check = _CHECKS[front.version]
    if check.end:
        _check_payload(handle, check.end)
    others = memoryview(front.others)
    for file in front.files:
        taken = sum(part for part in file.parts if isinstance(part, int))
        yield file, _pieces(handle, file, others[:taken], check)
        others = others[taken:]


def _check_payload(handle: IO[bytes], end: int) -> None:
    """Compare the digest that stands at the end with the bytes before it, and go back to their beginning."""
    start, made = handle.tell(), hashlib.sha256()
    left = handle.seek(0, io.SEEK_END) - end - start
    handle.seek(start)
    while left > 0 and (block := handle.read(min(_BLOCK, left))):
        made.update(block)
        left -= len(block)
    if made.digest()[:end] != handle.read(end):
        raise ValueError("its payload is not what was written")
    handle.seek(start)


def _pieces(handle: IO[bytes], file: File, others: memoryview, check: _Check) -> Iterator[bytes | memoryview]:
    for part in file.parts:
        if isinstance(part, int):
            yield others[:part]
            others = others[part:]
        else:
            yield from _tensor(handle, part, check)


def _tensor(handle: IO[bytes], one: Stored, check: _Check) -> Iterator[memoryview]:
    told, made = handle.read(check.each), check.made()
    for about, size in zip(cut(one.kind, one.shape), one.pieces, strict=True):
        data = codings.decode(handle.read(size), about).astype(one.kind.pattern, copy=False).data.cast("B")
        made.update(data)
        yield data
    if made.digest()[: check.each] != told:
        raise ValueError("a tensor in it is not the one that was written")
