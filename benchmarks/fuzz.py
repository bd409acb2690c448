"""Mutated files of every kind that Laconic reads, and what became of them. A library: `benchmarks.campaign fuzz` and the tests call it.

Seeds are sound files. A mutant has bytes flipped, cut, doubled or zeroed; in JSON, YAML and the entries of archives also one value of the tree replaced by
what nobody expects there, with checksums made right again, so that more than the checksum is tried. Each is read in a forked process with limits of memory
and time, which tells its outcome; one that dies or hangs is known by the file it had begun.
"""

from __future__ import annotations

import faulthandler
import functools
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
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

import laconic as lc
from laconic.core.errors import LaconicError
from laconic.deploy.artifact import Artifact
from laconic.run.bench import random_inputs

HANG_S = 30.0
MEMORY_BYTES = 6 << 30  # beyond what the process has when it is forked
LAC_BYTES = 32 << 20  # likewise, for an archive whose head states five
BATCH = 50  # files of one process
OUTCOMES = ("ok", "named", "raw", "crash", "hang")


@dataclass(frozen=True)
class Kind:
    """A kind of file.

    Attributes:
        seed: writes a sound file, or a folder with it, and returns the path that is mutated.
        read: reads that path as a user's call does, and uses what it read.
    """

    seed: Callable[[Path], Path]
    read: Callable[[Path], object]


@dataclass
class Counts:
    """How many files of a kind had each outcome, and the first example of each thing that went wrong: outcome and error -> file's number."""

    outcomes: Counter[str] = field(default_factory=Counter)
    wrong: dict[str, int] = field(default_factory=dict)
    slowest_s: float = 0.0

    def __str__(self) -> str:
        return ", ".join(f"{self.outcomes[name]} {name}" for name in OUTCOMES) + f"; slowest {self.slowest_s:.1f} s"


# The kinds ---------------------------------------------------------------------------------------------------------------------------


class Net(torch.nn.Module):
    """A small net with a branch of shapes, so that its graph holds symbolic sizes."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = torch.nn.Conv2d(1, 4, 3), torch.nn.Linear(4 * 36, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(torch.relu(self.conv(x)).reshape(x.shape[0], -1))


@functools.cache
def _program() -> lc.Program:
    torch.manual_seed(0)
    return lc.capture(Net(), torch.zeros(2, 1, 8, 8))


RECIPE = """version: 1
task: digits
steps:
  - fold_batch_norm
  - prune: {macs: 0.5, criterion: l1, recovery: {epochs: 3, lr: 0.01}}
  - quantize: {mode: static, target: onnxruntime}
