from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from laconic.core.capture import capture
from laconic.core.context import Context
from laconic.core.errors import BadInput
from laconic.core.program import Program
from laconic.core.task import Task
from laconic.distill.student import Student, student, transfer
from laconic.tasks.models import DataShape, build

HERE = __name__


class Pairs(nn.Module):
    def __init__(self, width: int = 8, classes: int = 3) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(20, width), nn.Linear(width, classes)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        return self.head((self.embed(ids) * mask.unsqueeze(-1)).sum(1))


class Renamed(Pairs):
    def forward(self, tokens: Tensor, present: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(tokens, present)


def small() -> nn.Module:
    return Pairs(4)


def renamed() -> nn.Module:
    return Renamed(4)


def other_classes() -> nn.Module:
    return Pairs(classes=4)


def nested() -> nn.Module:
    class Nested(Pairs):
        def forward(self, ids: Tensor, mask: Tensor) -> Any:
            return (super().forward(ids, mask),)

    return Nested()


def no_module() -> Any:
    return 3


@pytest.fixture
def program() -> Program:
    inputs = {"ids": torch.arange(10).view(2, 5), "mask": torch.ones(2, 5)}
    return capture(Pairs(), inputs, dynamic={"ids": {1: "length"}, "mask": {1: "length"}})


@pytest.mark.parametrize("name", ["small", "renamed"])
def test_a_users_net_takes_the_programs_place(name: str, program: Program, tmp_path: Path) -> None:
    found, outcome = student(program, Student(f"{HERE}:{name}"), Context())
    assert found.inputs == program.inputs
    assert [o.shape for o in found.outputs] == [o.shape for o in program.outputs]
    assert outcome.changed["params"] == [187, 95]
    ids, mask = torch.arange(21).view(3, 7) % 20, torch.ones(3, 7)
    torch.testing.assert_close(found(ids=ids, mask=mask), found(ids, mask))
    again = Program.load(found.save(tmp_path / "student.pt2"))
    torch.testing.assert_close(again(ids=ids, mask=mask), found(ids, mask))


def test_a_reference_net_comes_from_the_task() -> None:
    shape = DataShape("image", (3, 16, 16), 5)
    program = capture(build("resnet20", shape), torch.randn(2, 3, 16, 16))

    def nets(name: str) -> nn.Module:
        return build(name, shape)

    context = Context(Task(nn.Identity(), None, [], nets=nets))  # type: ignore[arg-type]
    found, outcome = student(program, Student("resnet8"), context)
    assert found.inputs == program.inputs
    assert outcome.changed["params"][1] < outcome.changed["params"][0]
    with pytest.raises(BadInput, match="no reference net 'resnet8' here"):
        student(program, Student("resnet8"), Context())


def test_weights_depend_on_the_seed_alone(program: Program) -> None:
    state = torch.get_rng_state()
    first, again = (student(program, Student(f"{HERE}:small"), Context(seed=3))[0] for _ in range(2))
    assert torch.equal(torch.get_rng_state(), state)
    assert first.fingerprint() == again.fingerprint()
    assert first.fingerprint() != student(program, Student(f"{HERE}:small"), Context(seed=4))[0].fingerprint()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("other_classes", r"answers output \(batch, 4\) where the program answers output \(batch, 3\)"),
        ("nested", "nests its outputs otherwise|where the program answers"),
        ("no_module", "makes int; it must make a torch.nn.Module"),
        ("absent", "cannot be found: module"),
    ],
)
def test_what_cannot_stand_in(name: str, message: str, program: Program) -> None:
    with pytest.raises(BadInput, match=message):
        student(program, Student(f"{HERE}:{name}"), Context())


def test_a_module_that_is_not_there(program: Program) -> None:
    with pytest.raises(BadInput, match="'nowhere:net' cannot be found: No module named 'nowhere'"):
        student(program, Student("nowhere:net"), Context())


def test_transfer_copies_what_agrees(program: Program) -> None:
    found, outcome = student(program, Student(f"{HERE}:small", transfer=True), Context())
    assert outcome.changed["transferred"] == ["head.bias"]
    assert torch.equal(found.state_dict()["head.bias"], program.state_dict()["head.bias"])
    assert not torch.equal(found.state_dict()["head.weight"], program.state_dict()["head.weight"][:, :4])
    twin = Pairs()
    assert transfer(twin, program) == ["embed.weight", "head.weight", "head.bias"]
    ids, mask = torch.arange(10).view(2, 5), torch.ones(2, 5)
    torch.testing.assert_close(twin(ids, mask), program(ids, mask))
