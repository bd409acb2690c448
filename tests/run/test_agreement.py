"""Parity of files with their programs over batches, sizes and lengths; the program itself, run here, is the reference."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

import laconic as lc
from laconic.core.axes import dynamic_sizes, resize
from laconic.core.errors import LaconicError
from laconic.core.program import Program, TensorSpec
from laconic.deploy.export import write_onnx
from laconic.run.agreement import ParityInputs, compare, parity_inputs, write_answers
from laconic.run.examples import Examples, read_arrays, write_arrays
from tests.deploy.test_parity import Detector, edited, zero_score


def valid_of(folder: Path, batches: list[list[np.ndarray]]) -> Examples:
    folder.mkdir()
    for index, arrays in enumerate(batches):
        write_arrays(folder / f"{index:06d}.npz", arrays)
    return Examples(folder, torch.zeros(1), 1)


def answer(model: Path, inputs: ParityInputs, folder: Path) -> None:
    """Answer as a worker does."""
    session = onnxruntime.InferenceSession(str(model))
    names = [item.name for item in session.get_inputs()]
    for name, path in inputs.files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        write_arrays(folder / name, session.run(None, dict(zip(names, read_arrays(path), strict=True))))


def judged(program: Program, model: Path, inputs: ParityInputs, scratch: Path, **kind: Any) -> tuple[dict[str, Any], Any]:
    shutil.rmtree(scratch, ignore_errors=True)
    write_answers(program, {name: str(path) for name, path in inputs.files.items()}, scratch / "expected")
    answer(model, inputs, scratch / "found")
    return compare(inputs, scratch / "found", scratch / "expected", program.outputs, **{"precision": "fp32", "rounded": False, **kind})


@pytest.fixture
def detector(tmp_path: Path) -> tuple[Program, Path, ParityInputs]:
    program = lc.capture(Detector().eval(), torch.randn(2, 12))
    write_onnx(program, tmp_path / "m.onnx", "m.onnx")
    valid = valid_of(tmp_path / "valid", [[torch.randn(16, 12).numpy()] for _ in range(9)])
    return program, tmp_path / "m.onnx", parity_inputs(program, valid, tmp_path / "sizes")


@pytest.mark.parametrize("rounded", [False, True], ids=["float", "rounded"])
def test_a_zeroed_class_is_rejected_though_the_boxes_agree(
    detector: tuple[Program, Path, ParityInputs], tmp_path: Path, rounded: bool
) -> None:
    program, model, inputs = detector
    evidence, reason = judged(program, model, inputs, tmp_path / "a", rounded=rounded)
    assert reason is None
    assert (evidence["batches"], evidence["sizes"]) == (4, {"batch": [16, 1, 3]})
    assert [path.name for path in inputs.batches] == ["000000.npz", "000003.npz", "000005.npz", "000008.npz"]
    edited(model, zero_score)
    evidence, reason = judged(program, model, inputs, tmp_path / "a", rounded=rounded)
    assert reason is not None
    assert reason.rule == "parity"
    assert evidence["worst"] == "1"
    boxes, scores = evidence["outputs"]
    assert boxes["max_rel"] < 1e-5
    assert scores["dead_channels"] == [3]


def scale_scores(values: dict[str, np.ndarray]) -> None:
    """Other scores altogether, of the same size as the right ones."""
    for value in values.values():
        if 6 in value.shape:
            value[...] = np.random.default_rng(1).permutation(value.ravel()).reshape(value.shape)


def test_dead_scores_of_a_rounded_program_are_seen_behind_boxes(detector: tuple[Program, Path, ParityInputs], tmp_path: Path) -> None:
    program, model, inputs = detector
    edited(model, scale_scores)
    evidence, reason = judged(program, model, inputs, tmp_path / "a", rounded=True)
    noise = power = 0.0
    for name in inputs.files:
        for a, b in zip(read_arrays(tmp_path / "a/found" / name), read_arrays(tmp_path / "a/expected" / name), strict=True):
            noise, power = noise + float(np.square(a.astype(float) - b).sum()), power + float(np.square(b.astype(float)).sum())
    assert 10 * np.log10(power / noise) > 60  # over all outputs
    assert evidence["sqnr_db"] < 5
    assert reason is not None
    assert "its output '1' differs from the rounded program's" in reason.text


def test_a_fault_that_one_later_batch_shows_is_seen(detector: tuple[Program, Path, ParityInputs], tmp_path: Path) -> None:
    program, model, inputs = detector
    judged(program, model, inputs, tmp_path / "a")
    late = tmp_path / "a/found/valid/000008.npz"
    boxes, scores = read_arrays(late)
    write_arrays(late, [boxes, scores * 1.1])
    _, reason = compare(inputs, tmp_path / "a/found", tmp_path / "a/expected", program.outputs, "fp32", False)
    assert reason is not None


class Tokens(nn.Module):
    """Values per token; `fixed` adds a table of as many entries as the example had tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.out = nn.Embedding(20, 8), nn.Linear(8, 5)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        return self.out(self.embed(ids).cumsum(1)) * mask[..., None]


