"""What a run does with the time that it is given: told at the start, and told anew as prices are learned.

Prices are those of this run: what a candidate took to build, check and time, what an epoch of a recovery took, what a comparison of the baseline took. So much
is kept back as the finalists, the publication and the test data will take. Where not everything fits, recoveries are shortened first; what still does not fit
is not begun, with the reason.
"""

from __future__ import annotations

import importlib.util
import statistics
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from laconic.core.plan import FitPlan
from laconic.core.step import StepConfig
from laconic.core.task import Task
from laconic.core.wording import counted, given, number
from laconic.run.ledger import Ledger
from laconic.run.recipe import Recipe
from laconic.run.record import Record
from laconic.search.epochs import epochs_of, recipe_epochs, retrained
from laconic.search.stopped import spoken
from laconic.search.tune import SHORT

_SAFE = 1.3  # of what finishing is expected to take, so much is kept back
_KEPT = 0.5  # of what is left behind the baseline: more is not kept back, or nothing would be tried
_PAGE_S = 3.0  # reading the test data, writing result and page
_FINALISTS = 6
_TAUGHT = 1.5  # an epoch with a teacher, as a multiple of one of the model's training
SHORTEST = 0.25  # of the epochs of a recovery: it is not cut further
_TRIALS = 24  # proposals of a sampler
_SPARE = 0.1  # of what is left: medium effort spends no more on proposals
_MOST = 10_000
_EACH = ("export", "check", "pack", "time")  # parts of a run that each candidate takes, trained or not


@dataclass(frozen=True)
class Prices:
    """Seconds, as measured in this run.

    Attributes:
        candidate_s: to build, check and time a candidate, without training it; None before anything was.
        epoch_s: an epoch of a recovery; None where neither a recovery nor the model's training is known.
        finish_s: finalists, publication and test data.
    """

    candidate_s: float | None
    epoch_s: float | None
    finish_s: float


