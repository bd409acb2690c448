"""Who builds candidates ahead of their turn, by name: a new driver is a row."""

from __future__ import annotations

from collections.abc import Callable

from laconic.core.errors import BadInput, nearest
from laconic.search.drivers import here, ray
from laconic.search.drivers.driver import Driver

__all__ = ["DRIVERS", "Driver", "driver"]


# name -> what makes a driver of so many workers
DRIVERS: dict[str, Callable[[int], Driver]] = {"here": here.driver, "ray": ray.driver}


def driver(name: str, workers: int) -> Driver:
    """Return who builds the candidates of a run.

    Args:
        name: of a row.
        workers: candidates that are built at once.

    Raises:
        BadInput: there is no such driver, or no such number of workers.
        MissingExtra: it needs a package that is not installed.
    """
    if name not in DRIVERS:
        raise BadInput(f"driver '{name}': there is none of that name." + nearest(name, DRIVERS))
    if isinstance(workers, bool) or not isinstance(workers, int) or workers < 1:
        raise BadInput(f"workers: {workers!r} must be a whole number of 1 or more")
    return DRIVERS[name](workers)
