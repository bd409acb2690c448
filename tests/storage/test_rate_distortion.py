"""Rate–distortion quantization: against brute force, in its slope, and as a step."""

from __future__ import annotations

import copy
import itertools
import math
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import nn

import laconic as lc
from laconic.core.weights import stored_weights
from laconic.storage import pack
from laconic.storage.context import encode
from laconic.storage.curvature import curvature, mean_loss
from laconic.storage.figures import coded_bits
from laconic.storage.layout import Layout
from laconic.storage.rate_distortion import RateDistortion, _Plan, _turning_point, choose, grid, prices, rate_distortion, stepped
from laconic.tasks.data import ArrayDataset

GENERATOR = torch.Generator().manual_seed(0)
W = torch.randn(24, 40, generator=GENERATOR) * torch.rand(24, 1, generator=GENERATOR)
IMPORTANCE = torch.rand(24 * 40, generator=GENERATOR)
RNG = np.random.default_rng(0)
DATA = ArrayDataset(RNG.standard_normal((48, 6)).astype(np.float32), np.arange(48) % 3)
UNTUNED: dict[str, Any] = {"recovery": {"epochs": 0}}


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 3))


def context() -> lc.Context:
    return lc.Context(task=lc.Task(net(), DATA, DATA, loss=F.cross_entropy), fit=lc.fit)


@pytest.fixture(scope="module")
def program() -> lc.Program:
    model = net()
    lc.fit(model, lc.FitPlan(epochs=10, batch_size=8, lr=0.02), train=DATA, loss=F.cross_entropy)
    with torch.no_grad():
        model[0].weight[0] = 0
    return lc.capture(model.eval(), torch.randn(2, 6))


def test_prices_are_those_of_shares_where_no_line_differs() -> None:
    codes = torch.tensor([1, 0, 1, 2, 1, 0, 1, 2, 1, 0, 1, 2]).repeat(200)
    found = prices(codes, 3, 1, (len(codes),)).of(codes, 1)
    shares = np.array([0.25, 0.5, 0.25])
    assert float(found.mean()) == pytest.approx(-(shares * np.log2(shares)).sum(), abs=0.01)


def test_a_number_says_nothing_of_its_own_price() -> None:
    codes = torch.randint(0, 3, (6 * 5 * 4,), generator=GENERATOR)
    told = prices(codes, 3, 1, (6, 5, 2, 2))
    for place in (0, 17, 119):
        other = codes.clone()
        other[place] = 1 if int(codes[place]) != 1 else 0
        again = prices(other, 3, 1, (6, 5, 2, 2))
        # but for the mean of all, which holds the shares up
        assert float(told.other[place]) == pytest.approx(float(again.other[place]), abs=0.05)


def test_a_number_among_zeros_is_dearer_than_one_among_others() -> None:
    codes = torch.ones(20, 20, dtype=torch.long)
    codes[:4, :10] = 2
    found = prices(codes.flatten(), 3, 1, (20, 20)).other.view(20, 20)
    assert found[0, 0] < found[0, 15] < found[15, 15]
    assert found[0, 0] < found[15, 0]


def test_without_a_slope_each_number_has_its_nearest_level() -> None:
    levels = grid(W.flatten(), 4, "uniform", IMPORTANCE)
    codes, _ = choose(W.flatten(), levels, IMPORTANCE, 0.0, W.shape)
    assert torch.equal(codes, (W.flatten()[:, None] - levels[None]).abs().argmin(1))


def test_each_choice_is_the_cheapest_at_the_prices_that_it_makes() -> None:
    levels = grid(W.flatten(), 3, "uniform", IMPORTANCE)
    slope, zero = 0.01, 3
    codes, bits = choose(W.flatten(), levels, IMPORTANCE, slope, W.shape)
    told = prices(codes, len(levels), zero, W.shape)
    assert bits == pytest.approx(float(told.of(codes, zero).sum()))
    for index in range(0, W.numel(), 7):
        costs = [
            0.5 * float(IMPORTANCE[index]) * (float(W.flatten()[index]) - float(level)) ** 2
            + slope * float(told.of(torch.full_like(codes, number), zero)[index])
            for number, level in enumerate(levels)
        ]
        assert costs[int(codes[index])] == pytest.approx(min(costs), rel=1e-4)


