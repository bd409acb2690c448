"""Mutated files of every kind that Laconic reads, and what became of them. A library: `benchmarks.campaign fuzz` and the tests call it.

Seeds are sound files. A mutant has bytes flipped, cut, doubled or zeroed; in JSON, YAML and the entries of archives also one value of the tree replaced by
what nobody expects there, with checksums made right again, so that more than the checksum is tried. Each is read in a forked process with limits of memory
and time, which tells its outcome; one that dies or hangs is known by the file it had begun.
"""

from __future__ import annotations

import faulthandler
import io
import json
import os
import random
import resource
import select
import shutil
import signal
import time
import traceback
import warnings
import zipfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import yaml

from benchmarks.fuzz_kinds import Kind
from laconic.core.errors import LaconicError

HANG_S = 30.0
MEMORY_BYTES = 6 << 30  # beyond what the process has when it is forked
BATCH = 50  # files of one process
OUTCOMES = ("ok", "named", "raw", "crash", "hang")


@dataclass
class Counts:
    """How many files of a kind had each outcome, and the first example of each thing that went wrong: outcome and error -> file's number."""

    outcomes: Counter[str] = field(default_factory=Counter)
    wrong: dict[str, int] = field(default_factory=dict)
    slowest_s: float = 0.0

    def __str__(self) -> str:
        return ", ".join(f"{self.outcomes[name]} {name}" for name in OUTCOMES) + f"; slowest {self.slowest_s:.1f} s"


# Mutation ----------------------------------------------------------------------------------------------------------------------------

ODD: tuple[Any, ...] = (
    None,
    True,
    -1,
    0,
    2**63,
    1e308,
    "",
    "x",
    "../../etc/passwd",
    "\udcff",
    "\u202e×−",
    [],
    {},
    [[]],
    {"": None},
    [None] * 3,
    "9" * 5000,
)


def mutants(data: bytes, n: int, rng: random.Random) -> Iterator[bytes]:
    """Yield `n` altered versions of a file's bytes, by what it is: a tree of JSON or YAML, an archive of entries, or bytes."""
    for _ in range(n):
        yield _mutant(data, rng)


def _mutant(data: bytes, rng: random.Random) -> bytes:
    kind = rng.random()
    if zipfile.is_zipfile(io.BytesIO(data)):
        return _archive(data, rng) if kind < 0.8 else _bytes(data, rng)
    tree = _tree(data)
    if tree is None or kind < 0.3:
        return _bytes(data, rng)
    if kind < 0.34:  # nested deeper than any parser follows
        return b"[" * 200_000 if rng.random() < 0.5 else b'{"a":' * 100_000
    return _written_tree(_altered(tree, rng), data)


def _tree(data: bytes) -> Any:
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        pass
    try:
        tree = yaml.safe_load(data.decode())
        return tree if isinstance(tree, (dict, list)) else None
    except (yaml.YAMLError, UnicodeDecodeError):
        return None


def _written_tree(tree: Any, like: bytes) -> bytes:
    if like[:1] in b"{[":
        return json.dumps(tree).encode()
    return str(yaml.safe_dump(tree, allow_unicode=False)).encode("utf-8", "replace")


def _altered(tree: Any, rng: random.Random) -> Any:
    """Return a tree with one to three of its values, or keys, replaced, taken out or exchanged."""
    tree = json.loads(json.dumps(tree))
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        places = list(_places(tree))
        if not places:
            return rng.choice(ODD)
        holder, key = rng.choice(places)
        choice = rng.random()
        if choice < 0.6:
            holder[key] = json.loads(json.dumps(rng.choice(ODD)))
        elif choice < 0.75:
            del holder[key]
        elif choice < 0.9 and isinstance(holder, dict):
            holder[str(rng.choice(ODD))[:50]] = holder.pop(key)
        else:
            other, place = rng.choice(places)
            holder[key] = json.loads(json.dumps(other[place])) if _has(other, place) else None
    return tree


def _has(holder: Any, key: Any) -> bool:
    return key in holder if isinstance(holder, dict) else key < len(holder)


def _places(tree: Any) -> Iterator[tuple[Any, Any]]:
    waiting = [tree]
    while waiting:
        value = waiting.pop()
        items = list(value.items()) if isinstance(value, dict) else list(enumerate(value)) if isinstance(value, list) else []
        for key, item in items:
            yield value, key
            waiting.append(item)


