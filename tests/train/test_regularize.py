from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from sklearn.linear_model import ElasticNet, Lasso
from torch import Tensor, nn

import laconic as lc
from laconic.core.errors import BadInput
from laconic.core.plan import Scaled
from laconic.core.program import Program
from laconic.pruning.coupling import couple
from laconic.pruning.surgery import remove
from laconic.train.regularize import REGULARIZERS, Regularizer
from tests.core.models import ConvNet
from tests.reference import regularize as twins

PENALTIES = [name for name, kind in REGULARIZERS.items() if kind.penalty is not None]
PROXIMAL = [name for name, kind in REGULARIZERS.items() if kind.proximal is not None]


@dataclass(frozen=True)
class Slot:
    tensor: str
    dim: int
    index: np.ndarray[Any, Any]


@dataclass(frozen=True)
class Group:
    slots: tuple[Slot, ...]


class Vectors(nn.Module):
    """Parameters of any shape and nothing else."""

    def __init__(self, **tensors: Tensor) -> None:
        super().__init__()
        for name, value in tensors.items():
            self.register_parameter(name, nn.Parameter(value))


def convnet() -> ConvNet:
    torch.manual_seed(0)
    return ConvNet().eval()


@cache
def captured() -> Program:
    return lc.capture(convnet(), torch.randn(2, 1, 8, 8))


def program() -> Program:
    return copy.deepcopy(captured())


def numpy_weights(model: nn.Module) -> list[np.ndarray]:
    return [p.detach().double().numpy() for p in model.parameters() if p.dim() > 1]


# The twins --------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PENALTIES)
@pytest.mark.parametrize("make", [convnet, program], ids=["module", "program"])
def test_a_penalty_equals_its_twin_and_has_a_gradient(name: str, make: Any) -> None:
    model = make()
    found = Regularizer([Scaled(name, 0.3)], model).penalty()
    assert found is not None
    assert found.item() == pytest.approx(getattr(twins, name)(numpy_weights(model), 0.3), rel=1e-5)
    found.backward()
    assert dict(model.named_parameters())["stem.weight"].grad.abs().sum() > 0


def test_the_gradient_of_l2_is_the_decay_of_sgd() -> None:
    model = convnet()
    found = Regularizer([Scaled("l2", 0.3)], model).penalty()
    assert found is not None
    found.backward()
    torch.testing.assert_close(model.head.weight.grad, 0.3 * model.head.weight)
    assert model.head.bias.grad is None


def test_orthogonal_filters_have_no_penalty() -> None:
    tall, wide = (nn.init.orthogonal_(torch.empty(shape)) for shape in ((6, 4), (4, 12)))
    model = Vectors(tall=tall, wide=wide.view(4, 3, 2, 2), single=torch.randn(1, 5))
    found = Regularizer([Scaled("orthogonality", 1.0)], model).penalty()
    assert found is not None
    assert found.item() < 1e-10


@pytest.mark.parametrize("make", [convnet, program], ids=["module", "program"])
@pytest.mark.parametrize(("name", "by", "shrink"), [("l1", 0.02, 1.0), ("elastic_net", 0.01, 1.01)])
def test_a_threshold_equals_its_twin_and_leaves_vectors_alone(name: str, by: float, shrink: float, make: Any) -> None:
    model = make()
    before = {key: p.detach().clone() for key, p in model.named_parameters()}
    regularizer = Regularizer([Scaled(name, 0.2)], model)
    regularizer.proximal(lr=0.1)
    for key, p in model.named_parameters():
        wanted = twins.soft_all(before[key].double().numpy(), by) / shrink if p.dim() > 1 else before[key].double().numpy()
        np.testing.assert_allclose(p.detach().double().numpy(), wanted, atol=1e-7, err_msg=key)
    weights = np.concatenate([value.ravel() for value in numpy_weights(model)])
    assert regularizer.report()[f"{name}_zeros"] == pytest.approx((weights == 0).mean())
    assert 0 < (weights == 0).mean() < 1


