"""Are the joules right? A counter of known power beside a real process: 10 W always, and 25 W for each second of processor time that the process takes.

    python -m benchmarks.energy [WINDOWS]

What an inference takes is then 25 W times its processor time, which the process tells by itself, run by run. Printed are both, and their ratio.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

import torch

import laconic as lc
from laconic.core.turn import Turn
from laconic.deploy.process import WorkerProcess
from laconic.measure.counters import Counter
from laconic.measure.energy import Counted, Metering, measure
from laconic.run.examples import write_arrays
from laconic.tasks.models import DataShape, LeNet5

IDLE_W, CORE_W = 10.0, 25.0


def processor_s(pid: int) -> float:
    """Return the seconds of processor time of all threads of a process (Linux, /proc/PID/task/*/schedstat)."""
    return sum(int(path.read_text(encoding="utf-8").split()[0]) for path in Path(f"/proc/{pid}/task").glob("*/schedstat")) / 1e9


def main(windows: int = 10) -> None:
    """Measure a small net in ONNX Runtime."""
    torch.manual_seed(0)
    net = LeNet5(DataShape("image", (1, 28, 28), 10)).eval()
    example = torch.randn(8, 1, 28, 28)
    with tempfile.TemporaryDirectory() as folder:
        artifact = lc.export(lc.capture(net, (example,)), Path(folder) / "model.onnx", runtime="onnxruntime", threads=1)
        worker = WorkerProcess(artifact, timeout_s=120)
        try:
            worker.start(write_arrays(Path(folder) / "x.npz", [example.numpy()]))
            pid = worker._child._process.pid
            spent: list[float] = []

            def run(seconds: float) -> Turn:
                turn = worker.time(seconds, 1)
                spent.append(sum(turn.cpu_ns) / len(turn.cpu_ns) / 1e9)
                return turn

            begin = time.perf_counter()
            counter = Counter("made, of known power", lambda: IDLE_W * (time.perf_counter() - begin) + CORE_W * processor_s(pid))
            found = measure(run, Counted([counter]), Metering(windows=windows), len(example))
        finally:
            worker.close()
    known = sorted(1e3 * CORE_W * each / len(example) for each in spent[1:])
    truth = known[len(known) // 2]
    print(f"measured {found}  ({found.note})")
    print(f"known    {truth:.4g} mJ, by the processor time that the process told; measured / known = {found.value / truth:.4f}")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
