"""The one table of operators, and the passes that read it: each spelling of a layer is folded, rounded, corrected, counted and coupled alike."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn

from laconic.core import extensions
from laconic.core.capture import capture
from laconic.core.folding import fold_batch_norm
from laconic.core.graph import get_tensor, without_dropout
from laconic.core.operators import (
    OPERATORS,
    argument,
    family_of,
    inputs_first,
    is_layer,
    names_of,
    operator_of,
    outputs_first,
    overloads,
    paddings,
    row_of,
)
from laconic.core.program import Program
from laconic.measure.counts import count
from laconic.pruning.coupling import couple
from laconic.pruning.rules import table
from laconic.pruning.sizes import Sizes
from laconic.quantization.placement import place
from laconic.run.latency_table import _attributes
from tests.quantization.nets import with_statistics


class Added(nn.Module):
    """`addmm`, as the Conv1D of GPT-2 has it."""

    def __init__(self, inputs: int, outputs: int, bias: float = 1, product: float = 1) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(inputs, outputs)), nn.Parameter(torch.randn(outputs))
        self.factors = {"beta": bias, "alpha": product}

    def forward(self, x: Tensor) -> Tensor:
        return torch.addmm(self.bias, x, self.weight, **self.factors)


class General(nn.Module):
    """`torch.convolution`, whose arguments say whether it is a transposed one."""

    def __init__(self, transposed: bool) -> None:
        super().__init__()
        self.transposed = transposed
        self.weight, self.bias = (
            nn.Parameter(torch.randn(4, 6, 3, 3) if transposed else torch.randn(6, 4, 3, 3)),
            nn.Parameter(torch.randn(6)),
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.convolution(x, self.weight, self.bias, [1, 1], [1, 1], [1, 1], self.transposed, [0, 0], 1)


def norm(d: int) -> nn.Module:
    return (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)[d - 1](6)


def image(d: int) -> Tensor:
    return torch.randn(4, 4, *[6] * d)


LAYERS: dict[str, tuple[Callable[[], nn.Module], Callable[[], nn.Module], Callable[[], Tensor]]] = {
    **{
        f"{kind}, {d}d": (lambda make=make, d=d: make(d), lambda d=d: norm(d), lambda d=d: image(d))  # type: ignore[misc]
        for d in (1, 2, 3)
        for kind, make in {
            "convolution": lambda d: (nn.Conv1d, nn.Conv2d, nn.Conv3d)[d - 1](4, 6, 3),
            "same padding": lambda d: (nn.Conv1d, nn.Conv2d, nn.Conv3d)[d - 1](4, 6, 3, padding="same", bias=False),
            "valid padding": lambda d: (nn.Conv1d, nn.Conv2d, nn.Conv3d)[d - 1](4, 6, 2, padding="valid"),
            "grouped": lambda d: (nn.Conv1d, nn.Conv2d, nn.Conv3d)[d - 1](4, 6, 3, groups=2),
            "transposed": lambda d: (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)[d - 1](4, 6, 3, stride=2),
            "transposed, grouped": lambda d: (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)[d - 1](
                4, 6, 2, groups=2, bias=False
            ),
        }.items()
    },
    "general": (lambda: General(False), lambda: norm(2), lambda: image(2)),
    "general, transposed": (lambda: General(True), lambda: norm(2), lambda: image(2)),
    "linear": (lambda: nn.Linear(5, 6), lambda: norm(1), lambda: torch.randn(8, 5)),
    "addmm": (lambda: Added(5, 6), lambda: norm(1), lambda: torch.randn(8, 5)),
}
each = pytest.mark.parametrize("name", LAYERS)


def program_of(*parts: nn.Module, x: Tensor) -> Program:
    return capture(with_statistics(nn.Sequential(*parts)), x)


def layers(program: Program) -> list[fx.Node]:
    return [node for node in program.graph.nodes if is_layer(node)]


@each
@torch.no_grad()
def test_a_batch_norm_behind_any_layer_is_folded(name: str) -> None:
    make, normalized, inputs = LAYERS[name]
    x = inputs()
    program = program_of(make(), normalized(), x=x)
    folded, outcome = fold_batch_norm(program)
    assert (outcome.changed["folded"], outcome.skipped) == (1, ())
    assert not any(family_of(node) == "batch norm" for node in folded.graph.nodes)
    torch.testing.assert_close(folded(x), program(x), rtol=1e-4, atol=1e-4)


@each
def test_any_layer_is_placed_counted_and_coupled(name: str) -> None:
    make, _, inputs = LAYERS[name]
    x = inputs()
    program = program_of(make(), nn.ReLU(), x=x)
    (node,) = layers(program)
    assert place(program, "openvino").operators == [node]
    counts = count(program)
    assert counts.unknown == {}
    assert counts.macs > 0
    coupling = couple(program)
    assert coupling.unknown == ()
    weight = coupling.name(argument(node, row_of(node).weight))
    assert {role for (tensor, _), role in coupling.roles.items() if tensor == weight} >= {"out", "in"}


@each
@torch.no_grad()
def test_weights_are_seen_by_output_and_by_input(name: str) -> None:
    """Zeroing an output slice kills that channel of the output; zeroing an input slice makes the output blind to that channel."""
    make, _, inputs = LAYERS[name]
    x = inputs()
    program = program_of(make(), x=x)
    (node,) = layers(program)
    row = row_of(node)
    weight = get_tensor(program, argument(node, row.weight))
    before, bias = weight.clone(), argument(node, row.bias)
    by_output = outputs_first(weight, node).clone()
    by_output[1] = 0
    weight.copy_(outputs_first(by_output, node))
    shift = 0.0 if bias is None else float(get_tensor(program, bias)[1])
    channel = program(x).movedim(row.channels, 0)[1]
    torch.testing.assert_close(channel, torch.full_like(channel, shift))
    by_input = inputs_first(before, node).clone()
    by_input[2] = 0
    weight.copy_(inputs_first(by_input, node))
    other = x.clone()
    other.movedim(row.channels, 0)[2] = 7.0
    torch.testing.assert_close(program(other), program(x))


def test_a_norm_over_another_dimension_than_the_channels_is_not_folded() -> None:
    """Behind (B, L, O) a batch-norm normalizes L, even where L happens to be O."""
    x = torch.randn(4, 6, 5)
    program = program_of(nn.Linear(5, 6), norm(1), x=x)
    folded, outcome = fold_batch_norm(program)
    assert outcome.changed["folded"] == 0
    assert outcome.skipped[0].reason == "it does not normalize the output channels of 0"
    torch.testing.assert_close(folded(x), program(x))


@pytest.mark.parametrize("factors", [{"bias": 0.5}, {"product": 2.0}], ids=["beta", "alpha"])
def test_a_scaled_addmm_is_a_product_and_no_layer(factors: dict[str, Any]) -> None:
    program = program_of(Added(5, 6, **factors), norm(1), x=torch.randn(8, 5))
    (node,) = [node for node in program.graph.nodes if node.target is torch.ops.aten.addmm.default]
    row = operator_of(node)
    assert row is not None
    assert (row.family, row.inputs, row.is_layer) == ("matrix product", (1, 2), False)
    assert fold_batch_norm(program)[1].changed["folded"] == 0


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"kernel_size": 3, "padding": "same"}, [(1, 1), (1, 1)]),
        ({"kernel_size": (4, 3), "padding": "same", "dilation": (1, 3)}, [(1, 2), (3, 3)]),
        ({"kernel_size": 3, "padding": "valid"}, [(0, 0), (0, 0)]),
        ({"kernel_size": 3, "padding": (2, 1)}, [(2, 2), (1, 1)]),
    ],
    ids=["same", "same, even", "valid", "numbers"],
)
def test_paddings_are_numbers(options: dict[str, Any], expected: list[tuple[int, int]]) -> None:
    x, net = torch.randn(2, 4, 9, 9), nn.Conv2d(4, 6, bias=False, **options)
    (node,) = layers(program_of(net, x=x))
    found = paddings(node, net.kernel_size)
    assert found == expected
    padded = nn.functional.pad(x, [amount for pair in reversed(found) for amount in pair])
    torch.testing.assert_close(nn.functional.conv2d(padded, net.weight, dilation=net.dilation), net(x))


DROPOUTS = {
    "dropout": lambda inplace: nn.Dropout(0.5, inplace),
    "dropout2d": lambda inplace: nn.Dropout2d(0.5, inplace),
    "alpha": lambda inplace: nn.AlphaDropout(0.5, inplace),
    "feature alpha": lambda inplace: nn.FeatureAlphaDropout(0.5, inplace),
}


@pytest.mark.parametrize("inplace", [False, True], ids=["copying", "in place"])
@pytest.mark.parametrize("name", DROPOUTS)
def test_every_dropout_acts_in_training_and_leaves_before_deployment(name: str, inplace: bool) -> None:
    x = torch.randn(8, 4, 5, 5)
    program = program_of(nn.Conv2d(4, 6, 1), DROPOUTS[name](inplace), nn.Conv2d(6, 2, 1), x=x)
    assert torch.equal(program(x), program(x))
    assert not torch.equal(program.train()(x), program(x))
    program.eval()
    assert not any(family_of(node) == "dropout" for node in without_dropout(program).graph.nodes)
    assert (count(program).unknown, couple(program).unknown) == ({}, ())
    assert len(couple(program).groups) == 1


PRODUCTS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "mm": lambda a, b: torch.mm(a[0], b[0]),
    "bmm": torch.bmm,
    "baddbmm": lambda a, b: torch.baddbmm(a, a, b),
    "addbmm": lambda a, b: torch.addbmm(a[0], a, b),
    "mv": lambda a, b: torch.mv(a[0], b[0, :, 0]),
    "dot": lambda a, b: torch.dot(a[0, 0], b[0, 0]),
}


@pytest.mark.parametrize(("name", "macs"), [("mm", 125), ("bmm", 250), ("baddbmm", 250), ("addbmm", 250), ("mv", 25), ("dot", 5)])
def test_products_are_counted(name: str, macs: int) -> None:
    class Product(nn.Module):
        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            return PRODUCTS[name](a, b)

    program = capture(Product(), (torch.randn(2, 5, 5), torch.randn(2, 5, 5)), dynamic={})
    counts = count(program, 2)
    assert (counts.macs, counts.unknown) == (macs, {})


def test_every_row_names_arguments_that_its_operator_has() -> None:
    """Positions are those of the schema: what a row calls weight, bias, groups, … is called so there."""
    called = {
        "weight": {"weight", "mat2", "hx", "params"},
        "bias": {"bias", "self"},
        "groups": {"groups", "num_groups"},
        "stride": {"stride"},
        "padding": {"padding"},
        "dilation": {"dilation"},
        "output_padding": {"output_padding"},
        "mode": {"train", "training", "use_input_stats"},
        "momentum": {"momentum", "exponential_average_factor"},
        "eps": {"eps", "epsilon"},
        "dropout": {"dropout_p"},
        "transposed_at": {"transposed"},
    }
    for target, row in OPERATORS.items():
        names = [spec.name for spec in target._schema.arguments]
        for field, allowed in called.items():
            position = getattr(row, field)
            assert position is None or names[position] in allowed, (target, field)
        for position in row.inputs:
            assert names[position] in {
                "input",
                "self",
                "query",
                "key",
                "value",
                "mat1",
                "mat2",
                "other",
                "tensor",
                "vec",
                "mat",
                "batch1",
                "batch2",
            } | {*("indices", "input1", "input2", "tensors")}, target


def test_families_are_found_by_overload_and_by_name() -> None:
    assert torch.ops.aten.conv2d.padding in overloads("convolution")
    assert names_of("dropout") == ("dropout", "feature_dropout", "alpha_dropout", "feature_alpha_dropout")
    assert names_of("transposed convolution") == ("conv_transpose1d", "conv_transpose2d", "conv_transpose3d")


@pytest.mark.parametrize("name", ["mm", "bmm", "baddbmm"])
def test_products_of_matrices_are_placed_and_those_of_vectors_are_not(name: str) -> None:
    class Product(nn.Module):
        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            return PRODUCTS[name](a, b)

    program = capture(Product(), (torch.randn(2, 5, 5), torch.randn(2, 5, 5)), dynamic={})
    assert [family_of(node) for node in place(program, "openvino").operators] == ["matrix product"]


@pytest.mark.parametrize(
    ("make", "options", "onnx"),
    [
        (lambda: nn.Conv2d(4, 6, 3, padding="same", dilation=2), ((1, 1), (2, 2), (2, 2)), {"pads": [2, 2, 2, 2], "group": 1}),
        (lambda: nn.Conv2d(4, 6, 2, padding="same"), ((1, 1), (0, 0, 1, 1), (1, 1)), {"pads": [0, 0, 1, 1], "group": 1}),
        (
            lambda: nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1, output_padding=1, groups=2),
            ((2, 2), (1, 1), (1, 1), (1, 1)),
            {"pads": [1, 1, 1, 1], "group": 2, "output_padding": [1, 1]},
        ),
    ],
    ids=["same", "same, even", "transposed"],
)
def test_a_layers_shape_has_its_options_as_numbers(make: Callable[[], nn.Module], options: tuple[Any, ...], onnx: dict[str, Any]) -> None:
    sizes = Sizes(couple(program_of(make(), nn.ReLU(), nn.Conv2d(6, 2, 1), x=image(2))))
    layer = sizes.layer(sizes.layers[0], sizes.full)
    assert layer.options == options
    assert _attributes(layer).items() >= onnx.items()


def test_addmm_has_the_shape_of_a_linear_layer() -> None:
    sizes = Sizes(couple(program_of(Added(5, 6), nn.ReLU(), nn.Linear(6, 2), x=torch.randn(8, 5))))
    layer = sizes.layer(sizes.layers[0], sizes.full)
    assert (layer.family, layer.inputs, layer.weights) == ("linear", ((1, 5), (6, 5), (6,)), (1, 2))


def test_another_package_adds_an_operator_rule(monkeypatch: pytest.MonkeyPatch) -> None:
    """An operator without a rule of ours; theirs lets the numbers pass."""

    class Distances(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(5, 6), nn.Linear(6, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.b(torch.renorm(self.a(x), 2, 0, 1.0))

    class Entry:
        group, value, dist, name = "laconic.operator_rules", "theirs:rule", None, "renorm"

        @staticmethod
        def load() -> Any:
            return lambda tracer, node: tracer.value(node.args[0])

    program = capture(Distances(), torch.randn(4, 5))
    table.cache_clear()
    assert [group.name for group in couple(program).groups] == []
    monkeypatch.setattr(extensions, "entry_points", lambda group: [Entry()] if group == "laconic.operator_rules" else [])
    table.cache_clear()
    try:
        coupling = couple(program)
        assert (coupling.unknown, [(group.name, len(group)) for group in coupling.groups]) == ((), [("a", 6)])
    finally:
        table.cache_clear()


def test_a_default_is_nobodys_to_change() -> None:
    graph = fx.Graph()
    node = graph.call_function(torch.ops.aten.avg_pool2d.default, (graph.placeholder("x"), [2, 2]))
    default = argument(node, 2)
    assert default == []
    default.append(1)
    assert argument(node, 2) == []
