from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from torch.utils.data import TensorDataset

import laconic as lc
from laconic.core.program import Program

X = torch.randn(32, 6)
DATA = TensorDataset(X, (X.sum(1) > 0).long())


class Sign(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.sign()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        return gradients[0]


class Clip(torch.autograd.Function):
    """Its gradient differs from that of its forward only where something is clipped."""

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return x.clamp(-4, 4)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        return gradients[0]


class Reverse(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        return -gradients[0]


class Frugal(torch.autograd.Function):
    """SiLU with the gradient of SiLU, as nets that save memory have it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x * torch.sigmoid(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        (x,) = ctx.saved_tensors
        s = torch.sigmoid(x)
        return gradients[0] * (s * (1 + x * (1 - s)))


alias = Sign.apply


class Net(nn.Module):
    def __init__(self, between: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.a, self.b, self.between = nn.Linear(6, 8), nn.Linear(8, 2), between

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.between(self.a(x)))


def checkpointed(x: Tensor) -> Tensor:
    return checkpoint(torch.tanh, x, use_reentrant=True)  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("between", "lost"),
    [
        (Sign.apply, ("Sign",)),
        (alias, ("Sign",)),
        (Clip.apply, ("Clip",)),
        (Reverse.apply, ("Reverse",)),
        (Frugal.apply, ()),
        (checkpointed, ()),
        (F.relu, ()),
    ],
    ids=["sign", "alias", "clip", "reverse", "frugal", "checkpoint", "relu"],
)
def test_custom_gradients_that_the_graph_has_not_are_told_and_not_trained(between: Any, lost: tuple[str, ...], tmp_path: Path) -> None:
    net = Net(between).eval()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    program = Program.load(lc.capture(net, X[:4]).save(tmp_path / "model.pt2"))
    assert program.interface.limits.custom_gradients == lost
    assert any("gradient of" in note for note in program.interface.notes) == bool(lost)
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())
    assert all(p.grad is None for p in net.parameters())
    task = lc.Task(net, DATA, DATA, loss=F.cross_entropy)
    context = lc.Context(task, lc.fit)
    ways: list[Callable[[], Any]] = [
        lambda: lc.fit(program, lc.FitPlan(), task),
        lambda: lc.apply(program, [lc.Fit()], context),
        lambda: lc.prune(program, lc.Prune(macs=0.7, recovery={"epochs": 1}), context),
        lambda: lc.qat(program, lc.Qat(target="onnxruntime"), context),
        lambda: lc.teach(program, net, lc.FitPlan(distill=0.5), loss=F.cross_entropy),
    ]
    if not lost:
        ways[0]()
        return
    for way in ways:
        with pytest.raises(lc.BadInput, match=f"{lost[0]}.*gradient"):
            way()
    lc.prune(program, lc.Prune(macs=0.7, recovery={"epochs": 0, "distill": 0.0}), context)


def test_where_the_gradient_is_that_of_the_graph_it_is_equal_to_the_modules() -> None:
    net = Net(Frugal.apply).eval()
    program = lc.capture(net, X[:4])
    for model in (net, program):
        model(X).square().sum().backward()
    for name, p in net.named_parameters():
        torch.testing.assert_close(program.get_parameter(name).grad, p.grad)


class Stateful(nn.Module):
    """How forward changes a buffer is said by `kind`; answers depend on it in all of them but the last two."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.l, self.kind = nn.Linear(6, 3), kind
        self.register_buffer("mean", torch.zeros(6), persistent=kind != "transient")
        self.register_buffer("calls", torch.zeros((), dtype=torch.long))
        self.weight = nn.Parameter(torch.ones(6))

    def forward(self, x: Tensor) -> Tensor:
        match self.kind:
            case "in_place" | "transient":
                self.mean.mul_(0.9).add_(0.1 * x.mean(0))
            case "assigned":
                self.mean = 0.9 * self.mean + 0.1 * x.mean(0)
            case "view":
                self.mean[1:3] += x.mean(0)[1:3]
            case "copy":
                self.mean.view(2, 3).copy_(x.mean(0).view(2, 3) + self.mean.view(2, 3))
            case "index":
                self.mean.index_put_((torch.tensor([0, 2]),), x.mean(0)[:2], accumulate=True)
            case "parameter":
                with torch.no_grad():
                    self.weight.mul_(1.5)
            case "counter":
                self.calls.add_(1)
            case "monitor":
                self.mean.copy_(x.mean(0))
                return self.l(x)
        return self.l(x * self.weight - self.mean)


def test_a_parameter_that_forward_changes_is_refused_at_capture() -> None:
    with pytest.raises(lc.CaptureError, match="changes the parameter 'weight'"):
        lc.capture(Stateful("parameter").eval(), X[:4])


@pytest.mark.parametrize("kind", ["in_place", "transient", "assigned", "view", "copy", "index"])
def test_state_is_told_at_capture_and_refused_by_every_export(kind: str, tmp_path: Path) -> None:
    net = Stateful(kind).eval()
    before = {name: value.clone() for name, value in [*net.named_parameters(), *net.named_buffers()]}
    program = lc.capture(net, X[:4])
    assert program.interface.limits.state == ("mean",)
    assert any("buffer mean" in note for note in program.interface.notes)
    for model in (net, program):
        now = dict([*model.named_parameters(), *model.named_buffers()])
        assert all(torch.equal(value, now[key]) for key, value in before.items())
    found = Program.load(program.save(tmp_path / "program.pt2"))
    assert torch.equal(found(X), net(X))
    for ending in ("onnx", "pt2", "ts"):
        with pytest.raises(lc.BadInput, match="'mean'.*input and an output"):
            lc.export(found, tmp_path / f"model.{ending}")


@pytest.mark.parametrize("kind", ["counter", "monitor"])
@pytest.mark.parametrize("ending", ["onnx", "pt2", "ts"])
def test_what_no_answer_depends_on_is_left_out_and_ships(kind: str, ending: str, tmp_path: Path) -> None:
    program = lc.capture(Stateful(kind).eval(), X[:4])
    assert program.interface.limits.state == ()
    assert any("no answer depends" in note for note in program.interface.notes)
    twin = Program.load(program.save(tmp_path / "program.pt2"))
    assert twin.fingerprint() == program.fingerprint()
    assert lc.export(program, tmp_path / f"model.{ending}").size_bytes


def test_optimize_refuses_state_before_it_searches(tmp_path: Path) -> None:
    data = TensorDataset(X, (X.sum(1) > 0).long())
    with pytest.raises(lc.BadInput, match="'mean'"):
        lc.optimize(lc.Task(Stateful("in_place"), data, data, loss=F.cross_entropy), out=tmp_path / "run")


class Auto(nn.Module):
    def __init__(self, enabled: bool = True) -> None:
        super().__init__()
        self.a, self.b, self.enabled = nn.Linear(6, 8), nn.Linear(8, 2), enabled

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=self.enabled):
            y = self.a(x)
        return self.b(y.to(x.dtype))


@pytest.mark.parametrize("enabled", [True, False])
def test_autocast_regions_are_told_and_computed_in_float32(enabled: bool, tmp_path: Path) -> None:
    net = Auto(enabled).eval()
    program = Program.load(lc.capture(net, X[:4]).save(tmp_path / "model.pt2"))
    assert program.interface.limits.autocast == (("bfloat16",) if enabled else ())
    assert any("autocast" in note for note in program.interface.notes) == enabled
    torch.testing.assert_close(program(X), net.b(net.a(X)))
    assert [spec.dtype for spec in program.outputs] == [str(program(X).dtype).removeprefix("torch.")]
    with torch.autocast("cpu", torch.bfloat16):
        assert net.a(X).dtype is torch.bfloat16  # autocast itself works as before


class Attention(nn.Module):
    def __init__(self, rate: float) -> None:
        super().__init__()
        self.attn_drop, self.qkv = rate, nn.Linear(6, 18)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).chunk(3, -1)
        return F.scaled_dot_product_attention(q, k, v, dropout_p=self.attn_drop if self.training else 0.0)


