"""One contender: what a record of result.json says about the baseline or a candidate, as quantities and words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from laconic.core.wording import numerics
from laconic.report import parity
from laconic.report.units import BYTES, NO_REASON, TIME, Quantity, finite, missing, scaled, with_interval

RUNTIMES = {
    "torch": "PyTorch",
    "torch.compile": "torch.compile",
    "torchscript": "TorchScript",
    "onnxruntime": "ONNX Runtime",
    "openvino": "OpenVINO",
    "xla": "XLA",
}
RULES = {
    "parity": "outputs differ",
    "process": "did not run",
    "metric": "metric",
    "better": "not better",
    "available": "not available",
    "unavailable": "not available",
    "crash": "crashed",
    "timeout": "timed out",
    "memory": "out of memory",
    "nan": "not a number",
    "error": "failed",
    "time_limit": "no time left",
    "baseline": "no baseline",
    "budget": "budget",
}
_UNKNOWN = missing("")
_SOME = 3  # names that stand for all of a long list
_UNRUN = {"unavailable": "not available on this machine", "failed": "the candidate failed", "not_tried": "its turn never came"}


@dataclass(frozen=True)
class Reason:
    """Why a candidate was not taken: the rule of the gate (`budget:max_latency_ms`), its words, and what was found."""

    rule: str
    label: str
    text: str


@dataclass(frozen=True)
class Left:
    """What a step left as it was for one reason. Each name is there once, with how often where that is more; `count` counts them all."""

    reason: str
    names: tuple[str, ...]
    count: int

    @property
    def long(self) -> bool:
        """Whether `some` leaves names out."""
        return len(self.names) > _SOME

    @property
    def some(self) -> str:
        """How many operators there are and which, or the first three of many.

        >>> Left("", ("a", "b"), 2).some, Left("", ("a", "b", "c", "d"), 4).some
        ('2 operators: a, b', '4 operators, e.g. a, b, c')
        """
        return self.told("operator")

    def told(self, noun: str) -> str:
        """As `some`, of anything else.

        >>> Left("", ("a",), 1).told("dimension")
        '1 dimension: a'
        """
        count = f"{self.count} {noun}{'s' if self.count != 1 else ''}"
        return f"{count}{', e.g.' if self.long else ':'} {', '.join(self.names[:_SOME])}"


@dataclass(frozen=True)
class Outcome:
    """What one step did: pairs of what changed, what was skipped by reason, and notes."""

    step: str
    changed: tuple[tuple[str, str], ...]
    skipped: tuple[Left, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Candidate:
    """The baseline or a candidate. Times are in seconds, sizes in bytes, metric and drop as the record has them.

    The size of a baseline is that of its ONNX file where there is one; `sizes` names both. `parity` is the worst of all outputs, `outputs` each one;
    `against` is the title of its baseline where there are several.
    """

    key: str
    title: str
    status: str
    recipe: str
    reasons: tuple[Reason, ...]
    p50: Quantity
    p95: Quantity
    p99: Quantity
    runs: str
    speedup: Quantity
    throughput: Quantity
    cold_start: Quantity
    memory: Quantity
    size: Quantity
    metric: Quantity
    drop: Quantity
    test_metric: Quantity
    test_drop: Quantity
    parity: str
    outputs: tuple[str, ...]
    sizes: str
    against: str
    frontier: bool
    artifact: str
    outcomes: tuple[Outcome, ...]
    notes: tuple[str, ...]
    seconds: Quantity
    timing: str = ""
    first_speedup: Quantity = _UNKNOWN
    busy: str = ""

    @property
    def state(self) -> str:
        """The status in words: `not tried`."""
        return self.status.replace("_", " ")

    @property
    def tried(self) -> bool:
        """Whether anything was done with it."""
        return self.status not in ("not_tried", "unavailable")

    @property
    def why(self) -> str:
        """All reasons in one line; empty where there is none."""
        return "; ".join(reason.text for reason in self.reasons)

    @property
    def measured(self) -> bool:
        """Whether anything at all was measured of it."""
        return any(q.raw is not None for q in (self.p50, self.speedup, self.metric, self.size, self.memory, self.cold_start))

    def broke(self, rule: str) -> bool:
        """Whether the gate named this rule, as itself or as `budget:` of it."""
        return any(reason.rule in (rule, f"budget:{rule}") for reason in self.reasons)


def contender(record: Mapping[str, Any]) -> Candidate:
    """Read one record; what it lacks is a quantity that says so."""
    status = str(record.get("status") or "unknown")
    reasons = tuple(_reason(item) for item in record.get("reasons") or ())
    why = "; ".join(r.text for r in reasons) if status in _UNRUN else ""
    why = why or _UNRUN.get(status, "")
    known: Mapping[str, Any] = record.get("measured") or {}
    places = 2 if _unit(known.get("metric")) == "%" else None

    def exact(name: str) -> float | None:
        return finite((known.get(name) or {}).get("value"))

    def seconds(name: str) -> Quantity:
        value = exact(name)
        return scaled(None if value is None else value * 1e-3, TIME, why)

    def measured(name: str, unit: str = "", places: int | None = None) -> Quantity:
        return measurement(known.get(name), unit, why, places)

    return Candidate(
        key=str(record.get("key") or ""),
        title=str(record.get("title") or record.get("key") or "untitled"),
        status=status,
        recipe=recipe_text(record.get("recipe") or {}, _bits(record.get("outcomes") or ())),
        reasons=reasons,
        p50=seconds("latency_ms"),
        p95=seconds("latency_p95_ms"),
        p99=seconds("latency_p99_ms"),
        runs=_runs(known),
        speedup=measured("speedup", "×", 2),
        throughput=measured("throughput_per_s", "per s"),
        cold_start=seconds("cold_start_ms"),
        memory=scaled(exact("peak_memory_bytes"), BYTES, why),
        size=scaled(exact("onnx_size_bytes") or exact("size_bytes"), BYTES, why),
        metric=measured("metric", places=places),
        drop=measured("drop", places=places),
        test_metric=_test(known, "test_metric", "", places),
        test_drop=_test(known, "test_drop", "", places),
        parity=parity.summary(record.get("parity")),
        outputs=parity.outputs(record.get("parity")),
        sizes=_sizes(known),
        against=str(record.get("against") or ""),
        frontier=bool(record.get("frontier")),
        artifact=str(record.get("artifact") or ""),
        outcomes=tuple(_outcome(item) for item in record.get("outcomes") or ()),
        notes=tuple(str(note) for note in record.get("notes") or ()),
        seconds=scaled(finite(record.get("seconds")), TIME, why),
        timing=str(record.get("timing") or ""),
        first_speedup=measured("first_speedup", "×", 2),
        busy=str(record.get("busy") or ""),
    )


def _bits(outcomes: Sequence[Any]) -> int | None:
    """The bits of the integers that the steps rounded weights to, as they told; None where none did."""
    weights = [(outcome.get("changed") or {}).get("weights") for outcome in outcomes if isinstance(outcome, Mapping)]
    found = [finite(w.get("bits")) for w in weights if isinstance(w, Mapping)]
    known = [int(bits) for bits in found if bits is not None]
    return known[-1] if known else None


def measurement(data: Mapping[str, Any] | None, unit: str = "", why: str = "", places: int | None = None) -> Quantity:
    """A quantity from the JSON of a `core.records.Measurement`; `unit` replaces the record's own, `why` stands in for a missing note."""
    data = data or {}
    value = finite(data.get("value"))
    if value is None:
        return missing(str(data.get("note") or why))
    low, high = finite(data.get("low")), finite(data.get("high"))
    n = int(finite(data.get("n")) or 0)
    return with_interval(value, low, high, unit or str(data.get("unit") or ""), places=places, n=n, note=str(data.get("note") or ""))


