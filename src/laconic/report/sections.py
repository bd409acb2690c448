"""Smaller parts of the report: layers, training, where the time went, the machine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from laconic.core.wording import counted
from laconic.report.candidates import plain
from laconic.report.units import BYTES, MACS, PARAMS, Amount, clock, finite, fixed, number, percent, scaled

PHASES = {
    "train": "Training the model",
    "capture": "Capture",
    "export": "Building: steps and export",
    "recover": "Training candidates",
    "check": "Checks: parity and metric",
    "pack": "Archives: packed, restored once",
    "time": "Timing",
    "tables": "Tables of sizes: layers timed, groups cut",
    "test": "Test data",
    "report": "This report",
    "own": "Laconic itself",
}
_NAMES = {"os": "Operating system", "gpu": "GPU"}


@dataclass(frozen=True)
class Layer:
    """One layer: exact counts as text (None counts read "not counted") and its share of the whole (0 to 1)."""

    path: str
    type: str
    params: float | None
    macs: float | None
    params_text: str
    macs_text: str
    params_share: float
    macs_share: float


@dataclass(frozen=True)
class Layers:
    """The model by layer, in the order of the network. `unknown` are the operators whose MACs nobody counted: (name, occurrences)."""

    rows: tuple[Layer, ...]
    params: Amount
    macs: Amount
    unknown: tuple[tuple[str, int], ...]
    alt: str


@dataclass(frozen=True)
class Epoch:
    """One epoch of training, as recorded."""

    epoch: int
    loss: float | None
    metric: float | None
    lr: float | None
    seconds: float | None


@dataclass(frozen=True)
class Training:
    """The curve and what it says in words."""

    epochs: tuple[Epoch, ...]
    metric: str
    unit: str
    alt: str

    @property
    def scored(self) -> bool:
        """Whether any epoch was scored with the metric."""
        return any(epoch.metric is not None for epoch in self.epochs)


@dataclass(frozen=True)
class Share:
    """One phase of the run and its share of the wall time (0 to 1)."""

    label: str
    seconds: float
    text: str
    share: float
    percent: str


@dataclass(frozen=True)
class Ledger:
    """Where the time went; `own` is the sentence on what Laconic itself cost."""

    rows: tuple[Share, ...]
    total: str
    own: str


@dataclass(frozen=True)
class Feature:
    """One line on the machine: words, or names that it has and has not."""

    label: str
    text: str
    has: tuple[str, ...] = ()
    lacks: tuple[str, ...] = ()


def layers(result: Mapping[str, Any]) -> Layers:
    """Return parameters and MACs by layer, with the totals as recorded (or summed where the record lacks them)."""
    records: Sequence[Mapping[str, Any]] = result.get("layers") or ()
    totals = result.get("totals") or {}
    params = _total(totals.get("params"), [finite(r.get("params")) for r in records])
    macs = _total(totals.get("macs"), [finite(r.get("macs")) for r in records])
    rows = tuple(_layer(record, params, macs) for record in records)
    unknown = tuple((str(name), int(finite(n) or 0)) for name, n in (result.get("unknown_operators") or {}).items())
    heavy = max(rows, key=lambda row: row.macs or 0.0, default=None)
    alt = f"Multiply-adds and parameters of {len(rows)} layers in the order of the network."
    if heavy is not None and heavy.macs:
        alt += f" The most multiply-adds are in {heavy.path}: {percent(heavy.macs_share)} of them."
    return Layers(rows, scaled(params, PARAMS), scaled(macs, MACS), unknown, alt)


def training(result: Mapping[str, Any], metric: str, unit: str) -> Training | None:
    """Return the training curve; None where the model came trained."""
    records: Sequence[Mapping[str, Any]] = result.get("training") or ()
    if not records:
        return None
    epochs = tuple(
        Epoch(
            int(finite(r.get("epoch")) or 0), finite(r.get("loss")), finite(r.get("metric")), finite(r.get("lr")), finite(r.get("seconds"))
        )
        for r in records
    )
    first, last = epochs[0], epochs[-1]
    alt = f"Training over {counted(len(epochs), 'epoch')}."
    if first.loss is not None and last.loss is not None:
        alt += f" Loss {number(first.loss)} to {number(last.loss)}."
    if last.metric is not None:
        alt += f" {metric} {number(last.metric, 4)}{unit and chr(160) + unit} after the last epoch."
    return Training(epochs, metric, unit, alt)


def ledger(result: Mapping[str, Any]) -> Ledger | None:
    """Where the wall time went. `own` is a part of its own where the parts leave room for it, else it is only named in words."""
    spent = {str(k): finite(v) or 0.0 for k, v in (result.get("spent") or {}).items()}
    if not spent:
        return None
    parts = {name: seconds for name, seconds in spent.items() if name not in ("total", "own")}
    total = spent.get("total") or sum(parts.values()) + spent.get("own", 0.0)
    own, rest = spent.get("own", 0.0), total - sum(parts.values())
    if own and rest >= 0.98 * own:
        parts["own"], rest = own, rest - own
    if rest > 0.005 * total:
        parts["rest"] = rest
    rows = [
        Share(PHASES.get(k, "Not in any phase" if k == "rest" else k), s, clock(s), *_share(s, total)) for k, s in parts.items() if s > 0
    ]
    words = f"Laconic itself, without running the model: {clock(own)}, {_share(own, total)[1]} of the wall time." if "own" in spent else ""
    return Ledger(tuple(sorted(rows, key=lambda row: -row.share)), clock(total), words)


def environment(result: Mapping[str, Any]) -> tuple[Feature, ...]:
    """Return the machine, one line for each thing recorded; yes/no tables become names that it has and lacks."""
    return tuple(_feature(str(key), value) for key, value in (result.get("environment") or {}).items())


def _feature(key: str, value: Any) -> Feature:
    label = _NAMES.get(key, key.removesuffix("_bytes").replace("_", " ").capitalize())
    if key.endswith("_bytes") and finite(value) is not None:
        return Feature(label, scaled(finite(value), BYTES).text)
    if isinstance(value, Mapping) and value and all(isinstance(v, bool) for v in value.values()):
        has = tuple(str(k) for k, v in value.items() if v)
        return Feature(label, "", has, tuple(str(k) for k, v in value.items() if not v))
    return Feature(label, plain(value))


def _layer(record: Mapping[str, Any], params: float | None, macs: float | None) -> Layer:
    own_params, own_macs = finite(record.get("params")), finite(record.get("macs"))
    return Layer(
        path=str(record.get("path") or "(whole model)"),
        type=str(record.get("type") or ""),
        params=own_params,
        macs=own_macs,
        params_text="not counted" if own_params is None else fixed(own_params, 0),
        macs_text="not counted" if own_macs is None else fixed(own_macs, 0),
        params_share=(own_params or 0.0) / params if params else 0.0,
        macs_share=(own_macs or 0.0) / macs if macs else 0.0,
    )


def _total(recorded: object, counts: Sequence[float | None]) -> float | None:
    total = finite(recorded)
    known = [count for count in counts if count is not None]
    return total if total is not None else (sum(known) if known else None)


def _share(part: float, total: float) -> tuple[float, str]:
    share = part / total if total > 0 else 0.0
    return share, percent(share)
