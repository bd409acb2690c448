"""The proof of equivalence: it compares something, where a cut can show, on the sizes and data that come."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import laconic as lc
from laconic.core.axes import dynamic_sizes
from laconic.core.capture import capture
from laconic.core.errors import BadInput, LaconicError
from laconic.core.program import Program
from laconic.pruning import structured
from laconic.pruning.coupling import Coupling, couple
from laconic.pruning.inputs import other_sizes, resized, task_batches
from laconic.pruning.perturb import perturbed
from laconic.pruning.proof import difference, equivalence, movements, moves, prove, random_choice
from laconic.pruning.surgery import remove
from laconic.tasks.data import ArrayDataset
from tests.pruning.families.common import conv
from tests.pruning.nets import Net, parameter, randomized, zeroed

SIDES = "the pruned program", "the masked program"


def coupled(module: nn.Module, x: Tensor, **options: Any) -> Coupling:
    return couple(capture(module.eval(), (x,), **options))


def half(coupling: Coupling) -> np.ndarray[Any, Any]:
    keep = coupling.everything()
    for group in coupling.groups:
        keep[group.components[::2]] = False
    return keep


# Nothing to compare -----------------------------------------------------------------------------------------------------------------------

ONE = torch.tensor([1.0, 2.0])


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("side", [0, 1], ids=SIDES)
def test_what_is_not_finite_is_an_error_on_either_side(side: int, bad: float) -> None:
    outputs = [[ONE, ONE.clone()], [ONE, ONE.clone()]]
    outputs[side][1][0] = bad
    with pytest.raises(LaconicError, match=f"output 1 of {SIDES[side]} is not finite on the example"):
        difference(*outputs, SIDES, "the example")


@pytest.mark.parametrize("outputs", [[], [torch.zeros(0, 3)], [torch.zeros(0, dtype=torch.long)]], ids=["none", "empty", "empty labels"])
def test_nothing_to_compare_is_an_error(outputs: list[Tensor]) -> None:
    with pytest.raises(LaconicError, match="puts out no number"):
        difference(outputs, outputs, SIDES, "the example")


def test_shapes_must_agree() -> None:
    with pytest.raises(LaconicError, match=r"shape \(2,\) in the pruned program and \(1,\) in the masked program"):
        difference([ONE], [ONE[:1]], SIDES, "the example")


@pytest.mark.parametrize(
    ("found", "expected", "value"),
    [
        ([ONE], [ONE], 0.0),
        ([torch.tensor([1.0, 3.0])], [torch.tensor([1.0, -4.0])], 7 / 4),
        ([ONE, torch.tensor([1e-9, 0.0])], [ONE, torch.tensor([2e-9, 0.0])], 0.5),  # a small output is not hidden by a large one
        ([torch.tensor([0.25])], [torch.tensor([0.0])], 0.25),
        ([torch.tensor([1, 2, 3, 4])], [torch.tensor([1, 2, 3, 5])], 0.25),
        ([ONE, torch.tensor([1, 2])], [ONE, torch.tensor([1, 3])], 0.0),
        ([torch.tensor([True, True])], [torch.tensor([True, False])], 0.5),
        ([torch.tensor([3 + 4j])], [torch.tensor([0 + 4j])], 0.75),
    ],
)
def test_differences_by_hand(found: list[Tensor], expected: list[Tensor], value: float) -> None:
    assert difference(found, expected, SIDES, "the example") == pytest.approx(value, rel=1e-6)


def test_a_masked_program_that_is_no_number_is_no_proof() -> None:
    """Channels that are divided by their own norm: those that go are zero over zero, the rest is fine."""
    module = randomized(Net(lambda m, x: m.b((y := m.a(x)) / y.norm(dim=(2, 3), keepdim=True)), a=conv(3, 6, bias=False), b=conv(6, 2)))
    program = capture(module, (torch.randn(2, 3, 4, 4),))
    coupling = couple(program)
    keep = half(coupling)
    assert all(bool(leaf.isfinite().all()) for leaf in remove(coupling, keep).graph_module(torch.randn(3, 3, 4, 4)))
    with pytest.raises(LaconicError, match="output 0 of the masked program is not finite"):
        equivalence(coupling, keep)
    with pytest.raises(LaconicError, match="output 0 of the masked program is not finite.*freeze"):
        lc.prune(program, lc.Prune(recovery={"epochs": 0}))  # type: ignore[operator]


# Real data --------------------------------------------------------------------------------------------------------------------------------


def task(module: nn.Module, valid: Tensor, train: Tensor | None = None) -> lc.Task:
    def data(x: Tensor | None) -> Any:
        return None if x is None else ArrayDataset(x.numpy(), np.zeros(len(x), np.int64))

    return lc.Task(module, data(train), data(valid), loss=F.cross_entropy)


def mlp() -> nn.Module:
    return randomized(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)))


def test_real_batches_are_compared_and_counted() -> None:
    valid = torch.randn(40, 4)
    program = capture(mlp(), (torch.randn(2, 4),))
    batches = task_batches(program, task(mlp(), valid))
    assert [tuple(x.shape) for (x,) in batches] == [(8, 4), (8, 4)]
    rows = {tuple(row) for row in valid.tolist()}
    assert all(tuple(row) in rows for (x,) in batches for row in x.tolist())
    _, outcome = lc.prune(program, lc.Prune(recovery={"epochs": 0}), task(mlp(), valid, valid))  # type: ignore[operator]
    assert outcome.changed["compared"] == {"sizes": ["batch 3", "batch 4"], "batches": 2}


def test_what_breaks_on_real_data_alone_is_found() -> None:
    module = Net(lambda m, x: m.b(m.a(x).relu()) / x.amin(1, keepdim=True), a=nn.Linear(4, 8), b=nn.Linear(8, 3))
    program = capture(randomized(module), (torch.ones(2, 4),))
    zeros = torch.zeros(20, 4)
    with pytest.raises(LaconicError, match=r"output 0 of the .* program is not finite on batch 1 of the task's data"):
        lc.prune(program, lc.Prune(recovery={"epochs": 0}), task(module, zeros, zeros))  # type: ignore[operator]
    lc.prune(program, lc.Prune(recovery={"epochs": 0}))  # type: ignore[operator]


@pytest.mark.parametrize("given", [None, task(mlp(), torch.randn(0, 4)), lc.Task(mlp(), None, None)], ids=["no task", "empty", "no data"])
def test_without_data_there_are_no_real_batches(given: lc.Task | None) -> None:
    assert task_batches(capture(mlp(), (torch.randn(2, 4),)), given) == []


def test_a_fixed_batch_gets_whole_batches() -> None:
    program = capture(mlp(), (torch.randn(3, 4),), dynamic_batch=False)
    batches = task_batches(program, task(mlp(), torch.randn(40, 4)))
    assert [tuple(x.shape) for (x,) in batches] == [(3, 4), (3, 4)]
    assert other_sizes(program) == ()
    coupling = couple(program)
    assert prove(coupling, half(coupling), remove(coupling, half(coupling)), batches).real == 2


# Other sizes ------------------------------------------------------------------------------------------------------------------------------


def test_other_sizes_repeat_the_example_and_differ() -> None:
    program = capture(Net(lambda m, x, i: x + i), (torch.rand(2, 4), torch.arange(8).view(2, 4)))
    x, i = resized(program, {"batch": 5})
    assert (x.shape, i.shape) == ((5, 4), (5, 4))
    assert torch.equal(i[4], program.example_inputs()[1][0])
    assert not torch.equal(x[0], x[2])


@pytest.mark.parametrize(
    ("forward", "lengths"),
    [
        (lambda m, x: m.b(m.a(x)), (8, 6)),
        (lambda m, x: m.b(m.a(x) + m.p[: x.shape[1]]), (6, 3)),  # there are only seven places
        (lambda m, x: m.b(m.a(x).view(x.shape[0], -1, 7, 6)), (14, 21)),
    ],
    ids=["any", "few places", "by sevens"],
)
def test_lengths_that_the_model_takes_are_found(forward: Any, lengths: tuple[int, int]) -> None:
    module = randomized(Net(forward, a=nn.Linear(5, 6), b=nn.Linear(6, 2), p=parameter(7, 6)))
    program = capture(module, (torch.randn(2, 7, 5),), dynamic={"inputs_0": {1: "length"}})
    assert dynamic_sizes(program.inputs, program.example_inputs()) == {"batch": 2, "length": 7}
    found = other_sizes(program)
    assert tuple(other.sizes["length"] for other in found) == lengths
    assert len({other.sizes["batch"] for other in found} - {2}) == 2


def baked(program: Program) -> Program:
    """The same with the batch of the example in a view."""
    for node in program.graph.nodes:
        if "view" in str(node.target) or "reshape" in str(node.target):
            node.update_arg(1, [2, *node.args[1][1:]])
    program.recompile()
    return program


def test_a_program_that_fixed_a_size_is_refused() -> None:
    module = randomized(Net(lambda m, x: m.b(m.a(x).relu().reshape(x.shape[0], 3, 2).flatten(1)), a=nn.Linear(4, 6), b=nn.Linear(6, 2)))
    program = baked(capture(module, (torch.randn(2, 4),)))
    with pytest.raises(BadInput, match=r"runs at those of the example only \(batch 2\).*dynamic_batch=False"):
        lc.prune(program, lc.Prune(recovery={"epochs": 0}))  # type: ignore[operator]


def test_a_pruned_program_that_fixed_a_size_is_found() -> None:
    module = randomized(Net(lambda m, x: m.b(m.a(x).relu().reshape(x.shape[0], -1)), a=nn.Linear(4, 6), b=nn.Linear(6, 2)))
    coupling = coupled(module, torch.randn(2, 4))
    with pytest.raises(LaconicError, match="does not run on batch 3"):
        prove(coupling, half(coupling), baked(remove(coupling, half(coupling))))


# Degenerate parameters --------------------------------------------------------------------------------------------------------------------


def zero_head() -> nn.Module:
    module = randomized(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)))
    nn.init.zeros_(module[2].weight)
    return module


class Scaled(nn.Module):
    """Two residual blocks behind a scale: LayerScale, or a last norm of zero."""

    def __init__(self, scale: float, norm: bool) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 6, 1), nn.Conv2d(6, 2, 1)
        self.up, self.down = (nn.ModuleList(nn.Conv2d(*sizes, 1) for _ in range(2)) for sizes in ((6, 8), (8, 6)))
        self.norms = nn.ModuleList(nn.BatchNorm2d(6) if norm else nn.Identity() for _ in range(2))
        self.scales = nn.ParameterList(nn.Parameter(torch.full((6, 1, 1), scale)) for _ in range(0 if norm else 2))
        if norm:
            for part in self.norms:
                nn.init.constant_(part.weight, scale)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        for i, (up, down, norm) in enumerate(zip(self.up, self.down, self.norms, strict=True)):
            y = norm(down(up(x).relu()))
            x = x + (y * self.scales[i] if self.scales else y)
        return self.last(x)


def half_norm() -> nn.Module:
    """Its first channels, which go, do not reach the output."""
    module = Net(lambda m, x: m.b(m.n(m.a(x)).relu()), a=conv(3, 8), n=nn.BatchNorm2d(8), b=conv(8, 2))
    with torch.no_grad():
        module.n.weight[::2] = 0
    return module


DEGENERATE: dict[str, tuple[Any, tuple[int, ...], tuple[str, ...]]] = {
    "zero head": (zero_head, (2, 4), ("0",)),
    "layer scale": (lambda: Scaled(1e-6, norm=False), (2, 3, 4, 4), ("up.0", "up.1")),
    "zero last norm": (lambda: Scaled(0.0, norm=True), (2, 3, 4, 4), ("up.0", "up.1")),
    "scalar gate": (
        lambda: Net(
            lambda m, x: x[:, :2] + m.s * m.b(m.a(x).relu()), a=nn.Linear(4, 8), b=nn.Linear(8, 2), s=nn.Parameter(torch.zeros(()))
        ),
        (2, 4),
        ("a",),
    ),
    "half a norm is zero": (half_norm, (2, 3, 4, 4), ("a",)),
}


@pytest.mark.parametrize("name", DEGENERATE)
def test_a_cut_behind_a_degenerate_parameter_moves_the_perturbed_program(name: str) -> None:
    make, shape, groups = DEGENERATE[name]
    torch.manual_seed(0)
    module, x = make(), torch.randn(shape)
    coupling = coupled(module, x)
    keep = half(coupling)
    before = coupling.program.fingerprint()
    plain = movements(coupling, keep, (x,))
    assert all(plain[group] < 1e-5 for group in groups)
    proof = prove(coupling, keep, remove(coupling, keep))
    assert all(proof.moved[group] > 1e-2 for group in groups)
    assert proof.difference < 1e-5
    assert proof.idle == ()
    assert coupling.program.fingerprint() == before


@pytest.mark.parametrize("name", [name for name in DEGENERATE if name != "half a norm is zero"])
def test_a_wrong_slice_behind_a_degenerate_parameter_is_found(name: str) -> None:
    """The layer before it has lost other rows than the mask says."""
    make, shape, groups = DEGENERATE[name]
    torch.manual_seed(0)
    coupling = coupled(make(), torch.randn(shape))
    keep = coupling.everything()
    group = next(group for group in coupling.groups if group.name == groups[0])
    keep[group.components[::2]] = False
    pruned = remove(coupling, keep)
    wrong = pruned.get_parameter(f"{groups[0]}.weight")
    with torch.no_grad():
        wrong.copy_(coupling.program.get_parameter(f"{groups[0]}.weight")[::2])
    assert equivalence(coupling, keep, pruned=pruned) < 1e-4  # as it is, nothing shows
    with pytest.raises(LaconicError, match="does not compute what the masked one does"):
        prove(coupling, keep, pruned)


def test_ones_are_spread_so_that_their_order_shows() -> None:
    coupling = coupled(nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.Linear(8, 2)), torch.randn(2, 4))
    found = perturbed(coupling, coupling.program.example_inputs())
    assert len(found["1.weight"].unique()) == len(found["1.bias"].unique()) == 8
    assert "0.weight" not in found or (found["0.weight"] == coupling.tensor("0.weight")).float().mean() > 0.9


def test_the_output_of_a_structurally_dead_group_is_noted() -> None:
    module = randomized(
        Net(lambda m, x: m.b(m.a(x).relu()) + 0 * m.d(m.c(x)), a=nn.Linear(4, 8), b=nn.Linear(8, 2), c=nn.Linear(4, 6), d=nn.Linear(6, 2))
    )
    program = capture(module, (torch.randn(2, 4),))
    _, outcome = lc.prune(program, lc.Prune(criterion="random", recovery={"epochs": 0}))  # type: ignore[operator]
    moved = {group["name"]: group["moved"] for group in outcome.changed["groups"]}
    assert moved["a"] > 1e-3
    assert moved["c"] == outcome.changed["moved"] == 0
    assert ["says nothing of c:" in note for note in outcome.notes] == [True]


def test_a_model_that_no_cut_moves_is_refused() -> None:
    module = randomized(Net(lambda m, x: 0 * m.b(m.a(x)) + x[:, :2], a=nn.Linear(4, 8), b=nn.Linear(8, 2)))
    with pytest.raises(LaconicError, match=r"proves nothing: whatever is removed, the output moves by 0\.0e\+00"):
        lc.prune(capture(module, (torch.randn(2, 4),)), lc.Prune(recovery={"epochs": 0}))  # type: ignore[operator]


def test_movement_is_that_of_the_zeroed_module() -> None:
    """Against a plain twin: the module with the slices of one group at zero."""
    module, x = mlp(), torch.randn(5, 4)
    coupling = coupled(module, x)
    keep = random_choice(coupling, 0.5, seed=1)
    with torch.no_grad():
        whole, cut = module(x), zeroed(module, coupling, keep)(x)
    expected = float((cut - whole).abs().max() / whole.abs().max())
    assert moves(coupling, keep, (x,)) == pytest.approx(expected, rel=1e-5)
    assert movements(coupling, keep, (x,)) == {"0": pytest.approx(expected, rel=1e-5)}


def test_the_step_stops_where_the_proof_does(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*given: Any) -> None:
        raise LaconicError("no")

    monkeypatch.setattr(structured, "prove", fail)
    with pytest.raises(LaconicError, match="no"):
        lc.prune(capture(mlp(), (torch.randn(2, 4),)), lc.Prune(recovery={"epochs": 0}))  # type: ignore[operator]


def test_activations_that_vanish_before_a_batch_norm_are_raised() -> None:
    """New nets with epsilons of 1e-3 lose a factor of ten in every layer."""
    layers: list[nn.Module] = []
    for before, after in ((3, 8), (8, 8), (8, 8), (8, 8)):
        layers += [conv(before, after), nn.BatchNorm2d(after, eps=1e-3), nn.ReLU()]
        nn.init.normal_(layers[-3].weight, std=1e-3)
        nn.init.zeros_(layers[-3].bias)
    torch.manual_seed(0)
    module = nn.Sequential(*layers, conv(8, 2)).eval()
    coupling = coupled(module, torch.randn(4, 3, 4, 4))
    keep = random_choice(coupling, 0.5, seed=1)
    assert max(movements(coupling, keep, coupling.program.example_inputs()).values()) < 1e-6
    proof = prove(coupling, keep, remove(coupling, keep))
    assert min(proof.moved.values()) > 1e-3
    assert proof.difference < 1e-5
