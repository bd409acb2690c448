"""Whole runs of tasks whose targets are no class numbers of examples: the baseline's score is that of the module, by scikit-learn."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import sklearn.metrics as sk
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import Dataset

import laconic as lc
from tests.run.test_examples import Tagger, Texts, collate

pytestmark = pytest.mark.slow
QUICK = lc.Options(rounds=2, turn_seconds=0.01)
RECIPES = [lc.Recipe((), lc.Target("onnxruntime", threads=1))]


def test_tags_of_texts_of_any_length(tmp_path: Path) -> None:
    torch.manual_seed(1)
    net, data = Tagger().eval(), Texts()
    task = lc.Task(
        net,
        data,
        data,
        data,
        loss=lambda out, y: F.cross_entropy(out.transpose(1, 2), y, ignore_index=-7),
        metric="f1",
        collate=collate,
        batch_size=4,
        dynamic={"ids": {1: "length"}},
        ignore=-7,
    )
    result = lc.optimize(task, lc.Budget(max_drop=50.0), out=str(tmp_path / "run"), recipes=RECIPES, options=QUICK)
    ids, tags = collate([data[i] for i in range(len(data))])
    kept = tags != -7
    expected = 100 * sk.f1_score(tags[kept], net(ids).argmax(-1)[kept], average="macro")
    for record in (result.data["baseline"], *result.data["candidates"]):
        assert record["measured"]["metric"]["value"] == pytest.approx(expected, rel=1e-9)
        assert record["measured"]["drop"]["value"] == 0
        assert record["measured"]["drop"]["unit"] == "points"
    assert result.data["baseline"]["probes"]["own"] == pytest.approx(expected, rel=1e-9)


class Named(Dataset[Any]):
    x = torch.randn(48, 6, generator=torch.Generator().manual_seed(2))

    def __len__(self) -> int:
        return 48

    def __getitem__(self, index: int) -> Any:
        return self.x[index], {"kind": self.x[index, :3].argmax(), "name": f"row {index}"}


def test_targets_that_are_mappings(tmp_path: Path) -> None:
    seen: list[Any] = []

    def exact(logits: Tensor, target: Any) -> float:
        seen.append(target["name"])
        return 100 * sk.accuracy_score(target["kind"], logits.argmax(1))

    net = nn.Linear(6, 3)
    with torch.no_grad():
        net.weight.copy_(torch.eye(3, 6))
        net.weight[:, 3:] = 0.3
    task = lc.Task(net, None, Named(), metric=exact, direction="max", batch_size=20)
    result = lc.optimize(task, lc.Budget(max_drop=1.0), out=str(tmp_path / "run"), recipes=RECIPES, options=QUICK)
    assert result.data["baseline"]["measured"]["metric"]["value"] == pytest.approx(
        100 * sk.accuracy_score(Named.x[:, :3].argmax(1), net(Named.x).argmax(1))
    )
    assert [f"row {i}" for i in range(48)] in seen
