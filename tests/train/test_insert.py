from __future__ import annotations

import copy
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import laconic as lc
from laconic.core.errors import BadInput
from laconic.core.folding import FoldBatchNorm, fold_batch_norm
from laconic.core.graph import module_path, module_type, taps
from laconic.core.program import Program, aten
from laconic.core.target import Target
from laconic.deploy.export import parity, write_onnx
from laconic.deploy.runtime import runtime
from laconic.pruning.coupling import couple
from laconic.pruning.surgery import remove
from laconic.tasks.data import ArrayDataset
from laconic.train.insert import (
    InsertBatchNorm,
    InsertDropout,
    InsertStochasticDepth,
    Moments,
    insert_batch_norm,
    insert_dropout,
    insert_stochastic_depth,
    residual_branches,
)
from tests.core.models import ConvNet, Recurrent

RNG = np.random.default_rng(0)
DATA = ArrayDataset((2 + 3 * RNG.standard_normal((40, 1, 8, 8))).astype(np.float32), np.arange(40) % 3)
X = torch.randn(5, 1, 8, 8, generator=torch.Generator().manual_seed(3))


def context(train: Any = DATA) -> lc.Context:
    return lc.Context(task=lc.Task(nn.Identity(), train, DATA, loss=F.cross_entropy, batch_size=16))


