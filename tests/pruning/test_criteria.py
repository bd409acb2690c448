from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from laconic.core import extensions
from laconic.core.capture import capture
from laconic.core.errors import BadInput
from laconic.pruning.collect import collect, score
from laconic.pruning.coupling import Coupling, Group, couple
from laconic.pruning.criteria import CRITERIA, Criterion, Evidence, criteria, criterion, gini, histogram_entropy, named, producing
from laconic.pruning.structured import Prune
from laconic.pruning.trace import Policy
from tests.pruning.cases import BATCH, CASES, EXAMPLES, built, context_of, doubles, form_of, group_of, residual
from tests.quantization.nets import Attention, mlp
from tests.reference import criteria as twin

GROUPS = [(name, group) for name, case in CASES.items() for group in case.groups]
SCORED = sorted(set(CRITERIA) - {"random"})


# Against the twins ------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SCORED)
@pytest.mark.parametrize(("net", "group"), GROUPS, ids=[f"{net}-{group}" for net, group in GROUPS])
def test_it_equals_its_twin(net: str, group: str, name: str) -> None:
    _, x, coupling = built(net)
    scores = score(coupling, name, context_of(x), EXAMPLES, BATCH)
    found = scores[[g.name for g in coupling.groups].index(group)]
    assert found.dtype == torch.float64
    form = form_of(net, group)
    expected = np.array(twin.TWINS[name](form))
    if name == "bn_scale" and not form.scales:  # scored by l1, at the level of groups that have batch-norms
        found, expected = found / found.mean(), expected / expected.mean()
    # double precision; the sums run in another order
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-9, atol=1e-16)


def test_the_cases_name_all_groups_and_the_twins_all_criteria() -> None:
    assert {name: [g.name for g in built(name)[2].groups] for name in CASES} == {name: list(case.groups) for name, case in CASES.items()}
    assert set(twin.TWINS) == set(SCORED)


# Worked by hand ---------------------------------------------------------------------------------------------------------------------------


def small() -> Coupling:
    """Two inputs, three channels with (3, 4), (0, 1), (1, 0), read by 12, 0, 2. The second consumer reads them."""
    net = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1)).double()
    with torch.no_grad():
        net[0].weight.copy_(torch.tensor([[3.0, 4.0], [0.0, 1.0], [1.0, 0.0]]))
        net[0].bias.zero_()
        net[2].weight.copy_(torch.tensor([[12.0, 0.0, 2.0]]))
    return couple(capture(net, (doubles(4, 2),)))


POOLED = torch.tensor([[0.0, 5.0, 0.0], [0.0, 5.0, 1.0], [1.0, 5.0, 2.0], [1.0, 5.0, 3.0]], dtype=torch.float64)
MEAN = (13 + 1 + math.sqrt(5)) / 3
WORKED: dict[str, list[float]] = {
    "l1": [7, 1, 1],
    "l2": [5, 1, 1],
    "group_l2": [13 / MEAN, 1 / MEAN, math.sqrt(5) / MEAN],
    "lamp": [1, 1 / 175, 5 / 174],
    "bn_scale": [7, 1, 1],
    "fpgm": [math.sqrt(18) + math.sqrt(20), math.sqrt(18) + math.sqrt(2), math.sqrt(20) + math.sqrt(2)],
    "gini_weight": [1 / 14, 1 / 2, 1 / 2],
    "taylor": [(2 * 7) ** 2, 4, 4],
    "obd": [0.5 * 3 * 169, 0.5 * 3, 0.5 * 3 * 5],
    "activation": [0.5, 5, 1.5],
    "entropy": [math.log(2), 0, math.log(4)],
    "gini_activation": [1 / 2, 0, (-3 * 0 - 1 + 2 + 3 * 3) / (4 * 6)],
    "wanda": [12 * 2, 0, 2 * 4],
}


