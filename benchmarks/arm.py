"""Does what ships compute the same on Arm? `python -m benchmarks.arm ARTIFACT [--examples N] [--folder PLACE]`

Runs the artifact's own `run.py` with the aarch64 wheel of its runtime (ONNX Runtime, ncnn) under `qemu-aarch64`, on random examples, and compares the
answers with those of the same file on this machine. The Arm Python comes from Debian's packages (`apt-get download …:arm64`, after `dpkg
--add-architecture arm64` and `apt-get update`), the wheels from pip; both are kept in PLACE. It prints no time and refuses to: an emulator's says nothing of
a processor.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

import laconic as lc
from laconic.deploy.parity import parity
from laconic.deploy.runtime import runtime

DEBIAN = (
    *("python3.11-minimal", "libpython3.11-minimal", "libpython3.11-stdlib", "libc6", "zlib1g", "libexpat1", "libssl3", "libffi8"),
    *("libbz2-1.0", "liblzma5", "libgcc-s1", "libstdc++6", "libuuid1", "libgomp1"),
)
PLATFORMS = ("manylinux2014_aarch64", "manylinux_2_27_aarch64", "manylinux_2_28_aarch64")
LARGEST = 1e-3  # of the largest answer; kernels for another processor add in another order, and integers may fall to the next code
LARGEST_INT8 = 0.1


def python(folder: Path) -> Path:
    """Return an Arm Python's root, fetched where it is not there yet."""
    root = folder / "root"
    if not (root / "usr/bin/python3.11").exists():
        with tempfile.TemporaryDirectory() as place:
            subprocess.run(["apt-get", "download", *(f"{name}:arm64" for name in DEBIAN)], cwd=place, check=True, stdout=subprocess.DEVNULL)
            for package in sorted(Path(place).glob("*.deb")):
                subprocess.run(["dpkg", "-x", str(package), str(root)], check=True)
    return root


def wheels(folder: Path, package: str) -> Path:
    """Return a folder with numpy and a runtime's package for Arm."""
    place = folder / f"site-{package}"
    if not place.exists():
        with tempfile.TemporaryDirectory(dir=folder) as aside:
            command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--only-binary=:all:", "--python-version", "3.11"]
            platforms = [word for name in PLATFORMS for word in ("--platform", name)]
            subprocess.run([*command, "--implementation", "cp", *platforms, "--target", aside, "numpy", package], check=True)
            shutil.copytree(aside, place)
    return place


def answers(artifact: lc.Artifact, data: Path, folder: Path) -> list[np.ndarray]:
    """Return what the artifact's script answers on Arm."""
    root, site = python(folder), wheels(folder, runtime(artifact.target.runtime).package)
    out = data.with_name("arm.npz")
    environment = {
        **os.environ,
        "PYTHONPATH": str(site),
        "PYTHONHOME": str(root / "usr"),
        "QEMU_LD_PREFIX": str(root),
        "OMP_NUM_THREADS": "1",
    }
    command = ["qemu-aarch64", str(root / "usr/bin/python3.11"), str(artifact.folder / "run.py"), str(data), str(out)]
    done = subprocess.run(command, check=False, env=environment, stdout=subprocess.DEVNULL)
    if done.returncode:
        sys.exit(
            f"{artifact.target.runtime} ended with code {done.returncode} under qemu-aarch64: nothing was compared (ONNX Runtime 1.32 does so in qemu 7.2)"
        )
    with np.load(out) as given:
        return [given[spec.name] for spec in artifact.outputs]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("artifact", type=Path, help="an artifact's folder")
    parser.add_argument("--examples", type=int, default=8)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "laconic-arm")
    parser.add_argument("--time", action="store_true", help="refused")
    given = parser.parse_args()
    if given.time:
        sys.exit(
            "no time is printed: this is an emulator, whose time says nothing of an Arm processor. Measure on one: laconic bench ARTIFACT"
        )
    artifact = lc.Artifact.load(given.artifact)
    given.folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as place:
        data = Path(place) / "data.npz"
        arrays = [rng.standard_normal([given.examples, *spec.shape[1:]]).astype(spec.dtype) for spec in artifact.inputs]  # type: ignore[list-item]
        np.savez(data, **{spec.name: array for spec, array in zip(artifact.inputs, arrays, strict=True)})  # type: ignore[arg-type]
        here, there = artifact.session.run(arrays), answers(artifact, data, given.folder)
    told = parity(there, here)
    limit = LARGEST if artifact.numerics == "fp32" else LARGEST_INT8
    same = np.mean([np.argmax(a, -1) == np.argmax(b, -1) for a, b in zip(there, here, strict=True)])
    print(
        f"{artifact.file.name} ({artifact.target.runtime}, {artifact.numerics}), {given.examples} examples, aarch64 under qemu against this machine:"
    )
    print(f"largest difference {told['max_rel']:.1e} of the largest answer, the same argmax in {100 * same:.1f} %")
    sys.exit(0 if told["max_rel"] <= limit else f"more than {limit:g}: not the same")


if __name__ == "__main__":
    main()