@pytest.mark.parametrize("kind", ["uniform", "codebook"])
def test_a_steeper_slope_never_takes_more_bits_or_loses_less(kind: str) -> None:
    levels = grid(W.flatten(), 5, kind, IMPORTANCE)
    found = []
    for slope in (0.0, 1e-4, 1e-3, 1e-2, 1e-1, 1.0):
        codes, bits = choose(W.flatten(), levels, IMPORTANCE, slope, W.shape)
        found.append((bits, float((IMPORTANCE * (levels[codes] - W.flatten()).square()).sum())))
    assert all(a[0] >= b[0] and a[1] <= b[1] for a, b in itertools.pairwise(found))
    assert found[0][0] > 2 * found[-2][0]


@pytest.mark.parametrize("scale", [0.3, 5.0])
def test_a_step_of_the_slope_is_nearly_as_good_as_any_scalar_code(scale: float) -> None:
    """Of a normal distribution at R bits, uniform steps with entropy coding lose πe/6 · σ² · 4⁻ᴿ (Gish and Pierce 1968), whatever σ and the importance are."""
    values = scale * torch.randn(1, 20_000, generator=GENERATOR).flatten()
    for bits, importance in ((3.5, 3.0), (4.5, 0.01)):
        slope = importance * math.pi * math.e / 6 * scale**2 * 4.0**-bits * math.log(2)
        levels = stepped(values, importance, slope, 127)
        codes, spent = choose(values, levels, torch.full_like(values, importance), 0.0, (1, 20_000))
        rate, lost = spent / len(values), float((values - levels[codes]).square().mean())
        assert abs(rate - bits) < 0.05
        assert lost < 1.03 * math.pi * math.e / 6 * scale**2 * 4.0**-rate


def test_steps_are_finer_where_numbers_matter_more() -> None:
    values = torch.linspace(-1, 1, 101)
    steps = [float(stepped(values, h, 1e-3, 127).diff()[0]) for h in (1.0, 16.0)]
    assert steps[0] == pytest.approx(4 * steps[1])
    assert len(stepped(values, 1.0, 0.0, 7)) == 15
    assert stepped(values, 1.0, 1e9, 7).tolist()[1] == 0.0
    assert len(stepped(torch.zeros(5), 1.0, 0.0, 7)) == 3


def test_a_grid_of_the_slopes_steps_loses_less_at_the_same_bits(program: lc.Program) -> None:
    """One weight is scaled up, and the next one down: the function is the same, and even steps for both are not."""
    uneven = copy.deepcopy(program)
    weights = [weight.parameter for weight in stored_weights(uneven)[0]]
    with torch.no_grad():
        weights[0][:8] *= 30
        uneven.get_parameter("0.bias")[:8] *= 30
        weights[1][:, :8] /= 30
    even, told = rate_distortion(uneven, RateDistortion(bits_per_weight=2.5, **UNTUNED), context())
    for slope in np.geomspace(1e-3, 0.1, 24):
        result, outcome = rate_distortion(uneven, RateDistortion(slope=float(slope), grid="stepped", bits=8, **UNTUNED), context())
        if outcome.changed["entropy_bits"] <= told.changed["entropy_bits"]:
            break
    assert outcome.changed["entropy_bits"] <= told.changed["entropy_bits"]
    assert mean_loss(result, context()) < mean_loss(even, context())


def test_curvature_is_the_mean_squared_gradient_of_batches(program: lc.Program) -> None:
    parameters = [weight.parameter for weight in stored_weights(program)[0]]
    expected = [torch.zeros_like(p, requires_grad=False) for p in parameters]
    for start in range(0, 48, 8):
        rows = [DATA[i] for i in range(start, start + 8)]
        x, y = torch.stack([row[0] for row in rows]), torch.stack([row[1] for row in rows])
        for total, g in zip(expected, torch.autograd.grad(F.cross_entropy(program(x), y), parameters), strict=True):
            total += g.square() * 8 / 6
    for found, mean in zip(curvature(program, parameters, context(), 1000), expected, strict=True):
        torch.testing.assert_close(found, mean + 0.1 * mean.mean())


