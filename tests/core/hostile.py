"""Files that a stranger could send: a `.pt2` that Laconic wrote, with one thing in it changed."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

Edit = Callable[[dict[str, Any]], None]  # changes the description of the program in place
GRAPH, WEIGHTS, EXTRA = "models/model.json", "data/weights/model_weights_config.json", "extra/laconic.json"


def rewrite(saved: Path, path: Path, edit: Callable[[str, bytes], bytes], compression: int = zipfile.ZIP_STORED) -> Path:
    """Copy an archive; `edit` takes the name of each entry and its content and returns what is written."""
    with zipfile.ZipFile(saved) as old, zipfile.ZipFile(path, "w", compression) as new:
        for item in old.infolist():
            new.writestr(item.filename, edit(item.filename, old.read(item.filename)))
    return path


def with_json(saved: Path, path: Path, entry: str, edit: Edit) -> Path:
    """Copy a `.pt2` with one of its JSON entries changed."""

    def changed(name: str, data: bytes) -> bytes:
        if not name.endswith(entry):
            return data
        value = json.loads(data)
        edit(value)
        return json.dumps(value).encode()

    return rewrite(saved, path, changed)


def renamed(old: str, new: str) -> Edit:
    """Return an edit that writes another text wherever a name or target stands, as a whole."""

    def walk(value: Any) -> Any:
        if isinstance(value, dict):
            return {walk(key): walk(item) for key, item in value.items()}
        if isinstance(value, list):
            return [walk(item) for item in value]
        return new if value == old else value

    def edit(value: dict[str, Any]) -> None:
        changed = walk(value)
        value.clear()
        value.update(changed)

    return edit


def code_in_files(mark: Path) -> Iterator[tuple[str, str, Edit]]:
    """Yield attacks that would write `mark` when PyTorch's own reader, or code generated from the graph, meets them: title, entry, edit."""
    code = f"__import__('os').system('touch {mark}')"
    quoted = f'x") or {code} or ("'

    def node(change: Callable[[dict[str, Any]], object]) -> Edit:
        return lambda value: change(value["graph_module"]["graph"]["nodes"][0]) and None

    def root(**fields: Any) -> Edit:
        return lambda value: value["graph_module"]["module_call_graph"][0]["signature"].update(fields)

    def tree(kind: str, context: str) -> str:
        leaf = {"type": None, "context": None, "children_spec": []}
        inner = {"type": kind, "context": context, "children_spec": [leaf]}
        return json.dumps(
            [
                1,
                {
                    "type": "builtins.tuple",
                    "context": "null",
                    "children_spec": [inner, {"type": "builtins.dict", "context": "[]", "children_spec": []}],
                },
            ]
        )

    yield "input", GRAPH, renamed("flat_0", f"flat_0={code}")
    yield "input by newline", GRAPH, renamed("flat_0", f"flat_0):\n    pass\n{code}\ndef f(x")
    yield "result", GRAPH, renamed("conv2d", f"conv2d=({code})")
    yield "parameter", GRAPH, renamed("stem.weight", f"stem.{quoted}")
    yield "argument names", GRAPH, root(forward_arg_names=[f"flat_0={code}"])
    enum = json.dumps({"__enum__": True, "fqn": "os:environ", "name": "x"})
    yield "enum in a tree", GRAPH, root(in_spec=tree("builtins.dict", f"[{enum}]"))
    yield (
        "default of a dict in a tree",
        GRAPH,
        root(
            in_spec=tree(
                "collections.defaultdict",
                json.dumps({"default_factory_module": "os", "default_factory_name": "getcwd", "dict_context": "[]"}),
            )
        ),
    )
    yield "module of a named tuple", GRAPH, root(out_spec=tree("collections.namedtuple", json.dumps({"fqn": "this.Attack"})))
    yield (
        "size",
        GRAPH,
        lambda value: value["graph_module"]["graph"]["tensor_values"]["flat_0"]["sizes"].__setitem__(
            0, {"as_expr": {"expr_str": code, "hint": None}}
        ),
    )
    yield "range", GRAPH, lambda value: value.update(range_constraints={code: {"min_val": 2, "max_val": None}})
    yield "guards", GRAPH, lambda value: value.update(guards_code=[code])
    yield (
        "metadata of a node",
        GRAPH,
        node(lambda item: item["metadata"].update(source_fn_stack=f"x,torch.hub.load;{code}", from_node="{", torch_fn=code, custom="{")),
    )
    yield (
        "metadata of the graph",
        GRAPH,
        lambda value: value["graph_module"].update(
            metadata={"custom": "{"}, treespec_namedtuple_fields={"this.Attack": {"field_names": [code]}}
        ),
    )
    yield "stack of modules", GRAPH, node(lambda item: item["metadata"].update(nn_module_stack=f"a,b,c\n{code}"))
    yield "stack trace", GRAPH, node(lambda item: item["metadata"].update(stack_trace=f'File "x", line 1\n"""\n{code}\n'))
    yield (
        "text of an operator",
        GRAPH,
        node(lambda item: item["inputs"].append({"name": "side", "arg": {"as_string": f"\n{code}"}, "kind": 2})),
    )
    yield (
        "device",
        GRAPH,
        node(lambda item: item["inputs"].append({"name": "device", "arg": {"as_device": {"type": code, "index": None}}, "kind": 2})),
    )
    yield (
        "object",
        GRAPH,
        lambda value: value["graph_module"]["graph"].update(custom_obj_values={"x": {"name": "x", "class_fqn": "os.system"}}),
    )
    yield (
        "custom object as argument",
        GRAPH,
        node(lambda item: item["inputs"].append({"name": "x", "arg": {"as_custom_obj": {"name": "x", "class_fqn": "os"}}})),
    )
    yield "subgraph", GRAPH, node(lambda item: item["inputs"].append({"name": "x", "arg": {"as_graph": {"name": quoted, "graph": {}}}}))
    yield "name of a weight", WEIGHTS, renamed("stem.weight", f"stem.{quoted}")


