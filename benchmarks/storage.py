"""The `.lac` archive in figures: `python -m benchmarks.storage {speed,sizes,fuzz,nncodec,equal} [NAME …]`, each alone on one core (`OMP_NUM_THREADS=1`).

- speed: MB/s of float32 weights in and out, the packing of a file with everything (finding tensors, digests, writing), beside zlib and, where there is a
  `zstd`, its levels. Processor time, the best of five.
- sizes: int8 ONNX files of trained nets: the archive, bits per weight, and beside them the entropy of order zero of each tensor.
- fuzz [files]: altered archives, and altered pieces without the digests that would refuse them (`benchmarks/fuzz.py`), so many (50,000) of each.
- nncodec: the same int8 codes in Fraunhofer's NNCodec (`benchmarks/nncodec.py`), which keeps them exactly too: bits per weight and time to decode.
- equal: its own quantization (dependent, with contexts tuned) beside the step `rate_distortion`, at equal accuracy on valid data, neither fine-tuned;
  of each a range of settings around half a point (`POINTS`; minilm takes half an hour).

Nets: resnet20, mobilenet_v2, minilm (`benchmarks/trained.py`).
"""

from __future__ import annotations

import copy
import resource
import shutil
import subprocess
import tempfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import load_file, save_file

import laconic as lc
from benchmarks import nncodec as theirs
from benchmarks import trained
from benchmarks.command import command
from laconic.storage import lac

NETS = ("resnet20", "mobilenet_v2", "minilm")
# Settings that bracket half a point, as tried before: qp of NNCodec, and bits a weight.
POINTS: dict[str, tuple[tuple[int, ...], tuple[float, ...]]] = {
    "resnet20": (tuple(range(-28, -18)), (3.0, 2.7, 2.4, 2.1)),
    "mobilenet_v2": (tuple(range(-28, -21)), (2.8, 2.4, 2.0, 1.7)),
    "minilm": (tuple(range(-28, -21)), (3.2, 2.8, 2.4)),
}
PIECE = 16 << 20  # bytes that the slow ones are timed on


def processor_seconds(work: Callable[[], Any], repeats: int = 5) -> float:
    """The least processor time of this process and its children."""

    def once() -> float:
        start = _spent()
        work()
        return _spent() - start

    return min(once() for _ in range(repeats))


def _spent() -> float:
    """Processor seconds of this process and its children so far; `os.times` counts hundredths."""
    return sum(sum(resource.getrusage(whose)[:2]) for whose in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))


def weights(name: str) -> dict[str, np.ndarray]:
    """The float32 tensors of a trained net."""
    _, _, plan, n = trained.NETS[name]
    file = trained.FOLDER / f"{name}-{plan.epochs}x{n}-seed{plan.seed}.safetensors"
    if not file.exists():
        trained.task(name)
    return {key: value for key, value in load_file(file).items() if value.dtype == np.float32}


def codes(name: str) -> dict[str, np.ndarray]:
    """Its matrices and kernels in int8, by output channel, largest magnitude 127."""
    found = {}
    for key, value in weights(name).items():
        if value.ndim >= 2:
            scale = np.maximum(np.abs(value).reshape(len(value), -1).max(1), 1e-12) / 127
            found[key] = np.rint(value / scale.reshape(-1, *[1] * (value.ndim - 1))).astype(np.int8)
    return found


def speed(names: list[str]) -> None:
    """Print MB/s of each codec."""
    for name in names or ("minilm", "mobilenet_v2"):
        with tempfile.TemporaryDirectory() as scratch:
            file = Path(scratch) / "model.safetensors"
            save_file(weights(name), file)
            size, archive, back = file.stat().st_size, Path(scratch) / "model.lac", Path(scratch) / "back.safetensors"
            into = processor_seconds(lambda file=file, archive=archive: lc.pack(file, archive))
            out = processor_seconds(lambda archive=archive, back=back: lc.unpack(archive, back))
            print(f"{name}, {size / 1e6:.0f} MB of float32\n  .lac: {_line(size, archive.stat().st_size, into, out)}", flush=True)
            data = file.read_bytes()[:PIECE]
            for level in (1, 6):
                small = zlib.compress(data, level)
                into = processor_seconds(lambda data=data, level=level: zlib.compress(data, level), 1)
                out = processor_seconds(lambda small=small: zlib.decompress(small), 3)
                print(f"  zlib -{level}: {_line(len(data), len(small), into, out)}", flush=True)
            _zstd(file)


