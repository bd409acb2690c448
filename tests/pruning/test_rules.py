"""Every operator family between layers that can be pruned: what goes together, and that what is left computes the same."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import openvino
import pytest
import torch
from torch import Tensor, nn

from laconic.core.capture import capture
from laconic.core.program import Program
from laconic.deploy.export import write_model
from laconic.pruning.coupling import couple
from laconic.pruning.proof import equivalence, random_choice
from laconic.pruning.rules.table import RULES
from laconic.pruning.surgery import remove
from tests.pruning.families import CASES
from tests.pruning.nets import BATCH, Case, Net, built, difference, groups_of, zeroed

LIMIT = 1e-4  # relative: sums in another order, in single precision
each = pytest.mark.parametrize("made", CASES.values(), ids=CASES)
WHOLE_WAY = (
    "resnext, channels",
    "group norm, auto",
    "attention, dynamic length",
    "attention, in the batch, length unsaid",
    "grouped queries, expanded",
    "fused, in heads, head size",
    "lstm, both ways",
    "gru, learned state",
    "response norm",
    "cat",
    "channel shuffle by view",
    "embedding, tied",
)
whole_way = pytest.mark.parametrize("made", [CASES[name] for name in WHOLE_WAY], ids=WHOLE_WAY)


def half(made: Case) -> Program:
    coupling = built(made)[2]
    return remove(coupling, random_choice(coupling, 0.5, seed=2))


@each
def test_groups_are_those_found_by_hand(made: Case) -> None:
    assert set(groups_of(built(made)[2])) == set(made.groups)


@each
@pytest.mark.parametrize("share", [0.3, 0.7])
@torch.no_grad()
def test_what_is_left_computes_the_same(made: Case, share: float) -> None:
    module, _, coupling = built(made)
    inputs = made.inputs(BATCH)
    keep = random_choice(coupling, share, seed=1)
    pruned = remove(coupling, keep)
    assert equivalence(coupling, keep, inputs, pruned) < LIMIT
    found = pruned(*inputs)
    if made.zeroed:
        assert difference(found, zeroed(module, coupling, keep)(*inputs)) < LIMIT
    if inspect.signature(made.make).parameters:
        groups = groups_of(coupling)
        small = made.make(*[int(keep[groups[text].components].sum()) for text in made.groups]).eval()
        small.load_state_dict(pruned.state_dict())
        assert difference(found, small(*inputs)) < LIMIT


@whole_way
@torch.no_grad()
def test_it_can_be_pruned_again(made: Case) -> None:
    pruned = half(made)
    coupling = couple(pruned, made.policy)
    assert coupling.groups
    keep = next(keep for seed in range(20) if not (keep := random_choice(coupling, 0.6, seed)).all())
    assert equivalence(coupling, keep, made.inputs(BATCH)) < LIMIT


@whole_way
def test_it_trains(made: Case) -> None:
    pruned = half(made).train()
    before = {name: value.detach().clone() for name, value in pruned.named_parameters()}
    optimizer = torch.optim.SGD(pruned.parameters(), 0.1)
    outputs = pruned(*made.inputs(BATCH))
    (outputs.square().mean() + outputs.mean()).backward()
    optimizer.step()
    assert all(bool(torch.isfinite(value).all()) for value in pruned.parameters())
    # a bias in front of a norm, or of keys, has no gradient
    taught = {name: value for name, value in pruned.named_parameters() if value.grad is not None and float(value.grad.abs().max()) > 1e-5}
    assert len(taught) > len(before) / 2
    assert all(bool((value != before[name]).any()) for name, value in taught.items())


@whole_way
@torch.no_grad()
def test_it_is_saved_and_loaded(made: Case, tmp_path: Path) -> None:
    pruned, inputs = half(made), made.inputs(BATCH)
    loaded = Program.load(pruned.save(tmp_path / "model.pt2"))
    assert difference(loaded(*inputs), pruned(*inputs)) == 0
    coupling = couple(loaded, made.policy)
    assert [len(group) for group in coupling.groups] == [len(group) for group in couple(pruned, made.policy).groups]
    assert equivalence(coupling, random_choice(coupling, 0.6), inputs) < LIMIT


SHIPPED = (
    "resnext, channels",
    "attention, dynamic length",
    "grouped queries, expanded",
    "lstm, both ways",
    "windows, then a grid",
    "topk",
    "scatter",
    "grid_sampler, flow",
    "gru cell",
    "tensordot",
)


@pytest.mark.parametrize("name", SHIPPED)
@torch.no_grad()
def test_both_runtimes_compute_the_same_at_two_batch_sizes(name: str, tmp_path: Path) -> None:
    made = CASES[name]
    pruned = half(made)
    path = str(write_model(pruned, tmp_path, "onnx"))
    session = onnxruntime.InferenceSession(path)
    compiled = openvino.Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    for batch in (BATCH, 5):
        inputs = made.inputs(batch)
        given = {spec.name: value.numpy() for spec, value in zip(pruned.inputs, inputs, strict=True)}
        expected = pruned(*inputs).numpy()
        for found in (session.run(None, given)[0], compiled(given)[0]):
            np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("name", "operator"), [("cdist", "cdist"), ("fft", "fft_rfft")])
@torch.no_grad()
def test_an_operator_without_a_rule_freezes_and_is_named(name: str, operator: str) -> None:
    calls: dict[str, Callable[[Tensor], Tensor]] = {
        "cdist": lambda x: torch.cdist(x, x),
        "fft": lambda x: torch.fft.rfft(x).abs(),
    }
    net = Net(lambda m, x: m.b(calls[name](m.a(m.first(x).relu()))), first=nn.Linear(5, 4), a=nn.Linear(4, 6), b=nn.LazyLinear(2))
    x = torch.randn(4, 7, 5)
    net(x)
    coupling = couple(capture(net.eval(), x))
    assert operator not in RULES
    assert [str(node.target) for node in coupling.unknown] == [f"aten.{operator}.default"]
    assert coupling.frozen_causes()["a.weight[0]"] == f"operator {operator} has no rule"
    assert set(groups_of(coupling)) == {"4 a.w:1 first.b:0 first.w:0"}
    assert equivalence(coupling, random_choice(coupling, 0.5), (torch.randn(3, 7, 5),)) < LIMIT
