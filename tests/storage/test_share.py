"""Weight sharing as a step: which values, which weights, and what is told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from sklearn.cluster import KMeans
from torch import nn

import laconic as lc
from laconic.core.weights import stored_weights
from laconic.deploy.export import write_onnx
from laconic.storage.share import ShareWeights, share_weights
from laconic.tasks.data import ArrayDataset

RNG = np.random.default_rng(0)
DATA = ArrayDataset(RNG.standard_normal((32, 1, 6, 6)).astype(np.float32), np.arange(32) % 3)
UNTUNED: dict[str, Any] = {"recovery": {"epochs": 0}}


class Net(nn.Module):
    """Weights of several families, one of them pruned, one shared by two layers, one computed."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 6, 3)
        self.norm = nn.BatchNorm2d(6)
        self.one = nn.Linear(96, 16)
        self.twice = nn.Linear(16, 16)
        self.rnn = nn.GRU(16, 8, batch_first=True)
        self.scaled = nn.utils.parametrizations.weight_norm(nn.Linear(8, 8))
        self.head = nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.norm(self.conv(x)).relu().flatten(1)
        x = self.twice(self.twice(self.one(x)).relu())
        return self.head(self.scaled(self.rnn(torch.stack([x, x.flip(1)], 1))[0][:, 1]))


@pytest.fixture(scope="module")
def program() -> lc.Program:
    torch.manual_seed(0)
    net = Net()
    with torch.no_grad():
        net.one.weight[torch.rand(net.one.weight.shape) < 0.6] = 0
    return lc.capture(net.eval(), torch.randn(2, 1, 6, 6))


def context() -> lc.Context:
    return lc.Context(task=lc.Task(Net(), DATA, DATA, loss=F.cross_entropy), fit=lc.fit)


def test_the_weights_of_a_program_stand_there_once_with_what_reads_them(program: lc.Program) -> None:
    weights, skipped = stored_weights(program)
    found = {weight.name: (weight.path, weight.family) for weight in weights}
    assert found == {
        "conv.weight": ("conv", "convolution"),
        "one.weight": ("one", "linear"),
        "twice.weight": ("twice", "linear"),
        "rnn.weight_ih_l0": ("rnn", "recurrent"),
        "rnn.weight_hh_l0": ("rnn", "recurrent"),
        "head.weight": ("head", "linear"),
    }
    assert {(item.name, item.reason) for item in skipped} == {("scaled", "its weight is computed, not stored")}


def test_each_weight_has_the_values_of_k_means_and_its_zeros(program: lc.Program) -> None:
    config = ShareWeights(bits=3, layers=(("rnn", 2), ("head.weight", 1)), keep=("conv",), start="density", **UNTUNED)
    result, outcome = share_weights(program, config)
    before, after = (dict(each.named_parameters()) for each in (lc.fold_batch_norm(program)[0], result))
    for name, k in {"one.weight": 8, "twice.weight": 8, "rnn.weight_ih_l0": 4, "rnn.weight_hh_l0": 4, "head.weight": 2}.items():
        old, new = before[name].detach(), after[name].detach()
        assert torch.equal(old == 0, new == 0)
        kept = old[old != 0].double().numpy()
        centers = np.quantile(kept, (np.arange(k) + 0.5) / k)
        peer = KMeans(k, init=centers[:, None], n_init=1, tol=0, max_iter=500).fit(kept[:, None])
        np.testing.assert_allclose(new[new != 0].numpy(), peer.cluster_centers_[peer.labels_, 0], rtol=1e-6, atol=1e-7)
    unchanged = [name for name in before if torch.equal(before[name], after[name])]
    assert {"conv.weight", "conv.bias", "one.bias"} <= set(unchanged)
    rows = {row["name"]: row for row in outcome.changed["weights"]}
    assert "conv.weight" not in rows
    assert {item.name: item.reason for item in outcome.skipped}["conv"] == "asked to be kept"
    one = rows["one.weight"]
    assert (one["numbers"], one["values"], one["nonzero"]) == (16 * 96, 8, int((before["one.weight"] != 0).sum()))
    assert outcome.changed["numbers"] == sum(row["numbers"] for row in rows.values())


@pytest.mark.parametrize("config", [ShareWeights(bits=2, **UNTUNED), lc.RateDistortion(bits=2, **UNTUNED)], ids=["share", "rate"])
def test_batch_norms_are_folded_before_so_that_what_ships_has_few_values(tmp_path: Path, config: lc.StepConfig) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 6, 3, bias=False), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(96, 3)).eval()
    for value in net[1].state_dict().values():
        value.copy_(torch.rand(value.shape) + 0.5)  # what each channel is scaled by is its own
    result, outcomes = lc.apply(lc.capture(net, torch.randn(2, 1, 6, 6)), [config], context())
    assert outcomes[0].notes == ("1 batch-norm folded first: folded later, each channel's few values would be scaled apart",)
    write_onnx(result, tmp_path / "model.onnx", "model.onnx")
    kernel = next(onnx.numpy_helper.to_array(item) for item in onnx.load(tmp_path / "model.onnx").graph.initializer if len(item.dims) == 4)
    assert len(np.unique(kernel)) <= 4
    _, outcomes = lc.apply(result, [config], context())
    assert outcomes[0].notes == ()


