"""Joules against counters of known power: a made powercap tree, an NVML by hand, a meter's file; and that nothing is told where nothing is known."""

from __future__ import annotations

import dataclasses
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from laconic.core.errors import BadInput
from laconic.core.turn import Turn
from laconic.measure import counters, energy, meter
from laconic.measure.counters import Counter, NoCounter
from laconic.measure.energy import Counted, Metered, Metering

PLAN = Metering()
IDLE_W, WORK_W, CALL_S, BATCH = 12.0, 30.0, 0.004, 2


class Machine:
    """A machine by hand: a clock that jumps, and counters that follow it at the power of the moment."""

    def __init__(self, idle_w: float = IDLE_W, work_w: float = WORK_W, drift: float = 0.0) -> None:
        self.now, self.joules, self.idle_w, self.work_w, self.drift = 1_700_000_000.0, 5.0, idle_w, work_w, drift
        self.rows = [(self.now - 60, 0.0), (self.now, 60 * idle_w)]

    def passes(self, seconds: float, watts: float = 0.0) -> None:
        """Let time pass: the idle power drifts meanwhile."""
        steps = max(1, round(seconds / 0.1))
        for _ in range(steps):
            self.now += seconds / steps
            self.joules += seconds / steps * (self.idle_w + watts)
            self.idle_w *= 1 + self.drift * seconds / steps
            self.rows.append((self.now, self.rows[-1][1] + seconds / steps * (self.idle_w + watts)))

    def run(self, seconds: float) -> Turn:
        calls = round(seconds / CALL_S)
        self.passes(calls * CALL_S, self.work_w)
        return Turn([int(1e9 * CALL_S)] * calls, wall_ns=int(1e9 * seconds))

    def measured(self, told_by: energy.Source, plan: Metering = PLAN) -> Any:
        return energy.measure(self.run, told_by, plan, BATCH, self.passes, lambda: self.now)


def counter(machine: Machine, range_j: float | None = None) -> Counter:
    return Counter("made", lambda: machine.joules if range_j is None else machine.joules % range_j, range_j)


EACH_MJ = 1e3 * WORK_W * CALL_S / BATCH


@pytest.mark.parametrize("range_j", [None, 20_000.0], ids=["never round", "goes round"])
def test_joules_of_a_known_power_are_right(range_j: float | None) -> None:
    machine = Machine()
    machine.joules = 19_900.0
    found = machine.measured(Counted([counter(machine, range_j)]))
    assert (found.value, found.unit, found.n, found.device) == (pytest.approx(EACH_MJ, rel=1e-3), "mJ", 10, "made")
    assert found.low <= found.value <= found.high
    assert found.note.startswith("measured by made; 12 W of the idle machine subtracted; 10 windows of 5 s, coefficient of variation ")


def test_a_drift_of_the_idle_machine_cancels() -> None:
    """From 12 to 24 W in a hundred seconds: the idle power of the first rest alone would be half wrong."""
    machine = Machine(drift=0.007)
    found = machine.measured(Counted([counter(machine)]))
    assert found.value == pytest.approx(EACH_MJ, rel=0.01)


def test_unsteady_windows_are_flagged() -> None:
    machine = Machine()
    steps = iter(range(100))
    run = machine.run

    def uneven(seconds: float) -> Turn:
        machine.work_w = WORK_W * (1.1 if next(steps) % 2 else 0.9)
        return run(seconds)

    machine.run = uneven  # type: ignore[method-assign]
    found = machine.measured(Counted([counter(machine)]))
    assert "coefficient of variation 11 %; unsteady: more than 3 %" in found.note
    assert "unsteady" not in Machine().measured(Counted([counter(Machine())])).note


def test_other_work_is_told() -> None:
    machine = Machine()
    run = machine.run
    machine.run = lambda seconds: dataclasses.replace(run(seconds), wait_ns=int(5e8 * seconds))  # type: ignore[method-assign]
    assert "machine busy" in machine.measured(Counted([counter(machine)])).note


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda m: Counter("made", lambda: 7.0), "unknown: the counter made stood still for"),
        (lambda m: Counter("made", lambda: -m.joules), "unknown: the counter made fell from"),
        (
            lambda m: Counter("made", lambda: m.joules % 100.0, 100.0),
            "goes round every 100 J, so that over .* it may have done so more than once",
        ),
        (lambda m: Counter("made", lambda: {}["gone"]), "unknown: the counter made can no longer be read"),
    ],
    ids=["stands still", "falls", "goes round too often", "is gone"],
)
def test_no_counter_no_number(make: Callable[[Machine], Counter], why: str) -> None:
    machine = Machine()
    found = machine.measured(Counted([make(machine)]))
    assert (found.value, found.low, found.n) == (None, None, 0)
    assert pytest.importorskip("re").search(why, found.note), found.note


