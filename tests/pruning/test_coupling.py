"""What belongs together, against a twin that finds it by experiment; what is frozen, and why; random nets."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from laconic.core.capture import capture
from laconic.core.errors import BadInput
from laconic.pruning.coupling import Coupling, couple
from laconic.pruning.proof import equivalence, random_choice
from laconic.pruning.surgery import remove
from laconic.pruning.trace import Policy
from tests.core.models import ConvNet, Tied
from tests.pruning.families import CASES
from tests.pruning.families.common import conv
from tests.pruning.nets import BATCH, Net, built, difference, randomized, zeroed
from tests.reference import coupling as reference

# The twin ---------------------------------------------------------------------------------------------------------------------------------


def residual(n: int = 3) -> Net:
    def forward(m: Net, x: Tensor) -> Tensor:
        x = m.a(x).tanh()
        return m.b((x + m.d(m.norm(m.c(x)).tanh())).tanh())

    return Net(forward, a=conv(2, n), c=conv(n, n, 3, padding=1), norm=nn.BatchNorm2d(n), d=conv(n, n), b=conv(n, 3))


def squeeze_and_excite() -> Net:
    def forward(m: Net, x: Tensor) -> Tensor:
        x = m.a(x).tanh()
        return m.b(x * m.up(m.down(x.mean((2, 3), keepdim=True)).tanh()).tanh())

    return Net(forward, a=conv(2, 3), down=conv(3, 3), up=conv(3, 3), b=conv(3, 3))


def double(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


FOUND: dict[str, tuple[Callable[[], nn.Module], Callable[[], Tensor]]] = {
    "chain": (
        lambda: nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 3)),
        lambda: double(4, 3),
    ),
    "residual": (residual, lambda: double(4, 2, 4, 4)),
    "two residuals": (
        lambda: Net(
            lambda m, x: m.b((y := m.a(x).tanh()) + (z := m.c(y).tanh()) + m.d(z).tanh()),
            a=nn.Linear(3, 4),
            c=nn.Linear(4, 4),
            d=nn.Linear(4, 4),
            b=nn.Linear(4, 4),
        ),
        lambda: double(4, 3),
    ),
    "concatenation": (
        lambda: Net(lambda m, x: m.b(torch.cat([y := m.a(x).tanh(), m.c(y).tanh()], 1)), a=conv(2, 3), c=conv(3, 3), b=conv(6, 3)),
        lambda: double(4, 2, 3, 3),
    ),
    "product": (
        lambda: Net(lambda m, x: m.b(m.a(x) * m.c(x).tanh()), a=nn.Linear(3, 4), c=nn.Linear(3, 4), b=nn.Linear(4, 3)),
        lambda: double(4, 3),
    ),
    "squeeze and excitation": (squeeze_and_excite, lambda: double(4, 2, 3, 3)),
    "two heads": (
        lambda: Net(lambda m, x: (m.b(y := m.a(x).tanh()), m.c(y)), a=nn.Linear(3, 4), b=nn.Linear(4, 3), c=nn.Linear(4, 3)),
        lambda: double(4, 3),
    ),
    "halves": (
        lambda: Net(
            lambda m, x: m.b(m.a(x).tanh()[:, :3]) + m.c(m.a(x).tanh()[:, 3:]), a=nn.Linear(3, 6), b=nn.Linear(3, 3), c=nn.Linear(3, 3)
        ),
        lambda: double(4, 3),
    ),
    "an embedding": (
        lambda: Net(lambda m, i: m.b(m.a(i).tanh()), a=nn.Embedding(5, 4), b=nn.Linear(4, 3)),
        lambda: torch.randint(0, 5, (4, 8)),
    ),
}


def components_of(coupling: Coupling, module: nn.Module) -> set[frozenset[reference.Slice]]:
    """The slices of parameters of each component that can be removed."""
    found = defaultdict(set)
    for name, _ in module.named_parameters():
        for dim, ids in enumerate(coupling.tensors.get(name, [])):
            for index, component in enumerate([] if ids is None else coupling.label[ids].tolist()):
                if not coupling.frozen[component]:
                    found[component].add((name, dim, index))
    return {frozenset(slices) for slices in found.values()}


@pytest.mark.parametrize("name", FOUND)
def test_components_are_those_found_by_experiment(name: str) -> None:
    make, inputs = FOUND[name]
    module, x = randomized(make()).double(), inputs()
    found = components_of(couple(capture(module, x)), module)
    assert found == reference.components(module, x, together=3 if name == "two residuals" else 2)
    assert found


@torch.no_grad()
def test_no_part_of_a_residual_component_can_go_alone() -> None:
    module, x = randomized(residual(4)).double(), double(3, 2, 4, 4)
    coupling = couple(capture(module, x))
    group = next(group for group in coupling.groups if group.name == "a")
    slots = [((slot.tensor, slot.dim), np.flatnonzero(slot.index == 1).tolist()) for slot in group.slots]
    keep = coupling.everything()
    keep[group.components[1]] = False
    expected = zeroed(module, coupling, keep)(x)
    assert difference(reference.without(module, dict(slots))(x), expected) < 1e-9
    for n in range(1, len(slots)):
        for part in itertools.combinations(slots, n):
            try:
                found = reference.without(module, dict(part))(x)
            except RuntimeError:
                continue
            assert difference(found, expected) > 1e-3


ONE_BY_ONE = ("cat", "film", "fused, in heads", "grouped queries, expanded", "gru, both ways, zeros", "group norm, auto", "half goes round")


@pytest.mark.parametrize("name", ONE_BY_ONE)
@torch.no_grad()
def test_every_single_component_can_go(name: str) -> None:
    made = CASES[name]
    module, _, coupling = built(made)
    inputs = made.inputs(BATCH)
    for group in coupling.groups:
        for component in group.components:
            keep = coupling.everything()
            keep[component] = False
            pruned = remove(coupling, keep)
            assert equivalence(coupling, keep, inputs, pruned) < 1e-4
            assert difference(pruned(*inputs), zeroed(module, coupling, keep)(*inputs)) < 1e-4


# Counting ---------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(CASES))
def test_prunable_is_a_plain_count(name: str) -> None:
    """Of channels that a weight makes, one by one."""
    coupling = built(CASES[name])[2]
    free = total = 0
    for tensor, value in coupling.parameters():
        for dim, size in enumerate(value.shape):
            if coupling.roles.get((tensor, dim)) == "out":
                for index in range(size):
                    ids = coupling.tensors[tensor][dim]
                    total += 1
                    free += ids is not None and coupling.cause[coupling.label[ids[index]]] < 0
    assert coupling.prunable() == (free, total)
    assert free <= total


PLAIN: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], tuple[int, int]]] = {
    # the last layer's channels are the output; the weight that reads the first's counts for nothing
    "two layers": (lambda: nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)), (4, 3), (4, 6)),
    "wide head": (lambda: nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 96)), (4, 3), (4, 100)),
    "residual of the input": (
        lambda: Net(lambda m, x: m.b(x + m.d(m.c(x).tanh())), c=nn.Linear(3, 5), d=nn.Linear(5, 3), b=nn.Linear(3, 2)),
        (4, 3),
        (5, 10),
    ),
    "norms do not count": (lambda: nn.Sequential(conv(3, 6), nn.BatchNorm2d(6), nn.ReLU(), conv(6, 4)), (4, 3, 5, 5), (6, 10)),
    "transposed": (lambda: nn.Sequential(conv(3, 6), nn.ConvTranspose2d(6, 5, 2), conv(5, 4)), (4, 3, 5, 5), (11, 15)),
    "depthwise": (lambda: nn.Sequential(conv(3, 6), conv(6, 6, 3, groups=6), conv(6, 4)), (4, 3, 5, 5), (12, 16)),
    "nothing": (lambda: nn.Sequential(nn.Linear(3, 4), nn.Softmax(-1), nn.Linear(4, 2)), (4, 3), (0, 6)),
}


@pytest.mark.parametrize("name", PLAIN)
def test_prunable_counts_output_channels(name: str) -> None:
    make, shape, expected = PLAIN[name]
    assert couple(capture(make().eval(), torch.randn(shape))).prunable() == expected


def test_parameters_that_nothing_reads_stay() -> None:
    program = capture(ConvNet().eval(), torch.randn(4, 1, 8, 8))
    coupling = couple(program)
    pruned = remove(coupling, random_choice(coupling, 0.5))
    assert torch.equal(pruned.state_dict()["unused.weight"], program.state_dict()["unused.weight"])


# Freezing ---------------------------------------------------------------------------------------------------------------------------------


def state(program: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in program.state_dict().items()}


@pytest.mark.parametrize(
    ("path", "stay"),
    [
        ("stem", ("stem.",)),
        ("layers.0", ("layers.0.",)),
        ("layers.1.bn", ("layers.1.bn.", "stem.weight", "stem.bias")),
        ("layers.0.conv.weight", ("layers.0.conv.",)),
        ("head", ("head.", "stem.weight")),
    ],
)
def test_a_frozen_module_stays_bit_equal(path: str, stay: tuple[str, ...]) -> None:
    program = capture(randomized(ConvNet()), torch.randn(4, 1, 8, 8))
    coupling = couple(program, freeze=[path])
    before, after = state(program), state(remove(coupling, random_choice(coupling, 0.3)))
    for name, value in before.items():
        if name.startswith(stay):
            assert torch.equal(after[name], value), name
    assert f"asked for: {path}" in coupling.causes


def test_freezing_one_module_leaves_others_free() -> None:
    net = nn.Sequential(nn.Linear(3, 6), nn.ReLU(), nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 2))
    coupling = couple(capture(net, torch.randn(4, 3)), freeze=["2"])
    assert [group.name for group in coupling.groups] == ["4"]
    assert coupling.frozen_causes()["0.weight[0]"] == "asked for: 2"


def test_a_tied_module_is_frozen_under_either_name() -> None:
    program = capture(Tied().eval(), torch.randint(0, 11, (4, 3)))
    assert couple(program).groups
    for path in ("embed", "out", "out.weight"):
        assert not couple(program, freeze=[path]).groups


def test_a_module_without_slices_can_be_frozen_too() -> None:
    program = capture(ConvNet().eval(), torch.randn(4, 1, 8, 8))
    assert len(couple(program, freeze=["unused"]).groups) == len(couple(program).groups)


@pytest.mark.parametrize(("path", "meant"), [("layer.0", "layers.0"), ("steem", "stem"), ("layers.0.con", "layers.0.conv")])
def test_an_unknown_path_is_refused(path: str, meant: str) -> None:
    program = capture(ConvNet().eval(), torch.randn(4, 1, 8, 8))
    with pytest.raises(BadInput, match=f"'{path}' is no module with parameters. Did you mean '{meant}"):
        couple(program, freeze=[path])


@pytest.mark.parametrize(
    ("name", "tensor", "cause"),
    [
        ("all of a dimension", "l0.weight[0]", "softmax works along it"),
        ("gru, state is an input", "rnn.weight_hh_l0[0]", "meets a dimension that cannot be cut in gru of rnn"),
        ("residual of the input", "a.weight[0]", "meets a dimension that cannot be cut in add"),
        ("trunk is put out", "a.weight[0]", "an output of the model"),
        ("pixels and channels mixed", "a.weight[0]", "mixes it with other dimensions"),
        ("one block cannot be followed", "a.weight[0]", "mixes it with other dimensions"),
    ],
)
def test_causes_are_told(name: str, tensor: str, cause: str) -> None:
    assert cause in built(CASES[name])[2].frozen_causes()[tensor]


def test_the_first_cause_is_told() -> None:
    coupling = couple(capture(Net(lambda m, x: m.a(x).softmax(-1), a=nn.Linear(5, 6)), torch.randn(4, 5)))
    assert coupling.frozen_causes() == {"a.weight[0]": "softmax works along it (softmax)"}
    assert "an output of the model" in coupling.causes


def test_what_has_groups_has_no_cause() -> None:
    coupling = built(CASES["cat"])[2]
    assert set(coupling.frozen_causes()) == {"b.weight[0]"}
    assert not coupling.unknown


# Random nets ------------------------------------------------------------------------------------------------------------------------------


class Split(nn.Module):
    """Halves go through branches of their own and are joined again."""

    def __init__(self, left: nn.Module, right: nn.Module) -> None:
        super().__init__()
        self.left, self.right = left, right

    def forward(self, x: Tensor) -> Tensor:
        left, right = x.chunk(2, 1)
        return torch.cat([self.left(left), self.right(right)], 1)


class Join(nn.Module):
    """Branches of one input, added, multiplied or concatenated."""

    def __init__(self, how: str, left: nn.Module, right: nn.Module) -> None:
        super().__init__()
        self.how, self.left, self.right = how, left, right

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.left(x), self.right(x)
        return {"add": lambda: a + b, "multiply": lambda: a * b.sigmoid(), "cat": lambda: torch.cat([a, b], 1)}[self.how]()


class Excite(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.down, self.up = conv(channels, 2), conv(2, channels)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.up(self.down(x.mean((2, 3), keepdim=True)).relu()).sigmoid()


class Last(nn.Module):
    """A linear layer and its norm, where channels come last."""

    def __init__(self, channels: int, outputs: int) -> None:
        super().__init__()
        self.norm, self.linear = nn.LayerNorm(channels), nn.Linear(channels, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.norm(x.permute(0, 2, 3, 1))).permute(0, 3, 1, 2)


Plan = Any  # kind and options; see `block`
SIZES = st.sampled_from([4, 6, 8])
PLANS: st.SearchStrategy[Plan] = st.recursive(
    st.one_of(
        st.tuples(st.sampled_from(["conv", "linear"]), SIZES),
        st.tuples(
            st.sampled_from(["relu", "sigmoid", "batch", "layer", "group", "depthwise", "grouped", "excite", "glu", "shuffle", "pool"])
        ),
    ),
    lambda inner: st.one_of(
        st.tuples(st.just("residual"), st.lists(inner, max_size=3)),
        st.tuples(st.sampled_from(["add", "multiply", "cat", "split"]), st.lists(inner, max_size=2), st.lists(inner, max_size=2)),
    ),
    max_leaves=6,
)


def block(plan: Plan, c: int) -> tuple[nn.Module, int]:
    """A module for a plan and for so many channels (an even number), and how many it puts out."""
    kind, *options = plan
    if kind == "conv":
        return conv(c, options[0], 3, padding=1), options[0]
    if kind == "linear":
        return Last(c, options[0]), options[0]
    if kind == "glu":
        return nn.Sequential(conv(c, 2 * c), nn.GLU(1)), c
    if kind == "residual":
        inner, outputs = blocks(options[0], c)
        back = nn.Identity() if outputs == c else conv(outputs, c)
        return Join("add", nn.Identity(), nn.Sequential(inner, back)), c
    if kind in ("add", "multiply", "cat"):
        (left, a), (right, b) = blocks(options[0], c), blocks(options[1], c)
        if kind == "cat":
            return Join(kind, left, right), a + b
        return Join(kind, left, right if a == b else nn.Sequential(right, conv(b, a))), a
    if kind == "split":
        (left, a), (right, b) = blocks(options[0], c // 2, even=False), blocks(options[1], c // 2, even=False)
        return Split(left, right), a + b
    simple: dict[str, Callable[[], nn.Module]] = {
        "relu": nn.ReLU,
        "sigmoid": nn.Sigmoid,
        "batch": lambda: nn.BatchNorm2d(c),
        "layer": lambda: nn.GroupNorm(1, c),
        "group": lambda: nn.GroupNorm(2, c),
        "depthwise": lambda: conv(c, c, 3, padding=1, groups=c),
        "grouped": lambda: conv(c, c, groups=2),
        "excite": lambda: Excite(c),
        "shuffle": lambda: nn.ChannelShuffle(2),
        "pool": lambda: nn.AvgPool2d(3, 1, 1),
    }
    return simple[kind](), c


def blocks(plans: list[Plan], c: int, even: bool = True) -> tuple[nn.Module, int]:
    if not even and c % 2:
        return nn.Identity(), c
    made = []
    for plan in plans:
        part, c = block(plan, c)
        made.append(part)
        if c % 2:
            made.append(conv(c, c + 1))
            c += 1
    return nn.Sequential(*made), c


@settings(max_examples=15)
@given(
    st.lists(PLANS, min_size=1, max_size=4),
    st.sampled_from([Policy(), Policy(groups="channels"), Policy(groups="groups")]),
    st.sampled_from([0.3, 0.6]),
    st.integers(0, 9),
)
@torch.no_grad()
def test_random_nets_compute_the_same(plans: list[Plan], policy: Policy, share: float, seed: int) -> None:
    middle, c = blocks(plans, 8)
    net = randomized(nn.Sequential(conv(2, 8), middle, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(c, 3)), seed)
    coupling = couple(capture(net, torch.randn(4, 2, 4, 4)), policy)
    assert not coupling.unknown
    assert coupling.groups
    keep = random_choice(coupling, share, seed)
    inputs = (torch.randn(3, 2, 4, 4),)
    pruned = remove(coupling, keep)
    assert equivalence(coupling, keep, inputs, pruned) < 1e-4
    again = couple(pruned, policy)
    assert equivalence(again, random_choice(again, 0.6, seed), inputs) < 1e-4


class Halves(nn.Module):
    """A layer whose outputs are read in two parts, each by a layer of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.both, self.left, self.right = nn.Linear(4, 10), nn.Linear(6, 2), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        left, right = self.both(x).split([6, 4], dim=1)
        return self.left(left) + self.right(right)  # type: ignore[no-any-return]


def test_groups_of_one_weight_have_names_of_their_own() -> None:
    groups = couple(capture(Halves().eval(), torch.randn(2, 4))).groups
    assert [(group.name, len(group)) for group in groups] == [("both", 6), ("both#2", 4)]
