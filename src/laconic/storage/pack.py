"""Pack model files into a `.lac` archive, and restore them bit by bit."""

from __future__ import annotations

import contextlib
import io
import math
import mmap
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from laconic.core.errors import BadInput
from laconic.core.files import weights_beside, write_whole
from laconic.core.reading import reading, reads
from laconic.storage import codings, lac, locate
from laconic.storage.context import MOST_NUMBERS
from laconic.storage.distinct import entropy_bits
from laconic.storage.lac import SUFFIX, File, Front, Stored

if TYPE_CHECKING:
    from laconic.core.program import Program

_RATIO, _ALLOWED = 500, 1 << 28  # what an archive may unpack to unasked: times its own size, and in any case


@dataclass(frozen=True)
class PackedTensor:
    """What became of a tensor.

    Attributes:
        name: of it, as its file has it.
        kind: number format.
        shape: of it.
        coding: the one that was smallest, of its first piece.
        original_bytes: of its values.
        packed_bytes: in the archive, with its checksum.
        parts: of these, by what they are: mask, codebook, codes, tables, rest.
        bits_per_value: in the archive.
        entropy_bits: of a value, in a code that knows how often each value occurs and nothing else (order zero), without its table;
            None where nearly all values differ.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    coding: str
    original_bytes: int
    packed_bytes: int
    parts: Mapping[str, int]
    bits_per_value: float
    entropy_bits: float | None


@dataclass(frozen=True)
class Packed:
    """What `pack` wrote.

    Attributes:
        file: the archive.
        original_bytes: of the files in it.
        packed_bytes: of the archive.
        front_bytes: of these, the header, the digest and all bytes that are not in tensors: graph, names, settings.
        memory_bytes: the most that unpacking takes, beside what Python and its packages take.
        tensors: in the order of their bytes.
    """

    file: Path
    original_bytes: int
    packed_bytes: int
    front_bytes: int
    memory_bytes: int
    tensors: tuple[PackedTensor, ...]

    @property
    def ratio(self) -> float:
        """How many times smaller the archive is."""
        return self.original_bytes / self.packed_bytes


def pack(
    model: str | Path | Program, out: str | Path | None = None, *, fast: bool = False, settings: Mapping[str, Any] | None = None
) -> Packed:
    """Pack a model file, with the weights that ONNX keeps in a second file, into an archive from which it comes back byte by byte.

    Nothing but the file's content goes in: no path, no time, no name of a user, and of its name the ending alone. Equal files give equal archives.

    Args:
        model: a file: ONNX, `.pt2`, TorchScript, safetensors; any other counts as weights in float32, exactly too. Or a program, which is packed as its `.pt2`.
        out: the archive; beside the file, with the ending `.lac`, if None.
        fast: leave out the codings that are slow to read, for a model that is loaded often: 150 MB/s and more in place of 1 to 50 for sparse and shared
            weights, which take some percent more. Of a file of more than four million numbers they are left out in any case.
        settings: plain values that are kept in it.

    Raises:
        BadInput: there is no such file, it is not whole, or a program is given and no `out`.
    """
    if not isinstance(model, (str, Path)):
        _check_program(model)
        if out is None:
            raise BadInput("say where the archive of the program goes: pack(program, 'model.lac')")
        with tempfile.TemporaryDirectory(prefix="laconic-pack-") as folder:
            return pack(model.save(Path(folder) / "model.pt2"), out, fast=fast, settings=settings)
    model = Path(model)
    out = model.with_suffix(SUFFIX) if out is None else Path(out)
    if model.is_dir():
        raise BadInput(
            f"{model} is a folder. Pack the artifact in it: laconic pack {model}, in Python Artifact.open('{model}').save('{out}')"
        )
    if not model.is_file():
        raise BadInput(f"there is no file {model} to pack")
    if out.suffix != SUFFIX:
        raise BadInput(f"{out}: an archive ends in {SUFFIX}")
    if model.suffix == SUFFIX:
        raise BadInput(f"{model} is an archive already")
    extra = weights_beside(model)
    sources = {f"model{model.suffix}": model, **({extra.name: extra} if extra is not None and extra.exists() else {})}
    payload = io.BytesIO()
    files: list[File] = []
    others: list[bytes] = []
    tensors: list[PackedTensor] = []
    for name, source in sources.items():
        with _bytes(source) as data:
            with reading(source, f"a {source.suffix} file", "Export it again.", BadInput):
                places = locate.places(source, data)
            many = sum(math.prod(place.shape) for place in places) > MOST_NUMBERS
            files.append(_file(name, data, places, payload, others, tensors, fast or many))
    front = Front(tuple(files), b"".join(others), settings or {})
    start = lac.head_and_front(front)
    write_whole(out, lambda aside: _write(aside, start, payload))
    size = out.stat().st_size
    return Packed(out, front.unpacked_bytes, size, size - payload.getbuffer().nbytes, front.memory_bytes, tuple(tensors))


@contextlib.contextmanager
def _bytes(path: Path) -> Iterator[memoryview]:
    """Give a file's bytes, which the system reads when they are looked at."""
    with path.open("rb") as handle:
        if not path.stat().st_size:
            yield memoryview(b"")
            return
        with mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ) as mapped, memoryview(mapped) as view:
            yield view


def _write(path: Path, start: bytes, payload: io.BytesIO) -> None:
    with path.open("wb") as handle:
        handle.write(start)
        handle.write(payload.getbuffer())
        handle.write(lac.digest(payload.getbuffer()))


