"""Each row of the table of operators against PyTorch's own operator, on small arrays."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

pytest.importorskip("jax", reason="the package jax is not installed")

from laconic.deploy.xla.file import wide
from laconic.deploy.xla.graph import evaluate
from laconic.deploy.xla.rules import ROWS, row_for

aten = torch.ops.aten
GENERATOR = torch.Generator().manual_seed(0)


def rand(*shape: int) -> Tensor:
    return torch.randn(shape, generator=GENERATOR)


def ints(high: int, *shape: int) -> Tensor:
    return torch.randint(0, high, shape, generator=GENERATOR)


X, Y, P = rand(2, 6, 4), rand(2, 6, 4), rand(2, 6, 4).abs() / 4 + 0.1
IMG, BIG, VIDEO = rand(2, 4, 6, 7), rand(1, 2, 9, 9), rand(1, 2, 4, 5, 6)
N, MASK = ints(5, 2, 6, 4), rand(2, 6, 4) > 0
Z = torch.complex(rand(2, 6), rand(2, 6))
INF = float("inf")
SEEN = torch.tensor([[True, False, True], [False, False, False]])  # the second query may see nothing


def lstm(batch_first: bool, both: bool) -> tuple[Any, ...]:
    net = torch.nn.LSTM(4, 3, 2, bidirectional=both, batch_first=batch_first)
    state = torch.zeros(2 * (1 + both), 2, 3)
    weights = [w.detach() for w in net.parameters()]
    return (X if batch_first else X.transpose(0, 1)[:, :6], [state, state], weights, True, 2, 0.0, False, both, batch_first)


def gru() -> tuple[Any, ...]:
    weights = [w.detach() for w in torch.nn.GRU(4, 3).parameters()]
    return (X, torch.zeros(1, 6, 3), weights, True, 1, 0.0, False, False, False)


def plain(kind: str) -> tuple[Any, ...]:
    weights = [w.detach() for w in torch.nn.RNN(4, 3, nonlinearity=kind, bias=False).parameters()]
    return (X, torch.zeros(1, 6, 3), weights, False, 1, 0.0, False, False, False)


# (operator, arguments, keywords)
CASES: list[tuple[Any, tuple[Any, ...], dict[str, Any]]] = [
    *((getattr(aten, name).default, (X,), {}) for name in (
        "abs", "exp", "expm1", "sin", "cos", "tan", "sinh", "cosh", "tanh", "floor", "ceil", "trunc", "sign", "sgn", "isnan", "isinf", "neg",
        "atan", "asinh", "square", "exp2", "sinc", "relu", "relu6", "sigmoid", "silu", "gelu", "mish", "hardsigmoid", "hardswish", "leaky_relu",
        "elu", "selu", "celu", "softplus", "softshrink", "hardshrink", "glu", "erf", "erfc", "frac", "round", "clone", "logical_not", "isfinite",
        "ones_like", "zeros_like", "max", "min", "any", "all", "sum", "mean", "amax", "prod", "log_sigmoid_forward", "sort", "argmax", "argmin",
    )),
    *((getattr(aten, name).default, (P,), {}) for name in (
        "log", "log1p", "log2", "log10", "sqrt", "rsqrt", "reciprocal", "asin", "acos", "atanh", "lgamma")),
    (aten.acosh.default, (P + 1,), {}),
    *((getattr(aten, name).Tensor, (X, Y), {}) for name in ("eq", "ne", "lt", "le", "gt", "ge", "mul", "fmod", "remainder", "copysign")),
    *((getattr(aten, name).default, (X, Y), {}) for name in ("maximum", "minimum", "atan2", "hypot", "fmax", "fmin", "logaddexp", "logical_and",
                                                          "logical_or", "logical_xor")),
    *((getattr(aten, name).Tensor, (N, N + 1), {}) for name in ("bitwise_and", "bitwise_or", "bitwise_xor", "bitwise_left_shift")),
    (aten.bitwise_not.default, (N,), {}),
    (aten.add.Tensor, (X, Y), {"alpha": 2}),
    (aten.add.Tensor, (N, 1.5), {}),
    (aten.sub.Tensor, (X, Y), {"alpha": 2}),
    (aten.rsub.Scalar, (X, 1.5, 2), {}),
    (aten.div.Tensor, (N, N + 1), {}),
    (aten.div.Tensor_mode, (N - 3, N + 1), {"rounding_mode": "floor"}),
    (aten.div.Tensor_mode, (N - 3, N + 1), {"rounding_mode": "trunc"}),
    (aten.floor_divide.default, (N - 3, N + 1), {}),
    (aten.pow.Tensor_Scalar, (X, 3), {}),
    (aten.pow.Tensor_Tensor, (P, Y), {}),
    (aten.xlogy.Tensor, (P, P), {}),
    (aten.where.self, (MASK, X, Y), {}),
    (aten.clamp.default, (X, -0.5, 0.7), {}),
    (aten.clamp.Tensor, (X, None, Y), {}),
    (aten.clamp_min.default, (X, 0.1), {}),
    (aten.clamp_max.default, (X, 0.1), {}),
    (aten.hardtanh.default, (X,), {}),
    (aten.threshold.default, (X, 0.1, 3.0), {}),
    (aten.addcmul.default, (X, Y, P), {"value": 0.5}),
    (aten.addcdiv.default, (X, Y, P), {"value": 0.5}),
    (aten.lerp.Scalar, (X, Y, 0.3), {}),
    (aten._prelu_kernel.default, (X, rand(6, 1)), {}),
    (aten._to_copy.default, (X,), {"dtype": torch.int64}),
    (aten.copy.default, (X, Y[:1]), {}),
    (aten.native_dropout.default, (X, 0.5, False), {}),
    # reductions
    (aten.sum.dim_IntList, (X, [-1], True), {}),
    (aten.mean.dim, (X, [0, 2]), {}),
    (aten.amin.default, (X, [1]), {}),
    (aten.max.dim, (X, 1, True), {}),
    (aten.min.dim, (X, -1), {}),
    (aten.max.other, (X, Y), {}),
    (aten.min.other, (X, Y), {}),
    (aten.any.dim, (MASK, 1), {}),
    (aten.all.dim, (MASK, 1), {}),
    (aten.argmax.default, (X, 1), {}),
    (aten.prod.dim_int, (X, 1), {}),
    (aten.var.correction, (X, [1]), {"correction": 0}),
    (aten.std.correction, (X, [1]), {"keepdim": True}),
    (aten.var_mean.correction, (X, [1, 2]), {"correction": 1}),
    (aten.cumsum.default, (X, 1), {}),
    (aten.cumprod.default, (P, -1), {}),
    (aten.logsumexp.default, (X, [1]), {}),
    (aten._softmax.default, (X, -1, False), {}),
    (aten._safe_softmax.default, (X.masked_fill(MASK, -INF), -1), {}),
    (aten._log_softmax.default, (X, 1, False), {}),
    (aten.sort.default, (X, 1, True), {}),
    (aten.topk.default, (X, 3, 1), {}),
    (aten.topk.default, (X, 2, -1, False), {}),
    *((aten.linalg_vector_norm.default, (X, order, [1], True), {}) for order in (2, 1, 0, INF, -INF, 3)),
    # shapes
    (aten.view.default, (X, [12, -1]), {}),
    (aten.expand.default, (X[:, :1], [2, 6, -1]), {}),
    (aten.permute.default, (X, [2, 0, -2]), {}),
    (aten.transpose.int, (X, -1, 0), {}),
    (aten.t.default, (X[0],), {}),
    (aten.cat.default, ([X, Y[:, :2]], 1), {}),
    (aten.stack.default, ([X, Y], -1), {}),
    *((aten.slice.Tensor, (X, *cut), {}) for cut in ((1, 1, 5, 2), (1, -4, -1), (2, 0, 1 << 62), (1, -100, 100, 3), (1, 5, 3))),
    (aten.slice_scatter.default, (X, Y[:, :2], 1, -4, -2), {}),
    (aten.select.int, (X, 1, -2), {}),
    (aten.select_scatter.default, (X, Y[:, 0], 1, 2), {}),
    (aten.split.Tensor, (X, 4, 1), {}),
    (aten.split_with_sizes.default, (X, [1, 3, 2], -2), {}),
    (aten.unbind.int, (X, -1), {}),
    (aten.flip.default, (X, [0, -1]), {}),
    (aten.roll.default, (X, [2, -1], [1, 2]), {}),
    (aten.roll.default, (X, [5]), {}),
    (aten.repeat.default, (X, [2, 1, 3, 2]), {}),
    (aten.repeat_interleave.self_int, (X, 3, 1), {}),
    (aten.full.default, ([2, 3], 1.5), {}),
    (aten.full_like.default, (X, 2), {}),
    (aten.new_full.default, (X, [2, 3], 4), {}),
    (aten.new_ones.default, (X, [3]), {}),
    (aten.zeros.default, ([2, 3],), {}),
    (aten.scalar_tensor.default, (2.5,), {}),
    (aten.fill.Scalar, (X, 3.0), {}),
    (aten.arange.default, (5,), {}),
    (aten.arange.start_step, (1, 9, 3), {}),
    (aten.arange.start_step, (0.5, 2.0, 0.25), {}),
    (aten.linspace.default, (-1, 1, 5), {}),
    (aten.eye.m, (3, 4), {}),
    (aten.tril.default, (X, -1), {}),
    (aten.triu.default, (X, 1), {}),
    (aten.diagonal.default, (X, 1, 1, 2), {}),
    (aten.unfold.default, (X, 1, 3, 2), {}),
    (aten.pixel_shuffle.default, (IMG, 2), {}),
    (aten.native_channel_shuffle.default, (IMG, 2), {}),
    (aten.constant_pad_nd.default, (X, [1, -1, 2, 0], 1.5), {}),
    (aten.reflection_pad2d.default, (IMG, [1, 2, 3, 0]), {}),
    (aten.replication_pad2d.default, (IMG, [1, 2, 3, 0]), {}),
    # products
    (aten.mm.default, (X[0], Y[1].T), {}),
    (aten.bmm.default, (X, Y.transpose(1, 2)), {}),
    (aten.matmul.default, (X, rand(4)), {}),
    (aten.linear.default, (X, rand(5, 4), rand(5)), {}),
    (aten.addmm.default, (rand(6), X[0], Y[1].T), {"beta": 2, "alpha": 3}),
    (aten.baddbmm.default, (rand(6), X, Y.transpose(1, 2)), {}),
    (aten.einsum.default, ("b l d, b m d -> b m l", [X, Y]), {}),
    (aten._trilinear.default, (rand(2, 3), rand(5, 3, 4), rand(2, 4), [1, 3], [0], [1, 2], [2, 3]), {}),
    (aten.scaled_dot_product_attention.default, (rand(2, 2, 3, 4), rand(2, 2, 3, 4), rand(2, 2, 3, 5)), {"is_causal": True}),
    (aten.scaled_dot_product_attention.default, (rand(2, 2, 2, 4), rand(2, 2, 3, 4), rand(2, 2, 3, 5), SEEN), {}),
    (aten.scaled_dot_product_attention.default, (rand(2, 4, 2, 4), rand(2, 2, 3, 4), rand(2, 2, 3, 5), rand(2, 3)), {"scale": 0.3, "enable_gqa": True}),
    # pictures
    (aten.convolution.default, (IMG, rand(6, 2, 3, 2), rand(6), [2, 1], [1, 0], [1, 2], False, [0, 0], 2), {}),
    (aten.convolution.default, (IMG, rand(4, 3, 3, 2), rand(6), [2, 3], [1, 0], [2, 1], True, [1, 2], 2), {}),
    (aten.convolution.default, (X, rand(5, 6, 3), None, [1], [1], [1], False, [0], 1), {}),
    (aten.convolution.default, (VIDEO, rand(3, 2, 2, 2, 2), None, [1], [0], [1], False, [0], 1), {}),
    (aten.max_pool2d.default, (BIG, [3, 2], [2, 3], [1, 1], [2, 1], True), {}),
    (aten.avg_pool2d.default, (BIG, [3, 2], [2, 2], [1, 1], True, False), {}),
    (aten.avg_pool2d.default, (BIG, [4, 4], [3, 3], [1, 1], True, True), {}),
    (aten.avg_pool2d.default, (BIG, [3, 3], [], [0, 0], False, True, 7), {}),
    (aten.avg_pool1d.default, (X, [2]), {}),
    (aten.adaptive_avg_pool2d.default, (IMG, [1, 1]), {}),
    (aten._adaptive_avg_pool2d.default, (IMG, [4, 3]), {}),
    (aten.im2col.default, (IMG, [2, 3], [1, 2], [1, 0], [2, 1]), {}),
    (aten.upsample_nearest2d.vec, (IMG, None, [2.0, 1.5]), {}),
    (aten.upsample_nearest1d.default, (X, [7]), {}),
    (aten._upsample_nearest_exact2d.default, (IMG, [9, 5]), {}),
    (aten.upsample_bilinear2d.vec, (IMG, [9, 5], False, None), {}),
    (aten.upsample_bilinear2d.vec, (IMG, None, True, [2.0, 1.5]), {}),
    (aten.upsample_bilinear2d.default, (IMG, [4, 9], False, None, None), {}),
    (aten.upsample_bicubic2d.vec, (IMG, [9, 5], False, None), {}),
    (aten.grid_sampler_2d.default, (IMG, rand(2, 3, 5, 2), 0, 0, False), {}),
    (aten.grid_sampler_2d.default, (IMG, rand(2, 3, 5, 2), 0, 0, True), {}),
    # norms
    (aten._native_batch_norm_legit_no_training.default, (X, rand(6), rand(6), rand(6), rand(6).abs() + 0.5, 0.1, 1e-3), {}),
    (aten._native_batch_norm_legit.no_stats, (X, rand(6), rand(6), True, 0.1, 1e-3), {}),
    (aten.native_layer_norm.default, (X, [6, 4], rand(6, 4), rand(6, 4), 1e-3), {}),
    (aten.native_group_norm.default, (IMG, rand(4), None, 2, 4, 42, 2, 1e-3), {}),
    (aten._fused_rms_norm.default, (X, [4], rand(4), 1e-3), {}),
    # places
    (aten.embedding.default, (rand(5, 3), ints(5, 2, 4), 0), {}),
    (aten.index.Tensor, (X, [None, torch.tensor([[0, -1]]), torch.tensor([1, 2])]), {}),
    (aten.index_put.default, (X, [None, torch.tensor([0, 2])], rand(2, 2, 4), True), {}),
    (aten.index_put.default, (X, [MASK], torch.tensor(3.0)), {}),
    (aten.index_select.default, (X, -1, torch.tensor([3, 0])), {}),
    (aten.gather.default, (X, 1, ints(6, 2, 3, 2)), {}),
    (aten.scatter.src, (X, 1, torch.tensor([[[1, 2]], [[3, 0]]]), rand(2, 1, 2)), {}),
    (aten.scatter.value, (X, 1, torch.tensor([[[1, 2]], [[3, 0]]]), 7.0), {}),
    (aten.scatter_add.default, (X, 1, ints(6, 2, 3, 2), rand(2, 3, 2)), {}),
    (aten.scatter_reduce.two, (X, 1, ints(6, 2, 3, 2), rand(2, 3, 2), "amax"), {}),
    (aten.index_add.default, (X, 1, torch.tensor([0, 0]), rand(2, 2, 4)), {"alpha": 2}),
    (aten.masked_fill.Scalar, (X, MASK, 2), {}),
    (aten.bucketize.Tensor, (X, torch.tensor([-1.0, 0.0, 1.0])), {}),
    (aten.searchsorted.Tensor, (torch.tensor([-1.0, 0.0, 1.0]), X), {"right": True}),
    # loops
    (aten.lstm.input, lstm(True, True), {}),
    (aten.lstm.input, lstm(False, False), {}),
    (aten.gru.input, gru(), {}),
    (aten.rnn_tanh.input, plain("tanh"), {}),
    (aten.rnn_relu.input, plain("relu"), {}),
    # complex numbers
    (aten._fft_r2c.default, (X, [1, 2], 0, True), {}),
    (aten._fft_r2c.default, (X, [1], 1, False), {}),
    (aten._fft_c2c.default, (Z, [1], 0, True), {}),
    (aten._fft_c2c.default, (Z, [0, 1], 2, False), {}),
    (aten._fft_c2r.default, (torch.fft.rfft(X, dim=1), [1], 2, 6), {}),
    (aten.view_as_real.default, (Z,), {}),
    (aten.view_as_complex.default, (rand(3, 2),), {}),
    (aten.complex.default, (X, Y), {}),
    (aten.polar.default, (P, Y), {}),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: case[0].name().removeprefix("aten::"))
def test_a_row_computes_what_pytorch_does(case: tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]) -> None:
    target, args, kwargs = case
    expected = target(*args, **kwargs)
    with wide():
        found = evaluate(target, args, kwargs)
    several = isinstance(expected, (tuple, list))
    for one, told in zip(found if several else [found], expected if several else [expected], strict=True):
        if one is None:
            continue  # a result that no program reads
        assert str(one.dtype) == str(told.dtype).removeprefix("torch.")
        np.testing.assert_allclose(np.asarray(one), told.resolve_conj().numpy(), rtol=3e-5, atol=3e-6)


def test_every_core_operator_has_a_row_but_those_that_are_named() -> None:
    """PyTorch's own tag says which operators remain after decomposition."""
    missing = {
        name
        for name in dir(aten)
        for overload in (getattr(aten, name).overloads() if isinstance(getattr(aten, name), torch._ops.OpOverloadPacket) else ())
        if torch.Tag.core in getattr(getattr(aten, name), overload).tags and row_for(name, overload) is None
    }
    gradients = {name for name in missing if name.endswith("_backward")}
    random = {"rand", "randn", "randperm"}
    sizes = {name for name in missing if name.startswith("sym_")}
    unknown_size = {"nonzero", "masked_scatter", "_local_scalar_dense"}
    strides = {"as_strided", "resize_"}
    rare = {"_cdist_forward", "_pdist_forward", "_embedding_bag", "col2im", "_native_batch_norm_legit", "var"}
    assert missing - gradients - random - sizes - unknown_size - strides <= rare
    assert not rare & set(ROWS)
