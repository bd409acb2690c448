"""The table of sizes of a run: measured once for the runtime that ships, what is solved and predicted from it, and by what predictions are corrected.

A layer that is timed alone, on one thread, takes another time than in its model, and the model takes more than its layers. One factor for each precision of the
runtime brings the sum of the layers, of a call and of what the model as it is takes beside them (`Table.beside`) to what candidates were measured to take:
first the model as it is, then those whose sizes were solved for, which are more like the next one. So it is with losses: what groups lose alone adds up to less
than what they lose together, and one factor is learned from the candidates whose loss before recovery was measured.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, get_args

from laconic.core.choices import Kind, Table
from laconic.core.errors import BadInput, LaconicError
from laconic.core.program import Program
from laconic.core.records import to_json
from laconic.core.target import Target
from laconic.deploy.runtime import runtime
from laconic.pruning.tables import Making
from laconic.run.evaluate import Evaluator
from laconic.run.recipe import Recipe
from laconic.run.record import Record, opponent
from laconic.search.solve import Allocation, solve

_OF_TIME = 0.25  # of what is left of the run's time: more is not spent on a table
_SLOWED = 1.2  # times as long as when it was first timed, the model as it is takes where others slow the machine down
CHANNELS: tuple[Kind, ...] = ("channels",)
EVERY: tuple[Kind, ...] = get_args(Kind)
_ROUNDED = "bits"  # the kind of parts that there are in integers alone


@dataclass(frozen=True, eq=False)
class Sizes:
    """The table of a runtime, and what is solved from it.

    Attributes:
        table: what sizes lose and layers take.
        target: where they were timed.
        precision: in which the layers are to be fast: that of the best candidate before.
        criterion: by which components of a group go.
    """

    table: Table
    target: Target
    precision: str
    criterion: str
    _solved: dict[Any, Allocation | None] = field(default_factory=dict, repr=False)

    def allocation(self, share: float, kinds: Collection[Kind] = CHANNELS) -> Allocation | None:
        """Return what loses least within a share of the time of the layers; None where nothing keeps to it, or nothing must go for it.

        Args:
            share: of the time of the layers in this precision.
            kinds: of parts that may change; of several, there is none where one of them does not help.
        """
        place = share, tuple(kinds)
        if place not in self._solved:
            self._solved[place] = self._solve(share, kinds)
        return self._solved[place]

    def _solve(self, share: float, kinds: Collection[Kind]) -> Allocation | None:
        known = self.table.only([kind for kind in kinds if kind != _ROUNDED or "int" in self.precision])
        try:
            (found,) = solve(known, [share], self.precision)
        except BadInput:
            return None
        chosen = self.table.among_all(found.chosen, {part.kind for part in known.parts})
        used = {part.kind for part, k in zip(self.table.parts, chosen, strict=True) if k}
        return dataclasses.replace(found, chosen=chosen) if used and (len(kinds) == 1 or used - {*CHANNELS}) else None

    def values(self, share: float, kind: Kind, kinds: Collection[Kind] = CHANNELS) -> dict[str, Any]:
        """Return what parts of a kind become within a share of the time, for which there is an allocation of some kinds."""
        found = self.allocation(share, kinds)
        assert found is not None
        return self.table.values(found.chosen, kind)

    def keep(self, share: float) -> dict[str, int]:
        """Return what groups keep within a share of the time, for which there is an allocation."""
        return self.values(share, "channels")

    def holds_for(self, target: Target) -> bool:
        """Return whether a target is of the runtime that was timed."""
        return (target.runtime, target.device) == (self.target.runtime, self.target.device)

    def chosen(self, recipe: Recipe) -> tuple[int, ...] | None:
        """Return the choices of a recipe: all whole where its steps leave sizes as they are; None where they are not in the table, or in no recipe of its."""
        if not self.holds_for(recipe.deploy) or recipe.numerics not in self.table.precisions:
            return None
        values: dict[tuple[Kind, str], Any] = {}
        for config in recipe.steps:
            own = config.choices()
            if own is None:
                return None
            values |= own
        known = {(part.kind, part.name): part.values for part in self.table.parts}
        if any(place not in known or value not in known[place] for place, value in values.items() if place[0] != _ROUNDED):
            return None
        return tuple(options.index(values.get(place, options[0])) for place, options in known.items())

    def ms(self, recipe: Recipe) -> float | None:
        """Return the sum of the times of a recipe's layers and of all beside them; None of one that the table does not know."""
        chosen = self.chosen(recipe)
        return None if chosen is None else self.table.ms(chosen, recipe.numerics) + self.table.beside_ms(chosen, recipe.numerics)


