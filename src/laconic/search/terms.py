"""Candidates in the terms of a sampler and of a shared study: a target, at each stage the label of a setting, and the numbers that vary."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from laconic.core.target import Target
from laconic.run.recipe import Recipe
from laconic.search.lever import SHARE, SHARES, STEP_STAGES, Range, Surroundings
from laconic.search.levers import levers
from laconic.search.propose import Chain, chains
from laconic.search.space import Pick, SearchSpace
from laconic.search.study import NoStudy, Settings

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

DISTILL = (0.0, 0.5, 0.9)
TARGET, DISTILLED, NONE, _SOLVED = "target", "distill", "", "solved"


def label_of(pick: Pick) -> str:
    """Return what stands for a setting: for all whose sizes are solved one of their own, for all of a lever whose options vary the lever's name."""
    if pick.setting.share is not None:
        return f"{pick.lever.name}={_SOLVED}"
    return pick.lever.name if pick.lever.varies else pick.label


def varied_of(pick: Pick) -> Mapping[str, Range | tuple[Any, ...]]:
    """Return what varies of a setting: of sizes that are solved, the share of the time."""
    return {SHARE: SHARES} if pick.setting.share is not None else pick.lever.varies


def name_of(target: Target) -> str:
    """Return what stands for a target, whatever its threads."""
    return f"{target.runtime} {target.precision}"


def picks_of(label: str, space: SearchSpace) -> list[Pick]:
    """Return the settings of a space that a label stands for."""
    lever = levers().get(label.partition("=")[0])
    return [] if lever is None else [pick for pick in space.picks(lever) if label_of(pick) == label]


def params_of(chain: Chain) -> dict[str, Any]:
    """Return the parameters of a chain of the table."""
    params: dict[str, Any] = {TARGET: name_of(chain.target), **dict.fromkeys(STEP_STAGES, NONE)}
    for pick in chain.picks:
        label = params[pick.lever.stage] = label_of(pick)
        params |= {f"{label}.{name}": value for name in varied_of(pick) if (value := pick.setting.options.get(name))}
    return params


def every_label(space: SearchSpace) -> tuple[list[str], dict[str, list[str]]]:
    """Return every target and every label of each stage that a space has, in any surroundings: the same for all drivers of a study."""
    stages: dict[str, list[str]] = {stage: [NONE] for stage in STEP_STAGES}
    for lever in levers().values():
        if lever.stage in stages:
            stages[lever.stage] += dict.fromkeys(label_of(pick) for pick in space.picks(lever) if space.left_out(pick) is None)
    return [*dict.fromkeys(map(name_of, space.targets()))], stages


def distributions_of(
    params: Mapping[str, Any], space: SearchSpace, targets: Sequence[str], stages: Mapping[Any, Sequence[str]]
) -> dict[str, BaseDistribution] | None:
    """Return the distributions of parameters that are chosen among these targets and labels; None where one is not among them."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution

    named: dict[str, Range | Sequence[Any]] = {TARGET: targets, DISTILLED: DISTILL, **stages}
    found: dict[str, BaseDistribution] = {}
    for name, value in params.items():
        label, _, option = name.rpartition(".")
        varied = named[name] if name in named else next((varied_of(pick).get(option) for pick in picks_of(label, space)), None)
        if isinstance(varied, Range):
            if not varied.low <= value <= varied.high:
                return None
            found[name] = FloatDistribution(varied.low, varied.high, log=varied.log)
        elif varied is None or value not in varied:
            return None
        else:
            found[name] = CategoricalDistribution(varied)
    return found


class Terms:
    """Tells candidates in the terms of a shared study.

    Args:
        space: what may be tried.

    Attributes:
        proposed: the parameters of a recipe that a sampler proposed and that waits for its turn; None of another.
    """

    def __init__(self, space: SearchSpace) -> None:
        self.space = space
        self.proposed: Callable[[Recipe], Mapping[str, Any] | None] = lambda recipe: None
        self._chains: dict[str, dict[str, Any]] = {}

    def know(self, around: Surroundings, study: NoStudy) -> None:
        """Take note of the recipes of the table in these surroundings, where the study is shared."""
        if study.shared:
            self._chains |= {chain.recipe(around).key: params_of(chain) for chain in chains(around, self.space)}

    def of(self, recipe: Recipe) -> Settings:
        """Return the settings of a recipe; no parameters of one that is neither in the table nor proposed by a sampler."""
        proposed = self.proposed(recipe)
        params = self._chains.get(recipe.key, {}) if proposed is None else proposed
        distributions = distributions_of(params, self.space, *every_label(self.space)) if params else None
        return Settings(params if distributions else {}, distributions or {}, proposed is not None)
