"""Where a shared study lies: a database that SQLAlchemy knows, or a journal file of Optuna's."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from laconic.core.errors import BadInput, MissingExtra, need


def hidden(place: str) -> str:
    """Return a place without its password.

    >>> hidden("postgresql://me:secret@host/base"), hidden("study.log")
    ('postgresql://me:***@host/base', 'study.log')
    """
    return re.sub(r"(://[^/@:]*):[^@]*@", r"\1:***@", place)


def storage_at(place: str, told: str) -> tuple[Any, Callable[[], None]]:
    """Return the storage at a place, and what ends its connections; `told` names it in errors."""
    import optuna

    if "://" not in place:
        from optuna.storages.journal import JournalFileBackend, JournalStorage

        try:
            Path(place).parent.mkdir(parents=True, exist_ok=True)
            return JournalStorage(JournalFileBackend(place)), lambda: None
        except OSError as error:
            raise BadInput(f"--study {told}: {error.strerror or error}. Give the path of a file that can be written, or a URL.") from error
    need("sqlalchemy", "postgres")
    if place.startswith(("postgresql://", "postgres://")):
        need("psycopg", "postgres")
        place = "postgresql+psycopg://" + place.partition("://")[2]
    storage = _tried(lambda: optuna.storages.RDBStorage(place, engine_kwargs={"pool_pre_ping": True}), told)
    return storage, storage.engine.dispose


def _tried(make: Callable[[], Any], told: str) -> Any:
    """Open a database, a few times: two drivers that make its tables at once are in each other's way."""
    for wait_s in (0.2, 0.5, 1.0, None):
        try:
            return make()
        except ModuleNotFoundError as error:
            raise MissingExtra(
                f"--study {told} needs a package that is not installed: {error}. For PostgreSQL: pip install 'laconic[postgres]'"
            ) from error
        except Exception as error:
            if wait_s is None or not isinstance(error, sql_errors()):
                raise BadInput(
                    f"--study {told}: {line(error)}. Give a URL such as postgresql://USER@HOST/DATABASE, or the path of a file."
                ) from error
            time.sleep(wait_s)
    raise AssertionError


def sql_errors() -> tuple[type[Exception], ...]:
    """Return what databases raise; nothing where SQLAlchemy is not installed."""
    try:
        from sqlalchemy.exc import SQLAlchemyError
    except ImportError:
        return ()
    return (SQLAlchemyError,)


def line(error: BaseException) -> str:
    """Return what went wrong, in its first line: that of the cause, where a library wraps it."""
    cause = error.__cause__ or error
    return f"{type(cause).__name__}: {str(cause).strip().splitlines()[0] if str(cause).strip() else 'no reason was told'}".rstrip(". ")
