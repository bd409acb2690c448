"""Recipes from levers: every chain of settings in the order of the stages that the rows allow, within bounds, the likeliest first; and what follows a loss."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

from laconic.core import quantities
from laconic.core.choices import Kind
from laconic.core.target import PROMISES, Target
from laconic.deploy import runtime
from laconic.run.recipe import Recipe
from laconic.run.record import Record
from laconic.search.chance import dependable
from laconic.search.lever import COSTS, SHARE, SHARES, STEP_STAGES, TARGET_STAGES, Lever, Surroundings, cost_of_steps
from laconic.search.levers import levers
from laconic.search.space import Pick, SearchSpace, baseline_recipe

LONGEST = 3  # levers that one recipe pulls
_NEAR = 2.0  # times as fast as a runtime, the fastest of all may be, and fewer threads are tried in that one too
_ON = 2 / 3  # of the harshest share that the table of levers has: as if so little had lost too much, where that one holds the limit
_TRAINING = COSTS.index("training")
# When a candidate has its turn, the least first: whether it trains, its promise (that of the least promising of its levers), its cost (that of the dearest).
Turn = tuple[bool, int, int]


@dataclass(frozen=True)
class Chain:
    """Settings in the order of their stages, and where the result runs."""

    picks: tuple[Pick, ...]
    target: Target

    @property
    def turn(self) -> Turn:
        """When it is tried."""
        return _turn([(pick.lever, pick.cost) for pick in self.picks], self.target)

    @property
    def name(self) -> tuple[Any, ...]:
        """Return what tells it from others."""
        return (*(pick.label for pick in self.picks), self.target)

    @property
    def trains(self) -> bool:
        """Return whether one of its levers trains, in this setting or in another: it changes the weights alone, alike for every runtime."""
        return any(COSTS.index(pick.lever.cost) == _TRAINING for pick in self.picks)

    def on(self, target: Target) -> Chain:
        """Return the same, run elsewhere."""
        return dataclasses.replace(self, target=target)

    @property
    def trained(self) -> tuple[Pick, ...]:
        """Return the settings that train."""
        return tuple(pick for pick in self.picks if COSTS.index(pick.cost) == _TRAINING)

    def solved_for(self, share: float) -> Chain:
        """Return the same, with the sizes of the setting that trains solved for another share of the time."""
        (trained,) = self.trained
        setting = dataclasses.replace(trained.setting.with_options(**{SHARE: share}), name=f"{share:g}")
        other = dataclasses.replace(trained, setting=setting)
        return dataclasses.replace(self, picks=tuple(other if pick is trained else pick for pick in self.picks))

    def recipe(self, around: Surroundings) -> Recipe:
        """Return the recipe of all its steps."""
        here = around.at(self.target)
        return Recipe(tuple(step for pick in self.picks for step in pick.lever.steps(pick.setting, here)), self.target)


def propose(around: Surroundings, space: SearchSpace) -> list[Recipe]:
    """Return the recipes of a search space, without the baseline's own, in the order in which they are tried: those that train come last.

    Results change the order of these (`search.walk`). Those without steps that the machine cannot run are among them, so that the report can say why.
    """
    baseline = baseline_recipe(space.threads, space.device)
    recipes = [chain.recipe(around) for chain in chains(around, space)]
    return list({recipe.key: recipe for recipe in recipes if recipe.key != baseline.key}.values())


def turn_of(recipe: Recipe) -> Turn:
    """Return when a recipe is tried; of levers that add the same step, the most promising counts."""
    rows = [(config, [row for row in levers().values() if type(config) in row.configs]) for config in recipe.steps]
    device = recipe.deploy.device
    steps = [(min(found, key=lambda row: PROMISES.index(row.promise_on(device))), cost_of_steps(config)) for config, found in rows if found]
    return _turn(steps, recipe.deploy)


def is_training(turn: Turn) -> bool:
    """Return whether candidates of a turn are trained."""
    return turn[0]


def _turn(steps: Sequence[tuple[Lever, str]], target: Target) -> Turn:
    cost = max((COSTS.index(cost) for _, cost in steps), default=0)
    promise = max(PROMISES.index(row.promise_on(target.device)) for row in (*(row for row, _ in steps), *_levers_of(target)))
    return cost == _TRAINING, promise, cost


def _levers_of(target: Target) -> list[Lever]:
    """Return the levers that choose a target's runtime and precision."""
    rows = [row for row in levers().values() if row.stage in TARGET_STAGES]
    return [row for row in rows if any(s.options == {row.stage: getattr(target, row.stage)} for s in row.choices)]


