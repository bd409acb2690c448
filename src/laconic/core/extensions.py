"""Rows that other packages add to a table by entry points, without touching a file of this one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import Any, TypeVar

from laconic.core.errors import BadInput

Row = TypeVar("Row")


def load(entry: EntryPoint) -> Any:
    """Import what an entry point names.

    Raises:
        BadInput: it cannot be imported; names the distribution that brings it.
    """
    try:
        return entry.load()
    except (ImportError, AttributeError) as error:
        raise BadInput(
            f"'{entry.name}' of {origin(entry)} in the group {entry.group} cannot be loaded from '{entry.value}': {error}"
        ) from error


def origin(entry: EntryPoint) -> str:
    """Return the name of the distribution that brings an entry point."""
    return "an unknown package" if entry.dist is None else f"the package {entry.dist.name}"


def extended(table: Mapping[str, Row], group: str, read: Callable[[EntryPoint], Row] = load) -> dict[str, Row]:
    """Return a table with the entry points of a group behind its own rows.

    Call it when the table is first used, not when its module is imported: an extension may import that module. Keep the result (`functools.cache`): all
    installed distributions are looked through.

    Args:
        table: the rows that this package has.
        group: of entry points, e.g. ``laconic.steps``.
        read: makes a row of an entry point; `load` imports it.

    Raises:
        BadInput: a name is there already; names the distribution that brings it again. Or an entry point cannot be loaded.
    """
    rows = dict(table)
    for entry in entry_points(group=group):
        if entry.name in rows:
            raise BadInput(
                f"{origin(entry)} adds '{entry.name}' to the group {group}, where that name is taken. Rename its entry point, or uninstall one of the packages."
            )
        rows[entry.name] = read(entry)
    return rows