class Gated(nn.Module):
    """A residual whose branch ends in a module, one with a projection, and a GELU written as a sum."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 4, 3, padding="same")
        self.a, self.b = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 6, 1)
        self.shortcut, self.head = nn.Conv2d(4, 6, 1), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x + 0.044715 * x.pow(3)
        x = x + self.a(x.relu())
        y = self.b(x.relu())
        y += self.shortcut(x)
        return self.head(y.mean((2, 3)))


@cache
def captured(kind: type[nn.Module] = ConvNet) -> Program:
    torch.manual_seed(0)
    return lc.capture(kind().eval(), torch.randn(2, 1, 8, 8))


def norm_free() -> Program:
    return captured(Gated)


STEPS: dict[str, Any] = {
    "dropout": lambda: insert_dropout(captured(), InsertDropout(("layers.0", "stem"), 0.5)),
    "stochastic_depth": lambda: insert_stochastic_depth(captured(), InsertStochasticDepth(p=0.5)),
    "batch_norm": lambda: insert_batch_norm(captured(), InsertBatchNorm(), context()),
}


@cache
def inserted(name: str) -> Program:
    return STEPS[name]()[0]


def train_a_step(program: Program) -> None:
    """One step of SGD, from the same random state."""
    torch.manual_seed(7)
    loss = F.cross_entropy(program.train()(torch.stack([DATA[i][0] for i in range(40)])), torch.arange(40) % 3)
    loss.backward()
    torch.optim.SGD(program.parameters(), lr=0.1).step()
    program.zero_grad()
    program.eval()


def shipped(program: Program, folder: Path) -> tuple[np.ndarray, list[str]]:
    """What the ONNX file answers to a batch of five, and its operators."""
    file = folder / "model.onnx"
    write_onnx(program, file, "model")
    found = runtime("onnxruntime").load(file, Target("onnxruntime", threads=1)).run([X.numpy()])
    return found[0], [node.op_type for node in onnx.load(file).graph.node]


# All three --------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", STEPS)
class TestEachStep:
    def test_it_leaves_the_given_program_alone_and_its_answers(self, name: str) -> None:
        before = captured().fingerprint()
        found = inserted(name)
        assert captured().fingerprint() == before
        assert found.fingerprint() != before
        if name == "batch_norm":
            torch.testing.assert_close(found(X), captured()(X), rtol=1e-5, atol=1e-6)
        else:
            assert torch.equal(found(X), captured()(X))

    def test_it_acts_in_training_only(self, name: str) -> None:
        found = copy.deepcopy(inserted(name))
        with torch.no_grad():
            calm, noisy, again = found(X), found.train()(X), found(X)
        assert not torch.allclose(calm, noisy)
        assert (name == "batch_norm") == torch.allclose(noisy, again)

    def test_it_survives_a_file_and_trains_the_same(self, name: str, tmp_path: Path) -> None:
        found = copy.deepcopy(inserted(name))
        loaded = Program.load(found.save(tmp_path / "program.pt2"))
        assert loaded.fingerprint() == found.fingerprint()
        for model in (found, loaded):
            train_a_step(model)
        assert loaded.fingerprint() == found.fingerprint()
        assert loaded.fingerprint() != inserted(name).fingerprint()

    def test_it_ships_after_a_step_of_training(self, name: str, tmp_path: Path) -> None:
        found = copy.deepcopy(inserted(name))
        train_a_step(found)
        answer, operators = shipped(found, tmp_path)
        with torch.no_grad():
            assert parity([answer], [found(X).numpy()])["max_rel"] < 1e-5
        assert not {"Dropout", "RandomUniformLike", "Bernoulli"} & set(operators)
        if name != "batch_norm":
            assert operators == shipped(captured(), tmp_path)[1]

    def test_it_quantizes_as_without(self, name: str) -> None:
        """The same operators in int8; a norm goes into its convolution again."""
        one, other = (lc.quantize(program, lc.Quantize(target="onnxruntime"), context())[1] for program in (inserted(name), captured()))
        assert len(one.changed["operators"]) == len(other.changed["operators"])
        assert len(one.changed["activations"]) == len(other.changed["activations"])

    def test_what_is_inserted_can_be_pruned(self, name: str) -> None:
        coupling, before = couple(inserted(name)), couple(captured())
        assert not coupling.unknown
        assert [len(group) for group in coupling.groups] == [len(group) for group in before.groups]
        keep = coupling.everything()
        keep[coupling.groups[0].components[:3]] = False
        small = remove(coupling, keep)
        assert small(X).shape == (5, 10)
        assert small.train()(X).isfinite().all()

    def test_a_name_that_does_not_exist_names_the_nearest(self, name: str) -> None:
        steps: dict[str, Any] = {
            "dropout": lambda: insert_dropout(captured(), InsertDropout(("layers.0.bm",))),
            "stochastic_depth": lambda: insert_stochastic_depth(captured(), InsertStochasticDepth(("layers.0.bm",))),
            "batch_norm": lambda: insert_batch_norm(captured(), InsertBatchNorm(("layers.0.comv",))),
        }
        with pytest.raises(BadInput, match=r"Did you mean 'layers\.0"):
            steps[name]()


# Dropout ----------------------------------------------------------------------------------------------------------------------------------


def test_dropout_is_that_of_pytorch() -> None:
    found, outcome = insert_dropout(captured(), InsertDropout(("stem",), 0.25))
    assert outcome.changed == {"inserted": ["stem"], "p": 0.25}
    torch.manual_seed(5)
    _, tapped = taps(copy.deepcopy(found).train(), ["stem"])(X)
    torch.manual_seed(5)
    assert torch.equal(tapped["stem"], F.dropout(taps(captured(), ["stem"])(X)[1]["stem"], 0.25))
    assert next(module_path(n) for n in found.graph.nodes if n.target is aten.dropout.default) == "stem.dropout"


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.shared = nn.Sequential(nn.Linear(4, 4), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        return self.shared(self.shared(x))


def test_a_module_that_is_called_twice_has_dropout_behind_both_calls() -> None:
    program = lc.capture(Twice(), torch.randn(2, 4))
    found, _ = insert_dropout(program, InsertDropout(("shared",), 0.5))
    assert [n.target._opname for n in found.graph.nodes if n.op == "call_function"] == ["linear", "relu", "dropout"] * 2
    again, _ = insert_dropout(found, InsertDropout(("shared.dropout",), 0.25))
    assert [n.args[1] for n in again.graph.nodes if n.target is aten.dropout.default] == [0.5, 0.25] * 2


def test_dropout_goes_behind_the_output_that_is_read() -> None:
    program = lc.capture(Recurrent(), torch.randn(2, 5, 6))
    found, _ = insert_dropout(program, InsertDropout(("rnn",), 0.5))
    x = torch.randn(3, 5, 6)
    assert torch.equal(found(x), program(x))
    node = next(n for n in found.graph.nodes if n.target is aten.dropout.default)
    assert tuple(node.args[0].meta["val"].shape[1:]) == (5, 32)


@pytest.mark.parametrize(
    ("config", "said"),
    [(InsertDropout(("stem",), 1.0), "not 1.0"), (InsertDropout(("stem",), -0.1), "not -0.1")],
    ids=["p=1", "p<0"],
)
def test_dropout_of_nonsense(config: InsertDropout, said: str) -> None:
    with pytest.raises(BadInput, match=said):
        insert_dropout(captured(), config)


# Stochastic depth -------------------------------------------------------------------------------------------------------------------------


def test_branches_that_are_found() -> None:
    assert [module_path(branch.sum) for branch in residual_branches(captured())] == ["layers.0", "layers.1"]
    assert [module_path(branch.node) for branch in residual_branches(norm_free())] == ["a"]
    _, outcome = insert_stochastic_depth(lc.capture(nn.Linear(2, 2), torch.randn(2, 2)), InsertStochasticDepth())
    assert outcome.changed == {"inserted": []}
    assert outcome.notes


@pytest.mark.parametrize(("decay", "rates"), [("linear", [0.1, 0.2]), ("uniform", [0.2, 0.2])])
def test_probabilities_over_depth(decay: Any, rates: list[float]) -> None:
    found, outcome = insert_stochastic_depth(captured(), InsertStochasticDepth(p=0.2, decay=decay))
    assert [item["p"] for item in outcome.changed["inserted"]] == pytest.approx(rates)
    assert [n.args[1] for n in found.graph.nodes if n.target is aten.feature_dropout.default] == pytest.approx(rates)


def test_whole_examples_are_dropped_and_the_rest_is_scaled() -> None:
    found, _ = insert_stochastic_depth(norm_free(), InsertStochasticDepth(("a",), p=0.25))
    x = torch.randn(2000, 1, 4, 4)
    node = next(n for n in found.graph.nodes if n.target is aten.squeeze.dim)
    assert (module_path(node), module_type(node)) == ("stochastic_depth", "Dropout")
    with torch.no_grad():
        branch = taps(found.eval(), ["a"])(x)[1]["a"]
        dropped = taps(found.train(), ["stochastic_depth"])(x)[1]["stochastic_depth"]
    ratio = (dropped / branch).flatten(1)
    torch.testing.assert_close(ratio, ratio[:, :1].expand_as(ratio))
    kept = ratio[:, 0] > 0.5
    torch.testing.assert_close(ratio[kept, 0], torch.full((int(kept.sum()),), 4 / 3))
    assert (ratio[~kept] == 0).all()
    assert abs(kept.float().mean().item() - 0.75) < 0.04  # four deviations


def test_a_projection_and_a_sum_in_place_by_name() -> None:
    found, outcome = insert_stochastic_depth(norm_free(), InsertStochasticDepth(("b", "a"), p=0.4))
    assert outcome.changed == {"inserted": [{"branch": "a", "p": 0.2}, {"branch": "b", "p": 0.4}]}
    assert torch.equal(found(X), norm_free()(X))
    found.train()(X).sum().backward()


def test_a_second_insertion_skips_the_branches_of_the_first() -> None:
    again, outcome = insert_stochastic_depth(inserted("stochastic_depth"), InsertStochasticDepth())
    assert {item.reason for item in outcome.skipped} == {"it has stochastic depth already"}
    assert again.fingerprint() == inserted("stochastic_depth").fingerprint()


class LengthFirst(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = x.transpose(0, 1)
        return (y + self.linear(y)).mean(0)


def test_a_branch_whose_first_dimension_is_not_the_batch_is_skipped() -> None:
    program = lc.capture(LengthFirst(), torch.randn(2, 3, 4))
    _, outcome = insert_stochastic_depth(program, InsertStochasticDepth())
    assert [(item.name, item.reason) for item in outcome.skipped] == [("linear", "its first dimension (3) is not the batch")]
    with pytest.raises(BadInput, match="linear: its first dimension"):
        insert_stochastic_depth(program, InsertStochasticDepth(("linear",)))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"paths": ("layers.0.bn",)}, "'layers.0.bn' is not added to a value of its shape .it goes into relu"),
        ({"p": 1.5}, "not 1.5"),
        ({"decay": "linaer"}, "'linaer' must be 'linear'"),
    ],
    ids=["not-added", "p", "decay"],
)
def test_stochastic_depth_of_nonsense(options: dict[str, Any], said: str) -> None:
    with pytest.raises(BadInput, match=said):
        insert_stochastic_depth(captured(), InsertStochasticDepth(**options))


# Batch-norm -------------------------------------------------------------------------------------------------------------------------------


def test_statistics_are_those_of_all_outputs_on_train_data() -> None:
    found, outcome = insert_batch_norm(norm_free(), InsertBatchNorm(("stem", "a")), context())
    assert outcome.changed == {"inserted": ["stem.batch_norm", "a.batch_norm"], "examples": 40}
    x = torch.stack([DATA[i][0] for i in range(40)])
    for path, value in taps(norm_free(), ["stem", "a"])(x)[1].items():
        rows = value.movedim(1, 0).flatten(1)
        state = {name: found.state_dict()[f"{path}.batch_norm.{name}"] for name in ("running_mean", "running_var", "weight", "bias")}
        torch.testing.assert_close(state["running_mean"], rows.mean(1))
        torch.testing.assert_close(state["running_var"], rows.var(1, correction=0))
        torch.testing.assert_close(state["weight"], (rows.var(1, correction=0) + 1e-5).sqrt())
        assert torch.equal(state["bias"], state["running_mean"])


def test_moments_are_folded_in_double_precision() -> None:
    values = 1e4 + torch.randn(60, 3, 2)
    moments = Moments()
    for batch in values.split(7):
        moments.fold(batch)
    torch.testing.assert_close(moments.mean, values.double().mean((0, 2)))
    torch.testing.assert_close(moments.variance, values.double().var((0, 2), correction=0))


@pytest.mark.parametrize("train", [DATA, None], ids=["data", "no-data"])
def test_all_convolutions_that_lack_one(train: Any) -> None:
    found, outcome = insert_batch_norm(norm_free(), InsertBatchNorm(examples=24), context(train))
    assert outcome.changed["inserted"] == ["stem.batch_norm", "a.batch_norm", "b.batch_norm", "shortcut.batch_norm"]
    assert outcome.changed["examples"] == (0 if train is None else 24)
    assert set(found.state_dict()) - set(norm_free().state_dict()) == {
        f"{path}.batch_norm.{leaf}"
        for path in ("stem", "a", "b", "shortcut")
        for leaf in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    }
    torch.testing.assert_close(found(X), norm_free()(X), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(fold_batch_norm(found, FoldBatchNorm())[0](X), norm_free()(X), rtol=1e-5, atol=1e-6)
    node = next(n for n in found.graph.nodes if n.target is aten.batch_norm.default)
    assert (module_path(node), module_type(node)) == ("stem.batch_norm", "BatchNorm2d")


def test_those_that_have_one_are_skipped_and_keep_their_statistics() -> None:
    found, outcome = insert_batch_norm(captured(), InsertBatchNorm(), context())
    assert outcome.changed["inserted"] == ["stem.batch_norm"]
    assert {(item.name, item.reason) for item in outcome.skipped} == {
        (f"layers.{i}.conv", "a batch-norm reads it already") for i in range(2)
    }
    assert all(torch.equal(found.state_dict()[name], value) for name, value in captured().state_dict().items())
    assert insert_batch_norm(found, InsertBatchNorm(), context())[0].fingerprint() == found.fingerprint()


def test_a_convolution_that_is_called_twice_has_two_norms() -> None:
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv1d(2, 2, 3, padding=1)

        def forward(self, x: Tensor) -> Tensor:
            return self.conv(self.conv(x).relu())

    program = lc.capture(Shared(), torch.randn(2, 2, 6))
    found, outcome = insert_batch_norm(program, InsertBatchNorm())
    assert outcome.changed["inserted"] == ["conv.batch_norm", "conv.batch_norm_1"]
    x = torch.randn(3, 2, 6)
    torch.testing.assert_close(found(x), program(x), rtol=1e-5, atol=1e-6)


def test_the_norm_renews_its_statistics_in_training() -> None:
    found = copy.deepcopy(inserted("batch_norm"))
    before = {name: value.clone() for name, value in found.state_dict().items() if name.startswith("stem.batch_norm")}
    found.train()(X)
    after = found.state_dict()
    assert after["stem.batch_norm.num_batches_tracked"] == 1
    assert not torch.equal(after["stem.batch_norm.running_mean"], before["stem.batch_norm.running_mean"])


def test_numbers_that_are_not_finite_are_refused() -> None:
    bad = ArrayDataset(np.full((4, 1, 8, 8), np.inf, np.float32), np.arange(4) % 3)
    with pytest.raises(BadInput, match="'stem' puts out numbers that are not finite"):
        insert_batch_norm(captured(), InsertBatchNorm(), context(bad))
    with pytest.raises(BadInput, match="2 or more"):
        insert_batch_norm(captured(), InsertBatchNorm(examples=1), context())
