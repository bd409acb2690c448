"""Lower fake-quantize nodes to what runtimes read: weights become integers in the file, activations get quantize/dequantize pairs.

Two stages. On the graph, before the exporter: each node turns into `quantized_decomposed` operators, which the exporter writes as QuantizeLinear and
DequantizeLinear. On the ONNX model, after it: transposes of constants are carried out, zero points of 0 left out, 4-bit weights packed, and products whose
activations are rounded by their own range written as integer products.
"""

from __future__ import annotations

import copy
import itertools
import re
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
import torch.ao.quantization.fx._decomposed  # registers the quantized_decomposed operators
from torch import Tensor, fx

from laconic.core.errors import need
from laconic.core.fake_quant import TINY, Quantizer, fake_quants, is_dynamic, quantizer_of, weight_of
from laconic.core.folding import fold_batch_norm
from laconic.core.graph import clean, get_tensor
from laconic.core.integer_bias import LARGEST, bound_steps, round_biases
from laconic.core.operators import family_of
from laconic.core.program import Program, aten

qd = torch.ops.quantized_decomposed
# Suffixes of stored integers that the second stage still has to write in their final form.
DYNAMIC, GROUPED, BITS4 = "#dynamic", "#group", "#int4"
_MARK, _DOT = "stored#", "#dot#"


def is_quantized(program: Program) -> bool:
    """Whether the graph rounds anything."""
    return any(True for _ in fake_quants(program.graph))


def lower(program: Program) -> Program:
    """The program with integers for weights and pairs for activations; for export only. The one given is not changed."""
    trained = any(family_of(node) == "batch norm" for node in program.graph.nodes)
    lowered = (
        fold_batch_norm(program)[0] if trained else copy.deepcopy(program)
    )  # norms that trained beside rounded weights go into the scales
    bound_steps(lowered)
    round_biases(lowered)
    dynamic = {reader for node in fake_quants(lowered.graph) if is_dynamic(node) for reader in node.users}
    for node in list(fake_quants(lowered.graph)):
        if is_dynamic(node):
            node.replace_all_uses_with(node.args[0])  # type: ignore[arg-type]
        elif all(family_of(reader) == "recurrent" for reader in node.users):
            _lower_recurrent(lowered, node)
        elif weight_of(node) is not None:
            _lower_weight(lowered, node, any(reader in dynamic for reader in _readers(node)))
        else:
            _lower_activation(lowered, node)
    lowered.recompile()
    return clean(lowered)


def _readers(node: fx.Node) -> Iterator[fx.Node]:
    for user in node.users:
        if user.target is aten.reshape.default and user.args[0] is node:
            yield from user.users
        else:
            yield user


def _lower_activation(program: Program, node: fx.Node) -> None:
    quantizer = quantizer_of(program.graph_module, node)
    kind = torch.uint8 if quantizer.low >= 0 else torch.int8
    codes = (quantizer.low, quantizer.high, kind)
    scale, zero = float(quantizer.scale), int(quantizer.zero_point)
    with program.graph.inserting_before(node):
        rounded = program.graph.call_function(qd.quantize_per_tensor.default, (node.args[0], scale, zero, *codes))
        restored = program.graph.call_function(qd.dequantize_per_tensor.default, (rounded, scale, zero, *codes))
    node.replace_all_uses_with(restored)
    program.graph.erase_node(node)


def _lower_recurrent(program: Program, node: fx.Node) -> None:
    """LSTM weights stay floats on their grid for the exporter, which reorders the gates; the second stage stores them as integers."""
    source = weight_of(node)
    assert source is not None
    rounded = quantizer_of(program.graph_module, node)(get_tensor(program, source).detach())
    node.replace_all_uses_with(_buffer(program, source, f"{source.target}~{node.name}", rounded))
    program.graph.erase_node(node)


