from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from laconic.core.capture import capture
from laconic.core.program import Program, aten
from laconic.quantization.attention import decompose_attention
from tests.quantization.nets import Attention


def count(program: Program, target: object) -> int:
    return sum(node.target == target for node in program.graph.nodes)


@pytest.mark.parametrize("scale", [None, 0.3], ids=["default scale", "own scale"])
@pytest.mark.parametrize("kind", ["none", "float", "boolean"])
def test_attention_taken_apart_is_pytorchs(kind: str, scale: float | None) -> None:
    net = Attention(kind, scale).eval()
    x = torch.randn(4, 5, 16)
    program = capture(net, x)
    assert decompose_attention(program) == 1
    assert (
        count(program, aten.scaled_dot_product_attention.default),
        count(program, aten.matmul.default),
        count(program, aten.softmax.int),
    ) == (0, 2, 1)
    torch.testing.assert_close(program(x), net(x), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(program(x[:3]), net(x[:3]), rtol=1e-5, atol=1e-5)


class Direct(nn.Module):
    """Attention alone, by given queries, keys and values."""

    def __init__(self, **options: object) -> None:
        super().__init__()
        self.options = options

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v, **self.options)


@pytest.mark.parametrize(("options", "heads"), [({"is_causal": True}, 4), ({"enable_gqa": True}, 2)], ids=["causal", "shared keys"])
def test_what_cannot_be_taken_apart_stays_whole(options: dict[str, object], heads: int) -> None:
    inputs = torch.randn(2, 4, 5, 8), torch.randn(2, heads, 5, 8), torch.randn(2, heads, 5, 8)
    program = capture(Direct(**options), inputs)
    before = program.fingerprint()
    assert decompose_attention(program) == 0
    assert program.fingerprint() == before


def test_attention_with_dropout_stays_whole() -> None:
    program = capture(Direct(dropout_p=0.5), tuple(torch.randn(2, 4, 5, 8) for _ in range(3)))
    assert decompose_attention(program) == 0


def test_keys_of_another_length_than_queries() -> None:
    inputs = torch.randn(2, 4, 5, 8), torch.randn(2, 4, 7, 8), torch.randn(2, 4, 7, 3)
    program = capture(Direct(), inputs)
    assert decompose_attention(program) == 1
    torch.testing.assert_close(program(*inputs), F.scaled_dot_product_attention(*inputs))


class MaskedByInput(nn.Module):
    """Two layers of attention behind one boolean mask that comes in as padding."""

    def forward(self, x: Tensor, seen: Tensor) -> Tensor:
        mask = seen[:, None, None, :]
        y = F.scaled_dot_product_attention(x, x, x, mask)
        return F.scaled_dot_product_attention(y * 1.5, y, y, mask)


def test_attention_that_asks_what_attention_answered() -> None:
    class Twice(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            y = F.scaled_dot_product_attention(x, x, x)
            return F.scaled_dot_product_attention(y, x, x)

    x = torch.randn(3, 2, 5, 4)
    program = capture(Twice(), x)
    assert decompose_attention(program) == 2
    torch.testing.assert_close(program(x), Twice()(x))


def test_layers_share_what_becomes_of_a_boolean_mask() -> None:
    x, seen = torch.randn(3, 2, 5, 4), torch.arange(5) < torch.tensor([[5], [3], [1]])
    program = capture(MaskedByInput(), (x, seen))
    assert decompose_attention(program) == 2
    assert count(program, aten.logical_not.default) == 1
    torch.testing.assert_close(program(x, seen), MaskedByInput()(x, seen))


def test_a_row_that_sees_nothing_becomes_the_mean_of_the_values() -> None:
    x, seen = torch.randn(2, 1, 5, 4), torch.tensor([[True] * 5, [False] * 5])

    class Once(nn.Module):
        def forward(self, x: Tensor, seen: Tensor) -> Tensor:
            return F.scaled_dot_product_attention(x, x, x, seen[:, None, None, :])

    program = capture(Once(), (x, seen))
    decompose_attention(program)
    torch.testing.assert_close(program(x, seen)[1], x[1].mean(1, keepdim=True).expand(1, 5, 4))


def test_its_pieces_belong_to_its_module() -> None:
    class Inner(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = Attention()

        def forward(self, x: Tensor) -> Tensor:
            return self.attention(x)

    program = capture(Inner(), torch.randn(2, 5, 16))
    stack = next(node for node in program.graph.nodes if node.target is aten.scaled_dot_product_attention.default).meta["nn_module_stack"]
    decompose_attention(program)
    for target in (aten.matmul.default, aten.softmax.int):
        assert all(node.meta["nn_module_stack"] == stack for node in program.graph.nodes if node.target is target)
