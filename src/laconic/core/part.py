"""A model cut at one of its modules: the part is captured and compressed, the rest runs around it in PyTorch, as it is.

What the part is given and what the whole answers are found by running the whole: once until the part is called, and once with other answers in the place of
the part's own. Nothing of the model is changed for that, and no weight of the rest learns.
"""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from laconic.core.errors import BadInput, nearest
from laconic.core.interface import argument_names, as_call
from laconic.core.modes import evaluating

Split = Callable[[Any], tuple[Any, Any]]
Loss = Callable[[Any, Any], Tensor]


class _Reached(BaseException):
    """The part was called, so that the rest need not run. No `except Exception` of a user's holds it up."""


class Cut(ABC):
    """Which module is captured, and how its answers become those of the whole model."""

    @property
    @abstractmethod
    def module(self) -> nn.Module:
        """What is captured."""

    @abstractmethod
    def inputs(self, inputs: Any) -> Any:
        """Return what the module is given when the model is given `inputs`; both in a form that `as_call` reads."""

    @abstractmethod
    def outputs(self, inputs: Any, answers: Any) -> Any:
        """Return what the model answers to its `inputs` where the module answers `answers`."""


@dataclass(frozen=True)
class Whole(Cut):
    """The model itself, from its inputs to its outputs."""

    model: nn.Module

    @property
    def module(self) -> nn.Module:
        """See `Cut.module`."""
        return self.model

    def inputs(self, inputs: Any) -> Any:
        """See `Cut.inputs`."""
        return inputs

    def outputs(self, inputs: Any, answers: Any) -> Any:
        """See `Cut.outputs`."""
        return answers


