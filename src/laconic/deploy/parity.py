"""Compare what a file answers with what its program answers: each output by itself, and each channel of it.

Numbers of one output may be a million times those of another, and so may the channels of one output (boxes in pixels beside class scores). A measure over
all of them sees the large ones only; so every output has its own figures, and the worst channel is looked for.

Shapes: C channels of one axis, N numbers of each.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from laconic.core.program import TensorSpec

# Numbers of this size stand for "masked" (the least float of a type), not for a value: both sides must have them, and no measure counts them.
_UNBOUNDED = 1e30
# An output that is zero everywhere has no power to compare with; noise up to this is none.
_NOTHING = 1e-6
# Fewer numbers than these say little of a channel, and so many are enough to see the grid on which they lie.
_FEWEST, _SAMPLED = 8, 256
# A channel is constant in the file where this share of its variance, or less, is left.
_STILL = 0.01
_MOST_NAMED = 8
# A whole number is lost where the program has it at so many places and the file at none of them; on a grid neighbors tip together at a threshold.
_LOST, _LOST_ON_GRID = 8, 64
_MOST_VALUES = 1024  # of more different ones no tally is kept: they are positions or token numbers, of which each is rare

Sums = dict[str, np.ndarray]

# Sums over the numbers of each channel, shape (C,) each, and how those of two batches become one.
_JOIN: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "size": np.add,
    "n": np.add,
    "expected": np.add,
    "actual": np.add,
    "power": np.add,
    "actual_power": np.add,
    "noise": np.add,
    "equal": np.add,
    "gap": np.maximum,
    "largest": np.maximum,
    "step": np.minimum,
}


class ParityMeter:
    """Adds up, batch by batch, how far two lists of outputs differ.

    Args:
        outputs: of the program, in order: their names, and which dimensions are dynamic (those are never channels). None: unnamed, and dimension 0
            is the batch.
    """

    def __init__(self, outputs: Sequence[TensorSpec] | None = None) -> None:
        self._specs = outputs
        self._rows: list[_Output] = []
        self._missing = False

    def add(self, actual: Sequence[np.ndarray], expected: Sequence[np.ndarray]) -> None:
        """Take one batch: the outputs of the file and those of the program, of any shapes."""
        if not self._rows:
            names = [f"output {i}" for i in range(len(expected))] if self._specs is None else [spec.name for spec in self._specs]
            shapes = [None] * len(expected) if self._specs is None else [spec.shape for spec in self._specs]
            self._rows = [_Output(name, shape) for name, shape in zip(names, shapes, strict=True)]
        self._missing |= len(actual) != len(expected)
        for row, a, b in zip(self._rows, actual, expected, strict=False):
            row.add(np.asarray(a), np.asarray(b))

    def result(self, resolution: float = 1e-6, grid: bool = False) -> dict[str, Any]:
        """The figures of each output and the worst over all.

        Args:
            resolution: of the arithmetic. A channel whose values are smaller than this share of the output's largest is what rounding left, and is
                not judged.
            grid: whether values lie on coarse grids; then a channel that moves over less than two steps of its grid is not judged either.

        Returns:
            Over all outputs `max_abs`, the largest difference; `max_rel`, the same relative to the largest expected value of its output (infinite where
            shapes differ or one is not finite where the other is); `sqnr_db`, the least power of expected values over that of differences (infinite
            where there are none); `n`, numbers compared; and `outputs`, one mapping each: `name` and the same figures of it alone. For whole numbers and
            booleans `equal`, the share of equal ones, and `lost_values`: those that the program has at many places and the file at none of them, however
            small their share. `constant`: it is so as a whole in the file, and varies in the program. Complex numbers count as two channels of a last
            dimension. Where channels can be judged, `channel_axis`, `channels` (how many), `worst_channel`,
            `worst_channel_db`, and `dead_channels`: those that are constant in the file and vary in the program (`worst_channel_db` is then that of
            the variation).
        """
        if self._missing or not self._rows:
            return {"outputs": [], "max_abs": float("inf"), "max_rel": float("inf"), "sqnr_db": float("-inf"), "n": 0}
        rows = [row.result(resolution, grid) for row in self._rows]
        judged = [row for row in rows if "equal" not in row] or rows
        return {
            "outputs": rows,
            "max_abs": max(row["max_abs"] for row in judged),
            "max_rel": max(row["max_rel"] for row in judged),
            "sqnr_db": min(row["sqnr_db"] for row in judged),
            "n": sum(row["n"] for row in rows),
        }


def parity(actual: Sequence[np.ndarray], expected: Sequence[np.ndarray], outputs: Sequence[TensorSpec] | None = None) -> dict[str, Any]:
    """Compare one batch of outputs; see `ParityMeter`."""
    meter = ParityMeter(outputs)
    meter.add(actual, expected)
    return meter.result()


class _Output:
    """The sums of one output: over all of it, and over the channels of each axis that may be one."""

    def __init__(self, name: str, shape: tuple[int | str, ...] | None) -> None:
        self.name, self.shape = name, shape
        self.broken = self.whole_numbers = False
        self.total: Sums = {}
        self.channels: dict[int, Sums] = {}
        self.values: (
            dict[float, tuple[int, int]] | None
        ) = {}  # of whole numbers: at how many places the program has it, and of these the file too

    def add(self, actual: np.ndarray, expected: np.ndarray) -> None:
        self.whole_numbers |= expected.dtype.kind in "biu"
        if actual.shape != expected.shape:
            self.broken = True
            return
        if self.whole_numbers:
            self._tally(actual, expected)
        if np.iscomplexobj(expected) or np.iscomplexobj(actual):
            actual, expected = (np.stack([part.real, part.imag], -1) for part in (actual, expected))
        a, b = actual.astype(np.float64), expected.astype(np.float64)
        bounded = np.isfinite(b) & (np.abs(b) < _UNBOUNDED)
        broken = np.where(bounded, ~np.isfinite(a), ~_same_mask(a, b))
        values = (np.where(bounded & ~broken, a, 0.0), np.where(bounded, b, 0.0), bounded, broken)
        shape = self.shape or ("batch", *b.shape[1:])
        axes = list(self.channels) if self.total else channel_axes((*shape, *b.shape[len(shape) :]), b.ndim)
        self.total = _joined(self.total, _sums(*(item.reshape(1, -1) for item in values)))
        for axis in axes:
            now = _sums(*(np.moveaxis(item, axis, 0).reshape(b.shape[axis], -1) for item in values))
            self.channels[axis] = _joined(self.channels.get(axis, {}), now)

    def _tally(self, actual: np.ndarray, expected: np.ndarray) -> None:
        """Count at how many places each whole number stands, and at how many of them the file has it too."""
        if self.values is None:
            return
        values, place, counts = np.unique(expected, return_inverse=True, return_counts=True)
        hits = np.bincount(place.ravel(), (actual == expected).ravel(), len(values)) if len(values) else counts
        for value, count, hit in zip(values.tolist(), counts.tolist(), hits.tolist(), strict=True):
            before = self.values.get(value, (0, 0))
            self.values[value] = (before[0] + count, before[1] + int(hit))
        if len(self.values) > _MOST_VALUES:
            self.values = None

    def result(self, resolution: float, grid: bool) -> dict[str, Any]:
        if self.broken or not self.total:
            return {"name": self.name, "n": 0, "max_abs": float("inf"), "max_rel": float("inf"), "sqnr_db": float("-inf")}
        gap, largest = float(self.total["gap"][0]), float(self.total["largest"][0])
        n = int(self.total["size"][0])
        with np.errstate(over="ignore"):
            figures = {
                "name": self.name,
                "n": n,
                "max_abs": gap,
                "max_rel": gap / largest if largest > 0 else gap,
                "sqnr_db": float(_decibels(self.total)[0]),
            }
        if self.whole_numbers:
            fewest = _LOST_ON_GRID if grid else _LOST
            lost = [value for value, (count, hits) in (self.values or {}).items() if not hits and count >= fewest]
            return {**figures, "equal": float(self.total["equal"][0] / n) if n else 1.0, "lost_values": lost[:_MOST_NAMED]}
        whole = _judged(0, self.total, largest, resolution, grid)
        constant = whole is not None and bool(whole["dead_channels"])
        return {**figures, "constant": constant, **_worst_channel(self.channels, largest, resolution, grid)}


def channel_axes(shape: Sequence[int | str], dims: int) -> list[int]:
    """The axes that may hold channels: dimension 1 and the last, where their size is fixed and more than 1. Pictures have their channels in the one, tokens
    in the other; where both are fixed the shape does not tell, and both are looked at.

    >>> channel_axes(("batch", 21, 64, 64), 4), channel_axes(("batch", "length", 768), 3), channel_axes(("batch",), 1)
    ([1, 3], [2], [])
    """
    return [axis for axis in dict.fromkeys((1, dims - 1)) if 0 < axis < dims and isinstance(shape[axis], int) and shape[axis] > 1]  # type: ignore[operator]


def _same_mask(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return (np.isnan(a) & np.isnan(b)) | (np.abs(a) >= _UNBOUNDED) & (np.abs(b) >= _UNBOUNDED) & (np.sign(a) == np.sign(b))


def _sums(actual: np.ndarray, expected: np.ndarray, bounded: np.ndarray, broken: np.ndarray) -> Sums:
    """The sums over each row of (C, N) arrays; where something is not a number on one side alone, the noise is infinite."""
    difference = np.where(broken, np.inf, np.where(bounded, actual - expected, 0.0))
    with np.errstate(over="ignore"):
        noise = np.square(difference).sum(1)
    return {
        "size": np.full(len(expected), expected.shape[1]),
        "n": bounded.sum(1),
        "expected": expected.sum(1),
        "actual": actual.sum(1),
        "power": np.square(expected).sum(1),
        "actual_power": np.square(actual).sum(1),
        "noise": noise,
        "equal": (difference == 0).sum(1),
        "gap": np.abs(difference).max(1, initial=0.0),
        "largest": np.abs(expected).max(1, initial=0.0),
        "step": _steps(expected),
    }


def _steps(values: np.ndarray) -> np.ndarray:
    """The least distance between two different values of each row, of a sample of (C, N); infinite where all are one."""
    sample = np.sort(values[:, :: max(1, values.shape[1] // _SAMPLED)], axis=1)
    steps = np.diff(sample, axis=1)
    return np.where(steps > 0, steps, np.inf).min(1, initial=np.inf)


def _joined(before: Sums, now: Sums) -> Sums:
    return {name: join(before[name], now[name]) for name, join in _JOIN.items()} if before else now


def _decibels(sums: Sums, power: np.ndarray | None = None) -> np.ndarray:
    """Signal to noise of each row, in dB."""
    power = sums["power"] if power is None else power
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        ratio = 10 * np.log10(power / sums["noise"])
    silent = sums["gap"] <= _NOTHING
    ratio = np.where(power > 0, ratio, np.where(silent, np.inf, -np.inf))
    return np.where(sums["noise"] == 0, np.inf, np.where(np.isinf(sums["noise"]), -np.inf, ratio))


def _variance(sums: Sums, mean: str, power: str) -> np.ndarray:
    n = np.maximum(sums["n"], 1)
    return np.maximum(sums[power] / n - np.square(sums[mean] / n), 0.0)


def _worst_channel(axes: dict[int, Sums], largest: float, resolution: float, grid: bool) -> dict[str, Any]:
    """The worst channel, of the axis where it is worst; nothing where no axis has channels that can be judged."""
    rows = [row for axis, sums in axes.items() if (row := _judged(axis, sums, largest, resolution, grid)) is not None]
    return min(rows, key=lambda row: (not row["dead_channels"], row["worst_channel_db"]), default={})


def _judged(axis: int, sums: Sums, largest: float, resolution: float, grid: bool) -> dict[str, Any] | None:
    # Where a channel is constant, its grid cannot be seen; that of eight bits over the whole output is the coarsest that it may lie on.
    steps = np.where(np.isfinite(sums["step"]), sums["step"], largest / 127) if grid else np.zeros_like(sums["largest"])
    size = np.sqrt(sums["power"] / np.maximum(sums["n"], 1))
    audible = (sums["n"] >= _FEWEST) & (size > np.maximum(resolution * largest, 2 * steps))
    if not audible.any():
        return None
    varies, still = _variance(sums, "expected", "power"), _variance(sums, "actual", "actual_power")
    alive = audible & (np.sqrt(varies) > np.maximum(100 * resolution * sums["largest"], 2 * steps))
    dead = alive & (still < _STILL * varies)
    decibels = np.where(dead, _decibels(sums, varies * sums["n"]), _decibels(sums))
    order = np.lexsort((decibels, ~dead, ~audible))
    return {
        "channel_axis": axis,
        "channels": int(audible.sum()),
        "worst_channel": int(order[0]),
        "worst_channel_db": float(decibels[order[0]]),
        "dead_channels": np.flatnonzero(dead)[:_MOST_NAMED].tolist(),
    }