def with_prediction(record: Record, recipe: Recipe, sizes: Sizes | None, records: Sequence[Record]) -> Record:
    """Return the record of a candidate with sizes of the table with what was predicted and what was measured (`Record.predicted`); others as they are.

    Args:
        record: of the candidate.
        recipe: its own.
        sizes: of the run; None where there are none.
        records: what was known before it, the baselines first.
    """
    chosen = None if sizes is None else sizes.chosen(recipe)
    if sizes is None or chosen is None or chosen == sizes.table.whole:
        return record
    precision = recipe.numerics
    layers_ms, beside_ms = sizes.table.ms(chosen, precision), sizes.table.beside_ms(chosen, precision)
    known, lost, of_losses = factor(sizes, recipe, records), sizes.table.loss(chosen), loss_factor(records)
    return record.replace(
        predicted={
            "runtime": sizes.target.runtime,
            "precision": precision,
            "share": layers_ms / sizes.table.ms(sizes.table.whole, precision),
            "layers_ms": layers_ms,
            "beside_ms": beside_ms,
            "factor": known,
            "latency_ms": None if known is None else known * (layers_ms + beside_ms),
            "measured_ms": paced_ms(record, records),
            "slowed": _slowed(record, records),
            "parts_loss": lost,
            "loss_factor": of_losses,
            "loss": lost * (of_losses or 1.0),
            "measured_loss": rise(record) if all(config.stage == "pruning" or config.choices() == {} for config in recipe.steps) else None,
            "groups": list(_groups(sizes, chosen, precision)),
        }
    )


def loss_factor(records: Sequence[Record]) -> float | None:
    """Return how many times as much candidates lost before recovery as their parts lose alone, the geometric mean; None where none was measured."""
    told = [record.predicted for record in records if record.predicted]
    ratios = [
        one["measured_loss"] / one["parts_loss"]
        for one in told
        if one["measured_loss"] and min(one["measured_loss"], one["parts_loss"]) > 0
    ]
    return math.exp(sum(map(math.log, ratios)) / len(ratios)) if ratios else None


def factor(sizes: Sizes, recipe: Recipe, records: Sequence[Record]) -> float | None:
    """Return how many times as long models take as the table says, by what was measured of those that compute as a recipe does; None where nothing was.

    The geometric mean of those with sizes of the table; before there are any, the fastest of the models as they are, on as many threads where there is one.
    Where others slow the machine down, sizes gain less: what was timed then teaches nothing as long as anything else does.
    """
    whole, cut = _alike(sizes, recipe, records)
    calm = [pair for pair in cut if ((pair[0].predicted or {}).get("slowed") or 1.0) < _SLOWED]
    ratios = [ms / known for one, ms in calm or whole[:1] or cut if (known := sizes.ms(one.made_by))]
    return math.exp(sum(map(math.log, ratios)) / len(ratios)) if ratios else None


def pacer(sizes: Sizes | None, recipe: Recipe, records: Sequence[Record]) -> Record | None:
    """Return beside whom a candidate with sizes of the table is timed: the model as it is that computes as it does, on as many threads, the fastest of several.

    Where others use the machine, what a runtime gains over PyTorch changes within minutes, and what sizes gain within a runtime changes less.
    """
    if sizes is None or sizes.chosen(recipe) in (None, sizes.table.whole):
        return None
    return next((one for one, _ in _alike(sizes, recipe, records)[0] if one.made_by.deploy == recipe.deploy), None)


def _alike(sizes: Sizes, recipe: Recipe, records: Sequence[Record]) -> tuple[list[tuple[Record, float]], list[tuple[Record, float]]]:
    """Return those that compute as a recipe does with their milliseconds: models as they are, those on as many threads and the fastest first, and those with
    sizes of the table."""
    whole, cut = list[tuple[Record, float]](), list[tuple[Record, float]]()
    for record in records:
        other = record.made_by if record.recipe else None
        chosen = None if other is None or _computing(other) != _computing(recipe) else sizes.chosen(other)
        if chosen is not None and (ms := paced_ms(record, records)) is not None:
            (whole if chosen == sizes.table.whole else cut).append((record, ms))
    return sorted(whole, key=lambda pair: (pair[0].made_by.deploy.threads != recipe.deploy.threads, pair[1])), cut


def _computing(recipe: Recipe) -> tuple[str, object]:
    """Return what a recipe computes with, and how what flows between layers is rounded: ranges of each input take longer."""
    modes = [getattr(config, "mode", "static") for config in recipe.steps if config.integer_bits() is not None]
    return recipe.numerics, modes[-1:]


