"""On which inputs a file is compared with its program: batches spread over the valid data, and the same examples in other numbers and lengths."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from laconic.core.axes import dynamic_sizes, resize
from laconic.core.errors import LaconicError
from laconic.core.program import Program, TensorSpec
from laconic.deploy.parity import ParityMeter
from laconic.run import gate
from laconic.run.examples import Examples, read_arrays, write_arrays
from laconic.run.record import Reason

_BATCHES = 4
# Examples in a call, and the share that is kept of every other dynamic dimension: what holds at the size of the batches may be a constant of that size.
_SIZES = ((1, 1.0), (3, 1.0), (3, 0.5), (1, 0.75))
_DONE = "done.npz"


@dataclass(frozen=True)
class ParityInputs:
    """Files of inputs, by a name under which answers are kept.

    Attributes:
        folder: where the inputs of other sizes lie.
        batches: files of the valid data; answers to them lie in `valid`.
        resized: files of other sizes; answers to them lie in `sizes`.
        sizes: sizes of the dynamic dimensions, of each file.
        left_out: sizes that the model itself does not answer, with what it said.
    """

    folder: Path
    batches: tuple[Path, ...]
    resized: tuple[Path, ...]
    sizes: tuple[Mapping[str, int], ...]
    left_out: tuple[str, ...]

    @property
    def files(self) -> dict[str, Path]:
        """All files by name."""
        return {**{f"valid/{path.name}": path for path in self.batches}, **{f"sizes/{path.name}": path for path in self.resized}}

    @property
    def other_sizes(self) -> str:
        """The sizes of the resized files, in words."""
        return "; ".join(_told(size) for size in self.sizes[len(self.batches) :])


def parity_inputs(program: Program, valid: Examples, folder: Path) -> ParityInputs:
    """Choose batches of the valid data and write the first one in other sizes, wherever the program answers them."""
    every = sorted(valid.folder.glob("[0-9]*.npz"))
    batches = [every[i] for i in np.unique(np.linspace(0, len(every) - 1, _BATCHES).round().astype(int))]
    first = read_arrays(batches[0])
    paths, sizes, left_out = [], [dynamic_sizes(program.inputs, read_arrays(path)) for path in batches], []
    for index, wanted in enumerate(_other_sizes(sizes[0])):
        arrays = resize(program.inputs, first, wanted)
        try:
            answers(program, arrays)
        except (RuntimeError, ValueError, IndexError, TypeError) as error:
            left_out.append(f"{_told(wanted)}: {(str(error).strip().splitlines() or [type(error).__name__])[0][:200]}")
            continue
        paths.append(write_arrays(folder / f"{index:06d}.npz", arrays))
        sizes.append(wanted)
    return ParityInputs(folder, tuple(batches), tuple(paths), tuple(sizes), tuple(left_out))


def _other_sizes(now: Mapping[str, int]) -> Iterator[dict[str, int]]:
    """Yield further sizes of the dynamic dimensions, each once."""
    seen = [dict(now)]
    for batch, share in _SIZES:
        wanted = {name: batch if name == "batch" else max(1, int(share * size)) for name, size in now.items()}
        if wanted not in seen:
            seen.append(wanted)
            yield wanted


def answers(program: Program, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Run the program on flat inputs and return its flat outputs."""
    with torch.no_grad():
        leaves = program.graph_module(*(torch.from_numpy(array) for array in arrays))
    return [(leaf.float() if leaf.dtype == torch.bfloat16 else leaf).detach().numpy() for leaf in leaves]


def write_answers(program: Program, files: Mapping[str, str], folder: Path) -> None:
    """Answer files of inputs into `folder` under their names; what is complete is not computed again.

    Raises:
        LaconicError: the program fails on a size that the model it was made from answers.
    """
    if (folder / _DONE).exists():
        return
    for name, path in files.items():
        arrays = read_arrays(Path(path))
        try:
            outputs = answers(program, arrays)
        except (RuntimeError, ValueError, IndexError, TypeError) as error:
            told = _told(dynamic_sizes(program.inputs, arrays))
            raise LaconicError(f"after its steps the program does not answer inputs of {told}, which the model does: {error}") from error
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        write_arrays(folder / name, outputs)
    write_arrays(folder / _DONE, [])


def compare(
    inputs: ParityInputs, actual: Path, expected: Path, outputs: Sequence[TensorSpec], precision: str, rounded: bool
) -> tuple[dict[str, Any], Reason | None]:
    """Hold the answers of a file against its program's, over all inputs; see `gate.parity`.

    Args:
        inputs: what both answered.
        actual: folder of the file's answers.
        expected: folder of the program's.
        outputs: of the program.
        precision: of the file's arithmetic.
        rounded: whether the program rounds to the grids of integers.

    Returns:
        The evidence, with the number of `batches`, the `sizes` of each call and what was `left_out`; and why it is not enough.
    """
    meter = ParityMeter(outputs)
    for name in inputs.files:
        meter.add(read_arrays(actual / name), read_arrays(expected / name))
    asked = gate.tolerance(precision, rounded)
    evidence, reason = gate.parity(meter.result(asked.resolution, asked.grid), precision, rounded)
    sizes = {name: list(dict.fromkeys(size[name] for size in inputs.sizes)) for name in inputs.sizes[0]}
    return {**evidence, "batches": len(inputs.batches), "sizes": sizes, "left_out": list(inputs.left_out)}, reason


def _told(sizes: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {size}" for name, size in sizes.items())
