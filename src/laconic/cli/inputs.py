"""What is typed, made into what the library takes."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from laconic.core.errors import BadInput

if TYPE_CHECKING:
    from laconic.core.task import Task

_MOMENT_S = 1e-3


def loaded(
    ref: str,
    data: Path | None,
    seed: int = 0,
    *,
    timeout_s: float | None = None,
    memory_limit_bytes: int | None = None,
    builds: bool = False,
) -> Task:
    """Load a task; a user's own is loaded and checked in another process first, while this one imports what it needs.

    Args:
        ref: as of `laconic.load_task`, like `data` and `seed`.
        timeout_s: of that trial; None: as of `run.trial`.
        memory_limit_bytes: of its process.
        builds: models are built from the task afterwards; that process waits for it.

    Raises:
        BadInput: everything that is wrong with the task, or what became of the process.
    """
    import laconic as lc
    from laconic.run import trial

    if timeout_s is not None and not timeout_s > 0:
        raise BadInput(f"--trial-timeout, --candidate-timeout: {timeout_s:g} must be a number of seconds above 0")
    if not trial.is_users(ref):
        return lc.load_task(ref, data=data, seed=seed)
    tried = trial.Trial(trial.LIMIT_S if timeout_s is None else timeout_s, memory_limit_bytes)
    try:
        load, _ = lc.load_task, lc.optimize  # imports PyTorch and the rest while the other process does the same
        answer = tried.check(ref, {"task": ref, "data": None if data is None else str(data), "seed": seed})
        if answer["mistakes"]:
            raise BadInput(answer["mistakes"])
        task = load(ref, data=data, seed=seed)
    except BaseException:
        tried.close()
        raise
    if builds and not answer["other"]:
        tried.keep(trial.key_of(task, seed))
    else:
        tried.close()
    return task


class Until:
    """A command's limit of time, which counts from here on: what is loaded and tried before the search begins counts too.

    Args:
        limit: as it was typed; None sets none.

    Raises:
        BadInput: it is no time.
    """

    def __init__(self, limit: str | None) -> None:
        from laconic.search.optimize import seconds

        self._limit_s, self._since = seconds(limit), time.monotonic()

    def left_s(self) -> float | None:
        """Return the seconds that are left, a moment at least; None where there is no limit."""
        return None if self._limit_s is None else max(self._limit_s - (time.monotonic() - self._since), _MOMENT_S)


def giga(value: float | None) -> int | None:
    """Turn GB into bytes.

    Raises:
        BadInput: no number above 0.
    """
    if value is not None and not 0 < value < math.inf:
        raise BadInput(f"--memory-limit: {value:g} must be a number above 0, in GB")
    return None if value is None else int(value * 1e9)


def split(text: str | None) -> tuple[str, ...] | None:
    """Split what is separated by commas; ``none`` is nothing."""
    return None if text is None else tuple(part.strip() for part in text.split(",") if part.strip() not in ("", "none"))


def count(option: str, text: str) -> int:
    """Read a whole number of 1 or more.

    Raises:
        BadInput: it is none.
    """
    if not text.strip().isdigit() or int(text) < 1:
        raise BadInput(f"{option}: {text!r} is not a whole number of 1 or more")
    return int(text)


def named_size(text: str) -> tuple[str, int]:
    """Read ``NAME=SIZE``.

    Raises:
        BadInput: it is written otherwise.
    """
    name, equals, size = text.partition("=")
    if not equals:
        raise BadInput(f"--length: {text!r}; write NAME=SIZE, e.g. length=64")
    return name, count("--length", size)


def numbers(option: str, text: str | None) -> tuple[float, ...]:
    """Read numbers separated by commas; none where nothing was typed.

    Raises:
        BadInput: something between the commas is no number.
    """
    try:
        return tuple(float(part) for part in split(text) or ())
    except ValueError:
        raise BadInput(f"{option}: {text!r} must be numbers separated by commas, such as 0.1,0.5,1") from None


def consumption(prices: Path | None, price: str | None, meter: Path | None) -> dict[str, Any]:
    """Return the options `price` and `metering` of `laconic.Options` and `laconic.bench`; those that were not typed are not there.

    Args:
        prices: file of prices.
        price: which of them; without a file, one of the examples.
        meter: file that the user's meter writes.

    Raises:
        BadInput: a file cannot be read, or there is no such price.
    """
    from laconic.measure.cost import EXAMPLES, choose
    from laconic.measure.energy import Metering

    given: dict[str, Any] = {}
    if prices is not None or price is not None:
        from laconic.run.prices import read_prices

        given["price"] = choose(EXAMPLES if prices is None else read_prices(prices), price)
    if meter is not None:
        given["metering"] = Metering(meter=str(meter), rest_s=Metering().window_s)  # meters write a few rows a second
    return given