class TimePlan:
    """Knows until when candidates may begin, what each will take, and says what it plans.

    Args:
        ends_at: when the run's time is over, of `clock`; None: never.
        ledger: of the run.
        task: with its data.
        training: the record of the model's training; empty where it came trained.
        budgets: how many budgets are answered.
        tell: is given each plan in words.
        clock: seconds that never go back.
    """

    def __init__(
        self,
        ends_at: float | None,
        ledger: Ledger,
        task: Task,
        training: Sequence[Mapping[str, Any]] = (),
        budgets: int = 1,
        tell: Callable[[str], None] = lambda text: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.ends_at, self.ledger, self.task, self.training, self.budgets, self.tell, self.clock = (
            ends_at, ledger, task, training, budgets, tell, clock,
        )  # fmt: skip
        self.said: list[dict[str, Any]] = []
        self._epochs: dict[str, int] = {}
        self._made: set[str] = set()
        self._bases: list[Record] = []
        self._share, self._most_s = 1.0, float("inf")

    # Prices -------------------------------------------------------------------------------------------------------------------------

    def learn(self, record: Record, recipe: Recipe) -> None:
        """Note how many epochs were trained for a recipe that was evaluated, and that its trained beginnings need not be made again."""
        self._epochs[record.key] = self._to_train(recipe, self._made)
        if record.status in ("passed", "rejected"):
            self._made |= {key for key, _ in self._trainings(recipe)}

    def _trainings(self, recipe: Recipe) -> list[tuple[str, int]]:
        """Return the key of each beginning of a recipe that ends with a training, and the epochs of that."""
        beginnings = [(Recipe(recipe.steps[: n + 1], recipe.deploy), config) for n, config in enumerate(recipe.steps) if config.trained()]
        return [(beginning.steps_key, epochs_of(config, self.task)) for beginning, config in beginnings]

    def _to_train(self, recipe: Recipe, made: Collection[str]) -> int:
        """Return the epochs that are left of a recipe where the beginnings of these keys are made."""
        left = 0
        for key, epochs in self._trainings(recipe):
            left = 0 if key in made else left + epochs
        return left

    def measured_baselines(self, records: Sequence[Record]) -> None:
        """Note the baselines, whose times say what comparisons take."""
        self._bases = list(records)
        self._most_s = float("inf") if self.ends_at is None else _KEPT * max(0.0, self.ends_at - self.clock())

    def prices(self) -> Prices:
        """Return what things cost, by what was spent so far."""
        spent: dict[tuple[str, str], float] = {}
        for span in self.ledger.spans():
            spent[span.part, span.of] = spent.get((span.part, span.of), 0.0) + span.seconds
        bases = {record.key for record in self._bases}
        each = [sum(spent.get((part, key), 0.0) for part in _EACH) for key in self._epochs if ("time", key) in spent]
        of_base = [sum(spent.get((part, key), 0.0) for part in _EACH) for key in bases]
        candidate_s = statistics.median(each) if each else max(of_base, default=0.0) or None
        epochs = [spent["recover", key] / n for key, n in self._epochs.items() if n and ("recover", key) in spent]
        return Prices(candidate_s, statistics.median(epochs) if epochs else self._trained_s(), self._finish_s(spent, bases))

    def _trained_s(self) -> float | None:
        seconds = [float(epoch["seconds"]) for epoch in self.training if epoch.get("seconds")]
        return _TAUGHT * statistics.median(seconds) if seconds else None

    def _finish_s(self, spent: Mapping[tuple[str, str], float], bases: set[str]) -> float:
        """Finalists together, each budget's choice with its baseline alone, the test data: each in fresh processes."""
        turn_s = max((spent.get(("time", key), 0.0) for key in bases), default=0.0)
        check_s = max((spent.get(("check", key), 0.0) for key in bases), default=0.0)
        start_s = max((record.value("cold_start_ms") or 0.0 for record in self._bases), default=0.0) / 1e3
        finalists = start_s + (_FINALISTS + 1) * turn_s
        published = self.budgets * (start_s + 2 * turn_s)
        tested = 0.0 if self.task.test is None else (1 + self.budgets) * check_s
        return min(self._most_s, _SAFE * (finalists + published + tested + turn_s) + _PAGE_S)

    def price(self, recipe: Recipe) -> float | None:
        """Return the seconds that a recipe will take; None where that is not known yet."""
        known, epochs = self.prices(), self._to_train(recipe, self._made)
        if known.candidate_s is None or (epochs and known.epoch_s is None):
            return None
        return known.candidate_s + epochs * (known.epoch_s or 0.0)

    # What is begun ------------------------------------------------------------------------------------------------------------------

    def until(self) -> float | None:
        """Return when the last candidate must have ended, of the clock; None where there is no limit."""
        return None if self.ends_at is None else self.ends_at - self.prices().finish_s

    def left_s(self) -> float | None:
        """Return the seconds that are left for candidates."""
        until = self.until()
        return None if until is None else until - self.clock()

    def too_long(self, recipe: Recipe) -> str | None:
        """Return why a recipe is not begun any more; None where it fits, where nothing is left at all, or where it is not known what it will take.

        By the price of the baseline alone, which is the first to be built, nothing is left out that does not train: a run that tries nothing has no answer.
        """
        left_s, takes_s, epochs = self.left_s(), self.price(recipe), self._to_train(recipe, self._made)
        if left_s is None or left_s <= 0 or takes_s is None or takes_s <= left_s or not (epochs or self._epochs):
            return None
        what = f"with {counted(epochs, 'epoch')} of training it" if epochs else "it"
        return f"{what} would take about {spoken(takes_s)}, and {spoken(left_s)} are left before the finalists' turn"

    def shortened(self, recipe: Recipe) -> Recipe:
        """Return a recipe with the share of its epochs that was planned, one at least."""
        if self._share >= 1:
            return recipe
        return Recipe(tuple(self._cut(config) for config in recipe.steps), recipe.deploy)

    def _cut(self, config: StepConfig) -> StepConfig:
        return retrained(config, {"epochs": max(1, int(self._share * epochs_of(config, self.task)))}) if config.trained() else config

    def trials(self, asked: int | None, effort: str) -> int:
        """Return how many recipes a sampler proposes: as many as were asked for; else by the effort, and with a time limit by what is left.

        Args:
            asked: by the user.
            effort: ``low``: none; ``medium``: 24 where they take no more than a tenth of what is left; ``high``: 24, with a time limit as many as fit.
        """
        self._share = 1.0  # proposals begin with short recoveries of their own
        if asked is not None or effort == "low":
            return asked or 0
        left_s, each_s = self.left_s(), self._proposal_s()
        if left_s is None or each_s is None:
            return _TRIALS if effort == "high" else 0
        if effort == "high":
            fitting = max(0, min(_MOST, int(left_s / each_s)))
            self._say(f"{counted(fitting, 'proposal')} of a sampler, about {spoken(each_s)} each")
            return fitting
        return _TRIALS if _TRIALS * each_s <= _SPARE * left_s and importlib.util.find_spec("optuna") is not None else 0

    def _proposal_s(self) -> float | None:
        """Return what a proposal takes, whose recovery is short; None where that is not known."""
        known = self.prices()
        epochs = max(1, (self.task.recovery or FitPlan()).epochs // SHORT)
        return None if known.candidate_s is None else known.candidate_s + epochs * (known.epoch_s or 0.0)

    # What is said -------------------------------------------------------------------------------------------------------------------

    def plan(self, waiting: Sequence[Recipe]) -> None:
        """Say what will be done with the time that is left; nothing where there is no limit.

        Args:
            waiting: recipes whose turn has not come.
        """
        if self.ends_at is None:
            return
        self._share = 1.0
        self._say("; ".join(self._parts(waiting, self.left_s() or 0.0)))

    def _say(self, what: str) -> None:
        assert self.ends_at is not None
        at_s = self.ledger.spent()["total"]
        text = f"plan after {spoken(at_s)}, with {spoken(max(0.0, self.ends_at - self.clock()))} left: {what}"
        self.said.append({"at_s": round(at_s, 1), "text": text})
        self.tell(text)

    def _parts(self, waiting: Sequence[Recipe], left_s: float) -> Iterator[str]:
        known = self.prices()
        plain = [recipe for recipe in waiting if not recipe_epochs(recipe, self.task)]
        trained = [recipe for recipe in waiting if recipe_epochs(recipe, self.task)]
        if known.candidate_s is not None and plain:
            whole = known.candidate_s * len(plain)
            yield f"{counted(len(plain), 'candidate')} without training, about {spoken(known.candidate_s)} each, {spoken(whole)}"
            left_s -= whole
        if trained:
            yield self._recoveries(trained, known, left_s)
        yield f"{spoken(known.finish_s)} kept for finalists and test data"

    def _recoveries(self, trained: Sequence[Recipe], known: Prices, left_s: float) -> str:
        many = f"{counted(len(trained), 'candidate')} that {'trains' if len(trained) == 1 else 'train'}"
        if known.epoch_s is None or known.candidate_s is None:
            return f"{many}, the first of which will say what they take"
        made, epochs = set(self._made), list[int]()
        for recipe in trained:
            epochs.append(self._to_train(recipe, made))
            made |= {key for key, _ in self._trainings(recipe)}
        plain_s, trained_s = known.candidate_s * len(trained), known.epoch_s * sum(epochs)
        told = f"{many}, about {spoken((plain_s + trained_s) / len(trained))} each, {spoken(plain_s + trained_s)}"
        if plain_s + trained_s <= left_s:
            return told
        self._share = share = min(1.0, max(SHORTEST, (left_s - plain_s) / trained_s)) if trained_s else 1.0
        short = [known.candidate_s + known.epoch_s * (max(1, int(share * n)) if n else 0) for n in epochs]
        fitting = max(0.0, left_s) / statistics.fmean(short)
        cut = f"cut to {number(100 * share, 2)} % of their epochs, " if share < 1 else ""
        return f"{told}: more than there is, so {cut}the likeliest {given(min(len(trained), int(fitting)))} first, the others as far as time is left"
