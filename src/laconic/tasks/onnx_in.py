"""A model from an ONNX file: converted by onnx2fx (MIT/Apache, the extra ``onnx-in``), made fit for training and capture, compared with ONNX Runtime.

ONNX computes shapes with tensors, and a tensor's value is what `torch.export` does not follow. So the converted graph runs at two sizes of every dynamic
dimension; of an operator that takes a shape, the numbers that stay are written into the graph, and those that follow a dimension are left to the operator
(-1 of Reshape, 1 of Expand, the end of Slice).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn

from laconic.core.alike import alike
from laconic.core.capture import capture as capture_module
from laconic.core.errors import BadInput, CaptureError, need
from laconic.core.example import Sample
from laconic.core.program import Program

SUFFIX = ".onnx"
_EXTRA = "onnx-in"
_SIZES = (2, 3)  # of dynamic dimensions, and the same plus the dimension's number for others than the first
_OTHER = 5  # at which the captured graph is compared too
_END = 2**63 - 1
_LARGEST = 64  # numbers in a tensor of shapes
_CLOSE = 1e-3  # of the largest output: what summing in another order explains, and no wrong operator
_ANYWAY = "What cannot be converted can still be timed as it is: laconic bench {path}"
# Statistics are no weights: positions of the mean and the variance among the arguments of the converted batch-norm.
_STATISTICS = {"BatchNormalization": (3, 4)}
_ROUNDED = ("QuantizeLinear", "DequantizeLinear", "QLinearConv", "QLinearMatMul", "ConvInteger", "MatMulInteger")
_BRANCHES = ("If", "Loop", "Scan")


def capture(model: nn.Module | str | Path, example: Any = None, **options: Any) -> Program:
    """Capture a module, or the model in an ONNX file; see `laconic.core.capture.capture`.

    Args:
        model: the module; or the path of an ONNX file, whose dynamic dimensions stay dynamic where they can.
        example: the inputs; of a file made from the shapes that it tells, unless they are given.
        options: `dynamic`, `dynamic_batch`.

    Raises:
        CaptureError: see there.
        BadInput: see there; a file that cannot be converted, or whose converted model does not answer as the file does.
    """
    if not isinstance(model, (str, Path)) or Path(model).suffix != SUFFIX:
        return capture_module(model, example, **options)  # type: ignore[arg-type]
    path = Path(model)
    module = read_onnx(path, dynamic_batch=options.get("dynamic_batch", True))
    made = tuple(_inputs(path, _SIZES[0])) if example is None else example
    try:
        program = capture_module(module, made, **options)
    except CaptureError as error:
        raise CaptureError(f"{path}: {error} {_ANYWAY.format(path=path)}") from error
    for size in _SIZES[:1] if program.interface.fixed_batch else (_SIZES[0], _OTHER):
        _compare(program, path, size)
    return program


def read_onnx(path: str | Path, dynamic_batch: bool = True) -> nn.Module:
    """Return the model in an ONNX file as a module with its weights as parameters, in evaluation mode.

    Args:
        path: of the file.
        dynamic_batch: it takes any number of examples; otherwise the shapes of the numbers that the file tells, or of 2, are fixed.

    Raises:
        BadInput: no such file; a quantized model; an operator or a branch that cannot be converted; answers other than those of ONNX Runtime.
        MissingExtra: onnx2fx is not installed.
    """
    path = Path(path)
    if not path.is_file():
        raise BadInput(f"there is no ONNX file {path}")
    module = _converted(path)
    try:
        runs = [_Seen(module, _inputs(path, size)) for size in (_SIZES if dynamic_batch else _SIZES[:1])]
    except Exception as error:
        told = f"{type(error).__name__}: {str(error).strip().splitlines()[0][:300] if str(error).strip() else ''}"
        raise BadInput(f"{path} cannot be converted: what it became does not run ({told}). {_ANYWAY.format(path=path)}") from error
    _write_shapes(module, runs)
    _make_trainable(module)
    _compare(module.eval(), path, _SIZES[0])
    return module


def _converted(path: Path) -> fx.GraphModule:
    onnx, onnx2fx = need("onnx"), need("onnx2fx", _EXTRA)
    try:
        model = onnx.load(str(path))
        operators = {node.op_type for node in model.graph.node}
    except Exception as error:
        raise BadInput(f"{path} is not a whole ONNX file ({type(error).__name__}: {str(error)[:200]}). Export it again.") from error
    for names, why in ((_ROUNDED, "it is quantized already; give the model in float32"), (_BRANCHES, "it branches on values")):
        if stop := operators & set(names):
            raise BadInput(f"{path} cannot be converted: {why} (operator {min(stop)}). {_ANYWAY.format(path=path)}")
    try:
        module = onnx2fx.convert(model)
    except Exception as error:
        raise BadInput(f"{path} cannot be converted: {type(error).__name__}: {str(error)[:300]}. {_ANYWAY.format(path=path)}") from error
    assert isinstance(module, fx.GraphModule)
    return module


def _inputs(path: Path, size: int) -> Iterator[Tensor]:
    """Yield random inputs in the shapes that the file tells; the first dynamic dimension has this size, others a little more."""
    onnx = need("onnx")
    graph = onnx.load(str(path), load_external_data=False).graph
    constants = {item.name for item in graph.initializer}
    numbers: dict[str, int] = {}
    for seed, value in enumerate(item for item in graph.input if item.name not in constants):
        shape: list[int] = []
        for dim in value.type.tensor_type.shape.dim:
            name = dim.dim_param or f"{value.name}{len(shape)}"
            shape.append(dim.dim_value if dim.HasField("dim_value") else numbers.setdefault(name, size + 2 * len(numbers)))
        kind = str(onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type))
        yield Sample(tuple(shape), kind, *((-1.0, 1.0) if kind.startswith("float") else (0, 1))).make(seed)


class _Seen(fx.Interpreter):
    """Runs a graph once; keeps shapes, small whole numbers, and which of these follow from shapes alone."""

    def __init__(self, module: fx.GraphModule, inputs: Iterator[Tensor]) -> None:
        super().__init__(module)
        self.values: dict[fx.Node, list[int]] = {}
        self.shapes: dict[fx.Node, tuple[int, ...]] = {}
        self._from_data: set[fx.Node] = set()
        with torch.no_grad():
            self.run(*inputs)

    def run_node(self, n: fx.Node) -> Any:
        """Run one, and note what it gives."""
        result = super().run_node(n)
        if n.op == "placeholder" or (
            n.meta.get("onnx_op_type") not in ("Shape", "Size") and any(i in self._from_data for i in n.all_input_nodes)
        ):
            self._from_data.add(n)
        if isinstance(result, Tensor):
            self.shapes[n] = tuple(result.shape)
            whole = not result.is_floating_point() and not result.is_complex() and result.dtype != torch.bool
            if whole and result.dim() < 2 and result.numel() <= _LARGEST and n not in self._from_data:
                self.values[n] = result.reshape(-1).tolist()
        return result


def _write_shapes(module: fx.GraphModule, runs: Sequence[_Seen]) -> None:
    """Write numbers into the graph where operators take tensors of whole numbers that follow from shapes alone."""
    for node in list(module.graph.nodes):
        rule = _SHAPED.get(str(node.meta.get("onnx_op_type")))
        if rule is None or node.op != "call_function" or not node.args:
            continue
        node.args = (node.args[0], *(rule(node, arg, runs) if isinstance(arg, fx.Node) else arg for arg in node.args[1:]))
        if rule is _slice and not any(isinstance(arg, fx.Node) for arg in node.args[1:]):
            node.target = _sliced
    module.graph.eliminate_dead_code()
    for name in [
        name for name, _ in module.named_buffers() if name not in {str(n.target) for n in module.graph.nodes if n.op == "get_attr"}
    ]:
        delattr(module, name)
    module.recompile()


def _numbers(arg: fx.Node, runs: Sequence[_Seen]) -> list[list[int]] | None:
    """Return the numbers of a tensor of shapes, in each run; None where it is none."""
    values = [run.values.get(arg) for run in runs]
    return None if any(value is None for value in values) or len({len(value or ()) for value in values}) > 1 else values  # type: ignore[return-value]


def _constant(node: fx.Node, arg: fx.Node, runs: Sequence[_Seen]) -> Any:
    numbers = _numbers(arg, runs)
    return arg if numbers is None or any(row != numbers[0] for row in numbers) else numbers[0]


def _reshape(node: fx.Node, arg: fx.Node, runs: Sequence[_Seen]) -> Any:
    """One number that follows a dimension is what is left over."""
    numbers = _numbers(arg, runs)
    if numbers is None:
        return arg
    shape = [column[0] if len(set(column)) == 1 else None for column in zip(*numbers, strict=True)]
    if shape.count(None) > 1 or (None in shape and -1 in shape):
        return arg
    return [-1 if size is None else size for size in shape]


def _expand(node: fx.Node, arg: fx.Node, runs: Sequence[_Seen]) -> Any:
    """A number that follows a dimension which the tensor has already is 1."""
    numbers = _numbers(arg, runs)
    if numbers is None:
        return arg
    had = [run.shapes[node.args[0]] for run in runs]  # type: ignore[index]
    shape = []
    for place, column in enumerate(zip(*numbers, strict=True)):
        own = [sizes[place - len(numbers[0]) + len(sizes)] if place - len(numbers[0]) + len(sizes) >= 0 else None for sizes in had]
        if len(set(column)) > 1 and list(column) != own:
            return arg
        shape.append(column[0] if len(set(column)) == 1 else 1)
    return shape


def _slice(node: fx.Node, arg: fx.Node, runs: Sequence[_Seen]) -> Any:
    """An end that follows a dimension to its end is the largest number."""
    numbers = _numbers(arg, runs)
    if numbers is None or all(row == numbers[0] for row in numbers):
        return arg if numbers is None else numbers[0]
    axes = _numbers(node.args[3], runs) if len(node.args) > 3 and isinstance(node.args[3], fx.Node) else None
    given = axes[0] if axes is not None else node.args[3] if len(node.args) > 3 and node.args[3] else range(len(numbers[0]))
    had = [run.shapes[node.args[0]] for run in runs]  # type: ignore[index]
    ends = []
    for axis, column in zip(given, zip(*numbers, strict=True), strict=True):  # type: ignore[arg-type]
        if len(set(column)) > 1 and list(column) != [sizes[axis] for sizes in had]:
            return arg
        ends.append(column[0] if len(set(column)) == 1 else _END)
    return ends


def _sliced(
    x: Tensor, starts: Sequence[int], ends: Sequence[int], axes: Sequence[int] | None = None, steps: Sequence[int] | None = None
) -> Tensor:
    """Slice by numbers that are known; no size is asked for, which would make a constant of it."""
    for axis, start, end, step in zip(axes or range(len(starts)), starts, ends, steps or [1] * len(starts), strict=True):
        if step < 0:  # places are counted from the other end
            x, start, end, step = x.flip(axis), -1 - start, -1 - end, -step
        x = torch.ops.aten.slice.Tensor(x, axis, start, end, step)
    return x


# What operators of ONNX take for shapes, axes and places behind their first argument.
_SHAPED: Mapping[str, Any] = {
    "Reshape": _reshape,
    "Expand": _expand,
    "Slice": _slice,
    **dict.fromkeys(
        (
            "Squeeze",
            "Unsqueeze",
            "ReduceMean",
            "ReduceSum",
            "ReduceMax",
            "ReduceMin",
            "ReduceProd",
            "ReduceL2",
            "Tile",
            "Pad",
            "Split",
            "Resize",
            "TopK",
        ),
        _constant,
    ),
}


def _make_trainable(module: fx.GraphModule) -> None:
    """Make parameters of the weights: what is floating, no single number, and no statistic of a batch-norm."""
    kept = set()
    for node in module.graph.nodes:
        for place in _STATISTICS.get(str(node.meta.get("onnx_op_type")), ()):
            if len(node.args) > place and isinstance(node.args[place], fx.Node):
                kept.add(str(node.args[place].target))
    for name, value in list(module.named_buffers()):
        if value.is_floating_point() and value.numel() > 1 and name not in kept:
            delattr(module, name)
            module.register_parameter(name, nn.Parameter(value.clone()))


def _compare(module: nn.Module, path: Path, size: int) -> None:
    """Hold the converted model against ONNX Runtime on the file itself, on inputs of this size."""
    ort = need("onnxruntime")
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    inputs = list(_inputs(path, size))
    try:
        wanted = session.run(None, {item.name: leaf.numpy() for item, leaf in zip(session.get_inputs(), inputs, strict=True)})
        with torch.no_grad():
            answers = module(*inputs)
    except Exception as error:
        told = (str(error).strip().splitlines() or [""])[0][:300]
        raise BadInput(
            f"{path}: with dimensions of {size} and more it does not run ({type(error).__name__}: {told}). {_ANYWAY.format(path=path)}"
        ) from error
    answers = answers if isinstance(answers, (tuple, list)) else (answers,)
    for item, ours, theirs in zip(session.get_outputs(), answers, wanted, strict=True):
        if not alike([theirs], [ours], _CLOSE):
            raise BadInput(
                f"{path}: converted, its output '{item.name}' differs by {_gap(ours.numpy(), theirs)} from what ONNX Runtime makes of the file; it is "
                f"not used. {_ANYWAY.format(path=path)}"
            )


def _gap(ours: np.ndarray, theirs: np.ndarray) -> str:
    if ours.shape != theirs.shape:
        return f"its shape, {ours.shape} and not {theirs.shape},"
    return f"{np.abs(ours.astype(np.float64) - theirs).max(initial=0.0):.3g} (of {np.abs(theirs).max(initial=0.0):.3g})"