deploy: {runtime: onnxruntime, precision: fp32, threads: 2}
budget: {max_drop: 0.5, min_speedup: 2, limits: {max_size_mb: 3}, objective: latency}
"""


def _written(name: str, content: str | bytes) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        data = content.encode() if isinstance(content, str) else content
        (folder / name).write_bytes(data)
        return folder / name

    return write


def _read_recipe(path: Path) -> object:
    file = lc.read_recipe(path)
    return file.recipe.title, None if file.budget is None else lc.Budget.from_plain(file.budget)


def _pt2(folder: Path) -> Path:
    return _program().save(folder / "model.pt2")


def _read_pt2(path: Path) -> object:
    program = lc.Program.load(path)
    return program.fingerprint()


def _onnx(folder: Path) -> Path:
    return lc.export(_program(), folder / "model.onnx").file.rename(folder / "alone.onnx")


def _card(folder: Path) -> Path:
    lc.export(_program(), folder / "model.onnx")
    return folder / "artifact.json"


def _read_artifact(path: Path) -> object:
    artifact = Artifact.open(path.parent if path.suffix == ".json" else path)
    random_inputs(artifact.inputs, 2, {}, 0)
    return artifact.numerics, artifact.format


def _result(folder: Path) -> Path:
    from tests.report.results import named

    (folder / "run.json").write_text(json.dumps({"format": 2, "run": {}}), encoding="utf-8")
    return _written("result.json", json.dumps(named("pruned")))(folder)


def _read_result(path: Path) -> object:
    from laconic.run.store import read_result
    from laconic.search.result import Result

    result = Result(path.parent, read_result(path.parent))
    return str(result), result.report(path.parent / "page.html")


def _read_manifest(path: Path) -> object:
    from laconic.run.store import RunStore

    RunStore(path.parent, {"task": "digits", "data": {"valid": "a"}}).close()
    return None


def _spent(folder: Path) -> Path:
    (folder / "run.json").write_text(json.dumps({"format": 2, "run": {}}), encoding="utf-8")
    return _written("spent.json", json.dumps({"train": 1.5, "time": 2.0, "total": 4.0}))(folder)


def _read_spent(path: Path) -> object:
    from laconic.run.ledger import Ledger
    from laconic.run.store import RunStore

    with RunStore(path.parent, {}) as store:
        ledger = Ledger()
        ledger.resume(store)
        return ledger.spent()


def _check(folder: Path) -> Path:
    (folder / "run.json").write_text(json.dumps({"format": 2, "run": {}}), encoding="utf-8")
    from laconic.core.records import Outcome, to_json
    from laconic.run.record import Reason, Record

    record = Record.of(lc.Recipe(), reasons=(Reason("a", "b"),), outcomes=(Outcome("fold", {"n": 2}),)).with_measured(drop=1.0)
    return _written("check.json", json.dumps(to_json(record)))(folder)


def _read_check(path: Path) -> object:
    from laconic.run.record import Record
    from laconic.run.store import RunStore

    with RunStore(path.parent, {}) as store:
        record = store.read_as(path.name, Record.from_json)
        return record.value("drop"), record.speedup, record.title


def _read_table(path: Path) -> object:
    return lc.latency_table(table=path).known


def _npz(folder: Path) -> Path:
    from laconic.tasks.catalog import TASKS

    entry = next(
        entry for entry in TASKS.values() if entry.source.files and entry.source.files[0].endswith(".npz") and entry.kind == "series"
    )
    (folder / entry.source.files[0]).parent.mkdir(parents=True)
    x, y = np.random.default_rng(0).standard_normal((20, 1, 16)).astype(np.float32), np.arange(20) % 2
    np.savez(folder / entry.source.files[0], x_train=x, y_train=y, x_test=x, y_test=y)
    return folder / entry.source.files[0]


def _read_npz(path: Path) -> object:
    from laconic.tasks.catalog import TASKS

    name = next(name for name, entry in TASKS.items() if any(path.match(file) for file in entry.source.files))
    return len(lc.load_task(name, data=path.parent.parent).valid)  # type: ignore[arg-type]


def _optimizer() -> tuple[torch.nn.Module, torch.optim.Optimizer]:
    model = torch.nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(2, 3)).sum().backward()
    optimizer.step()
    return model, optimizer


def _checkpoint(folder: Path) -> Path:
    from laconic.train import checkpoint

    checkpoint.save(folder, *_optimizer(), {"epochs": []}, {})
    return folder / checkpoint.FILE


def _read_checkpoint(path: Path) -> object:
    from laconic.train import checkpoint

    return checkpoint.load(path.parent, *_optimizer())


def _lac_tensors() -> list[tuple[np.ndarray, Any]]:
    """Arrays, each of which another coding is smallest for or is made to be, and what a decoder is told of them."""
    from laconic.storage.coded import Values
    from laconic.storage.kinds import KINDS as NUMBERS

    rng = np.random.default_rng(0)
    dense = rng.standard_normal(3000).astype(np.float32)
    sparse = np.where(rng.random(3000) < 0.1, dense, 0).astype(np.float32)
    shared = np.rint(sparse * 4) / np.float32(4)
    whole = np.clip(np.rint(dense * 30), -127, 127).astype(np.int8)
    made = [(dense, "float32"), (sparse, "float32"), (shared, "float32"), (whole, "int8"), (dense.astype(np.float16), "float16")]
    return [(array, Values(NUMBERS[kind], array.size, 60).filled(NUMBERS[kind].patterns(array.tobytes()))) for array, kind in made]


def _lac(folder: Path) -> Path:
    from safetensors.numpy import save_file

    save_file({f"t{place}": array.reshape(-1, 60) for place, (array, _) in enumerate(_lac_tensors())}, folder / "alone.safetensors")
    return lc.pack(folder / "alone.safetensors", folder / "model.lac").file


def _read_lac(path: Path) -> object:
    """Unpack within little more memory than the archive's head states; a file that comes out must be the one that went in."""
    sound = path.with_name("alone.safetensors").read_bytes()
    used = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0]) * resource.getpagesize()
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + LAC_BYTES, hard))
    try:
        back = lc.unpack(path, path.with_name("back.safetensors"), most_bytes=1 << 26).read_bytes()
    except lc.CorruptFile as error:
        if isinstance(error.__cause__, MemoryError):
            raise RuntimeError("more memory than the head states") from error
        raise
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
    assert back == sound, "a wrong tensor"
    return None


def _pieces(folder: Path) -> Path:
    """Each array in each coding, one after the other with its length: no digest stands between an altered byte and the decoder."""
    from laconic.storage import codings
    from laconic.storage.bits import counted

    data = b""
    for _, values in _lac_tensors():
        for place, coding in enumerate(codings.TABLE):
            coded = coding.encode(values)
            data += counted(b"" if coded is None else bytes([place]) + coded.data)
    return _written("pieces.bin", data)(folder)


def _read_pieces(path: Path) -> object:
    from laconic.core.reading import reading
    from laconic.storage import codings
    from laconic.storage.bits import Reader

    with reading(path, "a file of pieces", "Write it again."):
        reader = Reader(path.read_bytes())
        for _, values in _lac_tensors():
            for _ in codings.TABLE:
                piece = reader.counted()
                if piece:
                    patterns = codings.decode(piece, values)
                    assert patterns.shape == (values.count,)
    return None


KINDS: dict[str, Kind] = {
    "recipe.yaml": Kind(_written("recipe.yaml", RECIPE), _read_recipe),
    "model.pt2": Kind(_pt2, _read_pt2),
    "model.onnx": Kind(_onnx, _read_artifact),
    "artifact.json": Kind(_card, _read_artifact),
    "result.json": Kind(_result, _read_result),
    "run.json": Kind(_written("run.json", json.dumps({"format": 2, "run": {"task": "digits", "data": {"valid": "a"}}})), _read_manifest),
    "spent.json": Kind(_spent, _read_spent),
    "check.json": Kind(_check, _read_check),
    "latency table": Kind(_written("table.json", json.dumps({"reference": 0.5, '["linear", 1]': 1.5})), _read_table),
    "data.npz": Kind(_npz, _read_npz),
    "checkpoint": Kind(_checkpoint, _read_checkpoint),
    "model.lac": Kind(_lac, _read_lac),
    "pieces of .lac": Kind(_pieces, _read_pieces),
}

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
