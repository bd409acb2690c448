"""What is read was written by others: whatever reading it raises becomes the named error, with the file, at the public door.

A parser meets what nobody foresaw as `KeyError`, `RecursionError`, `struct.error`, … This is for functions that only read: they run no code of the user's
whose own errors would be hidden here.
"""

from __future__ import annotations

import contextlib
import functools
import sysconfig
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar, cast

from laconic.core.errors import CorruptFile, LaconicError

Function = TypeVar("Function", bound=Callable[..., Any])
_LONGEST = 200  # letters of a parser's message


@contextlib.contextmanager
def reading(path: object, what: str, mend: str, error: type[LaconicError] = CorruptFile) -> Iterator[None]:
    """Turn whatever is raised inside into the named error. Named errors and the user's interrupt pass.

    Args:
        path: the file that is read; empty for values that come from no file.
        what: what it should be, e.g. ``an artifact``.
        mend: the next move, a sentence.
        error: what is raised.

    Raises:
        LaconicError: `error`, with the cause in one line.
    """
    try:
        yield
    except LaconicError:
        raise
    except Exception as caught:
        name = f"{path} " if path else "this "
        if isinstance(caught, OSError) and caught.strerror:
            raise error(f"{name}cannot be read: {caught.strerror}. {mend}") from caught
        raise error(f"{name}is not {what} that can be read ({told(caught)}). {mend}") from caught


def reads(what: str, mend: str, error: type[LaconicError] = CorruptFile) -> Callable[[Function], Function]:
    """Decorate a function that reads a file, which its first path or text names; see `reading`."""

    def decorate(function: Function) -> Function:
        @functools.wraps(function)
        def guarded(*args: Any, **kwargs: Any) -> Any:
            path = next((value for value in (*args, *kwargs.values()) if isinstance(value, (str, Path))), "")
            with reading(path, what, mend, error):
                return function(*args, **kwargs)

        return cast(Function, guarded)

    return decorate


def told(error: BaseException) -> str:
    """Write an unforeseen error in one line: its class, the first line of its message, and where it was raised.

    >>> told(ValueError("no"))
    'ValueError: no'
    """
    try:
        lines = str(error).strip().splitlines()
    except Exception:  # noqa: BLE001 - a message that cannot even be written
        lines = []
    frames = traceback.extract_tb(error.__traceback__)
    place = f", {Path(frames[-1].filename).name} line {frames[-1].lineno}" if frames else ""
    text = f": {lines[0][:_LONGEST]}" if lines else ""
    return f"{type(error).__name__}{text}{place}"


def own_frame(error: BaseException) -> traceback.FrameSummary | None:
    """Return the last line of the user's own code that an error passed: of no library and not of Laconic; None where it passed none."""
    own = [frame for frame in traceback.extract_tb(error.__traceback__) if is_own(frame.filename)]
    return own[-1] if own else None


def is_own(file: str) -> bool:
    """Return whether a file of code is the user's own: neither installed, nor Python's, nor Laconic's, nor made while it runs."""
    paths = sysconfig.get_paths()
    return not file.startswith((paths["purelib"], paths["platlib"], paths["stdlib"], str(Path(__file__).parents[1]), "<"))
