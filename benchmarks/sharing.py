"""Steps per second of training, alone and beside a load: `python -m benchmarks.sharing run [NAME=VALUE …]`.

ResNet-20, batches of 128 pictures, in fresh processes, one after the other and again: the bare loop with PyTorch's own settings, with one of the variables that
processes which train get (`run/sharing.py`) or with short spinning, and `lc.fit` with all of them and the threads that find a core. Each is timed alone and
beside one process that does nothing but use a core. Options: `rounds` (3), `steps` (8), `batch` (128), `threads` (all cores).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.command import command
from laconic.deploy.runtime import cores
from laconic.run import sharing

# Which part does the work, and which of the variables it gets; None: as the user's shell has it.
ENTRIES: dict[str, tuple[str, tuple[str, ...]]] = {
    "bare loop": ("bare", ()),
    "bare loop, passive waiting": ("bare", ("OMP_WAIT_POLICY",)),
    "bare loop, short spinning": ("bare", ("GOMP_SPINCOUNT",)),
    "bare loop, memory kept": ("bare", ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_")),
    "fit, as Laconic trains": ("fit", ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_")),
    "fit, as it trains where the machine is shared": ("fit", ("OMP_WAIT_POLICY", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_")),
}


def run(names: list[str]) -> None:
    """Print the table."""
    options = {"rounds": 3, "steps": 8, "batch": 128, "threads": cores()} | {
        name: int(value) for name, _, value in (n.partition("=") for n in names)
    }
    seconds: dict[tuple[str, str], list[float]] = {}
    for _ in range(options.pop("rounds")):
        for place in ("alone", "beside a load"):
            with load(place != "alone"):
                for name, (part, variables) in ENTRIES.items():
                    seconds.setdefault((name, place), []).append(_seconds(part, variables, options))
    table = Table("", *(f"{place}: {what}" for place in ("alone", "beside a load") for what in ("steps/s", "against the bare loop")))
    for name in ENTRIES:
        cells: list[str] = []
        for place in ("alone", "beside a load"):
            own, bare = (np.median(seconds[one, place]) for one in (name, "bare loop"))
            cells += [f"{1 / own:.2f}", f"{bare / own:.2f}"]
        table.add_row(name, *cells)
    Console().print(table)


@contextmanager
def load(wanted: bool) -> Iterator[None]:
    """Keep a core busy meanwhile."""
    other = subprocess.Popen([sys.executable, "-c", "while True: pass"]) if wanted else None
    try:
        yield
    finally:
        if other is not None:
            other.kill()
            other.wait()


def _seconds(part: str, variables: tuple[str, ...], options: dict[str, int]) -> float:
    """Return seconds of a step in a fresh process."""
    values = {"GOMP_SPINCOUNT": "10000", **sharing.ALWAYS, **sharing.SHARED}
    environment = {**os.environ, "OMP_NUM_THREADS": str(options["threads"])} | {name: values[name] for name in variables}
    argv = [sys.executable, "-W", "ignore", "-m", "benchmarks.sharing", part, *(f"{name}={value}" for name, value in options.items())]
    done = subprocess.run(argv, env=environment, capture_output=True, text=True, check=True)
    return float(json.loads(done.stdout.splitlines()[-1]))


def bare(names: list[str]) -> None:
    """Time a plain loop."""
    import torch
    import torch.nn.functional as F

    net, x, target, steps = _parts(names)
    optimizer = torch.optim.SGD(net.parameters(), lr=1e-3, momentum=0.9)

    def step() -> None:
        optimizer.zero_grad()
        F.cross_entropy(net(x), target).backward()
        optimizer.step()

    for _ in range(2):
        step()
    start = time.perf_counter()
    for _ in range(steps):
        step()
    print(json.dumps((time.perf_counter() - start) / steps))


def fit(names: list[str]) -> None:
    """Time Laconic's loop; an epoch goes before, to warm up."""
    import torch.nn.functional as F
    from torch.utils.data import TensorDataset

    import laconic as lc

    net, x, target, steps = _parts(names)
    n = len(x)

    def epoch(of: int) -> float:
        data: Any = TensorDataset(x.repeat(of, 1, 1, 1), target.repeat(of))
        start = time.perf_counter()
        lc.fit(net, lc.FitPlan(epochs=1, optimizer="sgd", lr=1e-3, batch_size=n), train=data, loss=F.cross_entropy)
        return time.perf_counter() - start

    with sharing.free_threads():
        epoch(2)
        few, many = epoch(1), epoch(1 + steps)  # what an epoch costs beside its steps is left out
    print(json.dumps((many - few) / steps))


def _parts(names: list[str]) -> tuple[Any, Any, Any, int]:
    import torch

    from laconic.tasks.models import DataShape, build

    options = {name: int(value) for name, _, value in (n.partition("=") for n in names)}
    torch.set_num_threads(options["threads"])
    torch.manual_seed(0)
    net = build("resnet20", DataShape("image", (1, 28, 28), 10)).train()
    return net, torch.randn(options["batch"], 1, 28, 28), torch.randint(0, 10, (options["batch"],)), options["steps"]


if __name__ == "__main__":
    command(__doc__, {"run": run, "bare": bare, "fit": fit})