def test_bits_a_weight_are_reached_and_zeros_stay(program: lc.Program) -> None:
    before = stored_weights(program)[0]
    for goal in (1.0, 2.5):
        result, outcome = rate_distortion(program, RateDistortion(bits_per_weight=goal, **UNTUNED), context())
        told = outcome.changed
        assert 0.75 * goal < told["bits_per_weight"] <= 1.05 * goal
        spent = sum(row["coded_bits"] * row["numbers"] for row in told["weights"])
        assert told["bits_per_weight"] * told["numbers"] == pytest.approx(spent)
        for weight, old in zip(stored_weights(result)[0], before, strict=True):
            assert bool((weight.parameter[old.parameter == 0] == 0).all())
            assert len(weight.parameter.unique()) <= 31


def test_no_slope_is_tried_twice_however_often_the_aim_is_corrected(program: lc.Program, monkeypatch: pytest.MonkeyPatch) -> None:
    """The codes at the slope that is chosen are settled once for each aim, and not once more."""
    tried: list[float] = []
    settled: list[float] = []
    put, spent = _Plan.put, _Plan.spent
    monkeypatch.setattr(_Plan, "put", lambda self, slope: tried.append(slope) or put(self, slope))
    monkeypatch.setattr(_Plan, "spent", lambda self, slope: settled.append(slope) or spent(self, slope))
    rate_distortion(program, RateDistortion(bits_per_weight=2.5, grid="stepped", bits=8, **UNTUNED), context())
    assert len(settled) > 1
    assert len(set(tried)) == len(tried)
    assert len(set(settled)) == len(settled)


def test_slopes_far_below_the_mean_loss_are_found() -> None:
    """In ResNet-20 a few weights have most of the mean, and three bits a weight lie at a slope of less than 1e-5 of it."""
    low, high = _turning_point(lambda slope: slope >= 3e-8, 1.0)
    assert low < 3e-8 <= high < 1.01 * 3e-8


def test_the_bits_told_are_those_of_the_archives_stream(program: lc.Program) -> None:
    result, _ = rate_distortion(program, RateDistortion(slope=1e-6, **UNTUNED), context())
    for weight in stored_weights(result)[0]:
        values, places = torch.unique(weight.parameter.detach(), return_inverse=True)
        zeros = (values == 0).nonzero()
        zero = int(zeros[0]) if len(zeros) else len(values) // 2
        stream = encode(places.flatten().numpy(), Layout(len(values), places.shape[1], zero))
        assert coded_bits(weight.parameter) == pytest.approx(8 * len(stream), abs=64)  # words of 32 bits
    assert coded_bits(torch.randn(200)) is None
    assert coded_bits(torch.randn(300), fast=True) is None


@pytest.mark.parametrize("shape", [(64, 40), (8, 4, 3, 3)])
def test_the_bits_of_very_many_numbers_are_those_of_the_fast_archives_codes(shape: tuple[int, ...], tmp_path: Path) -> None:
    weight = (torch.randn(shape, generator=torch.Generator().manual_seed(1)) * 3).round() * 0.1
    save_file({"weight": weight}, tmp_path / "one.safetensors")
    (told,) = lc.pack(tmp_path / "one.safetensors", tmp_path / "one.lac", fast=True).tensors
    found = coded_bits(weight, fast=True)
    assert found is not None
    assert found / 8 == pytest.approx(told.parts["codes"] + told.parts["mask"] + told.parts["tables"], rel=0.1)


def test_an_archive_of_very_many_numbers_is_a_fast_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(1)
    filled = torch.rand(256, 1, generator=generator) ** 6 * 0.9  # of each row: what contexts see
    weight = (torch.rand(256, 256, generator=generator) < filled).float() * torch.randint(1, 5, (256, 256), generator=generator)
    save_file({"weight": weight}, tmp_path / "one.safetensors")
    sizes = [lc.pack(tmp_path / "one.safetensors", tmp_path / "one.lac", fast=fast).packed_bytes for fast in (False, True)]
    monkeypatch.setattr(pack, "MOST_NUMBERS", 256 * 256 - 1)
    assert lc.pack(tmp_path / "one.safetensors", tmp_path / "one.lac").packed_bytes == sizes[1] > sizes[0]


