"""What surgery leaves as it was, what it refuses, and that training goes on."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, fx, nn

from laconic.core.capture import capture
from laconic.core.errors import BadInput
from laconic.core.program import Program
from laconic.pruning.coupling import Coupling, couple
from laconic.pruning.proof import equivalence
from laconic.pruning.structured import Alive, channels, survivors
from laconic.pruning.surgery import Keep, Surgeon, carry_over, remove
from tests.core.models import ConvNet, Nested, Tied
from tests.pruning.families import CASES
from tests.pruning.families.common import conv
from tests.pruning.nets import CAPTURED, Case, Net, built, difference, image, randomized, tokens, zeroed

VARIOUS = (
    "resnext, channels",
    "resnext, groups",
    "computed weight, depthwise",
    "attention, dynamic length",
    "attention, in the batch",
    "grouped queries, expanded",
    "fused, in chunks, head size",
    "gru, both ways, zeros",
    "layer norm, maps",
    "every size written out",
    "channel shuffle of groups",
    "squeeze of all ones",
    "cat, constants",
    "pad, channels",
    "slice, in the middle",
    "expand",
    "repeat, new",
    "pixel shuffle",
    "moments",
)
various = pytest.mark.parametrize("made", [CASES[name] for name in VARIOUS], ids=VARIOUS)


def net_of(module: nn.Module, *inputs: Tensor) -> tuple[Program, Coupling]:
    program = capture(module.eval(), inputs)
    return program, couple(program)


def conv_net() -> tuple[Program, Coupling]:
    return net_of(randomized(ConvNet()), torch.randn(4, 1, 8, 8))


def keeping(coupling: Coupling, group: int, places: list[int]) -> Keep:
    """All, but of one group only the components at these places."""
    keep = coupling.everything()
    components = coupling.groups[group].components
    keep[components] = False
    keep[components[places]] = True
    return keep


def half(coupling: Coupling) -> Keep:
    """Every second of each group, and the first."""
    keep = coupling.everything()
    for group in coupling.groups:
        keep[group.components[1::2]] = False
    return keep


# What stays -------------------------------------------------------------------------------------------------------------------------------


@various
def test_to_keep_all_changes_nothing(made: Case) -> None:
    _, program, coupling = built(made)
    same = remove(coupling, coupling.everything())
    assert same is not program
    assert same.fingerprint() == program.fingerprint()


@various
def test_the_program_is_not_changed(made: Case) -> None:
    _, program, coupling = built(made)
    before = program.fingerprint()
    shapes = {node.name: str(node.meta.get("val")) for node in program.graph.nodes}
    pruned = remove(coupling, half(coupling))
    assert program.fingerprint() == before
    assert {node.name: str(node.meta.get("val")) for node in program.graph.nodes} == shapes
    assert pruned.fingerprint() != before
    with torch.no_grad():
        for value in pruned.state_dict().values():
            value.zero_()
    assert program.fingerprint() == before


@various
def test_names_and_interface_stay(made: Case) -> None:
    _, program, coupling = built(made)
    pruned = remove(coupling, half(coupling))
    assert list(pruned.state_dict()) == list(program.state_dict())
    assert pruned.interface == program.interface
    for (name, old), (other, new) in zip(program.named_parameters(), pruned.named_parameters(), strict=True):
        assert (name, old.requires_grad, old.dtype) == (other, new.requires_grad, new.dtype)


def test_what_is_tied_stays_tied() -> None:
    program, coupling = net_of(randomized(Tied()), torch.randint(0, 11, (4, 3)))
    pruned = remove(coupling, keeping(coupling, 0, [0, 3]))
    parameters = dict(pruned.named_parameters(remove_duplicate=False))
    assert parameters["embed.weight"] is parameters["out.weight"]
    assert parameters["out.weight"].shape == (11, 2)
    assert torch.equal(parameters["out.weight"], program.state_dict()["out.weight"][:, [0, 3]])


def test_a_frozen_parameter_stays_frozen_and_a_transient_buffer_transient() -> None:
    module = Net(lambda m, x: m.b(m.a(x) * m.s), a=nn.Linear(5, 6), b=nn.Linear(6, 2))
    module.a.weight.requires_grad_(False)
    module.register_buffer("s", torch.rand(6), persistent=False)
    _, coupling = net_of(module, torch.randn(4, 5))
    pruned = remove(coupling, keeping(coupling, 0, [1, 2]))
    assert not pruned.get_parameter("a.weight").requires_grad
    assert pruned.get_parameter("b.weight").requires_grad
    assert "s" not in pruned.state_dict()
    assert pruned.get_buffer("s").shape == (2,)


def test_surviving_numbers_are_bit_equal_and_in_order() -> None:
    program, coupling = net_of(nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 2)), torch.randn(4, 3))
    pruned = remove(coupling, keeping(coupling, 0, [4, 1]))
    before, after = program.state_dict(), pruned.state_dict()
    assert torch.equal(after["0.weight"], before["0.weight"][[1, 4]])
    assert torch.equal(after["0.bias"], before["0.bias"][[1, 4]])
    assert torch.equal(after["2.weight"], before["2.weight"][:, [1, 4]])
    assert torch.equal(after["2.bias"], before["2.bias"])


def test_double_precision_stays() -> None:
    _, coupling = net_of(randomized(ConvNet()).double(), torch.randn(4, 1, 8, 8, dtype=torch.float64))
    keep = half(coupling)
    assert {value.dtype for value in remove(coupling, keep).parameters()} == {torch.float64}
    assert equivalence(coupling, keep) < 1e-12


def test_a_program_in_training_mode_can_be_pruned() -> None:
    program, _ = conv_net()
    program.train()
    coupling = couple(program)
    pruned = remove(coupling, half(coupling))
    assert program.training
    assert not pruned.training


def test_nested_outputs_stay_nested() -> None:
    inputs = ({"a": torch.randn(4, 4), "deep": {"b": torch.randn(4, 4)}},)

    class Deep(Nested):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Linear(4, 6)
            self.linear = nn.Linear(6, 2)

        def forward(self, batch: dict[str, Any]) -> Any:
            return super().forward({"a": self.first(batch["a"]), "deep": {"b": self.first(batch["deep"]["b"])}})

    program = capture(Deep().eval(), inputs)
    coupling = couple(program)
    keep = keeping(coupling, 0, [0, 2])
    found, expected = remove(coupling, keep)(*inputs), program(*inputs)
    assert type(found) is type(expected)
    assert set(found) == set(expected)
    assert found["logits"].shape == (4, 2)
    assert equivalence(coupling, keep) < 1e-5


# What is refused --------------------------------------------------------------------------------------------------------------------------


def test_what_must_stay_cannot_go() -> None:
    program, coupling = conv_net()
    before = program.fingerprint()
    for component in np.flatnonzero(coupling.frozen):
        keep = coupling.everything()
        keep[component] = False
        with pytest.raises(BadInput, match="a component that must stay was to be removed: ") as caught:
            remove(coupling, keep)
        assert coupling.causes[coupling.cause[component]] in str(caught.value)
    assert program.fingerprint() == before


@pytest.mark.parametrize(
    ("name", "tensor"), [("conv2d", "a.weight"), ("lstm", "a.weight"), ("grouped, groups", "a.weight"), ("embedding", "e.weight")]
)
def test_something_is_left_of_each_dimension(name: str, tensor: str) -> None:
    _, program, coupling = built(CASES[name])
    before = program.fingerprint()
    with pytest.raises(BadInput, match=r"nothing would be left of dimension \d of .*: keep at least one") as caught:
        remove(coupling, keeping(coupling, 0, []))
    assert tensor in str(caught.value)
    assert program.fingerprint() == before


def test_a_choice_of_the_wrong_length_is_refused() -> None:
    _, coupling = conv_net()
    with pytest.raises(BadInput, match="of 3 components whether they stay; there are 18"):
        remove(coupling, np.ones(3, bool))


# Single choices ---------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("places", [[0], [3], [0, 1, 2, 3], [2, 3]], ids=str)
@pytest.mark.parametrize("name", ["slice, in the middle", "pad, negative", "shift in length", "slice, negative", "split"])
@torch.no_grad()
def test_ends_of_pieces(name: str, places: list[int]) -> None:
    """All outside a slice goes, or all inside, or its first."""
    made = CASES[name]
    module, _, coupling = built(made)
    for number, group in enumerate(coupling.groups):
        keep = keeping(coupling, number, [i for i in places if i < len(group)] or [0])
        inputs = made.inputs(3)
        pruned = remove(coupling, keep)
        assert equivalence(coupling, keep, inputs, pruned) < 1e-5
        assert difference(pruned(*inputs), zeroed(module, coupling, keep)(*inputs)) < 1e-5


@torch.no_grad()
def test_all_around_a_slice_goes() -> None:
    module, _, coupling = built(CASES["slice, in the middle"])  # channels 2 … 5 of 8 are read
    keep = coupling.everything()
    ids = coupling.label[coupling.tensors["a.weight"][0]]
    keep[ids[[0, 1, 6, 7]]] = False
    inputs = tokens(3)
    assert difference(remove(coupling, keep)(*inputs), module(*inputs)) < 1e-5


# Shapes -----------------------------------------------------------------------------------------------------------------------------------


class Shapes(fx.Interpreter):
    """Compares what is noted on each node with what it computes; counts how often."""

    compared = 0

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        if n.op == "call_function" and "val" in n.meta:
            noted, found = n.meta["val"], result
            pairs = zip(noted, found, strict=True) if isinstance(found, (tuple, list)) else [(noted, found)]
            for a, b in pairs:
                if isinstance(b, Tensor):
                    sizes = tuple(s if isinstance(s, int) else int(s.node.hint) for s in a.shape)
                    assert (sizes, a.dtype) == (tuple(b.shape), b.dtype), n
                    self.compared += 1
        return result


@various
@torch.no_grad()
def test_shapes_are_noted_as_they_are(made: Case) -> None:
    coupling = built(made)[2]
    pruned = remove(coupling, half(coupling))
    again = couple(pruned, made.policy)
    for program in (pruned, remove(again, half(again))):
        shapes = Shapes(program.graph_module)
        shapes.run(*program.example_inputs())
        assert shapes.compared > 0


@pytest.mark.parametrize(
    "name",
    [
        "attention, dynamic length",
        "grouped queries, expanded",
        "fused, stacked",
        "fused, in heads",
        "every size written out",
        "slice, of tokens",
    ],
)
@torch.no_grad()
def test_other_lengths_go_on_working(name: str) -> None:
    made = CASES[name]
    module, _, coupling = built(made)
    keep = half(coupling)
    pruned, expected = remove(coupling, keep), zeroed(module, coupling, keep)
    for batch, length in ((1, 5), (2, 7), (5, 12), (4, 3)):
        x = torch.randn(batch, length, 5)
        assert difference(pruned(x), expected(x)) < 1e-5


# Training goes on -------------------------------------------------------------------------------------------------------------------------

OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "momentum": lambda p: torch.optim.SGD(p, 0.05, momentum=0.9, nesterov=True),
    "adam": lambda p: torch.optim.Adam(p, 0.01, amsgrad=True),
    "adamw": lambda p: torch.optim.AdamW([{"params": p[:2], "lr": 0.02}, {"params": p[2:]}], 0.01, weight_decay=0.1),
    "rmsprop": lambda p: torch.optim.RMSprop(p, 0.01, momentum=0.5, centered=True),
}


def step(program: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor) -> None:
    optimizer.zero_grad()
    out = program(x)
    (out.square().mean() + out.sum() * 0.1).backward()
    optimizer.step()


def chain() -> nn.Module:
    """What is zero stays dead: relu'(0) = 0."""
    return Net(lambda m, x: m.b(m.c(m.a(x).relu()).relu()), a=conv(3, 6, 3), c=conv(6, 4), b=conv(4, 2))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_optimizer_is_carried_over(name: str) -> None:
    program, coupling = net_of(randomized(chain()), *image(CAPTURED))
    program.train()
    optimizer = OPTIMIZERS[name](list(program.parameters()))
    for _ in range(3):
        step(program, optimizer, image(4)[0])
    keep = half(coupling)
    pruned = remove(coupling, keep).train()
    surgeon = Surgeon(pruned, coupling, keep)
    twin, twins = copy.deepcopy(program), {}
    with torch.no_grad():
        for key, value in twin.named_parameters():
            twins[key] = value
            for dim, ids in enumerate(coupling.tensors[key]):
                for index in [] if ids is None else np.flatnonzero(~keep[coupling.label[ids]]):
                    value.select(dim, int(index)).zero_()
    other = OPTIMIZERS[name](list(twin.parameters()))
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    carry_over(optimizer, coupling, keep, pruned)
    assert {id(p) for group in optimizer.param_groups for p in group["params"]} == {id(p) for p in pruned.parameters()}
    x = image(4)[0]
    step(pruned, optimizer, x)
    step(twin, other, x)
    for key, value in pruned.named_parameters():
        torch.testing.assert_close(value, surgeon.sliced(key, twins[key]), rtol=1e-4, atol=1e-6)
        state = optimizer.state[value]
        assert state
        assert all(v.shape == value.shape for v in state.values() if isinstance(v, Tensor) and v.dim())