def _lower_weight(program: Program, node: fx.Node, dynamic: bool) -> None:
    """Store the codes under the weight's name; where an embedding reads them, scale after the look-up, so that only the rows that are needed are scaled."""
    source = weight_of(node)
    assert source is not None
    quantizer = quantizer_of(program.graph_module, node)
    weight = get_tensor(program, source).detach()
    name = f"{source.target}{DYNAMIC if dynamic else ''}"
    if quantizer.group or quantizer.bits == 4:
        name += f"{GROUPED}{quantizer.group}{BITS4 if quantizer.bits == 4 else ''}"
    last = next(iter(node.users)) if quantizer.group else node
    codes = quantizer.codes(weight).to(_stored(quantizer))
    stored = _buffer(program, source, f"{name}~{node.name}", codes.reshape(-1, quantizer.group) if quantizer.group else codes)
    scale = _buffer(program, source, f"{name}~{node.name}.scale", quantizer.scale)
    zero = _buffer(program, source, f"{name}~{node.name}.zero", quantizer.zero_point.long())
    for reader in list(last.users):
        embedding = family_of(reader) == "embedding"
        axis = quantizer.axis if quantizer.axis is not None else 0
        with program.graph.inserting_before(reader):
            if embedding:
                rows = program.graph.call_function(aten.embedding.default, (stored, *reader.args[1:]), dict(reader.kwargs))
                restored = _dequantize(program, rows, scale, zero, -1, quantizer)
            else:
                restored = _dequantize(program, stored, scale, zero, axis, quantizer, tuple(weight.shape))
        if embedding:
            reader.replace_all_uses_with(restored)
            program.graph.erase_node(reader)
        else:
            reader.replace_input_with(last, restored)


def _stored(quantizer: Quantizer) -> torch.dtype:
    return torch.uint8 if quantizer.high > 127 else torch.int8


def _dequantize(
    program: Program, stored: fx.Node, scale: fx.Node, zero: fx.Node, axis: int, quantizer: Quantizer, shape: tuple[int, ...] = ()
) -> fx.Node:
    graph, kind = program.graph, _stored(quantizer)
    low, high = torch.iinfo(kind).min, torch.iinfo(kind).max  # all codes of the type: narrower bounds would add a Clip
    if quantizer.axis is None and not quantizer.group:
        number, point = float(quantizer.scale), int(quantizer.zero_point)
        return graph.call_function(qd.dequantize_per_tensor.default, (stored, number, point, low, high, kind))
    restored = graph.call_function(qd.dequantize_per_channel.default, (stored, scale, zero, axis, low, high, kind))
    return graph.call_function(aten.reshape.default, (restored, list(shape))) if quantizer.group else restored


def _buffer(program: Program, beside: fx.Node, name: str, value: Tensor) -> fx.Node:
    key = _MARK + name.replace(".", _DOT)
    program.graph_module.register_buffer(key, value)
    with program.graph.inserting_after(beside):
        return program.graph.get_attr(key)


# The second stage: on the ONNX model --------------------------------------------------------------------------------------------------


def finish(model: Any) -> None:
    """Bring an exported model into its final form, in place; a model without stored integers stays as it is."""
    ir = need("onnx_ir")
    nodes = [node for node in model.graph if node.op_type == "DequantizeLinear" and _mark(node)]
    for node in nodes:
        if _option(_mark(node), GROUPED) is not None:
            _pack(ir, model, node)
    for node in nodes:
        for user, _ in list(node.outputs[0].uses()):
            if user.op_type == "Transpose":
                _transpose(ir, model, node, user)
    for node in [node for node in model.graph if node.op_type == "DequantizeLinear" and _mark(node)]:
        if DYNAMIC in _mark(node):
            _integer_product(ir, model, node)
    recurrent = [node for node in model.graph if node.op_type == "LSTM"]
    if recurrent:  # the exporter reorders gates with operators, and folds small constants only
        need("onnxscript.optimizer").fold_constants(model, input_size_limit=1 << 30, output_size_limit=1 << 30)
    for node in recurrent:
        _dynamic_lstm(ir, model, node)
    _drop_unread(model)
    for node in [node for node in model.graph if node.op_type == "DequantizeLinear" and _mark(node)]:
        if not any(_integer_gemm(ir, model, node, user) for user, _ in node.outputs[0].uses() if user.op_type == "Gemm"):
            _without_zero(node)
    _drop_unread(model)
    _rename(model)


def _mark(node: Any) -> str:
    """The name of the stored integers that a node reads, or nothing."""
    name = node.inputs[0].name or ""
    return name if name.startswith(_MARK) and node.inputs[0].const_value is not None else ""


def _option(name: str, option: str) -> int | None:
    """The number behind an option in a name."""
    match = re.search(re.escape(option) + r"(\d+)", name)
    return int(match[1]) if match else None


