"""Options of quantization in every mode: each acts or is refused; schemes of weights against their plain twin and in files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

import laconic as lc
from laconic.core.capture import capture
from laconic.core.errors import BadInput
from laconic.core.fake_quant import fake_quants, quantizer_of, weight_of
from laconic.core.graph import get_tensor
from laconic.core.program import Program
from laconic.core.target import Target
from laconic.deploy.export import write_model
from laconic.deploy.runtime import runtime
from laconic.quantization import options as options_module
from laconic.quantization.quantize import Quantize, quantize
from tests.quantization.nets import Residual, TiedWords, Words, images, mlp, task_of, with_statistics
from tests.reference import quantize as twin

RUNTIMES = ("openvino", "onnxruntime")


@pytest.mark.parametrize("mode", ["dynamic", "weights"])
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("observer", "minmax"),
        ("observer", "mse"),
        ("smooth", 0.5),
        ("smooth", None),
        ("group", 32),
        ("reduce_range", True),
        ("reduce_range", False),
    ],
)
def test_an_option_without_effect_is_refused_with_its_mode(name: str, value: Any, mode: Any) -> None:
    if (name, mode) in {("group", "weights"), ("reduce_range", "dynamic")}:
        Quantize(mode=mode, **{name: value})
        return
    with pytest.raises(BadInput, match=f"{name}: .* does nothing in mode '{mode}'"):
        Quantize(mode=mode, **{name: value})


def test_a_group_does_nothing_where_integers_are_multiplied() -> None:
    with pytest.raises(BadInput, match="group: 64 does nothing in mode 'static'"):
        Quantize(group=64)
    with pytest.raises(BadInput, match="contradict"):
        Quantize(mode="weights", group=64, per_channel=False)


class Chain(nn.Module):
    """Uneven linear layers in a row, and an embedding."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table, self.one, self.two, self.three = nn.Embedding(30, 16), nn.Linear(16, 32), nn.Linear(32, 32), nn.Linear(32, 4)
        self.one.weight.data *= torch.logspace(-1, 1, 32).reshape(-1, 1)

    def forward(self, ids: Tensor) -> Tensor:
        return self.three(self.two(self.one(self.table(ids).mean(1)).relu()).relu())


IDS = torch.randint(0, 30, (64, 5), generator=torch.Generator().manual_seed(0))
CHAIN = capture(Chain().eval(), IDS)
# option -> what it is set to, in the modes whose outcome it must change
ACTS: dict[str, dict[str, Any]] = {
    "equalize": {"equalize": True},
    "correct_bias": {"correct_bias": False},
    "rounding": {"rounding": "adaptive"},
    "embeddings": {"embeddings": False},
    "per_channel": {"per_channel": False},
    "keep": {"keep": ("two",)},
    "examples": {"examples": 4},
}


@pytest.mark.parametrize("mode", ["static", "dynamic", "weights"])
@pytest.mark.parametrize("name", ACTS)
def test_an_option_acts_in_every_mode(name: str, mode: Any) -> None:
    plain, changed = (quantize(CHAIN, Quantize(mode=mode, target="onnxruntime", **o), task_of(IDS))[0] for o in ({}, ACTS[name]))
    assert plain.fingerprint() != changed.fingerprint()


@pytest.mark.parametrize("mode", ["static", "dynamic", "weights"])
def test_the_limit_of_noise_acts_in_every_mode(mode: Any) -> None:
    _, outcome = quantize(CHAIN, Quantize(mode=mode, target="onnxruntime"), task_of(IDS))
    ratios = {name: ratio for name, ratio in outcome.changed["layer_sqnr_db"].items() if ratio is not None}
    worst = min(ratios, key=lambda name: ratios[name])
    _, outcome = quantize(CHAIN, Quantize(mode=mode, target="onnxruntime", min_sqnr_db=ratios[worst] + 0.1), task_of(IDS))
    assert worst not in outcome.changed["operators"]
    assert worst in {item.name for item in outcome.skipped}


