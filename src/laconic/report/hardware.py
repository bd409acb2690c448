"""One artifact on many machines: the records of machines as a table, for the terminal and as a page. Each number stands beside the machine that it is of."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from laconic.core.errors import BadInput
from laconic.core.files import write_whole
from laconic.core.machine_record import ArtifactTimes, MachineRecord
from laconic.core.records import Measurement
from laconic.report.charts import lines_chart
from laconic.report.drawing import spread_chart
from laconic.report.page import render
from laconic.report.units import BYTES, TIME, in_unit, scaled

COLUMNS = ("Artifact", "Machine", "Batch", "Median", "p95", "Per second", "Energy", "Per million", "Cold start")
NUMBERS = COLUMNS[2:]


@dataclass(frozen=True)
class Line:
    """One artifact on one machine at one batch size, ready to be read; `cells` are those of `COLUMNS`, `mark` says what disturbed it or why it has no times."""

    cells: tuple[str, ...]
    mark: str = ""


@dataclass(frozen=True)
class Spread:
    """Figures with their intervals in one unit: what they are of, what stands along, and by name the figure."""

    title: str
    axis: str
    figures: Mapping[str, Measurement]


@dataclass(frozen=True)
class Hardware:
    """Machines with what they are, lines, curves of latency by batch (name -> places, heights), spreads of energy and money, and notes on what may mislead."""

    machines: tuple[tuple[str, tuple[tuple[str, str], ...]], ...]
    lines: tuple[Line, ...]
    curves: Mapping[str, tuple[list[float], list[float | None]]]
    spreads: tuple[Spread, ...]
    notes: tuple[str, ...]


def hardware(records: Sequence[MachineRecord]) -> Hardware:
    """Put records of machines side by side.

    Args:
        records: as `MachineRecord.read` gives them.

    Raises:
        BadInput: there is none.
    """
    if not records:
        raise BadInput("give at least one record: laconic bench ARTIFACT --record FILE makes one on each machine")
    names = _apart([record.machine for record in records])
    order = list(dict.fromkeys(one.sha256 for record in records for one in record.artifacts))
    titles = _titles(records)
    lines = [
        line
        for sha in order
        for name, record in zip(names, records, strict=True)
        for one in record.artifacts
        if one.sha256 == sha
        for line in _lines(one, titles[sha], name)
    ]
    machines = tuple((name, tuple(_environment(record))) for name, record in zip(names, records, strict=True))
    return Hardware(
        machines, tuple(lines), _curves(records, names, titles), _spreads(records, names, titles), tuple(_notes(records, names, titles))
    )


def _apart(names: Sequence[str]) -> list[str]:
    """Tell machines of one name apart by a number.

    >>> _apart(["a", "b", "a"])
    ['a', 'b', 'a (2)']
    """
    seen: Counter[str] = Counter()
    made = []
    for name in names:
        seen[name] += 1
        made.append(name if seen[name] == 1 else f"{name} ({seen[name]})")
    return made


def _titles(records: Sequence[MachineRecord]) -> dict[str, str]:
    """Name each artifact by its first name, and where another has the same by the beginning of its digest too."""
    first: dict[str, str] = {}
    for record in records:
        for one in record.artifacts:
            first.setdefault(one.sha256, one.name)
    shared = Counter(first.values())
    return {sha: name if shared[name] == 1 else f"{name} ({sha[:8]})" for sha, name in first.items()}


def _lines(one: ArtifactTimes, title: str, machine: str) -> Iterator[Line]:
    name = f"{title} · {_setting(one)}"
    if one.failed or not one.timings:
        yield Line((name, machine, *[""] * (len(COLUMNS) - 2)), f"not measured: {one.failed or 'no times'}")
    for timing in () if one.failed else one.timings:
        cells = (
            name,
            machine,
            str(timing.batch),
            _told(timing.latency_ms, time=True),
            _told(timing.latency_p95_ms, time=True),
            _told(timing.throughput_per_s),
            _told(timing.energy_mj),
            _told(timing.cost_per_million),
            scaled(None if one.cold_start_ms is None else 1e-3 * one.cold_start_ms, TIME, "it did not start").text,
        )
        yield Line(cells, timing.busy)


def _setting(one: ArtifactTimes) -> str:
    """Write how an artifact was run, e.g. `onnxruntime int8, 2 threads`."""
    target = one.target
    parts = [f"{target.get('runtime', 'unknown runtime')} {one.numerics}"]
    if target.get("device", "cpu") != "cpu":
        parts.append(f"on {target['device']}")
    threads = target.get("threads")
    parts.append("all cores" if threads is None else f"{threads} thread{'s' * (threads != 1)}")
    return ", ".join(parts)


def _told(one: Measurement, time: bool = False) -> str:
    """Write a measurement with its interval; what is unknown with the word alone, for its reason stands below the table."""
    if one.value is None:
        return "unknown"
    if time:
        ends = tuple(None if end is None else 1e-3 * end for end in (one.low, one.high))
        return scaled(1e-3 * one.value, TIME, ends=(ends[0], ends[1])).full
    return in_unit(one.value, one.low, one.high, one.unit.replace("1/s", "/s")).full


def _environment(record: MachineRecord) -> Iterator[tuple[str, str]]:
    """Yield what a machine is, as label and text."""
    env = record.environment
    memory = env.get("memory_bytes")
    versions = env.get("versions")
    instructions = env.get("instructions")
    yield "processor", str(env.get("processor", "unknown"))
    yield "cores", f"{env.get('cores', 'unknown')} ({env.get('architecture', 'unknown')})"
    if isinstance(instructions, Mapping):
        yield "instructions", ", ".join(name for name, there in instructions.items() if there) or "none that matter"
    yield "memory", scaled(float(memory), BYTES).text if isinstance(memory, (int, float)) else "unknown"
    if env.get("gpu"):
        yield "gpu", str(env["gpu"])
    yield "system", f"{env.get('os', 'unknown')}, Python {env.get('python', 'unknown')}"
    if isinstance(versions, Mapping):
        yield "versions", ", ".join(f"{name} {version}" for name, version in versions.items())
    yield "load at the start", ", ".join(map(str, env.get("load_average") or ())) or "unknown"
    yield "measured", record.made


def _curves(
    records: Sequence[MachineRecord], names: Sequence[str], titles: Mapping[str, str]
) -> dict[str, tuple[list[float], list[float | None]]]:
    """Return latency by batch where there are several sizes."""
    return {
        f"{titles[one.sha256]} · {_setting(one)} · {name}": (
            [float(t.batch) for t in one.timings],
            [t.latency_ms.value for t in one.timings],
        )
        for name, record in zip(names, records, strict=True)
        for one in record.artifacts
        if len(one.timings) > 1 and not one.failed
    }


def _spreads(records: Sequence[MachineRecord], names: Sequence[str], titles: Mapping[str, str]) -> tuple[Spread, ...]:
    """Return what is known of energy, and of money in each currency."""
    energies, moneys = dict[str, Measurement](), dict[str, dict[str, Measurement]]()
    for name, record in zip(names, records, strict=True):
        for one in record.artifacts:
            for timing in () if one.failed else one.timings:
                title = f"{titles[one.sha256]} · {_setting(one)} · {name} · batch {timing.batch}"
                if timing.energy_mj.value is not None:
                    energies[title] = timing.energy_mj
                if timing.cost_per_million.value is not None:
                    moneys.setdefault(timing.cost_per_million.unit, {})[title] = timing.cost_per_million
    made = [Spread("Energy of an inference", "mJ of one example, above idle", energies)] if energies else []
    return (*made, *(Spread(f"A million inferences, {unit}", f"{unit} for a million", figures) for unit, figures in moneys.items()))


def _notes(records: Sequence[MachineRecord], names: Sequence[str], titles: Mapping[str, str]) -> Iterator[str]:
    for sha, title in titles.items():
        without = [name for name, record in zip(names, records, strict=True) if all(one.sha256 != sha for one in record.artifacts)]
        if without:
            yield f"{title} (SHA-256 {sha[:12]}) was not measured on {', '.join(without)}: what stands there is another artifact."
        settings = dict.fromkeys(_setting(one) for record in records for one in record.artifacts if one.sha256 == sha)
        if len(settings) > 1:
            yield f"{title} was run in different ways: {'; '.join(settings)}."
    for sha, title in titles.items():
        each = [one for record in records for one in record.artifacts if one.sha256 == sha]
        one = next((one for one in each if one.ram.value is not None), each[0])
        ram = (
            f"{scaled(one.ram.value, BYTES).text} of static RAM, {one.ram.note}"
            if one.ram.value is not None
            else f"static RAM {one.ram.note}"
        )
        yield f"{title}: {scaled(float(one.size_bytes), BYTES).text} of flash; {ram}."
    yield from dict.fromkeys(
        f"{what} on {name}: {figure.note}"
        for name, record in zip(names, records, strict=True)
        for one in record.artifacts
        for timing in one.timings
        for what, figure in (("energy", timing.energy_mj), ("money", timing.cost_per_million))
        if figure.note
    )
    yield (
        "Artifacts took turns on each machine; the machines did not with each other: a ratio of two of them holds for them as they were and are told below. "
        "Intervals are of medians, 95 %."
    )


def table(found: Hardware) -> RenderableType:
    """Return the table for a terminal."""
    made = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for column in COLUMNS:
        made.add_column(column, justify="right" if column in NUMBERS else "left", overflow="fold")
    for line in found.lines:
        made.add_row(*map(Text, line.cells))
        if line.mark:
            made.add_row(Text(f"  {line.mark}", "yellow"))
    machines = Table(box=None, padding=(0, 2, 0, 0), show_header=False)
    for name, facts in found.machines:
        machines.add_row(Text(name, "bold"), "")
        for label, text in facts:
            machines.add_row(Text(f"  {label}", "dim"), Text(text))
    return Group(made, Text(), machines, Text(), *(Text(note, "dim") for note in found.notes))


def write_page(found: Hardware, path: Path) -> Path:
    """Write the table as one self-contained HTML file; returns its path."""
    figures = {"latency": lines_chart(found.curves, "Batch", "Median latency, ms", log=True)} if found.curves else {}
    figures |= {f"spread-{i}": spread_chart(spread.figures, spread.axis) for i, spread in enumerate(found.spreads)}
    return write_whole(path, render("hardware.html", figures or None, found=found, columns=COLUMNS, numbers=NUMBERS))
