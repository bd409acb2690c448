"""Everything together against the peers: `python -m benchmarks.compound [NAME …] [minutes=40] [trials=N] [seed=0] [out=FOLDER]`.

`optimize` searches for so many minutes with the effort high; the budgets: resnet20 (Fashion-MNIST) at most 0.5 points of accuracy and an archive a tenth of
the ONNX file in fp32, minilm (SST-2) 1 point and an eighth, lstm (JapaneseVowels) no example and a quarter, where convolutions may take its place (`student`).
Then what it delivers, the fastest candidate of one technique within the budget, and the peers are timed in one interleaved run, each peer on one thread and on
all: the model as it is in every runtime and precision, ONNX Runtime's static and dynamic quantization, NNCF.

Printed: median milliseconds, the latency of the fastest peer over this one's with its 95 % interval, bytes (of what is ours, of the `.lac` archive), how many
times smaller than the ONNX file in fp32, accuracy on test data, where the search's time went, and latencies as predicted and as measured. A run that is in
FOLDER already is gone on with.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

import laconic as lc
from benchmarks import trained
from benchmarks.contest import ORT_STATIC, PREPARATIONS, Entry, against, nncf_openvino, ort_dynamic, ort_static, take_turns
from laconic.core.target import Target
from laconic.deploy.artifact import Artifact
from laconic.deploy.export import write_onnx
from laconic.deploy.runtime import cores, runtime
from laconic.measure.environment import environment
from laconic.tasks.models import DataShape, build

_SAMPLES = 256  # for the peers' calibration


@dataclass(frozen=True)
class Case:
    """What may be lost, in points, how many times smaller than the fp32 file the archive must be, how nets recover, and which may be taught in its place."""

    max_drop: float
    smaller: float
    recovery: lc.FitPlan
    students: tuple[str, ...] = ()


_IMAGES = lc.FitPlan(
    epochs=3, optimizer="adamw", lr=3e-3, schedule="cosine", weight_decay=1e-2, batch_size=128, warmup=0.1, distill=0.5,
    channels_last=True, precision="bf16",
)  # fmt: skip
CASES = {
    "resnet20": Case(0.5, 10, _IMAGES),
    "minilm": Case(
        1.0,
        8,
        lc.FitPlan(
            epochs=4, lr=1.5e-4, batch_size=32, schedule="linear", warmup=0.1, distill=0.5, precision="bf16",
            hints=(lc.Hint("hidden", "encoder.encoder.layer.*"),),
        ),
    ),
    "lstm": Case(
        0.0,
        4,
        lc.FitPlan(
            epochs=100, lr=3e-3, schedule="cosine", weight_decay=1e-2, batch_size=16, warmup=0.1, distill=0.5,
            augment=(lc.Scaled("jitter"), lc.Scaled("scaling"), lc.Scaled("magnitude_warp")),
        ),
        ("cnn1dx0.5", "cnn1dx0.25"),
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Made:
    """A file that is timed: where it runs, its bytes, and how many points it loses on test data (None: not found out)."""

    entry: Entry
    bytes: int
    accuracy: float | None


class Contest:
    """One model, its peers and what Laconic makes of it."""

    def __init__(self, name: str, result: lc.Result, task: lc.Task, folder: Path) -> None:
        self.name, self.result, self.task, self.folder = name, result, task, folder
        data: Any = task.test
        self.program = _program(task)
        self.batches = [(self.program.flatten_inputs(x), y.numpy()) for x, y in torch.utils.data.DataLoader(data, 64)]
        self.plain = folder / "fp32.onnx"
        write_onnx(self.program, self.plain, self.plain.name)

    def accuracy(self, file: Path, target: Target) -> float:
        """Percent of the test examples that a file answers right."""
        session = runtime(target.runtime).load(file, target)
        right = sum(int((session.run([leaf.numpy() for leaf in leaves])[0].argmax(1) == y).sum()) for leaves, y in self.batches)
        return 100 * right / sum(len(y) for _, y in self.batches)

    def feed(self) -> Iterator[dict[str, np.ndarray]]:
        """Train examples, one by one, by input name."""
        train: Any = self.task.train
        for index in range(min(_SAMPLES, len(train))):
            inputs = train[index][0]
            values = [inputs[spec.name] for spec in self.program.inputs] if isinstance(inputs, dict) else [inputs]
            yield {spec.name: value.numpy()[None] for spec, value in zip(self.program.inputs, values, strict=True)}

    def plain_files(self) -> Iterator[tuple[str, Path, Target]]:
        """The model as it is, in every runtime and precision that the search has tried."""
        for record in self.result.data["candidates"]:
            if not record["recipe"]["steps"] and record["artifact"] and record["recipe"]["deploy"]["threads"] is None:
                artifact = Artifact.open(self.result.folder / record["artifact"], trust=True)
                yield record["title"], artifact.file, artifact.target

    def peers(self) -> Iterator[tuple[str, Path, Target]]:
        """The peers' files, and the model as it is."""
        yield from self.plain_files()
        text = self.name == "minilm"
        nncf_openvino(self.plain, self.folder / "nncf.xml", self.feed, _SAMPLES, transformer=text)
        yield "NNCF int8 · OpenVINO", self.folder / "nncf.xml", Target("openvino")
        for label, options in ORT_STATIC.items():
            file = self.folder / f"{label.split()[-1]}.onnx"
            ort_static(self.plain, file, self.feed, options)
            yield f"{label} · ONNX Runtime", file, Target("onnxruntime")
        for preparation in PREPARATIONS[: 1 + text]:
            file = self.folder / f"{preparation}.onnx"
            ort_dynamic(self.plain, file, preparation)
            yield f"quantize_dynamic after {preparation} · ONNX Runtime", file, Target("onnxruntime")

    def theirs(self) -> dict[str, Made]:
        """The peers with one thread and with all."""
        found = {}
        for label, file, target in self.peers():
            size = sum(part.stat().st_size for part in {file, file.with_suffix(".bin")} if part.exists())
            accuracy = self.accuracy(file, target)
            for threads in sorted({1, cores()}):
                found[f"{label}, {threads} threads"] = Made(Entry(file, replace(target, threads=threads)), size, accuracy)
        return found

    def ours(self) -> dict[str, Made]:
        """What the search delivers, and the fastest of one technique that holds the budget on the valid data."""
        records = self.result.data["candidates"]
        chosen = next((r for r in records if r["key"] == (self.result.data["best"] or self.result.data["nearest"])), None)
        single = [r for r in records if r["status"] == "passed" and len(_techniques(r)) == 1]
        fastest = max(single, key=lambda r: r["measured"]["speedup"]["value"], default=None)
        return {
            f"{label}: {record['title']}": self._ours(record)
            for label, record in (("Laconic", chosen), ("best of one technique", fastest))
            if record is not None
        }

    def _ours(self, record: Mapping[str, Any]) -> Made:
        artifact = Artifact.open(self.result.folder / record["artifact"], trust=True)
        packed = lc.pack(artifact.file, self.folder / f"{record['key']}.lac")
        return Made(Entry(artifact.file, artifact.target), packed.packed_bytes, self.accuracy(artifact.file, artifact.target))

    def show(self) -> None:
        """Time all and print the table."""
        ours, theirs = self.ours(), self.theirs()
        inputs = [leaf.numpy()[:1] for leaf in self.batches[0][0]]
        rounds = take_turns({label: made.entry for label, made in {**ours, **theirs}.items()}, inputs, self.folder)
        medians = {label: row.p50_ms for label, row in against(rounds, next(iter(rounds))).items()}
        best = min((label for label in theirs if label in medians), key=medians.__getitem__)
        whole, rows = self.plain.stat().st_size, against(rounds, best)
        print(f"{'median ms':>9} {'fastest peer over it':>24} {'bytes':>11} {'smaller':>8} {'test %':>7}")
        for label in sorted(medians, key=medians.__getitem__):
            made, row = {**ours, **theirs}[label], rows[label]
            ratio = f"{row.ratio:.2f} [{row.low:.2f}, {row.high:.2f}]"
            print(f"{row.p50_ms:9.4f} {ratio:>24} {made.bytes:11,} {whole / made.bytes:7.1f}× {made.accuracy:7.2f}  {label}", flush=True)