def tokens(n: int, length: int) -> list[np.ndarray]:
    rng = np.random.default_rng(n)
    return [rng.integers(0, 20, (n, length)), np.ones((n, length), np.float32)]


def test_two_further_batch_sizes_and_lengths_are_compared(tmp_path: Path) -> None:
    dynamic = {"ids": {1: "length"}, "mask": {1: "length"}}
    program = lc.capture(Tokens().eval(), tuple(torch.from_numpy(a) for a in tokens(4, 6)), dynamic=dynamic)
    write_onnx(program, tmp_path / "m.onnx", "m.onnx")
    valid = valid_of(tmp_path / "valid", [tokens(8, 12), tokens(5, 9)])
    inputs = parity_inputs(program, valid, tmp_path / "sizes")
    evidence, reason = judged(program, tmp_path / "m.onnx", inputs, tmp_path / "a")
    assert reason is None
    assert evidence["sizes"] == {"batch": [8, 5, 1, 3], "length": [12, 9, 6]}
    found = read_arrays(tmp_path / "a/found/sizes/000002.npz")[0]
    first = [torch.from_numpy(array[:3, :6]) for array in tokens(8, 12)]
    assert np.allclose(found, program(*first).detach().numpy(), atol=1e-5)
    # A file that is right at the size of the batches alone.
    write_arrays(tmp_path / "a/found/sizes/000002.npz", [found[:, :, ::-1].copy()])
    _, reason = compare(inputs, tmp_path / "a/found", tmp_path / "a/expected", program.outputs, "fp32", False)
    assert reason is not None


class OnlyEven(nn.Module):
    """Answers even lengths alone."""

    def forward(self, x: Tensor) -> Tensor:
        return x.unflatten(1, (-1, 2)).sum(2)


def test_sizes_that_the_model_itself_does_not_answer_are_left_out_and_told(tmp_path: Path) -> None:
    program = lc.capture(OnlyEven().eval(), torch.randn(4, 6), dynamic={"x": {1: "length"}})
    valid = valid_of(tmp_path / "valid", [[torch.randn(4, 10).numpy()]])
    inputs = parity_inputs(program, valid, tmp_path / "sizes")
    assert [text.partition(":")[0] for text in inputs.left_out] == ["batch 3, length 5", "batch 1, length 7"]
    assert len(inputs.resized) == 2


def test_steps_whose_program_holds_at_one_size_only_are_told(tmp_path: Path) -> None:
    program = lc.capture(nn.Linear(4, 3).eval(), torch.randn(2, 4))
    broken = lc.capture(nn.Linear(4, 3).eval(), torch.randn(8, 4), dynamic_batch=False)
    with broken.graph.inserting_before(broken.graph.output_node()):
        (last,) = broken.graph.output_node().args[0]
        broken.graph.output_node().args = ((broken.graph.call_function(torch.ops.aten.view.default, (last, [8, 3])),),)
    broken.recompile()
    broken.interface = program.interface
    valid = valid_of(tmp_path / "valid", [[torch.randn(8, 4).numpy()]])
    inputs = parity_inputs(program, valid, tmp_path / "sizes")
    with pytest.raises(LaconicError, match="after its steps the program does not answer inputs of batch 1, which the model does"):
        write_answers(broken, {name: str(path) for name, path in inputs.files.items()}, tmp_path / "expected")


def test_the_batch_is_the_axis_of_that_name() -> None:
    specs = (
        TensorSpec("x", ("batch", 5), "float32"),
        TensorSpec("state", (2, "batch", 3), "float32"),
        TensorSpec("table", (4,), "float32"),
    )
    arrays = [np.arange(20.0).reshape(4, 5), np.arange(24.0).reshape(2, 4, 3), np.arange(4.0)]
    x, state, table = resize(specs, arrays, {"batch": 6})
    assert np.array_equal(x, arrays[0][[0, 1, 2, 3, 0, 1]])
    assert np.array_equal(state, arrays[1][:, [0, 1, 2, 3, 0, 1]])
    assert np.array_equal(table, arrays[2])
    assert [a.shape for a in resize(specs, arrays, {"batch": 1})] == [(1, 5), (2, 1, 3), (4,)]
    assert dynamic_sizes(specs, arrays) == {"batch": 4}
