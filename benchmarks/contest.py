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

from laconic.core.target import Target
from laconic.deploy.process import WorkerProcess
from laconic.measure import latency
from laconic.run.examples import write_arrays
from laconic.run.timing import TimedWorker


@dataclass(frozen=True)
class Entry:
    """A model file and how it is run; ONNX, or the IR of OpenVINO."""

    file: Path
    target: Target
    packed: Path | None = None  # as workers ask of an artifact


@dataclass(frozen=True)
class Result:
    """Median milliseconds, and the ratio of the reference's time to this one's with its interval."""

    p50_ms: float
    ratio: float
    low: float
    high: float


Rounds = Mapping[str, Sequence[Sequence[int]]]


def contest(
    entries: Mapping[str, Entry], inputs: Sequence[np.ndarray], folder: Path, reference: str, rounds: int = 12, seconds: float = 0.4
) -> dict[str, Result]:
    """Time the entries in turns; the ratio is of the reference's latency to each."""
    return against(take_turns(entries, inputs, folder, rounds, seconds), reference)


def take_turns(entries: Mapping[str, Entry], inputs: Sequence[np.ndarray], folder: Path, rounds: int = 12, seconds: float = 0.4) -> Rounds:
    """Time the entries, each in a process of its own; nanoseconds of each run by entry and round."""
    file = write_arrays(folder / "timed.npz", list(inputs))
    with contextlib.ExitStack() as stack:
        candidates = []
        for name, entry in entries.items():
            worker = WorkerProcess(entry, timeout_s=900)  # type: ignore[arg-type]  # it has a file and a target, as an artifact
            stack.callback(worker.close)
            worker.start(file)
            worker.use_inputs(file)
            candidates.append(TimedWorker(name, worker))
        run = latency.interleave(candidates, rounds, seconds)
    if run.machine["busy"]:
        print(run.machine["busy"], flush=True)
    return run.rounds


def against(rounds: Rounds, reference: str) -> dict[str, Result]:
    """Return each entry's median and the ratio of the reference's latency to its own."""
    found = {}
    for name, times in rounds.items():
        ratio = latency.ratio(rounds[reference], times)
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


# ONNX Runtime's static quantization: its defaults (signed activations) and unsigned ones, for which its x86 kernels are faster. Both per channel.
ORT_STATIC: dict[str, dict[str, Any]] = {
    "quantize_static QInt8": {"per_channel": True},
    "quantize_static QUInt8": {"per_channel": True, "activation_type": "QUInt8"},
}
ORT_DYNAMIC: dict[str, Any] = {"per_channel": True}
# What is done to a file before: the general preparation, and for transformers the fusions that ONNX Runtime's documentation puts first.
PREPARATIONS = ("quant_pre_process", "transformers.optimizer")


def ort_static(source: Path, target: Path, feed: Feed, options: Mapping[str, Any]) -> float:
    """ONNX Runtime's quantize_static with a row of `ORT_STATIC`, after its own preparation; returns the seconds it took."""
    from onnxruntime.quantization import CalibrationDataReader, QuantType, quant_pre_process, quantize_static

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.items = feed()

        def get_next(self) -> Any:
            return next(self.items, None)

    typed = {name: QuantType[value] if name == "activation_type" else value for name, value in options.items()}
    with quiet():
        start = time.perf_counter()
        prepared = target.with_suffix(".prepared.onnx")
        quant_pre_process(str(source), str(prepared))
        quantize_static(str(prepared), str(target), Reader(), **typed)
        return time.perf_counter() - start


def ort_dynamic(source: Path, target: Path, preparation: str) -> float:
    """ONNX Runtime's quantize_dynamic with `ORT_DYNAMIC`, after one of `PREPARATIONS`; returns the seconds it took."""
    from onnxruntime.quantization import quant_pre_process, quantize_dynamic
    from onnxruntime.transformers.optimizer import optimize_model

    with quiet():
        start = time.perf_counter()
        prepared = target.with_suffix(".prepared.onnx")
        if preparation == "quant_pre_process":
            quant_pre_process(str(source), str(prepared))
        else:
            optimize_model(str(source), "bert").save_model_to_file(str(prepared))
        quantize_dynamic(str(prepared), str(target), **ORT_DYNAMIC)
        return time.perf_counter() - start


def settings() -> str:
    """Return how the peers are called, one line each."""
    rows = {
        **{name: {**options, "after": "quant_pre_process"} for name, options in ORT_STATIC.items()},
        "quantize_dynamic": {**ORT_DYNAMIC, "after": f"each of {' and '.join(PREPARATIONS)}"},
        "NNCF": {"preset": "its default", "model_type": "TRANSFORMER for transformers"},
    }
    return "\n".join(f"  {name}: {', '.join(f'{key} {value}' for key, value in options.items())}" for name, options in rows.items())
