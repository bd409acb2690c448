"""Static memory of graphs: worked out by hand, by a heap that hands out and takes back, and by all layouts of a few buffers."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import laconic as lc
from laconic.core.arena import FLOAT_BYTES, Arena, Buffer, arena, arenas, buffers_of, offsets
from laconic.core.target import PRECISIONS
from tests.reference.arena import alive_in_onnx_runtime, most_alive, smallest_arena


def captured(model: nn.Module, *shape: int) -> lc.Program:
    return lc.capture(model.eval(), torch.randn(2, *shape))


class Residual(nn.Module):
    """x → conv → relu → conv, + x: three maps at once at the second convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.first, self.second = (nn.Conv2d(i, 4, 3, padding=1) for i in (1, 4, 4))

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        return F.relu(self.second(F.relu(self.first(x))) + x).mean((2, 3))


class Branches(nn.Module):
    """What is read twice and later, a view of it, an activation in place, and numbers that are made on the way."""

    def __init__(self) -> None:
        super().__init__()
        self.wide, self.narrow = nn.Linear(6, 12), nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        wide = self.wide(x)
        turned = wide.view(-1, 3, 4).transpose(1, 2)
        gate = torch.sigmoid(wide)
        made = F.hardswish(wide * gate, inplace=True)
        return self.narrow(made) + turned.sum((1, 2)).unsqueeze(1) * torch.ones(1, 3)