def test_the_loss_rises_no_further_than_allowed(program: lc.Program) -> None:
    start = mean_loss(program, context())
    risen = []
    for rise in (0.01, 0.2):
        result, outcome = rate_distortion(program, RateDistortion(loss_rise=rise, **UNTUNED), context())
        risen.append((mean_loss(result, context()) - start, outcome.changed["bits_per_weight"]))
        assert risen[-1][0] <= rise
    assert risen[0][1] > risen[1][1]


def test_the_codebooks_values_are_the_means_of_their_numbers(program: lc.Program) -> None:
    options: dict[str, Any] = {"slope": 1e-4, "bits": 3, **UNTUNED}
    result, _ = rate_distortion(program, RateDistortion(grid="codebook", **options), context())
    weight, old = stored_weights(result)[0][1], stored_weights(program)[0][1]
    bend = curvature(program, [old.parameter], context())[0]
    for value in weight.parameter.detach().unique():
        members = weight.parameter.detach() == value
        if value != 0:
            mean = (bend * old.parameter.detach())[members].sum() / bend[members].sum()
            assert float(value) == pytest.approx(float(mean), rel=1e-4)
    assert not torch.equal(
        weight.parameter, stored_weights(rate_distortion(program, RateDistortion(**options), context())[0])[0][1].parameter
    )


def test_many_bits_at_no_slope_leave_what_has_few_values(program: lc.Program) -> None:
    once, _ = rate_distortion(program, RateDistortion(slope=0.0, bits=4, **UNTUNED), context())
    again, outcome = rate_distortion(once, RateDistortion(slope=0.0, bits=8, grid="codebook", **UNTUNED), context())
    for weight, old in zip(stored_weights(again)[0], stored_weights(once)[0], strict=True):
        assert torch.equal(weight.parameter, old.parameter)
    assert outcome.changed["slope"] == 0


def test_what_is_fine_tuned_keeps_its_zeros_and_ties(program: lc.Program) -> None:
    config = RateDistortion(bits_per_weight=1.5, recovery={"epochs": 2, "batch_size": 8, "lr": 0.01})
    plain, _ = rate_distortion(program, RateDistortion(bits_per_weight=1.5, **UNTUNED), context())
    tuned, outcome = rate_distortion(program, config, context())
    assert len(outcome.changed["epochs"]) == 2
    assert mean_loss(tuned, context()) < mean_loss(plain, context())
    for weight, old in zip(stored_weights(tuned)[0], stored_weights(plain)[0], strict=True):
        assert torch.equal(weight.parameter == 0, old.parameter == 0)
        assert len(weight.parameter.unique()) == len(old.parameter.unique())


def test_a_few_large_numbers_do_not_round_the_others_away() -> None:
    """One number in a thousand is three hundred times as large as the rest: 127 steps up to it would leave nothing of the others."""
    values = torch.randn(1000, generator=torch.Generator().manual_seed(0))
    values[7] = 300.0
    slope = math.log(2) / 12 * 0.25  # of importance 1 it asks for steps of a half
    levels = stepped(values, 1.0, slope, 127)
    assert torch.diff(levels).median() == pytest.approx(0.5, rel=0.01)
    assert levels[-1] == pytest.approx(300.0, abs=0.5)
    codes, _ = choose(values, levels, torch.ones(1000), 0.0, (1000,))
    assert float((levels[codes] - values).abs().max()) <= 0.26
    assert len(stepped(values, 1.0, 0.0, 127)) == 255, "without a slope no step is asked for"
    assert len(stepped(values, 1.0, 16 * slope, 127)) == 255, "steps of 2 are asked for, and 127 of 2.4 do"


