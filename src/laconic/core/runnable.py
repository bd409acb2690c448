"""Read a `.pt2` to run it and for nothing else: the graph is built from its description, without PyTorch's exporter.

`Program.load` goes through the exporter, for a program can be edited, trained and exported anew: that imports TorchDynamo and SymPy and makes shapes of symbols
for every value. A process that runs a model needs none of it, and starts in half the time.
"""

from __future__ import annotations

import keyword
import operator
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import fx

from laconic.core import serialized, stored
from laconic.core.allowed import SIZES, look_up
from laconic.core.archive import Archive
from laconic.core.assembly import Tensors, assemble
from laconic.core.errors import CorruptFile
from laconic.core.reading import reads

_FORMATS = {1: torch.contiguous_format, 2: torch.channels_last, 3: torch.channels_last_3d, 4: torch.preserve_format}
_POSITIONAL, _BY_NAME = 1, 2
# They check what capture has checked, and compute nothing.
_CHECKS = ("_assert_tensor_metadata", "_assert_scalar", "sym_constrain_range_for_size", "sym_constrain_range")


@reads("a .pt2 written by Laconic", "Save the program again; a file of torch.export.save is captured anew with laconic.capture.")
def read(path: Path, device: str = "cpu") -> fx.GraphModule:
    """Return the graph of a file, flat tensors in, a flat tuple of tensors out. It computes what that of `Program.load` computes.

    Args:
        path: of a `.pt2`.
        device: of its tensors, and of those that the graph makes.

    Raises:
        CorruptFile: truncated, altered, another kind of file, or one that would have to be unpickled or evaluated.
    """
    if not path.exists():
        raise CorruptFile(f"{path} does not exist")
    try:
        with Archive(path) as archive:
            interface = stored.interface(archive)
            builder = _Builder(stored.description(archive)["graph_module"], torch.device(device))
            stored.check(archive, interface, builder.graph)
            values = {**stored.tensors(archive, "weights"), **stored.tensors(archive, "constants")}
    except serialized.NotAllowed as error:
        raise CorruptFile(f"{path} is refused: {error}. Load only files that Laconic saved.") from error
    tensors: Tensors = [(name, (values[name], *kind)) for name, kind in builder.tensors.items()]
    return assemble(builder.graph, tensors).to(device)


