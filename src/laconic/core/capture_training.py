"""What a module does in training mode that the graph of its evaluation does not: parts that never train, and whatever else depends on the mode."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn

from laconic.core.alike import alike
from laconic.core.capture_checks import mentions
from laconic.core.errors import BadInput
from laconic.core.modes import evaluating
from laconic.core.program import Program

Run = Callable[[nn.Module, Sequence[Tensor]], Sequence[Tensor]]
_SAME = 1e-2  # relative: batch-norms over two examples make much of what sums in another order differ by
_REFUSED = "in training mode forward does not answer these inputs ({error}); the program trains as it evaluates"
_OTHERWISE = (
    "in training mode the module answers otherwise than the graph (a branch on self.training, noise, dropped paths, further outputs): the program trains "
    "without that"
)


def frozen_parts(model: nn.Module) -> tuple[str, ...]:
    """Return the paths of parts that stay in evaluation mode when the module is put into training mode: their `train`, or that of a parent, sees to it."""
    flags = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    with evaluating(model):
        try:
            model.train()
            return tuple(path for path, part in model.named_modules(remove_duplicate=False) if not part.training)
        except Exception:  # noqa: BLE001 - a `train` of somebody else's
            return ()
        finally:
            for parameter, flag in flags:
                parameter.requires_grad_(flag)


def training_note(model: nn.Module, run: Run, program: Program, leaves: Sequence[Tensor]) -> str | None:
    """Say how the module and its program differ in training mode; None where they do not, or where no part of the module asks for the mode.

    Args:
        model: stays as it is.
        run: `(model, flat inputs) -> flat outputs`.
        program: of the module; likewise.
        leaves: flat inputs, of two examples or more.
    """
    if not mentions(model, "training"):
        return None
    try:
        theirs, ours = copy.deepcopy(model), copy.deepcopy(program)
    except Exception:  # noqa: BLE001 - a module that cannot be copied is not tried, since that would change it
        return None
    try:
        with _seeded():
            expected = ours.train().graph_module(*leaves)
    except (BadInput, RuntimeError):  # a norm of one value
        return None
    try:
        with _seeded():
            answers = run(theirs.train(), leaves)
    except Exception as error:  # noqa: BLE001 - a forward of somebody else's
        return _REFUSED.format(error=f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0][:200]}")
    return None if alike(answers, expected, _SAME) else _OTHERWISE


@contextlib.contextmanager
def _seeded() -> Iterator[None]:
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        yield
