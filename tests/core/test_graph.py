from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from laconic.core.capture import capture
from laconic.core.errors import BadInput
from laconic.core.folding import FoldBatchNorm, fold_batch_norm
from laconic.core.graph import clean, module_type, taps, without_dropout
from laconic.core.program import Program, aten
from tests.core.models import ConvNet


def with_statistics(net: nn.Module) -> nn.Module:
    for module in net.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            if module.affine:
                nn.init.uniform_(module.weight, 0.5, 2)
                nn.init.normal_(module.bias)
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
    return net.eval()


def norms(program: Program) -> int:
    return sum(node.target is aten.batch_norm.default for node in program.graph.nodes)


@pytest.mark.parametrize(
    ("net", "shape"),
    [
        (nn.Sequential(nn.Conv1d(2, 6, 3, bias=False), nn.BatchNorm1d(6)), (3, 2, 9)),
        (nn.Sequential(nn.Conv2d(2, 6, 3, groups=2), nn.BatchNorm2d(6), nn.ReLU()), (3, 2, 9, 9)),
        (nn.Sequential(nn.Conv3d(2, 6, 3), nn.BatchNorm3d(6, affine=False)), (3, 2, 5, 5, 5)),
        (nn.Sequential(nn.Linear(4, 6, bias=False), nn.BatchNorm1d(6)), (3, 4)),
    ],
    ids=["conv1d-no-bias", "grouped-conv2d", "conv3d-no-affine", "linear"],
)
def test_folding_changes_nothing_but_the_graph(net: nn.Module, shape: tuple[int, ...]) -> None:
    x = torch.randn(*shape)
    program = capture(with_statistics(net), x)
    folded, outcome = fold_batch_norm(program, FoldBatchNorm())
    assert outcome.changed == {"folded": 1}
    assert (norms(program), norms(folded)) == (1, 0)
    torch.testing.assert_close(folded(x), program(x), rtol=1e-5, atol=1e-5)


def test_folding_equals_pytorchs_own_fusion() -> None:
    net = with_statistics(nn.Sequential(nn.Conv2d(2, 6, 3), nn.BatchNorm2d(6)))
    folded, _ = fold_batch_norm(capture(net, torch.randn(2, 2, 9, 9)))
    fused = fuse_conv_bn_eval(net[0], net[1])
    torch.testing.assert_close(folded.state_dict()["0.weight"], fused.weight)
    torch.testing.assert_close(folded.state_dict()["0.bias"], fused.bias)


class TwoReaders(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3)
        self.bn = nn.BatchNorm2d(4)
        self.first = nn.BatchNorm2d(1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.conv(self.first(x))
        return self.bn(y) + y


class SharedConv(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 1, 3, padding=1)
        self.a, self.b = nn.BatchNorm2d(1), nn.BatchNorm2d(1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.b(self.conv(self.a(self.conv(x))))


@pytest.mark.parametrize(
    ("net", "reasons"),
    [
        (TwoReaders(), {"first": "its input is not a convolution or linear layer", "bn": "the output of conv is read elsewhere too"}),
        (SharedConv(), {"a": "the weights of conv are shared or computed", "b": "the weights of conv are shared or computed"}),
        (
            nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2, track_running_stats=False)),
            {"1": "it normalizes with batch statistics also in eval mode"},
        ),
    ],
    ids=["two-readers", "shared", "batch-statistics"],
)
def test_what_cannot_be_folded_is_listed(net: nn.Module, reasons: dict[str, str]) -> None:
    x = torch.randn(3, 1, 9, 9)
    program = capture(with_statistics_if_any(net), x)
    folded, outcome = fold_batch_norm(program)
    assert {item.name: item.reason for item in outcome.skipped} == reasons
    assert torch.equal(folded(x), program(x))


def with_statistics_if_any(net: nn.Module) -> nn.Module:
    return with_statistics(net) if all(m.running_mean is not None for m in net.modules() if isinstance(m, nn.BatchNorm2d)) else net.eval()


def test_folding_leaves_the_given_program_alone() -> None:
    program = capture(with_statistics(ConvNet()), torch.randn(2, 1, 12, 12))
    before = program.fingerprint()
    fold_batch_norm(program)
    assert program.fingerprint() == before


def test_clean_drops_only_what_no_output_needs() -> None:
    x = torch.randn(2, 1, 12, 12)
    program = capture(ConvNet(), x)
    small = clean(program)
    gone = set(program.state_dict()) - set(small.state_dict())
    assert gone == {"unused.weight", "unused.bias", "layers.0.bn.num_batches_tracked", "layers.1.bn.num_batches_tracked"}
    assert torch.equal(small(x), program(x))


def test_taps_are_what_hooks_see_and_carry_gradient() -> None:
    net = ConvNet().eval()
    program = capture(net, torch.randn(2, 1, 12, 12))
    seen: dict[str, torch.Tensor] = {}
    for path in ("layers.0.bn", "layers.1", "stem"):
        net.get_submodule(path).register_forward_hook(lambda module, args, out, path=path: seen.__setitem__(path, out))
    x = torch.randn(3, 1, 12, 12)
    wanted = net(x)
    out, tapped = taps(program, list(seen))(x)
    assert torch.equal(out, wanted)
    assert list(tapped) == list(seen)
    for path, value in seen.items():
        assert torch.equal(tapped[path], value), path
    tapped["layers.1"].sum().backward()
    assert dict(program.named_parameters())["stem.weight"].grad is not None


def test_a_tap_that_does_not_exist_names_the_nearest() -> None:
    program = capture(ConvNet(), torch.randn(2, 1, 12, 12))
    with pytest.raises(BadInput, match=r"no module path 'layers\.0\.bm'\. Did you mean 'layers\.0\.bn'"):
        taps(program, ["layers.0.bm"])


def test_module_types_are_kept() -> None:
    program = capture(ConvNet(), torch.randn(2, 1, 12, 12))
    assert {module_type(n) for n in program.graph.nodes if n.target is aten.batch_norm.default} == {"BatchNorm2d"}


def test_dropouts_of_every_kind_are_left_out_of_what_is_deployed() -> None:
    net = nn.Sequential(
        nn.Dropout(), nn.Conv2d(1, 2, 3), nn.Dropout2d(), nn.Dropout2d(), nn.AlphaDropout(), nn.Flatten(), nn.Dropout()
    ).eval()
    program, x = capture(net, torch.randn(2, 1, 5, 5)), torch.randn(4, 1, 5, 5)
    before = program.fingerprint()
    found = without_dropout(program)
    assert [node.target for node in found.graph.nodes if node.op == "call_function"] == [aten.conv2d.default, aten.flatten.using_ints]
    assert torch.equal(found(x), program(x))
    assert program.fingerprint() == before
    assert without_dropout(found) is found


class Squeezed(nn.Module):
    """Dropout between an operator and a view that are its model's own."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.drop = nn.Conv2d(1, 1, 3), nn.Dropout2d()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.drop(self.conv(x)).squeeze(1) + self.drop(x[:, :, 1:-1, 1:-1].squeeze(1).unsqueeze(2)).squeeze(1).sum()


def test_views_of_the_model_itself_stay() -> None:
    program, x = capture(Squeezed().eval(), torch.randn(2, 1, 5, 5)), torch.randn(4, 1, 5, 5)
    found = without_dropout(program)
    assert not any("dropout" in str(node.target) for node in found.graph.nodes)
    assert torch.equal(found(x), program(x))
