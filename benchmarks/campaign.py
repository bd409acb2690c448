"""Faults and hostile files, again and again, with counts. `python -m benchmarks.campaign PART [NAMES]`.

- `fuzz [files] [seed] [kind …]`: so many mutated files (1,000) of each kind that Laconic reads, each read in a process with limits. Told by kind: how many
  were read, refused by a named error, ended in a raw exception, a crash or a hang. Wanted: none of the last three. Those that went wrong stay in
  `$TMPDIR/laconic-fuzz`.
- `kills [runs] [seed] [workers]`: so many times (40), in turn, parent, builder, worker or baseline of a run is killed at a random moment, and the run
  started again; builders are as many as `workers` (1). Told:
  in how many the winner is that of an undisturbed run, in how many no candidate is lost, and how many processes outlived the parent by more than two seconds.
- `wrong [name …]`: each wrong input of `benchmarks/wrong.py` in a process of its own, as a user meets it: seconds until the message beside imports (wanted:
  3 at most), exit code (2), first words.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from benchmarks.command import command


def fuzz(names: list[str]) -> None:
    """Fuzz every kind of file, or those that are named."""
    from benchmarks import fuzz as fuzzing
    from benchmarks.fuzz_kinds import KINDS

    numbers = [int(name) for name in names if name.isdigit()]
    n, seed = (*numbers, *(1000, 0)[len(numbers) :])[:2]
    chosen = [name for name in names if not name.isdigit()] or list(KINDS)
    total: Counter[str] = Counter()
    for name in chosen:
        counts = fuzzing.fuzz(KINDS[name], n, Path(tempfile.gettempdir()) / "laconic-fuzz" / name, seed)
        total += counts.outcomes
        print(f"{name}: {counts}", flush=True)
        for what, number in counts.wrong.items():
            print(f"    {what} (file {number})", flush=True)
    print("all: " + ", ".join(f"{total[name]} {name}" for name in fuzzing.OUTCOMES), flush=True)


def kills(names: list[str]) -> None:
    """Kill processes of runs."""
    from benchmarks import kills as killing

    killing.kills(names)


def wrong(names: list[str]) -> None:
    """Do what is wrong, all of it or what is named."""
    from benchmarks import wrong as inputs

    inputs.campaign(names)


PARTS: dict[str, Callable[[list[str]], None]] = {"fuzz": fuzz, "kills": kills, "wrong": wrong}

if __name__ == "__main__":
    command(__doc__, PARTS)
