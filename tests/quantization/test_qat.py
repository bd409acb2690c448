"""Training with rounding in place: gradients, schedules, learned steps, files."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import laconic as lc
from laconic.core.errors import BadInput
from laconic.core.fake_quant import LEARNED_CHANNEL, LEARNED_TENSOR, fake_quants, is_fake_quant, quantizer_of, weight_of
from laconic.core.graph import get_tensor
from laconic.core.program import aten
from laconic.core.target import Target
from laconic.deploy.export import parity, write_onnx
from laconic.deploy.runtime import runtime
from laconic.distill.losses import SOFT, Soft
from laconic.quantization.qat import Schedule, prepare, refresh, settle
from laconic.tasks.data import ArrayDataset
from tests.core.models import ConvNet

RNG = np.random.default_rng(0)
X, Y = RNG.standard_normal((64, 1, 8, 8)).astype(np.float32), np.arange(64) % 10
DATA = ArrayDataset(X, Y)


def net() -> ConvNet:
    torch.manual_seed(0)
    made = ConvNet()
    for _ in range(5):
        made(torch.randn(32, 1, 8, 8) * 2 + 0.3)
    for module in made.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, -1.5, 1.5)  # negative factors too
    return made.eval()


@pytest.fixture
def program() -> lc.Program:
    return lc.capture(net(), torch.randn(2, 1, 8, 8))


@pytest.fixture
def context() -> lc.Context:
    return lc.Context(lc.Task(net(), DATA, DATA, loss=F.cross_entropy), lc.fit)


LEARNED = pytest.mark.parametrize("learned", [False, True], ids=["fixed steps", "learned steps"])
TARGET = pytest.mark.parametrize("target", ["openvino", "onnxruntime"])


@LEARNED
@TARGET
def test_saved_loaded_and_exported_it_is_the_same(
    program: lc.Program, context: lc.Context, learned: bool, target: str, tmp_path: Path
) -> None:
    found, _ = prepare(program, lc.Qat(target=target, learned=learned, examples=32), context)
    again = lc.Program.load(found.save(tmp_path / "qat.pt2"))
    assert again.fingerprint() == found.fingerprint()
    files = [tmp_path / "one.onnx", tmp_path / "two.onnx"]
    for each, file in zip((found, again), files, strict=True):
        write_onnx(each, file, "model.onnx")
    assert files[0].read_bytes() == files[1].read_bytes()
    x = torch.from_numpy(X)
    with torch.no_grad():
        expected = found(x).numpy()
    assert parity(runtime(target).load(files[0], Target(target)).run([X]), [expected])["sqnr_db"] > 25


@LEARNED
def test_batch_norms_fold_exactly_into_the_steps(program: lc.Program, context: lc.Context, learned: bool) -> None:
    found, _ = prepare(program, lc.Qat(target="openvino", learned=learned, examples=32), context)
    assert any(node.target is aten.batch_norm.default for node in found.graph.nodes)
    settled = settle(found)
    assert not any(node.target is aten.batch_norm.default for node in settled.graph.nodes)
    assert not any(node.target in (LEARNED_TENSOR, LEARNED_CHANNEL) for node in settled.graph.nodes)
    with torch.no_grad():
        a, b = found(torch.from_numpy(X)).numpy(), settled(torch.from_numpy(X)).numpy()
    assert parity([b], [a])["sqnr_db"] > 25  # a value on the edge of two codes may fall to the other


def test_weights_get_the_gradient_of_what_is_inside_the_range(program: lc.Program, context: lc.Context) -> None:
    found, _ = prepare(program, lc.Qat(target="openvino", examples=32), context)
    found.train()
    F.cross_entropy(found(torch.from_numpy(X)), torch.from_numpy(Y)).backward()
    assert all(
        p.grad is not None and p.grad.abs().sum() > 0
        for name, p in found.named_parameters()
        if name.endswith("weight") and "unused" not in name
    )


def test_learned_steps_move_and_plain_ones_follow_the_weights(program: lc.Program, context: lc.Context) -> None:
    found, _ = prepare(program, lc.Qat(target="openvino", learned=True, examples=32), context)
    before = {name: p.detach().clone() for name, p in found.named_parameters() if name.startswith("quantizers")}
    assert before
    lc.fit(found, lc.FitPlan(epochs=1, lr=1e-2, batch_size=16), train=DATA, loss=F.cross_entropy)
    assert all(not torch.equal(before[name], dict(found.named_parameters())[name]) for name in before)

    plain, _ = prepare(program, lc.Qat(target="openvino", examples=32), context)
    node = next(n for n in fake_quants(plain.graph) if weight_of(n) is not None)
    source = weight_of(node)
    assert source is not None
    with torch.no_grad():
        get_tensor(plain, source).mul_(3)
    old = quantizer_of(plain.graph_module, node).scale.clone()
    refresh(plain)
    torch.testing.assert_close(quantizer_of(plain.graph_module, node).scale, 3 * old)


class Features(torch.nn.Module):
    """A convolution of 3 × 10 × 10 inputs, and a linear layer of 5 rows of 12 features."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = torch.nn.Conv2d(3, 4, 3), torch.nn.Linear(12, 7)

    def forward(self, pictures: torch.Tensor, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.conv(pictures), self.head(rows)


@pytest.mark.parametrize("batch", [2, 5])
def test_the_gradient_of_a_step_is_scaled_by_the_number_of_features(batch: int) -> None:
    """1/√(N · Qp), section 2.2 of the paper: N without the batch, for weights those that share a step."""
    pictures, rows = torch.rand(16, 3, 10, 10), torch.randn(16, 5, 12)
    data = torch.utils.data.TensorDataset(pictures, rows, torch.zeros(16))
    task = lc.Task(Features(), data, data, loss=lambda out, _: out[0].sum(), split=lambda batch: ((batch[0], batch[1]), batch[2]))
    net = lc.capture(Features().eval(), (pictures[:batch], rows[:batch]))
    found, _ = prepare(net, lc.Qat(target="openvino", learned=True, examples=16), task)
    expected = {"flat_0": 3 * 10 * 10, "flat_1": 5 * 12, "conv.weight": 3 * 3 * 3, "head.weight": 12}
    seen = {}
    for node in fake_quants(found.graph):
        seen[str(node.args[0].target)] = (node.args[-1], node.args[-2])  # type: ignore[union-attr]
    assert set(seen) == set(expected)
    for name, n in expected.items():
        factor, highest = seen[name]
        assert factor == pytest.approx(1 / np.sqrt(n * highest), rel=1e-6)


OPTIONS: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("target", {}, {"target": "onnxruntime"}),
    ("learned", {}, {"learned": True}),
    ("freeze_batch_norm", {}, {"freeze_batch_norm": 0.0}),
    ("recovery", {}, {"recovery": {"distill": 0.0}}),
    ("examples", {}, {"examples": 4}),
    ("keep", {}, {"keep": ("stem",)}),
    ("rate", {}, {"recovery": {"lr": 1e-2}}),
]