def recipe_text(recipe: Mapping[str, Any], bits: int | None = None) -> str:
    """A recipe in one line: its steps, then how it is deployed; `bits` are those of the integers that its steps round to.

    >>> recipe_text({"steps": [{"step": "prune", "macs": 0.5}], "deploy": {"runtime": "openvino", "precision": "bf16", "threads": 2}})
    'prune (macs 0.5) → OpenVINO bf16, 2 threads'
    >>> recipe_text({"steps": ["quantize"], "deploy": {"runtime": "onnxruntime", "precision": "fp32"}}, bits=8)
    'quantize → ONNX Runtime int8'
    """
    deploy = recipe.get("deploy") or {}
    runtime = str(deploy.get("runtime") or "")
    numbers = numerics(bits, str(deploy.get("precision") or ""))
    where = " ".join(part for part in (RUNTIMES.get(runtime, runtime), numbers) if part)
    threads = finite(deploy.get("threads"))
    device = str(deploy.get("device") or "cpu")
    extras = [f"{threads:.0f} thread{'s' if threads != 1 else ''}"] if threads is not None else []
    extras += [device] if device != "cpu" else []
    last = ", ".join([part for part in (where, *extras) if part])
    return " → ".join([*(_step(step) for step in recipe.get("steps") or ()), *([last] if last else [])])


