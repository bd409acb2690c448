"""The kinds of files that are fuzzed: how a sound one is written, and how one is read. A library: `benchmarks/fuzz.py` mutates and reads them."""

from __future__ import annotations

import functools
import itertools
import json
import resource
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

import laconic as lc
from laconic.deploy.artifact import Artifact
from laconic.run.bench import random_inputs

LAC_BYTES = 32 << 20  # beyond what the process has when it is forked, for an archive whose head states five


@dataclass(frozen=True)
class Kind:
    """A kind of file.

    Attributes:
        seed: writes a sound file, or a folder with it, and returns the path that is mutated.
        read: reads that path as a user's call does, and uses what it read.
    """

    seed: Callable[[Path], Path]
    read: Callable[[Path], object]


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


def written(name: str, content: str | bytes) -> Callable[[Path], Path]:
    """Return what writes a sound file of this name and content into a folder."""

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
    return written("result.json", json.dumps(named("pruned")))(folder)


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
    return written("spent.json", json.dumps({"train": 1.5, "time": 2.0, "total": 4.0}))(folder)


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
    return written("check.json", json.dumps(to_json(record)))(folder)


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
    """Each array in each coding, small and to be read fast, with its length: no digest stands between an altered byte and the decoder."""
    from laconic.storage import codings
    from laconic.storage.bits import counted

    data = b""
    for fast, (_, values) in itertools.product((False, True), _lac_tensors()):
        for place, coding in enumerate(codings.TABLE):
            coded = coding.encode(values.filled(values.patterns, fast))
            data += counted(b"" if coded is None else bytes([place]) + coded.data)
    return written("pieces.bin", data)(folder)


def _read_pieces(path: Path) -> object:
    from laconic.core.reading import reading
    from laconic.storage import codings
    from laconic.storage.bits import Reader

    with reading(path, "a file of pieces", "Write it again."):
        reader = Reader(path.read_bytes())
        for _, (_, values) in itertools.product((False, True), _lac_tensors()):
            for _ in codings.TABLE:
                piece = reader.counted()
                if piece:
                    patterns = codings.decode(piece, values)
                    assert patterns.shape == (values.count,)
    return None


KINDS: dict[str, Kind] = {
    "recipe.yaml": Kind(written("recipe.yaml", RECIPE), _read_recipe),
    "model.pt2": Kind(_pt2, _read_pt2),
    "model.onnx": Kind(_onnx, _read_artifact),
    "artifact.json": Kind(_card, _read_artifact),
    "result.json": Kind(_result, _read_result),
    "run.json": Kind(written("run.json", json.dumps({"format": 2, "run": {"task": "digits", "data": {"valid": "a"}}})), _read_manifest),
    "spent.json": Kind(_spent, _read_spent),
    "check.json": Kind(_check, _read_check),
    "latency table": Kind(written("table.json", json.dumps({"reference": 0.5, '["linear", 1]': 1.5})), _read_table),
    "data.npz": Kind(_npz, _read_npz),
    "checkpoint": Kind(_checkpoint, _read_checkpoint),
    "model.lac": Kind(_lac, _read_lac),
    "pieces of .lac": Kind(_pieces, _read_pieces),
}