def test_half_the_range_is_for_products_of_integers_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(options_module, "full_range", lambda: False)
    for mode, highest in (("static", 63), ("dynamic", 63), ("weights", 127)):
        found, outcome = quantize(CHAIN, Quantize(mode=mode, target="onnxruntime"), task_of(IDS))  # type: ignore[arg-type]
        grids = {str(w.target): quantizer_of(found.graph_module, n) for n in fake_quants(found.graph) if (w := weight_of(n)) is not None}
        assert grids["two.weight"].high == highest
        assert outcome.changed["weights"]["reduce_range"] is (highest == 63)


def test_the_groups_that_were_used_are_reported() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(64, 40), nn.ReLU(), nn.Linear(40, 8)).eval()
    x = torch.randn(32, 64)
    program = capture(net, x)
    _, outcome = quantize(program, Quantize(mode="weights", bits=4, target="openvino"), task_of(x))
    weights = outcome.changed["weights"]
    assert weights["groups"] == {"0.weight": 64, "2.weight": 0}
    assert weights["group"] == 64
    assert any("a group of 64 does not divide the inputs of 2.weight" in note for note in outcome.notes)
    _, outcome = quantize(program, Quantize(mode="weights", bits=4, group=20, target="openvino"), task_of(x))
    assert outcome.changed["weights"]["groups"] == {"0.weight": 0, "2.weight": 20}
    with pytest.raises(BadInput, match="group: 7 divides the inputs of no weight"):
        quantize(program, Quantize(mode="weights", bits=4, group=7, target="openvino"), task_of(x))


def test_without_data_corrections_are_told_or_refused() -> None:
    _, outcome = quantize(CHAIN, Quantize(mode="weights", target="openvino"))
    assert any("without data" in note for note in outcome.notes)
    with pytest.raises(BadInput, match="rounding: 'adaptive' needs data"):
        quantize(CHAIN, Quantize(mode="weights", target="openvino", rounding="adaptive"))


# Schemes of weights -----------------------------------------------------------------------------------------------------------------------


def rounded_weights(program: Program) -> dict[str, np.ndarray]:
    """By name: each weight as its node rounds it."""
    found = {}
    for node in fake_quants(program.graph):
        if (weight := weight_of(node)) is not None:
            found[str(weight.target)] = quantizer_of(program.graph_module, node)(get_tensor(program, weight)).detach().numpy()
    return found


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize(("per_channel", "group"), [(True, 0), (True, 16), (False, 0)], ids=["rows", "groups", "tensor"])
def test_affine_weights_are_the_twins(bits: Any, per_channel: bool, group: int) -> None:
    torch.manual_seed(0)
    net = nn.Linear(32, 6).eval()
    net.weight.data = torch.rand(6, 32) - torch.tensor([0.0, 0.1, 0.5, 0.9, 1.0, 3.0]).reshape(-1, 1)
    x = torch.randn(8, 32)
    options = {"mode": "weights", "target": "openvino", "scheme": "affine", "bits": bits, "per_channel": per_channel, "min_sqnr_db": None}
    found, outcome = quantize(capture(net, x), Quantize(**options, **({"group": group} if per_channel else {})), task_of(x))  # type: ignore[arg-type]
    parts = twin.slices(net.weight.detach().numpy(), 0 if per_channel else None, group)
    expected = np.concatenate([twin.affine(part, bits).ravel() for part in parts]).reshape(6, 32)
    np.testing.assert_allclose(rounded_weights(found)["weight"], expected, atol=1e-5)
    assert outcome.changed["weights"]["scheme"] == "affine"


def test_affine_is_closer_where_weights_lie_on_one_side() -> None:
    torch.manual_seed(0)
    net, x = nn.Linear(64, 8).eval(), torch.randn(16, 64)
    net.weight.data = torch.rand(8, 64)
    program = capture(net, x)
    quality = [
        twin.sqnr_db(
            net.weight.detach().numpy(),
            rounded_weights(quantize(program, Quantize(mode="weights", target="openvino", scheme=s), task_of(x))[0])["weight"],
        )
        for s in ("symmetric", "affine")
    ]
    assert quality[1] > quality[0] + 5.0  # twice as many codes: 6 dB


