"""What is tried: which levers, in which settings, with how many threads and on which device."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from laconic.core.errors import BadInput, nearest
from laconic.core.fields import wrong_type
from laconic.core.target import Target
from laconic.deploy import runtime
from laconic.run.recipe import Recipe
from laconic.search.lever import COMBINED, COSTS, TARGET_STAGES, Lever, Setting, Surroundings
from laconic.search.levers import levers

EFFORTS = ("low", "medium", "high")


@dataclass(frozen=True)
class Pick:
    """A setting of a lever, and how it was asked for.

    Attributes:
        asked: the lever was asked for by its name.
        named: the setting was.
    """

    lever: Lever
    setting: Setting
    asked: bool = False
    named: bool = False

    def senseless(self, around: Surroundings) -> str | None:
        """Return why it makes no sense in these surroundings, whoever asks for it; None where it does."""
        return self.setting.when(around) or self.lever.when(around)

    @property
    def place(self) -> int:
        """Where it stands among the known settings of its lever; a user's own stand first."""
        return next((place for place, setting in enumerate(self.lever.choices) if setting.name == self.setting.name), 0)

    @property
    def cost(self) -> str:
        """What it costs before its result can be measured."""
        return self.setting.cost or self.lever.cost

    @property
    def label(self) -> str:
        """How it is asked for: the lever alone where it has one setting of its name."""
        return self.lever.name if self.setting.name == self.lever.name else f"{self.lever.name}={self.setting.name}"


