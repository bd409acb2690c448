from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from laconic.core.capture import capture
from laconic.core.gram import patches, squares, step_of
from laconic.core.operators import is_layer

LAYERS: dict[str, tuple[Any, tuple[int, ...]]] = {
    "linear": (nn.Linear(6, 3, bias=False), (4, 5, 6)),
    "one dimension": (nn.Conv1d(4, 6, 3, stride=2, padding=1, bias=False), (4, 4, 9)),
    "two": (nn.Conv2d(4, 6, (3, 2), padding="same", dilation=(1, 2), bias=False), (4, 4, 7, 6)),
    "three": (nn.Conv3d(2, 6, (2, 3, 1), stride=(1, 2, 1), padding=(0, 1, 0), bias=False), (3, 2, 4, 5, 3)),
}


@pytest.mark.parametrize(("net", "shape"), LAYERS.values(), ids=LAYERS)
def test_rows_times_the_weight_are_what_the_layer_computes(net: nn.Module, shape: tuple[int, ...]) -> None:
    x = torch.randn(shape)
    weight: Tensor = net.weight  # type: ignore[assignment]
    node = next(node for node in capture(net, x).graph.nodes if is_layer(node))
    rows = patches(node, x, tuple(weight.shape[2:]))
    expected = net(x) if weight.dim() == 2 else net(x).movedim(1, -1)
    torch.testing.assert_close(rows @ weight.flatten(1).T, expected.reshape(-1, weight.shape[0]))
    some = patches(node, x, tuple(weight.shape[2:]), most=7)
    step = next(n for n in range(len(rows) // 7, len(rows)) if math.gcd(n, len(rows)) == 1)
    torch.testing.assert_close(some, rows[::step])


def test_some_places_of_many_maps_are_all_places_alike() -> None:
    chosen = torch.arange(0, 64 * 28 * 28, step_of(64 * 28 * 28, 1024)) % (28 * 28)
    assert len(chosen.unique()) > 500  # every 49th would be the same sixteen
    assert torch.bincount(chosen % 28).min() > 0


def test_half_of_the_products_are_all_of_them() -> None:
    rows = torch.randn(2, 7, 1300, dtype=torch.float64)
    torch.testing.assert_close(squares(rows), torch.einsum("gni,gnj->gij", rows, rows))