def _techniques(record: Mapping[str, Any]) -> list[str]:
    """The steps of a record that change what is computed."""
    names = [step if isinstance(step, str) else next(iter(step)) for step in record["recipe"]["steps"]]
    return [name for name in names if name not in ("fold_batch_norm", "fit")]


def _vowel_net(name: str) -> torch.nn.Module:
    """An untrained reference net for JapaneseVowels."""
    return build(name, DataShape("series", (12, 25), 9))


def _program(task: lc.Task) -> lc.Program:
    return lc.capture(task.build(), next(iter(torch.utils.data.DataLoader(task.test, 2)))[0])  # type: ignore[arg-type]


def _file_mb(task: lc.Task) -> float:
    """Megabytes of the model's ONNX file in fp32."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "fp32.onnx"
        write_onnx(_program(task), file, file.name)
        return file.stat().st_size / 1e6


def _show_predictions(result: lc.Result) -> None:
    """Print by what share of the measured latency each prediction was off, and how much slower or faster the machine was then."""
    for record in result.data["candidates"]:
        told = record["predicted"] or {}
        if told.get("latency_ms") and told.get("measured_ms"):
            off, then = told["latency_ms"] / told["measured_ms"] - 1, told["slowed"]
            pace = "no pacer" if then is None else f"the machine {100 * (then - 1):+.0f} %"
            print(f"  predicted {100 * off:+6.1f} % ({pace}; {record['comparison']}): {record['title']}", flush=True)


def run(name: str, minutes: float, trials: int | None, seed: int, out: Path) -> None:
    """Search, and hold the result against the peers."""
    case = CASES[name]
    task = replace(trained.task(name), recovery=replace(case.recovery, seed=seed), nets=_vowel_net if case.students else None)
    students = {"student": case.students} if case.students else {}
    start = time.perf_counter()
    result = lc.optimize(
        task,
        lc.Budget(max_drop=case.max_drop, limits={"max_packed_mb": _file_mb(task) / case.smaller}),
        out=out / f"compound-{name}-{seed}",
        time_limit=60 * minutes,
        space=lc.SearchSpace(effort="high", trials=trials, **students),
        options=lc.Options(seed=seed),
    )
    asked, minutes_taken = f"at most {case.max_drop:g} points, {case.smaller:g} times smaller", (time.perf_counter() - start) / 60
    print(f"\n{name}, seed {seed}, {asked}, {minutes_taken:.1f} minutes\n{result.verdict}")
    spent = result.data["spent"]
    print("  ".join(f"{part} {seconds:.0f} s" for part, seconds in sorted(spent.items(), key=lambda item: -item[1])), flush=True)
    _show_predictions(result)
    with tempfile.TemporaryDirectory() as folder:
        Contest(name, result, task, Path(folder)).show()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*")
    given = parser.parse_args().names
    options = {key: value for key, _, value in (name.partition("=") for name in given) if value}
    found = environment(None)
    print(f"{found['processor']}, {found['cores']} cores: {', '.join(k for k, v in found['instructions'].items() if v)}", flush=True)
    for name in [name for name in given if name in CASES] or CASES:
        run(
            name,
            float(options.get("minutes", 40)),
            int(options["trials"]) if "trials" in options else None,  # as many as fit into the time
            int(options.get("seed", 0)),
            Path(options.get("out", trained.FOLDER)),
        )


if __name__ == "__main__":
    main()
