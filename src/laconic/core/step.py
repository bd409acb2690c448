"""What holds for every step, whoever calls it: a program goes in, and a program of finite numbers comes out."""

from __future__ import annotations

import contextlib
import functools
import inspect
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, TypeVar, cast, get_args

from torch import Tensor, nn
from torch.utils.data import default_collate

from laconic.core.axes import resize
from laconic.core.capture_checks import without_effects
from laconic.core.choices import Kind
from laconic.core.context import Context
from laconic.core.errors import LaconicError, Mistakes
from laconic.core.fields import check_types, wrong_arguments
from laconic.core.plan import options_of
from laconic.core.precision import check_float32
from laconic.core.program import Program, as_program
from laconic.core.records import Outcome
from laconic.core.task import Task

Function = TypeVar("Function", bound=Callable[..., Any])
_EXAMPLES = 2
_STATISTICS = ("running_mean", "running_var")
_inside: ContextVar[bool] = ContextVar("inside a step", default=False)


def _typed(checks: Callable[[Any], None]) -> Callable[[Any], None]:
    """Return a config's own checks with those of its types before them, on which they may then rely."""

    @functools.wraps(checks)
    def both(self: Any) -> None:
        StepConfig.__post_init__(self)
        checks(self)

    return both


# Where a step stands in a recipe. Whoever composes recipes goes by this order; one written by hand may have any other.
Stage = Literal["architecture", "insertion", "training", "pruning", "sparsity", "folding", "rounding"]
STAGES: tuple[Stage, ...] = get_args(Stage)
_SIZES_STAY: tuple[Stage, ...] = ("training", "folding", "rounding")


@dataclass(frozen=True)
class StepConfig:
    """The base of a step's options: what a step tells about itself. It has no fields; the frozen dataclass that derives from it has them.

    Recipes, the search, the gate and the report ask it, so that none of them knows a step by its name.

    Attributes:
        stage: where in a recipe it stands, one of `STAGES`.
        trains: it trains, and so costs that much.
        calibrates: it runs the program on data, without training.
        section: of the report; of several steps with the same section one is made. Empty: no section of its own.
        plan_field: the field that says how it trains, see `core.plan.with_plan`; empty: there is none.
    """

    stage: ClassVar[Stage] = "architecture"
    trains: ClassVar[bool] = False
    calibrates: ClassVar[bool] = False
    section: ClassVar[str] = ""
    plan_field: ClassVar[str] = ""

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "__post_init__" in vars(cls):
            cls.__post_init__ = _typed(vars(cls)["__post_init__"])  # type: ignore[method-assign, assignment]

    def __post_init__(self) -> None:
        """Refuse values of other types than their fields declare; a config's own checks come after this one, whose base it need not call.

        Raises:
            BadInput: every such value, with what it must be.
        """
        check_types(self, f"the options of {type(self).__name__} make no sense:")

    def words(self) -> str:
        """Return the step in a few words, for titles: those of its class's name unless it has better ones."""
        return re.sub("(?<=[a-z0-9])(?=[A-Z])", " ", type(self).__name__).lower()

    def trained(self) -> bool:
        """Return whether it trains with these options: as its class does, unless its plan has no epochs."""
        return self.trains and not (self.plan_field and options_of(getattr(self, self.plan_field)).get("epochs") == 0)

    def depends_on_target(self) -> bool:
        """Return whether the result is another one for another runtime: its kernels or times are looked at."""
        return False

    def fills(self) -> bool:
        """Return whether it goes as far as a size asks that it is given: what was smaller before is as large after it."""
        return False

    def integer_bits(self) -> int | None:
        """Return the bits of the integers that weights are rounded to, None where nothing is rounded."""
        return None

    def choices(self) -> Mapping[tuple[Kind, str], int | str] | None:
        """Return what it chooses by kind and name of the part (`core.choices.Part`); empty: sizes stay; None: it changes them, and does not say how."""
        return {} if self.stage in _SIZES_STAY else None


def step(name: str, config: type[StepConfig] | None = None, *, float32: bool = False) -> Callable[[Function], Function]:
    """Decorate the function of a step, `(program, config, context, …) -> (program, outcome)`.

    A step that another one calls is not looked at by itself.

    Args:
        name: of the step, in errors.
        config: of its options, whose defaults hold where none are given.
        float32: it works on programs in float32 only.

    Raises:
        BadInput: before it runs: the first argument is no program or has another precision.
        LaconicError: after it: a parameter, a buffer or an output of the returned program is not finite; names it.
    """

    def decorate(function: Function) -> Function:
        names = list(inspect.signature(function).parameters)[1:]

        @functools.wraps(function)
        def run(program: Any, *args: Any, **kwargs: Any) -> Any:
            if _inside.get():
                return function(program, *args, **kwargs)
            given = (*args, *kwargs.values())
            _check_given(name, program, float32)
            if mistakes := list(wrong_arguments(function, {**dict(zip(names, args, strict=False)), **kwargs})):
                raise Mistakes(f"'{name}' cannot be called so:", mistakes)
            token = _inside.set(True)
            try:
                result, outcome = function(program, *args, **kwargs)
            finally:
                _inside.reset(token)
            check_finite(name, result, program, _task(given))
            own = next((item for item in given if isinstance(item, StepConfig)), None)
            return result, described(outcome, own or (config() if config else None))

        run.__dict__["step"] = name
        return cast(Function, run)

    return decorate


