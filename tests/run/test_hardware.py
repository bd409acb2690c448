"""Times of artifacts on a machine: without PyTorch, going on where they were broken off, written as a record that is checked when it is read."""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from typer.testing import CliRunner

import laconic as lc
from laconic.cli import app
from laconic.core.errors import BadInput, CorruptFile, Mistakes
from laconic.core.machine_record import BatchTiming, MachineRecord, from_plain
from laconic.core.records import Measurement, to_json
from laconic.core.target import Target
from laconic.deploy.artifact import save_artifact
from laconic.deploy.portable import Portable
from laconic.measure import counters
from laconic.measure.cost import Price
from laconic.measure.energy import Metering
from laconic.run import hardware
from laconic.run.hardware import Timing, folded, items_of, measure, priced, priced_by_name, record

QUICK = Timing((1, 4), rounds=6, turn_seconds=0.01, timeout_s=60)
# Nothing but what an ONNX artifact needs: imports of these fail.
WITHOUT_TORCH = """\
import sys
ABSENT = 'torch torchvision onnx onnxscript openvino transformers accelerate torchmetrics optuna scipy sklearn jinja2 plotly yaml safetensors jax'.split()
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition('.')[0] in ABSENT:
            raise ModuleNotFoundError(f'No module named {name!r}', name=name)
sys.meta_path.insert(0, Absent())
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    program = lc.capture(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)).eval(), torch.zeros(2, 4))
    return save_artifact(program, tmp_path_factory.mktemp("hardware") / "net", Target(threads=1), {}).folder


@pytest.fixture(scope="module")
def events(folder: Path) -> list[dict[str, Any]]:
    return list(measure({"net": Portable.of(folder)}, QUICK))


def test_a_portable_is_the_artifact(folder: Path) -> None:
    whole, light = lc.Artifact.open(folder), Portable.of(folder)
    for name in ("file", "target", "inputs", "size_bytes", "sha256", "numerics"):
        assert getattr(light, name) == getattr(whole, name)
    assert [path.name for path in light.files] == ["artifact.json", "model.onnx"]
    assert light.refusal() is None
    assert "no QNNExecutionProvider" in (light.with_target(device="qnn").refusal() or "it is here: no QNNExecutionProvider")
    with pytest.raises(BadInput, match="torch in fp32 reads pt2 files"):
        light.with_target(runtime="torch")


def test_weights_beside_the_file_travel_too(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "big")
    card = json.loads((tmp_path / "big" / "artifact.json").read_text(encoding="utf-8"))
    (tmp_path / "big" / "model.onnx.data").write_bytes(b"weights")
    assert [path.name for path in Portable.of(tmp_path / "big").files] == ["artifact.json", "model.onnx"]  # not the card's: left here
    card["sha256"] = _both(tmp_path / "big" / "model.onnx", tmp_path / "big" / "model.onnx.data")
    (tmp_path / "big" / "artifact.json").write_text(json.dumps(card), encoding="utf-8")
    assert [path.name for path in Portable.of(tmp_path / "big").files] == ["artifact.json", "model.onnx", "model.onnx.data"]


def _both(*files: Path) -> str:
    from hashlib import sha256

    return sha256("".join(sha256(file.read_bytes()).hexdigest() for file in files).encode()).hexdigest()


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"file": "../net/model.onnx"}, "not a model file beside it"),
        ({"file": "run.py"}, "not a model file beside it"),
        ({"file": "gone.onnx"}, "is missing"),
        ({"sha256": "0" * 64}, "SHA-256 is another"),
        ({"inputs": [{"name": 1, "shape": [1], "dtype": "float32"}]}, "no tensor"),
        ({"target": {"runtime": 3}}, "the target makes no sense"),
    ],
)
def test_a_card_that_lies_is_refused(folder: Path, tmp_path: Path, change: dict[str, Any], told: str) -> None:
    shutil.copytree(folder, tmp_path / "net")
    card = json.loads((folder / "artifact.json").read_text(encoding="utf-8"))
    (tmp_path / "net" / "artifact.json").write_text(json.dumps({**card, **change}), encoding="utf-8")
    with pytest.raises((BadInput, CorruptFile), match=told):
        Portable.of(tmp_path / "net")
    with pytest.raises(BadInput, match=r"has no artifact\.json"):
        Portable.of(tmp_path)


def test_the_record_tells_what_was_measured(folder: Path, events: list[dict[str, Any]]) -> None:
    made = folded(events, {"net": Portable.of(folder)}, QUICK, "bench 1")
    (one,) = made.artifacts
    assert made.machine == "bench 1"
    assert made.environment["cores"] >= 1
    assert [timing.batch for timing in one.timings] == [1, 4]
    for timing in one.timings:
        turns = [e["times_ns"]["net"] for e in events if e["kind"] == "times" and e["batch"] == timing.batch]
        rounds = [turn for chunk in turns for turn in chunk]
        assert len(rounds) == 6
        assert timing.latency_ms.value == pytest.approx(statistics.median(1e-6 * ns for turn in rounds for ns in turn))
        expected = statistics.median(timing.batch * 1e9 / statistics.median(turn) for turn in rounds)
        assert timing.throughput_per_s.value == pytest.approx(expected)
    assert one.cold_start_ms is not None
    assert one.cold_start_ms > 0
    assert one.timings[0].energy_mj.value is None
    assert "unknown" in one.timings[0].energy_mj.note


def test_what_is_known_is_not_measured_again(folder: Path, events: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    items = {"net": Portable.of(folder)}
    first = max(i for i, event in enumerate(events) if event["kind"] == "times" and event["batch"] == 1)
    asked: list[int] = []
    real = hardware.latency.interleave
    monkeypatch.setattr(
        hardware.latency, "interleave", lambda candidates, rounds, *a, **k: asked.append(rounds) or real(candidates, rounds, *a, **k)
    )
    rest = list(measure(items, QUICK, events[: first + 1]))
    assert asked == [5, 1]  # of batch 4: batch 1 was there
    assert [event["kind"] for event in rest] == ["times", "times", "memory"]
    whole = folded([*events[: first + 1], *rest], items, QUICK)
    assert whole.artifacts[0].timings[0] == folded(events, items, QUICK).artifacts[0].timings[0]
    assert [timing.throughput_per_s.n for timing in whole.artifacts[0].timings] == [6, 6]


def test_one_that_fails_is_told_and_the_others_go_on(folder: Path, tmp_path: Path) -> None:
    items = {"net": Portable.of(folder), "far": Portable.of(folder).with_target(device="qnn")}
    made = record(items, Timing(rounds=6, turn_seconds=0.01, timeout_s=60))
    good, bad = made.artifacts
    assert good.timings
    assert not good.failed
    assert "QNNExecutionProvider" in bad.failed
    assert bad.timings == ()
    with pytest.raises(BadInput, match="nothing could be timed: far: "):
        record({"far": items["far"]}, QUICK)


METERED = Timing((1, 4), rounds=6, turn_seconds=0.01, timeout_s=60, metering=Metering())
USED = Measurement(3.0, "mJ", 10, 2.5, 3.5, "made", "measured by made")


def test_energy_goes_into_the_record_and_is_not_measured_twice(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, int, int]] = []

    def joules(run: Any, metering: Metering, device: str, batch: int) -> Measurement:
        asked.append((device, batch, len(run(0.01).times_ns)))
        return replace(USED, value=3.0 + batch)

    monkeypatch.setattr(hardware, "joules", joules)
    items = {"net": Portable.of(folder)}
    events = list(measure(items, METERED))
    assert [(device, batch) for device, batch, _ in asked] == [("cpu", 1), ("cpu", 4)]
    assert all(calls >= 1 for *_, calls in asked)
    made = folded(events, items, METERED)
    assert [timing.energy_mj for timing in made.artifacts[0].timings] == [replace(USED, value=4.0), replace(USED, value=7.0)]
    first = next(i for i, event in enumerate(events) if event["kind"] == "energy")
    rest = list(measure(items, METERED, events[: first + 1]))
    assert [event["batch"] for event in rest if event["kind"] == "energy"] == [4]
    assert folded([*events[: first + 1], *rest], items, METERED).artifacts[0].timings[0].energy_mj.value == 4.0


def test_energy_that_nothing_counts_is_unknown_in_the_record(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(counters, "POWERCAP", tmp_path / "none")
    made = record({"net": Portable.of(folder)}, replace(METERED, batches=(1,)))
    (timing,) = made.artifacts[0].timings
    assert timing.latency_ms.value is not None
    assert timing.energy_mj.value is None
    assert timing.energy_mj.note.startswith("unknown: energy is unknown here: there is no counter of the processor's energy")


def test_money_is_the_price_of_the_measured_time_and_energy(folder: Path, events: list[dict[str, Any]]) -> None:
    items = {"net": Portable.of(folder)}
    plain = folded(events, items, QUICK, "server")
    made = priced(plain, Price(per_hour=3.6, currency="EUR", name="server"))
    for timing in made.artifacts[0].timings:
        rate = timing.throughput_per_s
        assert (timing.cost_per_million.value, timing.cost_per_million.unit) == (pytest.approx(1e3 / rate.value), "EUR")
        assert timing.cost_per_million.low == pytest.approx(1e3 / rate.high)
        assert timing.cost_per_million.high == pytest.approx(1e3 / rate.low)
    unknown = priced(plain, Price(per_kwh=0.3)).artifacts[0].timings[0].cost_per_million
    assert (unknown.value, unknown.note) == (None, "energy has a price and was not measured: unknown: it was not asked for")
    other = replace(plain, machine="board")
    by_name = priced_by_name([plain, other], {"board": Price(per_hour=1.0), "third": Price(per_hour=2.0)})
    assert by_name[0] == plain
    assert by_name[1].artifacts[0].timings[0].cost_per_million.note == "at 1 USD an hour"
    with pytest.raises(BadInput, match="no price is called as a machine of these records: prices of third, records of server"):
        priced_by_name([plain], {"third": Price(per_hour=2.0)})


def test_the_command_records_energy_and_money(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each option changes what is recorded: none, --energy, --meter, --prices by the hour and by the kilowatt-hour."""
    asked: list[Metering] = []
    monkeypatch.setattr(hardware, "joules", lambda run, metering, device, batch: asked.append(metering) or USED)
    (tmp_path / "prices.yaml").write_text("currency: EUR\nhour: {per_hour: 0.36}\nrack: {per_kwh: 0.36}\n", encoding="utf-8")
    base = ["bench", str(folder), "--record", str(tmp_path / "a.json"), "--rounds", "6", "--quiet"]

    def timed(*more: str) -> BatchTiming:
        done = CliRunner().invoke(app, [*base, *more])
        assert done.exit_code == 0, done.output
        return MachineRecord.read(tmp_path / "a.json").artifacts[0].timings[0]

    bare = timed()
    assert (bare.energy_mj.value, bare.cost_per_million.value, asked) == (None, None, [])
    assert timed("--energy").energy_mj == USED
    assert timed("--meter", str(tmp_path / "m.csv")).energy_mj == USED
    assert [metering.meter for metering in asked] == [None, str(tmp_path / "m.csv")]
    hour = timed("--prices", str(tmp_path / "prices.yaml"), "--price", "hour")
    assert len(asked) == 2
    assert (hour.cost_per_million.unit, hour.cost_per_million.device) == ("EUR", "hour")
    assert hour.cost_per_million.value == pytest.approx(100 / hour.throughput_per_s.value)
    rack = timed("--prices", str(tmp_path / "prices.yaml"), "--price", "rack")  # energy has the price, so that it is measured
    assert (rack.energy_mj, rack.cost_per_million.value) == (USED, pytest.approx(1e6 * 3e-3 / 3.6e6 * 0.36))