@pytest.mark.parametrize(("one", "other"), [row[1:] for row in OPTIONS], ids=[row[0] for row in OPTIONS])
def test_an_option_changes_the_outcome(program: lc.Program, context: lc.Context, one: dict[str, Any], other: dict[str, Any]) -> None:
    assert {row[0] for row in OPTIONS} >= {option.name for option in dataclasses.fields(lc.Qat)}
    results = [
        lc.qat(
            program,
            lc.Qat(**{"target": "openvino", "examples": 64, **options, "recovery": {"batch_size": 16, **options.get("recovery", {})}}),
            context,
        )[0]  # type: ignore[arg-type]
        for options in (one, other)
    ]
    x = torch.from_numpy(X)
    assert not torch.equal(results[0](x), results[1](x))


def test_weights_computed_from_parameters_train_as_parameters_of_their_own(context: lc.Context) -> None:
    from torch.nn.utils.parametrizations import weight_norm

    torch.manual_seed(0)
    model = torch.nn.Sequential(weight_norm(torch.nn.Conv2d(1, 4, 3)), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(144, 10)).eval()
    found, outcome = lc.qat(
        lc.capture(model, torch.randn(2, 1, 8, 8)), lc.Qat(target="openvino", examples=32, recovery={"batch_size": 32}), context
    )
    assert outcome.changed["operators"] == ["0", "3"]
    assert any("train as such: 0.weight" in note for note in outcome.notes)
    assert "0.weight" in dict(found.named_parameters())


