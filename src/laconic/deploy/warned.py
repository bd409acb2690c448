"""A user's own warnings, raised in a child, reach the user once: what the child hides is told in its parent, as if it had been raised there.

Those of libraries stay where they are: they are about versions, and each process would repeat them.
"""

from __future__ import annotations

import builtins
import contextlib
import sys
import warnings
from collections.abc import Callable, Iterator
from typing import Any

from laconic.core.reading import is_own

_told: set[tuple[Any, ...]] = set()


@contextlib.contextmanager
def warnings_told(tell: Callable[[Any], None]) -> Iterator[None]:
    """Hand each warning of a user's code, raised inside, to `tell`, as plain values."""
    before = warnings.showwarning

    def show(
        message: Warning | str, category: type[Warning], filename: str, lineno: int, file: Any = None, line: str | None = None
    ) -> None:
        if is_own(filename):
            tell([str(message), category.__name__, filename, lineno])
        else:
            before(message, category, filename, lineno, file, line)

    warnings.showwarning = show
    try:
        yield
    finally:
        warnings.showwarning = before


def warn(told: Any) -> None:
    """Raise here what `warnings_told` handed over, by this process's own filters; once, however many children raise it, and whether this one does too."""
    text, name, filename, lineno = told
    known = getattr(builtins, name, None)
    category = known if isinstance(known, type) and issubclass(known, Warning) else UserWarning
    key = (text, category, lineno)
    if (filename, *key) in _told:
        return
    _told.add((filename, *key))
    module = next((one for one in list(sys.modules.values()) if getattr(one, "__file__", None) == filename), None)
    registry = {} if module is None else vars(module).setdefault("__warningregistry__", {})
    warnings.warn_explicit(text, category, filename, lineno, registry=registry)
