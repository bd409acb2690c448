"""What a lever is: something that may be tried, where in a recipe it stands, in which settings, when it makes sense and what it costs."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from laconic.core.choices import Kind
from laconic.core.errors import BadInput, nearest
from laconic.core.program import Program
from laconic.core.step import STAGES as STEP_STAGES
from laconic.core.step import StepConfig
from laconic.core.target import PROMISES, Target
from laconic.core.task import Task
from laconic.search.budget import Budget
from laconic.search.tables import CHANNELS, Sizes

# Where a lever stands in a recipe: at the stage of its step, or behind all steps where it chooses a field of the target that is called so.
TARGET_STAGES = ("precision", "runtime", "threads")
# Of these every choice goes with every other; numbers of threads are tried where that may pay, see `propose.with_fewer_threads`.
COMBINED = TARGET_STAGES[:2]
STAGES: tuple[str, ...] = (*STEP_STAGES, *TARGET_STAGES)
_ON, _NEAR = 0.6, 0.95  # of what is kept so much is tried next; what is nearer than that is not
SHARE = "latency"  # the option that stands for a share of the layers' time
# What a candidate costs before it can be measured, the cheapest first.
COSTS = ("nothing", "calibration", "training")


@dataclass(frozen=True)
class Surroundings:
    """What a lever is judged by.

    Attributes:
        program: the captured model that every recipe starts from.
        task: its data and how it trains.
        budget: what may be lost, and what is to be best.
        target: where the recipe at hand will run.
        sizes: what sizes of the model's groups lose and take, once a run has measured it.
        threads: of a runtime, by its name, where fewer of them than there are cores were found to be faster.
    """

    program: Program
    task: Task
    budget: Budget
    target: Target = field(default_factory=Target)
    sizes: Sizes | None = None
    threads: Mapping[str, int] = field(default_factory=dict)

    def at(self, target: Target) -> Surroundings:
        """Return the same with another target."""
        return dataclasses.replace(self, target=target)

    def quickest(self, target: Target) -> Target:
        """Return a target with the threads that were found to be the fastest in its runtime."""
        return dataclasses.replace(target, threads=self.threads.get(target.runtime, target.threads))


Condition = Callable[[Surroundings], str | None]


@dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`, of which a search proposes some.

    Attributes:
        log: it looks evenly by their logarithm.
        rises: the greater the number, the smaller the model.
    """

    low: float
    high: float
    log: bool = False
    rises: bool = False

    def between(self, held: float | None, lost: float | None) -> float | None:
        """Return a number between one that holds a budget and one that does not, where a smaller model loses more; None where the boundary is known.

        Args:
            held: the smallest model that holds it; None: only the whole one does.
            lost: the largest that does not; None where none is known, then some way on. At least one of them is known.
        """
        whole, end, top = max(1.0, self.high), 1 - self.high if self.rises else self.low, 1 - self.low if self.rises else self.high
        here, there = (None if one is None else 1 - one if self.rises else one for one in (held, lost))
        here = whole if here is None else here
        found = max(end, here * _ON) if there is None else math.sqrt(here * there)
        return None if found > min(here * _NEAR, top) else float(f"{1 - found if self.rises else found:.3g}")


SHARES = Range(0.1, 0.9)  # of the layers' time, for which sizes are solved


def always(around: Surroundings) -> None:
    """Find no reason against it."""


def word(value: Any) -> str:
    """Read a text.

    Raises:
        ValueError: there is nothing in it.
    """
    if not (text := str(value).strip()):
        raise ValueError(f"'{value}' is no name")
    return text


@dataclass(frozen=True)
class Setting:
    """One way to set a lever.

    Args:
        name: as it is asked for, ``LEVER=NAME``.
        options: fields of the step's config (or of the target) and their values; the others keep their defaults.
        when: None where the setting makes sense, else the reason why not.
        unasked: None where it is tried without being asked for by its name, else the reason why not.
        combines: it is tried together with levers of other stages too.
        cost: before its result can be measured, of `COSTS`; None: that of its lever.
        share: of the layers' time, for which its sizes are solved from the table of the run (`Surroundings.sizes`), without which it is not tried; None: it
            needs no table.
        kinds: of parts of the table that are solved for.
    """

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)
    when: Condition = always
    unasked: Condition = always
    combines: bool = True
    cost: str | None = None
    share: float | None = None
    kinds: tuple[Kind, ...] = CHANNELS

    def with_options(self, **options: Any) -> Setting:
        """Return the setting with other values of options."""
        return dataclasses.replace(self, options={**self.options, **options}, share=self.share and options.get(SHARE, self.share))

    def solvable(self, around: Surroundings) -> bool:
        """Return whether its steps can be made: it needs no table, or there is one in which sizes keep to its share of the time."""
        sizes = around.sizes
        return self.share is None or (
            sizes is not None and sizes.holds_for(around.target) and sizes.allocation(self.share, self.kinds) is not None
        )


def cost_of_steps(*configs: type[StepConfig] | StepConfig) -> str:
    """Return what steps cost before their result can be measured, of `COSTS`; of a class, with its options as they are by default."""
    if any(config.trains if isinstance(config, type) else config.trained() for config in configs):
        return "training"
    return "calibration" if any(config.calibrates for config in configs) else "nothing"


