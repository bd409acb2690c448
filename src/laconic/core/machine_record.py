"""What one machine measured of some artifacts: a file that is written on one machine and read on another, and therefore checked like anybody's."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from laconic.core.errors import BadInput, CorruptFile
from laconic.core.files import read_json, write_json
from laconic.core.reading import reads
from laconic.core.records import Measurement

KIND, FORMAT = "laconic machine record", 1
_MOST, _LONGEST, _BYTES = 10_000, 2_000, 1 << 26  # entries, letters, bytes of a file: more is no record
_MEND = "Make it again on its machine: laconic bench ARTIFACT --record FILE."


@dataclass(frozen=True)
class BatchTiming:
    """Times at one batch size: the median with the interval of medians of rounds, percentiles, examples a second; what one takes of energy and a million of
    money, or why that is not known; `busy` says what disturbed.
    """

    batch: int
    latency_ms: Measurement
    latency_p95_ms: Measurement
    latency_p99_ms: Measurement
    throughput_per_s: Measurement
    energy_mj: Measurement = field(default_factory=lambda: Measurement.missing("mJ", "unknown: it was not asked for"))
    cost_per_million: Measurement = field(default_factory=lambda: Measurement.missing("", "unknown: no price of this machine was given"))
    busy: str = ""


@dataclass(frozen=True)
class ArtifactTimes:
    """One artifact on one machine.

    Attributes:
        name: for people.
        sha256: of its file: what has the same is the same artifact.
        size_bytes: of its file.
        numerics: what it computes with.
        target: runtime, precision, threads, device, as plain values.
        cold_start_ms: from the start of a process to the first answer; None where it did not start.
        peak_memory_bytes: of that process; None where the system does not tell.
        ram: bytes of static memory for one example, computed from its graph; unknown, and why, where its card does not tell.
        timings: by batch size.
        failed: why it has no times; empty where it has.
    """

    name: str
    sha256: str
    size_bytes: int
    numerics: str
    target: Mapping[str, Any]
    cold_start_ms: float | None = None
    peak_memory_bytes: int | None = None
    timings: tuple[BatchTiming, ...] = ()
    failed: str = ""
    ram: Measurement = field(default_factory=lambda: Measurement.missing("B", "unknown: the record does not tell"))


@dataclass(frozen=True)
class MachineRecord:
    """A machine's figures, with its name, its environment (`measure.environment`) and the day on which they were taken (ISO 8601, UTC)."""

    machine: str
    environment: Mapping[str, Any]
    made: str
    artifacts: tuple[ArtifactTimes, ...]

    def write(self, path: Path) -> Path:
        """Write it whole."""
        return write_json(path, {"kind": KIND, "format": FORMAT, **{f.name: getattr(self, f.name) for f in dataclasses.fields(self)}})

    @staticmethod
    @reads("a machine's record", _MEND)
    def read(path: Path) -> MachineRecord:
        """Read a record.

        Raises:
            BadInput: there is no such file.
            CorruptFile: it is no record, not whole, or of a newer Laconic; names the file and the entry.
        """
        path = Path(path)
        if not path.is_file():
            raise BadInput(f"there is no record {path}. Make one on a machine: laconic bench ARTIFACT --record {path.name}")
        if path.stat().st_size > _BYTES:
            raise CorruptFile(f"{path} has {path.stat().st_size:,} bytes, more than any record. {_MEND}")
        data = read_json(path)
        if not isinstance(data, dict) or data.get("kind") != KIND:
            raise CorruptFile(f"{path} is no machine's record. {_MEND}")
        if type(data.get("format")) is not int or not 1 <= data["format"] <= FORMAT:
            raise CorruptFile(
                f"{path} has format {str(data.get('format'))[:20]}; this Laconic reads up to {FORMAT}. Install a newer Laconic."
            )
        try:
            return from_plain(data)
        except (ValueError, TypeError, KeyError) as error:
            raise CorruptFile(f"{path} is no whole record ({str(error)[:200]}). {_MEND}") from error