def test_a_load_that_the_counter_does_not_see_is_unknown() -> None:
    machine = Machine(work_w=-1.0)
    assert "took no more than the idle machine does, 12 W" in machine.measured(Counted([counter(machine)])).note


@pytest.mark.parametrize("change", [{"window_s": 1.0}, {"windows": 3}, {"rest_s": 0.0}], ids=str)
def test_short_windows_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(BadInput, match=f"{next(iter(change))} is .* must be"):
        Metering(**change)


# The kernel's powercap ----------------------------------------------------------------------------------------------------------------


def zone(root: Path, folder: str, name: str, value: int = 1_000_000, most: int = 262_143_328_850) -> Path:
    (root / folder).mkdir(parents=True)
    for file, text in (("name", name), ("energy_uj", value), ("max_energy_range_uj", most)):
        (root / folder / file).write_text(f"{text}\n", encoding="utf-8")
    return root / folder / "energy_uj"


def test_packages_and_memories_are_counted_once(tmp_path: Path) -> None:
    for folder, name in (("intel-rapl:0", "package-0"), ("intel-rapl:0:0", "core"), ("intel-rapl:0:1", "dram"), ("intel-rapl:1", "package-1"),
                         ("intel-rapl:1:0", "dram"), ("intel-rapl:2", "psys"), ("intel-rapl-mmio:0", "package-0")):  # fmt: skip
        zone(tmp_path, folder, name)
    found = counters.powercap(tmp_path)
    assert [one.name for one in found] == [
        "powercap package-0", "powercap dram (intel-rapl:0:1)", "powercap package-1", "powercap dram (intel-rapl:1:0)",
    ]  # fmt: skip
    assert counters.read_all(found[:1]) == {"powercap package-0": 1.0}
    assert found[0].grown(262_143.0, 1.0, 5.0) == pytest.approx(1.328850)


def test_a_tree_that_moves_is_taken_and_one_that_stands_still_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = zone(tmp_path, "intel-rapl:0", "package-0")
    monkeypatch.setattr(counters, "_PATIENCE_S", 0.05)
    with pytest.raises(NoCounter, match="powercap package-0 stands still"):
        counters.counters("cpu", tmp_path)
    monkeypatch.setattr(counters.time, "sleep", lambda _: file.write_text("2000000", encoding="utf-8"))
    assert [one.name for one in counters.counters("cpu", tmp_path)] == ["powercap package-0"]