class _Builder:
    """Makes a graph of the description that `serialized.rebuild` allowed. No name of the file becomes one of the graph's but those of tensors.

    Attributes:
        graph: the graph.
        tensors: by name, whether one is a parameter and whether it is in the state dict.
    """

    def __init__(self, description: dict[str, Any], device: torch.device) -> None:
        self.graph, self._device = fx.Graph(), device
        self.tensors: dict[str, tuple[bool, bool]] = {}
        self._stored: dict[str, str] = {}  # names of tensors by their names in the file's graph
        self._values: dict[str, fx.Node] = {}
        for item in description["signature"]["input_specs"]:
            self._take_input(*next(iter(item.items())))
        for item in description["graph"]["nodes"]:
            self._call(item)
        given = (item["user_output"]["arg"] for item in description["signature"]["output_specs"])
        self.graph.output(tuple(self._argument(argument) for argument in given))
        for node in reversed(list(self.graph.nodes)):
            if node.target is torch.ops.aten.sym_size.int and not node.users:
                self.graph.erase_node(node)
        self.graph.lint()

    def _take_input(self, kind: str, item: dict[str, Any]) -> None:
        if kind == "user_input":
            self._values[item["arg"]["as_tensor"]["name"]] = self.graph.placeholder(f"flat_{len(self._values)}")
        else:
            name = item[f"{kind}_name"]
            self._stored[item["arg"]["name"]] = name
            self.tensors[name] = (kind == "parameter", item.get("persistent", kind == "parameter"))

    def _call(self, item: dict[str, Any]) -> None:
        if item["target"] in SIZES:
            arguments = [self._argument(given["arg"]) for given in item["inputs"]]
            self._name(self.graph.call_function(SIZES[item["target"]], tuple(arguments)), item["outputs"])
            return
        target = look_up(item["target"])
        if target._schema.name.partition("::")[2] not in _CHECKS:
            self._name(self.graph.call_function(target, *self._bound(target, item["inputs"])), item["outputs"])

    def _bound(self, target: torch._ops.OpOverload, inputs: list[dict[str, Any]]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return the arguments by position and by name, in the order of the schema."""
        given = {one["name"]: one for one in inputs}
        args: list[Any] = []
        kwargs: dict[str, Any] = {}
        for spec in target._schema.arguments:
            if spec.name in given:
                value, kind = self._argument(given[spec.name]["arg"]), given[spec.name]["kind"]
                needed = not spec.has_default_value() and not spec.kwarg_only
                if kind == _POSITIONAL or keyword.iskeyword(spec.name) or (kind != _BY_NAME and needed):
                    args.append(value)
                else:
                    kwargs[spec.name] = value
        return tuple(args), kwargs

    def _argument(self, argument: dict[str, Any]) -> Any:
        kind, value = next(iter(argument.items()))
        if kind in ("as_tensor", "as_optional_tensor"):
            return self._value(value["name"]) if kind == "as_tensor" else self._argument(value)
        if kind in ("as_tensors", "as_nested_tensors"):
            return [self._argument({"as_tensors" if isinstance(item, list) else "as_tensor": item}) for item in value]
        if kind in ("as_optional_tensors", "as_sym_ints", "as_sym_bools", "as_sym_floats"):
            return [self._argument(item) for item in value]
        if kind in ("as_sym_int", "as_sym_bool", "as_sym_float"):
            return self._argument(value)
        if kind == "as_name":
            return self._value(value)
        return self._device if kind == "as_device" else _PLAIN[kind](value)

    def _value(self, name: str) -> fx.Node:
        """Return what a name of the file's graph stands for; a tensor is fetched before its first use."""
        if name not in self._values:
            self._values[name] = self.graph.get_attr(self._stored[name])
        return self._values[name]

    def _name(self, node: fx.Node, outputs: list[dict[str, Any]]) -> None:
        """Note under which names the file's graph knows what a node puts out; several results are taken apart."""
        if len(outputs) == 1 and (name := _name_of(outputs[0])) is not None:
            self._values[name] = node
            return
        listed = outputs[0].get("as_tensors") if len(outputs) == 1 else None
        for place, output in enumerate(outputs if listed is None else [{"as_tensor": item} for item in listed]):
            if (name := _name_of(output)) is not None:
                self._values[name] = self.graph.call_function(operator.getitem, (node, place))
            elif "as_tensors" in output:
                self._name(self.graph.call_function(operator.getitem, (node, place)), [output])


_PLAIN: dict[str, Callable[[Any], Any]] = {
    "as_none": lambda value: None,
    **dict.fromkeys(("as_bool", "as_int", "as_string"), lambda value: value),
    **dict.fromkeys(("as_bools", "as_ints"), list),
    "as_float": float,
    "as_floats": lambda value: [float(item) for item in value],
    "as_int_lists": lambda value: [tuple(item) for item in value],
    "as_float_lists": lambda value: [[float(number) for number in item] for item in value],
    "as_complex": lambda value: complex(float(value["real"]), float(value["imag"])),
    "as_scalar_type": lambda value: stored.DTYPES[value],
    "as_memory_format": lambda value: _FORMATS[value],
    "as_layout": lambda value: torch.strided,
}


def _name_of(output: dict[str, Any]) -> str | None:
    """Return the name under which one tensor or size is put out; None of anything else."""
    kind, value = next(iter(output.items()))
    if kind == "as_tensor":
        return str(value["name"])
    return value.get("as_name") if kind in ("as_sym_int", "as_sym_bool", "as_sym_float") else None
