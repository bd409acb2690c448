from __future__ import annotations

from collections.abc import Callable
from functools import cache

import pytest
import torch
from torch import Tensor, nn

from laconic.core.capture import capture
from laconic.core.errors import BadInput
from laconic.core.folding import fold_batch_norm
from laconic.core.program import Program
from laconic.quantization.attention import decompose_attention
from laconic.quantization.placement import Plan, check_paths, embeddings, place, target_rules
from tests.quantization.nets import NETS, Residual, images, shared_relu

TARGETS = ("openvino", "onnxruntime")

# net -> target -> one line for each site, "what makes it > who reads it rounded", by the names of the graph's nodes
SITES: dict[str, dict[str, str]] = {
    "residual": {
        # OpenVINO: pairs before what is computed in integers; the sum's ReLU is fused into its kernel
        "openvino": """
            flat_0 > conv2d
            relu > conv2d_1 add
            relu_1 > conv2d_2
            conv2d_2 > add
            adaptive_avg_pool2d > flatten""",
        # ONNX Runtime: pairs behind convolutions and sums too, and on both sides of what moves numbers
        "onnxruntime": """
            flat_0 > conv2d
            relu > conv2d_1 add
            relu_1 > conv2d_2
            conv2d_2 > add
            relu_2 > adaptive_avg_pool2d
            adaptive_avg_pool2d > flatten
            flatten > linear""",
    },
    "branches": {
        "openvino": """
            flat_0 > conv2d conv2d_1
            relu > cat
            conv2d_1 > cat""",
        "onnxruntime": """
            flat_0 > conv2d conv2d_1
            relu > cat
            conv2d_1 > cat
            cat > conv2d_2""",
    },
    "pools": {
        "openvino": """
            flat_0 > conv2d
            relu > max_pool2d
            relu_1 > flatten""",
        "onnxruntime": """
            flat_0 > conv2d
            relu > max_pool2d
            max_pool2d > max_pool2d_1
            max_pool2d_1 > conv2d_1
            relu_1 > flatten
            flatten > linear""",
    },
    "shared relu": {
        "both": """
            flat_0 > conv2d
            relu > conv2d_1
            relu_1 > conv2d_2"""
    },
    "functional": {
        "openvino": """
            flat_0 > conv2d
            relu > flatten""",
        "onnxruntime": """
            flat_0 > conv2d
            relu > flatten
            flatten > linear""",
    },
    "tied embedding": {
        "both": """
            embedding > linear
            mean > linear_1"""
    },
    "two heads": {
        "both": """
            flat_0 > linear
            relu > linear_1 linear_2"""
    },
    "mlp": {
        "both": """
            flat_0 > linear
            relu > linear_1
            relu_1 > linear_2"""
    },
    "attention": {
        "openvino": """
            layer_norm > linear linear_1 linear_2
            linear > unflatten
            linear_1 > unflatten_1
            linear_2 > unflatten_2
            softmax_int > matmul_default_1
            matmul_default_1 > transpose_3
            layer_norm_1 > linear_4
            gelu > linear_5""",
        "onnxruntime": """
            layer_norm > linear linear_1 linear_2
            linear > unflatten
            unflatten > transpose
            transpose > matmul_default
            linear_1 > unflatten_1
            unflatten_1 > transpose_1
            transpose_1 > transpose_int
            transpose_int > matmul_default
            linear_2 > unflatten_2
            unflatten_2 > transpose_2
            transpose_2 > matmul_default_1
            softmax_int > matmul_default_1
            matmul_default_1 > transpose_3
            transpose_3 > flatten
            flatten > linear_3
            layer_norm_1 > linear_4
            gelu > linear_5""",
    },
    "causal attention": {
        "openvino": """
            layer_norm > linear linear_1 linear_2
            scaled_dot_product_attention > transpose_3
            layer_norm_1 > linear_4
            gelu > linear_5""",
        "onnxruntime": """
            layer_norm > linear linear_1 linear_2
            scaled_dot_product_attention > transpose_3
            transpose_3 > flatten
            flatten > linear_3
            layer_norm_1 > linear_4
            gelu > linear_5""",
    },
    "grouped": {
        "both": """
            flat_0 > conv2d
            relu > conv2d_1
            conv2d_1 > conv2d_2"""
    },
    "transposed": {
        "openvino": """
            flat_0 > conv2d
            relu > conv_transpose2d
            relu_1 > conv_transpose2d_1""",
        "onnxruntime": """
            flat_0 > conv2d
            relu > conv_transpose2d""",
    },
    "lstm": {
        "openvino": "getitem > slice_1",
        "onnxruntime": """
            getitem > slice_1
            slice_1 > select
            select > linear""",
    },
}

