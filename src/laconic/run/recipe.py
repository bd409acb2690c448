"""A recipe: an ordered tuple of frozen step configs and where the result will run. Reads and writes YAML; all mistakes are told at once."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from laconic.core.errors import BadInput, Mistakes, nearest, need
from laconic.core.reading import reads
from laconic.core.records import to_json
from laconic.core.step import StepConfig
from laconic.core.target import PRECISIONS, Target
from laconic.core.wording import numerics
from laconic.deploy import runtime
from laconic.run.plain import from_plain, to_plain
from laconic.run.runner import STEPS
from laconic.run.yaml_file import read_yaml

VERSION = 1


@dataclass(frozen=True)
class Recipe:
    """What is done to the model, in order, and where it will run."""

    steps: tuple[StepConfig, ...] = ()
    deploy: Target = field(default_factory=Target)

    def to_plain(self) -> dict[str, Any]:
        """Plain values, as they stand in YAML."""
        steps: list[Any] = []
        for config in self.steps:
            name, options = STEPS.name_of(config), to_plain(config)
            steps.append({name: options} if options else name)
        return {"steps": steps, "deploy": to_json(self.deploy)}

    def to_yaml(self, **more: Any) -> str:
        """A recipe file; `more` are its further entries (task, budget)."""
        return str(need("yaml").safe_dump({"version": VERSION, **to_json(more), **self.to_plain()}, sort_keys=False, allow_unicode=True))

    @functools.cached_property
    def steps_key(self) -> str:
        """Sixteen hexadecimal digits that tell lists of steps apart; empty where there is no step. A step without a target of its own takes the runtime's."""
        return "" if not self.steps else hashlib.sha256(json.dumps(self.steps_identity).encode()).hexdigest()[:16]

    @property
    def steps_identity(self) -> list[Any]:
        """What the steps' key is a digest of: the steps in plain values, and the runtime where what they do depends on it."""
        aimed = any(config.depends_on_target() for config in self.steps)
        return [self.to_plain()["steps"], self.deploy.runtime if aimed else None]

    @property
    def numerics(self) -> str:
        """What the artifact computes with: ``int8`` where a step rounds to integers, else the precision of its floats."""
        bits = [rounded for config in self.steps if (rounded := config.integer_bits()) is not None]
        return numerics(bits[-1] if bits else None, self.deploy.precision)

    @functools.cached_property
    def key(self) -> str:
        """A name for files and tables, e.g. ``openvino-bf16``."""
        parts = [
            self.deploy.runtime,
            self.numerics.replace(" with ", "-"),
            self.steps_key,
            "" if self.deploy.device == "cpu" else self.deploy.device,
        ]
        threads = f"{self.deploy.threads}t" if self.deploy.threads else ""
        return "-".join(part.replace(".", "-") for part in [*parts, threads] if part)

    @property
    def runtime_title(self) -> str:
        """The title of the runtime; its name where this machine knows none of that name."""
        name = self.deploy.runtime
        return runtime.runtime(name).title if name in runtime.names() else name

    @property
    def title(self) -> str:
        """The recipe in a few words."""
        steps = [config.words() for config in self.steps]
        device = [] if self.deploy.device == "cpu" else [self.deploy.device]
        n = self.deploy.threads
        threads = [f"{n} thread{'s' if n > 1 else ''}"] if n else []
        return " · ".join([*steps, self.runtime_title, self.numerics, *device, *threads])


@dataclass(frozen=True)
class RecipeFile:
    """What a recipe file holds: the recipe and, if it says so, the task and the budget."""

    recipe: Recipe
    task: str | None = None
    budget: Mapping[str, Any] | None = None


@reads("a recipe", "Write it as docs/recipes.md shows.", BadInput)
def read_recipe(path: Path, budget: Callable[[Any], object] | None = None) -> RecipeFile:
    """Read a recipe file.

    Args:
        path: of the file.
        budget: reads what the file says of the budget, for instance `Budget.from_plain`; what it refuses is told with the rest.

    Raises:
        BadInput: every mistake in it, each with its place, value, rule and the nearest valid name.
    """
    path = Path(path)
    if not path.is_file():
        raise BadInput(f"there is no recipe file {path}")
    return parse(read_yaml(path), str(path), budget)