@pytest.mark.parametrize("wrong", [{"batches": ()}, {"batches": (0,)}, {"rounds": 5}, {"turn_seconds": float("nan")}, {"timeout_s": 0.0}])
def test_what_makes_no_sense_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(Mistakes, match=next(iter(wrong))):
        Timing(**wrong)


def test_no_pytorch_is_needed_to_record_an_onnx_artifact(folder: Path, tmp_path: Path) -> None:
    """On a machine that lacks it: imports of PyTorch and of onnx fail, in this process and in the worker's."""
    (tmp_path / "sitecustomize.py").write_text(WITHOUT_TORCH, encoding="utf-8")
    paths = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")]), str(Path(lc.__file__).parents[1])])
    argv = ["-m", "laconic", "bench", str(folder), "--record", str(tmp_path / "a.json"), "--rounds", "6", "--batch", "1,2", "--quiet"]
    done = subprocess.run(
        [sys.executable, *argv, "--machine", "board"], env={**os.environ, "PYTHONPATH": paths}, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert "Record: " in done.stdout
    read = MachineRecord.read(tmp_path / "a.json")
    assert read.machine == "board"
    assert read.artifacts[0].name == folder.name
    assert [timing.batch for timing in read.artifacts[0].timings] == [1, 2]


def test_a_runs_folder_gives_what_ships_and_the_fastest(folder: Path, tmp_path: Path) -> None:
    rows = []
    for key, ms, status in (("a", 3.0, "passed"), ("b", 1.0, "passed"), ("c", 2.0, "passed"), ("d", 0.5, "rejected"), ("e", 4.0, "passed")):
        shutil.copytree(folder, tmp_path / "candidates" / key / "artifact")
        rows.append({"key": key, "title": f"net {key}", "status": status, "artifact": "there", "latency_ms": {"value": ms}})
    (tmp_path / "run.json").write_text("{}", encoding="utf-8")
    (tmp_path / "result.json").write_text(json.dumps({"format": 1, "best": "e", "candidates": rows}), encoding="utf-8")
    assert list(items_of(tmp_path)) == ["net e", "net b", "net c"]
    assert list(items_of(tmp_path, best=1)) == ["net e"]
    assert items_of(tmp_path, threads=2)["net b"].target.threads == 2


# Records are read by others -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def plain(folder: Path, events: list[dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    file = tmp_path_factory.mktemp("record") / "a.json"
    made = folded(events, {"net": Portable.of(folder)}, QUICK)
    made.write(file)
    assert MachineRecord.read(file) == from_plain(to_json(made))
    assert to_json(MachineRecord.read(file)) == to_json(made)
    return dict(json.loads(file.read_text(encoding="utf-8")))


@pytest.mark.parametrize(
    ("path", "value", "told"),
    [
        (("kind",), "another", "is no machine's record"),
        (("format",), 99, "Install a newer Laconic"),
        (("format",), True, "Install a newer Laconic"),
        (("machine",), 3, "machine is no text"),
        (("machine",), "x" * 5000, "machine is no text"),
        (("environment",), [], "environment is no mapping"),
        (("environment",), {"a": {"b": {"c": {"d": {"e": {"f": 1}}}}}}, "is no plain value"),
        (("artifacts",), {}, "artifacts is no list"),
        (("artifacts", 0), 3, "artifacts: an entry is int"),
        (("artifacts", 0, "size_bytes"), -1, "size_bytes: -1 is no number"),
        (("artifacts", 0, "cold_start_ms"), "1", "cold_start_ms: 1 is no number"),
        (("artifacts", 0, "timings", 0, "batch"), 0, "no batch size"),
        (("artifacts", 0, "timings", 0, "latency_ms"), 3, "latency_ms is no mapping"),
        (("artifacts", 0, "timings", 0, "latency_ms", "value"), True, "latency_ms.value: True is no number"),
        (("artifacts", 0, "timings", 0, "latency_ms", "n"), -2, "latency_ms.n is no count"),
        (("artifacts", 0, "timings", 0, "energy_mj", "value"), "3", "energy_mj.value: 3 is no number"),
        (("artifacts", 0, "timings", 0, "cost_per_million"), [], "cost_per_million is no mapping"),
    ],
)
def test_a_record_that_is_none_is_told_with_its_file(
    plain: dict[str, Any], tmp_path: Path, path: tuple[Any, ...], value: Any, told: str
) -> None:
    broken = json.loads(json.dumps(plain))
    place = broken
    for name in path[:-1]:
        place = place[name]
    place[path[-1]] = value
    (tmp_path / "b.json").write_text(json.dumps(broken), encoding="utf-8")
    with pytest.raises(CorruptFile, match=rf"b\.json.*{told}"):
        MachineRecord.read(tmp_path / "b.json")


def test_a_record_without_money_is_an_older_one(plain: dict[str, Any], tmp_path: Path) -> None:
    older = json.loads(json.dumps(plain))
    del older["artifacts"][0]["timings"][0]["cost_per_million"]
    (tmp_path / "b.json").write_text(json.dumps(older), encoding="utf-8")
    read = MachineRecord.read(tmp_path / "b.json").artifacts[0].timings[0].cost_per_million
    assert (read.value, read.note) == (None, "unknown: no price of this machine was given")


@pytest.mark.parametrize("content", [b"", b"\x80\x04", b"[" * 100_000, b'{"kind": NaN}', np.arange(9).tobytes()])
def test_no_json_no_record(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "b.json").write_bytes(content)
    with pytest.raises(CorruptFile, match=r"b\.json"):
        MachineRecord.read(tmp_path / "b.json")
    with pytest.raises(BadInput, match="there is no record"):
        MachineRecord.read(tmp_path / "none.json")
