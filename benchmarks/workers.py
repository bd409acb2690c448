"""Candidates per hour with several workers where they train: `python -m benchmarks.workers [workers] [candidates] [epochs]` (2, 6, 40).

Digits, pruned to different shares and recovered for so many epochs, in folders of their own: once with one worker on all cores, once with several that
share them. Counted from the first candidate's turn to the last one's end: building, checking, scoring, timing. The speed-ups of both runs stand beside each
other, since what is timed while others compute is slower by far.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import laconic as lc
from laconic.core.progress import Silent


class Watch(Silent):
    """Notes when the candidates begin and when the last of them has ended."""

    def __init__(self) -> None:
        self.begun = self.ended = 0.0

    def start(self, name: str, total: int) -> None:
        if name == "candidates":
            self.begun = time.perf_counter()

    def advance(self, n: int = 1, **facts: Any) -> None:
        if "candidate" in facts:
            self.ended = time.perf_counter()


def measured(folder: Path, workers: int, candidates: int, epochs: int) -> tuple[float, dict[str, float]]:
    """Seconds of all candidates together, and their speed-ups by title."""
    place = lc.Target("onnxruntime", threads=1)
    shares = [0.9 - 0.6 * n / max(1, candidates - 1) for n in range(candidates)]
    recipes = [lc.Recipe((lc.Prune(macs=round(share, 3), recovery={"epochs": epochs, "lr": 1e-3}),), place) for share in shares]
    watch = Watch()
    result = lc.optimize("digits", lc.Budget(max_drop=100.0), out=folder, recipes=recipes, workers=workers, progress=watch)
    known = [record for record in result.data["candidates"] if record["status"] == "passed"]
    return watch.ended - watch.begun, {record["title"]: record["measured"]["speedup"]["value"] for record in known}


def main() -> None:
    """Measure both and print the ratio."""
    workers, candidates, epochs = (*map(int, sys.argv[1:]), *(2, 6, 40)[len(sys.argv) - 1 :])
    with tempfile.TemporaryDirectory() as place:
        runs = {n: measured(Path(place) / str(n), n, candidates, epochs) for n in (1, workers)}
    for n, (seconds, _) in runs.items():
        print(f"{n} workers: {candidates} candidates in {seconds:.1f} s, {3600 * candidates / seconds:.0f} an hour")
    print(f"ratio {runs[1][0] / runs[workers][0]:.2f}")
    for title, speedup in runs[1][1].items():
        print(f"  {title}: {speedup:.2f}× with one worker, {runs[workers][1].get(title, float('nan')):.2f}× with {workers}")


if __name__ == "__main__":
    main()
