"""Each output and each channel by itself; the references are written out in numpy, and files are real ones of ONNX Runtime."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

import laconic as lc
from laconic.core.program import TensorSpec
from laconic.deploy.export import write_onnx
from laconic.deploy.parity import ParityMeter, channel_axes, parity
from laconic.run import gate

RNG = np.random.default_rng(0)


def decibels(found: np.ndarray, expected: np.ndarray) -> float:
    return float(10 * np.log10(np.square(expected).sum() / np.square(found - expected).sum()))


def test_small_outputs_do_not_hide_behind_large_ones() -> None:
    boxes, scores = 1e3 * RNG.standard_normal((64, 4)), 1e-2 * RNG.standard_normal((64, 7))
    noisy = [boxes + 0.1 * RNG.standard_normal(boxes.shape), scores + 0.3 * RNG.standard_normal(scores.shape)]
    found = parity(noisy, [boxes, scores], [TensorSpec("boxes", ("batch", 4), "float32"), TensorSpec("scores", ("batch", 7), "float32")])
    assert [row["name"] for row in found["outputs"]] == ["boxes", "scores"]
    for row, a, b in zip(found["outputs"], noisy, (boxes, scores), strict=True):
        assert row["sqnr_db"] == pytest.approx(decibels(a, b))
        assert row["max_rel"] == pytest.approx(np.abs(a - b).max() / np.abs(b).max())
    assert found["sqnr_db"] == found["outputs"][1]["sqnr_db"] < -25
    assert found["max_abs"] == max(row["max_abs"] for row in found["outputs"])
    assert found["n"] == boxes.size + scores.size


@pytest.mark.parametrize(
    ("shape", "axis"), [((64, 9), 1), ((16, 9, 6, 5), 1), ((16, 20, 9), 2), ((16, 9, 20), 1)], ids=["2d", "pictures", "tokens", "series"]
)
@pytest.mark.parametrize("scale", [1.0, 1e-5], ids=["equal", "tiny"])
def test_the_worst_channel_is_found(shape: tuple[int, ...], axis: int, scale: float) -> None:
    expected = RNG.standard_normal(shape)
    at = [slice(None)] * len(shape)
    at[axis] = 5  # type: ignore[call-overload]
    expected[tuple(at)] *= scale
    found = expected.copy()
    found[tuple(at)] *= 1.5
    (row,) = parity([found], [expected], [TensorSpec("y", tuple("batch" if i == 0 else n for i, n in enumerate(shape)), "float32")])[
        "outputs"
    ]
    assert (row["channel_axis"], row["worst_channel"], row["dead_channels"]) == (axis, 5, [])
    assert row["worst_channel_db"] == pytest.approx(decibels(found[tuple(at)], expected[tuple(at)])) == pytest.approx(6.02, abs=0.01)


@pytest.mark.parametrize("level", [0.0, 5.0, -300.0], ids=str)
@pytest.mark.parametrize("kept", [0.0, 1.0], ids=["zeroed", "constant at its mean"])
def test_a_channel_that_is_constant_in_the_file_alone_is_dead(level: float, kept: float) -> None:
    expected = RNG.standard_normal((80, 6))
    expected[:, 2] = level + 0.3 * expected[:, 2]
    expected[:, 4] = 7.0  # constant in both: nothing was lost
    found = expected.copy()
    found[:, 2] = kept * expected[:, 2].mean()
    (row,) = parity([found], [expected])["outputs"]
    assert row["dead_channels"] == [row["worst_channel"]] == [2]
    variance = np.square(expected[:, 2] - expected[:, 2].mean()).sum()
    assert row["worst_channel_db"] == pytest.approx(10 * np.log10(variance / np.square(found[:, 2] - expected[:, 2]).sum()), abs=1e-6)


@pytest.mark.parametrize(
    "expected",
    [np.zeros((40, 3)), np.full((40, 3), 2.5), RNG.standard_normal((40, 1)), RNG.standard_normal(40), np.array(3.0), np.zeros((0, 4))],
    ids=["zeros", "constants", "one channel", "one dimension", "a number", "nothing"],
)
def test_what_is_the_same_passes(expected: np.ndarray) -> None:
    (row,) = parity([expected], [expected])["outputs"]
    assert (row["max_abs"], row["max_rel"], row["sqnr_db"]) == (0.0, 0.0, math.inf)
    assert not row.get("dead_channels")


def test_what_rounding_left_of_zero_is_no_channel() -> None:
    expected = np.concatenate([RNG.standard_normal((40, 3)), 1e-8 * RNG.standard_normal((40, 1))], axis=1)
    found = expected.copy()
    found[:, 3] = 0.0
    (row,) = parity([found], [expected])["outputs"]
    assert row["channels"] == 3
    assert row["dead_channels"] == []


def test_on_a_grid_a_channel_counts_where_it_moves_over_more_than_two_steps() -> None:
    step = 0.1
    expected = step * np.round(RNG.normal(0, 20, (200, 3)))
    expected[:, 1] = step * (RNG.random(200) < 0.1)  # now and then the next code
    found = expected.copy()
    found[:, 1] = 0.0
    meter = ParityMeter()
    meter.add([found], [expected])
    (row,) = meter.result(grid=True)["outputs"]
    assert (row["channels"], row["dead_channels"]) == (2, [])
    (row,) = meter.result(grid=False)["outputs"]
    assert row["dead_channels"] == [1]


def test_a_lost_bias_of_a_constant_channel_is_seen_on_a_grid() -> None:
    expected = 0.1 * np.round(RNG.normal(0, 20, (200, 3)))
    expected[:, 1] = 3.0
    found = expected.copy()
    found[:, 1] = 0.0
    meter = ParityMeter()
    meter.add([found], [expected])
    (row,) = meter.result(grid=True)["outputs"]
    assert (row["worst_channel"], row["worst_channel_db"]) == (1, pytest.approx(0.0))


@pytest.mark.parametrize("shape", [(64,), (64, 1), (8, 1, 8)], ids=str)
@pytest.mark.parametrize(("precision", "rounded"), [("fp32", False), ("bf16", False), ("fp32", True)], ids=["fp32", "bf16", "int8"])
def test_an_output_without_channels_that_is_constant_in_the_file_alone_is_rejected(
    shape: tuple[int, ...], precision: str, rounded: bool
) -> None:
    expected = 5 + RNG.standard_normal(shape)  # its mean alone is 14 dB of what a constant gets right
    for found, told in ((np.full(shape, 5.0), "constant in the file"), (expected * (1 + 1e-5), None)):
        asked = gate.tolerance(precision, rounded)
        meter = ParityMeter()
        meter.add([found], [expected])
        _, reason = gate.parity(meter.result(asked.resolution, asked.grid), precision, rounded)
        assert (reason is None) is (told is None)
        assert meter.result(asked.resolution, asked.grid)["outputs"][0]["constant"] is (told is not None)
    still = np.full(shape, 5.0)
    assert parity([still], [still + 1e-9])["outputs"][0]["constant"] is False


@pytest.mark.parametrize("dtype", [np.bool_, np.int64, np.uint8])
def test_a_rare_whole_number_that_is_lost_is_told_however_small_its_share(dtype: Any) -> None:
    expected = np.zeros((4, 5000), dtype)
    expected[:, :3] = 1
    meter = ParityMeter()
    for rows in (slice(0, 2), slice(2, 4)):  # six places in each batch, twelve in both
        meter.add([np.zeros_like(expected[rows])], [expected[rows]])
    (row,) = meter.result()["outputs"]
    assert row["equal"] > 0.999
    assert row["lost_values"] == [1]
    _, reason = gate.parity(meter.result(), "fp32")
    assert reason is not None
    assert "does the file have it too" in reason.text
    one = expected.copy()
    one[:, 1:3] = 0
    assert parity([one], [expected])["outputs"][0]["lost_values"] == []
    assert meter.result(grid=True)["outputs"][0]["lost_values"] == []  # so few may tip together where values are rounded


def test_an_imaginary_part_is_compared_too() -> None:
    expected = RNG.standard_normal((64, 3)) + 1j * RNG.standard_normal((64, 3))
    (row,) = parity([expected.conj()], [expected], [TensorSpec("y", ("batch", 3), "complex64")])["outputs"]
    assert row["max_abs"] == pytest.approx(2 * np.abs(expected.imag).max())
    assert row["n"] == 2 * expected.size


@pytest.mark.parametrize("dtype", [np.int64, np.bool_, np.uint8])
def test_whole_numbers_are_counted(dtype: Any) -> None:
    expected = (np.arange(200) % 2).astype(dtype)
    found = expected.copy()
    found[:10] = 1 - found[:10].astype(int)
    (row,) = parity([found], [expected])["outputs"]
    assert row["equal"] == 0.95
    beside = parity([found, np.ones(3)], [expected, np.ones(3)])
    assert beside["sqnr_db"] == math.inf  # that of the numbers that have a size


@pytest.mark.parametrize("mask", [math.nan, -math.inf, float(np.finfo(np.float32).min)], ids=str)
def test_masks_are_no_values_and_must_lie_in_the_same_places(mask: float) -> None:
    expected = RNG.standard_normal((50, 4))
    expected[::3, 1] = mask
    noisy = np.where(np.isfinite(expected) & (np.abs(expected) < 1e30), expected + 0.1 * RNG.standard_normal((50, 4)), expected)
    found = parity([noisy], [expected])
    real = np.isfinite(expected) & (np.abs(expected) < 1e30)
    assert found["sqnr_db"] == pytest.approx(decibels(noisy[real], expected[real]))
    for wrong in (np.where(real, noisy, 0.0), np.where(real, mask, noisy), np.where(real, noisy, -mask if mask == mask else 1.0)):
        told = parity([wrong], [expected])
        assert told["max_rel"] > 1e20
        assert told["sqnr_db"] < -200


def test_batches_of_different_size_add_up_to_one() -> None:
    expected = RNG.standard_normal((90, 5, 8))
    found = expected + 0.05 * RNG.standard_normal(expected.shape) * np.arange(1, 6)[:, None]
    specs = [TensorSpec("y", ("batch", 5, "length"), "float32")]
    meter = ParityMeter(specs)
    for start, end in ((0, 7), (7, 60), (60, 90)):
        meter.add([found[start:end]], [expected[start:end]])
    whole = parity([found], [expected], specs)
    for name, value in whole["outputs"][0].items():
        assert meter.result()["outputs"][0][name] == (pytest.approx(value) if isinstance(value, float) else value), name
    assert whole["outputs"][0]["worst_channel"] == 4
    meter.add([found[:3, :, :4]], [expected[:3, :, :4]])
    assert meter.result()["n"] == found.size + 3 * 5 * 4


def test_a_fault_in_the_last_batch_is_seen() -> None:
    expected = RNG.standard_normal((20, 3))
    meter = ParityMeter()
    for fault in (0.0, 0.0, 5.0):
        meter.add([expected + fault], [expected])
    assert meter.result()["max_abs"] == 5.0


@pytest.mark.parametrize(
    ("shape", "axes"),
    [
        (("batch", 10), [1]),
        (("batch", "length"), []),
        ((4, "batch", 32), [2]),
        (("batch", 16, 768), [1, 2]),
        (("batch", 1), []),
        ((), []),
    ],
    ids=str,
)
def test_channels_lie_where_the_size_is_fixed(shape: tuple[int | str, ...], axes: list[int]) -> None:
    assert channel_axes(shape, len(shape)) == axes


class Detector(nn.Module):
    """Boxes in pixels and scores, from one trunk."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk, self.boxes, self.scores = nn.Linear(12, 16), nn.Linear(16, 4), nn.Linear(16, 6)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = torch.relu(self.trunk(x))
        return 1e3 * self.boxes(h), 1e-2 * self.scores(h)


