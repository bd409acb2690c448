"""The walk through the candidates: the likeliest first, then what follows from their results; what was reached is known at every moment."""

from __future__ import annotations

import itertools
import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from laconic.core import quantities
from laconic.core.errors import LaconicError
from laconic.pruning.tables import Making
from laconic.run.evaluate import Evaluator
from laconic.run.recipe import Recipe
from laconic.run.record import OUTRACED, TIME_LIMIT, Record, baseline_of
from laconic.search.budget import Budget
from laconic.search.chance import dependable
from laconic.search.epochs import recipe_epochs
from laconic.search.judge import Judge
from laconic.search.lever import Surroundings
from laconic.search.propose import (
    Turn,
    between,
    faster_threads,
    follow_up,
    is_training,
    milder,
    propose,
    rivals,
    shipping,
    solved_kinds,
    speeds,
    turn_of,
    unavailable,
    with_fewer_threads,
)
from laconic.search.racing import doomed, heavy, outraced, oversized
from laconic.search.space import SearchSpace
from laconic.search.study import POLL_S, NoStudy, Told
from laconic.search.tables import Sizes, measured, pacer, with_prediction
from laconic.search.terms import Terms
from laconic.search.timeplan import TimePlan
from laconic.search.tune import Tuner

INTERRUPTED = "the run was interrupted before its turn"


