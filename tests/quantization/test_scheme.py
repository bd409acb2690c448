from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from laconic.core.fake_quant import TINY
from laconic.quantization import scheme
from laconic.quantization.scheme import (
    ACTIVATION_AFFINE,
    ACTIVATION_SYMMETRIC,
    ACTIVATION_UNSIGNED,
    WEIGHT_HALF,
    WEIGHT_INT4,
    WEIGHT_INT8,
    Scheme,
    activation_scheme,
    common_step,
    grid,
    weight_grid,
)
from tests.reference import quantize as twin

ACTIVATIONS = {"symmetric": ACTIVATION_SYMMETRIC, "unsigned": ACTIVATION_UNSIGNED, "affine": ACTIVATION_AFFINE}
WEIGHTS = {"int8": WEIGHT_INT8, "half": WEIGHT_HALF, "int4": WEIGHT_INT4}
EVERY = {**ACTIVATIONS, **WEIGHTS, "signed affine": Scheme(-128, 127, symmetric=False)}
# Ranges that a float32 tensor can have and whose step is a normal float32.
VALUES = st.floats(-(2.0**99), 2.0**99, width=32)


@pytest.mark.parametrize("name", EVERY)
@given(ends=st.tuples(VALUES, VALUES))
def test_a_grid_is_the_twins(name: str, ends: tuple[float, float]) -> None:
    low, high = sorted(ends)
    codes = EVERY[name]
    found = grid(torch.tensor(low), torch.tensor(high), codes)
    scale, zero = twin.grid(low, high, codes.low, codes.high, codes.symmetric)
    assert float(found.scale) == pytest.approx(scale, rel=1e-6)  # float32 has 24 bits
    assert int(found.zero_point) == zero
    assert (found.low, found.high) == (codes.low, codes.high)


@pytest.mark.parametrize("name", EVERY)
@given(ends=st.tuples(VALUES, VALUES))
def test_zero_is_on_every_grid(name: str, ends: tuple[float, float]) -> None:
    low, high = sorted(ends)
    found = grid(torch.tensor(low), torch.tensor(high), EVERY[name])
    assert found(torch.zeros(1)).item() == 0.0
    assert int(found.codes(torch.zeros(1))) == int(found.zero_point)


@pytest.mark.parametrize("name", EVERY)
@given(ends=st.tuples(VALUES, VALUES), share=st.floats(0, 1))
def test_what_lies_in_the_range_moves_by_half_a_step_at_most(name: str, ends: tuple[float, float], share: float) -> None:
    low, high = sorted(ends)
    codes = EVERY[name]
    x = torch.tensor(low + share * (high - low))
    if codes.symmetric and codes.low >= 0:  # nothing is negative there
        x = x.clamp(min=0.0)
    found = grid(torch.tensor(low), torch.tensor(high), codes)
    assert float((found(x.reshape(1)) - x).abs()) <= 0.5 * float(found.scale) * (1 + 1e-3)  # 255 · 2⁻²⁴ steps of float32, and to spare


@pytest.mark.parametrize(("axis", "group"), [(0, 0), (1, 0), (2, 0), (None, 0)], ids=["rows", "columns", "depth", "one"])
@pytest.mark.parametrize("name", WEIGHTS)
def test_a_weights_grid_is_the_twins_for_each_slice(name: str, axis: int | None, group: int) -> None:
    weight = torch.randn(5, 4, 3)
    codes = dataclasses.replace(WEIGHTS[name], axis=axis, group=group)
    found = weight_grid(weight, codes)
    parts = twin.slices(weight.numpy(), axis, group)
    expected = [twin.grid(*twin.minmax(part), codes.low, codes.high, True)[0] for part in parts]
    np.testing.assert_allclose(found.scale.numpy(), expected, rtol=1e-6)
    assert found.axis == axis
    rounded = found(weight)
    for index, part in enumerate(twin.slices(rounded.numpy(), axis, group)):
        np.testing.assert_allclose(part, twin.rounded(parts[index], expected[index], 0, codes.low, codes.high), rtol=1e-4, atol=1e-6)


def test_groups_of_inputs_have_their_own_scales() -> None:
    weight = torch.randn(6, 8) * torch.tensor([1.0, 100.0]).repeat_interleave(4)
    found = weight_grid(weight, dataclasses.replace(WEIGHT_INT4, group=4))
    expected = [twin.grid(*twin.minmax(part), -7, 7, True)[0] for part in twin.slices(weight.numpy(), None, 4)]
    np.testing.assert_allclose(found.scale.numpy(), expected, rtol=1e-6)
    assert found.group == 4
    whole = weight_grid(weight, WEIGHT_INT4)
    small = weight[:, :4]
    assert (found(weight)[:, :4] - small).abs().max() < 0.1 * (whole(weight)[:, :4] - small).abs().max()