def as_step(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """Return the function of a step with the checks of `step`, whether it was decorated or not."""
    return function if "step" in vars(function) else step(name)(function)


def described(outcome: Outcome, config: StepConfig | None) -> Outcome:
    """Return an outcome with the words, section and bits of its config, as far as it does not have its own."""
    if config is None:
        return replace(outcome, title=outcome.title or outcome.step.replace("_", " "))
    return replace(
        outcome,
        title=outcome.title or config.words(),
        section=outcome.section or config.section,
        bits=config.integer_bits() if outcome.bits is None else outcome.bits,
    )


def _check_given(name: str, program: Any, float32: bool) -> None:
    as_program(program, f"'{name}'")
    if float32:
        check_float32(program, f"'{name}'")


def _task(given: Sequence[Any]) -> Task | None:
    tasks = [item if isinstance(item, Task) else item.task for item in given if isinstance(item, (Task, Context))]
    return tasks[0] if tasks else None


def check_finite(name: str, result: Program, before: Program, task: Task | None = None) -> None:
    """Refuse a program that a step made of finite numbers and that has others, in its tensors or in what it answers.

    Args:
        name: of the step.
        result: what it returned.
        before: what it was given; infinite answers that this one gives too (masked logits) are nobody's fault.
        task: whose first valid examples are answered, besides the program's own.

    Raises:
        LaconicError: names the tensor or the output.
    """
    check_tensors(name, result, before)
    for kind, leaves in _inputs(result, task):
        bad = _broken(result, leaves)
        if bad - (_broken(before, leaves) if bad else set()):
            place = ", ".join(sorted(f"'{output}'" for output, _ in bad))
            raise LaconicError(
                f"'{name}' made a program whose answers are not finite (output {place}, on {kind}), and the one before it had finite answers. The program is "
                "not returned. Choose milder options, and look for values far out of range in the data."
            )


def check_tensors(name: str, model: nn.Module, before: nn.Module | None = None) -> None:
    """Refuse parameters and statistics of norms that are not finite, and other buffers that hold no numbers (infinite ones may be masks).

    Args:
        name: of the step.
        model: what it returned.
        before: what it was given; a buffer that held no numbers there may go on doing so.

    Raises:
        LaconicError: names the tensor.
    """
    known = {} if before is None else dict(before.named_buffers())
    for kind, items in (("parameter", model.named_parameters()), ("buffer", model.named_buffers())):
        for path, value in items:
            if not value.is_floating_point():
                continue
            value = value.detach()
            if kind == "buffer" and path in known and bool(known[path].isnan().any()):
                continue
            endless = kind == "parameter" or path.endswith(_STATISTICS)
            if bool(value.isnan().any()) or (endless and bool(value.isinf().any())):
                raise LaconicError(
                    f"'{name}' left the {kind} '{path}' with values that are not finite. The program is not returned. Lower the learning rate, set grad_clip, "
                    "or look for bad values in the data or in the model that was given."
                )


def _inputs(program: Program, task: Task | None) -> Iterator[tuple[str, Sequence[Tensor]]]:
    example = program.example_inputs()
    if all(leaf.device.type == "meta" for leaf in example):
        return
    yield "generated inputs", resize(program.inputs, example, {"batch": _EXAMPLES})
    with contextlib.suppress(Exception):  # data that cannot be read is the business of the step, which needed none
        if task is not None and task.valid is not None:
            rows = [task.valid[i] for i in range(min(program.interface.fixed_batch or _EXAMPLES, len(task.valid)))]  # type: ignore[arg-type]
            inputs, _ = task.split((task.collate or default_collate)(rows))
            yield "the first examples of the valid data", [leaf.to(example[0].device) for leaf in program.flatten_inputs(inputs)]


def _broken(program: Program, leaves: Sequence[Tensor]) -> set[tuple[str, str]]:
    """Return which outputs hold what: (name, "nan" or "inf")."""
    training = program.training
    try:
        outputs = without_effects(program.eval().graph_module, program.interface.limits.state)(*leaves)
    except (RuntimeError, IndexError, ValueError):  # these inputs do not go together; nothing is known
        return set()
    finally:
        program.train(training)
    broken: set[tuple[str, str]] = set()
    for spec, out in zip(program.outputs, outputs, strict=True):
        if out.is_floating_point():
            broken |= {(spec.name, kind) for kind, bad in (("nan", out.isnan()), ("inf", out.isinf())) if bool(bad.any())}
    return broken