def test_a_training_that_rounds_nothing_is_refused(context: lc.Context) -> None:
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.LayerNorm(64)).eval()
    with pytest.raises(BadInput, match=r"rounded nothing.*layer normalization needs"):
        lc.qat(lc.capture(model, torch.randn(2, 1, 8, 8)), lc.Qat(target="openvino", examples=32), context)


def test_batch_norms_freeze_when_it_is_time(program: lc.Program, context: lc.Context) -> None:
    found, _ = prepare(program, lc.Qat(target="openvino", examples=32), context)
    hook = Schedule(freeze_batch_norm=0.5)
    name = next(name for name, _ in found.named_buffers() if name.endswith("running_mean"))

    def moved() -> bool:
        before = found.state_dict()[name].clone()
        found.train()
        found(torch.from_numpy(X) + 5)
        return not torch.equal(before, found.state_dict()[name])

    hook(found, 0.4)
    assert moved()
    hook(found, 0.5)
    assert not moved()
    found.eval()
    assert not moved()  # stays frozen over a change of mode


def test_it_learns_from_its_teacher_and_the_option_matters(program: lc.Program, context: lc.Context) -> None:
    results = {}
    for weight in (0.0, 1.0):
        found, outcome = lc.qat(
            program,
            lc.Qat(target="openvino", examples=32, recovery={"distill": weight, "epochs": 4, "lr": 3e-3, "batch_size": 16}),
            context,
        )
        with torch.no_grad():
            results[weight] = float(F.mse_loss(found(torch.from_numpy(X)), program(torch.from_numpy(X))))
        assert len(outcome.changed["epochs"]) == 4
    assert results[1.0] < results[0.0]


def test_another_soft_loss_is_a_line_in_the_table(program: lc.Program, context: lc.Context, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def loss(student: torch.Tensor, teacher: torch.Tensor, target: torch.Tensor | None, temperature: float) -> torch.Tensor:
        seen.append((student.shape, teacher.requires_grad))
        return F.mse_loss(student, teacher)

    monkeypatch.setitem(SOFT, "mine", Soft(loss, "here"))
    lc.qat(program, lc.Qat(target="openvino", examples=32, recovery={"batch_size": 32, "soft": "mine"}), context)
    assert seen == [(torch.Size([32, 10]), False)] * 2


def test_in_a_users_own_loop(program: lc.Program, context: lc.Context, tmp_path: Path) -> None:
    found, _ = prepare(program, lc.Qat(target="onnxruntime", examples=32), context)
    hook, optimizer = Schedule(), torch.optim.SGD(found.parameters(), 0.05)
    losses = []
    for index in range(10):
        found.train()
        loss = F.cross_entropy(found(torch.from_numpy(X)), torch.from_numpy(Y))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        hook(found, (index + 1) / 10)
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0]
    found.eval()
    with torch.no_grad():
        expected = found(torch.from_numpy(X)).numpy()
    write_onnx(found, tmp_path / "m.onnx", "m.onnx")
    assert parity(runtime("onnxruntime").load(tmp_path / "m.onnx", Target("onnxruntime")).run([X]), [expected])["sqnr_db"] > 25


def test_what_is_missing_or_out_of_range_is_named(program: lc.Program) -> None:
    with pytest.raises(BadInput, match="give it a task with train data and a loss"):
        lc.qat(program, lc.Qat(target="openvino"), lc.Context())
    with pytest.raises(BadInput, match="distill: 2.0 is a weight"):
        lc.Qat(recovery={"distill": 2.0})
    with pytest.raises(BadInput, match="freeze_batch_norm: 2.0 is a share"):
        lc.Qat(freeze_batch_norm=2.0)


def test_a_prepared_program_keeps_its_nodes_in_training(program: lc.Program, context: lc.Context) -> None:
    found, outcome = prepare(program, lc.Qat(target="openvino", examples=32, keep=("stem",)), context)
    stem = next(n for n in found.graph.nodes if n.target is aten.conv2d.default)
    assert not is_fake_quant(stem.args[1])
    assert ("stem", "it is to stay float") in {(s.name, s.reason) for s in outcome.skipped}