def follow_up(around: Surroundings, space: SearchSpace, records: Sequence[Record]) -> list[Recipe]:
    """Return what is to win back what the last lever of a candidate lost, in the order in which it is tried.

    A lever that follows another one takes its place in each chain that it ends. Where there were levers before, their own candidate must hold the drop's
    limit: what they lost is not to be won back here.

    Args:
        around: as of `propose`.
        space: as of `propose`.
        records: of what was proposed, in any order; others are passed over.
    """
    by_key = {record.key: record for record in records}
    tried = [(chain, by_key[key]) for chain in chains(around, space) if (key := chain.recipe(around).key) in by_key]
    records_of = {chain.name: record for chain, record in tried}
    waiting = [pick for pick in _picks(space) if space.waits(pick)]
    followers = [
        follower
        for chain, record in tried
        if chain.picks and _lost(chain, record, records_of, around)
        for pick in waiting
        if pick.lever.follows == f"{chain.picks[-1].lever.name}={chain.picks[-1].setting.name}"
        if space.judged(pick, around.at(chain.target)) is None
        if _legal(follower := dataclasses.replace(chain, picks=(*chain.picks[:-1], pick)))
    ]
    followers = [follower.on(around.quickest(follower.target)) if follower.trained else follower for follower in followers]
    recipes = [follower.recipe(around) for follower in sorted(followers, key=lambda chain: chain.turn)]
    return list({recipe.key: recipe for recipe in recipes if recipe.key not in by_key}.values())


def chains(around: Surroundings, space: SearchSpace) -> list[Chain]:
    """Return every legal chain of the search space, the empty ones among them, in the order in which they are tried."""
    targets = targets_of(around, space)
    trainable = _worth_training_for(targets)
    whole = [
        chain.on(around.quickest(target)) if chain.trained else chain
        for target in targets
        for chain in _chains_at(around.at(target), space)
        if target in trainable or not chain.trains
    ]
    # Of those that train, the first setting of a lever in every runtime before its second in any.
    return sorted(whole, key=lambda chain: (chain.turn, [pick.place for pick in chain.trained]))


def milder(around: Surroundings, space: SearchSpace) -> dict[str, Recipe]:
    """Return by the key of a recipe that trains the one that is the same but for the next milder setting of the lever that trains; nothing of the mildest.

    A lever's settings stand in the table in this order; shares of the time that sizes are solved for are one row of settings, other numbers another.
    Of settings that are not in the table the order is not known.
    """
    return {harsher.recipe(around).key: mild.recipe(around) for mild, harsher in _neighbors(around, space)}


def _neighbors(around: Surroundings, space: SearchSpace) -> Iterator[tuple[Chain, Chain]]:
    """Yield chains that differ in the setting of the lever that trains alone, a milder one and the next harsher one."""
    last = dict[tuple[Any, ...], Chain]()
    alone = [
        chain for chain in chains(around, space) if len(chain.trained) == 1 and chain.trained[0].setting in chain.trained[0].lever.choices
    ]
    for chain in sorted(alone, key=lambda chain: chain.trained[0].place):
        (pick,) = chain.trained
        others = tuple(other.label for other in chain.picks if other is not pick)
        row = pick.lever.name, pick.setting.share is None, others, chain.target
        if row in last:
            yield last[row], chain
        last[row] = chain


def between(around: Surroundings, space: SearchSpace, records: Sequence[Record]) -> tuple[Recipe, Recipe] | None:
    """Return a recipe between the best so far, whose sizes were solved for a share of the time, and the next harsher share, which lost too much; and the best.

    Between two shares of the table of levers, and of what was found between these; where the harshest of the table is the best, some way on. None where both
    are near each other, or the drop has no limit.

    Args:
        around: as of `propose`.
        space: as of `propose`.
        records: of what was tried.
    """
    by_key, budget = {record.key: record for record in records}, around.budget
    sound = dependable([record for record in records if record.status == "passed"], budget)
    best = min(sound, key=budget.order, default=None)
    if best is None or budget.drop_limit is None:
        return None

    def short(record: Record | None) -> bool:
        """Whether it lost too much, or held the limit by what may be luck."""
        if record is None or record in sound:
            return False
        return record.status == "passed" or budget.drop_reason(record, "valid") is not None

    pairs = [*_neighbors(around, space)]
    inner = {mild.name for mild, _ in pairs}
    for keeps, harsher in (*pairs, *((last, None) for _, last in pairs if last.name not in inner)):
        held, lost = (None if chain is None else chain.trained[0].setting.share for chain in (keeps, harsher))
        if held is None or (harsher is not None and (lost is None or not short(by_key.get(harsher.recipe(around).key)))):
            continue
        while (middle := SHARES.between(held, lost or max(SHARES.low, held * _ON))) is not None:
            if not _solvable(found := keeps.solved_for(middle), around):
                break
            known = by_key.get(found.recipe(around).key)
            if known is None and keeps.recipe(around).key == best.key:
                return found.recipe(around), best.made_by
            if known in sound:
                held, keeps = middle, found
            elif short(known):
                lost = middle
            else:
                break
    return None


