"""One candidate: what a record of result.json says about it or about a baseline, as amounts and words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from laconic.core import quantities
from laconic.core.quantities import Quantity
from laconic.core.wording import numerics
from laconic.report import parity
from laconic.report.units import NO_REASON, TIME, Amount, amount, finite, missing, scaled

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
    "killed": "was killed",
    "nan": "not a number",
    "error": "failed",
    "time_limit": "no time left",
    "outraced": "outraced",
    "beginning": "not offered",
    "baseline": "no baseline",
    "budget": "budget",
}
_SOME = 3  # names that stand for all of a long list
_UNRUN = {"unavailable": "not available on this machine", "failed": "the candidate failed", "not_tried": "it was not tried"}


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
class StepReport:
    """What one step did: pairs of what changed, what was skipped by reason, and notes."""

    step: str
    changed: tuple[tuple[str, str], ...]
    skipped: tuple[Left, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Candidate:
    """A candidate or a baseline.

    `amounts` are the quantities by name, in the row's unit; where a quantity has a stand-in that was measured, as a baseline's ONNX file for the file that
    runs, it is that one's, and `stood_in` names it. `measured` is everything that was measured, with its label. `parity` is the worst of all outputs,
    `outputs` each one; `against` is the title of its baseline where there are several.
    """

    key: str
    title: str
    status: str
    recipe: str
    reasons: tuple[Reason, ...]
    amounts: Mapping[str, Amount]
    stood_in: frozenset[str]
    measured: tuple[tuple[Quantity, Amount], ...]
    unmeasured: str
    parity: str
    outputs: tuple[str, ...]
    against: str
    frontier: bool
    artifact: str
    outcomes: tuple[StepReport, ...]
    notes: tuple[str, ...]
    seconds: Amount
    technique: str = ""
    comparison: str = ""
    settled: str = ""
    busy: str = ""

    def amount(self, name: str) -> Amount:
        """Return the amount of a quantity; one that says why it was not measured."""
        return self.amounts.get(name) or missing(_untested(name) or self.unmeasured)

    @property
    def state(self) -> str:
        """The status in words: `not tried`."""
        return self.status.replace("_", " ")

    @property
    def busy_mark(self) -> str:
        """A few words where the machine was busy while it was timed, with the speed-up by processor time where there is one; `busy` is the sentence."""
        if not self.busy:
            return ""
        by_work = self.amounts.get("speedup_cpu")
        return "machine busy" if by_work is None or by_work.raw is None else f"machine busy; by processor time {by_work.full}"

    @property
    def passed(self) -> bool:
        """Whether it holds the budget, as it was measured."""
        return self.status == "passed"

    @property
    def tried(self) -> bool:
        """Whether anything was done with it."""
        return self.status not in ("not_tried", "unavailable")

    @property
    def why(self) -> str:
        """All reasons in one line; empty where there is none."""
        return "; ".join(reason.text for reason in self.reasons)

    def broke(self, rule: str) -> bool:
        """Return whether the gate named this rule, as itself or as `budget:` of it."""
        return any(reason.rule in (rule, f"budget:{rule}") for reason in self.reasons)


def candidate(record: Mapping[str, Any]) -> Candidate:
    """Read one record; what it lacks is an amount that says so."""
    status = str(record.get("status") or "unknown")
    reasons = tuple(_reason(item) for item in record.get("reasons") or ())
    why = "; ".join(r.text for r in reasons) if status in _UNRUN else ""
    why = why or _UNRUN.get(status, "")
    known: Mapping[str, Any] = record.get("measured") or {}
    rows = measured_rows([record])
    amounts = {name: _amount(row, known, why) for name, row in rows.items()}
    measured = ((row, amount(row, known.get(name), why)) for name, row in rows.items())
    return Candidate(
        key=str(record.get("key") or ""),
        title=str(record.get("title") or record.get("key") or "untitled"),
        status=status,
        recipe=recipe_text(record.get("recipe") or {}, _bits(record.get("outcomes") or ()), str(record.get("runtime") or "")),
        reasons=reasons,
        amounts=amounts,
        stood_in=frozenset(name for name, row in rows.items() if row.stands_in in known),
        measured=tuple((row, one) for row, one in measured if one.raw is not None),
        unmeasured=why,
        parity=parity.summary(record.get("parity")),
        outputs=parity.outputs(record.get("parity")),
        against=str(record.get("against") or ""),
        frontier=bool(record.get("frontier")),
        artifact=str(record.get("artifact") or ""),
        outcomes=tuple(_outcome(item) for item in record.get("outcomes") or ()),
        notes=tuple(str(note) for note in record.get("notes") or ()),
        seconds=scaled(finite(record.get("seconds")), TIME, why),
        technique=technique(record.get("recipe") or {}),
        comparison=str(record.get("comparison") or ""),
        settled=str(record.get("settled") or ""),
        busy=str(record.get("busy") or ""),
    )


def measured_rows(records: Sequence[Mapping[str, Any]]) -> dict[str, Quantity]:
    """Return all quantities that are known here by name, without optional ones that no record has, and behind them those of the records that are not known."""
    present = {name for record in records for name in record.get("measured") or {}}
    rows = {name: row for name, row in quantities.rows().items() if name in present or not row.optional}
    for record in records:
        for name, data in (record.get("measured") or {}).items():
            if name not in rows:
                rows[name] = quantities.row(name, str((data or {}).get("unit") or ""))
    return rows


def _amount(row: Quantity, known: Mapping[str, Any], why: str) -> Amount:
    return amount(row, known.get(row.stands_in) or known.get(row.name), _untested(row.name) or why)


def _untested(name: str) -> str:
    """Return why there is no score on test data; empty of other quantities."""
    tested = quantities.row(name).data == "test"
    return "test data is kept for the baseline and the artifact that is handed over" if tested else ""


def _bits(outcomes: Sequence[Any]) -> int | None:
    """Return the bits of the integers that the last step that rounds rounded to, as it told; None where none did."""
    result = [finite(outcome.get("bits")) for outcome in outcomes if isinstance(outcome, Mapping)]
    known = [int(bits) for bits in result if bits is not None]
    return known[-1] if known else None


def runtime_titles(result: Mapping[str, Any]) -> dict[str, str]:
    """Return the titles of the runtimes in a result by their names."""
    records = [record for record in (*(result.get("candidates") or ()), result.get("baseline")) if isinstance(record, Mapping)]
    named = {str(((record.get("recipe") or {}).get("deploy") or {}).get("runtime")): str(record.get("runtime") or "") for record in records}
    return {name: title for name, title in named.items() if title}


def recipe_text(recipe: Mapping[str, Any], bits: int | None = None, title: str = "") -> str:
    """Return a recipe in one line: its steps, then how it is deployed; `bits` are those of the integers that its steps round to, `title` is the runtime's.

    >>> recipe_text({"steps": [{"step": "prune", "macs": 0.5}], "deploy": {"runtime": "openvino", "precision": "bf16", "threads": 2}})
    'prune (macs 0.5) → openvino bf16, 2 threads'
    >>> recipe_text({"steps": ["quantize"], "deploy": {"runtime": "onnxruntime", "precision": "fp32"}}, 8, "ONNX Runtime")
    'quantize → ONNX Runtime int8'
    """
    deploy = recipe.get("deploy") or {}
    runtime = str(deploy.get("runtime") or "")
    numbers = numerics(bits, str(deploy.get("precision") or ""))
    where = " ".join(part for part in (title or runtime, numbers) if part)
    threads = finite(deploy.get("threads"))
    device = str(deploy.get("device") or "cpu")
    extras = [f"{threads:.0f} thread{'s' if threads != 1 else ''}"] if threads is not None else []
    extras += [device] if device != "cpu" else []
    last = ", ".join([part for part in (where, *extras) if part])
    return " → ".join([*(_step(step) for step in recipe.get("steps") or ()), *([last] if last else [])])


def technique(recipe: Mapping[str, Any]) -> str:
    """Return the names of a recipe's steps.

    >>> technique({"steps": [{"prune": {"macs": 0.5}}, "quantize"]}), technique({})
    ('prune + quantize', 'the model as it is')
    """
    return " + ".join(_step(step).partition(" (")[0].replace("_", " ") for step in recipe.get("steps") or ()) or "the model as it is"


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
    """Write any JSON value in words.

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


def _outcome(data: Mapping[str, Any]) -> StepReport:
    return StepReport(
        step=str(data.get("title") or data.get("step") or "step"),
        changed=tuple((str(key), _told(value)) for key, value in (data.get("changed") or {}).items()),
        skipped=grouped([(str(s.get("name", "")), str(s.get("reason", ""))) for s in data.get("skipped") or ()]),
        notes=tuple(str(note) for note in data.get("notes") or ()),
    )


def grouped(skipped: Sequence[tuple[str, str]]) -> tuple[Left, ...]:
    """Return names and reasons by reason, the most frequent first.

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
    """Write what changed, in words; of a table only how long it is.

    >>> _told([{"name": "conv1", "low": 0.0}]), _told(["a", "b"])
    ('1 entry', 'a, b')
    """
    if isinstance(value, list | tuple) and any(isinstance(item, Mapping) for item in value):
        return f"{len(value)} {'entry' if len(value) == 1 else 'entries'}"
    return plain(value)