def test_tied_and_unread_parameters_are_carried_over() -> None:
    class Odd(Tied):
        def __init__(self) -> None:
            super().__init__()
            self.unused = nn.Linear(3, 3)

    program, coupling = net_of(Odd(), torch.randint(0, 11, (4, 3)))
    optimizer = torch.optim.Adam(program.parameters(), 0.01)
    step(program.train(), optimizer, torch.randint(0, 11, (4, 3)))
    keep = keeping(coupling, 0, [0, 3])
    pruned = remove(coupling, keep).train()
    stranger = nn.Parameter(torch.zeros(3))
    optimizer.add_param_group({"params": [stranger]})
    carry_over(optimizer, coupling, keep, pruned)
    held = [p for group in optimizer.param_groups for p in group["params"]]
    assert {id(p) for p in held} == {id(p) for p in pruned.parameters()} | {id(stranger)}
    assert optimizer.state[pruned.get_parameter("out.weight")]["exp_avg"].shape == (11, 2)
    step(pruned, optimizer, torch.randint(0, 11, (4, 3)))


def test_what_is_left_of_groups_that_share_a_layer_is_told() -> None:
    coupling = built(CASES["split"])[2]  # four channels of `a` go to `b`, six to `c`
    alive: Alive = {}
    keep = half(coupling)
    survivors(coupling, keep, alive)
    assert [(group["before"], group["after"]) for group in channels(coupling, alive)] == [(4, 2), (6, 3)]
    again = couple(remove(coupling, keep))
    second = half(again)
    survivors(again, second, alive)
    assert [group["after"] for group in channels(coupling, alive)] == [int(second[g.components].sum()) for g in again.groups]