def test_a_counter_that_may_not_be_read_says_how(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = zone(tmp_path, "intel-rapl:0", "package-0")
    read = Path.read_text

    def denied(self: Path, *args: Any, **more: Any) -> str:
        if self == file:
            raise PermissionError(13, "Permission denied")
        return read(self, *args, **more)

    monkeypatch.setattr(Path, "read_text", denied)  # root reads everything, so the mode of the file would prove nothing
    with pytest.raises(NoCounter, match=r"energy_uj may not be read: since Linux 5.10 root alone may. Let it be read: sudo chmod a\+r"):
        counters.counters("cpu", tmp_path)


@pytest.mark.parametrize(("name", "value"), [("psys", 1), ("package-0", "many")], ids=["no package", "no number"])
def test_a_tree_without_a_count_has_no_counter(tmp_path: Path, name: str, value: Any) -> None:
    zone(tmp_path, "intel-rapl:0", name, value)
    with pytest.raises(NoCounter, match="has no zone of a package" if name == "psys" else "cannot be read"):
        counters.powercap(tmp_path)


def test_without_a_counter_the_reason_names_the_way_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(counters, "POWERCAP", tmp_path / "none")
    with pytest.raises(BadInput, match=r"energy is unknown here: there is no counter of the processor's energy: .*--meter FILE.csv"):
        energy.source(PLAN)
    with pytest.raises(BadInput, match="no counter of the device 'xla:tpu' is known"):
        energy.source(PLAN, "xla:tpu")


def test_a_gpu_is_counted_by_nvml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    library = types.ModuleType("pynvml")
    millijoules = iter(range(0, 10_000_000, 500))
    vars(library).update(
        nvmlInit=lambda: None,
        nvmlDeviceGetHandleByIndex=lambda i: asked.append(i) or "handle",
        nvmlDeviceGetHandleByUUID=lambda u: asked.append(u) or "handle",
        nvmlDeviceGetName=lambda _: b"Made GPU",
        nvmlDeviceGetTotalEnergyConsumption=lambda _: next(millijoules),
    )
    monkeypatch.setitem(sys.modules, "pynvml", library)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,GPU-ab")
    (one,) = counters.counters("cuda", tmp_path)
    assert (one.name, one.read(), one.read()) == ("NVML Made GPU", 1.5, 2.0)
    counters.counters("cuda:1", tmp_path)
    assert asked == [3, b"GPU-ab"]
    monkeypatch.setitem(sys.modules, "pynvml", None)
    with pytest.raises(NoCounter, match=r"pip install 'laconic\[nvidia\]'"):
        counters.counters("cuda", tmp_path)


# A meter of one's own -----------------------------------------------------------------------------------------------------------------


def written(machine: Machine, path: Path, column: str) -> Path:
    rows = machine.rows if column == "energy_j" else [
        (t, (e - b) / (t - s)) for (s, b), (t, e) in zip(machine.rows, machine.rows[1:], strict=False)
    ]  # fmt: skip
    path.write_text(f"time, volts, {column}\n" + "".join(f"{t:.4f}, 230, {v:.6f}\n" for t, v in rows) + "17000000", encoding="utf-8")
    return path


@pytest.mark.parametrize(("column", "within"), [("energy_j", 1e-3), ("power_w", 1e-3)])
def test_a_meters_file_is_read_at_our_windows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, column: str, within: float) -> None:
    machine, path = Machine(), tmp_path / "meter.csv"
    monkeypatch.setattr(energy.time, "time", lambda: machine.now)
    told_by = Metered(meter.Meter(path))
    joules = meter.Meter.joules

    def late(self: meter.Meter, begin: float, end: float) -> float:
        if not path.exists():
            machine.passes(1.0)
            written(machine, path, column)
        return joules(self, begin, end)

    monkeypatch.setattr(meter.Meter, "joules", late)
    found = machine.measured(told_by)
    assert found.value == pytest.approx(EACH_MJ, rel=within)
    assert found.note.startswith("imported by the meter meter.csv; 12 W")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("time,amps\n1,2\n3,4\n", "needs a column time or .*; its first line has time, amps"),
        ("time,power_w\n1,2\n", "fewer than two rows"),
        ("time,power_w\n2,2\n1,2\n", "its times do not grow"),
        ("time,energy_j\n1,5\n2,4\n", "its energy falls"),
        ("time,power_w\n1,nan\n2,4\n", "its energy falls"),
        ("time,power_w\nnoon,5\n2,4\n", "line 2: "),
        ("time,power_w\n1\n2,4\n", "line 2: "),
    ],
    ids=["columns", "one row", "times", "falls", "no number", "no time", "short row"],
)
def test_a_file_that_is_none_is_told(tmp_path: Path, text: str, why: str) -> None:
    (tmp_path / "m.csv").write_text(text, encoding="utf-8")
    with pytest.raises(BadInput, match=why):
        meter.read(tmp_path / "m.csv")


@pytest.mark.parametrize(
    ("begin", "end", "why"),
    [
        (-5.0, 5.0, "has rows from 0.000 to 100.000"),
        (10.0, 12.0, "rows are up to 1 s apart, too far for a window of 2 s; let it write more often, or take longer windows"),
    ],
    ids=["before the first row", "too coarse"],
)
def test_what_the_rows_do_not_tell_is_unknown(begin: float, end: float, why: str) -> None:
    rows = meter.Rows(tuple(map(float, range(101))), tuple(map(float, range(101))))
    assert meter.between(rows, 10.5, 30.25) == pytest.approx(19.75)
    with pytest.raises(BadInput, match=why):
        meter.between(rows, begin, end)


def test_a_meter_that_has_stopped_is_refused_at_the_start(tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text("timestamp,power_w\n2023-11-14T22:13:20Z,5\n2023-11-14T22:13:21Z,5\n", encoding="utf-8")
    with pytest.raises(BadInput, match="its last row is .* s old"):
        energy.source(Metering(meter=str(tmp_path / "m.csv")))
    with pytest.raises(BadInput, match="cannot be read"):
        energy.source(Metering(meter=str(tmp_path / "none.csv")))
