"""A dataset as files of batches and targets, and answers read back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset

import laconic as lc
from laconic.run.examples import read_arrays, read_logits, targets_of, write_arrays, write_examples


class Tagger(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.e, self.f = nn.Embedding(50, 8), nn.Linear(8, 4)

    def forward(self, ids: Tensor) -> Tensor:
        return self.f(self.e(ids))


class Texts(Dataset[Any]):
    def __init__(self, named: bool = False) -> None:
        self.named, self.read = named, 0

    def __len__(self) -> int:
        return 10

    def __getitem__(self, index: int) -> Any:
        self.read += 1
        ids = torch.arange(3 + index // 3) + index
        return ids, ({"tags": ids % 4, "name": f"text {index}"} if self.named else ids % 4)


def collate(items: list[Any]) -> Any:
    ids = pad_sequence([item[0] for item in items], batch_first=True)
    if isinstance(items[0][1], dict):
        tags = pad_sequence([item[1]["tags"] for item in items], batch_first=True, padding_value=-7)
        return ids, {"tags": tags, "name": [item[1]["name"] for item in items]}
    return ids, pad_sequence([item[1] for item in items], batch_first=True, padding_value=-7)


def given(data: Dataset[Any]) -> tuple[lc.Task, lc.Program]:
    net = Tagger().eval()
    task = lc.Task(net, None, data, collate=collate, batch_size=4, dynamic={"ids": {1: "length"}}, metric=lambda a, b: 0.0, direction="max")
    return task, lc.capture(net, torch.zeros(2, 5, dtype=torch.long), dynamic=task.dynamic)


def test_batches_of_other_length_are_joined_as_the_user_pads(tmp_path: Path) -> None:
    data = Texts()
    task, program = given(data)
    found = write_examples(task, data, program, tmp_path / "valid")
    whole_ids, whole = collate([data[i] for i in range(10)])
    assert found.n == 10
    assert torch.equal(found.target, whole)
    assert torch.equal(targets_of(task, data), whole)
    answers = tmp_path / "answers"
    answers.mkdir()
    for path in sorted(found.folder.glob("0*.npz")):
        write_arrays(answers / path.name, [program(torch.from_numpy(read_arrays(path)[0])).detach().numpy()])
    logits = read_logits(task, program, answers, data)
    counted = whole != -7
    torch.testing.assert_close(logits[counted], program(whole_ids).detach()[counted])
    read = data.read
    assert torch.equal(write_examples(task, data, program, tmp_path / "valid").target, whole)
    assert data.read == read, "what is complete is only read from the folder"


def test_targets_that_are_trees_are_kept_and_found_again(tmp_path: Path) -> None:
    data = Texts(named=True)
    task, program = given(data)
    for _ in range(2):  # the second time, the folder is complete
        found = write_examples(task, data, program, tmp_path / "valid")
        assert found.n == 10
        assert found.target["name"] == [f"text {i}" for i in range(10)]
        assert torch.equal(found.target["tags"], collate([data[i] for i in range(10)])[1]["tags"])
    assert not (tmp_path / "valid" / "targets.npy").exists()


def test_targets_of_bfloat16_are_written(tmp_path: Path) -> None:
    net = nn.Linear(3, 1)
    x, y = torch.randn(6, 3), torch.randn(6, 1).bfloat16()
    task = lc.Task(net, None, torch.utils.data.TensorDataset(x, y), metric="mae")
    found = write_examples(task, task.valid, lc.capture(net, x), tmp_path / "valid")
    np.testing.assert_array_equal(found.target, y.float())