@dataclass(frozen=True, init=False)
class SearchSpace:
    """What is tried. Without any argument: every lever that makes sense for the model, the task, the budget and the runtime; see `laconic levers`.

    Args:
        runtimes: only these.
        precisions: only these.
        threads: of every runtime; None: all cores, and fewer of them where the lever ``threads`` finds them faster.
        device: ``cpu`` or ``cuda``.
        levers: of the levers that add steps, only these: ``LEVER``, or ``LEVER=SETTING``, e.g. ``("prune", "quantize=static")``; a runtime or a precision
            among them narrows runtimes or precisions.
        without: levers that are left out: ``LEVER``, or ``LEVER=SETTING``.
        effort: ``low``: nothing that trains, unless a lever that does is asked for; ``medium``: every setting of every lever, alone and combined, but
            those for which a table of sizes is measured first; ``high``: these too, and behind them recipes that a sampler proposes from what was measured,
            as many as `trials`; see `search.tune`.
        trials: so many proposals; None: 24 with the effort ``high``, with a time limit as many as fit into it; with ``medium`` 24 where they take no more than
            a tenth of the time that is then left, else none.
        choices: by lever (or family of levers), only these settings; an empty tuple leaves it out: ``quantize=("static", "qat"), prune=(0.7, 0.4)``.

    Raises:
        BadInput: everything in it that is unknown, with the nearest name.
    """

    choices: Mapping[str, tuple[str, ...]]
    threads: int | None
    device: str
    levers: tuple[str, ...] | None
    without: tuple[str, ...]
    effort: str
    trials: int | None

    def __init__(
        self,
        runtimes: Sequence[str] | None = None,
        precisions: Sequence[str] | None = None,
        threads: int | None = None,
        device: str = "cpu",
        *,
        levers: Sequence[str] | None = None,
        without: Sequence[str] = (),
        effort: str = "medium",
        trials: int | None = None,
        **choices: Sequence[Any] | None,
    ) -> None:
        given = {"runtimes": runtimes, "precisions": precisions, **choices}
        values: dict[str, Any] = {
            "choices": {name: _several(name, value) for name, value in given.items() if value is not None},
            "threads": threads,
            "device": device,
            "levers": None if levers is None else _several("levers", levers),
            "without": _several("without", without),
            "effort": effort,
            "trials": trials,
        }
        for name, value in values.items():
            object.__setattr__(self, name, value)
        mistakes = list(self._mistakes())
        mistakes = mistakes or [f"no {stage} is left" for stage in COMBINED if not self._options(stage)]
        if mistakes:
            raise BadInput("the search space makes no sense:\n" + "\n".join(f"  {m}" for m in mistakes))
        object.__setattr__(self, "choices", {name: _setting_names(name, value) for name, value in self.choices.items()})

    # What is wrong ------------------------------------------------------------------------------------------------------------------

    def _mistakes(self) -> Iterator[str]:
        groups = {lever.group for lever in levers().values()}
        for name, given in self.choices.items():
            if name not in groups:
                yield f"{name}: there is no lever of this name." + nearest(name, groups)
            else:
                yield from _unknown_settings(name, given)
        for option, items in (("levers", self.levers or ()), ("without", self.without)):
            for item in items:
                yield from (f"{option}: {mistake}" for mistake in _unknown_item(item))
        yield from (f"without: '{item}' is asked for too" for item in self.without if item in (self.levers or ()))
        if (wrong := wrong_type(int | None, self.threads)) is not None:
            yield f"threads: {wrong}"
        elif self.threads is not None and self.threads < 1:
            yield f"threads: {self.threads} must be 1 or more, or None for all cores"
        if self.effort not in EFFORTS:
            yield f"effort: '{self.effort}'." + nearest(str(self.effort), EFFORTS)
        if (wrong := wrong_type(int | None, self.trials)) is not None or (self.trials or 0) < 0:
            yield f"trials: {wrong or f'{self.trials} must be 0 or more'}"
        if self.device not in (known := runtime.devices()):
            yield f"device: '{self.device}'." + nearest(str(self.device), known)

    # What is left -------------------------------------------------------------------------------------------------------------------

    def picks(self, lever: Lever) -> list[Pick]:
        """Return all settings of a lever: those that are known, and those that were given for it."""
        given = [setting for value in self._given(lever) if (setting := lever.setting(value)) is not None]
        settings = {setting.name: setting for setting in (*lever.choices, *given)}
        return [Pick(lever, setting, *self._asked(lever, setting)) for setting in settings.values()]

    def _given(self, lever: Lever) -> Iterator[Any]:
        """Return the names and values that were given for a lever."""
        yield from self.choices.get(lever.group, ())
        for item in self.levers or ():
            name, equals, value = item.partition("=")
            if name == lever.name and equals:
                yield value

    def _asked(self, lever: Lever, setting: Setting) -> tuple[bool, bool]:
        """Return whether a lever, and whether this setting of it, was asked for by name."""
        named = any(lever.setting(value) == setting for value in self._given(lever))
        return named or lever.name in (self.levers or ()), named

    def left_out(self, pick: Pick) -> str | None:
        """Return why a setting is not tried whatever the surroundings; None where it may be."""
        lever, setting = pick.lever, pick.setting
        if lever.name in self.without or _is_item(self.without, lever, setting):
            return "left out"
        if lever.stage == "threads" and self.threads is not None:
            return "so many threads as there shall be were given"
        if self.effort == "low" and pick.cost == COSTS[-1] and not pick.asked:
            return "it trains, and the effort is low"
        only = self.choices.get(lever.group)
        if only is not None and not pick.named:
            return "not asked for"
        if lever.aside and not pick.asked:
            return lever.aside
        if self.levers is None or only is not None:
            return None
        values = [item for item in self.levers if item.partition("=")[0] == lever.name]
        if lever.stage in TARGET_STAGES:
            others = any(levers()[item.partition("=")[0]].stage == lever.stage for item in self.levers)
            return "not asked for" if others and not pick.asked else None
        if not values or (lever.name not in values and not pick.named):
            return "not asked for"
        return None

    def unasked(self, pick: Pick, around: Surroundings) -> str | None:
        """Return why a setting that was not asked for is not tried; None where it is, or was."""
        if pick.setting.share is not None and self.effort != EFFORTS[-1] and not pick.named:
            return "what sizes take and lose is measured for it, which the effort high has time for"
        return (None if pick.asked else pick.lever.unasked(around)) or (None if pick.named else pick.setting.unasked(around))

    def judged(self, pick: Pick, around: Surroundings) -> str | None:
        """Return why a setting is not tried in these surroundings; None where it is. What is quickly known comes first."""
        return self.left_out(pick) or self.unasked(pick, around) or pick.senseless(around)

    def waits(self, pick: Pick) -> bool:
        """Return whether a setting is only tried after a loss: what it follows is tried too, or it was not asked for."""
        if pick.lever.follows is None:
            return False
        name, _, value = pick.lever.follows.partition("=")
        followed = next((p for p in self.picks(levers()[name]) if p.setting.name == value), None)
        return not pick.asked or (followed is not None and self.left_out(followed) is None)

    @property
    def names_targets(self) -> bool:
        """Whether runtimes or precisions were asked for by name."""
        named = {item.partition("=")[0] for item in self.levers or ()}
        rows = [lever for lever in levers().values() if lever.stage in COMBINED]
        return any(lever.group in self.choices or lever.name in named for lever in rows)

    def targets(self) -> list[Target]:
        """Return every runtime in every precision that may be tried, the runtimes in the order of their table."""
        targets = []
        for options in itertools.product(*(self._options(stage) for stage in reversed(COMBINED))):
            target = Target(threads=self.threads, device=self.device)
            for values in options:
                target = replace(target, **values)
            targets.append(target)
        return targets

    def _options(self, stage: str) -> list[dict[str, Any]]:
        rows = [lever for lever in levers().values() if lever.stage == stage]
        return [dict(pick.setting.options) for lever in rows for pick in self.picks(lever) if self.left_out(pick) is None]