@pytest.mark.parametrize("name", SCORED)
def test_worked_values(name: str) -> None:
    coupling = small()
    tensors = dict(coupling.parameters())
    evidence = Evidence(
        coupling,
        gradients={key: torch.full_like(p, 2) for key, p in tensors.items()},
        squares={key: torch.full_like(p, 3) for key, p in tensors.items()},
        pooled={1: POOLED},
        magnitude={1: POOLED.mean(0)},
        power={1: torch.tensor([4.0, 9.0, 16.0])},
    )
    assert CRITERIA[name](evidence, coupling.groups[0]).tolist() == pytest.approx(WORKED[name], rel=1e-12)


def test_equal_components_have_the_published_lamp_scores() -> None:
    """Lee et al. 2021 sort ascending and let equal ones follow each other: the first of them is divided by the sum of both."""
    coupling = small()
    with torch.no_grad():
        coupling.tensor("0.weight").copy_(torch.tensor([[1.0, 0], [2.0, 0], [1.0, 0]]))
        coupling.tensor("2.weight").zero_()
    assert CRITERIA["lamp"](Evidence(coupling), coupling.groups[0]).tolist() == pytest.approx([1 / 6, 1, 1 / 5])


def test_some_scores_compare_across_groups_and_some_do_not() -> None:
    assert CRITERIA["lamp"].comparable
    assert not CRITERIA["l1"].comparable


class Entry:
    """Stands for an entry point of an installed package."""

    group, value, dist = "laconic.criteria", "theirs:row", None

    def __init__(self, name: str, row: object) -> None:
        self.name, self.row = name, row

    def load(self) -> object:
        return self.row


def test_another_package_adds_a_criterion_as_a_row_or_as_a_function(monkeypatch: pytest.MonkeyPatch) -> None:
    def backwards(evidence: Evidence, group: Group) -> Tensor:
        return torch.arange(len(group), 0, -1).double()

    entries = [Entry("theirs", Criterion(backwards, comparable=True)), Entry("plain", backwards)]
    monkeypatch.setattr(extensions, "entry_points", lambda group: entries if group == "laconic.criteria" else [])
    criteria.cache_clear()
    try:
        assert (named("theirs").comparable, named("plain").comparable) == (True, False)
        (found,) = score(small(), "theirs", context_of(doubles(4, 2)))
        assert found.tolist() == sorted(found.tolist(), reverse=True)
        assert Prune(criterion="plain").criterion == "plain"
    finally:
        criteria.cache_clear()


def test_taylor_is_the_squared_gradient_of_a_gate() -> None:
    """Molchanov et al. 2019: a gate of 1 behind a layer or its batch norm; here two, since a residual ties two producers together."""
    module, x, coupling = built("residual")
    for group, paths in (("stem", ("norm", "two")), ("one", ("norm1",))):
        gate = torch.ones(8, dtype=torch.float64, requires_grad=True)
        hooks = [module.get_submodule(p).register_forward_hook(lambda _, args, y, gate=gate: y * gate.view(-1, 1, 1)) for p in paths]
        (module(x) - 0.3).square().mean().backward()
        for hook in hooks:
            hook.remove()
        module.zero_grad()
        evidence = collect(coupling, ["gradients"], context_of(x), EXAMPLES, EXAMPLES)
        found = CRITERIA["taylor"](evidence, group_of(coupling, group))
        torch.testing.assert_close(found, gate.grad.square(), rtol=1e-9, atol=1e-18)


def test_a_layer_that_others_read_too_is_a_gate_of_its_own() -> None:
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm, self.last = nn.Conv2d(2, 4, 1), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1)

        def forward(self, x: Tensor) -> Tensor:
            y = self.conv(x)
            return self.last(self.norm(y).relu() + y)

    coupling = couple(capture(Both().eval(), (torch.randn(4, 2, 3, 3),)))
    ones = {key: torch.ones_like(p) for key, p in coupling.parameters()}
    tensors = dict(coupling.parameters())
    expected = (tensors["conv.weight"].sum((1, 2, 3)) + tensors["conv.bias"]).square()
    assert Evidence(coupling).gates == (frozenset(), frozenset())
    torch.testing.assert_close(CRITERIA["taylor"](Evidence(coupling, ones), coupling.groups[0]), expected.detach().double())


# Properties -------------------------------------------------------------------------------------------------------------------------------