def _line(before: int, after: int, into: float, out: float) -> str:
    return f"{before / 1e6 / into:.0f} MB/s in, {before / 1e6 / out:.0f} MB/s out, {100 * after / before:.1f} % kept"


def _zstd(file: Path) -> None:
    """Print zstd's levels, with reading, writing and the start of a process, as packing a file has them."""
    program = shutil.which("zstd")
    if program is None:
        print("  zstd: not here", flush=True)
        return
    small, back = file.with_suffix(".zst"), file.with_suffix(".back")
    for level in (1, 3, 19):

        def pack(level: int = level) -> None:
            subprocess.run([program, "-q", "-f", "--single-thread", f"-{level}", str(file), "-o", str(small)], check=True)

        def unpack() -> None:
            subprocess.run([program, "-q", "-f", "-d", str(small), "-o", str(back)], check=True)

        into = processor_seconds(pack, 1 if level > 3 else 3)
        print(f"  zstd -{level}: {_line(file.stat().st_size, small.stat().st_size, into, processor_seconds(unpack, 3))}", flush=True)


def sizes(names: list[str]) -> None:
    """Print the archives of int8 ONNX files."""
    for name in names or NETS:
        task = trained.task(name)
        program = lc.capture(task.build(), next(iter(_batches(task.train)))[0])
        program, _ = lc.quantize(program, lc.Quantize(mode="weights", target="onnxruntime"), task)
        with tempfile.TemporaryDirectory() as scratch:
            file = lc.export(program, Path(scratch) / "model.onnx").file
            packed = lc.pack(file)
            again = lc.unpack(packed.file, Path(scratch) / "back.onnx")
            assert again.read_bytes() == file.read_bytes()
            rows = [row for row in packed.tensors if row.kind == "int8" and row.entropy_bits is not None]
            values = sum(row.original_bytes for row in rows)
            ours = 8 * sum(row.packed_bytes for row in rows) / values
            zero = sum((row.entropy_bits or 0.0) * row.original_bytes for row in rows) / values
            kinds = sorted({row.coding for row in rows})
            print(
                f"{name}: int8 ONNX {packed.original_bytes:,} bytes → .lac {packed.packed_bytes:,} ({packed.ratio:.3f} times smaller); {values:,} int8 weights "
                f"at {ours:.4f} bits, tables and digests included; order zero without any table {zero:.4f}; {', '.join(kinds)}; "
                f"graph and names {packed.front_bytes:,} bytes",
                flush=True,
            )


def _batches(data: Any) -> Any:
    return torch.utils.data.DataLoader(data, 2)


def fuzz(names: list[str]) -> None:
    """Fuzz both kinds of file."""
    from benchmarks import campaign

    campaign.fuzz([names[0] if names else "50000", *names[1:2], "model.lac", "pieces of .lac"])


def nncodec(names: list[str]) -> None:
    """Compare on the same int8 codes; where NNCodec cannot be built, say so."""
    python = theirs.python()
    for name in (names or NETS) if python else ():
        given = codes(name)
        count = sum(array.size for array in given.values())
        with tempfile.TemporaryDirectory() as scratch:
            wide = {f"t{place}.weight": array.astype(np.int32) for place, array in enumerate(given.values())}
            told, back = next(theirs.coded(str(python), wide, [{"use_dq": False}], Path(scratch)))
            exact = all(np.array_equal(back[key], array) for key, array in wide.items())
            save_file(given, Path(scratch) / "codes.safetensors")
            packed = lc.pack(Path(scratch) / "codes.safetensors")
            seconds = processor_seconds(lambda packed=packed: _decoded(packed.file))
            files = processor_seconds(lambda packed=packed, scratch=scratch: lc.unpack(packed.file, Path(scratch) / "back.safetensors"))
            print(
                f"{name}: {count:,} int8 codes. NNCodec {8 * told['bytes'] / count:.4f} bits, {'' if exact else 'not exactly '}decoded from memory in "
                f"{1e9 * told['seconds'] / count:.1f} ns each; .lac {8 * packed.packed_bytes / count:.4f} bits, {1e9 * seconds / count:.1f} ns "
                f"({1e9 * files / count:.1f} with writing the file): {100 * packed.packed_bytes / told['bytes']:.1f} % of its bytes, "
                f"{told['seconds'] / seconds:.1f} times as fast ({told['seconds'] / files:.1f} with writing the file)",
                flush=True,
            )


