"""The options of weight pruning: what a recipe says, and what it means together."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from laconic.core.errors import BadInput, nearest
from laconic.core.plan import FitPlan, frozen_plan, out_of_range, with_plan
from laconic.core.step import Stage, StepConfig
from laconic.pruning.unstructured.allocation import ALLOCATIONS
from laconic.pruning.unstructured.choice import Amount
from laconic.pruning.unstructured.criteria import weight_criteria
from laconic.pruning.unstructured.patterns import FREE, Pattern
from laconic.pruning.unstructured.schedules import AT_ONCE, SCHEDULES

_AMOUNTS = ("sparsity", "threshold", "deviations")
_SPARSITY = 0.9
_FLOOR, _HAIR = 0.01, 1e-9


@with_plan("recovery")
@dataclass(frozen=True)
class Sparsify(StepConfig):
    """Weight pruning: which single weights (or blocks, or N of M) become zero where they stand, and how the rest trains.

    Args:
        sparsity: share of zeros among the weights of all layers that become sparse; 0.9 where nothing says how much goes. N:M says it itself.
        threshold: instead, all weights below this absolute value go.
        deviations: instead, all weights below so many standard deviations of their layer's weights go.
        criterion: how much a weight matters: a name in `criteria.weight_criteria()`.
        pattern: where zeros may stand: ``unstructured``, N:M such as ``2:4`` (of four neighbors along the input channels two stay), or blocks such as ``1x4``
            (of one output by four input channels) and ``16x1``.
        allocation: how much of each layer goes: ``uniform``, ``global`` (all weights are ranked together), ``erdos_renyi`` or ``erdos_renyi_kernel``
            (wide layers lose more). None: ``global`` where scores of layers compare, else ``uniform``.
        schedule: when: ``one_shot``, ``gradual``, ``iterative`` (rounds), ``surgery`` (dynamic network surgery), ``rigl`` or ``set``. None: ``gradual`` where
            the criterion can be asked during training, else ``one_shot``; without training all goes at once.
        first: the first layer becomes sparse too.
        head: the last layer becomes sparse too.
        permute: with N:M, channels are first put in an order in which larger weights stay; coupled ones move together, and the program answers as before.
        freeze: module paths whose weights stay as they are.
        floor: share of each layer that stays in any case; goes with `sparsity`. None: a tenth of the share that stays of all, and 0.01 at most.
        updates: how often masks are made while it trains; None: 100 times, where weights grow again 30 times.
        until: progress of the training from which masks stay.
        share: of each layer's weights that goes first where weights grow again; it falls to 0.
        rounds: of ``iterative``.
        rewind: of ``iterative``: progress of a first training whose weights come back in each round, 0 for those given; None: weights go on.
        examples: of the train data that a criterion looks at, and that batch-norms are estimated with anew.
        recovery: how it trains, as of `Prune`.
    """

    stage: ClassVar[Stage] = "sparsity"
    trains: ClassVar[bool] = True
    section: ClassVar[str] = "sparsity"

    sparsity: float | None = None
    threshold: float | None = None
    deviations: float | None = None
    criterion: str = "magnitude"
    pattern: str = FREE
    allocation: str | None = None
    schedule: str | None = None
    first: bool = True
    head: bool = True
    permute: bool = False
    freeze: tuple[str, ...] = ()
    floor: float | None = None
    updates: int | None = None
    until: float = 0.75
    share: float = 0.3
    rounds: int = 3
    rewind: float | None = None
    examples: int = 256
    recovery: FitPlan | Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        mistakes = [*self._numbers(), *self._names()]
        if not mistakes:
            mistakes += self._together()
        mistakes += [f"recovery.{mistake}" for mistake in out_of_range(self.recovery)]
        if mistakes:
            raise BadInput("the weight pruning makes no sense:\n" + "\n".join(f"  {m}" for m in mistakes))
        object.__setattr__(self, "recovery", frozen_plan(self.recovery))

    def _numbers(self) -> Iterator[str]:
        given = [name for name in _AMOUNTS if getattr(self, name) is not None]
        if len(given) > 1:
            yield f"one of {', '.join(_AMOUNTS)} says how much goes; given: {', '.join(given)}"
        if self.sparsity is not None and not 0 < self.sparsity < 1:
            yield f"sparsity: {self.sparsity} is the share of zeros; it lies between 0 and 1"
        for name in ("threshold", "deviations"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                yield f"{name}: {value} must be more than 0"
        if self.floor is not None and not 0 <= self.floor < 1:
            yield f"floor: {self.floor} must be 0 or more and less than 1"
        for name in ("until", "share"):
            if not 0 < getattr(self, name) <= 1:
                yield f"{name}: {getattr(self, name)} must lie above 0 and be 1 at most"
        if self.rewind is not None and not 0 <= self.rewind < 1:
            yield f"rewind: {self.rewind} is a progress of the training, 0 or more and less than 1"
        if self.rounds < 1 or self.examples < 1 or (self.updates or 1) < 1:
            yield "rounds, examples and updates must be 1 or more"

    def _names(self) -> Iterator[str]:
        tables = {"criterion": weight_criteria(), "allocation": ALLOCATIONS, "schedule": SCHEDULES}
        for name, table in tables.items():
            value = getattr(self, name)
            if value is not None and value not in table:
                yield f"{name}: '{value}'." + nearest(value, table)
        try:
            Pattern.read(self.pattern)
        except BadInput as error:
            yield str(error)

    def _together(self) -> Iterator[str]:
        """Yield what does not go together."""
        row, pattern, schedule = weight_criteria()[self.criterion], Pattern.read(self.pattern), SCHEDULES[self.when()]
        if pattern.grouped and (self.amount.unit != "sparsity" or self.sparsity not in (None, pattern.sparsity)):
            yield f"pattern: '{self.pattern}' says itself that {pattern.sparsity:g} of the weights go"
        if self.amount.unit != "sparsity" and (self.pattern != FREE or self.criterion != type(self).criterion):
            yield f"{self.amount.unit} is of single weights' magnitude: it goes with the pattern '{FREE}' and the criterion '{type(self).criterion}'"
        if self.allocation == "global" and not row.comparable:
            yield f"allocation: scores by '{self.criterion}' of different layers do not compare; choose another than 'global'"
        if not row.trains and not schedule.once:
            yield f"schedule: '{self.criterion}' looks at inputs, which '{self.when()}' does not: choose one_shot or iterative"
        if schedule.by_weight and row.needs:
            yield f"criterion: '{self.when()}' scores dense weights that the model does not run with, so by the weights alone"
        if pattern.grouped and not schedule.grouped:
            yield f"schedule: '{self.when()}' does not go with the pattern '{self.pattern}'"
        if self.floor is not None and self.amount.unit == "sparsity" and self.floor > 1 - self.amount.value + _HAIR:
            yield f"floor: {self.floor:g} of each layer stay, and of all weights together {1 - self.amount.value:.3g}: it must be that or less"
        if self.permute and not pattern.grouped:
            yield "permute goes with a pattern N:M"
        if self.rewind is not None and self.schedule != "iterative":
            yield "rewind goes with the schedule 'iterative'"

    def words(self) -> str:
        """Return how much goes and where: `sparsify to 90 % zeros`, `sparsify to 2:4`."""
        amount, pattern = self.amount, Pattern.read(self.pattern)
        if pattern.grouped:
            return f"sparsify to {self.pattern}"
        where = "" if self.pattern == FREE else f" in blocks of {self.pattern}"
        told = {
            "sparsity": f"to {100 * amount.value:g} % zeros",
            "threshold": f"below {amount.value:g}",
            "deviations": f"below {amount.value:g} σ",
        }
        return f"sparsify {told[amount.unit]}{where}"

    @property
    def amount(self) -> Amount:
        """How much goes."""
        if self.threshold is not None:
            return Amount("threshold", self.threshold)
        if self.deviations is not None:
            return Amount("deviations", self.deviations)
        pattern = Pattern.read(self.pattern)
        return Amount("sparsity", pattern.sparsity if pattern.grouped else self.sparsity or _SPARSITY)

    def least(self) -> float:
        """Return the share of each layer that stays in any case: so little by default that layers still compete where few weights stay."""
        return min(_FLOOR, (1 - self.amount.value) / 10) if self.floor is None else self.floor

    def how(self) -> str:
        """Return the name of the allocation."""
        return self.allocation or ("global" if weight_criteria()[self.criterion].comparable else "uniform")

    def when(self, trains: bool = True) -> str:
        """Return the name of the schedule, where it trains or does not."""
        if not trains:
            return AT_ONCE
        return self.schedule or ("gradual" if weight_criteria()[self.criterion].trains else AT_ONCE)