def _file(
    name: str,
    data: memoryview,
    places: list[locate.Place],
    payload: IO[bytes],
    others: list[bytes],
    tensors: list[PackedTensor],
    fast: bool,
) -> File:
    """Encode the tensors of one file into the payload, and put its other bytes with the others."""
    parts: list[int | Stored] = []
    end = 0
    for place in places:
        whole = bytes(data[place.start : place.start + place.size_bytes])
        one, packed, row = _tensor(place, whole, fast)
        if len(packed) + _ENTRY >= len(whole) and len(whole) < _SMALL:
            continue
        others.append(bytes(data[end : place.start]))
        parts += [place.start - end, one]
        payload.write(packed)
        tensors.append(row)
        end = place.start + place.size_bytes
    others.append(bytes(data[end:]))
    return File(name, (*parts, len(data) - end))


_ENTRY, _SMALL = (
    24,
    1 << 12,
)  # bytes that a tensor's place in the front and its own reading are worth; those up to which it may stay there as it is


def _tensor(place: locate.Place, whole: bytes, fast: bool) -> tuple[Stored, bytes, PackedTensor]:
    patterns, first = place.kind.patterns(whole), 0
    pieces: list[bytes] = []
    parts: dict[str, int] = {}
    names: list[str] = []
    entropy: float | None = 0.0
    for about in lac.cut(place.kind, place.shape):
        values = about.filled(patterns[first : first + about.count], fast)
        name, coded = codings.encode(values)
        entropy = None if entropy is None or values.codebook is None else entropy + entropy_bits(values.codebook[1]) * values.count
        first += about.count
        pieces.append(coded.data)
        names.append(name)
        for part, size in codings.breakdown(coded.parts, len(coded.data)).items():
            parts[part] = parts.get(part, 0) + size
    one = Stored(place.kind, place.shape, tuple(map(len, pieces)))
    packed = lac.checksum(whole) + b"".join(pieces)
    parts["rest"] += len(packed) - sum(one.pieces)
    per_value = (8 * len(packed) / one.count, None if entropy is None else entropy / one.count)
    row = PackedTensor(place.name, place.kind.name, place.shape, names[0], len(whole), len(packed), parts, *per_value)
    return one, packed, row


@reads("a .lac archive", "Get it again from where it came.")
def unpack(archive: str | Path, out: str | Path | None = None, *, most_bytes: int | None = None) -> Path:
    """Restore the model file of an archive; it appears whole or not at all, and is the one that was packed, byte by byte.

    Memory stays within what the archive's header says (`Packed.memory_bytes`), whatever the archive holds.

    Args:
        archive: the archive.
        out: the file; beside the archive, with the ending of what it holds, if None. Weights that ONNX keeps in a second file come beside it.
        most_bytes: that the archive may unpack to; 500 times its size and at least 256 MiB, if None.

    Raises:
        BadInput: there is none, or `out` has another ending.
        CorruptFile: the archive is truncated, altered, not whole, or unpacks to more.
    """
    archive = Path(archive)
    _check_there(archive)
    with archive.open("rb") as handle:
        front = _front(handle, archive, most_bytes)
        name = front.files[0].name
        target = archive.with_suffix(Path(name).suffix) if out is None else Path(out)
        if target.suffix != Path(name).suffix:
            right = target.with_suffix(Path(name).suffix)
            raise BadInput(f"{archive} holds a {right.suffix} file, not {target.suffix or 'one without ending'}: unpack it as {right}")
        _restore(lac.read_files(handle, front), target)
    return target


@reads("a .lac archive", "Get it again from where it came.")
def restore(archive: Path, folder: Path) -> tuple[Path, Mapping[str, Any]]:
    """Unpack an archive into a folder under the name that it gives its model file; returns the file and the settings that were kept in it.

    Raises:
        BadInput: there is none.
        CorruptFile: as of `unpack`.
    """
    _check_there(archive)
    with archive.open("rb") as handle:
        front = _front(handle, archive, None)
        _restore(lac.read_files(handle, front), folder / front.files[0].name)
    return folder / front.files[0].name, front.settings


def _check_program(model: object) -> None:
    from laconic.core.program import Program

    if not isinstance(model, Program):
        raise BadInput(
            f"pack takes a model file or a Program; it was given an object of the class {type(model).__name__}. Of an artifact: "
            "artifact.save('model.lac'); of a module: laconic.capture(model, example)."
        )


def _check_there(archive: Path) -> None:
    if archive.is_dir():
        raise BadInput(f"{archive} is a folder, no archive; `laconic pack {archive}` makes one of an artifact's folder")
    if not archive.is_file():
        raise BadInput(f"there is no archive {archive}")


def _front(handle: IO[bytes], archive: Path, most_bytes: int | None) -> Front:
    allowed = max(_ALLOWED, _RATIO * archive.stat().st_size) if most_bytes is None else most_bytes
    return lac.read_front(handle, archive, allowed)


def _restore(files: Iterator[tuple[File, Iterator[bytes | memoryview]]], target: Path) -> None:
    """Write the first file to its place once all that follow are there."""

    def write(aside: Path) -> None:
        _copy(pieces, aside)
        for other, content in files:
            beside = weights_beside(target)
            if beside is None or not other.name.endswith(beside.suffix):
                raise ValueError(f"it holds a file '{other.name}' that is no weights of a {target.suffix} file")
            named = beside if target.suffix == ".param" else target.with_name(other.name)  # an ONNX file tells the name of its weights
            write_whole(named, lambda place, content=content: _copy(content, place))  # type: ignore[misc]

    _, pieces = next(files)
    write_whole(target, write)


def _copy(pieces: Iterator[bytes | memoryview], path: Path) -> None:
    with path.open("wb") as handle:
        for piece in pieces:
            handle.write(piece)
