"""The walk through the candidates: the likeliest first, then what follows from their results; what was reached is known at every moment."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from laconic.core import quantities
from laconic.pruning.tables import Making
from laconic.run.evaluate import Evaluator
from laconic.run.recipe import Recipe
from laconic.run.record import OUTRACED, TIME_LIMIT, Record, baseline_of
from laconic.search.budget import Budget
from laconic.search.chance import dependable
from laconic.search.epochs import recipe_epochs
from laconic.search.lever import Surroundings
from laconic.search.propose import (
    faster_threads,
    follow_up,
    is_training,
    propose,
    shipping,
    solved_kinds,
    turn_of,
    with_fewer_threads,
)
from laconic.search.racing import doomed, outraced
from laconic.search.space import SearchSpace
from laconic.search.tables import Sizes, measured, with_prediction
from laconic.search.timeplan import TimePlan
from laconic.search.tune import Tuner

INTERRUPTED = "the run was interrupted before its turn"


class Walk:
    """Evaluates recipes one after the other.

    Args:
        evaluator: gathers their evidence, until its deadline.
        budget: which of them is the best so far.
        races: leave out what cannot become the fastest any more, see `search.racing`.
        plan: what is done with the time; without one there is no limit.

    Attributes:
        records: what is known so far, the baselines first.
        waiting: recipes whose turn has not come, by key.
        around: the surroundings, with what was found out about threads and sizes; None before.
    """

    def __init__(self, evaluator: Evaluator, budget: Budget, races: bool = False, plan: TimePlan | None = None) -> None:
        self.evaluator, self.budget, self.races = evaluator, budget, races
        self.plan = plan or TimePlan(None, evaluator.ledger, evaluator.task)
        self.records: list[Record] = []
        self.waiting: dict[str, Recipe] = {}
        self.around: Surroundings | None = None
        self._asked = 0
        self._by_turn = False
        self._sizes: Sizes | None = None

    def in_order(self, recipes: Sequence[Recipe]) -> None:
        """Evaluate these recipes as they stand."""
        self._expect(recipes)
        self.evaluator.progress.start("candidates", self._asked)
        self._evaluate(recipes)
        self.evaluator.progress.finish()

    def likeliest_first(self, recipes: Sequence[Recipe], around: Surroundings, space: SearchSpace) -> None:
        """Evaluate recipes and what follows from their results, in the order of their turns; the time is planned before the first and before what trains."""
        self._expect(recipes)
        self._plan()
        self.evaluator.progress.start("candidates", self._asked)
        done: set[str] = set()
        threaded = sized = False
        self._by_turn = True
        while self.waiting or not sized:
            turn = min(map(turn_of, self.waiting.values()), default=None)
            if turn is None or (not sized and is_training(turn)):  # what needs no training has shown by now which runtime will ship
                if threaded:
                    sized = True
                    around = self.around = self._known_more(around, space, done)
                    self._plan()
                else:
                    threaded = True
                    self._expect(recipe for recipe in with_fewer_threads(around, space, self.records) if recipe.key not in done)
                continue
            now = [recipe for recipe in self.waiting.values() if turn_of(recipe) == turn]
            self._evaluate(now)
            done |= {recipe.key for recipe in now}
            self._expect(recipe for recipe in follow_up(around, space, self.records) if recipe.key not in done)
        self._by_turn = False
        self.evaluator.progress.finish()

    def _known_more(self, around: Surroundings, space: SearchSpace, done: Collection[str]) -> Surroundings:
        """Return the surroundings with threads that are faster and the table of sizes; where there is any, what waits is proposed anew."""
        around = self._with_sizes(replace(around, threads=faster_threads(self.records)), space)
        if around.threads or around.sizes is not None:
            self._asked -= len(self.waiting)
            self.waiting = {}
            recipes = [*propose(around, space), *follow_up(around, space, self.records)]
            self._expect(recipe for recipe in recipes if recipe.key not in done)
        return around

    def tuned(self, tuner: Tuner, trials: int, at_once: int = 1) -> None:
        """Evaluate what a sampler proposes, so many recipes at the most, as long as there is time.

        Args:
            tuner: is asked, and told what became of its proposals.
            trials: at the most.
            at_once: so many are built at once, and proposed before anything is known of the first of them.
        """
        self.evaluator.progress.start("proposals", trials)
        for n in range(trials):
            recipes = tuner.upcoming(min(at_once, trials - n))
            if not recipes or self._over() or (not self._kept(recipes[0]) and self.plan.too_long(recipes[0])):
                break
            self._expect(recipes)
            self._evaluate(recipes[:1])
            tuner.learn(self.records[-1])
        self.evaluator.progress.finish()

    def _with_sizes(self, around: Surroundings, space: SearchSpace) -> Surroundings:
        """Return the surroundings with the table of sizes, where something is to be solved from one."""
        best = shipping(around, space, self.records)
        if best is None or self._over():
            return around
        self._sizes = measured(self.evaluator, around.program, best, Making(kinds=solved_kinds(around.at(best.deploy), space)))
        return replace(around, sizes=self._sizes)

    def _expect(self, recipes: Iterable[Recipe]) -> None:
        new = {recipe.key: recipe for recipe in recipes if recipe.key not in self.waiting}
        self.waiting |= new
        self._asked += len(new)

    def _evaluate(self, recipes: Sequence[Recipe]) -> None:
        for n, recipe in enumerate(recipes):
            start = time.monotonic()
            self.evaluator.deadline = self.plan.until()
            self.evaluator.expect(self._next(recipes[n:]))
            self.evaluator.progress.advance(0, now=recipe.title)
            record = self._outraced(recipe) or self._in_time(recipe)
            record = with_prediction(record, recipe, self._sizes, self.records)
            self.records.append(record)
            self.evaluator.store.push()
            del self.waiting[recipe.key]
            self.evaluator.progress.advance(**self._facts(record, time.monotonic() - start))

    def _next(self, recipes: Sequence[Recipe]) -> Iterator[Recipe]:
        """Yield what will be evaluated as far as that is known now, beginning with these, without what cannot become the best any more."""
        now = {recipe.key for recipe in recipes}
        later = [recipe for recipe in self.waiting.values() if recipe.key not in now]
        later = sorted(later, key=turn_of) if self._by_turn else later
        yield from (self._taken(recipe) for recipe in (*recipes, *later) if self._outraced(recipe) is None)

    def _in_time(self, recipe: Recipe) -> Record:
        """Return the record of a recipe where there is time; where its recovery is shortened, that of the shortened one, beside which it is not tried."""
        taken = self._taken(recipe)
        if not self._kept(recipe) and (why := self.plan.too_long(taken)) is not None:
            return self._not_tried(recipe, why)
        record = self.evaluator.evaluate(taken)
        self.plan.learn(record, taken)
        if taken.key != recipe.key and record.status == "not_tried":
            return self._not_tried(recipe, record.reasons[-1].text)
        if taken.key != recipe.key:
            epochs = [recipe_epochs(one, self.evaluator.task) for one in (recipe, taken)]
            self.records.append(
                self._not_tried(recipe, f"for want of time it was trained for {epochs[1]} of its {epochs[0]} epochs, as another candidate")
            )
        return record

    def _plan(self) -> None:
        """Plan the time for what is left to do."""
        waiting = [recipe for recipe in self.waiting.values() if not self._kept(recipe)]
        if waiting:
            self.plan.plan(waiting)

    def _taken(self, recipe: Recipe) -> Recipe:
        """Return what is tried of a recipe, with as long a recovery as is planned; one that was measured by an earlier call as it is."""
        return recipe if self._kept(recipe) else self.plan.shortened(recipe)

    def _not_tried(self, recipe: Recipe, why: str, rule: str = TIME_LIMIT) -> Record:
        return Record.of(recipe, baseline=baseline_of(recipe, self.records).key).not_tried(why, rule)

    def _kept(self, recipe: Recipe) -> bool:
        """Return whether a recipe was measured by an earlier call: it takes no time."""
        return self.evaluator.store.has(f"candidates/{recipe.key}/timing.json")

    def _over(self) -> bool:
        left_s = self.plan.left_s()
        return left_s is not None and left_s <= 0

    def _outraced(self, recipe: Recipe) -> Record | None:
        """Return the record of one that cannot become the best any more; None where it may."""
        if not self.races:
            return None
        why = outraced(recipe, self.evaluator.best, self.records) or doomed(recipe, self.budget, self.records)
        return None if why is None else self._not_tried(recipe, why, OUTRACED)

    def _facts(self, record: Record, took_s: float) -> dict[str, Any]:
        """Return what is told of a candidate as soon as it is known; see `core.progress.Progress.advance`."""
        best, end = self._best(), self.plan.ends_at
        drop = (
            None if record.drop is None or record.drop.value is None else quantities.row("drop").told(record.drop.value, record.drop.unit)
        )
        told = {
            "candidate": record.title,
            "status": record.status,
            "goal": self.budget.goal.show.heading or self.budget.goal.label,
            "figure": self._worth(record),
            "drop": drop,
            "why": "; ".join(reason.text for reason in record.reasons),
            "best": None if best is None else f"{best.title}, {self._worth(best)}",
            "took_s": round(took_s, 1),
            "total": self._asked,
            "left_s": None if end is None else max(0.0, end - time.monotonic()),
        }
        return {name: value for name, value in told.items() if value not in (None, "")}

    def _best(self) -> Record | None:
        """Return what would be chosen now."""
        passed = dependable([record for record in self.records if record.status == "passed"], self.budget)
        return min(passed, key=self.budget.order, default=None)

    def _worth(self, record: Record) -> str:
        """Return what it has of the objective."""
        known = record.compared(self.budget.goal)
        return "" if known is None or known.value is None else self.budget.goal.told(known.value, known.unit)

    def untried(self, why: str = INTERRUPTED) -> list[Record]:
        """Return records of those whose turn has not come, with the reason: for a run that was interrupted, or that goes on."""
        bases = [record for record in self.records if record.baseline is None]
        return [Record.of(recipe, baseline=baseline_of(recipe, bases).key).not_tried(why) for recipe in self.waiting.values()]