def equal(names: list[str]) -> None:
    """Compare at equal accuracy on the valid data, neither side fine-tuned: the smallest whose drop is at most half a point, of a range of each."""
    python = theirs.python()
    for name in (names or NETS) if python else ():
        task = trained.task(name)
        net = copy.deepcopy(task.build()).eval()  # the task's own stays as it was trained
        before = trained.accuracy(net, task.valid)
        print(f"{name}: {before:.2f} % on valid data", flush=True)
        with tempfile.TemporaryDirectory() as scratch:
            points = {
                "NNCodec": list(_their_points(str(python), task, net, Path(scratch), POINTS[name][0])),
                ".lac": list(_our_points(task, Path(scratch), POINTS[name][1])),
            }
        for who, rows in points.items():
            kept = [row for row in rows if row[2] >= before - 0.5]
            for size, ns, found, told in sorted(rows):
                print(f"  {who} {told}: {size:,} bytes, {ns:.1f} ns a weight to decode, {found:.2f} %", flush=True)
            if kept:
                print(f"  {who} within 0.5 points: {min(kept)[0]:,} bytes, {min(kept)[1]:.1f} ns", flush=True)


Point = tuple[int, float, float, str]  # bytes of all weights, ns a number to decode, accuracy, settings


def _their_points(python: str, task: lc.Task, net: torch.nn.Module, scratch: Path, steps: Sequence[int]) -> Iterator[Point]:
    """Yield those of some steps, each 2^(1/4) of the last, with dependent quantization and tuned contexts; what is no weight at 8 bits, for nothing."""
    state = {key: value for key, value in net.state_dict().items() if value.dtype == torch.float32}
    count = sum(value.numel() for value in state.values())
    options = [{"qp": qp, "nonweight_qp": -40} for qp in steps]
    arrays = {key: value.numpy() for key, value in state.items()}
    for setting, (told, back) in zip(options, theirs.coded(python, arrays, options, scratch), strict=True):
        net.load_state_dict({key: torch.from_numpy(back[key]).reshape(value.shape) for key, value in state.items()}, strict=False)
        yield told["bytes"], 1e9 * told["seconds"] / count, trained.accuracy(net, task.valid), f"qp {setting['qp']}"


def _our_points(task: lc.Task, scratch: Path, rates: Sequence[float]) -> Iterator[Point]:
    """Yield those of rate–distortion at several bits a weight, on steps of their curvature, batch-norms folded, each packed small and to be read fast."""
    program, _ = lc.fold_batch_norm(lc.capture(task.build(), next(iter(_batches(task.train)))[0]))
    for bits in rates:
        config = lc.RateDistortion(bits_per_weight=bits, grid="stepped", bits=8, examples=1024, recovery={"epochs": 0})
        done, _ = lc.rate_distortion(program, config, task)
        state = {key: value.numpy() for key, value in done.state_dict().items() if value.dtype == torch.float32}
        save_file(state, scratch / "w.safetensors")
        found = trained.accuracy(done, task.valid)
        for fast in (False, True):
            packed = lc.pack(scratch / "w.safetensors", fast=fast)
            seconds = processor_seconds(lambda packed=packed: _decoded(packed.file), 5 if fast else 1)
            count = sum(value.size for value in state.values())
            yield packed.packed_bytes, 1e9 * seconds / count, found, f"{bits:g} bits{', fast' if fast else ''}"


def _decoded(archive: Path) -> None:
    """Read an archive to the bytes of all its tensors, written nowhere."""
    with archive.open("rb") as handle:
        for _, pieces in lac.read_files(handle, lac.read_front(handle, archive, 1 << 32)):
            for _ in pieces:
                pass


PARTS: dict[str, Callable[[list[str]], None]] = {"speed": speed, "sizes": sizes, "fuzz": fuzz, "nncodec": nncodec, "equal": equal}

if __name__ == "__main__":
    command(__doc__, PARTS)