# net -> target -> sources that share a scale, where there is more than one
FAMILIES: dict[str, dict[str, set[str]]] = {
    "residual": {"onnxruntime": {"adaptive_avg_pool2d flatten"}},
    "branches": {"openvino": {"relu conv2d_1"}, "onnxruntime": {"relu conv2d_1 cat"}},
    "pools": {"onnxruntime": {"relu max_pool2d max_pool2d_1", "relu_1 flatten"}},
    "functional": {"onnxruntime": {"relu flatten"}},
    "attention": {
        "onnxruntime": {
            "linear unflatten transpose",
            "linear_1 unflatten_1 transpose_1 transpose_int",
            "linear_2 unflatten_2 transpose_2",
            "matmul_default_1 transpose_3 flatten",
        }
    },
    "causal attention": {"onnxruntime": {"scaled_dot_product_attention transpose_3 flatten"}},
    "lstm": {"onnxruntime": {"getitem slice_1 select"}},
}

# net -> target -> weights and the axis along which their scales differ
WEIGHTS: dict[str, dict[str, str]] = {
    "residual": {"both": "stem.weight/0 one.weight/0 two.weight/0 head.weight/0"},
    "branches": {"both": "left.weight/0 right.weight/0 last.weight/0"},
    "pools": {"both": "one.weight/0 two.weight/0 head.weight/0"},
    "shared relu": {"both": "0.weight/0 2.weight/0 4.weight/0"},
    "functional": {"both": "kernel/0 matrix/0"},
    "tied embedding": {"both": "mix.weight/0 out.weight/0"},
    "two heads": {"both": "trunk.weight/0 a.weight/0 b.weight/0"},
    "mlp": {"both": "0.weight/0 2.weight/0 4.weight/0"},
    "attention": {"both": "qkv.0.weight/0 qkv.1.weight/0 qkv.2.weight/0 out.weight/0 up.weight/0 down.weight/0"},
    "causal attention": {"both": "qkv.0.weight/0 qkv.1.weight/0 qkv.2.weight/0 out.weight/0 up.weight/0 down.weight/0"},
    "grouped": {"both": "0.weight/0 2.weight/0 3.weight/0"},
    # the groups of a transposed convolution share output channels between slices
    "transposed": {"openvino": "down.weight/0 up.weight/1 wide.weight/None", "onnxruntime": "down.weight/0"},
    "lstm": {"both": "head.weight/0"},
}

# net -> target -> what stays float, and a word of the reason
SKIPPED: dict[str, dict[str, dict[str, str]]] = {
    "attention": {
        "both": {
            "norm:layer_norm": "normalization",
            "softmax_int": "softmax",
            "norm2:layer_norm_1": "normalization",
            "gelu": "GELU",
        }
    },
    "causal attention": {
        "both": {
            "norm:layer_norm": "normalization",
            "scaled_dot_product_attention": "causal",
            "norm2:layer_norm_1": "normalization",
            "gelu": "GELU",
        }
    },
    "transposed": {"openvino": {}, "onnxruntime": {"up": "no int8 kernel", "wide": "no int8 kernel"}},
    "lstm": {"both": {"rnn:lstm": "dynamic"}},
}


def prepared(net: nn.Module, x: Tensor) -> Program:
    program, _ = fold_batch_norm(capture(net, x))
    decompose_attention(program)
    return program


@cache
def of_the_table(name: str) -> Program:
    """A net of the table, prepared; placing changes nothing in it."""
    net, inputs = NETS[name]
    return prepared(net(), inputs())


def sites(plan: Plan) -> list[str]:
    return [f"{site.source.name} > {' '.join(reader.name for reader in site.readers)}" for site in plan.activations]


def families(plan: Plan) -> set[str]:
    found: dict[str, list[str]] = {}
    for site in plan.activations:
        found.setdefault(site.family.name, []).append(site.source.name)
    return {" ".join(members) for members in found.values() if len(members) > 1}


def lines(table: str) -> list[str]:
    return sorted(line.strip() for line in table.strip().splitlines())


