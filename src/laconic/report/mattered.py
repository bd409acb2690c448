"""What mattered: which choices told fast candidates from slow ones, and those that lose little from those that lose much.

Where enough candidates were measured, PED-ANOVA as Optuna has it (Watanabe, Bansal and Hutter, IJCAI 2023): how far the levels of the best quarter are from
those of all. Else, and where Optuna is not installed, the share of the variance that the levels of one choice explain by themselves (epsilon squared: Kelley
1935).
Candidates were not drawn at random: a choice that was tried only together with another one has its part in what that did.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from laconic.core import quantities
from laconic.core.errors import MissingExtra, need
from laconic.core.quantities import Quantity
from laconic.report.candidates import Candidate
from laconic.report.levels import Parameter, parameters
from laconic.report.steps import mappings
from laconic.report.units import amount, fixed, percent
from laconic.report.words import Words

ENOUGH = 20  # measured candidates: a quarter of them are the five best that PED-ANOVA needs
_BEST = 0.25
_FEWEST = 4  # measured candidates of which anything can be said
_MOST = 40  # rows of the table of levels
_PED_ANOVA = "PED-ANOVA over {n} measured candidates: how far the choices of the best quarter are from those of all, as shares of the sum of all choices."
_EFFECTS = "Main effects of {n} measured candidates: the share of the variance (epsilon squared) that a choice explains by itself."
_CAUTION = " Candidates were not drawn at random, so a choice that came only together with another shares its effect."


@dataclass(frozen=True)
class Weight:
    """A choice, its share (0 to 1) in the objective and in the loss of the metric, and both as text."""

    name: str
    share: float
    text: str
    loss_share: float
    loss_text: str


@dataclass(frozen=True)
class Level:
    """One level of a choice: how many were measured with it, the median of the objective and of the loss, as text."""

    name: str
    level: str
    n: str
    worth: str
    loss: str


@dataclass(frozen=True)
class Mattered:
    """Which choices mattered, the heaviest first. `method` says in words how that was found; `worth` and `loss` are headings."""

    method: str
    worth: str
    loss: str
    weights: tuple[Weight, ...]
    levels: tuple[Level, ...]


def mattered(result: Mapping[str, Any], candidates: Sequence[Candidate], goal: Quantity, words: Words) -> Mattered | None:
    """Return which choices mattered; None where too few candidates were measured, or they differ in nothing.

    Args:
        result: the content of the run's result.json.
        candidates: as read, in the same order, without the baselines.
        goal: what was to be best.
        words: of the task.
    """
    records = mappings(list(result.get("candidates") or ()))
    known = [(one, record) for one, record in zip(candidates, records, strict=True) if _measured(one, goal)]
    choices = parameters([record for _, record in known])
    if len(known) < _FEWEST or not choices:
        return None
    worth = [_logarithm(goal.cost(1.0), one.amount(goal.name).raw or 0.0) for one, _ in known]
    loss = [one.amount("drop").raw or 0.0 for one, _ in known]
    (of_worth, of_loss), method = _shares(choices, [worth, loss])
    pairs = sorted(zip(choices, of_worth, of_loss, strict=True), key=lambda row: -max(row[1:]))
    rows = [_level_row(goal, choice, level, known) for choice, *_ in pairs for level in dict.fromkeys(choice.levels)]
    return Mattered(
        method=method.format(n=len(known)) + _CAUTION,
        worth=words.heading(goal),
        loss=words.loss.capitalize(),
        weights=tuple(Weight(choice.name, one, percent(one), two, percent(two)) for choice, one, two in pairs),
        levels=tuple(rows[:_MOST]),
    )


def _measured(one: Candidate, goal: Quantity) -> bool:
    sound = one.status in ("passed", "rejected") and not one.broke("parity")
    return sound and bool(one.amount(goal.name).raw) and one.amount("drop").raw is not None


def _logarithm(sign: float, value: float) -> float:
    """Return a cost in which factors count alike; `sign` is -1 where more is better."""
    return sign * math.log(value) if value > 0 else sign * value


def _shares(choices: Sequence[Parameter], several: Sequence[Sequence[float]]) -> tuple[list[list[float]], str]:
    """Return the shares of the choices in each of several lists of costs, all found in one way, and what is said of it."""
    if len(choices[0].levels) >= ENOUGH and all(map(_has_best, several)):
        try:
            optuna = need("optuna", "search")
        except MissingExtra:
            pass
        else:
            return [list(_ped_anova(optuna, choices, costs)) for costs in several], _PED_ANOVA
    return [[explained(choice.levels, costs) for choice in choices] for costs in several], _EFFECTS


def _has_best(costs: Sequence[float]) -> bool:
    """Return whether the best quarter can be told from the rest: no more than a half of all are as good as its last."""
    ordered = sorted(costs)
    return sum(cost <= ordered[math.ceil(_BEST * len(costs)) - 1] for cost in costs) <= len(costs) / 2


def explained(levels: Sequence[str], costs: Sequence[float]) -> float:
    """Return the share of the variance of costs that their levels explain (epsilon squared), not less than 0.

    >>> explained(["a", "a", "b", "b"], [1.0, 1.0, 3.0, 3.0]), explained(["a", "b", "a", "b"], [1.0, 1.0, 3.0, 3.0])
    (1.0, 0.0)
    """
    mean, groups = statistics.fmean(costs), dict[str, list[float]]()
    for level, cost in zip(levels, costs, strict=True):
        groups.setdefault(level, []).append(cost)
    whole = sum((cost - mean) ** 2 for cost in costs)
    within = sum((cost - statistics.fmean(group)) ** 2 for group in groups.values() for cost in group)
    free = len(costs) - len(groups)
    if whole <= 0 or free <= 0:
        return 0.0
    return max(0.0, (whole - within - (len(groups) - 1) * within / free) / whole)


def _ped_anova(optuna: Any, choices: Sequence[Parameter], costs: Sequence[float]) -> Iterator[float]:
    """Yield the importance of each choice for costs in the best quarter."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study()
    spaces = {c.name: optuna.distributions.CategoricalDistribution(list(dict.fromkeys(c.levels))) for c in choices}
    for place, cost in enumerate(costs):
        params = {choice.name: choice.levels[place] for choice in choices}
        study.add_trial(optuna.trial.create_trial(value=cost, params=params, distributions=spaces))
    evaluator = optuna.importance.PedAnovaImportanceEvaluator(target_quantile=_BEST)
    found = optuna.importance.get_param_importances(study, evaluator=evaluator)
    for choice in choices:
        yield float(found.get(choice.name, 0.0))


def _level_row(goal: Quantity, choice: Parameter, level: str, known: Sequence[tuple[Candidate, Mapping[str, Any]]]) -> Level:
    own = [one for (one, _), at in zip(known, choice.levels, strict=True) if at == level]
    return Level(choice.name, level, fixed(len(own), 0), _median(own, goal.name), _median(own, "drop"))


def _median(own: Sequence[Candidate], name: str) -> str:
    amounts = [one.amount(name) for one in own]
    row, unit = quantities.row(name), next((one.unit for one in amounts if one.unit), "")
    value = statistics.median(one.raw for one in amounts if one.raw is not None)
    return amount(row, {"value": value, "unit": row.unit or unit}).text