def permuted(order: Tensor) -> nn.Module:
    """A residual net whose inner channels are in another order."""
    module = residual().double()
    with torch.no_grad():
        for tensor in (module.one.weight, module.norm1.weight, module.norm1.bias, module.norm1.running_mean, module.norm1.running_var):
            tensor.copy_(tensor[order].clone())
        module.two.weight.copy_(module.two.weight[:, order].clone())
    return module


@pytest.mark.parametrize("name", SCORED)
def test_scores_go_with_their_channels(name: str) -> None:
    x, order, found = doubles(EXAMPLES, 3, 6, 6), torch.randperm(8), []
    for places in (torch.arange(8), order):
        torch.manual_seed(3)
        coupling = couple(capture(permuted(places), (x,)))
        scores = score(coupling, name, context_of(x))
        found.append(scores[1])
        assert len(scores[1].unique()) > 1
    torch.testing.assert_close(found[1], found[0][order], rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize(
    "name", ["l1", "l2", "group_l2", "lamp", "bn_scale", "taylor", "obd", "gini_weight", "activation", "wanda", "entropy"]
)
@pytest.mark.parametrize("channel", [0, 5])
def test_a_zeroed_channel_scores_lowest(name: str, channel: int) -> None:
    module, x = residual().double(), doubles(EXAMPLES, 3, 6, 6)
    with torch.no_grad():
        for tensor in (module.one.weight, module.norm1.weight, module.norm1.bias, module.two.weight.transpose(0, 1)):
            tensor[channel] = 0
    found = score(couple(capture(module, (x,))), name, context_of(x))[1]
    assert found[channel] == 0
    assert (found > 0).sum() == 7


def test_the_channel_nearest_to_all_others_scores_lowest_in_fpgm() -> None:
    net = mlp(2, 4, 1)
    with torch.no_grad():
        net[0].weight.copy_(torch.tensor([[1.0, 0], [-1, 0], [0, 3], [0, 0]]))
    coupling = couple(capture(net, (torch.randn(4, 2),)))
    assert CRITERIA["fpgm"](Evidence(coupling), coupling.groups[0]).argmin() == 3


def test_distances_of_many_channels_far_from_zero_are_exact_in_fpgm() -> None:
    """So many rows are compared by squared norms, which would round away what they differ by."""
    net = mlp(4, 64, 1).double()
    with torch.no_grad():
        net[0].weight.copy_(1e4 + 1e-3 * doubles(64, 4))
    coupling, rows = couple(capture(net, (doubles(4, 4),))), net[0].weight.tolist()
    expected = [sum(math.dist(a, b) for b in rows) for a in rows]
    # what is left are the squared norms of a thousandth, and the roots of their rounding
    assert CRITERIA["fpgm"](Evidence(coupling), coupling.groups[0]).tolist() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("name", sorted(CRITERIA))
def test_all_zero_weights_have_finite_scores(name: str) -> None:
    module, x = mlp(3, 4, 2).double(), doubles(4, 3)
    with torch.no_grad():
        for p in module.parameters():
            p.zero_()
    (found,) = score(couple(capture(module, (x,))), name, context_of(x))
    assert found.shape == (4,)
    assert bool(found.isfinite().all())
    assert bool((found >= 0).all())


def test_random_depends_on_the_seed_and_on_nothing_else() -> None:
    def scores(seed: int, weights: int) -> list[Tensor]:
        torch.manual_seed(weights)
        return score(couple(capture(mlp(3, 5, 5, 2), (torch.randn(4, 3),))), "random", context_of(doubles(4, 3), seed=seed))

    first = scores(0, 0)
    assert all(torch.equal(a, b) for a, b in zip(first, scores(0, 1), strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(first, scores(1, 0), strict=True))
    assert not torch.equal(first[0], first[1])
    assert all(((s >= 0) & (s < 1)).all() for s in first)


@given(st.lists(st.floats(0, 1e3).map(lambda x: round(x, 3)), min_size=1, max_size=20))
def test_gini_and_entropy_stay_within_their_ends(values: list[float]) -> None:
    row = torch.tensor([values], dtype=torch.float64)
    assert gini(row).item() == pytest.approx(twin.gini(values), abs=1e-12)
    assert 0 <= gini(row).item() <= 1 - 1 / len(values) + 1e-12
    assert 0 <= histogram_entropy(row.T).item() <= math.log(min(len(values), 32)) + 1e-12


# Where there is nothing to look at --------------------------------------------------------------------------------------------------------


class Log:
    def __init__(self) -> None:
        self.lines: list[str] = []
        self.steps: list[Any] = []

    def start(self, name: str, total: int) -> None:
        self.steps.append((name, total))

    def advance(self, n: int = 1, **facts: Any) -> None:
        self.steps.append(n)

    def finish(self, **facts: Any) -> None:
        self.steps.append("finish")

    def log(self, text: str) -> None:
        self.lines.append(text)


@pytest.mark.parametrize("name", sorted(name for name, row in CRITERIA.items() if row.sees is not None))
def test_a_group_that_a_criterion_cannot_see_is_scored_by_l1_and_named(name: str) -> None:
    x, log = doubles(EXAMPLES, 5, 8), Log()
    coupling = couple(capture(Attention(dim=8).double().eval(), (x,)), Policy(attention="head_size"))
    blind = [g for g in coupling.groups if g.name == "qkv.0"]  # queries and keys: no weight reads their product's terms
    assert [len(g) for g in blind] == [4]
    scores = dict(zip([g.name for g in coupling.groups], score(coupling, name, context_of(x, progress=log)), strict=True))
    # compared between groups, they need the others' level; all groups are blind to batch-norms here, and the level is 1
    seen = [value for key, value in scores.items() if key != "qkv.0"]
    level = torch.cat(seen).mean() if CRITERIA[name].comparable else CRITERIA["l1"](Evidence(coupling), blind[0]).mean()
    plain = CRITERIA["l1"](Evidence(coupling), blind[0])
    torch.testing.assert_close(scores["qkv.0"], plain * level / plain.mean(), rtol=1e-9, atol=0.0)
    assert len(log.lines) == 1
    assert "qkv.0" in log.lines[0]
    plain = CRITERIA["l1"](Evidence(coupling), group_of(coupling, "up"))
    assert torch.allclose(scores["up"] / scores["up"].mean(), plain / plain.mean()) == (name == "bn_scale")


def test_a_group_that_nothing_makes_is_scored_by_all_its_slices() -> None:
    class Read(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.last = nn.Parameter(torch.randn(3, 4)), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(x.unsqueeze(-1) * self.table).sum(1)

    coupling = couple(capture(Read(), (torch.randn(4, 3),)))
    (group,) = coupling.groups
    assert {slot.role for slot in group.slots} == {"table", "in"}
    table, weight = (dict(coupling.parameters())[name].detach().double() for name in ("table", "last.weight"))
    ones = {name: torch.ones_like(p) for name, p in coupling.parameters()}
    for name, expected in (("l1", table.abs().sum(0) + weight.abs().sum(0)), ("taylor", (table.sum(0) + weight.sum(0)).square())):
        torch.testing.assert_close(CRITERIA[name](Evidence(coupling, ones), group), expected)


def test_only_floating_parameters_count() -> None:
    coupling = built("residual")[2]
    found = producing(coupling, coupling.groups[0], ("norm",))
    assert [slot.tensor for slot, _ in found] == ["norm.weight", "norm.bias"]


# The table --------------------------------------------------------------------------------------------------------------------------------


def test_an_unknown_name_gets_the_nearest() -> None:
    with pytest.raises(BadInput, match="Did you mean 'taylor'"):
        named("tailor")
    with pytest.raises(BadInput, match="no criterion 'magnitud'"):
        score(small(), "magnitud", context_of(doubles(4, 2)))


def test_a_name_is_taken_once() -> None:
    with pytest.raises(AssertionError):
        criterion("l1")(lambda evidence, group: torch.zeros(len(group)))


def test_needs_are_of_known_criteria() -> None:
    assert {name: set(row.needs) for name, row in CRITERIA.items() if row.needs} == {
        "taylor": {"gradients"},
        "obd": {"gradients"},
        "activation": {"activations"},
        "entropy": {"activations"},
        "gini_activation": {"activations"},
        "wanda": {"activations"},
    }
