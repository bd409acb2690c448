"""Layers of programs as chains: every spelling, exact at full rank, within budget, and fit for what comes after."""

from __future__ import annotations

import copy
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import laconic as lc
from laconic.core.errors import BadInput
from laconic.core.graph import module_path, shapes
from laconic.core.macs import LayerShape
from laconic.core.operators import is_layer
from laconic.core.target import Target
from laconic.deploy.export import parity, write_model
from laconic.deploy.runtime import runtime
from laconic.factorize.following import Following
from laconic.factorize.lowrank import LowRank, low_rank
from laconic.factorize.methods import METHODS
from laconic.factorize.moments import Moment
from laconic.factorize.sites import find
from laconic.measure.counts import count
from laconic.tasks.data import ArrayDataset

CONV = {"in_channels": 8, "out_channels": 12, "kernel_size": 3}
SPELLINGS: dict[str, tuple[nn.Module, tuple[int, ...]]] = {
    "linear": (nn.Linear(12, 10), (4, 12)),
    "linear over steps, no bias": (nn.Linear(12, 20, bias=False), (4, 5, 12)),
    "plain": (nn.Conv2d(**CONV), (4, 8, 9, 9)),
    "strided, padded, no bias": (nn.Conv2d(**CONV, stride=2, padding=1, bias=False), (4, 8, 9, 9)),
    "strides of its axes differ": (nn.Conv2d(8, 12, (3, 5), (1, 2), (0, 2)), (4, 8, 9, 9)),
    "dilated": (nn.Conv2d(**CONV, dilation=2, padding=2), (4, 8, 9, 9)),
    "same, even kernel": (nn.Conv2d(8, 12, (4, 2), padding="same"), (4, 8, 9, 9)),
    "valid": (nn.Conv2d(**CONV, padding="valid"), (4, 8, 9, 9)),
    "grouped": (nn.Conv2d(**CONV, groups=2, padding=1), (4, 8, 9, 9)),
    "1×1": (nn.Conv2d(8, 12, 1, stride=2), (4, 8, 9, 9)),
    "one dimension": (nn.Conv1d(**CONV, stride=2, padding=1), (4, 8, 11)),
    "three dimensions": (nn.Conv3d(8, 12, (2, 3, 3), (1, 2, 1), (1, 0, 1)), (3, 8, 4, 6, 5)),
    "transposed": (nn.ConvTranspose2d(**CONV, stride=2, padding=1, output_padding=1), (4, 8, 5, 5)),
    "transposed, grouped, one dimension": (nn.ConvTranspose1d(**CONV, stride=2, groups=2, dilation=2), (4, 8, 7)),
}


def data(shape: tuple[int, ...], n: int = 24) -> ArrayDataset:
    generator = np.random.default_rng(0)
    return ArrayDataset(generator.standard_normal((n, *shape[1:])).astype(np.float32), np.arange(n) % 3)


def task(net: nn.Module, shape: tuple[int, ...]) -> lc.Task:
    return lc.Task(net, data(shape), data(shape), loss=F.cross_entropy)


def outputs(program: lc.Program, x: Tensor) -> Tensor:
    with torch.no_grad():
        return program(x)  # type: ignore[no-any-return]


@pytest.mark.parametrize(("net", "shape"), SPELLINGS.values(), ids=SPELLINGS)
def test_each_way_is_exact_at_full_rank_in_every_spelling(net: nn.Module, shape: tuple[int, ...]) -> None:
    program = lc.capture(net.eval(), torch.randn(shape))
    x = torch.randn(3, *shape[1:])
    seen = set()
    kernel = max(getattr(net, "kernel_size", (1,))) > 1 and not isinstance(net, nn.ConvTranspose1d | nn.ConvTranspose2d)
    for name in METHODS if kernel else ("output",):  # others have one way, whichever is named
        try:
            found, outcome = low_rank(program, LowRank(rank=1.0, methods=(name,)), task(net, shape))
        except BadInput as error:
            assert "none of the methods fits it" in str(error)  # noqa: PT017 - of one dimension there are no columns and rows
            continue
        row = outcome.changed["layers"][0]
        seen.add(row["method"])
        torch.testing.assert_close(outputs(found, x), outputs(program, x), rtol=1e-5, atol=1e-5)
        assert row["error"] < 1e-6
        assert row["macs"][1] == count(found).macs == outcome.changed["macs"][1]
        assert row["macs"][0] == count(program).macs
        assert count(found).params == outcome.changed["params"][1]
        layers = [node for node in found.graph.nodes if is_layer(node)]
        assert [module_path(node) for node in layers] == [str(i) for i in range(len(layers))]
        real = shapes(found)
        for node in layers:  # what is noted on the nodes is what they put out
            noted = node.meta["val"]
            assert [a for a in noted.shape if isinstance(a, int)] == [
                b for a, b in zip(noted.shape, real[node].shape, strict=True) if isinstance(a, int)
            ]
            assert noted.dtype == real[node].dtype
    assert "output" in seen or isinstance(net, nn.ConvTranspose1d | nn.ConvTranspose2d)


