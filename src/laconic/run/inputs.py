"""Arrays that a model file is timed on, and files of arrays. Imports no PyTorch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from laconic.core.errors import BadInput, nearest
from laconic.core.files import write_whole
from laconic.core.reading import reads
from laconic.core.spec import TensorSpec


def lengths_of(specs: Sequence[TensorSpec]) -> list[str]:
    """Return the dynamic dimensions beside the batch, by name."""
    return list(dict.fromkeys(dim for spec in specs for dim in spec.shape if isinstance(dim, str) and dim != "batch"))


def check_lengths(specs: Sequence[TensorSpec], file: Path, lengths: Mapping[str, int]) -> None:
    """Refuse to time inputs of which a length is not known.

    Raises:
        BadInput: names every dynamic dimension beside the batch that has no size.
    """
    known = lengths_of(specs)
    if unknown := [name for name in lengths if name not in known]:
        others = nearest(unknown[0], known) if known else "; all its sizes but the batch are fixed"
        raise BadInput(f"{file} takes inputs of no length '{unknown[0]}'{others}")
    missing = [name for name in known if name not in lengths]
    if missing:
        asked, typed = ", ".join(f"'{name}': 64" for name in missing), " ".join(f"--length {name}=64" for name in missing)
        raise BadInput(
            f"{file} takes inputs of any {' and '.join(missing)}, and times depend on it: say at which it is timed, lengths={{{asked}}} ({typed})"
        )


@reads("a model's list of inputs", "Give --length NAME=SIZE where its sizes are named, or export it again.", BadInput)
def random_inputs(specs: Sequence[TensorSpec], batch: int, lengths: Mapping[str, int], seed: int) -> list[np.ndarray]:
    """Make inputs of the right shapes: normal floats; ones for integers and booleans, since any embedding has an entry 1.

    Args:
        specs: of the inputs.
        batch: size of the dimension ``batch``.
        lengths: sizes of other dynamic dimensions.
        seed: of the floats.
    """
    rng = np.random.default_rng(seed)
    arrays = []
    for spec in specs:
        shape = spec.concrete(batch=batch, **lengths)
        kind = np.dtype(spec.dtype)
        arrays.append(rng.standard_normal(shape).astype(kind) if kind.kind == "f" else np.ones(shape, kind))
    return arrays


def write_arrays(path: Path, arrays: list[np.ndarray]) -> Path:
    """Write arrays under the names "0", "1", …; the file appears whole."""
    return write_whole(path, lambda aside: _save_npz(aside, arrays))


def _save_npz(path: Path, arrays: list[np.ndarray]) -> None:
    with path.open("wb") as handle:
        np.savez(handle, **{str(i): array for i, array in enumerate(arrays)})  # type: ignore[arg-type]


def read_arrays(path: Path) -> list[np.ndarray]:
    """Read what `write_arrays` wrote."""
    with np.load(path, allow_pickle=False) as archive:
        return [archive[str(i)] for i in range(len(archive.files))]