@pytest.mark.parametrize("make", [convnet, program], ids=["module", "program"])
def test_slimming_makes_scales_zero_and_leaves_the_rest_alone(make: Any) -> None:
    model = make()
    scales = {"layers.0.bn.weight", "layers.1.bn.weight"}
    with torch.no_grad():
        for key, p in model.named_parameters():
            if key in scales:
                p.copy_(torch.linspace(-0.1, 0.1, 8))
    before = {key: p.detach().clone() for key, p in model.named_parameters()}
    regularizer = Regularizer([Scaled("slimming", 0.5)], model)
    regularizer.proximal(lr=0.1)
    for key, p in model.named_parameters():
        wanted = torch.from_numpy(twins.soft_all(before[key].numpy(), 0.05)).float() if key in scales else before[key]
        torch.testing.assert_close(p.detach(), wanted, atol=1e-8, rtol=1e-6)
    assert regularizer.report() == {"slimming_zeros": 0.5}


def test_group_lasso_equals_its_twin_on_coupled_groups() -> None:
    """A residual net: the channels of the stem run through everything, and the square kernels meet themselves."""
    model = program()
    groups = couple(model).groups
    tensors = {key: p.detach().double().numpy().copy() for key, p in model.named_parameters()}
    for group in groups:
        slots = [(slot.tensor, slot.dim, slot.index.tolist()) for slot in group.slots if slot.tensor in tensors]
        tensors = twins.group_lasso(tensors, slots, 0.1 * 0.7)
    Regularizer([Scaled("group_lasso", 0.7)], model, groups).proximal(0.1)
    for key, p in model.named_parameters():
        np.testing.assert_allclose(p.detach().double().numpy(), tensors[key], rtol=1e-5, atol=1e-7, err_msg=key)


# Known solutions --------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "known"), [("l1", Lasso), ("elastic_net", ElasticNet)])
def test_least_squares_reaches_scikit_learns_solution(name: str, known: Any) -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((60, 12))
    y = x[:, :4] @ np.array([1.5, -2.0, 0.7, 0.3]) + 0.1 * rng.standard_normal(60)
    alpha = 0.15
    wanted = known(alpha=alpha, fit_intercept=False, tol=1e-12, max_iter=100_000).fit(x, y).coef_
    model = nn.Linear(12, 1, bias=False).double()
    regularizer = Regularizer([Scaled(name, alpha)], model)
    data, target = torch.from_numpy(x), torch.from_numpy(y)[:, None]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2)
    for _ in range(400):
        optimizer.zero_grad()
        (0.5 * (model(data) - target).square().mean()).backward()
        optimizer.step()
        regularizer.proximal(0.2)
    found = model.weight.detach().numpy()[0]
    np.testing.assert_allclose(found, wanted, atol=1e-7)
    assert ((found == 0) == (wanted == 0)).all()
    assert (found == 0).sum() > 3


class Coupled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.bn = nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6)
        self.second, self.head = nn.Conv2d(6, 5, 3), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.second(self.bn(self.first(x)).relu()).relu().mean((2, 3)))


def test_components_that_group_lasso_zeroed_can_be_pruned_for_nothing() -> None:
    model = lc.capture(Coupled().eval(), torch.randn(2, 1, 8, 8))
    coupling = couple(model)
    with torch.no_grad():  # three channels of the first and two of the second start small
        for name, rows in (("first", 3), ("second", 2)):
            for tensor in [f"{name}.weight", f"{name}.bias", *(["bn.weight", "bn.bias"] if name == "first" else [])]:
                dict(model.named_parameters())[tensor][:rows] *= 1e-3
        dict(model.named_parameters())["second.weight"][:, :3] *= 1e-3
        dict(model.named_parameters())["head.weight"][:, :2] *= 1e-3
    regularizer = Regularizer([Scaled("group_lasso", 1.0)], model, coupling.groups)
    for _ in range(4):
        regularizer.proximal(0.005)
    assert regularizer.report()["group_lasso_zeros"] == pytest.approx(5 / 11)
    keep = coupling.everything()
    for group in coupling.groups:
        slot = next(slot for slot in group.slots if slot.role == "out")
        empty = (dict(model.named_parameters())[slot.tensor].flatten(1) == 0).all(1).numpy()
        keep[group.components[slot.index[empty]]] = False
    small = remove(coupling, keep)
    assert small.state_dict()["first.weight"].shape == (3, 1, 3, 3)
    assert small.state_dict()["second.weight"].shape == (3, 3, 3, 3)
    x = torch.randn(4, 1, 8, 8)
    torch.testing.assert_close(small(x), model(x), rtol=1e-6, atol=1e-6)