def paced_ms(record: Record, records: Sequence[Record]) -> float | None:
    """Return a candidate's latency at the pace that whoever was timed beside it had when it was first timed itself, for machines drift: its pacer, where it had
    one, else its baseline; None where it was not timed."""
    by = _paced_by(record, records)
    if by is not None and record.pace is not None:
        own_ms = paced_ms(by, records)
        return None if own_ms is None else own_ms / record.pace["speedup"]
    if record.baseline is None or record.speedup is None or not record.speedup.value:
        return None
    base_ms = opponent(record, records).value("latency_ms")
    return None if base_ms is None else base_ms / record.speedup.value


def _slowed(record: Record, records: Sequence[Record]) -> float | None:
    """Return how many times as long a candidate's pacer took beside it as when it was first timed itself; None where it had none."""
    by = _paced_by(record, records)
    first_ms = None if by is None else by.value("latency_ms")
    return record.pace["latency_ms"] / first_ms if record.pace is not None and first_ms else None


def _paced_by(record: Record, records: Sequence[Record]) -> Record | None:
    return None if record.pace is None else next((other for other in records if other.key == record.pace["by"]), None)


def rise(record: Record) -> float | None:
    """Return by how much the loss rose before recovery, as the step that cut has told; None where it has not."""
    losses = [outcome.changed.get("loss") for outcome in record.outcomes if outcome.changed.get("keep")]
    pair = losses[0] if losses else None
    return pair[1] - pair[0] if pair and len(pair) == 2 and None not in pair else None


def _groups(sizes: Sizes, chosen: Sequence[int], precision: str) -> Iterator[dict[str, Any]]:
    """Return of each part what it keeps or becomes, what that alone loses, and what share of the layers' time it alone saves."""
    whole = sizes.table.whole
    whole_ms = sizes.table.ms(whole, precision)
    for index, (part, k) in enumerate(zip(sizes.table.parts, chosen, strict=True)):
        alone_ms = sizes.table.ms((*whole[:index], k, *whole[index + 1 :]), precision)
        yield {
            "name": part.name,
            "kind": part.kind,
            "before": part.values[0],
            "after": part.values[k],
            "loss": part.loss[k],
            "saves": 1 - alone_ms / whole_ms,
        }


# Measuring ----------------------------------------------------------------------------------------------------------------------------------


def measured(
    evaluator: Evaluator, program: Program, best: Recipe, making: Making | None = None, records: Sequence[Record] = ()
) -> Sizes | None:
    """Return the table of sizes for the runtime of the best recipe so far, measured unless it is in the run's folder; None where it cannot be.

    Of a run with a time limit it takes a quarter of what is left at the most; what it knows then is kept.

    Args:
        evaluator: of the run; what fails is told to its progress.
        program: the captured model.
        best: where the result will run and compute in.
        making: how.
        records: of models as they are, among others, which are timed as a whole too.
    """
    making = making or Making()
    name = f"tables/{digest(program, best.deploy, making, evaluator.options.seed)}.json"
    store, builder = evaluator.store, evaluator.builder
    if not store.has(name):
        now = time.monotonic()
        builder.deadline = None if evaluator.deadline is None else now + _OF_TIME * max(0.0, evaluator.deadline - now)
        try:
            with evaluator.ledger.part("tables"), evaluator.crew.paused():
                builder.size_table(best.deploy, making, store.path(name), _wholes(best, records))
        except LaconicError as error:
            evaluator.progress.log(f"sizes are not solved for: {error}")
            return None
        finally:
            builder.deadline = None
            evaluator.ledger.keep(store, at_once=True)
    table = store.read_as(name, Table.from_json)
    precision = best.numerics if best.numerics in table.precisions else table.precisions[0]
    return Sizes(table, best.deploy, precision, making.criterion)


def _wholes(best: Recipe, records: Sequence[Record]) -> dict[str, Recipe]:
    """Return by precision the fastest recipe of the runtime that leaves all sizes as they are; none where layers are not timed in that runtime."""
    if runtime(best.deploy.runtime).format != "onnx":
        return {}
    timed = sorted(
        (record for record in records if record.recipe and record.value("speedup")), key=lambda record: record.value("speedup") or 0
    )
    recipes = [record.made_by for record in timed if record.made_by.deploy.runtime == best.deploy.runtime]
    return {recipe.numerics: recipe for recipe in recipes if all(config.choices() == {} for config in recipe.steps)}


def digest(program: Program, target: Target, making: Making, seed: int) -> str:
    """Return sixteen hexadecimal digits that tell tables apart."""
    facts: Mapping[str, Any] = {"program": program.fingerprint(), "runtime": target.runtime, "making": to_json(making), "seed": seed}
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]