def _is_item(items: Sequence[str], lever: Lever, setting: Setting) -> bool:
    """Return whether items ``LEVER=SETTING`` name this setting."""
    values = [item.partition("=")[2] for item in items if item.startswith(f"{lever.name}=")]
    return any(lever.setting(value) == setting for value in values)


def _several(name: str, given: Any) -> tuple[Any, ...]:
    """Return what was given for an option that takes several; a text or a number stands for itself.

    Raises:
        BadInput: a mapping, or what holds nothing; names the option.
    """
    if isinstance(given, (str, int, float)) and not isinstance(given, bool):
        return (given,)
    if isinstance(given, (Mapping, bool)) or not isinstance(given, Iterable):
        raise BadInput(
            f"the search space makes no sense:\n  {name}: must be a tuple of names or numbers; it is of the class {type(given).__name__}"
        )
    return tuple(given)


def _setting_names(group: str, given: Sequence[Any]) -> tuple[str, ...]:
    """Return the names of the settings that names and values stand for, so that 0.5 and "0.50" are one."""
    family = [lever for lever in levers().values() if lever.group == group]
    return tuple(next(setting.name for lever in family if (setting := lever.setting(value)) is not None) for value in given)


def _unknown_settings(group: str, given: Sequence[Any]) -> Iterator[str]:
    """Return what is wrong with settings that were given for a family of levers."""
    family = [lever for lever in levers().values() if lever.group == group]
    names = [setting.name for lever in family for setting in lever.choices]
    for value in given:
        try:
            if not any(lever.setting(value) is not None for lever in family):
                yield f"{group}: '{value}'." + nearest(str(value), names)
        except ValueError as error:
            yield f"{group}: {error}"


def _unknown_item(item: str) -> Iterator[str]:
    """Return what is wrong with ``LEVER`` or ``LEVER=SETTING``."""
    name, equals, value = item.partition("=")
    if name not in levers():
        yield f"'{name}' is no lever." + nearest(name, levers())
        return
    lever = levers()[name]
    try:
        if equals and lever.setting(value) is None:
            yield f"{name}: '{value}'." + nearest(value, [setting.name for setting in lever.choices])
    except ValueError as error:
        yield f"{name}: {error}"


def baseline_recipe(threads: int | None, device: str) -> Recipe:
    """What the candidates with these threads on this device are compared with: the model as it was given, in PyTorch eager, fp32."""
    return Recipe((), Target(runtime.BASELINE, "fp32", threads, runtime.baseline_device(device)))


def baseline_recipes(recipes: Sequence[Recipe]) -> list[Recipe]:
    """Return the baselines of these recipes: one for each number of threads and device among them, in their order."""
    return list(dict.fromkeys(baseline_recipe(recipe.deploy.threads, recipe.deploy.device) for recipe in recipes))
