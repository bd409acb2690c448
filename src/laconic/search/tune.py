"""Recipes that a sampler proposes from what was measured: combinations, and numbers between the settings of the table (Optuna's TPE).

What trains is proposed with short recoveries first. Of each round of these the best go on with whole ones (successive halving: Jamieson and Talwalkar 2016), so
that most of the time goes where it promises something. The sampler keeps nothing of its own: it learns from records, so that a run that goes on gets the same
proposals, and what was computed is not computed again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from laconic.core.errors import LaconicError, need
from laconic.core.step import StepConfig
from laconic.core.target import Target
from laconic.run.recipe import Recipe
from laconic.run.record import Record
from laconic.search.epochs import epochs_of, retrained
from laconic.search.lever import STEP_STAGES, Range, Setting, Surroundings
from laconic.search.levers import levers
from laconic.search.propose import Chain, chains, combine, targets_of, unavailable
from laconic.search.space import Pick, SearchSpace

if TYPE_CHECKING:
    import optuna

ROUND, KEPT = 8, 2  # short recoveries of a round, and how many of them go on
SHORT = 4  # a short recovery has one of so many epochs
_TRIES = 50  # proposals that were known already or make no sense, before the space counts as exhausted
_DISTILL = (0.0, 0.5, 0.9)
_TARGET, _NONE = "target", ""


@dataclass(frozen=True)
class _Proposal:
    """A recipe, the trial that it stands for (None: a whole recovery), and the same with a whole recovery, where this one is short."""

    recipe: Recipe
    trial: optuna.Trial | None = None
    whole: Recipe | None = None


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
        self.targets = {_name(target): around.quickest(target) for target in targets_of(around, space) if unavailable(target) is None}
        self.stages = {stage: list(self._labels(stage)) for stage in STEP_STAGES}
        self._study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=seed, n_startup_trials=ROUND))
        self._known = {record.key: record for record in records}
        self._round: list[tuple[_Proposal, Record]] = []
        self._waiting: list[_Proposal] = []
        for chain in chains(around, space):
            record = self._known.get(chain.recipe(around).key)
            if record is not None:
                self._seed(chain, record)

    def _labels(self, stage: str) -> Iterator[str]:
        """Yield what may be chosen at a stage: nothing, levers whose options vary, and settings of the others."""
        yield _NONE
        heres = [self.around.at(target) for target in self.targets.values()]
        for lever in levers().values():
            if lever.stage == stage:
                picks = [p for p in self.space.picks(lever) if any(self._fits(p, here) for here in heres)]
                yield from dict.fromkeys(lever.name if lever.varies else pick.label for pick in picks)

    def _fits(self, pick: Pick, here: Surroundings) -> bool:
        return self.space.judged(pick, here) is None and pick.setting.solvable(here)

    # What is known ------------------------------------------------------------------------------------------------------------------

    def _seed(self, chain: Chain, record: Record) -> None:
        """Let the sampler know a recipe of the table, in its own terms."""
        from optuna.distributions import CategoricalDistribution

        named: dict[str, Any] = {_TARGET: (_name(chain.target), CategoricalDistribution(list(self.targets)))}
        if named[_TARGET][0] not in self.targets:
            return
        at = {pick.lever.stage: pick for pick in chain.picks}
        for stage, labels in self.stages.items():
            pick = at.get(stage)
            label = _NONE if pick is None else pick.lever.name if pick.lever.varies else pick.label
            if label not in labels:
                return
            named[stage] = (label, CategoricalDistribution(labels))
            if pick is not None:
                values = {name: pick.setting.options.get(name) for name in pick.lever.varies}
                named |= {f"{label}.{name}": (value, _distribution(pick.lever.varies[name])) for name, value in values.items() if value}
        params, distributions = ({name: pair[i] for name, pair in named.items()} for i in (0, 1))
        self._tell(record, params=params, distributions=distributions)

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

    def _promote(self) -> None:
        """Let the best of a round of short recoveries go on."""
        if len(self._round) < ROUND:
            return
        budget = self.around.budget
        measured = [(p, r) for p, r in self._round if r.status in ("passed", "rejected")]
        best = sorted(measured, key=lambda pair: (budget.shortfall(pair[1]), budget.order(pair[1])))[:KEPT]
        self._round = []
        self._waiting += [_Proposal(p.whole) for p, _ in best if p.whole is not None and p.whole.key not in self._known]

    def _new(self) -> _Proposal | None:
        import optuna

        for _ in range(_TRIES):
            trial = self._study.ask()
            proposal = self._made(trial)
            if proposal is None:
                self._study.tell(trial, state=optuna.trial.TrialState.PRUNED)  # ranks behind all that were measured
            elif (known := self._known.get(proposal.recipe.key)) is not None:
                self._tell(known, trial)
            elif any(proposal.recipe.key == other.recipe.key for other in self._waiting):
                self._study.tell(trial, state=optuna.trial.TrialState.FAIL)  # nothing is known of it yet
            else:
                return proposal
        return None

    def _made(self, trial: optuna.Trial) -> _Proposal | None:
        """Return what a trial stands for; None where it makes no sense."""
        target = self.targets[trial.suggest_categorical(_TARGET, list(self.targets))]
        here = self.around.at(target)
        configs: list[StepConfig] = []
        picks: list[Pick] = []
        for stage, labels in self.stages.items():
            label = trial.suggest_categorical(stage, labels) if len(labels) > 1 else _NONE
            pick = None if label == _NONE else self._pick(label, here)
            if pick is None:
                continue
            options = {**pick.setting.options, **{name: self._value(trial, f"{label}.{name}", v) for name, v in pick.lever.varies.items()}}
            picks.append(pick)
            try:
                configs += pick.lever.steps(Setting(label, options), here)
            except LaconicError:  # options that do not go together
                return None
        if not combine(picks):
            return None
        if not any(config.trained() for config in configs):
            return _Proposal(Recipe(tuple(configs), target), trial)
        taught = {"distill": trial.suggest_categorical("distill", _DISTILL)}
        whole = tuple(retrained(config, taught) for config in configs)
        short = tuple(retrained(config, {"epochs": max(1, epochs_of(config, here.task) // SHORT)}) for config in whole)
        return _Proposal(Recipe(short, target), trial, Recipe(whole, target))

    def _pick(self, label: str, here: Surroundings) -> Pick | None:
        """Return the setting that a label stands for, where it makes sense; of a lever whose options vary, the first that does."""
        name = label.partition("=")[0]
        picks = [pick for pick in self.space.picks(levers()[name]) if label in (pick.label, pick.lever.name) and self._fits(pick, here)]
        return picks[0] if picks else None

    def _value(self, trial: optuna.Trial, name: str, varied: Range | tuple[Any, ...]) -> Any:
        if isinstance(varied, Range):
            return float(f"{trial.suggest_float(name, varied.low, varied.high, log=varied.log):.3g}")
        return trial.suggest_categorical(name, varied)


def _name(target: Target) -> str:
    return f"{target.runtime} {target.precision}"


def _distribution(varied: Range | tuple[Any, ...]) -> Any:
    from optuna.distributions import CategoricalDistribution, FloatDistribution

    return FloatDistribution(varied.low, varied.high, log=varied.log) if isinstance(varied, Range) else CategoricalDistribution(varied)
