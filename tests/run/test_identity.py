"""Data and code of a task are known by digest: what changes them changes it, what does not (comments, chance, reading) does not."""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import ConcatDataset, Dataset, Subset, TensorDataset

import laconic as lc
from laconic.run.identity import code_of, data_of
from laconic.tasks.data import ArrayDataset

X = np.random.default_rng(0).standard_normal((500, 4)).astype(np.float32)
Y = np.arange(500) % 3


class Files(Dataset[Any]):
    """Reads examples by name and keeps names and targets in a list; with a transform by chance."""

    def __init__(self, label: int = 0, shift: float = 0.0, noise: Callable[[], Any] | None = None) -> None:
        self.samples = [(f"{i}.png", label if i == 77 else int(Y[i])) for i in range(500)]
        self.shift, self.noise, self.reads = shift, noise, 0

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Any:
        self.reads += 1
        return torch.from_numpy(X[index]) + self.shift + (0 if self.noise is None else self.noise()), self.samples[index][1]


def task(data: Any, **changes: Any) -> lc.Task:
    return lc.Task(nn.Linear(4, 3), None, data, **changes)


def arrays(at: int | None = None, target: int | None = None) -> ArrayDataset:
    x, y = X.copy(), Y.copy()
    if at is not None:
        x[at, 0] += 1e-3
    if target is not None:
        y[target] += 1
    return ArrayDataset(x, y)


def of(data: Any) -> str:
    return data_of(task(data))["valid"]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (arrays(), arrays(at=77)),
        (arrays(), arrays(target=77)),
        (arrays(), ArrayDataset(X[:499], Y[:499])),
        (arrays(), ArrayDataset(X.astype(np.float64), Y)),
        (Subset(arrays(), [1, 2, 3]), Subset(arrays(), [1, 2, 4])),
        (Subset(arrays(), [1, 2, 3]), Subset(arrays(target=400), [1, 2, 3])),
        (ConcatDataset([arrays(), arrays()]), ConcatDataset([arrays(), arrays(target=77)])),
        (TensorDataset(torch.tensor(X)), TensorDataset(torch.tensor(X) + 1)),
        ([(torch.ones(4), 1)] * 3, [(torch.ones(4), 2)] * 3),
        ([({"text": "a"}, 1)] * 3, [({"text": "b"}, 1)] * 3),
        (Files(), Files(label=1)),
        (Files(), Files(shift=0.5)),
        (Files(noise=lambda: torch.rand(())), Files(0, 0.5, lambda: torch.rand(()))),
    ],
    ids=[
        "example",
        "target",
        "length",
        "type",
        "indices",
        "inner",
        "joined",
        "tensors",
        "list",
        "text",
        "file's target",
        "transform",
        "seeded",
    ],
)
def test_other_data_has_another_digest(one: Any, other: Any) -> None:
    assert of(one) != of(other)


@pytest.mark.parametrize("noise", [None, lambda: torch.rand(()), lambda: float(np.random.rand()), lambda: np.random.default_rng().random()])
def test_the_same_data_has_the_same_digest_whatever_chance_does_to_it(noise: Any) -> None:
    data = Files(noise=noise)
    first = of(data)
    torch.manual_seed(3)
    np.random.seed(4)
    assert of(data) == first == of(Files(noise=noise))


def test_looking_at_data_moves_no_random_state() -> None:
    noisy = task(Files(noise=lambda: torch.rand(()) + np.random.rand()))
    states = torch.get_rng_state(), np.random.get_state(legacy=False)["state"]["key"].copy()
    data_of(noisy)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert (np.random.get_state(legacy=False)["state"]["key"] == states[1]).all()


def test_an_example_that_cannot_be_read_is_left_to_those_who_use_it() -> None:
    class Broken(Files):
        def __getitem__(self, index: int) -> Any:
            raise OSError("no such file")

    assert of(Broken()) == of(Broken())


def module(source: str) -> types.ModuleType:
    """Make a module of the user's own from its source."""
    import sys

    made = types.ModuleType("users_own")
    sys.modules["users_own"] = made
    exec(compile(source, "users_own.py", "exec"), vars(made))
    return made


SOURCE = '''
import torch
FACTOR = 2.0
KINDS = {"a", "b", "c", "d"}
def helper(x):
    return x * FACTOR
class Net(torch.nn.Module):
    """A net."""
    width = 4
    def __init__(self):
        super().__init__()
        self.fc = torch.nn.Linear(4, 3)
    def forward(self, x):
        return torch.relu(self.fc(helper(x)))
def loss(outputs, target):
    return torch.nn.functional.cross_entropy(outputs, target, label_smoothing=0.1) if "a" in {"a", "b", "c"} else 0
score = lambda logits, target: float((logits.argmax(1) == target).float().mean())
'''


def code(source: str) -> dict[str, str]:
    made = module(source)
    return code_of(lc.Task(made.Net(), None, arrays(), loss=made.loss, metric=made.score, direction="max"))


@pytest.mark.parametrize(
    ("old", "new", "part"),
    [
        ("torch.relu", "torch.tanh", ["model"]),
        ("x * FACTOR", "x + FACTOR", ["model"]),
        ("FACTOR = 2.0", "FACTOR = 3.0", ["model"]),
        ("width = 4", "width = 5", ["model"]),
        ("smoothing=0.1", "smoothing=0.2", ["loss"]),
        ("argmax(1)", "argmin(1)", ["metric"]),
        ('"""A net."""', '"""Another net."""', []),
        ("    return x * FACTOR", "    # a comment\n\n    return x * FACTOR", []),
        ("import torch\n", "import torch\nUNUSED = 5\n", []),
    ],
)
def test_changed_code_is_told_by_its_part(old: str, new: str, part: list[str]) -> None:
    before, after = code(SOURCE), code(SOURCE.replace(old, new))
    assert set(before) == {"model", "loss", "metric"}
    assert [name for name in before if before[name] != after[name]] == part


def test_what_comes_from_libraries_is_no_code_of_the_task() -> None:
    assert code_of(task(arrays(), loss=nn.functional.cross_entropy, metric="accuracy")) == {}


def test_a_function_that_makes_the_model_is_its_code() -> None:
    def made(width: int) -> Callable[[], nn.Module]:
        return lambda: nn.Linear(4, width)

    digests = [code_of(dataclasses.replace(task(arrays()), model=made(width)))["model"] for width in (3, 3, 5)]
    assert digests[0] == digests[1] != digests[2]


def test_the_digest_of_code_is_the_same_in_every_process() -> None:
    """Sets among the constants print in an order of the process's own."""
    import subprocess
    import sys

    program = "import sys, json; sys.path.insert(0, '.'); from tests.run import test_identity as t; print(json.dumps([t.code(t.SOURCE), t.of(t.Files())]))"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, env={**__import__("os").environ, "PYTHONHASHSEED": "7"}
    )
    import json

    assert json.loads(done.stdout) == [code(SOURCE), of(Files())]


def test_a_loss_that_takes_a_tensor_is_found() -> None:
    def own(outputs: Tensor, target: Tensor) -> Tensor:
        return (outputs - target).square().mean()

    assert set(code_of(task(arrays(), loss=own))) == {"loss"}