def _archive(data: bytes, rng: random.Random) -> bytes:
    """Return an archive with one entry altered, renamed or left out; its checksums are right."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        entries = [(item.filename, archive.read(item)) for item in archive.infolist()]
    index = rng.randrange(len(entries))
    name, content = entries[index]
    choice = rng.random()
    if choice < 0.1:
        entries.pop(index)
    elif choice < 0.2:
        entries[index] = (name + "x" if rng.random() < 0.5 else "../" + name, content)
    else:
        entries[index] = (name, _mutant(content, rng) if content else b"x")
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))) as archive:
        for name, content in entries:
            archive.writestr(name, content)
    return out.getvalue()


def _bytes(data: bytes, rng: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 8))):
        if not changed:
            return bytes(rng.randrange(256) for _ in range(rng.randrange(40)))
        start = rng.randrange(len(changed))
        end = min(len(changed), start + rng.choice((1, 1, 4, 64, 4096)))
        choice = rng.randrange(6)
        if choice == 0:
            changed[start] ^= 1 << rng.randrange(8)
        elif choice == 1:
            del changed[start:]
        elif choice == 2:
            del changed[start:end]
        elif choice == 3:
            changed[start:start] = changed[start:end]
        elif choice == 4:
            changed[start:end] = bytes(end - start)
        else:
            changed[start:end] = rng.choice(
                (b"\xff\xff\xff\xff", b"\x00", b"\xef\xbb\xbf", b"&a [*a]", b"NaN", b"1e999", b"%s%n", b"\r\n", b"\xc3\x28")
            )
    return bytes(changed)


# Reading in processes with limits ------------------------------------------------------------------------------------------------------


def fuzz(kind: Kind, n: int, folder: Path, seed: int = 0, hang_s: float = HANG_S) -> Counts:
    """Read `n` mutants of a kind's sound file.

    Args:
        kind: of `KINDS`.
        n: mutants.
        folder: emptied; the files that went wrong stay there under `wrong-NUMBER-NAME`.
        seed: of all choices.
        hang_s: seconds after which reading one file hangs.
    """
    rng, counts = random.Random(seed), Counts()
    shutil.rmtree(folder, ignore_errors=True)
    sound = folder / "sound"
    sound.mkdir(parents=True)
    path = kind.seed(sound)
    kind.read(path)  # what is sound is read, and what reading imports is there before processes are forked
    files = list(mutants(path.read_bytes(), n, rng))
    done = 0
    while done < n:
        done += _batch(kind, files[done : done + BATCH], done, path, folder, counts, hang_s)
    return counts


def _batch(kind: Kind, files: Sequence[bytes], first: int, path: Path, folder: Path, counts: Counts, hang_s: float) -> int:
    """Read files in one process until all are read, or one ended it; returns how many are known."""
    come, go = os.pipe()
    process = os.fork()
    if process == 0:
        os.close(come)
        try:
            _child(kind, files, path, folder / "sound", folder / f"batch-{first}", go)
        finally:
            os._exit(0)
    os.close(go)
    told = list(_told(come, hang_s))
    os.close(come)
    os.kill(process, signal.SIGKILL) if told and told[-1] == "hang" else None
    _, status = os.waitpid(process, 0)
    known = 0
    for line in told:
        if line == "hang":
            _note(counts, "hang", "", first + known, files[known], path, folder)
            known += 1
        elif isinstance(line, dict):
            _note(counts, line["outcome"], line["why"], first + known, files[known], path, folder)
            counts.slowest_s = max(counts.slowest_s, line["seconds"])
            known += 1
    if known < len(files) and (not told or told[-1] != "hang"):
        _note(counts, "crash", f"status {status}", first + known, files[known], path, folder)
        known += 1
    shutil.rmtree(folder / f"batch-{first}", ignore_errors=True)
    return known


def _note(counts: Counts, outcome: str, why: str, number: int, data: bytes, path: Path, folder: Path) -> None:
    counts.outcomes[outcome] += 1
    if outcome not in ("ok", "named") and f"{outcome}: {why}" not in counts.wrong:
        counts.wrong[f"{outcome}: {why}"] = number
        (folder / f"wrong-{number}-{path.name}").write_bytes(data)


def _told(come: int, hang_s: float) -> Iterator[dict[str, Any] | str]:
    """Yield what a process tells of each file; ``hang`` where it tells nothing for too long."""
    buffer = b""
    while True:
        ready, _, _ = select.select([come], [], [], hang_s)
        if not ready:
            yield "hang"
            return
        data = os.read(come, 1 << 16)
        if not data:
            return
        buffer += data
        while b"\n" in buffer:
            line, _, buffer = buffer.partition(b"\n")
            yield json.loads(line)


def _child(kind: Kind, files: Sequence[bytes], path: Path, sound: Path, folder: Path, go: int) -> None:
    """Read each file, in the place of `path` in a copy of the sound folder, and tell the outcome."""
    warnings.simplefilter("ignore")
    faulthandler.disable()
    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, 1)
    os.dup2(silence, 2)
    used = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY_BYTES, used + MEMORY_BYTES))
    torch.set_num_threads(1)
    for number, data in enumerate(files):
        place = folder / str(number)
        shutil.copytree(sound, place)
        file = place / path.relative_to(sound)
        file.write_bytes(data)
        start = time.perf_counter()
        outcome, why = _outcome(kind, file)
        line = {"outcome": outcome, "why": why, "seconds": time.perf_counter() - start}
        os.write(go, json.dumps(line).encode() + b"\n")
        shutil.rmtree(place, ignore_errors=True)


def _outcome(kind: Kind, path: Path) -> tuple[str, str]:
    try:
        kind.read(path)
        return "ok", ""
    except LaconicError as error:
        str(error).encode("utf-8", "backslashreplace")
        return "named", type(error).__name__
    except BaseException as error:  # noqa: BLE001 - the count of these is what is measured
        frames = traceback.extract_tb(error.__traceback__)
        return "raw", f"{type(error).__name__} at {Path(frames[-1].filename).name}:{frames[-1].lineno}"
