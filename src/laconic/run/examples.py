"""A dataset as files of flat arrays, for processes that know no dataset; and their answers as what the metric takes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from laconic.core.axes import dynamic_sizes
from laconic.core.batches import count, join_targets, join_tensors, sizes_of
from laconic.core.files import write_json, write_whole
from laconic.core.program import Program, TensorSpec
from laconic.core.reader import reader_of
from laconic.core.task import Task
from laconic.run.inputs import lengths_of
from laconic.run.inputs import read_arrays as read_arrays
from laconic.run.inputs import write_arrays as write_arrays
from laconic.tasks.data import loader

_DONE = "done.json"
_LOOKED = 64  # batches at most, whose lengths are looked at


@dataclass(frozen=True)
class Examples:
    """A folder of batches `000000.npz`, … (arrays "0", "1", … in the order of the program's inputs) and the targets of all of them.

    Attributes:
        folder: of the batches.
        target: of all examples, joined; see `core.batches`.
        n: number of examples.
    """

    folder: Path
    target: Any
    n: int

    @property
    def first(self) -> Path:
        """The first batch."""
        return self.folder / "000000.npz"


def is_written(folder: Path) -> bool:
    """Return whether a dataset's batches are all there."""
    return (folder / _DONE).exists()


def write_examples(
    task: Task, data: Dataset[Any], program: Program, folder: Path, told: Callable[[int], None] = lambda index: None
) -> Examples:
    """Write a dataset's batches as the program is given them; what is complete already is only read.

    Targets that are no tensor are read from the dataset each time.

    Args:
        task: splits and collates.
        data: of the task.
        program: orders the inputs.
        folder: of the files.
        told: hears the number of each batch that is written.
    """
    file = folder / "targets.npy"
    if not is_written(folder):
        folder.mkdir(parents=True, exist_ok=True)
        targets, cut = [], task.cut()
        for index, (inputs, target) in enumerate(batches(task, data)):
            write_arrays(folder / f"{index:06d}.npz", [_array(leaf) for leaf in program.flatten_inputs(cut.inputs(inputs))])
            targets.append(target)
            told(index)
        joined = _all_targets(task, data, targets)
        if isinstance(joined, Tensor):
            array = _array(joined)
            write_whole(file, lambda path: np.save(path, array, allow_pickle=False))
        write_json(folder / _DONE, {"n": count(joined)})
    elif not file.exists():
        joined = targets_of(task, data)
    if file.exists():
        joined = torch.from_numpy(np.load(file, allow_pickle=False))
    return Examples(folder, joined, count(joined))


def targets_of(task: Task, data: Dataset[Any]) -> Any:
    """Return the targets of all examples, joined; see `core.batches`."""
    return _all_targets(task, data, [target for _, target in batches(task, data)])


def _all_targets(task: Task, data: Dataset[Any], targets: list[Any]) -> Any:
    n = len(data)  # type: ignore[arg-type]

    def again() -> Any:
        return task.split(next(iter(loader(data, n, shuffle=False, seed=0, collate=task.collate))))[1]

    return join_targets(targets, sizes_of(n, task.batch_size), again)


def typical(specs: Sequence[TensorSpec], examples: Examples) -> tuple[Path, dict[str, int]]:
    """Return the batch whose lengths are in the middle, and these by name; the first batch where no length differs.

    Args:
        specs: of the inputs.
        examples: of whose batches those at the beginning are looked at, `_LOOKED` at most.
    """
    paths = sorted(examples.folder.glob("*.npz"))[:_LOOKED] if lengths_of(specs) else [examples.first]
    sizes = [{name: size for name, size in dynamic_sizes(specs, read_arrays(path)).items() if name != "batch"} for path in paths]
    order = sorted(range(len(paths)), key=lambda place: tuple(sizes[place].values()))
    middle = order[len(order) // 2]
    return paths[middle], sizes[middle]


def _array(leaf: Tensor) -> np.ndarray:
    """Return a tensor as numpy; bfloat16, which it does not know, as float32."""
    return np.asarray((leaf.float() if leaf.dtype == torch.bfloat16 else leaf).detach().cpu().numpy())


def batches(task: Task, data: Dataset[Any]) -> Iterator[tuple[Any, Any]]:
    """Yield the dataset's batches in order, split into inputs and target.

    Raises:
        BadInput: an example cannot be read, or no batch can be made or split; names the data and the examples.
    """
    reader = reader_of(task, data)
    for batch in reader.loader(task.batch_size, task.collate, generator=torch.Generator().manual_seed(0)):
        with reader.naming("Task(split=…) cannot split the batch"):
            parts = task.split(batch)
        yield parts


def read_logits(task: Task, program: Program, folder: Path, data: Dataset[Any]) -> Tensor:
    """Read the answers that a worker wrote for a folder of examples, joined as the metric takes them: (n, …), shorter batches filled up with zeros.

    Args:
        task: where it names a part, the rest of its model answers with the part's answers in place.
        program: what is captured of the model.
        folder: of the answers.
        data: whose examples were answered; read for a part alone.
    """
    answers = (program.unflatten_outputs(list(map(torch.from_numpy, read_arrays(path)))) for path in sorted(folder.glob("*.npz")))
    if task.part is None:
        return join_tensors([task.logits(answer) for answer in answers])
    cut = task.cut()
    with torch.no_grad():
        return join_tensors(
            [task.logits(cut.outputs(inputs, answer)) for (inputs, _), answer in zip(batches(task, data), answers, strict=True)]
        )
