"""Quantization beside its peers: `python -m benchmarks.quantization {speed,accuracy,cost,architectures} [NAME …]`.

- speed: latency (batch 1) and size of int8 files of ResNet-50, MobileNetV2, BERT-base and MiniLM-L6 (random weights: time does not depend on them) against NNCF
  (OpenVINO) and ONNX Runtime's own tools (settings are printed), interleaved in processes of their own.
- accuracy: drop on test data of the files themselves, in both runtimes, three seeds of calibration: ResNet-20 and MobileNetV2 on Fashion-MNIST, MiniLM on
  SST-2, an LSTM on JapaneseVowels; quantization-aware training of ResNet-20; the peers' files beside them.
- cost: seconds from Program to checked file against NNCF on the same 256 images, and peak memory of calibration with 64 and 4,096 samples.
- architectures: which of those in docs/architectures.md quantize, export and agree with their rounded graph; writes docs/quantized.md.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import laconic as lc
from benchmarks import architectures, trained
from benchmarks.command import command
from benchmarks.contest import ORT_STATIC, PREPARATIONS, Entry, against, nncf_openvino, ort_dynamic, ort_static, settings, take_turns
from laconic.core.errors import LaconicError
from laconic.core.memory import memory_of
from laconic.core.target import Target
from laconic.deploy.export import parity, write_onnx
from laconic.deploy.runtime import runtime
from laconic.tasks.data import ArrayDataset
from laconic.tasks.models import DataShape, build

DOCS = Path(__file__).parents[1] / "docs" / "quantized.md"
BOTH = ("openvino", "onnxruntime")
RNG = np.random.default_rng(0)


def network(name: str, n: int) -> tuple[nn.Module, ArrayDataset]:
    """A net with random weights and random examples of the right shape, e.g. ``resnet50@224`` or ``bert@128``."""
    kind, _, size = name.partition("@")
    torch.manual_seed(0)
    if kind in ("bert", "minilm"):
        import transformers

        small = {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 1536}
        net = trained.MiniLM(transformers.AutoModel.from_config(transformers.BertConfig(**(small if kind == "minilm" else {}))), 2)
        ids, mask = RNG.integers(5, 30_000, (n, int(size))), np.ones((n, int(size)), np.int64)
        mask[:, int(size) * 3 // 4 :] = 0
        return net.eval(), ArrayDataset({"input_ids": ids, "attention_mask": mask}, np.zeros(n, np.int64))
    side = int(size)
    net = architectures.settled(build(kind, DataShape("image", (3, side, side), 1000)), lambda k: torch.randn(k, 3, side, side))
    return net, ArrayDataset(RNG.standard_normal((n, 3, side, side)).astype(np.float32), np.zeros(n, np.int64))


def feed(program: lc.Program, data: ArrayDataset, n: int) -> Iterator[dict[str, np.ndarray]]:
    """Single examples by input name, as the peers take them."""
    for index in range(n):
        inputs = data[index][0]
        values = [inputs[spec.name] for spec in program.inputs] if isinstance(inputs, dict) else [inputs]
        yield {spec.name: value.numpy()[None] for spec, value in zip(program.inputs, values, strict=True)}


def captured(net: nn.Module, data: ArrayDataset) -> lc.Program:
    return lc.capture(net, next(iter(torch.utils.data.DataLoader(data, 2)))[0])


DYNAMIC = ("quantize_dynamic", "quantize_dynamic fused")
PEERS = ("NNCF", *ORT_STATIC, *DYNAMIC)
SPEED = ("resnet50@224", "mobilenet_v2@224", "minilm@64", "minilm@128", "bert@64", "bert@128")


def speed(names: list[str]) -> None:
    """Print a table for each net."""
    print(f"peers' settings:\n{settings()}", flush=True)
    for name in names or SPEED:
        n = 8 if name.startswith("bert") else 16
        net, data = network(name, n)
        text = name.startswith(("bert", "minilm"))
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place)
            program = captured(net, data)
            task = lc.Task(net, data, data)
            plain = folder / "fp32.onnx"
            write_onnx(program, plain, plain.name)
            entries = {f"fp32 {kind}": Entry(plain, Target(kind)) for kind in BOTH}
            entries["bf16 openvino"] = Entry(plain, Target("openvino", "bf16"))
            sizes = {}
            for kind in BOTH:
                modes = ("static", "dynamic") if text and kind == "onnxruntime" else ("static",)
                for mode in modes:
                    file = folder / f"laconic-{kind}-{mode}.onnx"
                    rounded, _ = lc.quantize(program, lc.Quantize(mode=mode, target=kind, batch_size=8), task)  # type: ignore[arg-type]
                    write_onnx(rounded, file, file.name)
                    entries[f"Laconic {mode} {kind}"] = Entry(file, Target(kind))
                    sizes[f"Laconic {mode} {kind}"] = file.stat().st_size / plain.stat().st_size
            nncf_openvino(plain, folder / "nncf.xml", lambda: feed(program, data, n), n, transformer=text)  # noqa: B023
            entries["NNCF openvino"] = Entry(folder / "nncf.xml", Target("openvino"))
            for label, options in ORT_STATIC.items():
                file = folder / f"{label.split()[-1]}.onnx"
                ort_static(plain, file, lambda: feed(program, data, n), options)  # noqa: B023
                entries[f"{label} onnxruntime"] = Entry(file, Target("onnxruntime"))
            if text:
                for label, preparation in zip(DYNAMIC, PREPARATIONS, strict=True):
                    file = folder / f"{preparation}.onnx"
                    ort_dynamic(plain, file, preparation)
                    entries[f"{label} onnxruntime"] = Entry(file, Target("onnxruntime"))
            rounds = take_turns(entries, list(next(feed(program, data, 1)).values()), folder)
        medians = {key: row.p50_ms for key, row in against(rounds, "NNCF openvino").items()}
        best = {kind: min((k for k in PEERS if f"{k} {kind}" in medians), key=lambda k: medians[f"{k} {kind}"]) for kind in BOTH}
        tables = {kind: against(rounds, f"{peer} {kind}") for kind, peer in best.items()}
        print(f"\n{name}: median ms; latency of its runtime's fastest peer ({best}) over this one's with its 95 % interval; size of fp32's")
        for key in sorted(medians, key=medians.__getitem__):
            row = tables["openvino" if key.endswith("openvino") else "onnxruntime"][key]
            size = f"  {sizes[key]:.4f}" if key in sizes else ""
            print(f"  {key:34s} {row.p50_ms:8.3f}  {row.ratio:6.3f} [{row.low:.3f}, {row.high:.3f}]{size}", flush=True)


def answers(file: Path, kind: str, program: lc.Program, batches: list[Any]) -> np.ndarray:
    """The classes that a file gives, in a session of this process."""
    session = runtime(kind).load(file, Target(kind))
    return np.concatenate([session.run([leaf.numpy() for leaf in leaves])[0].argmax(1) for leaves, _ in batches])


def accuracy(names: list[str]) -> None:
    """Print drops in points; a second column tells how many answers changed."""
    for name in names or ("resnet20", "mobilenet_v2", "minilm", "lstm"):
        task = trained.task(name)
        data: Any = task.test
        program = captured(task.build(), data)
        batches = [(program.flatten_inputs(x), y.numpy()) for x, y in torch.utils.data.DataLoader(data, 64)]
        target = np.concatenate([y for _, y in batches])
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place)
            file = folder / "plain.onnx"
            write_onnx(program, file, file.name)
            plain = answers(file, "onnxruntime", program, batches)
            base = 100 * float((plain == target).mean())
            print(f"\n{name}: float {base:.2f} % of {len(target)} test examples; drop in points (answers changed) by seed", flush=True)

            def drop(path: Path, kind: str) -> str:
                found = answers(path, kind, program, batches)  # noqa: B023
                return f"{base - 100 * float((found == target).mean()):+.2f} ({int((found != plain).sum())})"  # noqa: B023

            def line(label: str, kind: str, config: Any) -> None:
                cells, size = [], 0.0
                for seed in (0, 1, 2):
                    rounded, _ = step(program, config, lc.Context(task, lc.fit, seed=seed))  # noqa: B023
                    path = folder / "rounded.onnx"  # noqa: B023
                    write_onnx(rounded, path, path.name)
                    cells.append(drop(path, kind))
                    size = path.stat().st_size / file.stat().st_size  # noqa: B023
                print(f"  {label:24s} {kind:12s} {'  '.join(cells)}   size {size:.3f}", flush=True)

            for kind in BOTH:
                line("Laconic static", kind, lc.Quantize(target=kind))
            if name in ("minilm", "lstm"):
                line("Laconic dynamic", "onnxruntime", lc.Quantize(mode="dynamic", target="onnxruntime"))
            if name == "minilm":
                for kind in BOTH:
                    line("Laconic int4 weights", kind, lc.Quantize(mode="weights", bits=4, target=kind))
            n = min(256, len(task.train))  # type: ignore[arg-type]
            source: Any = task.train
            if name != "lstm":
                for label, options in ORT_STATIC.items():
                    ort_static(file, folder / "static.onnx", lambda: feed(program, source, n), options)  # noqa: B023
                    print(f"  {label:24s} onnxruntime  {drop(folder / 'static.onnx', 'onnxruntime')}", flush=True)
                nncf_openvino(file, folder / "nncf.xml", lambda: feed(program, source, n), n, transformer=name == "minilm")  # noqa: B023
                print(f"  NNCF                     openvino     {drop(folder / 'nncf.xml', 'openvino')}", flush=True)


def qat(names: list[str]) -> None:
    """Print the drop after quantization-aware training of ResNet-20 (one epoch of 10,000 examples), by seed, with fixed and with learned steps."""
    task = trained.task("resnet20")
    data: Any = task.test
    train: Any = task.train
    task.train = train.take(np.sort(np.random.default_rng(0).permutation(len(train))[:10_000]))
    program = captured(task.build(), data)
    batches = [(program.flatten_inputs(x), y.numpy()) for x, y in torch.utils.data.DataLoader(data, 64)]
    target = np.concatenate([y for _, y in batches])
    with tempfile.TemporaryDirectory() as place:
        file = Path(place) / "model.onnx"
        write_onnx(program, file, file.name)
        base = 100 * float((answers(file, "onnxruntime", program, batches) == target).mean())
        print(f"\nresnet20: float {base:.2f} %", flush=True)
        for kind in BOTH:
            for learned in (False, True):
                cells = []
                for seed in (0, 1, 2):
                    config = lc.Qat(target=kind, learned=learned, recovery={"epochs": 1, "batch_size": 64, "lr": 1e-4, "seed": seed})
                    rounded, _ = lc.qat(program, config, lc.Context(task, lc.fit, seed=seed))
                    write_onnx(rounded, file, file.name)
                    cells.append(f"{base - 100 * float((answers(file, kind, program, batches) == target).mean()):+.2f}")
                print(f"  QAT {'learned steps' if learned else 'fixed steps  '} {kind:12s} {'  '.join(cells)}", flush=True)


def step(program: lc.Program, config: Any, context: lc.Context) -> Any:
    return lc.quantize(program, config, context)


def cost(names: list[str]) -> None:
    """Print seconds, interleaved, and peak memory by number of samples, each in a process of its own."""
    net, data = network("resnet50@224", 256)
    program = captured(net, data)
    task = lc.Task(net, data, data)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        plain = folder / "fp32.onnx"
        write_onnx(program, plain, plain.name)
        for turn in range(2):
            theirs = nncf_openvino(plain, folder / "nncf.xml", lambda: feed(program, data, 256), 256)
            start = time.perf_counter()
            rounded, _ = lc.quantize(program, lc.Quantize(target="openvino"), task)
            middle = time.perf_counter()
            file = folder / "laconic.onnx"
            write_onnx(rounded, file, file.name)
            written = time.perf_counter()
            x = next(iter(torch.utils.data.DataLoader(data, 4)))[0]
            with torch.no_grad():
                expected = rounded.call(x).numpy()
            agreed = parity(runtime("openvino").load(file, Target("openvino")).run([x.numpy()]), [expected])["sqnr_db"]
            ours = time.perf_counter() - start
            parts = f"quantize {middle - start:.1f}, write {written - middle:.1f}, check {ours - (written - start):.1f}"
            print(
                f"turn {turn}: NNCF {theirs:.1f} s, Laconic {ours:.1f} s ({parts}): {ours / theirs:.2f}; SQNR {agreed:.1f} dB", flush=True
            )
    for n in (64, 1024, 4096):
        code = f"from benchmarks.quantization import memory; memory({n})"
        print(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip(), flush=True)


def memory(n: int) -> None:
    """Print the peak memory of this process while it calibrates ResNet-20 with entropy observers on n images."""
    data = ArrayDataset(RNG.standard_normal((4096, 1, 28, 28)).astype(np.float32), np.zeros(4096, np.int64))
    net = build("resnet20", DataShape("image", (1, 28, 28), 10)).eval()
    program = captured(net, data)
    lc.quantize(program, lc.Quantize(target="openvino", examples=n, observer="entropy"), lc.Task(net, data, data))
    print(f"{n} samples: peak {memory_of(os.getpid())['peak_bytes'] / 1e6:.0f} MB")


def rounded_row(name: str, folder: Path) -> tuple[dict[str, float], str]:
    """SQNR in dB of each runtime against the rounded graph, and of the rounded graph against the program; a reason where it failed."""
    found = architectures.ARCHITECTURES[name]
    model = architectures.settled(found.make(), found.inputs)
    ratios: dict[str, float] = {}
    try:
        program = lc.capture(model, found.inputs(2), dynamic=found.dynamic)
        examples = found.inputs(16)
        arrays = {key: value.numpy() for key, value in examples.items()} if isinstance(examples, dict) else examples.numpy()
        data = ArrayDataset(arrays, np.zeros(16, np.int64))
        leaves = program.flatten_inputs(found.inputs(3))
        for kind in BOTH:
            rounded, _ = lc.quantize(program, lc.Quantize(target=kind, batch_size=8), lc.Task(model, data, data))
            file = folder / f"{kind}.onnx"
            write_onnx(rounded, file, file.name)
            with torch.no_grad():
                expected = [leaf.numpy() for leaf in rounded.graph_module(*leaves)]
                exact = [leaf.numpy() for leaf in program.graph_module(*leaves)]
            got = runtime(kind).load(file, Target(kind)).run([leaf.numpy() for leaf in leaves])
            ratios[kind] = parity(got, expected)["sqnr_db"]
            ratios[f"{kind} float"] = parity(expected, exact)["sqnr_db"]
            if ratios[kind] < 12:
                return ratios, f"{kind}: {ratios[kind]:.1f} dB, 12 are asked for"
    except (LaconicError, RuntimeError, ValueError, TypeError) as error:
        return ratios, architectures.told(error)
    return ratios, ""


def rounded_line(name: str, ratios: dict[str, float], reason: str) -> str:
    cells = [f"{ratios[key]:.0f}" if key in ratios else "–" for key in ("onnxruntime", "openvino", "onnxruntime float", "openvino float")]
    return f"| {name} | {' | '.join(cells)} | {'yes' if not reason else 'no: ' + reason} |"


def quantized_architectures(names: list[str]) -> None:
    """Print the rows; all of them are written to the docs."""
    rows, ratios = [], []
    for name in names or architectures.ARCHITECTURES:
        with tempfile.TemporaryDirectory() as place:
            found, reason = rounded_row(name, Path(place))
        rows.append(rounded_line(name, found, reason))
        ratios += [found[kind] for kind in BOTH if kind in found and np.isfinite(found[kind])]
        print(rows[-1], flush=True)
    passed = sum(row.endswith("| yes |") for row in rows)
    print(f"{passed} of {len(rows)} hold; median SQNR to the rounded graph {np.median(ratios):.1f} dB")
    if not names:
        head = [
            "# Quantized architectures\n",
            "Static int8 by default, exported, run in both runtimes with another batch size and held to the gate's rule: 12 dB to the rounded graph.",
            f"Written by `python -m benchmarks.quantization architectures`. **{passed} of {len(rows)} hold; the median is {np.median(ratios):.0f} dB.**\n",
            "The first two columns are the file against the rounded graph, the last two the rounded graph against the float program (random weights, so they"
            " say little about accuracy; where they are low, the net amplifies one step of rounding, and file and rounded graph part too); signal to noise"
            " in dB.\n",
            "| architecture | ONNX Runtime | OpenVINO | rounding for ONNX Runtime | rounding for OpenVINO | holds |",
            "| --- | ---: | ---: | ---: | ---: | --- |",
        ]
        DOCS.write_text("\n".join([*head, *rows]) + "\n", encoding="utf-8")


COMMANDS = {"speed": speed, "accuracy": accuracy, "qat": qat, "cost": cost, "architectures": quantized_architectures}

if __name__ == "__main__":
    command(__doc__, COMMANDS)
