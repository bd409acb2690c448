"""`bench --record`: the times of artifacts on this machine or on another, for `hardware`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from laconic.cli.inputs import Until, count, named_size
from laconic.cli.output import display, guarded, say, show

if TYPE_CHECKING:
    from laconic.core.machine_record import MachineRecord
    from laconic.core.progress import Progress
    from laconic.deploy.portable import Portable
    from laconic.run.hardware import Timing


@dataclass(frozen=True)
class Recording:
    """What is to be recorded, as typed: the path of an artifact or a run, the file, what of it, where, and what it takes.

    `consumption` are the options `metering` and `price` as `cli.inputs.consumption` reads them.
    """

    path: Path
    record: Path
    versus: Path | None
    changes: Mapping[str, Any]
    best: int
    machine: str
    trust: bool
    on: str | None
    ssh: str
    python: str
    time_limit: str | None
    energy: bool
    consumption: Callable[[], Mapping[str, Any]]


def record_times(asked: Recording, batch: str, length: Sequence[str], rounds: int, wait_quiet: bool, as_json: bool, quiet: bool) -> None:
    """Time, write the record, and show it as `hardware` would."""

    def work() -> Any:
        from laconic.core.errors import BadInput
        from laconic.measure.energy import Metering
        from laconic.measure.quiet import wait_quiet as waited
        from laconic.run.hardware import Timing, items_of, priced

        if asked.versus is not None:
            raise BadInput(
                "--record keeps the times of MODEL alone, for `laconic hardware`: leave out --vs, or give it a record of its own"
            )
        items = items_of(asked.path, asked.best, asked.trust, **asked.changes)
        told = asked.consumption()
        price, metering = told.get("price"), told.get("metering")
        if metering is None and (asked.energy or (price is not None and price.per_kwh is not None)):
            metering = Metering()
        sizes = tuple(count("--batch", size) for size in batch.split(","))
        timing = Timing(sizes, rounds, lengths=dict(named_size(item) for item in length), metering=metering)
        with display(quiet or as_json) as progress:
            if wait_quiet and asked.on is None:
                waited(progress=progress)
            made = _recorded(asked, items, timing, progress)
        made = made if price is None else priced(made, price)
        made.write(asked.record)
        return made

    made = guarded(work)

    def table() -> Any:
        from laconic.report.hardware import hardware
        from laconic.report.hardware import table as drawn

        return drawn(hardware([made]))

    show(made, as_json, table)
    say(f"Record: {asked.record}", as_json)


def _recorded(asked: Recording, items: Mapping[str, Portable], timing: Timing, progress: Progress) -> MachineRecord:
    """Time here, or there."""
    if asked.on is None:
        from laconic.run.hardware import record

        return record(items, timing, asked.machine, progress)
    from laconic.run.fleet import Remote, record_on

    limit_s = Until(asked.time_limit).left_s()
    remote = Remote(asked.on, asked.ssh, asked.python)
    if limit_s is not None:
        remote = replace(remote, limit_s=limit_s)
    return record_on(remote, items, timing, asked.machine, progress)