class Branch(nn.Module):
    """Dropout behind a branch of Python."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.drop_prob = rate

    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.drop_prob) if self.training else x


class Calls(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return x * self.calls


@pytest.mark.parametrize(
    ("net", "shape", "words"),
    [
        (Attention(0.1), (2, 5, 6), r"attn_drop = 0\.1"),
        (nn.MultiheadAttention(6, 2, dropout=0.2, batch_first=True), (2, 5, 6), r"dropout = 0\.2"),
        (nn.TransformerEncoderLayer(6, 2, 8, dropout=0.3, batch_first=True), (2, 5, 6), r"self_attn\.dropout = 0\.3"),
        (nn.Sequential(nn.Linear(6, 6), Branch(0.4)), (2, 6), r"1\.drop_prob = 0\.4"),
        (Calls(), (2, 6), "attribute calls"),
        (nn.BatchNorm1d(6, track_running_stats=False), (4, 6), "track_running_stats=False"),
        (Net(lambda x: x + torch.rand_like(x)), (4, 6), "rand_like.*random"),
    ],
    ids=["attention", "multihead", "encoder", "branch", "attribute", "batch-norm", "random"],
)
def test_notes(net: nn.Module, shape: tuple[int, ...], words: str) -> None:
    import re

    x = torch.randn(shape)
    example = (x, x, x) if isinstance(net, nn.MultiheadAttention) else x
    program = lc.capture(net, example)
    assert any(re.search(words, note) for note in program.interface.notes), program.interface.notes


@pytest.mark.parametrize(
    "net",
    [
        Attention(0.0),
        nn.TransformerEncoderLayer(6, 2, 8, dropout=0.0, batch_first=True),
        nn.Sequential(nn.Linear(6, 6), nn.Dropout(0.5)),
        nn.Sequential(nn.LSTM(6, 6, 2, dropout=0.5, batch_first=True)),
    ],
    ids=["attention", "encoder", "module", "recurrent"],
)
def test_no_word_of_dropout_where_there_is_none(net: nn.Module) -> None:
    assert not lc.capture(net, torch.randn(2, 5, 6)).interface.notes


def test_random_slopes_follow_the_mode() -> None:
    net = nn.RReLU()
    program = lc.capture(net, X[:4])
    torch.manual_seed(0)
    found = program.train()(X)
    torch.manual_seed(0)
    assert torch.equal(found, net.train()(X))
    assert torch.equal(program.eval()(X), net.eval()(X))
