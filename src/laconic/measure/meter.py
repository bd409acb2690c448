"""The user's own meter: a CSV file with time stamps that it writes while we work, read at the instants of our windows."""

from __future__ import annotations

import csv
import datetime
import time
from bisect import bisect_left, bisect_right
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from laconic.core.errors import BadInput

TIMES = ("time", "timestamp", "time_s", "unix_s")
POWERS = {"power_w": 1.0, "power_mw": 1e-3, "watts": 1.0}
ENERGIES = {"energy_j": 1.0, "energy_mj": 1e-3, "energy_wh": 3600.0, "energy_kwh": 3.6e6}
_MOST_BYTES = 1 << 28
# Rows may be this share of a window apart. So many rows at both ends of a window are left out, in which what was drawn before or behind it is mixed in: some
# meters tell the power of a moment, others its mean since the row before.
_COARSE, _EDGE = 0.1, 2
# So long is waited for rows behind a window's end; and a meter that wrote nothing for this long is not running.
PATIENCE_S, _LOOK_S = 30.0, 0.25


@dataclass(frozen=True)
class Rows:
    """What a meter wrote.

    Attributes:
        times: seconds since 1970, growing.
        joules: drawn up to each of these times, from wherever it began.
    """

    times: tuple[float, ...]
    joules: tuple[float, ...]

    def at(self, instant: float) -> float:
        """Return joules up to an instant between the first row and the last, in proportion between two rows."""
        i = min(max(bisect_right(self.times, instant), 1), len(self.times) - 1)
        begin, end = self.times[i - 1], self.times[i]
        return self.joules[i - 1] + (instant - begin) / (end - begin) * (self.joules[i] - self.joules[i - 1])


@dataclass(frozen=True)
class Meter:
    """A meter's file. Columns are found by their names: a time (``time``: ISO 8601, without a zone local time, or seconds since 1970) and a power
    (``power_w``, ``power_mw``) or a count of energy (``energy_j``, ``energy_mj``, ``energy_wh``, ``energy_kwh``). Others are ignored.

    Args:
        path: of the file.
    """

    path: Path

    def check_current(self) -> None:
        """Refuse a file that cannot be read, or that nobody writes any more.

        Raises:
            BadInput: says which.
        """
        age = time.time() - read(self.path).times[-1]
        if age > PATIENCE_S:
            raise BadInput(
                f"{self.path}: its last row is {age:.0f} s old. Let the meter write while energy is measured, its clock set like this machine's."
            )

    def joules(self, begin: float, end: float) -> float:
        """Return joules between two instants, seconds since 1970; waits, a bounded while, until the meter has written rows behind them.

        Raises:
            BadInput: no rows reach the end, they begin later, or lie too far apart.
        """
        rows, deadline = read(self.path), time.monotonic() + PATIENCE_S
        while rows.times[-1] < end:
            if time.monotonic() > deadline:
                raise BadInput(
                    f"{self.path} has no rows up to the end of a window, {rows.times[-1]:.3f} of {end:.3f}, after {PATIENCE_S:g} s"
                )
            time.sleep(_LOOK_S)
            rows = read(self.path)
        return between(rows, begin, end, str(self.path))


def between(rows: Rows, begin: float, end: float, name: str = "the meter's file") -> float:
    """Return joules between two instants, at the mean power between the rows that surely lie between them.

    Args:
        rows: of the meter.
        begin: seconds since 1970.
        end: likewise, later.
        name: of the file, in messages.

    Raises:
        BadInput: the rows do not reach over both instants, or lie further apart than a tenth of the time between them.
    """
    if rows.times[0] > begin or rows.times[-1] < end:
        raise BadInput(f"{name} has rows from {rows.times[0]:.3f} to {rows.times[-1]:.3f}, not from {begin:.3f} to {end:.3f}")
    first, last = bisect_right(rows.times, begin) - 1, bisect_left(rows.times, end)
    apart = max(after - before for before, after in pairwise(rows.times[first : last + 1]))
    if apart > _COARSE * (end - begin):
        raise BadInput(
            f"{name}: rows are up to {apart:.3g} s apart, too far for a window of {end - begin:.3g} s; let it write more often, or take longer "
            "windows: Metering(window_s=…, rest_s=…)"
        )
    edge = _EDGE * apart
    return (rows.at(end - edge) - rows.at(begin + edge)) / (end - begin - 2 * edge) * (end - begin)


def read(path: Path) -> Rows:
    """Read a meter's file. A last line that is not whole yet is left out.

    Raises:
        BadInput: the file is not there, columns are missing, a value is no number, or time or energy run backwards.
    """
    rows = csv.reader(_lines(path), skipinitialspace=True)
    names = [name.strip().lower() for name in next(rows, [])]
    when = next((names.index(name) for name in TIMES if name in names), None)
    name = next((name for name in (*ENERGIES, *POWERS) if name in names), None)
    if when is None or name is None:
        wanted = f"a column {' or '.join(TIMES)} and a column {' or '.join((*ENERGIES, *POWERS))}"
        raise BadInput(f"{path} needs {wanted}; its first line has {', '.join(names) or 'nothing'}")
    column = names.index(name)
    found = [_row(path, number, row, when, column) for number, row in enumerate(rows, 2) if row]
    if len(found) < 2:
        raise BadInput(f"{path} has fewer than two rows; a meter that is running has written more")
    times, values = tuple(instant for instant, _ in found), [value for _, value in found]
    if any(after <= before for before, after in pairwise(times)):
        raise BadInput(f"{path}: its times do not grow from row to row")
    joules = _integrated(times, [POWERS[name] * value for value in values]) if name in POWERS else [ENERGIES[name] * v for v in values]
    if any(not after >= before for before, after in pairwise(joules)):
        raise BadInput(f"{path}: its energy falls from one row to the next; a count only grows, and a power is not below 0")
    return Rows(times, tuple(joules))


def _lines(path: Path) -> list[str]:
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise BadInput(f"{path} has {path.stat().st_size:,} bytes; a meter's file has no more than {_MOST_BYTES:,}")
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"the meter's file {path} cannot be read: {error}") from error
    return text[: text.rfind("\n") + 1].splitlines()


def _integrated(times: tuple[float, ...], watts: list[float]) -> list[float]:
    """Return joules up to each time, by the trapezoids between rows."""
    joules = [0.0]
    for (begin, end), (before, after) in zip(pairwise(times), pairwise(watts), strict=True):
        joules.append(joules[-1] + (before + after) / 2 * (end - begin))
    return joules


def _row(path: Path, number: int, row: list[str], when: int, column: int) -> tuple[float, float]:
    try:
        return _instant(row[when].strip()), float(row[column])
    except (IndexError, ValueError, OverflowError) as error:
        raise BadInput(f"{path}, line {number}: {error}") from error


def _instant(text: str) -> float:
    """Read a time stamp: seconds since 1970, or ISO 8601.

    >>> _instant("1700000000.5"), _instant("2023-11-14T22:13:20.500Z")
    (1700000000.5, 1700000000.5)
    """
    try:
        return float(text)
    except ValueError:
        return datetime.datetime.fromisoformat(text.removesuffix("Z") + "+00:00" * text.endswith("Z")).timestamp()
