"""What removing half of one group alone does to the outputs."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from laconic.core.capture import capture
from laconic.core.errors import BadInput
from laconic.core.program import Program
from laconic.pruning.coupling import couple
from laconic.pruning.sensitivity import magnitudes, sensitivity
from laconic.pruning.trace import Policy
from tests.core.models import ConvNet, Tied


class Chain(nn.Module):
    """Two groups: six outputs of `first`, eight of `second`."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second, self.last = nn.Linear(4, 6), nn.Linear(6, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.second(self.first(x).relu()).relu())


class Attending(nn.Module):
    """Heads that share twelve numbers."""

    def __init__(self, heads: int = 4) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.heads = heads
        self.q, self.k, self.v, self.out = (nn.Linear(12, 12) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (part(x).view(x.shape[0], 5, self.heads, -1).transpose(1, 2) for part in (self.q, self.k, self.v))
        return self.out(nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(x.shape[0], 5, 12))


X = torch.randn(16, 4, generator=torch.Generator().manual_seed(1))


def captured(model: nn.Module, x: Tensor) -> Program:
    return capture(model.eval(), x)


def without(model: Chain, name: str, share: float) -> nn.Module:
    """The slow twin: a copy of the module in which the weakest rows of one layer, found one by one, answer 0."""
    made = copy.deepcopy(model)
    layer = getattr(made, name)
    rows = sorted(range(layer.out_features), key=lambda i: sum(float(w) ** 2 for w in layer.weight[i]))
    with torch.no_grad():
        for i in rows[: round(share * layer.out_features)]:
            layer.weight[i] = 0
            layer.bias[i] = 0
    return made


@pytest.mark.parametrize("share", [0.25, 0.5, 0.9])
def test_it_is_what_a_module_without_the_weakest_rows_answers(share: float) -> None:
    model = Chain()
    found = {row["name"]: row for row in sensitivity(captured(model, X[:2]), (X,), share)}
    assert list(found) == ["first", "second"]
    for name, row in found.items():
        with torch.no_grad():
            exact, other = model(X).double(), without(model, name, share)(X).double()
        expected = 10 * math.log10(float(exact.square().sum() / (exact - other).square().sum()))
        # single precision sums in another order: far less than a thousandth of a dB at these ratios
        assert row["sqnr_db"] == pytest.approx(expected, abs=1e-3)
        size = getattr(model, name).out_features
        assert (row["components"], row["removed"]) == (size, min(round(share * size), size - 1))


@given(seed=st.integers(0, 2**16), name=st.sampled_from(["first", "second"]))
def test_half_that_is_zero_goes_without_a_change(seed: int, name: str) -> None:
    generator = torch.Generator().manual_seed(seed)
    model = Chain()
    layer = getattr(model, name)
    dead = torch.randperm(layer.out_features, generator=generator)[: layer.out_features // 2]
    with torch.no_grad():
        layer.weight[dead] = 0
        layer.bias[dead] = 0
    rows = {row["name"]: row["sqnr_db"] for row in sensitivity(_again(model), (X,))}
    assert rows.pop(name) is None
    assert all(value is not None for value in rows.values())


def _again(model: nn.Module) -> Program:
    """One capture for all examples, with this model's numbers."""
    program = copy.deepcopy(CHAIN)
    program.load_state_dict(model.state_dict())
    return program


CHAIN = captured(Chain(), X[:2])


@pytest.mark.parametrize(("policy", "components"), [(None, 4), (Policy(attention="head_size"), 3)], ids=["heads", "head size"])
def test_the_policy_says_what_a_component_is(policy: Policy | None, components: int) -> None:
    x = torch.randn(3, 5, 12, generator=torch.Generator().manual_seed(2))
    assert components in {row["components"] for row in sensitivity(captured(Attending(), x), (x,), policy=policy)}


def test_a_training_program_is_run_as_in_eval_mode_and_not_changed() -> None:
    x = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(3))
    program = captured(ConvNet(dropout=0.5), x)
    expected = sensitivity(program, (x,))
    program.train()
    before = {name: value.clone() for name, value in program.state_dict().items()}
    assert sensitivity(program, (x,)) == expected
    assert program.training
    assert all(torch.equal(value, before[name]) for name, value in program.state_dict().items())


def test_a_table_without_a_layer_that_makes_it_counts_whole() -> None:
    program = captured(Tied(), torch.tensor([[1, 2, 3], [4, 5, 6]]))
    coupling = couple(program)
    for group in coupling.groups:
        assert (magnitudes(coupling, group) > 0).all()
    assert len(sensitivity(program, (torch.tensor([[1, 2, 3]]),))) == len(coupling.groups)


@pytest.mark.parametrize(("heads", "removed"), [(2, 1), (4, 3)])
def test_one_component_stays(heads: int, removed: int) -> None:
    model = Attending(heads)
    x = torch.randn(3, 5, 12, generator=torch.Generator().manual_seed(2))
    rows = sensitivity(captured(model, x), (x,), 0.9)
    assert [(row["components"], row["removed"]) for row in rows] == [(heads, removed)]
    assert rows[0]["sqnr_db"] is not None


def test_an_output_that_is_no_number_is_lost() -> None:
    model = Chain()
    with torch.no_grad():
        model.first.weight[0] = 1e30  # the rest is finite, this alone is not
        model.second.weight[:, 0] = 1e30
    rows = sensitivity(captured(model, X[:2]), (X,))
    assert {row["sqnr_db"] for row in rows} == {-300.0}


@pytest.mark.parametrize("share", [0.0, 1.0, -1.0, math.nan])
def test_a_share_that_makes_no_sense(share: float) -> None:
    with pytest.raises(BadInput, match="share: .* between 0 and 1"):
        sensitivity(CHAIN, (X,), share)


def test_progress_advances_with_each_group() -> None:
    class Heard:
        def __init__(self) -> None:
            self.said: list[Any] = []

        def start(self, name: str, total: int) -> None:
            self.said.append((name, total))

        def advance(self, n: int = 1, **facts: Any) -> None:
            self.said.append(n)

        def finish(self, **facts: Any) -> None:
            self.said.append("finish")

        def log(self, text: str) -> None:
            raise AssertionError(text)

    heard = Heard()
    sensitivity(CHAIN, (X,), progress=heard)
    assert heard.said == [("sensitivity", 2), 1, 1, "finish"]