def edited(path: Path, edit: Callable[[dict[str, np.ndarray]], None]) -> Path:
    """The file with other weights."""
    model = onnx.load(path)
    values = {item.name: onnx.numpy_helper.to_array(item).copy() for item in model.graph.initializer}
    edit(values)
    for item in model.graph.initializer:
        item.CopyFrom(onnx.numpy_helper.from_array(values[item.name], item.name))
    onnx.save(model, path)
    return path


def zero_score(values: dict[str, np.ndarray]) -> None:
    (weight,) = (value for value in values.values() if 6 in value.shape and value.ndim == 2)
    weight[(slice(None), 3) if weight.shape[1] == 6 else 3] = 0.0


def test_a_zeroed_row_of_a_file_is_found(tmp_path: Path) -> None:
    program = lc.capture(Detector().eval(), torch.randn(2, 12))
    write_onnx(program, tmp_path / "m.onnx", "m.onnx")
    x = torch.randn(64, 12)
    expected = [leaf.detach().numpy() for leaf in program(x)]

    def answers() -> Any:
        return onnxruntime.InferenceSession(str(tmp_path / "m.onnx")).run(None, {program.inputs[0].name: x.numpy()})

    sound = parity(answers(), expected, program.outputs)
    assert sound["max_rel"] < 1e-5
    assert all(row["worst_channel_db"] > 80 and not row["dead_channels"] for row in sound["outputs"])
    edited(tmp_path / "m.onnx", zero_score)
    boxes, scores = parity(answers(), expected, program.outputs)["outputs"]
    assert boxes["max_rel"] < 1e-5
    assert scores["dead_channels"] == [3]