class Net(nn.Module):
    """Convolutions with norms, one that is strided, a residual, a depthwise one, a shared matrix and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 32, 3, padding=1)
        self.norm = nn.BatchNorm2d(32)
        self.body = nn.Conv2d(32, 32, 3, padding=1, bias=False)
        self.depthwise = nn.Conv2d(32, 32, 3, padding=1, groups=32)
        self.down = nn.Conv2d(32, 48, 3, stride=2)
        self.mix = nn.Linear(48, 48)
        self.head = nn.Linear(48, 24)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.stem(x)).relu()
        x = (self.depthwise(self.body(x)) + x).relu()
        x = self.down(x).relu().mean((2, 3))
        return self.head(self.mix(self.mix(x).relu()))


SHAPE = (4, 3, 10, 10)


@cache
def made() -> tuple[lc.Program, lc.Task]:
    torch.manual_seed(0)
    net = Net().eval()
    return lc.capture(net, torch.randn(SHAPE)), task(net, SHAPE)


@pytest.mark.parametrize("goal", ["macs", "params"])
def test_a_budget_is_kept_and_what_stays_is_told(goal: str) -> None:
    program, given = made()
    found, outcome = low_rank(program, LowRank(**{goal: 0.6}, methods=("output", "spatial")), given)  # type: ignore[arg-type]
    before, after = (getattr(count(one), goal) for one in (program, found))
    assert [before, after] == outcome.changed[goal]
    assert 0.4 * before < after <= 0.6 * before
    for row in outcome.changed["layers"]:
        rank, full = int(row["rank"]), int(row["full_rank"])
        assert rank % 8 == 0
        assert 0 < rank < full
        assert row["macs"][1] < row["macs"][0]
        assert 0 < row["error"] < 1
    reasons = {one.name: one.reason for one in outcome.skipped}
    assert reasons["mix"] == "its weight or bias is shared with another layer"
    assert reasons["depthwise"] == "a group has one channel"
    assert not any(name.startswith("body.weight") for name, _ in found.named_parameters())
    assert {name for name, _ in found.named_parameters()} >= {"body.0.weight", "body.1.weight", "mix.weight"}


def test_time_goes_by_the_price_of_layers() -> None:
    """Where columns and rows cost nothing, these are taken; ranks are those whose time is within the budget."""
    program, given = made()

    def price(layer: LayerShape) -> float:
        square = layer.weights != () and len(layer.inputs[1]) == 4 and layer.inputs[1][2] == layer.inputs[1][3]
        return layer.macs * (1.0 if square else 0.01)

    context = lc.Context(task=given, price=price)
    _, outcome = low_rank(program, LowRank(latency=0.3, methods=("output", "spatial")), context)
    assert {row["method"] for row in outcome.changed["layers"] if row["name"] in ("body", "down")} == {"spatial"}
    with pytest.raises(BadInput, match="needs the time of layers"):
        low_rank(program, LowRank(latency=0.3), given)


def test_energy_keeps_so_much_of_each_layer() -> None:
    program, given = made()
    _, outcome = low_rank(program, LowRank(energy=0.8, methods=("output",), saves=0.0), given)
    assert outcome.changed["layers"]
    assert all(row["error"] ** 2 <= 0.2 for row in outcome.changed["layers"])


def test_looking_at_data_makes_the_answers_better() -> None:
    program, given = made()
    x = torch.stack([given.valid[i][0] for i in range(24)])  # type: ignore[index]
    errors = []
    for weighted in (True, False):
        found, outcome = low_rank(program, LowRank(rank=0.5, methods=("output",), only=("down",), weighted=weighted), given)
        errors.append((outputs(found, x) - outputs(program, x)).square().mean())
        assert bool(outcome.notes) is not weighted
    assert errors[0] < errors[1]


def test_layers_make_up_for_what_changed_before_them() -> None:
    """What the second of two layers reads has changed: fitted to that, the whole comes nearer to what it was."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(12, 24), nn.ReLU(), nn.Linear(24, 16), nn.ReLU(), nn.Linear(16, 8)).eval()
    program, given = lc.capture(net, torch.randn(2, 12)), task(net, (4, 12))
    x = torch.stack([given.valid[i][0] for i in range(24)])  # type: ignore[index]
    config = LowRank(rank=0.5, multiple=1, damping=1e-3)
    errors = [
        (outputs(low_rank(program, replace(config, follow=follow), given)[0], x) - outputs(program, x)).square().mean()
        for follow in (True, False)
    ]
    assert errors[0] < 0.95 * errors[1]