FORBIDDEN = {
    "torch.ops.aten.from_file.default": "takes the text 'filename'",
    "torch.ops.aten.set_.source_Storage": "takes Storage",
    "torch.ops.aten.abs.out": "writes its result into the argument 'out'",
    "torch.ops.aten.save.default": "no such operator",
    "torch.ops.aten.warn.default": "no such operator",
    "torch.ops.aten._unsafe_index.Tensor": "trusts its arguments",
    "torch.ops.aten.fbgemm_linear_int8_weight.default": "trusts its arguments",
    "torch.ops.aten.manual_seed.default": "no such operator",
    "torch.ops.inductor.resize_storage_bytes_.default": "not an operator of aten",
    "torch.ops.higher_order.triton_kernel_wrapper_mutation.default": "not an operator of aten",
    "torch.ops.load_library": "not an operator of aten",
    "torch.hub.load": "not an operator of aten",
    "torch.ops.aten.mul.Tensor.__class__": "not an operator of aten",
    "_operator.attrgetter.x": "not an operator of aten",
    "_operator.methodcaller": "not an operator of aten",
    "_operator.call": "not an operator of aten",
    "math.factorial": "not an operator of aten",
    "torch.sym_fresh_size": "not an operator of aten",
    "#custom:op": "not an operator of aten",
    "builtins.exec": "not an operator of aten",
}


def bombs() -> Iterator[tuple[str, str, Edit]]:
    """Yield small files that would take memory or time without end: title, entry, edit."""

    def weight(**fields: Any) -> Edit:
        return lambda value: value["config"]["stem.weight"]["tensor_meta"].update(fields)

    def sizes(*numbers: int) -> list[dict[str, int]]:
        return [{"as_int": number} for number in numbers]

    def expression(text: str) -> Edit:
        return lambda value: value["graph_module"]["graph"]["tensor_values"]["flat_0"]["sizes"].__setitem__(
            0, {"as_expr": {"expr_str": text, "hint": None}}
        )

    def many_views(value: dict[str, Any]) -> None:
        item = value["config"]["head.weight"]
        for number in range(1000):
            value["config"][f"view{number}"] = {
                **item,
                "tensor_meta": {**item["tensor_meta"], "sizes": sizes(8, 10), "strides": sizes(1, 8 if number % 2 else 1)},
            }

    yield "weight of stride 0", WEIGHTS, weight(sizes=sizes(1 << 14, 1 << 14), strides=sizes(0, 0))
    yield "weight that is not there", WEIGHTS, weight(sizes=sizes(1 << 40), strides=sizes(1))
    yield "many views of one weight", WEIGHTS, many_views
    yield "power", GRAPH, expression("9**9**9**9")
    yield "power as a call", GRAPH, expression("Pow(Integer(9), Pow(Integer(9), Integer(999999999)))")
    yield "powers of powers", GRAPH, expression("((((((9**64)**64)**64)**64)**64)**64)")
    yield "depth of an expression", GRAPH, expression("(" * 3000 + "1" + ")" * 3000)
    yield "signs of an expression", GRAPH, expression("-" * 9000 + "1")
    yield "symbols", GRAPH, lambda value: value.update(range_constraints={"u99999999999": {"min_val": 2, "max_val": None}})
    yield "example of a terabyte", EXTRA, lambda value: value["interface"]["samples"][0].update(shape=[1 << 20, 1 << 20])
    yield "type of an example", EXTRA, lambda value: value["interface"]["samples"][0].update(dtype="nn")
    yield "no nesting", EXTRA, lambda value: value["interface"].update(input_structure={"kind": "tensor"})
    yield "another number of inputs", EXTRA, lambda value: value["interface"]["inputs"].append(value["interface"]["inputs"][0])
    yield "a shape of texts", EXTRA, lambda value: value["interface"]["inputs"][0].update(shape=[None])
    yield "nesting without end", EXTRA, lambda value: value["interface"].update(output_structure=_nested(250))


def _nested(depth: int) -> dict[str, Any]:
    spec: dict[str, Any] = {"kind": "tensor"}
    for _ in range(depth):
        spec = {"kind": "list", "items": [spec]}
    return spec