def _constant(ir: Any, model: Any, name: str, array: np.ndarray, kind: Any = None) -> Any:
    """An initializer; of the same name once."""
    tensor = ir.Tensor(array, dtype=kind, name=name) if kind is not None else ir.tensor(array, name=name)
    value = ir.Value(name=name, type=ir.TensorType(tensor.dtype), shape=ir.Shape(array.shape), const_value=tensor)
    model.graph.initializers[name] = value
    return value


def _array(value: Any) -> np.ndarray:
    """The numbers of an initializer, also behind a cast, which the exporter folds only where it is small."""
    source = value if value.const_value is not None else value.producer().inputs[0]
    return np.asarray(source.const_value.numpy())


def _axis(node: Any) -> int:
    axis = node.attributes.get("axis")
    return 1 if axis is None else int(axis.value)


def _transpose(ir: Any, model: Any, node: Any, transpose: Any) -> None:
    """Store the codes turned, instead of turning them at run time."""
    order = [int(i) for i in transpose.attributes["perm"].value]
    codes, *rest = node.inputs
    turned = _constant(ir, model, f"{codes.name}~turned", np.ascontiguousarray(_array(codes).transpose(order)), codes.const_value.dtype)
    attributes = dict(node.attributes)
    block = attributes.get("block_size")
    if block is not None:
        rest = [
            _constant(ir, model, f"{r.name}~turned", np.ascontiguousarray(_array(r).transpose(order)), r.const_value.dtype)
            for r in rest
            if r is not None
        ]
    if rest and rest[0].const_value is not None and _array(rest[0]).ndim > 0:
        attributes["axis"] = ir.AttrInt64("axis", order.index(_axis(node) % len(order)))
    made = ir.Node("", "DequantizeLinear", [turned, *rest], attributes.values())
    _replace(ir, model, transpose, made)


def _replace(ir: Any, model: Any, old: Any, new: Any) -> None:
    model.graph.insert_before(old, new)
    new.outputs[0].name = old.outputs[0].name
    new.outputs[0].shape, new.outputs[0].type = old.outputs[0].shape, old.outputs[0].type
    ir.convenience.replace_all_uses_with(old.outputs[0], new.outputs[0], replace_graph_outputs=True)
    model.graph.remove(old, safe=True)


def _pack(ir: Any, model: Any, node: Any) -> None:
    """Two 4-bit codes in a byte; groups of inputs as blocks of one DequantizeLinear (ONNX opset 21)."""
    codes, scale = node.inputs[0], node.inputs[1]
    name, values, scales = codes.name, _array(codes), _array(scale)
    group = _option(name, GROUPED)
    reshape = node.outputs[0].uses()[0][0]
    attributes = [ir.AttrInt64("axis", _axis(node))]
    last = node
    if group and reshape.op_type == "Reshape":  # the exporter leaves out one that changes nothing: each row is one group
        shape = [int(i) for i in _array(reshape.inputs[1])]
        values, scales = values.reshape(shape), scales.reshape(shape[0], -1)
        attributes = [ir.AttrInt64("axis", 1), ir.AttrInt64("block_size", group)]
        last = reshape
    points = _array(node.inputs[2]).reshape(scales.shape) if len(node.inputs) > 2 and node.inputs[2] is not None else np.zeros(scales.shape)
    kind, store = _packed_kind(ir, name, values, points, codes.const_value.dtype)
    inputs = [_constant(ir, model, f"{name}~packed", store(values), kind), _constant(ir, model, f"{name}~scale", scales.astype(np.float32))]
    if points.any():
        inputs.append(_constant(ir, model, f"{name}~zero", store(points), kind))
    made = ir.Node("", "DequantizeLinear", inputs, attributes)
    _replace(ir, model, last, made)
    model.opset_imports[""] = max(model.opset_imports[""], 21)


def _packed_kind(ir: Any, name: str, values: np.ndarray, points: np.ndarray, kind: Any) -> tuple[Any, Callable[[np.ndarray], np.ndarray]]:
    """The type in which codes and zero points are stored, and how they are turned into it: 4 bits unsigned where a zero point is not 0."""
    if BITS4 not in name:
        return kind, lambda array: array.astype(values.dtype)
    types = need("ml_dtypes")
    unsigned = bool(points.any()) or int(values.max(initial=0)) > 7
    return (
        (ir.DataType.UINT4, lambda array: array.astype(types.uint4))
        if unsigned
        else (ir.DataType.INT4, lambda array: array.astype(types.int4))
    )