def test_a_weight_follows_by_least_squares() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 4)).eval()
    program = lc.capture(net, torch.randn(2, 6))
    after = copy.deepcopy(program)
    (first, second), _ = find(after)
    x = torch.randn(64, 6)
    following = Following(program, after, [(x,)], damping=1e-9)
    weight, _ = following(first, Moment())
    torch.testing.assert_close(weight, first.weight)  # its inputs are what they were
    after.get_parameter("0.weight").data.mul_(0.5).add_(0.1)
    weight, moment = following(second, Moment())
    reads, wanted = (part.detach().double().numpy() for part in (F.linear(x, *read(after)), net(x) - net[1].bias))
    np.testing.assert_allclose(weight[0].numpy(), np.linalg.lstsq(reads, wanted, rcond=None)[0].T, atol=1e-4)
    assert moment.matrix is not None
    np.testing.assert_allclose(moment.matrix[0].numpy(), reads.T @ reads / 64, rtol=1e-5)


def read(program: lc.Program) -> tuple[Tensor, Tensor]:
    return program.get_parameter("0.weight"), program.get_parameter("0.bias")


def test_paths_choose_and_keep() -> None:
    program, given = made()
    _, outcome = low_rank(program, LowRank(rank=0.5, methods=("output",), only=("body", "down"), freeze=("down",)), given)
    assert [row["name"] for row in outcome.changed["layers"]] == ["body"]
    assert [(one.name, one.reason) for one in outcome.skipped] == [("down", "it is to stay")]


