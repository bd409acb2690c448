"""Fraunhofer's NNCodec (ISO/IEC 15938-17) beside the `.lac` archive. A library: `benchmarks.storage nncodec` and `equal` call it.

It is a source package that wants numpy < 2: it lives in an environment of its own, whose python `LACONIC_NNCODEC` names; without, it is built in
`LACONIC_BENCH`. It is driven by a text that runs there, and is given and gives arrays.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import trained

_DECODED = """
import contextlib, io, json, sys, time
import numpy as np
import torch
torch.set_num_threads(1)
from nncodec import nnc
def decoded(data):
    seconds = []
    for _ in range(5):
        start = time.process_time()
        back = nnc.decompress(data)
        seconds.append(time.process_time() - start)
    return min(seconds), back
"""
_DRIVER = (
    _DECODED
    + """
given = dict(np.load(sys.argv[1]))
for number, options in enumerate(map(json.loads, sys.argv[3:])):
    with contextlib.redirect_stdout(io.StringIO()):
        data = nnc.compress({name: array.copy() for name, array in given.items()}, return_bitstream=True, bitstream_path=sys.argv[2] + "/x.nnc", **options)
    seconds, back = decoded(data)
    with open(f"{sys.argv[2]}/{number}.nnc", "wb") as file:
        file.write(data)
    np.savez(f"{sys.argv[2]}/back{number}.npz", **{name: np.asarray(array) for name, array in back.items()})
    print("> " + json.dumps({"bytes": len(data), "seconds": seconds}), flush=True)
"""
)
_AGAIN = (
    _DECODED
    + """
with open(sys.argv[1], "rb") as file:
    data = bytearray(file.read())
with contextlib.redirect_stdout(io.StringIO()):
    seconds, _ = decoded(data)
print("> " + json.dumps(seconds), flush=True)
"""
)


def coded(
    python: str, arrays: Mapping[str, np.ndarray], options: Sequence[Mapping[str, Any]], scratch: Path
) -> Iterator[tuple[dict[str, Any], dict[str, np.ndarray]]]:
    """Yield for each set of options of `nnc.compress` the bytes and the least processor seconds to decode them from memory, and what comes back.

    The bytes themselves lie in `scratch` as `0.nnc`, `1.nnc`, ….
    """
    np.savez(scratch / "given.npz", **arrays)
    call = [python, "-c", _DRIVER, str(scratch / "given.npz"), str(scratch), *map(json.dumps, options)]
    with subprocess.Popen(call, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        told = [line[2:] for line in process.stdout if line.startswith("> ")]
    if len(told) < len(options):
        raise SystemExit(f"NNCodec failed on {options[len(told)]}")
    for number, line in enumerate(told):
        with np.load(scratch / f"back{number}.npz") as back:
            yield json.loads(line), dict(back)


def seconds(python: str, archive: Path) -> float:
    """Return the least processor seconds to decode one of those archives from memory."""
    done = subprocess.run([python, "-c", _AGAIN, str(archive)], capture_output=True, text=True, check=False)
    told = [line[2:] for line in done.stdout.splitlines() if line.startswith("> ")]
    if not told:
        raise SystemExit(f"NNCodec cannot decode {archive.name}: {done.stderr.strip().splitlines()[-1:]}")
    return float(json.loads(told[0]))


def python() -> str | None:
    """Return the python of an environment that has NNCodec; None where it cannot be built, which is said."""
    given = os.environ.get("LACONIC_NNCODEC")
    if given:
        return given
    place = trained.FOLDER / "nncodec"
    found = place / "bin" / "python"
    if not found.exists():
        print("building NNCodec 2.1.3 in an environment of its own", flush=True)
        start = time.perf_counter()
        for step in ([sys.executable, "-m", "venv", str(place)], [str(found), "-m", "pip", "install", "-q", "numpy<2", "nncodec==2.1.3"]):
            done = subprocess.run(step, capture_output=True, text=True, check=False)
            if done.returncode:
                print(f"NNCodec cannot be built here: {(done.stderr or done.stdout).strip().splitlines()[-1:]}", flush=True)
                shutil.rmtree(place, ignore_errors=True)
                return None
        print(f"built in {time.perf_counter() - start:.0f} s", flush=True)
    return str(found)