def _integer_product(ir: Any, model: Any, node: Any) -> None:
    """`x · W` with x rounded by its own range: DynamicQuantizeLinear and MatMulInteger, which ONNX Runtime fuses into one kernel."""
    for product, position in list(node.outputs[0].uses()):
        if product.op_type == "Gemm":
            product = _plain_product(ir, model, node, product)
        if product.op_type != "MatMul" or position != 1:
            continue
        weight = product.inputs[1].producer()
        x, codes, scale = product.inputs[0], weight.inputs[0], weight.inputs[1]
        stem = product.outputs[0].name
        rounded = next((u for u, _ in x.uses() if u.op_type == "DynamicQuantizeLinear"), None)
        if rounded is None:
            rounded = ir.Node("", "DynamicQuantizeLinear", [x], num_outputs=3)
            for output, end in zip(rounded.outputs, ("q", "s", "z"), strict=True):
                output.name = f"{stem}_{end}"
            first = next(n for n in model.graph if n is product)
            model.graph.insert_before(first, rounded)
        summed = ir.Node("", "MatMulInteger", [rounded.outputs[0], codes, rounded.outputs[2]])
        floats = ir.Node("", "Cast", [summed.outputs[0]], [ir.AttrInt64("to", int(ir.DataType.FLOAT))])
        factor = ir.Node("", "Mul", [rounded.outputs[1], scale])
        made = ir.Node("", "Mul", [floats.outputs[0], factor.outputs[0]])
        for part, end in ((summed, "i"), (floats, "f"), (factor, "k")):
            part.outputs[0].name = f"{stem}_{end}"
            model.graph.insert_before(product, part)
        _replace(ir, model, product, made)


def _dynamic_lstm(ir: Any, model: Any, node: Any) -> None:
    """An LSTM whose weights lie on an 8-bit grid as ONNX Runtime's DynamicQuantizeLSTM (com.microsoft): codes (D, I, 4H), scales (D, 4H)."""
    weights = [_codes(_array(value)) if value.const_value is not None else None for value in node.inputs[1:3]]
    if any(weight is None for weight in weights):
        return
    stem = node.outputs[0].name or node.name
    stored = []
    for end, weight in zip("wr", weights, strict=True):
        assert weight is not None
        codes, scale = weight
        stored.append(_constant(ir, model, f"{_MARK}{stem}_{end}~codes", codes.transpose(0, 2, 1).copy()))
        stored.append(_constant(ir, model, f"{stem}_{end}_scale", scale))
        stored.append(_constant(ir, model, f"{stem}_{end}_zero", np.zeros(scale.shape, np.int8)))
    w, w_scale, w_zero, r, r_scale, r_zero = stored
    rest = [*node.inputs[3:], *[None] * (8 - len(node.inputs))]
    inputs = [node.inputs[0], w, r, *rest, w_scale, w_zero, r_scale, r_zero]
    attributes = [a for name, a in node.attributes.items() if name != "layout"]
    made = ir.Node("com.microsoft", "DynamicQuantizeLSTM", inputs, attributes, num_outputs=len(node.outputs))
    model.graph.insert_before(node, made)
    for old, new in zip(node.outputs, made.outputs, strict=True):
        new.name, new.shape, new.type = old.name, old.shape, old.type
        ir.convenience.replace_all_uses_with(old, new, replace_graph_outputs=True)
    model.graph.remove(node, safe=True)
    model.opset_imports["com.microsoft"] = 1