@pytest.mark.parametrize("shape", [(4, 6), (4, 8, 3, 3)], ids=["indivisible", "convolution"])
def test_a_group_that_does_not_fit_is_given_up(shape: tuple[int, ...]) -> None:
    found = weight_grid(torch.randn(*shape), dataclasses.replace(WEIGHT_INT8, group=4))
    assert (found.group, found.axis, len(found.scale)) == (0, 0, shape[0])


@pytest.mark.parametrize("name", WEIGHTS)
@pytest.mark.parametrize("value", [0.0, -0.75, 3.0], ids=["zero", "negative", "positive"])
def test_a_constant_tensor_has_a_usable_grid(name: str, value: float) -> None:
    weight = torch.full((3, 4), value)
    found = weight_grid(weight, WEIGHTS[name])
    assert bool((found.scale >= TINY * (1 - 1e-6)).all())
    torch.testing.assert_close(found(weight), weight, rtol=1e-6, atol=0)


def test_a_dead_row_costs_the_others_nothing() -> None:
    weight = torch.randn(3, 8)
    alive = weight_grid(weight, WEIGHT_INT8)(weight)
    weight[1] = 0
    found = weight_grid(weight, WEIGHT_INT8)(weight)
    assert bool((found[1] == 0).all())
    assert torch.equal(found[[0, 2]], alive[[0, 2]])


def test_a_vector_has_a_scale_for_each_number() -> None:
    weight = torch.tensor([-1.0, 2.0, 0.5])
    found = weight_grid(weight, WEIGHT_INT8)
    torch.testing.assert_close(found(weight), weight, rtol=1e-6, atol=0)


def test_half_the_range_keeps_sums_of_two_products_within_16_bits() -> None:
    weight = torch.randn(4, 64)
    codes = weight_grid(weight, WEIGHT_HALF).codes(weight)
    assert int(codes.abs().max()) == 63
    assert 2 * 255 * 63 <= 2**15 - 1 < 2 * 255 * 127


@pytest.mark.parametrize(
    ("symmetric", "low", "high", "expected"),
    [
        (True, 0.0, 3.0, ACTIVATION_UNSIGNED),
        (True, 1.0, 3.0, ACTIVATION_UNSIGNED),
        (True, -3.0, 3.0, ACTIVATION_SYMMETRIC),
        (True, -1.0, 3.0, ACTIVATION_SYMMETRIC),
        (True, -0.17, 3.0, ACTIVATION_AFFINE),
        (True, -3.0, 0.1, ACTIVATION_AFFINE),
        (False, 0.0, 3.0, ACTIVATION_AFFINE),
        (False, -3.0, 3.0, ACTIVATION_AFFINE),
    ],
    ids=["relu", "above zero", "around zero", "mildly skewed", "gelu", "mostly negative", "affine relu", "affine around zero"],
)
def test_codes_of_activations(symmetric: bool, low: float, high: float, expected: Scheme) -> None:
    assert activation_scheme(symmetric, low, high) == expected


@pytest.mark.parametrize(
    ("flags", "full"),
    [({"avx2", "avx512f"}, False), ({"avx2", "avx512_vnni"}, True), ({"avx_vnni"}, True), ({"asimd", "asimddp"}, True), (set(), False)],
    ids=["avx2", "vnni", "avx-vnni", "arm", "unknown"],
)
def test_full_range_where_the_processor_sums_in_32_bits(flags: set[str], full: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scheme, "instructions", lambda: frozenset(flags))
    assert scheme.full_range() is full


@pytest.mark.parametrize("most", [63, 127])
@pytest.mark.parametrize("side", [1, 5, 63])
def test_numbers_on_a_grid_stay_on_it(side: int, most: int) -> None:
    """Multiples of one step, by slices that reach differently far: no number moves, and a value has one code in all slices."""
    generator = torch.Generator().manual_seed(side)
    multiples = torch.randint(-side, side + 1, (6, 40), generator=generator)
    multiples[1] = multiples[1].clamp(-1, 1)
    multiples[2] = 0
    multiples[0, 0] = side
    weight = multiples * 0.0371
    quantizer = weight_grid(weight, Scheme(-most, most, axis=0))
    assert torch.allclose(quantizer(weight), weight, rtol=1e-6, atol=0)
    codes = (weight / quantizer.scale[:, None]).round()
    assert torch.equal(codes, multiples * (most // side))  # as far as the codes reach: steps of biases stay small
    assert bool((codes.abs() <= most).all())


def test_what_is_on_no_grid_has_a_step_for_each_slice() -> None:
    weight = torch.randn(6, 40, generator=torch.Generator().manual_seed(0))
    assert common_step(weight, 127) is None
    assert torch.allclose(weight_grid(weight, WEIGHT_INT8).scale, weight.abs().amax(1) / 127)
    assert common_step(torch.arange(-100, 101) * 0.5, 63) is None  # more steps than codes
    assert common_step(torch.zeros(3), 127) is None
    assert common_step(torch.tensor([0.5, torch.inf]), 127) is None
    assert common_step(torch.tensor([0.5, torch.nan]), 127) is None
    near = torch.arange(-5, 6) * 0.5
    near[3] += 0.01
    assert common_step(near, 63) is None