def _step(step: Any) -> str:
    if not isinstance(step, Mapping):
        return str(step)
    name = next((str(step[key]) for key in ("step", "name", "type") if key in step), "")
    options = {key: value for key, value in step.items() if key not in ("step", "name", "type")}
    if not name and len(options) == 1:
        name, inner = next(iter(options.items()))
        options = dict(inner) if isinstance(inner, Mapping) else {}
    settings = ", ".join(f"{key} {plain(value)}" for key, value in options.items())
    return f"{name} ({settings})" if settings else name


def plain(value: Any) -> str:
    """Any JSON value in words.

    >>> plain({"avx2": True, "gpu": None}), plain([1, 2])
    ('avx2 yes, gpu none', '1, 2')
    """
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None:
        return "none"
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {plain(item)}" for key, item in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(plain(item) for item in value)
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _reason(item: Any) -> Reason:
    data = item if isinstance(item, Mapping) else {"text": item}
    rule = str(data.get("rule") or "")
    return Reason(rule, RULES.get(rule.partition(":")[0], rule), str(data.get("text") or "no reason was recorded"))


def _outcome(data: Mapping[str, Any]) -> Outcome:
    return Outcome(
        step=str(data.get("step") or "step"),
        changed=tuple((str(key), _told(value)) for key, value in (data.get("changed") or {}).items()),
        skipped=grouped([(str(s.get("name", "")), str(s.get("reason", ""))) for s in data.get("skipped") or ()]),
        notes=tuple(str(note) for note in data.get("notes") or ()),
    )


def grouped(skipped: Sequence[tuple[str, str]]) -> tuple[Left, ...]:
    """Names and reasons by reason, the most frequent first.

    >>> [(left.reason, left.names) for left in grouped([("a", "odd"), ("b", "float"), ("c", "float"), ("c", "float")])]
    [('float', ('b', 'c (2×)')), ('odd', ('a',))]
    """
    by_reason: dict[str, Counter[str]] = {}
    for name, reason in skipped:
        by_reason.setdefault(reason or NO_REASON, Counter())[name or "unnamed"] += 1
    made = [
        Left(reason, tuple(f"{name} ({n}×)" if n > 1 else name for name, n in names.items()), names.total())
        for reason, names in by_reason.items()
    ]
    return tuple(sorted(made, key=lambda left: -left.count))


def _told(value: Any) -> str:
    """What changed, in words; of a table only how long it is.

    >>> _told([{"name": "conv1", "low": 0.0}]), _told(["a", "b"])
    ('1 entry', 'a, b')
    """
    if isinstance(value, list | tuple) and any(isinstance(item, Mapping) for item in value):
        return f"{len(value)} {'entry' if len(value) == 1 else 'entries'}"
    return plain(value)


def _test(known: Mapping[str, Any], name: str, unit: str, places: int | None) -> Quantity:
    return measurement(known.get(name), unit, "test data is kept for the baseline and the artifact that is handed over", places)


def _runs(known: Mapping[str, Any]) -> str:
    n, rounds = (finite((known.get(name) or {}).get("n")) for name in ("latency_ms", "throughput_per_s"))
    if n is None:
        return ""
    return f"{n:.0f} runs in {rounds:.0f} rounds" if rounds is not None else f"{n:.0f} runs"


def _sizes(known: Mapping[str, Any]) -> str:
    """Both sizes of a baseline, named; empty where there is one."""
    onnx, runs = (finite((known.get(name) or {}).get("value")) for name in ("onnx_size_bytes", "size_bytes"))
    if onnx is None or runs is None:
        return ""
    return f"{scaled(onnx, BYTES).text} as an fp32 ONNX file, with which sizes are compared; {scaled(runs, BYTES).text} the file that runs here"


def _unit(data: Mapping[str, Any] | None) -> str:
    return str((data or {}).get("unit") or "")