def from_plain(data: Mapping[str, Any]) -> MachineRecord:
    """Make a record of plain values, each checked.

    Raises:
        ValueError: names the entry that is none.
    """
    artifacts = tuple(artifact_from_plain(item) for item in _list(data.get("artifacts"), "artifacts"))
    return MachineRecord(_text(data, "machine"), _plain(_mapping(data, "environment"), "environment"), _text(data, "made"), artifacts)


def artifact_from_plain(data: Any) -> ArtifactTimes:
    """Make the figures of one artifact of plain values; see `from_plain`."""
    if not isinstance(data, Mapping):
        raise ValueError(f"artifacts: an entry is {type(data).__name__}")
    cold, peak = _number(data.get("cold_start_ms"), "cold_start_ms"), _number(data.get("peak_memory_bytes"), "peak_memory_bytes")
    size = _number(data.get("size_bytes"), "size_bytes")
    if size is None:
        raise ValueError("size_bytes is missing")
    return ArtifactTimes(
        name=_text(data, "name"),
        sha256=_text(data, "sha256"),
        size_bytes=int(size),
        numerics=_text(data, "numerics"),
        target=_plain(_mapping(data, "target"), "target"),
        cold_start_ms=cold,
        peak_memory_bytes=None if peak is None else int(peak),
        timings=tuple(_timing(item) for item in _list(data.get("timings"), "timings")),
        failed=_text(data, "failed"),
        **({"ram": measurement_from_plain(data, "ram")} if "ram" in data else {}),
    )


def _timing(data: Any) -> BatchTiming:
    if not isinstance(data, Mapping) or type(data.get("batch")) is not int or data["batch"] < 1:
        raise ValueError("timings: an entry has no batch size")
    figures = {
        name: measurement_from_plain(data, name)
        for name in ("latency_ms", "latency_p95_ms", "latency_p99_ms", "throughput_per_s", "energy_mj")
    }
    if "cost_per_million" in data:  # older records have none
        figures["cost_per_million"] = measurement_from_plain(data, "cost_per_million")
    return BatchTiming(batch=data["batch"], busy=_text(data, "busy"), **figures)


def measurement_from_plain(data: Mapping[str, Any], name: str) -> Measurement:
    """Make a measurement of the plain values that stand under a name; see `from_plain`."""
    one = _mapping(data, name)
    numbers = {key: _number(one.get(key), f"{name}.{key}") for key in ("value", "low", "high")}
    count = one.get("n", 0)
    if type(count) is not int or count < 0:
        raise ValueError(f"{name}.n is no count")
    return Measurement(
        numbers["value"], _text(one, "unit"), count, numbers["low"], numbers["high"], device=_text(one, "device"), note=_text(one, "note")
    )


def _number(value: Any, name: str) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value) or value < 0:
        raise ValueError(f"{name}: {str(value)[:40]} is no number of 0 or more")
    return float(value)


def _text(data: Mapping[str, Any], name: str) -> str:
    value = data.get(name)
    if not isinstance(value, str) or len(value) > _LONGEST:
        raise ValueError(f"{name} is no text of {_LONGEST} letters at most")
    return value


def _mapping(data: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = data.get(name)
    if not isinstance(value, Mapping):
        raise ValueError(f"{name} is no mapping")
    return value


def _list(value: Any, name: str) -> list[Any]:
    if not isinstance(value, list) or len(value) > _MOST:
        raise ValueError(f"{name} is no list of {_MOST:,} entries at most")
    return value


def _plain(value: Any, name: str, depth: int = 0) -> Any:
    """Return nested plain values, checked for size and depth."""
    if isinstance(value, str) and len(value) <= _LONGEST:
        return value
    if value is None or isinstance(value, (bool, int)) or (isinstance(value, float) and math.isfinite(value)):
        return value
    if depth < 4 and isinstance(value, (Mapping, list)) and len(value) <= _MOST:
        if isinstance(value, Mapping):
            return {str(key)[:_LONGEST]: _plain(item, f"{name}.{key}"[:100], depth + 1) for key, item in value.items()}
        return [_plain(item, name, depth + 1) for item in value]
    raise ValueError(f"{name} is no plain value")
