"""The `.lac` archive in figures: `python -m benchmarks.storage {speed,sizes,fuzz,nncodec,equal,decode} [NAME …]`, each alone on one core (`OMP_NUM_THREADS=1`).

- speed: MB/s of float32 weights in and out, the packing of a file with everything (finding tensors, digests, writing), beside zlib and, where there is a
  `zstd`, its levels. Processor time, the best of five.
- sizes: int8 ONNX files of trained nets: the archive, bits per weight, and beside them the entropy of order zero of each tensor.
- fuzz [files]: altered archives, and altered pieces without the digests that would refuse them (`benchmarks/fuzz.py`), so many (50,000) of each.
- nncodec: the same int8 codes in Fraunhofer's NNCodec (`benchmarks/nncodec.py`), which keeps them exactly too: bits per weight and time to decode.
- equal: its own quantization (dependent, with contexts tuned) beside the step `rate_distortion`, at equal accuracy on valid data, neither fine-tuned;
  of each a range of settings around half a point (`POINTS`; minilm takes half an hour). The smallest that keeps it is left in `LACONIC_BENCH`.
- decode: those that equal left there, decoded from memory once more: a minute, which a machine may have nothing else to do for.

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
    "resnet20": ((-25, -24, -23, -22), (2.0, 1.8, 1.6, 1.4)),
    "mobilenet_v2": ((-28, -27, -26, -25), (1.8, 1.6, 1.4, 1.2)),
    "minilm": ((-25, -24, -23), (2.8, 2.9, 3.0)),
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
            _best(name, ".lac", _our_points(task, Path(scratch), POINTS[name][1]), before)
            _best(name, ".nnc", _their_points(str(python), task, net, Path(scratch), POINTS[name][0]), before)


Point = tuple[int, float, float, str, Path]  # bytes of all weights, ns a number to decode, accuracy, settings, archive


def _best(name: str, ending: str, points: Iterator[Point], before: float) -> None:
    """Print each point as it is measured, then the smallest that loses half a point at most, and keep its archive."""
    kept: list[tuple[int, float, str]] = []
    for size, ns, found, told, archive in points:
        print(f"  {ending} {told}: {size:,} bytes, {ns:.1f} ns a number to decode, {found:.2f} %", flush=True)
        if found >= before - 0.5 and size <= min(kept, default=(size,))[0]:
            shutil.copy(archive, trained.FOLDER / f"equal-{name}{ending}")
            kept.append((size, ns, told))
    print(f"  {ending} within 0.5 points: " + ("{:,} bytes, {:.1f} ns, {}".format(*min(kept)) if kept else "none"), flush=True)


def _their_points(python: str, task: lc.Task, net: torch.nn.Module, scratch: Path, steps: Sequence[int]) -> Iterator[Point]:
    """Yield those of some steps, each 2^(1/4) of the last, with dependent quantization and tuned contexts; what is no weight at 8 bits, for nothing."""
    state = {key: value for key, value in net.state_dict().items() if value.dtype == torch.float32}
    count = sum(value.numel() for value in state.values())
    options = [{"qp": qp, "nonweight_qp": -40} for qp in steps]
    arrays = {key: value.numpy() for key, value in state.items()}
    for number, (told, back) in enumerate(theirs.coded(python, arrays, options, scratch)):
        net.load_state_dict({key: torch.from_numpy(back[key]).reshape(value.shape) for key, value in state.items()}, strict=False)
        found = trained.accuracy(net, task.valid)
        yield told["bytes"], 1e9 * told["seconds"] / count, found, f"qp {steps[number]}", scratch / f"{number}.nnc"


def _our_points(task: lc.Task, scratch: Path, rates: Sequence[float]) -> Iterator[Point]:
    """Yield those of rate–distortion at several bits a weight, on steps of their curvature, batch-norms folded, packed to be read fast."""
    program, _ = lc.fold_batch_norm(lc.capture(task.build(), next(iter(_batches(task.train)))[0]))
    for bits in rates:
        config = lc.RateDistortion(bits_per_weight=bits, grid="stepped", bits=8, examples=1024, recovery={"epochs": 0})
        done, _ = lc.rate_distortion(program, config, task)
        state = {key: value.numpy() for key, value in done.state_dict().items() if value.dtype == torch.float32}
        save_file(state, scratch / "w.safetensors")
        packed = lc.pack(scratch / "w.safetensors", scratch / f"{bits:g}.lac", fast=True)
        ns = _ns_a_number(packed.file)
        yield packed.packed_bytes, ns, trained.accuracy(done, task.valid), f"{bits:g} bits", packed.file


def decode(names: list[str]) -> None:
    """Time what `equal` left once more."""
    python = theirs.python()
    for name in (names or NETS) if python else ():
        file = trained.FOLDER / f"equal-{name}.lac"
        if not file.exists() or not file.with_suffix(".nnc").exists():
            raise SystemExit(f"nothing of {name} was kept within half a point: python -m benchmarks.storage equal {name}")
        count = sum(value.size for value in weights(name).values())
        ours, other = _ns_a_number(file), 1e9 * theirs.seconds(str(python), file.with_suffix(".nnc")) / count
        print(f"{name}: .lac {ours:.2f} ns a number, NNCodec {other:.1f}: {other / ours:.1f} times as fast", flush=True)


def _ns_a_number(archive: Path) -> float:
    """Return the least processor time to decode an archive, by its numbers."""
    with archive.open("rb") as handle:
        count = sum(one.count for one in lac.read_front(handle, archive, 1 << 32).stored)
    return 1e9 * processor_seconds(lambda: _decoded(archive)) / count


def _decoded(archive: Path) -> None:
    """Read an archive to the bytes of all its tensors, written nowhere."""
    with archive.open("rb") as handle:
        for _, pieces in lac.read_files(handle, lac.read_front(handle, archive, 1 << 32)):
            for _ in pieces:
                pass


PARTS: dict[str, Callable[[list[str]], None]] = {
    "speed": speed,
    "sizes": sizes,
    "fuzz": fuzz,
    "nncodec": nncodec,
    "equal": equal,
    "decode": decode,
}

if __name__ == "__main__":
    command(__doc__, PARTS)