def of(table: dict[str, dict[str, object]], net: str, target: str) -> object:
    rows = table.get(net, {})
    return rows.get(target, rows.get("both"))


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", NETS)
def test_what_is_rounded(name: str, target: str) -> None:
    plan = place(of_the_table(name), target)
    assert sorted(sites(plan)) == lines(of(SITES, name, target))  # type: ignore[arg-type]
    assert {" ".join(sorted(f.split())) for f in families(plan)} == {" ".join(sorted(f.split())) for f in of(FAMILIES, name, target) or ()}  # type: ignore[attr-defined]
    assert " ".join(f"{site.name}/{site.axis}" for site in plan.weights) == of(WEIGHTS, name, target)
    assert plan.symmetric is (target == "openvino")


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", NETS)
def test_what_stays_float_is_listed_with_the_reason(name: str, target: str) -> None:
    plan = place(of_the_table(name), target)
    expected: dict[str, str] = of(SKIPPED, name, target) or {}  # type: ignore[assignment]
    assert [row.name for row in plan.skipped] == list(expected)
    for row, word in zip(plan.skipped, expected.values(), strict=True):
        assert word in row.reason


@pytest.mark.parametrize("name", NETS)
def test_sources_come_in_the_order_of_the_graph(name: str) -> None:
    program = of_the_table(name)
    order = {node.name: index for index, node in enumerate(program.graph.nodes)}
    found = [order[site.source.name] for site in place(program, "onnxruntime").activations]
    assert found == sorted(found)


def test_names_are_those_of_modules() -> None:
    plan = place(prepared(shared_relu(), images()), "openvino")
    assert [site.name for site in plan.activations] == ["flat_0", "1", "1"]  # one ReLU module makes two of them


@pytest.mark.parametrize("name", ["tied embedding", "lstm"])
def test_embedding_tables_have_a_scale_for_each_column(name: str) -> None:
    program = of_the_table(name)
    (site,) = embeddings(program.graph)
    assert (site.axis, site.embedding, [(reader.name, position) for reader, position in site.readers]) == (1, True, [("embedding", 0)])
    assert embeddings(program.graph, ("embed",)) == []


# Rarer shapes -------------------------------------------------------------------------------------------------------------------------------


class HalfRead(nn.Module):
    """A max-pool that a convolution and a sigmoid read."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = nn.functional.max_pool2d(self.one(x).relu(), 2)
        return self.two(y) * y.sigmoid()


class Shifted(nn.Module):
    """A sum with a number, one with a parameter and one of what no convolution made."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.shift = nn.Conv2d(3, 3, 1), nn.Parameter(torch.randn(3, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x) + 1.0 + self.shift + x