@pytest.mark.parametrize("each", [0.5, 2.5, 4.0, 9.0])
def test_megabytes_are_read_as_the_bits_that_they_leave_a_number(program: lc.Program, each: float) -> None:
    """Of what is left behind the biases, between one bit and six; more of it for a smaller net."""
    weights = stored_weights(program)[0]
    numbers = sum(weight.parameter.numel() for weight in weights)
    others = sum(parameter.numel() for parameter in program.parameters()) - numbers
    packed_mb = (each * numbers + 32 * others) / 8e6
    _, outcome = rate_distortion(program, RateDistortion(packed_mb=packed_mb, grid="stepped", bits=8, **UNTUNED), context())
    wanted = min(6.0, max(1.0, each))
    assert outcome.changed["numbers"] == numbers
    assert 0.75 * wanted < outcome.changed["bits_per_weight"] <= 1.15 * wanted


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            {"slope": 1.0, "loss_rise": 0.1},
            "one of bits_per_weight, packed_mb, loss_rise, slope says how far it goes; loss_rise and slope are given",
        ),
        ({"bits_per_weight": 0.0}, "bits_per_weight: 0.0 must be more than 0"),
        ({"packed_mb": 0.0}, "packed_mb: 0.0 must be more than 0"),
        ({"slope": -1.0}, "slope: -1.0 must be 0 or more"),
        ({"bits": 1}, "bits: 1 must be 2 to 8"),
        ({"recovery": {"batch_size": 0}}, "recovery.batch_size"),
    ],
    ids=["two goals", "no bits", "no bytes", "a falling slope", "grid", "recovery"],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(lc.BadInput, match=said):
        RateDistortion(**options)


def test_a_weight_that_the_examples_do_not_feel_stays_as_it_is() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
    with torch.no_grad():
        model[0].weight.abs_()
        model[0].bias.fill_(-100.0)  # nothing gets through
    dead = lc.capture(model.eval(), torch.randn(2, 6))
    result, outcome = rate_distortion(dead, RateDistortion(slope=1e-3, biases=True, **UNTUNED), context())
    assert {item.name for item in outcome.skipped} == {"0.weight", "0.bias", "2.weight"}
    assert all(torch.equal(a, b) for a, b in zip(list(result.parameters())[:3], list(dead.parameters())[:3], strict=True))
    with pytest.raises(lc.BadInput, match="no weight can be chosen: the loss on the examples does not depend on it"):
        rate_distortion(dead, RateDistortion(keep=("2",), **UNTUNED), context())


def test_without_data_it_is_refused(program: lc.Program) -> None:
    with pytest.raises(lc.BadInput, match="measured on data"):
        rate_distortion(program, RateDistortion(**UNTUNED))


@pytest.mark.parametrize("rounding", ["nearest", "adaptive"])
def test_integers_keep_the_values_that_were_chosen(rounding: Literal["nearest", "adaptive"], tmp_path: Path) -> None:
    """Smoothing, or a step for each channel, would spread them over all codes: so the file of integers has as few different codes as there are values."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 64), nn.LayerNorm(64), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 3)).eval()
    around = lc.Context(task=lc.Task(model, DATA, DATA, loss=F.cross_entropy))
    few = RateDistortion(bits_per_weight=3, grid="stepped", bits=7, **UNTUNED)  # ±63: on any processor
    chosen, _ = rate_distortion(lc.capture(model, torch.randn(2, 6)), few, around)
    rounded, outcome = lc.quantize(chosen, lc.Quantize(target="openvino", rounding=rounding), around)
    assert outcome.changed.get("smoothed_norms", 0) == 0
    values = chosen.state_dict()["2.weight"].numpy()
    stored = [onnx.numpy_helper.to_array(one) for one in onnx.load(lc.export(rounded, tmp_path / "model.onnx").file).graph.initializer]
    codes = next(one for one in stored if one.shape == (64, 64) and one.dtype == np.int8)
    step = np.abs(values).max() / np.abs(codes).max()
    np.testing.assert_allclose(codes * step, values, rtol=1e-5)
    assert len(np.unique(codes)) == len(np.unique(values)) < 64