@dataclass(frozen=True)
class Lever:
    """A row of the table `levers.levers()`. Another package adds one by an entry point of the group ``laconic.levers`` that names a `Lever`.

    Args:
        name: as it is asked for and left out.
        about: what it does, in a sentence.
        choices: the settings that are known beforehand.
        configs: the steps that it adds, in their order; the first one has the options, and tells the stage. Without any, it chooses where the result runs.
        stage: of a lever without steps: the field of the target that it sets, of `TARGET_STAGES`.
        build: the steps' configs, from the surroundings and a setting's options; None: those of the one step in `configs` with these options.
        needs: when it makes sense, in words for a table; empty where it always does.
        when: None where it makes sense, else the reason why not.
        unasked: None where it is tried without being asked for, else the reason why not.
        aside: why it is not tried unless it is asked for, whatever the surroundings; of a lever without steps, for which nobody asks `unasked`.
        family: the levers whose settings are asked for under one name; None: its own.
        field: the option that a value of the user's own becomes, ``LEVER=VALUE``; None: there are no settings but `choices`.
        promise: how likely it is the best for the time that it takes, of `core.target.PROMISES`; the likeliest are tried first.
        promises: the same by device, where it is another one there.
        reads: turns such a value, a text or a number, into the option's; raises ValueError with the rule.
        follows: a setting, ``LEVER=NAME``; this one is tried where that one lost a part of the metric.
        varies: options of the first step among which a search chooses (`search.tune`): a range of numbers, or values. Without any it chooses a setting.

    Raises:
        BadInput: a lever without steps and without a stage, steps that nobody builds, or an option that the step does not have.
    """

    name: str
    about: str
    choices: tuple[Setting, ...] = ()
    configs: tuple[type[StepConfig], ...] = ()
    stage: str = ""
    build: Callable[[Surroundings, Mapping[str, Any]], tuple[Any, ...]] | None = None
    needs: str = ""
    when: Condition = always
    unasked: Condition = always
    aside: str = ""
    family: str | None = None
    field: str | None = None
    reads: Callable[[Any], Any] = word
    promise: str = "fair"
    promises: Mapping[str, str] = dataclasses.field(default_factory=dict)
    follows: str | None = None
    varies: Mapping[str, Range | tuple[Any, ...]] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.configs and not self.stage:
            object.__setattr__(self, "stage", self.configs[0].stage)
        mistakes = list(self._mistakes())
        if mistakes:
            raise BadInput(f"the lever '{self.name}' makes no sense:\n" + "\n".join(f"  {m}" for m in mistakes))

    def _mistakes(self) -> Iterator[str]:
        stages = (self.configs[0].stage,) if self.configs else TARGET_STAGES
        if self.stage not in stages:
            yield (
                f"stage: '{self.stage}'; "
                + ("that of its step is " if self.configs else "of a lever without steps it is one of ")
                + ", ".join(stages)
            )
        for setting in self.choices:
            if setting.cost not in (None, *COSTS):
                yield f"cost: '{setting.cost}' of the setting '{setting.name}'." + nearest(str(setting.cost), COSTS)
        for promise in (self.promise, *self.promises.values()):
            if promise not in PROMISES:
                yield f"promise: '{promise}'." + nearest(promise, PROMISES)
        if len(self.configs) > 1 and self.build is None:
            yield "build: a lever that adds several steps says how they are built"
        kind = self.configs[0] if self.configs else Target
        known = [f.name for f in dataclasses.fields(kind)]
        given = {name for setting in self.choices for name in setting.options} | set(self.varies) | ({self.field} if self.field else set())
        yield from (f"{name}: is no option of {kind.__name__}." + nearest(name, known) for name in sorted(given - set(known)))

    def promise_on(self, device: str) -> str:
        """Return how likely it is the best on a device."""
        return self.promises.get(device, self.promise)

    @property
    def cost(self) -> str:
        """Return what it costs before the result can be measured, of `COSTS`."""
        return cost_of_steps(*self.configs)

    @property
    def group(self) -> str:
        """Return the name under which its settings are asked for, together with those of its family."""
        return self.family or self.name

    def setting(self, value: Any) -> Setting | None:
        """Return the setting that a name or a value of the user's own stands for; None where there is none.

        Raises:
            ValueError: the value breaks the rule of the option.
        """
        for setting in self.choices:
            if setting.name == str(value):
                return setting
        if self.field is None:
            return None
        read, alike = self.reads(value), [setting for setting in self.choices if [*setting.options] == [self.field]]
        known = next((setting for setting in alike if setting.options[self.field] == read), None)
        return known or Setting(str(read), {self.field: read}, cost=alike[0].cost if alike else None)

    def steps(self, setting: Setting, around: Surroundings) -> tuple[Any, ...]:
        """Return the step configs of one setting; none at a stage of the target."""
        if self.build is not None:
            return self.build(around, setting.options)
        return tuple(config(**setting.options) for config in self.configs)
