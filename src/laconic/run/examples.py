"""A dataset as files of flat arrays, for processes that know no dataset; and their answers as what the metric takes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from laconic.core.files import write_json, write_whole
from laconic.core.program import Program
from laconic.core.task import Task
from laconic.tasks.data import loader

_DONE = "done.json"


@dataclass(frozen=True)
class Examples:
    """A folder of batches `000000.npz`, … (arrays "0", "1", … in the order of the program's inputs) and the targets of all of them."""

    folder: Path
    target: Tensor
    n: int

    @property
    def first(self) -> Path:
        """The first batch."""
        return self.folder / "000000.npz"


def write_examples(task: Task, data: Dataset[Any], program: Program, folder: Path) -> Examples:
    """Write a dataset's batches; what is complete already is only read."""
    targets_file = folder / "targets.npy"
    if not (folder / _DONE).exists():
        folder.mkdir(parents=True, exist_ok=True)
        targets = []
        for index, (inputs, target) in enumerate(batches(task, data)):
            write_arrays(folder / f"{index:06d}.npz", [leaf.numpy() for leaf in program.flatten_inputs(inputs)])
            targets.append(torch.as_tensor(target))
        joined = torch.cat([t.reshape(1) if t.dim() == 0 else t for t in targets]).numpy()
        write_whole(targets_file, lambda path: np.save(path, joined, allow_pickle=False))
        write_json(folder / _DONE, {"n": len(joined)})
    target = torch.from_numpy(np.load(targets_file, allow_pickle=False))
    return Examples(folder, target, len(target))


def batches(task: Task, data: Dataset[Any]) -> Iterator[tuple[Any, Any]]:
    """The dataset's batches in order, split into inputs and target."""
    for batch in loader(data, task.batch_size, shuffle=False, seed=0, collate=task.collate):
        yield task.split(batch)


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


def read_logits(task: Task, program: Program, folder: Path) -> Tensor:
    """The answers that a worker wrote for a folder of examples, joined, as the metric takes them."""
    parts = []
    for path in sorted(folder.glob("*.npz")):
        leaves = [torch.from_numpy(array) for array in read_arrays(path)]
        parts.append(task.logits(program.unflatten_outputs(leaves)))
    return torch.cat(parts)