class Remembering(nn.Module):
    """An LSTM with states that are made."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.head = nn.LSTM(3, 5, batch_first=True), nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.lstm(x)[0][:, -1])


def mlp(*sizes: int) -> nn.Module:
    layers = [part for i, o in itertools.pairwise(sizes) for part in (nn.Linear(i, o), nn.ReLU())]
    return nn.Sequential(*layers[:-1])


CONV = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(64, 10))
MAP = 4 * 8 * 8  # numbers of a map of four channels


@pytest.mark.parametrize(
    ("model", "shape", "expected"),
    [
        (mlp(4, 8, 3), (4,), 4 * (4 + 8)),  # input and hidden; then hidden and output: 44
        (mlp(1, 16, 16, 1), (1,), 4 * 32),  # both hidden layers
        (CONV, (1, 8, 8), 4 * (MAP + MAP // 4)),  # the map and the pooled one; norm and activation lie over the map, flattening is a view
        (Residual(), (1, 8, 8), 4 * 3 * MAP),  # the skipped, what is convolved and what comes of it
    ],
    ids=["mlp", "sine", "conv", "residual"],
)
def test_arenas_worked_out_by_hand(model: nn.Module, shape: tuple[int, ...], expected: int) -> None:
    program = captured(model, *shape)
    found = arena(buffers_of(program))
    assert (found.size_bytes, found.alive_bytes, found.copied_bytes) == (expected, expected, 0)
    assert arena(buffers_of(program, batch=3)).size_bytes == 3 * expected


def test_half_precision_halves_what_is_between_inputs_and_outputs() -> None:
    """Input 4 B, hidden 2 × 16 × 2 B; and where the input counts: 16 B beside 8 × 2 B."""
    assert arena(buffers_of(captured(mlp(1, 16, 16, 1), 1), "bf16")).size_bytes == 64
    assert arena(buffers_of(captured(mlp(4, 8, 3), 4), "bf16")).size_bytes == 32


@pytest.mark.parametrize(
    ("model", "shape"),
    [(mlp(4, 8, 3), (4,)), (CONV, (1, 8, 8)), (Residual(), (1, 8, 8)), (Branches(), (6,)), (Remembering(), (7, 3))],
    ids=["mlp", "conv", "residual", "branches", "lstm"],
)
def test_what_is_alive_is_what_a_heap_holds(model: nn.Module, shape: tuple[int, ...]) -> None:
    program = captured(model, *shape)
    for batch in (1, 3):
        assert arena(buffers_of(program, batch=batch)).alive_bytes == most_alive(program, [torch.randn(batch, *shape)])


def quantized(model: nn.Module, *shape: int, **how: Any) -> lc.Program:
    data = torch.utils.data.TensorDataset(torch.randn(64, *shape), torch.zeros(64, dtype=torch.long))
    task = lc.Task(model.eval(), train=data, valid=data, loss=F.cross_entropy, metric="accuracy")
    program, _ = lc.quantize(captured(model, *shape), lc.Quantize(**how), task)
    return program


def test_integers_take_a_byte_where_operators_read_and_write_them() -> None:
    """The sine net of TensorFlow Lite Micro's first example, 1 → 16 → 16 → 1 in int8: 32 B for the two hidden layers. A mean is computed in floats: its map is
    unpacked beside the codes.
    """
    found = arena(buffers_of(quantized(mlp(1, 16, 16, 1), 1, mode="static", target="onnxruntime")))
    assert (found.size_bytes, found.copied_bytes) == (32, 0)
    assert arena(buffers_of(quantized(Residual(), 1, 8, 8, mode="static", target="onnxruntime"))).size_bytes == (1 + 4) * MAP


def test_dynamic_quantization_needs_the_float_and_its_rounded_copy() -> None:
    """A hidden layer in float, the two numbers of its range, and the rounded copy."""
    found = arena(buffers_of(quantized(mlp(8, 64, 64, 8), 8, mode="dynamic", target="onnxruntime")))
    assert (found.alive_bytes, found.copied_bytes) == (64 * 4 + 2 * 4 + 64, 64)
    assert "64 of them in rounded copies of dynamic quantization" in found.told


@pytest.mark.parametrize("how", [{}, {"mode": "static", "target": "onnxruntime"}], ids=["fp32", "int8"])
@pytest.mark.parametrize(
    ("model", "shape"), [(mlp(4, 8, 3), (4,)), (CONV, (1, 8, 8)), (Residual(), (1, 8, 8))], ids=["mlp", "conv", "residual"]
)
def test_what_is_alive_is_what_the_graph_of_onnx_runtime_has(
    model: nn.Module, shape: tuple[int, ...], how: dict[str, str], tmp_path: Path
) -> None:
    """The graph that ONNX Runtime itself has fused, every value of it as it computes it, freed behind its last reader."""
    program = quantized(model, *shape, **how) if how else captured(model, *shape)
    lc.export(program, tmp_path / "model.onnx")
    assert arena(buffers_of(program)).alive_bytes == alive_in_onnx_runtime(tmp_path / "model.onnx", torch.randn(1, *shape).numpy())


# Layouts ------------------------------------------------------------------------------------------------------------------------------

SPANS = st.lists(
    st.tuples(st.integers(1, 9), st.integers(0, 6), st.integers(0, 3)).map(lambda p: Buffer(f"b{p}", p[0], p[1], p[1] + p[2])),
    min_size=1,
    max_size=6,
)


@settings(max_examples=150, deadline=None)
@given(SPANS)
def test_no_two_that_are_alive_overlap_and_no_arena_is_smaller_than_the_best(buffers: list[Buffer]) -> None:
    places, found = offsets(buffers), arena(buffers)
    for (at, one), (place, other) in itertools.combinations(zip(places, buffers, strict=True), 2):
        assert at + one.size_bytes <= place or place + other.size_bytes <= at or one.last < other.first or other.last < one.first
    alive = max(sum(one.size_bytes for one in buffers if one.first <= step <= one.last) for step in range(12))
    assert alive == found.alive_bytes <= smallest_arena(buffers) <= found.size_bytes


def test_a_layout_by_hand() -> None:
    """The largest lies at 0; what it never meets lies under it; what meets both lies behind them."""
    buffers = [Buffer("a", 4, 0, 1), Buffer("b", 6, 1, 2), Buffer("c", 4, 2, 3), Buffer("d", 2, 0, 3)]
    assert offsets(buffers) == [6, 0, 6, 10]
    assert arena(buffers) == Arena(12, 12, "b")
    assert arena([]) == Arena(0, 0, "")


def test_a_graph_that_cannot_be_followed_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    program = captured(mlp(4, 8, 3), 4)
    known = arenas(program)["fp32"]
    assert (known.value, known.unit) == (48, "B")
    assert known.note == "computed from the graph, for one example; the most at once are 48 B, at linear"

    def no_rule(*_: Any) -> None:
        raise NotImplementedError("no rule for aten::odd")

    monkeypatch.setattr("laconic.core.arena._made", no_rule)
    unknown = arenas(program)["bf16"]
    assert (unknown.value, unknown.note) == (None, "unknown: NotImplementedError: no rule for aten::odd")


def test_every_precision_of_a_target_has_its_width() -> None:
    assert set(FLOAT_BYTES) == set(PRECISIONS)


def test_weights_and_what_follows_from_them_lie_in_flash() -> None:
    class Turned(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(8, 4))

        def forward(self, x: Tensor) -> Tensor:
            return x @ (self.weight.t().contiguous() * 2)

    assert sorted(one.size_bytes for one in buffers_of(captured(Turned(), 4))) == [16, 32]


def test_an_artifact_tells_its_memory_and_an_older_card_does_not(tmp_path: Path) -> None:
    made = lc.export(captured(mlp(4, 8, 3), 4), tmp_path / "model.onnx", precision="fp32")
    assert made.ram.value == 48
    assert lc.Artifact.open(tmp_path).ram == made.ram
    assert made.with_target(precision="bf16").ram.value == 32
    card = json.loads((tmp_path / "artifact.json").read_text(encoding="utf-8"))
    del card["arena"]
    (tmp_path / "artifact.json").write_text(json.dumps(card), encoding="utf-8")
    assert lc.Artifact.open(tmp_path).ram.note.startswith("unknown: the graph is not known, only its file")