def test_nothing_changes_where_there_are_no_more_values_than_the_codebook_holds(program: lc.Program) -> None:
    once, _ = share_weights(program, ShareWeights(bits=4, **UNTUNED))
    again, outcome = share_weights(once, ShareWeights(bits=4, start="random", **UNTUNED))
    assert again.fingerprint() == once.fingerprint()
    assert all(row["sqnr_db"] is None for row in outcome.changed["weights"])


def test_biases_are_shared_where_that_is_asked_for_and_those_of_norms_never(program: lc.Program) -> None:
    plain, both = (
        dict(share_weights(program, ShareWeights(bits=1, biases=asked, **UNTUNED))[0].named_parameters()) for asked in (False, True)
    )
    assert {name for name in plain if not torch.equal(plain[name], both[name])} == {
        "conv.bias", "one.bias", "twice.bias", "rnn.bias_ih_l0", "rnn.bias_hh_l0", "scaled.bias", "head.bias",
    }  # fmt: skip
    assert len(both["one.bias"].unique()) == 2


def test_fine_tuning_is_as_the_step_says_then_the_task(program: lc.Program) -> None:
    def plan(**task: Any) -> lc.FitPlan:
        seen = []
        context = lc.Context(
            lc.Task(Net(), DATA, DATA, loss=F.cross_entropy, **task),
            fit=lambda model, plan, *args, **more: seen.append(plan) or lc.fit(model, plan, *args, **more),
        )
        share_weights(program, ShareWeights(bits=2, recovery={"epochs": 2}), context)
        (found,) = seen
        return found

    assert (plan().lr, plan().epochs, plan().distill) == (1e-4, 2, 0.5)
    assert plan(plan=lc.FitPlan(lr=0.5, optimizer="sgd")).lr == 1e-4
    assert plan(recovery=lc.FitPlan(lr=0.003, optimizer="sgd")).lr == 0.003


def test_errors_count_by_the_losss_curvature_where_that_is_asked_for(program: lc.Program) -> None:
    plain, _ = share_weights(program, ShareWeights(bits=2, **UNTUNED), context())
    weighted, _ = share_weights(program, ShareWeights(bits=2, weighting="curvature", examples=16, **UNTUNED), context())
    assert plain.fingerprint() != weighted.fingerprint()


def test_more_bits_are_closer(program: lc.Program) -> None:
    found = [share_weights(program, ShareWeights(bits=bits, **UNTUNED))[1].changed["weights"][0]["sqnr_db"] for bits in (1, 2, 3, 4)]
    assert found == sorted(found)
    assert found[-1] > found[0] + 12


def test_what_is_fine_tuned_stays_shared_and_pruned_and_ships(program: lc.Program, tmp_path: Path) -> None:
    config = ShareWeights(bits=2, recovery={"epochs": 2, "batch_size": 8, "lr": 0.01})
    shared, _ = share_weights(program, ShareWeights(bits=2, **UNTUNED))
    tuned, outcome = share_weights(program, config, context())
    assert len(outcome.changed["epochs"]) == 2
    for weight, other in zip(stored_weights(tuned)[0], stored_weights(shared)[0], strict=True):
        values = weight.parameter[weight.parameter != 0].unique()
        assert len(values) <= 4
        assert not torch.equal(weight.parameter, other.parameter)
        assert torch.equal(weight.parameter == 0, other.parameter == 0)
        assert torch.equal(weight.parameter.unique(return_inverse=True)[1], other.parameter.unique(return_inverse=True)[1])
    x = torch.randn(5, 1, 6, 6)
    artifact = lc.export(tuned, tmp_path / "model.onnx")
    torch.testing.assert_close(torch.as_tensor(artifact(x)), tuned(x).detach(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"bits": 9}, "bits: 9 must be 1 to 8"),
        ({"layers": (("one", 0),)}, "one: 0 must be 1 to 8"),
        ({"recovery": {"lr": -1.0}}, "recovery.lr"),
        ({"examples": 0}, "examples: 0"),
    ],
    ids=["bits", "a layer's bits", "recovery", "examples"],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(lc.BadInput, match=said):
        ShareWeights(**options)


def test_paths_and_surroundings_that_are_not_there_are_refused(program: lc.Program) -> None:
    with pytest.raises(lc.BadInput, match="keep: there is no weight at 'onne'. Did you mean 'one'"):
        share_weights(program, ShareWeights(keep=("onne",), **UNTUNED))
    with pytest.raises(lc.BadInput, match="layers: there is no weight at 'norm'"):
        share_weights(program, ShareWeights(layers=(("norm", 3),), **UNTUNED))
    with pytest.raises(lc.BadInput, match="'share_weights' trains"):
        share_weights(program)
    with pytest.raises(lc.BadInput, match="measured on data"):
        share_weights(program, ShareWeights(weighting="curvature", **UNTUNED))
    with pytest.raises(lc.BadInput, match="no weight whose values could be shared"):
        share_weights(lc.capture(nn.ReLU(), torch.randn(2, 3)), ShareWeights(**UNTUNED))
