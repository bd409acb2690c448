"""Several processes of this machine build candidates."""

from __future__ import annotations

import threading

from laconic.deploy.runtime import cores
from laconic.run.build import Beside, Builder
from laconic.run.crew import Crew, NoCrew
from laconic.search.drivers.driver import Driver


def driver(workers: int) -> Driver:
    """Return so many builders, each with its share of the cores; nobody for one, which is the run itself."""

    def crew(builder: Builder) -> NoCrew:
        if workers == 1:
            return NoCrew()
        gate = threading.RLock()
        beside = Beside(max(1, cores() // workers), gate)
        return Crew([lambda: builder.another(beside)] * workers, builder.folder, builder.turn, gate, builder.progress.log)

    return Driver(crew, workers)