class Part(Cut):
    """One module inside a model, which forward calls once.

    Args:
        model: the whole, which runs in evaluation mode and is given back in the mode that it had.
        path: of the module, dotted, as `named_modules` tells it.

    Raises:
        BadInput: the model has no such module.
    """

    def __init__(self, model: nn.Module, path: str) -> None:
        modules = dict(model.named_modules(remove_duplicate=False))
        if path not in modules or not path:
            raise BadInput(f"part: {type(model).__name__} has no module '{path}'." + nearest(path, [name for name in modules if name]))
        self.model, self.path, self._module = model, path, modules[path]

    @property
    def module(self) -> nn.Module:
        """See `Cut.module`."""
        return self._module

    def inputs(self, inputs: Any) -> Any:
        """See `Cut.inputs`. What is returned are copies, without gradient.

        Raises:
            BadInput: forward never calls the module.
        """
        given: list[Any] = []

        def stop(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            given.append(self._form(*tree_map(lambda leaf: leaf.detach().clone() if isinstance(leaf, Tensor) else leaf, (args, kwargs))))
            raise _Reached

        handle = self._module.register_forward_pre_hook(stop, prepend=True, with_kwargs=True)
        try:
            with torch.no_grad(), contextlib.suppress(_Reached):
                self._run(inputs)
        finally:
            handle.remove()
        if not given:
            raise BadInput(
                f"part: {type(self.model).__name__} never calls the module '{self.path}' in evaluation; only a module that forward calls can be cut out. "
                "Name the module around it."
            )
        return given[0]

    def outputs(self, inputs: Any, answers: Any) -> Any:
        """See `Cut.outputs`. Gradients reach `answers`, and no weight of the rest.

        Raises:
            BadInput: forward calls the module more than once.
        """
        calls = 0

        def answer(*args: Any, **kwargs: Any) -> Any:
            nonlocal calls
            calls += 1
            return answers

        with _fixed(self.model), _with_forward(self._module, answer):
            result = self._run(inputs)
        if calls != 1:
            raise BadInput(
                f"part: {type(self.model).__name__} calls the module '{self.path}' {calls} times for one answer; a part is called once. "
                "Name the module around it."
            )
        return result

    def check(self, inputs: Any) -> None:
        """Try the cut once, with the module's own answers.

        Raises:
            BadInput: forward calls the module never, or more than once.
        """
        args, kwargs = as_call(self.inputs(inputs))
        with torch.no_grad(), evaluating(self._module):
            self.outputs(inputs, self._module(*args, **kwargs))

    def _run(self, inputs: Any) -> Any:
        args, kwargs = as_call(inputs)
        with evaluating(self.model):
            return self.model(*args, **kwargs)

    def _form(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Return a call's arguments in the form that `as_call` reads: a tuple of positional ones, or all by name."""
        return args if not kwargs else dict(zip(argument_names(self._module, args, kwargs), [*args, *kwargs.values()], strict=True))


@contextlib.contextmanager
def _fixed(model: nn.Module) -> Iterator[None]:
    """Let no gradient reach the parameters of a module."""
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in learning:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in learning:
            parameter.requires_grad_(True)


@contextlib.contextmanager
def _with_forward(module: nn.Module, forward: Callable[..., Any]) -> Iterator[None]:
    """Put another forward into a module; give it back as it was."""
    before = module.__dict__.get("forward")
    module.__dict__["forward"] = forward
    try:
        yield
    finally:
        del module.__dict__["forward"]
        if before is not None:
            module.__dict__["forward"] = before


# A part as a task of its own ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PartSplit:
    """Splits a batch of the whole's data into what the part is given, and what its loss needs: that, the whole's inputs and the target."""

    split: Split
    cut: Cut

    def __call__(self, batch: Any) -> tuple[Any, Any]:
        """Return the part's inputs, and the triple that `PartLoss` takes for a target."""
        inputs, target = self.split(batch)
        given = self.cut.inputs(inputs)
        return given, (given, inputs, target)


@dataclass(frozen=True)
class PartLoss:
    """The loss of the whole model with the part's answers in place.

    Where there is none, or no gradient comes back through the rest (a selection of boxes, an argmax), it is how far the part's answers are from those of the
    part as it was given: the mean squared difference of each tensor, relative to its mean square.
    """

    loss: Loss | None
    cut: Cut

    def __call__(self, outputs: Any, target: Any) -> Tensor:
        """Return the loss, a scalar.

        Args:
            outputs: of the part.
            target: of `PartSplit`.
        """
        given, inputs, whole = target
        if self.loss is not None:
            value = self.loss(self.cut.outputs(inputs, outputs), whole)
            if value.requires_grad or not torch.is_grad_enabled():
                return value
        args, kwargs = as_call(given)
        with torch.no_grad(), evaluating(self.cut.module):
            wanted = _floats(self.cut.module(*args, **kwargs))
        return torch.stack(
            [F.mse_loss(a, b) / b.square().mean().clamp(min=1e-12) for a, b in zip(_floats(outputs), wanted, strict=True)]
        ).mean()


def flat_answers(outputs: Any) -> Tensor:
    """Return all floating numbers that a part answers in one tensor (B, D), for losses between answers.

    Raises:
        BadInput: its tensors do not share their first dimension.
    """
    leaves = _floats(outputs)
    if len({leaf.shape[:1] for leaf in leaves}) != 1 or not leaves[0].dim():
        raise BadInput(
            f"the part answers {', '.join(str(tuple(leaf.shape)) for leaf in leaves)}, without a batch in front of all: distill=0 trains it by its loss alone"
        )
    return torch.cat([leaf.flatten(1) if leaf.dim() > 1 else leaf.unsqueeze(1) for leaf in leaves], 1)


def no_metric(logits: Any, target: Any) -> float:
    """Refuse: the metric is that of the whole model.

    Raises:
        BadInput: always.
    """
    raise BadInput("a part is not scored while it trains, since the metric is that of the whole model: leave patience out")


def _floats(value: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(value) if isinstance(leaf, Tensor) and leaf.is_floating_point()]
