"""A run's three best artifacts here and on a second "machine", over a loopback sshd whose connections are killed: what is measured, and what is left there.

    python -m benchmarks.fleet [RUN] [--rounds 15] [--drops 3] [--energy]

Without RUN a short one on digits is made. Printed are the table of `laconic hardware`, the ratio of the medians there and here (the same processor: 1 but for
what the machine did meanwhile), how many connections it took, whether any round was counted twice or lost, and what was left on the other side.
"""

from __future__ import annotations

import argparse
import random
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console

import laconic as lc
from benchmarks.loopback import Server, server
from laconic.core.machine_record import MachineRecord
from laconic.deploy.portable import Portable
from laconic.measure.energy import Metering
from laconic.report.hardware import hardware, table
from laconic.run.fleet import record_on
from laconic.run.hardware import Timing, items_of, record

BEST, ATTEMPTS = 3, 20


def made(folder: Path) -> Path:
    """Make a short run: digits in two runtimes, as it is and in int8."""
    places = [lc.Target(name, threads=1) for name in ("onnxruntime", "openvino")]
    recipes = [lc.Recipe(steps, place) for place in places for steps in ((), (lc.Quantize(target=place.runtime),))]
    lc.optimize("digits", lc.Budget(max_drop=100.0), out=folder, recipes=recipes, options=lc.Options(rounds=6))
    return folder


def far(there: Server, items: dict[str, Portable], timing: Timing, drops: int) -> tuple[MachineRecord, int]:
    """Record over the server and kill its connections so many times, at random events; returns the record and how many there were."""
    left, draw = drops, random.Random(0)

    def heard(event: dict[str, Any]) -> None:
        nonlocal left
        if left and event["kind"] in ("started", "times", "energy") and draw.random() < 0.5:
            left -= 1
            print(f"  connection killed behind: {event['kind']}", flush=True)
            there.drop()

    remote = replace(there.remote, limit_s=1800.0, attempts=ATTEMPTS)
    return record_on(remote, items, timing, "over ssh", on_event=heard), drops - left


def compared(here: MachineRecord, there: MachineRecord, timing: Timing) -> None:
    """Print ratios, and whether rounds are complete."""
    for one, other in zip(here.artifacts, there.artifacts, strict=True):
        for near, distant in zip(one.timings, other.timings, strict=True):
            assert near.latency_ms.value
            assert distant.latency_ms.value
            whole = "complete" if distant.throughput_per_s.n == timing.rounds else f"{distant.throughput_per_s.n} of {timing.rounds} rounds"
            print(f"{one.name}, batch {near.batch}: there / here {distant.latency_ms.value / near.latency_ms.value:.2f}, {whole}")


def main() -> None:
    """Read the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", nargs="?", type=Path)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--drops", type=int, default=3)
    parser.add_argument("--energy", action="store_true")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="fleet-") as scratch, tempfile.TemporaryDirectory(prefix="sshd-") as sshd:
        items = items_of(given.run or made(Path(scratch) / "run"), BEST)
        timing = Timing((1, 8), rounds=given.rounds, metering=Metering() if given.energy else None)
        near = record(items, timing, "here")
        with server(Path(sshd)) as there:
            distant, drops = far(there, items, timing, given.drops)
            rest = there.left()
        Console(width=200).print(table(hardware([near, distant])))
        compared(near, distant, timing)
        print(
            f"{len(items)} artifacts, {drops} connections killed in flight and made again; left on the other side: {', '.join(rest) or 'nothing'}"
        )


if __name__ == "__main__":
    main()