def test_a_channel_that_moves_by_less_than_rounding_is_not_dead() -> None:
    expected = np.concatenate([RNG.standard_normal((40, 3)), 5 + 1e-5 * RNG.standard_normal((40, 1))], axis=1)
    found = expected.copy()
    found[:, 3] = 5.0
    (row,) = parity([found], [expected])["outputs"]
    assert row["channels"] == 4
    assert row["dead_channels"] == []
    assert row["worst_channel_db"] > 100


def test_a_dead_channel_is_told_before_a_noisy_one() -> None:
    expected = RNG.standard_normal((200, 4))
    found = expected.copy()
    found[:, 1] = -expected[:, 1]
    found[:, 2] = 0.0
    (row,) = parity([found], [expected])["outputs"]
    assert (row["worst_channel"], row["dead_channels"]) == (2, [2])
    assert row["worst_channel_db"] == pytest.approx(0.0, abs=0.05)  # but for the mean of the channel, which was lost too


@pytest.mark.parametrize(("noise", "said"), [(1e-9, math.inf), (1e-3, -math.inf)])
def test_an_output_of_zeros_has_no_signal(noise: float, said: float) -> None:
    assert parity([np.full((20, 3), noise)], [np.zeros((20, 3))])["sqnr_db"] == said


def test_a_few_numbers_say_nothing_of_a_channel() -> None:
    expected = RNG.standard_normal((5, 4))
    (row,) = parity([np.zeros((5, 4))], [expected])["outputs"]
    assert "worst_channel" not in row
    assert row["sqnr_db"] == 0.0