CASES = {
    "rows": (lambda: mlp(64, 32, 8), lambda: torch.randn(16, 64), {"mode": "weights"}),
    "tensor": (lambda: mlp(64, 32, 8), lambda: torch.randn(16, 64), {"mode": "weights", "per_channel": False}),
    "convolutions": (lambda: with_statistics(Residual()), images, {"mode": "weights"}),
    "4 bits in groups": (lambda: mlp(64, 32, 8), lambda: torch.randn(16, 64), {"mode": "weights", "bits": 4, "group": 16}),
    "4 bits in rows": (lambda: mlp(64, 32, 8), lambda: torch.randn(16, 64), {"mode": "weights", "bits": 4, "group": 0}),
    "embedding": (TiedWords, lambda: torch.randint(0, 20, (16, 5)), {"mode": "weights"}),
}


@pytest.mark.parametrize("target", RUNTIMES)
@pytest.mark.parametrize("name", CASES)
def test_affine_weights_in_the_file(name: str, target: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    make, inputs, options = CASES[name]
    net, x = make().eval(), inputs()
    found, _ = quantize(capture(net, x), Quantize(target=target, scheme="affine", **options), task_of(x))  # type: ignore[arg-type]
    file = write_model(found, tmp_path, "onnx")
    kinds = {item.data_type for item in onnx.load(file).graph.initializer}
    assert (onnx.TensorProto.UINT4 if options.get("bits") == 4 else onnx.TensorProto.UINT8) in kinds
    answer = runtime(target).load(file, Target(target, threads=1)).run([x.numpy()])[0]
    # OpenVINO rounds the inputs of products with compressed weights to 8 bits at run time
    assert twin.sqnr_db(found(x).detach().numpy(), np.array(answer)) > {"openvino": 35, "onnxruntime": 60}[target]


@pytest.mark.parametrize("scheme", ["symmetric", "affine"])
@pytest.mark.parametrize("make", ["convolutions", "rows"])
def test_one_scale_for_a_tensor_in_integer_kernels(make: str, scheme: Any, tmp_path: Path) -> None:
    torch.manual_seed(0)
    net, inputs, _ = CASES[make]
    model, x = net().eval(), inputs()
    found, _ = quantize(capture(model, x), Quantize(target="onnxruntime", scheme=scheme, per_channel=False), task_of(x))
    answer = runtime("onnxruntime").load(write_model(found, tmp_path, "onnx"), Target("onnxruntime", threads=1)).run([x.numpy()])[0]
    assert twin.sqnr_db(found(x).detach().numpy(), np.array(answer)) > 40
    assert twin.sqnr_db(model(x).detach().numpy(), np.array(answer)) > 25


@pytest.mark.parametrize("target", RUNTIMES)
def test_an_lstm_with_one_scale_for_a_tensor(target: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    x = torch.randint(0, 20, (8, 5))
    found, _ = quantize(capture(Words().eval(), x), Quantize(mode="dynamic", target=target, per_channel=False), task_of(x))
    file = write_model(found, tmp_path, "onnx")
    assert ("DynamicQuantizeLSTM" in {n.op_type for n in onnx.load(file).graph.node}) is (target == "onnxruntime")
    answer = runtime(target).load(file, Target(target, threads=1)).run([x.numpy()])[0]
    assert twin.sqnr_db(found(x).detach().numpy(), np.array(answer)) > 25


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"mode": "dynamic", "target": "onnxruntime"}, "does not go with mode 'dynamic'"),
        ({"target": "openvino"}, "does not go with mode 'static' and target 'openvino'"),
        ({"target": "onnxruntime"}, "takes per_channel=False"),
    ],
)
def test_affine_weights_are_refused_where_there_is_no_kernel(options: dict[str, Any], word: str) -> None:
    with pytest.raises(BadInput, match=word):
        Quantize(scheme="affine", **options)
    target = options.pop("target")
    with pytest.raises(BadInput, match=word):
        quantize(CHAIN, Quantize(scheme="affine", **options), lc.Context(task_of(IDS), target=lc.Target(target)))