def test_ranks_that_are_given_are_those_of_the_chains_and_nothing_else_is_rewritten() -> None:
    program, given = made()
    config = LowRank(ranks={"body": "spatial 16", "down": "tucker 8x12", "head": "output 99"})
    found, outcome = low_rank(program, config, given)
    rows = {row["name"]: (row["method"], row["rank"]) for row in outcome.changed["layers"]}
    assert rows == {"body": ("spatial", "16"), "down": ("tucker", "8 × 12"), "head": ("output", "24")}  # the head has no more than 24
    assert (outcome.changed["goal"], outcome.changed["share"]) == ("given", None)
    shapes = {name: tuple(p.shape) for name, p in found.named_parameters()}
    assert (shapes["body.0.weight"], shapes["body.1.weight"], shapes["stem.weight"]) == ((16, 32, 3, 1), (32, 16, 1, 3), (32, 3, 3, 3))
    assert config.words() == "low rank of 3 layers"
    x = torch.randn(3, *SHAPE[1:])
    alone, _ = low_rank(program, LowRank(ranks={"head": "output 24"}), given)
    torch.testing.assert_close(outputs(alone, x), outputs(program, x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("ranks", "said"),
    [
        ({"bdoy": "spatial 8"}, "ranks.bdoy: no such layer. Did you mean 'body'"),
        ({"depthwise": "spatial 8"}, "ranks.depthwise: the layer cannot be rewritten: a group has one channel"),
        ({"head": "spatial 8"}, "ranks.head: 'spatial 8' is no chain of this layer, which allows output with 1 rank"),
        ({"body": "tucker 8"}, "tucker with 2 ranks"),
    ],
    ids=lambda value: str(value)[:24],
)
def test_chains_that_a_layer_does_not_allow_are_refused(ranks: dict[str, str], said: str) -> None:
    program, given = made()
    with pytest.raises(BadInput, match=said):
        low_rank(program, LowRank(ranks=ranks), given)


def test_it_can_be_pruned_rounded_rewritten_again_and_shipped(tmp_path: Path) -> None:
    program, given = made()
    small, _ = low_rank(program, LowRank(macs=0.6), given)
    assert lc.Program.load(small.save(tmp_path / "small.pt2")).fingerprint() == small.fingerprint()
    again, _ = low_rank(small, LowRank(rank=1.0, methods=("output",), only=("body.0", "body.1")), given)
    torch.testing.assert_close(outputs(again, torch.randn(3, *SHAPE[1:])).shape, outputs(small, torch.randn(3, *SHAPE[1:])).shape)
    pruned, outcome = lc.prune(small, lc.Prune(macs=0.6, recovery={"epochs": 0}), given)
    assert any(".0" in row["name"] for row in outcome.changed["groups"])
    assert count(pruned).macs <= 0.6 * count(small).macs
    rounded, told = lc.quantize(small, lc.Quantize(target="onnxruntime", examples=16), given)
    assert not any("body.0" in one.name for one in told.skipped)
    x = np.random.default_rng(1).standard_normal((7, *SHAPE[1:])).astype(np.float32)  # another batch than the captured one
    for number, (one, least) in enumerate(((pruned, 80.0), (rounded, 20.0))):
        folder = tmp_path / str(number)
        folder.mkdir()
        answer = runtime("onnxruntime").load(write_model(one, folder, "onnx"), Target("onnxruntime", threads=1)).run([x])
        assert parity(answer, [outputs(one, torch.from_numpy(x)).numpy()])["sqnr_db"] > least


def test_types_gradients_and_what_learns_stay() -> None:
    net = nn.Sequential(nn.Conv2d(8, 16, 3), nn.Flatten())
    net[0].weight.requires_grad_(False)
    program = lc.capture(net.eval(), torch.randn(2, 8, 4, 4)).bfloat16()
    found, _ = low_rank(program, LowRank(rank=0.5))
    assert {(p.dtype, p.requires_grad) for name, p in found.named_parameters() if name.endswith("weight")} == {(torch.bfloat16, False)}
    assert dict(found.named_parameters())["0.1.bias"].requires_grad


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"macs": 0.5, "rank": 0.5}, "one of macs, params, latency, energy, rank says how far"),
        ({"macs": 1.5}, "macs: 1.5 is a share"),
        ({"methods": ("spatail",)}, "Did you mean 'spatial'"),
        ({"methods": ()}, "methods: at least one of"),
        ({"damping": 0.0}, "damping lies above 0"),
        ({"multiple": 0}, "must be 1 or more"),
        ({"ranks": {"body": "spatial 8"}, "macs": 0.5}, "macs has nothing to decide"),
        ({"ranks": {}}, "ranks: names no layer"),
        ({"ranks": {"body": "spatial"}}, "ranks.body: 'spatial' is not a method and its ranks"),
        ({"ranks": {"body": "spatail 8"}}, "ranks.body: 'spatail'. Did you mean 'spatial'"),
    ],
    ids=lambda value: str(value)[:24],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(BadInput, match=said):
        LowRank(**options)


def test_what_cannot_be_done_is_said() -> None:
    program, given = made()
    with pytest.raises(
        BadInput, match=r"the budget cannot be kept: 0.01 of the whole was asked for, and with the lowest ranks 0\.\d+ are left"
    ):
        low_rank(program, LowRank(macs=0.01), given)
    with pytest.raises(BadInput, match="no layer can be rewritten: a group has one channel"):
        low_rank(lc.capture(nn.Conv2d(4, 4, 3, groups=4), torch.randn(2, 4, 5, 5)))


def test_words_say_how_far() -> None:
    assert LowRank().words() == "low rank to 50 % of the multiply-adds"
    assert LowRank(latency=0.4).words() == "low rank to 40 % of the layers' time"
    assert LowRank(latency=0.4).depends_on_target()
