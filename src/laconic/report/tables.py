"""Tables of the report: columns, rows and cells as data, to be drawn by the page and the terminal alike."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from laconic.report.contenders import Candidate
from laconic.report.limits import Loss
from laconic.report.units import BYTES, TIME, Quantity, Scale, missing, scaled, shared

# What the baseline is compared with itself: no measurement, but a place in the order.
_REFERENCE = {"speedup": 1.0, "drop": 0.0}


@dataclass(frozen=True)
class Column:
    """A column of numbers: its key, heading, the unit that all its cells share, and which end is better."""

    key: str
    title: str
    unit: str = ""
    hint: str = ""


@dataclass(frozen=True)
class Cell:
    """One cell. `sort` is the number to sort by (None sorts last), `reason` says why there is no number."""

    key: str
    text: str
    sort: float | None = None
    interval: str = ""
    reason: str = ""


@dataclass(frozen=True)
class Row:
    """One contender. `gap` replaces the cells where nothing was measured; `note` stands under the title."""

    key: str
    title: str
    status: str
    cells: tuple[Cell, ...]
    note: str = ""
    gap: str = ""
    marked: str = ""

    @property
    def state(self) -> str:
        """The status in words: `not tried`."""
        return self.status.replace("_", " ")


@dataclass(frozen=True)
class Table:
    """Columns and rows; every row without a gap has one cell per column."""

    columns: tuple[Column, ...]
    rows: tuple[Row, ...]


@dataclass(frozen=True)
class _Kind:
    """How a column is made from contenders: what to read, the scale of its shared unit (None: as it is)."""

    key: str
    title: str
    read: Callable[[Candidate], Quantity]
    scale: Scale | None = None
    hint: str = ""


def candidates_table(contenders: Sequence[Candidate], metric: str, loss: Loss, chosen: str, label: str) -> Table:
    """All contenders as they were measured on validation data; `chosen` is the key to mark with `label`."""
    kinds = (
        _Kind("speedup", "Speed-up", lambda c: c.speedup, hint="old/new, interleaved; more is better"),
        _Kind("p50", "Median", lambda c: c.p50, TIME, "median latency of one call"),
        _Kind("p95", "p95", lambda c: c.p95, TIME, "latency that 95 % of the calls stay under"),
        _Kind("metric", metric, lambda c: c.metric, hint="on validation data"),
        _Kind(
            "drop",
            loss.noun.capitalize(),
            lambda c: c.drop,
            hint="against the baseline on the same validation examples; negative is a gain",
        ),
        _Kind(
            "size",
            "File",
            lambda c: c.size,
            BYTES,
            "bytes of the file that ships; of the baseline, of its fp32 ONNX file where there is one",
        ),
        _Kind("memory", "Peak memory", lambda c: c.memory, BYTES, "of a fresh process that loads and runs it"),
        _Kind("cold", "Cold start", lambda c: c.cold_start, TIME, "from starting a process to its first output"),
        _Kind("throughput", "Throughput", lambda c: c.throughput, hint="examples in a second"),
    )
    return _table(kinds, contenders, chosen, label, notes=True)


def final_table(contenders: Sequence[Candidate], metric: str, loss: Loss, chosen: str, label: str) -> Table:
    """Those that met the test data, which is touched once."""
    shown = [c for c in contenders if c.test_metric.raw is not None or c.key == chosen or c is contenders[0]]
    kinds = (
        _Kind("metric", metric, lambda c: c.test_metric),
        _Kind("drop", loss.noun.capitalize(), lambda c: c.test_drop),
        _Kind("speedup", "Speed-up", lambda c: c.speedup),
        _Kind("p50", "Median latency", lambda c: c.p50, TIME),
        _Kind("size", "File", lambda c: c.size, BYTES),
    )
    return _table(kinds, shown, chosen, label, notes=False)


def _table(kinds: Sequence[_Kind], contenders: Sequence[Candidate], chosen: str, label: str, notes: bool) -> Table:
    units = {kind.key: _unit(kind, contenders) for kind in kinds}
    columns = tuple(Column(kind.key, kind.title, units[kind.key][1], kind.hint) for kind in kinds)
    rows = [_row(kinds, units, c, label if c.key == chosen else "", notes) for c in contenders]
    return Table(columns, tuple(rows))


def _unit(kind: _Kind, contenders: Sequence[Candidate]) -> tuple[float, str]:
    quantities = [kind.read(c) for c in contenders]
    if kind.scale is not None:
        return shared(kind.scale, (q.raw for q in quantities))
    return 1.0, next((q.unit for q in quantities if q.raw is not None), "")


def _row(kinds: Sequence[_Kind], units: dict[str, tuple[float, str]], one: Candidate, marked: str, notes: bool) -> Row:
    if not one.measured:
        return Row(one.key, one.title, one.status, (), gap=missing(one.why).text, marked=marked)
    cells = tuple(_cell(kind, units[kind.key], one) for kind in kinds)
    return Row(one.key, one.title, one.status, cells, note=_note(one) if notes else "", marked=marked)


def _note(one: Candidate) -> str:
    return "; ".join(text for text in (one.why, f"machine busy: {one.busy}" if one.busy else "") if text)


def _cell(kind: _Kind, unit: tuple[float, str], one: Candidate) -> Cell:
    if one.status == "baseline" and kind.key in _REFERENCE:
        return Cell(kind.key, "reference", _REFERENCE[kind.key])
    quantity = kind.read(one)
    if quantity.raw is None:
        return Cell(kind.key, "Not measured", reason=quantity.reason)
    if kind.scale is not None:
        quantity = scaled(quantity.raw, kind.scale, unit=unit)
    return Cell(kind.key, quantity.number, quantity.raw, quantity.interval)
