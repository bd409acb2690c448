"""Pruning. `laconic.prune` is this room and, called, the function of `structured`: a package hides a function of its name."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any


class _Room(ModuleType):
    """This package, with the call passed on."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        from laconic.prune.structured import prune

        return prune(*args, **kwargs)


sys.modules[__name__].__class__ = _Room