def _solvable(chain: Chain, around: Surroundings) -> bool:
    return chain.trained[0].setting.solvable(around.at(chain.target))


def targets_of(around: Surroundings, space: SearchSpace) -> list[Target]:
    """Return where candidates are tried: wherever they run, as the search space has it.

    Where the budget asks for nothing but what a file holds and what it answers, other runtimes would be given the same files over and over: then only the
    first of those that compute with integers, unless runtimes or precisions were asked for.
    """
    targets = space.targets()
    if space.names_targets or not all(row.exact or row.data for row in around.budget.quantities()):
        return targets
    worth = _worth_training_for(targets)
    return [target for target in targets if target in worth][:1] or targets


def _chains_at(here: Surroundings, space: SearchSpace) -> Iterator[Chain]:
    """Return the legal chains of one target; only the empty one where this machine cannot run it."""
    yield Chain((), here.target)
    if unavailable(here.target) is not None:
        return
    fitting = [pick for pick in _picks(space) if not space.waits(pick) and space.judged(pick, here) is None and pick.setting.solvable(here)]
    stages = [[None, *(pick for pick in fitting if pick.lever.stage == stage)] for stage in STEP_STAGES]
    for combination in itertools.product(*stages):
        chain = Chain(tuple(pick for pick in combination if pick is not None), here.target)
        if chain.picks and _legal(chain):
            yield chain


def _legal(chain: Chain) -> bool:
    """Return whether a chain keeps within bounds: its length; settings that combine, and one training, unless more were asked for by name."""
    return combine(chain.picks) and (len(chain.trained) <= 1 or all(pick.asked for pick in chain.trained))


def combine(picks: Sequence[Pick]) -> bool:
    """Return whether settings are tried together: no more of them than a recipe has, and none that stands alone, unless it was asked for by its name. Sizes are
    solved for the model as it is, so they do not stand behind another net or one that lacks blocks."""
    trained = [pick for pick in picks if COSTS.index(pick.cost) == _TRAINING]
    if any(pick.setting.share is not None for pick in trained[1:]):
        return False
    return len(picks) <= LONGEST and (len(picks) == 1 or all(pick.setting.combines or pick.named for pick in picks))


def with_fewer_threads(around: Surroundings, space: SearchSpace, records: Sequence[Record]) -> list[Recipe]:
    """Return the model as it is, and the fastest candidate of each runtime that is not far behind the fastest of all, on fewer threads; of those that passed,
    where any did: what is too large would not be tried.

    Args:
        around: as of `propose`.
        space: as of `propose`.
        records: of all that needs no training.
    """
    here = around.at(Target(device=space.device))
    picks = [pick for pick in space.picks(levers()["threads"]) if space.judged(pick, here) is None]
    timed = _timed(records)
    fastest = {record.made_by.deploy.runtime: record for record in sorted(timed, key=lambda one: (one.status == "passed", _speed(one)))}
    near = max(map(_speed, timed), default=0.0) / _NEAR
    recipes = [baseline_recipe(space.threads, space.device), *(record.made_by for record in fastest.values() if _speed(record) >= near)]
    return [_on(recipe, pick.setting.options["threads"]) for recipe in recipes for pick in picks]


def faster_threads(records: Sequence[Record]) -> dict[str, int]:
    """Return the number of threads by runtime, where a candidate was faster with it than the same on all cores."""
    by_key = {record.key: record for record in records}
    found = dict[str, int]()
    for record in sorted(records, key=_speed):
        target = record.made_by.deploy if record.recipe and _speed(record) else Target()
        if target.threads is None:
            continue
        other = by_key.get(_on(record.made_by, None).key)
        if other is not None and other.baseline is not None and _speed(record) > _speed(other):
            found[target.runtime] = target.threads
    return found


def _on(recipe: Recipe, threads: int | None) -> Recipe:
    return dataclasses.replace(recipe, deploy=dataclasses.replace(recipe.deploy, threads=threads))


