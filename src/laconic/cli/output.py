"""What a command shows and how it ends: tables or JSON, progress, messages, exit codes."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import typer

from laconic.cli.interrupt import EXIT_INTERRUPTED, command_again
from laconic.core.errors import LaconicError

if TYPE_CHECKING:
    from laconic.search.result import Result

TRACEBACK = "LACONIC_TRACEBACK"  # the variable that asks for tracebacks
EXIT_BAD_INPUT, EXIT_NOT_MET, EXIT_FAILED = 2, 3, 1


def display(quiet: bool) -> Any:
    """Return the display of progress."""
    from laconic.display import Display

    return Display(quiet)


def guarded(work: Callable[[], Any]) -> Any:
    """Do the command's work; turn what goes wrong into a message and an exit code. What the work prints goes to standard error.

    What nobody foresaw (in the task's own code, or a fault of Laconic) is told in one line with its place; with LACONIC_TRACEBACK set, whole.
    """
    from laconic.core.errors import BadInput, MissingExtra

    try:
        with prints_aside():
            return work()
    except (BadInput, MissingExtra) as error:
        _fail(error, EXIT_BAD_INPUT)
    except LaconicError as error:
        _fail(error, EXIT_FAILED)
    except SystemExit as error:  # of a user's code: a command of ours raises typer.Exit
        _fail(RuntimeError(f"the task's own code left the program (SystemExit: {error.code}); nothing was finished"), EXIT_BAD_INPUT)
    except KeyboardInterrupt:
        typer.echo("\nInterrupted.", err=True)
        raise typer.Exit(EXIT_INTERRUPTED) from None
    except (typer.Exit, typer.Abort):
        raise
    except Exception as error:
        from laconic.core.reading import told

        if os.environ.get(TRACEBACK):
            raise
        _fail(f"{told(error)}{_in_own_code(error)}. {TRACEBACK}=1 shows the whole traceback.", EXIT_FAILED)
    finally:
        from laconic.run import trial

        trial.close()


@contextlib.contextmanager
def prints_aside() -> Iterator[None]:
    """Send what is printed inside to standard error: by Python, by compiled code and by processes that inherit the descriptor. The result alone is output."""
    _flush()
    with contextlib.ExitStack() as back:
        with contextlib.suppress(OSError):  # where standard output is closed there is nothing to keep clean
            kept = os.dup(1)
            back.callback(_give_back, kept)
            os.dup2(2, 1)
        back.enter_context(contextlib.redirect_stdout(sys.stderr))
        yield


def _give_back(kept: int) -> None:
    """Let descriptor 1 be standard output again, once what Python and compiled code hold back in their buffers is written."""
    import ctypes

    _flush()
    with contextlib.suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL(None).fflush(None)
    os.dup2(kept, 1)
    os.close(kept)


def _flush() -> None:
    with contextlib.suppress(OSError, ValueError, AttributeError):  # closed, or none
        sys.stdout.flush()


def _in_own_code(error: BaseException) -> str:
    """Name the last line of the user's own code that an error passed; nothing where it passed none."""
    from laconic.core.reading import own_frame

    frame = own_frame(error)
    return "" if frame is None else f" (your {frame.filename}, line {frame.lineno}, in {frame.name})"


def run_folder(out: str | None, name: str, mirrored: bool = True) -> Path:
    """Return the run's folder: what was asked for, that in which the work for a URL is done, or a new one.

    Raises:
        BadInput: a URL, where nothing would be `mirrored`.
    """
    from laconic.core.errors import BadInput
    from laconic.run.mirror import folder_of, is_url
    from laconic.search.optimize import new_folder

    if out is None:
        return new_folder(name)
    if is_url(out) and not mirrored:
        raise BadInput(f"--out {out}: only runs of optimize and run are mirrored at a URL. Give a folder.")
    return folder_of(out) if is_url(out) else Path(out)


def _fail(error: Exception | str, code: int) -> NoReturn:
    typer.echo(f"laconic: {error}", err=True)
    raise typer.Exit(code) from None


def show(value: Any, as_json: bool, pretty: Callable[[], Any]) -> None:
    """Print a value as one line of JSON, or what `pretty` draws of it."""
    shown = guarded(lambda: _shown(value, as_json, pretty))
    if as_json:
        typer.echo(shown)
    else:
        from rich.console import Console

        Console().print(shown)


def _shown(value: Any, as_json: bool, pretty: Callable[[], Any]) -> Any:
    """Return what is printed: a line of JSON, or what rich draws."""
    if not as_json:
        return pretty()
    from laconic.core.records import to_json
    from laconic.display import speaks_unicode

    return json.dumps(to_json(value), ensure_ascii=not speaks_unicode(sys.stdout))


def summary(result: dict[str, Any]) -> Any:
    """Draw what a finished run found."""
    from laconic.report import text
    from laconic.report.facts import facts

    return text.summary(facts(result))


def say(text: str, as_json: bool) -> None:
    """Print a line; beside JSON, on standard error."""
    typer.echo(text, err=as_json)


def finish(result: Result, as_json: bool, mlflow: bool = False, page: Path | None = None) -> None:
    """Print a run's result and where its page is, log it where that was asked for, and end with its exit code."""
    show(dict(result.data), as_json, lambda: summary(dict(result.data)))
    say(f"Run:    {result.folder}", as_json)
    if page is not None:
        say(f"Report: {page}", as_json)
    if (best := guarded(lambda: result.best)) is not None:
        say(f"Ships:  {best.folder}", as_json)
    if result.stopped is not None:
        say(f"Goes on: {command_again(result.folder)}", as_json)
    if mlflow:
        say(f"MLflow: {guarded(lambda: _logged(result))}", as_json)
    raise typer.Exit(0 if result.met else EXIT_NOT_MET)


def _logged(result: Result) -> str:
    from laconic.report.tracking import log_to_mlflow

    return log_to_mlflow(result.folder, result.data)