@reads("a recipe", "Write it as docs/recipes.md shows.", BadInput)
def parse(data: Any, place: str = "recipe", budget: Callable[[Any], object] | None = None) -> RecipeFile:
    """Check plain values and turn them into a recipe; see `read_recipe`."""
    if not isinstance(data, dict):
        raise BadInput(f"{place}: a recipe is a mapping with the entries steps and deploy; this is {type(data).__name__}")
    mistakes: list[str] = []
    for key in data:
        if key not in ("version", "task", "steps", "deploy", "budget"):
            mistakes.append(f"{key}: unknown entry." + nearest(str(key), ("version", "task", "steps", "deploy", "budget")))
    if data.get("version", VERSION) != VERSION:
        mistakes.append(f"version: {data['version']!r}; this Laconic reads version {VERSION}")
    steps = tuple(_steps(data.get("steps") or [], mistakes))
    deploy = from_plain(Target, data.get("deploy") or {}, "deploy", mistakes)
    mistakes += _deploy_mistakes(deploy if isinstance(deploy, Target) else _readable(data.get("deploy")))
    if not isinstance(data.get("task"), (str, type(None))):
        mistakes.append(f"task: {data['task']!r} is not a name or module:attribute")
    mistakes += _budget_mistakes(data.get("budget"), budget)
    if mistakes:
        raise Mistakes(f"{place} has {len(mistakes)} mistake{'s' * (len(mistakes) > 1)}:", mistakes)
    return RecipeFile(Recipe(steps, deploy), data.get("task"), data.get("budget"))


def _budget_mistakes(data: Any, read: Callable[[Any], object] | None) -> Iterator[str]:
    if data is None or (read is None and isinstance(data, Mapping)):
        return
    if read is None:
        yield f"budget: must be a mapping of limits; it is {data!r}"
        return
    try:
        read(data)
    except Mistakes as error:
        yield from (mistake if mistake.startswith("budget.") else f"budget.{mistake}" for mistake in error.mistakes)
    except BadInput as error:
        yield str(error)


def _steps(items: Any, mistakes: list[str]) -> Iterator[Any]:
    if not isinstance(items, list):
        mistakes.append(f"steps: must be a list; it is {type(items).__name__}")
        return
    for index, item in enumerate(items):
        name, options = next(iter(item.items())) if isinstance(item, dict) and len(item) == 1 else (item, {})
        if not isinstance(name, str) or name not in STEPS.names():
            mistakes.append(f"steps[{index}]: {name!r} is not a step." + nearest(str(name), STEPS.names()))
            continue
        config = from_plain(STEPS.config(name), options or {}, f"steps[{index}].{name}", mistakes)
        if config is not None:
            yield config


def _readable(deploy: Any) -> Target:
    """Return a target of the texts among what stands in a file, so that their mistakes are told beside those of the rest."""
    target = Target()
    given: Any = deploy if isinstance(deploy, dict) else {}
    texts: Any = {name: value for name, value in given.items() if isinstance(value, str) and isinstance(vars(target).get(name), str)}
    return replace(target, **texts)


def _deploy_mistakes(deploy: Target) -> Iterator[str]:
    if deploy.runtime not in runtime.names():
        yield f"deploy.runtime: {deploy.runtime!r} is not a runtime." + nearest(deploy.runtime, runtime.names())
    if deploy.precision not in PRECISIONS:
        yield f"deploy.precision: {deploy.precision!r} is not a precision." + nearest(deploy.precision, PRECISIONS)
    if deploy.device not in (known := runtime.devices()):
        yield f"deploy.device: {deploy.device!r} is not a device." + nearest(deploy.device, known)
    if deploy.threads is not None and deploy.threads < 1:
        yield f"deploy.threads: {deploy.threads} must be 1 or more, or left out for all cores"


def unavailable(recipe: Recipe) -> str | None:
    """Return why this machine cannot run where a recipe is deployed; None where it can."""
    return runtime.runtime(recipe.deploy.runtime).available(recipe.deploy.precision, recipe.deploy.device)