class Walk:
    """Evaluates recipes one after the other.

    Args:
        evaluator: gathers their evidence, until its deadline.
        budget: which of them is the best so far.
        races: what is asked of candidates, where those are left out that cannot become the fastest any more, see `search.racing`; None: all are tried.
        plan: what is done with the time; without one there is no limit.
        study: shared with other drivers; None: this run is on its own.
        space: in whose terms the study knows candidates.
        ahead: so many candidates are built at once, and claimed for that in a shared study.

    Attributes:
        records: what is known so far, the baselines first.
        waiting: recipes whose turn has not come, by key.
        elsewhere: recipes that another driver computes now, by key.
        around: the surroundings, with what was found out about threads and sizes; None before.
    """

    def __init__(
        self,
        evaluator: Evaluator,
        budget: Budget,
        races: Judge | None = None,
        plan: TimePlan | None = None,
        study: NoStudy | None = None,
        space: SearchSpace | None = None,
        ahead: int = 1,
    ) -> None:
        self.evaluator, self.budget, self.races = evaluator, budget, races
        self.study, self.ahead = study or NoStudy(), ahead
        self.plan = plan or TimePlan(None, evaluator.ledger, evaluator.task)
        self.records: list[Record] = []
        self.waiting: dict[str, Recipe] = {}
        self.elsewhere: dict[str, Recipe] = {}
        self.around: Surroundings | None = None
        self._asked = 0
        self._by_turn = False
        self._sizes: Sizes | None = None
        self._retimed: list[Record] = []
        self._milder: dict[str, Recipe] = {}
        self._terms = Terms(space or SearchSpace())

    def in_order(self, recipes: Sequence[Recipe]) -> None:
        """Evaluate these recipes as they stand."""
        self._expect(recipes)
        self.evaluator.progress.start("candidates", self._asked)
        self._evaluate(recipes)
        self._settle()
        self.evaluator.progress.finish()

    def likeliest_first(self, recipes: Sequence[Recipe], around: Surroundings, space: SearchSpace) -> None:
        """Evaluate recipes and what follows from their results, in the order of their turns; the time is planned before the first and before what trains."""
        self._expect(recipes)
        self._plan()
        self.evaluator.progress.start("candidates", self._asked)
        done: set[str] = set()
        threaded = sized = False
        self._by_turn = True
        self._terms.know(around, self.study)
        while self.waiting or self.elsewhere or not sized:
            turn = min(map(turn_of, self.waiting.values()), default=None)
            if turn is None or (not sized and is_training(turn)):  # what needs no training has shown by now which runtime will ship
                if self.elsewhere:
                    self._settle()
                    self._expect(recipe for recipe in follow_up(around, space, self.records) if recipe.key not in done)
                elif threaded:
                    sized = True
                    around = self.around = self._known_more(around, space, done)
                    self._terms.know(around, self.study)
                    self._milder = milder(around, space)
                    self._plan()
                else:
                    threaded = True
                    self._expect(recipe for recipe in with_fewer_threads(around, space, self.records) if recipe.key not in done)
                continue
            now = [recipe for recipe in self.waiting.values() if turn_of(recipe) == turn]
            self._evaluate_by_turns(now, space)
            done |= {recipe.key for recipe in now}
            self._expect(recipe for recipe in follow_up(around, space, self.records) if recipe.key not in done)
        self._by_turn = False
        self.evaluator.progress.finish()

    def _known_more(self, around: Surroundings, space: SearchSpace, done: Collection[str]) -> Surroundings:
        """Return the surroundings with threads that are faster and the table of sizes; where there is any, what waits is proposed anew."""
        if (best := shipping(around, space, self.records)) is not None and not self._over():
            self._retime(rivals(best, self.records))
        around = self._with_sizes(replace(around, threads=faster_threads(self._latest())), space)
        if around.threads or around.sizes is not None:
            self._asked -= len(self.waiting)
            self.waiting = {}
            recipes = [*propose(around, space), *follow_up(around, space, self.records)]
            self._expect(recipe for recipe in recipes if recipe.key not in done)
        return around

    def _by_turns(self, recipes: Sequence[Recipe]) -> list[Recipe]:
        """Return recipes in the order of their turns.

        Of those that train come last: what is `racing.heavy`; where speed is the aim, slower runtimes; harsher settings of what lost much.
        """
        fastest = speeds(self._latest()) if self.budget.goal.timed else {}
        by_key = {record.key: record for record in self.records}

        def place(recipe: Recipe) -> tuple[Turn, bool, float, int]:
            turn, target = turn_of(recipe), recipe.deploy
            if not is_training(turn):
                return turn, False, 0.0, 0
            before = self._milder.get(recipe.key)
            known = None if before is None else by_key.get(self._taken(before).key)
            return turn, heavy(recipe, self.budget, self.records), -fastest.get((target.runtime, target.precision), 0.0), self._held(known)

        return sorted(recipes, key=place)

    def _held(self, record: Record | None) -> int:
        """Return how a candidate did: 0 where it passed and lost no more than half of what it may, 2 where it failed, else 1."""
        if record is None or record.status not in ("passed", "rejected", "failed"):
            return 1
        limit, drop = self.budget.drop_limit, record.value("drop")
        if record.status != "passed":
            return 2
        return int(limit is not None and drop is not None and drop > limit / 2)

    def tuned(self, tuner: Tuner, trials: int, at_once: int = 1, of_all: bool = True) -> None:
        """Evaluate what a sampler proposes, so many recipes at the most, as long as there is time.

        Args:
            tuner: is asked, and told what became of its proposals.
            trials: at the most.
            at_once: so many are built at once, and proposed before anything is known of the first of them.
            of_all: in a shared study, the proposals of all drivers count; else those of this run alone.
        """
        self.evaluator.progress.start("proposals", trials)
        self._terms.proposed, made = tuner.params, 0
        while True:
            self._hear(tuner)
            asked = max(made, self.study.proposed() if of_all else 0)
            recipes = tuner.upcoming(min(at_once, trials - asked)) if asked < trials else []
            if not recipes or self._over() or (not self._kept(recipes[0]) and self.plan.too_long(recipes[0])):
                break
            self._expect(recipes)
            self._evaluate(recipes[:1])
            if recipes[0].key in self.elsewhere:
                tuner.forget()
            else:
                tuner.learn(self.records[-1])
                made += 1
        self.evaluator.progress.finish()

    def together(self) -> None:
        """Wait for what other drivers of a shared study still compute, and take what they found, so that all choose among the same candidates."""
        while True:
            self._settle()
            self._hear()
            if not self.study.elsewhere() or self._over():
                return
            time.sleep(POLL_S)

    def _with_sizes(self, around: Surroundings, space: SearchSpace) -> Surroundings:
        """Return the surroundings with the table of sizes, where something is to be solved from one."""
        best = shipping(around, space, self._latest())
        if best is None or self._over():
            return around
        self._sizes = measured(
            self.evaluator, around.program, best, Making(kinds=solved_kinds(around.at(best.deploy), space)), self.records
        )
        return replace(around, sizes=self._sizes)

    def _retime(self, keys: Sequence[str]) -> None:
        """Time candidates of several runtimes together: by minutes of their own, on a machine that others use too, another may look fastest, and sizes are
        solved for one runtime alone. Their records stay as they are, and where they cannot be timed that decides as it stands."""
        if len(keys) < 2 or not self.budget.goal.timed:
            return
        try:
            self._retimed = [record for record in self.evaluator.compare(self.records, keys)[0] if record.key in keys]
        except LaconicError as error:
            self.evaluator.progress.log(f"who is fastest is told by each one's own minutes: {error}")
        self.evaluator.deadline = self.plan.until()  # what another driver computed was built without one

    def _latest(self) -> list[Record]:
        """Return the records, with the times of those that were timed together where there are any."""
        known = {record.key: record for record in self._retimed if record.speedup is not None}
        return [known.get(record.key, record) for record in self.records]

    def _expect(self, recipes: Iterable[Recipe]) -> None:
        new = {recipe.key: recipe for recipe in recipes if recipe.key not in self.waiting}
        self.waiting |= new
        self._asked += len(new)

    def _evaluate(self, recipes: Sequence[Recipe]) -> None:
        for n in range(len(recipes)):
            self._evaluate_first(recipes[n:])

    def _evaluate_by_turns(self, recipes: Sequence[Recipe], space: SearchSpace) -> None:
        """Evaluate recipes in the order of their turns, as it is after each result, and what lies between two of them where one lost too much, or beyond the
        harshest where that is the best."""
        left = list(recipes)
        while left:
            ordered = self._by_turns(left)
            self._evaluate_first(ordered)
            left.remove(ordered[0])
            left = [*self._between(space), *left]

    def _between(self, space: SearchSpace) -> list[Recipe]:
        """Return what is between the best so far and the next harsher one, which lost too much, or beyond the harshest; nothing where that was tried."""
        pair = None if self.around is None else between(self.around, space, self.records)
        if pair is None or pair[0].key in {*(record.key for record in self.records), *self.waiting, *self.elsewhere}:
            return []
        self._milder[pair[0].key] = pair[1]
        self._expect(pair[:1])
        return [pair[0]]

    def _evaluate_first(self, recipes: Sequence[Recipe]) -> None:
        """Evaluate the first of these recipes; the others come next."""
        self._collect()
        self.evaluator.deadline = self.plan.until()
        self.evaluator.expect(self._next(recipes))
        if not self._tried(recipes[0]):
            self.elsewhere[recipes[0].key] = recipes[0]
        del self.waiting[recipes[0].key]

    def _tried(self, recipe: Recipe) -> bool:
        """Append the record of a recipe, computed here or by another driver; returns whether it is known, or still computed elsewhere."""
        start = time.monotonic()
        self.evaluator.progress.advance(0, now=recipe.title)
        record = self._outraced(recipe) or self._in_time(recipe)
        if record is None:
            return False
        record = with_prediction(record, recipe, self._sizes, self.records)
        self.records.append(record)
        self.evaluator.store.push()
        self.evaluator.progress.advance(**self._facts(record, time.monotonic() - start))
        return True

    def _next(self, recipes: Sequence[Recipe]) -> Iterator[Recipe]:
        """Yield what will be evaluated as far as that is known now, beginning with these, without what cannot become the best any more; in a shared study,
        the next few of these that this driver could claim."""
        now = {recipe.key for recipe in recipes}
        later = [recipe for recipe in self.waiting.values() if recipe.key not in now]
        later = self._by_turns(later) if self._by_turn else later
        coming = (self._taken(recipe) for recipe in (*recipes, *later) if self._outraced(recipe) is None)
        if self.study.shared:
            free = (recipe for recipe in coming if not self._kept(recipe) and unavailable(recipe.deploy) is None)
            yield from itertools.islice((recipe for recipe in free if self.study.claim(recipe, self._terms.of(recipe))), self.ahead)
        else:
            yield from coming

    def _in_time(self, recipe: Recipe) -> Record | None:
        """Return the record of a recipe where there is time; where its recovery is shortened, that of the shortened one, beside which it is not tried.

        None: another driver computes it.
        """
        taken = self._taken(recipe)
        told = None if self._kept(taken) else self.study.result(taken.key)
        if told is not None:
            record = self._adopted(told)
        elif not self._kept(recipe) and (why := self.plan.too_long(taken)) is not None:
            return self._not_tried(recipe, why)
        elif (computed := self._computed(taken)) is None:
            return None
        else:
            record = computed
            self.plan.learn(record, taken)
        if taken.key != recipe.key and record.status == "not_tried":
            return self._not_tried(recipe, record.reasons[-1].text)
        if taken.key != recipe.key:
            epochs = [recipe_epochs(one, self.evaluator.task) for one in (recipe, taken)]
            self.records.append(
                self._not_tried(recipe, f"for want of time it was trained for {epochs[1]} of its {epochs[0]} epochs, as another candidate")
            )
        return record

    # Shared with other drivers ------------------------------------------------------------------------------------------------------

    def _computed(self, recipe: Recipe) -> Record | None:
        """Return the record of a recipe that this driver could claim, and let the others know it; None where another one has it."""
        if unavailable(recipe.deploy) is not None:
            return self.evaluator.evaluate(recipe)
        if not self.study.claim(recipe, self._terms.of(recipe)) and not self._kept(recipe):
            return None
        self.evaluator.pacer = pacer(self._sizes, recipe, self.records)
        try:
            record = self.evaluator.evaluate(recipe)
        except BaseException:
            self.study.give_up(recipe.key)
            raise
        finally:
            self.evaluator.pacer = None
        self.study.tell(recipe.key, record)
        return record

    def _adopted(self, told: Told) -> Record:
        """Return what another driver found of a candidate, as a record of this run."""
        record = told.record.replace(notes=(*told.record.notes, f"computed by {told.by}, a driver of the study"))
        return self.evaluator.heard(record)

    def _collect(self) -> None:
        """Take what became of recipes that others computed; what their drivers left behind is computed here."""
        busy = self.study.elsewhere() if self.elsewhere else set()
        for key, recipe in [*self.elsewhere.items()]:
            if self._taken(recipe).key not in busy and self._tried(recipe):
                self.elsewhere.pop(key)

    def _settle(self) -> None:
        """Wait until nothing is computed elsewhere that this run asked for, as long as there is time; what was claimed ahead is given up meanwhile."""
        self.study.give_up()
        while True:
            self._collect()
            if not self.elsewhere or self._over():
                break
            time.sleep(POLL_S)
        for recipe in self.elsewhere.values():
            self.records.append(self._not_tried(recipe, "the time limit was reached while another driver computed it"))
        self.elsewhere.clear()

    def _hear(self, tuner: Tuner | None = None) -> None:
        """Take what others found of recipes that this run did not ask for, such as proposals of their samplers; `tuner` learns of it."""
        if not self.study.shared:
            return
        known = {*(record.key for record in self.records), *self.waiting, *self.elsewhere}
        for told in self.study.news():
            if told.record.key not in known:
                recipe = told.record.made_by
                self.records.append(self.evaluator.evaluate(recipe) if self._kept(recipe) else self._adopted(told))
            if tuner is not None:
                tuner.hear(told.record, told.params)
        if tuner is not None:
            tuner.busy = self.study.elsewhere()

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
        if self.races is None:
            return None
        best = self.races.rival(None, self.evaluator.passed)
        known = self.races.budget, self.records
        why = outraced(recipe, best, self.records) or doomed(recipe, *known) or oversized(recipe, *known)
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
        recipes = (*self.waiting.values(), *self.elsewhere.values())
        return [Record.of(recipe, baseline=baseline_of(recipe, bases).key).not_tried(why) for recipe in recipes]
