"""Where a capture stopped, and which modules around that place can be captured by themselves."""

from __future__ import annotations

import heapq
import time
import traceback
from collections.abc import Callable
from typing import Any

from torch import nn

from laconic.core.errors import LaconicError
from laconic.core.part import Part

SECONDS = 10.0  # after which no further module is tried
_OFFERED = 3
_SHARE = 0.1  # of the parameters that a module must hold to be worth a cut
_USERS = (LaconicError, ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)


def stopped_at(model: nn.Module, error: BaseException) -> str:
    """Return the path of the innermost module in whose code an error, or what caused it, was raised; empty for the model itself or where none is known."""
    paths = {id(module): path for path, module in model.named_modules()}
    chain: BaseException | None = error
    path = ""
    while chain is not None:
        for frame, _ in traceback.walk_tb(chain.__traceback__):
            path = paths.get(id(frame.f_locals.get("self")), path) or path
        chain = chain.__cause__ or chain.__context__
    return path


def offer(model: nn.Module, example: Any, error: BaseException, attempt: Callable[[nn.Module, Any], object]) -> str:
    """Return a sentence that names the largest modules which can be captured by themselves; empty where none was found in time.

    Args:
        model: that cannot be captured as a whole.
        example: its inputs, as `as_call` reads them.
        error: why it cannot.
        attempt: captures a module with what it is given, or raises.
    """
    sizes = {path: sum(parameter.numel() for parameter in module.parameters()) for path, module in model.named_modules()}
    least = max(1.0, _SHARE * sizes[""])
    around = stopped_at(model, error)
    waiting: list[tuple[int, str]] = []
    _open(model, "", sizes, least, waiting)
    found: list[str] = []
    end = time.monotonic() + SECONDS
    while waiting and len(found) < _OFFERED and time.monotonic() < end:
        _, path = heapq.heappop(waiting)
        holds = around == path or around.startswith(f"{path}.")
        if not holds and _works(model, path, example, attempt):
            found.append(f"Task(part='{path}') ({100 * sizes[path] / sizes['']:.0f} % of the parameters)")
        else:
            _open(model, path, sizes, least, waiting)
    if not found:
        return ""
    return f"Or compress a part and keep the rest in PyTorch: {', or '.join(found)} can be captured."


def _open(model: nn.Module, path: str, sizes: dict[str, int], least: float, waiting: list[tuple[int, str]]) -> None:
    """Put the modules inside a module that are large enough into the queue, the largest first."""
    for name, _ in model.get_submodule(path).named_children():
        inner = f"{path}.{name}".lstrip(".")
        if sizes.get(inner, 0) >= least:
            heapq.heappush(waiting, (-sizes[inner], inner))


def _works(model: nn.Module, path: str, example: Any, attempt: Callable[[nn.Module, Any], object]) -> bool:
    """Return whether a module can be cut out and captured."""
    try:
        cut = Part(model, path)
        cut.check(example)
        attempt(cut.module, cut.inputs(example))
    except _USERS:
        return False
    return True