def shipping(around: Surroundings, space: SearchSpace, records: Sequence[Record]) -> Recipe | None:
    """Return the best recipe so far of a runtime for which sizes would be solved, were there a table; None where none is wanted, or nothing was timed there.

    The best is that of the budget; where none passed, the fastest.
    """
    trained = _worth_training_for(space.targets())
    wanted = {
        (target.runtime, target.device)
        for target in trained
        for pick in _picks(space)
        if pick.setting.share is not None and space.judged(pick, around.at(target)) is None
    }
    timed = [record for record in _timed(records) if (record.made_by.deploy.runtime, record.made_by.deploy.device) in wanted]
    best = min(
        timed, key=lambda one: (one.status != "passed", around.budget.order(one) if one.status == "passed" else -_speed(one)), default=None
    )
    return None if best is None else best.made_by


def rivals(best: Recipe, records: Sequence[Record]) -> list[str]:
    """Return the keys of the candidates that may be the fastest in truth: the fastest of each runtime and number of threads on the device of the best so far,
    of those that passed where any did, that is not far behind it.

    Args:
        best: of `shipping`.
        records: of all that needs no training.
    """
    there = [record for record in _timed(records) if record.made_by.deploy.device == best.deploy.device]
    passed = [record for record in there if record.status == "passed"]
    order = sorted(passed or there, key=_speed)
    fastest = {(record.made_by.deploy.runtime, record.made_by.deploy.threads): record for record in order}
    near = max(map(_speed, order), default=0.0) / _NEAR
    return [record.key for record in fastest.values() if _speed(record) >= near]


def _timed(records: Sequence[Record]) -> list[Record]:
    """Return the candidates that were timed."""
    return [record for record in records if record.recipe and record.baseline is not None and _speed(record)]


def solved_kinds(here: Surroundings, space: SearchSpace) -> tuple[Kind, ...]:
    """Return the kinds of parts that settings would be solved for at a target."""
    wanted = [pick.setting.kinds for pick in _picks(space) if pick.setting.share is not None and space.judged(pick, here) is None]
    return tuple(kind for kind in get_args(Kind) if any(kind in kinds for kinds in wanted))


def worthwhile(targets: Sequence[Target], around: Surroundings, records: Sequence[Record]) -> list[Target]:
    """Return the targets among these in which something is not far behind the fastest of all, where the budget aims at time; all where nothing is known.

    Args:
        targets: some.
        around: as of `propose`.
        records: of what was measured.
    """
    best = speeds(records)
    near = max(best.values(), default=0.0) / _NEAR
    fast = [target for target in targets if best.get((target.runtime, target.precision), 0.0) >= near]
    return fast if fast and around.budget.goal.timed else list(targets)


def speeds(records: Sequence[Record]) -> dict[tuple[str, str], float]:
    """Return the greatest speed-up that was measured, by runtime and precision."""
    best = dict[tuple[str, str], float]()
    for record in records:
        if record.recipe:
            place = record.made_by.deploy.runtime, record.made_by.deploy.precision
            best[place] = max(best.get(place, 0.0), _speed(record))
    return best


def _speed(record: Record) -> float:
    return (record.speedup.value if record.speedup is not None else None) or 0.0


def _worth_training_for(targets: Sequence[Target]) -> set[Target]:
    """Where trained models are tried: in the first precision that runs, in runtimes that compute with integers; in all runtimes where none of these does."""
    ready = [target for target in targets if unavailable(target) is None]
    first = {target.runtime: target for target in reversed(ready)}
    quick = {target for name, target in first.items() if runtime.runtime(name).quantizes}
    return quick or set(first.values())


def unavailable(target: Target) -> str | None:
    """Return why this machine cannot run a target; None if it can."""
    return runtime.runtime(target.runtime).available(target.precision, target.device)


def _picks(space: SearchSpace) -> list[Pick]:
    """Return all settings of levers that add steps."""
    return [pick for lever in levers().values() if lever.stage in STEP_STAGES for pick in space.picks(lever)]


def _lost(chain: Chain, record: Record, records: Mapping[tuple[Any, ...], Record], around: Surroundings) -> bool:
    """Return whether a chain's last lever lost a part of the metric, which is worth winning back; unknown counts as lost.

    Nothing that follows makes a file smaller: who broke a limit of what is exact is not followed.
    """
    exact = {row.limit.broken for row in quantities.rows().values() if row.exact and row.limit is not None}
    if record.status not in ("passed", "rejected") or any(reason.rule in exact for reason in record.reasons):
        return False
    drop = None if record.drop is None else record.drop.value
    if len(chain.picks) == 1:
        return drop is None or drop > 0
    before = records.get(dataclasses.replace(chain, picks=chain.picks[:-1]).name)
    if before is None or before.drop is None or before.drop.value is None or around.budget.drop_reason(before, "valid") is not None:
        return False
    return drop is None or drop > before.drop.value
