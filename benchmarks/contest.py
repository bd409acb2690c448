"""Time model files against each other, interleaved, each in a process of its own; and the peers' ways of making int8 files."""

from __future__ import annotations

import contextlib
import logging
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from laconic.deploy.process import WorkerProcess
from laconic.deploy.runtime import Settings
from laconic.measure import latency
from laconic.run.examples import write_arrays
from laconic.run.session import Contender


@dataclass(frozen=True)
class Entry:
    """A model file and how it is run; ONNX, or the IR of OpenVINO."""

    file: Path
    settings: Settings


@dataclass(frozen=True)
class Result:
    """Median milliseconds, and the ratio of the reference's time to this one's with its interval."""

    p50_ms: float
    ratio: float
    low: float
    high: float


def contest(
    entries: Mapping[str, Entry], inputs: Sequence[np.ndarray], folder: Path, reference: str, rounds: int = 12, seconds: float = 0.4
) -> dict[str, Result]:
    """Time the entries in turns; the ratio is of the reference's latency to each."""
    file = write_arrays(folder / "timed.npz", list(inputs))
    with contextlib.ExitStack() as stack:
        contenders = []
        for name, entry in entries.items():
            worker = WorkerProcess(entry, timeout_s=900)  # type: ignore[arg-type]
            stack.callback(worker.close)
            worker.start(file)
            worker.use_inputs(file)
            contenders.append(Contender(name, worker))
        run = latency.interleave(contenders, rounds, seconds)
    if run.machine["busy"]:
        print(run.machine["busy"], flush=True)
    found = {}
    for name, times in run.rounds.items():
        ratio = latency.ratio(run.rounds[reference], times)
        found[name] = Result(latency.summarize(times).p50_ms, ratio.value or 0.0, ratio.low or 0.0, ratio.high or 0.0)
    return found


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without the peers' log lines and bars."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


Feed = Callable[[], Iterator[dict[str, np.ndarray]]]


def nncf_openvino(source: Path, target: Path, feed: Feed, n: int, *, transformer: bool = False) -> float:
    """NNCF's int8 on OpenVINO, its defaults; returns the seconds it took."""
    import nncf
    import openvino as ov

    with quiet():
        start = time.perf_counter()
        model = ov.Core().read_model(str(source))
        options: dict[str, Any] = {"model_type": nncf.ModelType.TRANSFORMER} if transformer else {}
        made = nncf.quantize(model, nncf.Dataset(list(feed()), lambda item: item), subset_size=n, **options)
        ov.save_model(made, str(target), compress_to_fp16=False)
        return time.perf_counter() - start


def ort_static(source: Path, target: Path, feed: Feed) -> float:
    """ONNX Runtime's quantize_static, its defaults and per channel, after its own preparation; returns the seconds it took."""
    from onnxruntime.quantization import CalibrationDataReader, quant_pre_process, quantize_static

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.items = feed()

        def get_next(self) -> Any:
            return next(self.items, None)

    with quiet():
        start = time.perf_counter()
        prepared = target.with_suffix(".prepared.onnx")
        quant_pre_process(str(source), str(prepared))
        quantize_static(str(prepared), str(target), Reader(), per_channel=True)
        return time.perf_counter() - start


def ort_dynamic(source: Path, target: Path) -> float:
    """ONNX Runtime's quantize_dynamic, its defaults; returns the seconds it took."""
    from onnxruntime.quantization import quant_pre_process, quantize_dynamic

    with quiet():
        start = time.perf_counter()
        prepared = target.with_suffix(".prepared.onnx")
        quant_pre_process(str(source), str(prepared))
        quantize_dynamic(str(prepared), str(target), per_channel=True)
        return time.perf_counter() - start
