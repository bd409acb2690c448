"""Who builds candidates ahead of their turn, by name: a new driver is a row."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from laconic.core.errors import BadInput, nearest
from laconic.run.build import Builder
from laconic.run.crew import NoCrew
from laconic.search.drivers import here, ray


@dataclass(frozen=True)
class Driver:
    """Who builds candidates.

    Attributes:
        man: makes the crew of a run, of the run's own builder.
        workers: candidates that are built at once.
    """

    man: Callable[[Builder], NoCrew]
    workers: int


# name -> what makes the crew for so many workers
DRIVERS: dict[str, Callable[[int], Callable[[Builder], NoCrew]]] = {"here": here.driver, "ray": ray.driver}


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
    return Driver(DRIVERS[name](workers), workers)