class Computed(nn.Module):
    """A convolution whose kernel is computed."""

    def __init__(self) -> None:
        super().__init__()
        self.kernel = nn.Parameter(torch.randn(3, 3, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.conv2d(x, self.kernel / self.kernel.norm())


class Matrix(nn.Module):
    """A product with a constant, without a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.matrix = nn.Parameter(torch.randn(6, 4))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.matrix


class Averaged(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.last = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(nn.functional.avg_pool2d(self.conv(x).relu(), 2))


RARE: dict[str, tuple[Callable[[], nn.Module], Callable[[], Tensor], dict[str, list[str]]]] = {
    "a move read in float too": (
        HalfRead,
        images,
        {
            "openvino": ["flat_0 > conv2d", "max_pool2d > conv2d_1"],
            "onnxruntime": ["conv2d_1 > mul", "flat_0 > conv2d", "max_pool2d > conv2d_1", "relu > max_pool2d"],
        },
    ),
    "sums": (Shifted, images, {"openvino": ["flat_0 > conv2d"], "onnxruntime": ["conv2d > add", "flat_0 > conv2d"]}),
    "a computed kernel": (Computed, images, {"openvino": [], "onnxruntime": []}),
    "a product with a constant": (Matrix, lambda: torch.randn(3, 6), {"openvino": ["flat_0 > matmul"], "onnxruntime": ["flat_0 > matmul"]}),
    "average pool": (
        Averaged,
        images,
        {
            "openvino": ["avg_pool2d > conv2d_1", "flat_0 > conv2d", "relu > avg_pool2d"],
            "onnxruntime": ["avg_pool2d > conv2d_1", "flat_0 > conv2d", "relu > avg_pool2d"],
        },
    ),
}


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", RARE)
def test_rarer_shapes(name: str, target: str) -> None:
    net, inputs, expected = RARE[name]
    assert sorted(sites(place(prepared(net(), inputs()), target))) == expected[target]


def test_a_computed_weight_is_skipped_by_name() -> None:
    (row,) = place(prepared(Computed(), images()), "openvino").skipped
    assert "computed, not stored" in row.reason


def test_a_constant_operand_is_a_weight_of_one_scale() -> None:
    (site,) = place(prepared(Matrix(), torch.randn(3, 6)), "openvino").weights
    assert (site.name, site.axis, site.readers[0][1]) == ("matrix", None, 1)


# What is to stay float ---------------------------------------------------------------------------------------------------------------------


class Nested(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.body2 = Residual(), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.body2(self.body(x))


@pytest.mark.parametrize(
    ("keep", "gone"),
    [
        (("body.one",), {"conv2d_1"}),
        (("body",), {"conv2d", "conv2d_1", "conv2d_2", "add", "linear"}),
        (("body:add",), {"add"}),
        (("add",), {"add"}),
        (("body.two", "body2"), {"conv2d_2", "linear_1"}),
    ],
    ids=["module", "parent of modules, not its namesake", "operator in a module", "operator by node", "two"],
)
@pytest.mark.parametrize("target", TARGETS)
def test_what_is_kept(keep: tuple[str, ...], gone: set[str], target: str) -> None:
    program = prepared(Nested(), images())
    everything = {node.name for node in place(program, target).operators}
    plan = place(program, target, keep)
    assert everything - {node.name for node in plan.operators} == gone
    assert {row.reason for row in plan.skipped} == {"it is to stay float"}
    assert len(plan.skipped) == len(gone)
    assert not {reader.name for site in plan.weights for reader, _ in site.readers} & gone


@pytest.mark.parametrize(("wrong", "right"), [("body.onne", "body.one"), ("body:ad", "body:add")], ids=["module", "operator"])
def test_a_path_that_is_not_there_is_refused_with_the_nearest(wrong: str, right: str) -> None:
    program = prepared(Nested(), images())
    with pytest.raises(BadInput, match=f"'{wrong}'.*Did you mean '{right}'"):
        place(program, "openvino", ("body.two", wrong))
    with pytest.raises(BadInput, match=right):
        check_paths(program.graph, (wrong,))


def test_an_unknown_target_is_refused_with_the_nearest() -> None:
    with pytest.raises(BadInput, match="'openvin'.*Did you mean 'openvino'"):
        target_rules("openvin")
    with pytest.raises(BadInput, match="placement rules for 'tensorrt'"):
        place(prepared(shared_relu(), images()), "tensorrt")


PHONES = {
    # XNNPACK: an operator between pairs, also where the program ends; its averages are in floats
    "executorch": """
        flat_0 > conv2d
        relu > conv2d_1 add
        relu_1 > conv2d_2
        conv2d_2 > add
        relu_2 > adaptive_avg_pool2d
        adaptive_avg_pool2d > flatten
        flatten > linear
        linear > output""",
    # ncnn: what a kernel reads, and nothing behind it
    "ncnn": """
        flat_0 > conv2d
        relu > conv2d_1
        relu_1 > conv2d_2
        flatten > linear""",
}


@pytest.mark.parametrize("target", PHONES)
def test_phones_round_where_their_kernels_take_it(target: str) -> None:
    plan = place(of_the_table("residual"), target)
    assert sorted(sites(plan)) == lines(PHONES[target])
    assert plan.signed is (target == "ncnn")


class Odd(nn.Module):
    """Operators of families that phones compute in integers, each with a trait for which there is no kernel."""

    def __init__(self) -> None:
        super().__init__()
        self.grouped = nn.Conv2d(4, 8, 1, groups=2)
        self.up = nn.ConvTranspose2d(8, 4, 2, groups=2)
        self.flat = nn.Conv1d(4, 4, 1)
        self.many = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.many(self.flat(self.up(self.grouped(x)).flatten(2)).transpose(1, 2))


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("executorch", {"up": "transposed convolutions with groups"}),
        ("ncnn", {"grouped": "one scale for each group", "up": "transposed", "flat": "two dimensions", "many": "one vector"}),
    ],
)
def test_phones_lack_kernels_and_say_which(target: str, expected: dict[str, str]) -> None:
    plan = place(prepared(Odd(), (torch.randn(2, 4, 4, 4),)), target)
    assert [row.name for row in plan.skipped] == list(expected)
    for row, words in zip(plan.skipped, expected.values(), strict=True):
        assert words in row.reason
