"""Recipes that a sampler proposes from what was measured: combinations, and numbers between the settings of the table (Optuna's TPE).

Where the budget ends along one number is found by steps (`search.boundary`), beside which the sampler looks for what is better.
What trains is proposed with short recoveries first. Of each round of these the best go on with whole ones (successive halving: Jamieson and Talwalkar 2016), so
that most of the time goes where it promises something. The sampler keeps nothing of its own: it learns from records, so that a run that goes on gets the same
proposals, and what was computed is not computed again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from laconic.core.errors import LaconicError, need
from laconic.core.step import StepConfig
from laconic.run.recipe import Recipe
from laconic.run.record import Record
from laconic.search.boundary import Choices, boundary
from laconic.search.epochs import epochs_of, retrained
from laconic.search.lever import STEP_STAGES, Range, Surroundings
from laconic.search.levers import levers
from laconic.search.propose import chains, combine, targets_of, unavailable, worthwhile
from laconic.search.space import Pick, SearchSpace
from laconic.search.terms import DISTILL, DISTILLED, NONE, TARGET, distributions_of, label_of, name_of, params_of, picks_of, varied_of

if TYPE_CHECKING:
    import optuna

ROUND, KEPT = 8, 2  # short recoveries of a round, and how many of them go on
SHORT = 4  # a short recovery has one of so many epochs
_TRIES = 50  # proposals that were known already or make no sense, before the space counts as exhausted


@dataclass(frozen=True)
class _Proposal:
    """A recipe, the trial that it stands for (None: a whole recovery), the same with a whole recovery, where this one is short, and what was chosen."""

    recipe: Recipe
    trial: optuna.Trial | None = None
    whole: Recipe | None = None
    params: Choices = field(default_factory=dict)


class Tuner:
    """Proposes recipes, one after the other, and learns from their records.

    Args:
        around: the program, the task and the budget.
        space: what may be tried.
        records: what is known already.
        seed: of the sampler.
    """

    def __init__(self, around: Surroundings, space: SearchSpace, records: Sequence[Record], seed: int) -> None:
        optuna = need("optuna", "search")
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.around, self.space = around, space
        ready = [target for target in targets_of(around, space) if unavailable(target) is None]
        self.targets = {name_of(target): around.quickest(target) for target in worthwhile(ready, around, records)}
        self.stages = {stage: list(self._labels(stage)) for stage in STEP_STAGES}
        self._study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=seed, n_startup_trials=ROUND))
        self._known = {record.key: record for record in records}
        self._round: list[tuple[_Proposal, Record]] = []
        self._waiting: list[_Proposal] = []
        self._whole: list[tuple[Choices, Record]] = []  # what was chosen of recipes that were measured with whole recoveries
        self._went: set[tuple[Any, ...]] = set()
        self.busy: set[str] = set()  # keys of what others compute now
        for chain in chains(around, space):
            record = self._known.get(chain.recipe(around).key)
            if record is not None:
                self._seed(params_of(chain), record)

    def _labels(self, stage: str) -> Iterator[str]:
        """Yield what may be chosen at a stage: nothing, levers whose options vary, and settings of the others."""
        yield NONE
        heres = [self.around.at(target) for target in self.targets.values()]
        for lever in levers().values():
            if lever.stage == stage:
                yield from dict.fromkeys(label_of(p) for p in self.space.picks(lever) if any(self._fits(p, here) for here in heres))

    def _fits(self, pick: Pick, here: Surroundings) -> bool:
        return self.space.judged(pick, here) is None and pick.setting.solvable(here)

    # What is known ------------------------------------------------------------------------------------------------------------------

    def _seed(self, params: Choices, record: Record, whole: bool = True) -> None:
        """Let the sampler know a recipe that it did not propose, where its settings are among those that it chooses from."""
        distributions = distributions_of(params, self.space, list(self.targets), self.stages)
        if distributions is not None:
            self._tell(record, params=dict(params), distributions=distributions)
            if whole:
                self._whole.append((params, record))

    def hear(self, record: Record, params: Choices) -> None:
        """Learn of what another driver computed, with the parameters of its trial; once."""
        if record.key not in self._known:
            self._known[record.key] = record
            if params:
                self._seed(params, record, whole=False)

    def _tell(self, record: Record, trial: optuna.Trial | None = None, **given: Any) -> None:
        """Let the sampler know what became of a proposal of its own, or of a recipe with these parameters; nothing of what was not measured."""
        import optuna

        value, short = self.around.budget.order(record), self.around.budget.shortfall(record)
        measured = record.status in ("passed", "rejected") and value < float("inf")
        if trial is not None:
            trial.set_constraint("budget", short)
            self._study.tell(trial, value if measured else None, state=None if measured else optuna.trial.TrialState.PRUNED)
        elif measured:
            self._study.add_trial(optuna.trial.create_trial(value=value, constraints={"budget": short}, **given))

    # Proposals ----------------------------------------------------------------------------------------------------------------------

    def propose(self) -> Recipe | None:
        """Return the next recipe; None where nothing new is found. `learn` is called with its record before the next."""
        return next(iter(self.upcoming(1)), None)

    def upcoming(self, n: int) -> list[Recipe]:
        """Return the next recipes, so many at the most: of all but the first nothing is known that is still to be learned of those before."""
        while len(self._waiting) < n:
            self._promote()
            if len(self._waiting) < n and (new := self._new()) is not None:
                self._waiting.append(new)
            elif len(self._waiting) < n:
                break
        return [proposal.recipe for proposal in self._waiting[:n]]

    def learn(self, record: Record) -> None:
        """Take the record of the first of those that were proposed and not learned of."""
        proposal = self._waiting.pop(0)
        self._known[record.key] = record
        if proposal.trial is not None:
            self._tell(record, proposal.trial)
        if proposal.whole is not None:
            self._round.append((proposal, record))
        else:
            self._whole.append((proposal.params, record))

    def forget(self) -> None:
        """Let go of the first of those that were proposed and not learned of: another driver computes it."""
        import optuna

        proposal = self._waiting.pop(0)
        self.busy.add(proposal.recipe.key)
        if proposal.trial is not None:
            self._study.tell(proposal.trial, state=optuna.trial.TrialState.FAIL)

    def params(self, recipe: Recipe) -> Choices | None:
        """Return the parameters of a proposal that waits; None of another recipe."""
        return next((one.params for one in self._waiting if one.recipe.key == recipe.key), None)

    def _promote(self) -> None:
        """Let the best of a round of short recoveries go on."""
        if len(self._round) < ROUND:
            return
        budget = self.around.budget
        measured = [(p, r) for p, r in self._round if r.status in ("passed", "rejected")]
        best = sorted(measured, key=lambda pair: (budget.shortfall(pair[1]), budget.order(pair[1])))[:KEPT]
        self._round = []
        self._waiting += [
            _Proposal(p.whole, params=p.params) for p, _ in best if p.whole is not None and p.whole.key not in {*self._known, *self.busy}
        ]

    def _new(self) -> _Proposal | None:
        import optuna

        for _ in range(_TRIES):
            if further := self._further():
                self._study.enqueue_trial(further)
            trial = self._study.ask()
            proposal = self._made(trial, whole=further is not None)
            if proposal is None:
                self._study.tell(trial, state=optuna.trial.TrialState.PRUNED)  # ranks behind all that were measured
            elif (known := self._known.get(proposal.recipe.key)) is not None:
                self._tell(known, trial)
                if further:
                    self._whole.append((self._choices(trial), known))
            elif proposal.recipe.key in self.busy or any(proposal.recipe.key == other.recipe.key for other in self._waiting):
                self._study.tell(trial, state=optuna.trial.TrialState.FAIL)  # nothing is known of it yet
            else:
                return proposal
        return None

    def _further(self) -> dict[str, Any] | None:
        """Return choices by which the boundary of the budget is known better; None where it is known."""
        for choices in boundary(self._whole, self.around.budget, self._range, (TARGET, *self.stages)):
            place = tuple(sorted(choices.items()))
            if place not in self._went:
                self._went.add(place)
                return choices
        return None

    def _range(self, name: str) -> Range | None:
        """Return where a choice of this name lies; None of one that is no number."""
        label, _, option = name.rpartition(".")
        found = next((varied_of(pick).get(option) for pick in picks_of(label, self.space)), None)
        return found if isinstance(found, Range) else None

    def _made(self, trial: optuna.Trial, whole: bool = False) -> _Proposal | None:
        """Return what a trial stands for, with a short recovery unless a whole one is asked for; None where it makes no sense."""
        target = self.targets[trial.suggest_categorical(TARGET, list(self.targets))]
        here = self.around.at(target)
        configs: list[StepConfig] = []
        picks: list[Pick] = []
        for stage, labels in self.stages.items():
            label = trial.suggest_categorical(stage, labels) if len(labels) > 1 else NONE
            pick = None if label == NONE else self._pick(label, here)
            if pick is None:
                continue
            setting = pick.setting.with_options(**{name: self._value(trial, f"{label}.{name}", v) for name, v in varied_of(pick).items()})
            picks.append(pick)
            if not setting.solvable(here):
                return None
            try:
                configs += pick.lever.steps(setting, here)
            except LaconicError:  # options that do not go together
                return None
        if not combine(picks):
            return None
        if not any(config.trained() for config in configs):
            return _Proposal(Recipe(tuple(configs), target), trial, params=self._choices(trial))
        taught = {"distill": trial.suggest_categorical(DISTILLED, DISTILL)}
        long = tuple(retrained(config, taught) for config in configs)
        if whole:
            return _Proposal(Recipe(long, target), trial, params=self._choices(trial))
        short = tuple(retrained(config, {"epochs": max(1, epochs_of(config, here.task) // SHORT)}) for config in long)
        return _Proposal(Recipe(short, target), trial, Recipe(long, target), self._choices(trial))

    def _choices(self, trial: optuna.Trial) -> Choices:
        """Return what a trial chose, at stages without a choice nothing."""
        return {**dict.fromkeys(self.stages, NONE), **trial.params}

    def _pick(self, label: str, here: Surroundings) -> Pick | None:
        """Return the setting that a label stands for, where it makes sense; of those whose options vary, the first that does."""
        return next((pick for pick in picks_of(label, self.space) if self._fits(pick, here)), None)

    def _value(self, trial: optuna.Trial, name: str, varied: Range | tuple[Any, ...]) -> Any:
        if isinstance(varied, Range):
            return float(f"{trial.suggest_float(name, varied.low, varied.high, log=varied.log):.3g}")
        return trial.suggest_categorical(name, varied)
