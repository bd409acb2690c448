"""A process that is timed, as the measuring room knows it. Imports no PyTorch."""

from __future__ import annotations

from dataclasses import dataclass

from laconic.core.turn import Turn
from laconic.deploy.process import WorkerProcess


@dataclass(frozen=True)
class TimedWorker:
    """A worker under the name by which timings are kept.

    `spent` keeps the turns of processor time of a process that is compared again and again: the work of a run does not change, and taking it may mean a
    further process.
    """

    name: str
    worker: WorkerProcess
    spent: dict[str, list[Turn]] | None = None

    def time(self, seconds: float, min_runs: int) -> Turn:
        """See `latency.Timed`."""
        return self.worker.time(seconds, min_runs)

    def work(self, turns: int, seconds: float, min_runs: int) -> list[Turn]:
        """See `latency.Timed`."""
        if self.spent is None:
            return self.worker.work(turns, seconds, min_runs)
        if self.name not in self.spent:
            self.spent[self.name] = self.worker.work(turns, seconds, min_runs)
        return self.spent[self.name]
