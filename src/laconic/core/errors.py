"""One family of errors. A message says the rule that was broken, the value, the place and the next move."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterable
from types import ModuleType


class LaconicError(Exception):
    """Anything that Laconic raises on purpose."""


class BadInput(LaconicError, ValueError):
    """What the user gave cannot be used as it is."""


class Mistakes(BadInput):
    """Several things are wrong at once; each is told.

    Args:
        head: what was looked at; begins the message.
        mistakes: one line each.
    """

    def __init__(self, head: str, mistakes: Iterable[str] = ()) -> None:
        self.mistakes = tuple(mistakes)
        super().__init__("\n".join([head, *(f"  {mistake}" for mistake in self.mistakes)]))


class CaptureError(BadInput):
    """`torch.export` could not turn the model into a graph."""


class ExportError(LaconicError):
    """The graph could not be lowered to a file that a runtime reads."""


class MissingExtra(LaconicError, ImportError):
    """An optional package is needed and not installed."""


class CorruptFile(LaconicError):
    """A file is truncated, altered, of another kind, or unsafe to read."""


class Locked(LaconicError):
    """Another process works in this folder."""


class TrainingStopped(LaconicError):
    """Training met a loss that is not a number; the last good checkpoint was kept."""


TIME_LIMIT = "time_limit"


class WorkerFailed(LaconicError):
    """A process that ran an artifact or built a candidate died.

    Args:
        text: what happened, with the last lines that the process wrote.
        kind: one of ``crash``, ``timeout``, ``memory``, ``nan``, ``error``, ``time_limit`` (of the whole run), or ``killed``: something else ended it, so
            another try may go well.
    """

    def __init__(self, text: str, kind: str = "error") -> None:
        super().__init__(text)
        self.kind = kind


# By name: an error that another process raised is raised again as it was.
NAMED: dict[str, type[LaconicError]] = {
    kind.__name__: kind for kind in (LaconicError, BadInput, CaptureError, ExportError, MissingExtra, CorruptFile, TrainingStopped)
}


def need(module: str, extra: str | None = None) -> ModuleType:
    """Import `module` when it is first needed.

    Raises:
        MissingExtra: the package is absent; the message names the command that installs it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        command = f"pip install 'laconic[{extra}]'" if extra else f"pip install {package}"
        raise MissingExtra(f"this needs the package '{package}', which cannot be imported here ({error}). Install it: {command}") from error


def nearest(word: str, choices: Iterable[str]) -> str:
    """Return a hint for a misspelled name, or the list of names where none is near.

    >>> nearest("acuracy", ["accuracy", "f1"])
    " Did you mean 'accuracy'?"
    >>> nearest("zzz", ["f1", "accuracy"])
    ' Choose from: accuracy, f1.'
    """
    names = sorted(choices)
    close = difflib.get_close_matches(word, names, n=1)
    return f" Did you mean '{close[0]}'?" if close else f" Choose from: {', '.join(names)}."