def _codes(weight: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """Codes and scales of a weight (D, 4H, I) that lies on symmetric 8-bit grids, of the whole or half the range, a row or a direction each; else None."""
    magnitude = np.abs(weight)
    for largest in (magnitude.max(2), np.broadcast_to(magnitude.max((1, 2))[:, None], weight.shape[:2])):
        for highest in (127, 63):
            scale = np.maximum(largest / highest, TINY)
            codes = np.round(weight / scale[..., None])
            if (np.abs(codes * scale[..., None] - weight) <= 1e-3 * scale[..., None]).all():
                return codes.astype(np.int8), scale.astype(np.float32)
    return None


def _plain_product(ir: Any, model: Any, node: Any, gemm: Any) -> Any:
    """A Gemm as a product and a sum."""
    turned = ir.Node("", "Transpose", [node.outputs[0]], [ir.AttrInt64s("perm", [1, 0])])
    turned.outputs[0].name = f"{gemm.outputs[0].name}_w"
    model.graph.insert_before(gemm, turned)
    product = ir.Node("", "MatMul", [gemm.inputs[0], turned.outputs[0]])
    product.outputs[0].name = f"{gemm.outputs[0].name}_p"
    model.graph.insert_before(gemm, product)
    if len(gemm.inputs) > 2 and gemm.inputs[2] is not None:
        _replace(ir, model, gemm, ir.Node("", "Add", [product.outputs[0], gemm.inputs[2]]))
    else:
        ir.convenience.replace_all_uses_with(gemm.outputs[0], product.outputs[0], replace_graph_outputs=True)
        model.graph.remove(gemm, safe=True)
    _transpose(ir, model, node, turned)
    return product


def _integer_gemm(ir: Any, model: Any, node: Any, gemm: Any) -> bool:
    """Store the bias in steps of the product's, which ONNX Runtime 1.32 asks for (beside the zero points) before it computes a Gemm in integers."""
    x, bias = gemm.inputs[0].producer(), gemm.inputs[2] if len(gemm.inputs) > 2 else None
    if x is None or x.op_type != "DequantizeLinear" or "block_size" in node.attributes or len(node.inputs) < 3:
        return False
    if bias is None or bias.const_value is None:
        return bias is None
    step = (_array(x.inputs[1]) * _array(node.inputs[1])).astype(np.float32)
    codes = np.round(_array(bias) / step.astype(np.float64))
    if np.abs(codes).max() > LARGEST:
        return False
    stem = f"{bias.name}~{gemm.outputs[0].name}"
    stored = [
        _constant(ir, model, f"{_MARK}{stem}", codes.astype(np.int32)),
        _constant(ir, model, f"val_{stem}.scale", step),
        _constant(ir, model, f"val_{stem}.zero", np.zeros(step.shape, np.int32)),
    ]
    made = ir.Node("", "DequantizeLinear", stored, [ir.AttrInt64("axis", 0)])
    made.outputs[0].name = f"val_{stem}"
    model.graph.insert_before(gemm, made)
    gemm.replace_input_with(2, made.outputs[0])
    return True


def _without_zero(node: Any) -> None:
    """A zero point of 0 is what is meant where none is given."""
    zero = node.inputs[2] if len(node.inputs) > 2 else None
    if zero is not None and zero.const_value is not None and not _array(zero).any():
        node.replace_input_with(2, None)


def _drop_unread(model: Any) -> None:
    for node in reversed(list(model.graph)):
        if not any(out.uses() or out.is_graph_output() for out in node.outputs):
            model.graph.remove(node, safe=True)
    for name, value in list(model.graph.initializers.items()):
        if not value.uses() and not value.is_graph_output():
            del model.graph.initializers[name]


def _rename(model: Any) -> None:
    """The weights' own names on the stored integers."""
    taken: set[str] = set(model.graph.initializers)
    for name, value in list(model.graph.initializers.items()):
        if not name.startswith(_MARK):
            continue
        plain = name.removeprefix(_MARK).replace(_DOT, ".").partition("~")[0].partition("#")[0]
        fresh = plain
        number = 1
        while fresh in taken:
            number += 1
            fresh = f"{plain}_{number}"
        taken.add(fresh)
        del model.graph.initializers[name]
        value.name = fresh
        if value.const_value is not None:
            value.const_value.name = fresh
        model.graph.initializers[fresh] = value
    _shorten(model)


def _shorten(model: Any) -> None:
    """Plain short names inside: the exporter's depend on how the graph came about, and in a small net they weigh as much as the weights."""
    kept = {value.name for value in (*model.graph.inputs, *model.graph.outputs)} | set(model.graph.initializers)
    fresh = (name for number in itertools.count() if (name := f"v{number}") not in kept)
    for node in model.graph:
        node.name = None
        for output in node.outputs:
            if output.name and not output.is_graph_output():
                output.name = next(fresh)
                output.shape = output.type = None  # whoever reads the file infers them
    for name, value in list(model.graph.initializers.items()):
        if name.startswith(("val_", _MARK)):
            del model.graph.initializers[name]
            value.name = value.const_value.name = next(fresh)
            model.graph.initializers[value.name] = value
    for value in model.graph.initializers.values():
        value.metadata_props.clear()