# Invariants of proximal steps -------------------------------------------------------------------------------------------------------------

NUMBER = st.floats(-3, 3, allow_nan=False)
VECTOR = st.lists(NUMBER, min_size=3, max_size=3)
STRENGTH = st.floats(0, 2)


def pair(values: Sequence[float], name: str, by: float) -> np.ndarray:
    """The proximal step of a row (a matrix of one row for thresholds, a component of three numbers for group lasso)."""
    row = torch.tensor([values], dtype=torch.float64)
    group = Group((Slot("w", 0, np.array([0])),))
    model = Vectors(w=row)
    Regularizer([Scaled(name, by)], model, [group]).proximal(1.0)
    return next(model.parameters()).detach().numpy()[0]


VALUES: dict[str, Any] = {
    "l1": lambda x: np.abs(x).sum(),
    "elastic_net": lambda x: 0.5 * np.abs(x).sum() + 0.25 * np.square(x).sum(),
    "group_lasso": lambda x: math.sqrt(3) * np.linalg.norm(x),
}


@pytest.mark.parametrize("name", VALUES)
@settings(max_examples=30)
@given(v=VECTOR, w=VECTOR, by=STRENGTH)
def test_a_proximal_step_is_the_minimizer_and_does_not_expand(name: str, v: list[float], w: list[float], by: float) -> None:
    found = pair(v, name, by)

    def objective(x: np.ndarray) -> float:
        return float(0.5 * np.square(x - np.array(v)).sum() + by * VALUES[name](x))

    for direction in (np.eye(3)[0], np.eye(3)[1], np.eye(3)[2], np.array(v), np.array(w)):
        best = minimize_scalar(lambda t, d=direction: objective(found + t * d), bounds=(-2, 2), method="bounded")
        assert objective(found) <= best.fun + 1e-9
    assert np.linalg.norm(found - pair(w, name, by)) <= np.linalg.norm(np.array(v) - np.array(w)) + 1e-9


@settings(max_examples=30)
@given(v=VECTOR, by=STRENGTH, group=STRENGTH)
def test_l1_and_group_lasso_together_are_the_sparse_group_lasso_in_any_order(v: list[float], by: float, group: float) -> None:
    steps = [Scaled("group_lasso", group), Scaled("l1", by)]
    rows = []
    for order in (steps, steps[::-1]):
        model = Vectors(w=torch.tensor([v], dtype=torch.float64))
        Regularizer(order, model, [Group((Slot("w", 0, np.array([0])),))]).proximal(1.0)
        rows.append(next(model.parameters()).detach().numpy()[0])
    np.testing.assert_array_equal(*rows)

    def objective(x: np.ndarray) -> float:
        return float(0.5 * np.square(x - np.array(v)).sum() + by * np.abs(x).sum() + group * VALUES["group_lasso"](x))

    rng = np.random.default_rng(0)
    assert all(
        objective(rows[0]) <= objective(rows[0] + size * rng.standard_normal(3)) + 1e-12 for size in (1e-3, 1e-1, 1.0) for _ in range(10)
    )


# In training ------------------------------------------------------------------------------------------------------------------------------


def trained(choices: Sequence[Scaled]) -> tuple[Program, Regularizer]:
    model = program()
    regularizer = Regularizer(choices, model, couple(model).groups)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    x, y = torch.randn(16, 1, 8, 8, generator=torch.Generator().manual_seed(1)), torch.arange(16) % 10
    for _ in range(4):
        optimizer.zero_grad()
        loss, penalty = F.cross_entropy(model.train()(x), y), regularizer.penalty()
        (loss if penalty is None else loss + penalty).backward()
        optimizer.step()
        regularizer.proximal(0.05)
    return model.eval(), regularizer


@cache
def plainly_trained() -> str:
    return trained([])[0].fingerprint()


@pytest.mark.parametrize("name", REGULARIZERS)
def test_each_choice_and_its_strength_change_training(name: str) -> None:
    nothing, weak, strong = (trained([Scaled(name, strength)])[0].fingerprint() for strength in (0.0, 0.05, 0.1))
    assert nothing == plainly_trained()
    assert len({nothing, weak, strong}) == 3


def test_a_report_has_zeros_of_steps_and_values_of_penalties() -> None:
    _, regularizer = trained([Scaled(name, 0.01) for name in REGULARIZERS])
    assert set(regularizer.report()) == {*(f"{name}_zeros" for name in PROXIMAL), *(f"{name}_penalty" for name in PENALTIES)}
    assert Regularizer([], convnet()).penalty() is None


def test_frozen_parameters_stay() -> None:
    model = convnet()
    for p in model.layers[0].parameters():
        p.requires_grad_(False)
    groups = couple(program()).groups
    before = {key: p.detach().clone() for key, p in model.named_parameters()}
    Regularizer([Scaled(name, 0.1) for name in REGULARIZERS], model, groups).proximal(1.0)
    same = {key for key, p in model.named_parameters() if torch.equal(p, before[key])}
    frozen = {key for key in before if key.startswith("layers.0")}
    assert frozen <= same
    assert not {"stem.weight", "layers.1.bn.weight", "head.weight"} & same


# Mistakes ---------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("choices", "said"),
    [
        ([("lasso",)], "'lasso' is no regularizer. Did you mean 'group_lasso'"),
        ([("l1", -0.1)], "l1: a strength is 0 or more, not -0.1"),
        ([("l2", math.nan)], "strength: nan must be a number"),
        ([("l1",), ("l1",)], "l1: given 2 times"),
        ([("group_lasso",)], "group_lasso: it needs the coupled groups"),
        ([("slimming",)], "slimming: the model has no batch-norm"),
    ],
    ids=lambda value: value[0][0] if isinstance(value, list) else "",
)
def test_choices_of_nonsense(choices: list[tuple[Any, ...]], said: str) -> None:
    with pytest.raises(BadInput, match=said):
        Regularizer([Scaled(*choice) for choice in choices], nn.Linear(2, 2))


def test_all_nonsense_is_told_at_once() -> None:
    with pytest.raises(BadInput) as caught:
        Regularizer([Scaled("l3"), Scaled("slimming", -1), Scaled("orthogonality")], nn.Linear(2, 1))
    assert len(str(caught.value).splitlines()) == 5


@pytest.mark.parametrize(
    ("slot", "said"),
    [
        (Slot("wait", 0, np.arange(2)), "'wait', which the model does not have. Did you mean 'weight'"),
        (Slot("weight", 0, np.arange(3)), "Couple the model anew"),
    ],
    ids=["name", "shape"],
)
def test_groups_of_another_model(slot: Slot, said: str) -> None:
    with pytest.raises(BadInput, match=said):
        Regularizer([Scaled("group_lasso")], nn.Linear(2, 2), [Group((slot,))])


@pytest.mark.parametrize("name", REGULARIZERS)
def test_a_row_says_what_it_is(name: str) -> None:
    kind = REGULARIZERS[name]
    assert kind.strength
    assert kind.source
    assert (kind.penalty is None) != (kind.proximal is None)
