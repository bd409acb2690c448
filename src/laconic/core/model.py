"""What is taken for a model: a plain `torch.nn.Module`, and nothing that only looks like one."""

from __future__ import annotations

import copy
import functools
import inspect
import types
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

import torch
from torch import Tensor, fx, nn

from laconic.core.errors import BadInput

_OF_ONNX = "Give the torch.nn.Module that it was exported from, or one that a converter such as onnx2torch makes of it."
_QUANTIZED = ("torch.ao.nn.quantized", "torch.nn.quantized", "torch.ao.nn.intrinsic.quantized", "torch.nn.intrinsic.quantized")


def show_signature(module: nn.Module, signature: inspect.Signature) -> None:
    """Let `inspect.signature` of a module and of its `forward` tell how it is called, where its class takes anything; how it computes stays as it is."""
    kind = type(module)

    def forward(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        return kind.forward(self, *args, **kwargs)

    itself = inspect.Parameter("_self", inspect.Parameter.POSITIONAL_ONLY)  # which `inspect` leaves out of a method's
    forward.__signature__ = signature.replace(parameters=[itself, *signature.parameters.values()])  # type: ignore[attr-defined]
    module.__dict__.update(forward=types.MethodType(forward, module), __signature__=signature)


def as_module(value: Any, where: str) -> nn.Module:
    """Return the module that was given, out of a wrapper that `torch.compile` or data-parallel training put around it.

    Args:
        value: what was given as the model.
        where: who asks; begins the message.

    Raises:
        BadInput: it is no module, or one of TorchScript or of PyTorch's own quantization, which cannot be captured; says what was given.
    """
    if isinstance(value, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
        return as_module(value.module, where)
    if isinstance(value, nn.Module) and type(value).__name__ == "OptimizedModule":  # of torch.compile; its class lies in a slow import
        return as_module(value._orig_mod, where)
    if isinstance(value, nn.Module) and not isinstance(value, torch.jit.ScriptModule):
        rounded = next((name for name, part in value.named_modules() if type(part).__module__.startswith(_QUANTIZED)), None)
        if type(value).forward is nn.Module.forward and "forward" not in vars(value):
            raise BadInput(
                f"{where} wants a module that can be called; {type(value).__name__} has no forward. Put its parts into a module that has one "
                "(nn.Sequential runs them one after the other)."
            )
        if rounded is None:
            return _plain(value) if isinstance(value, fx.GraphModule) else value
        raise BadInput(
            f"{where} wants a torch.nn.Module in float32; the module given is quantized by PyTorch already (at '{rounded}'). Give the one before that."
        )
    raise BadInput(f"{where} wants a torch.nn.Module; it was given {_told(value)}")


class _Plain(nn.Module):
    """A graph module as a plain one with the same tensors: `torch.export` would interpret its graph, whatever its forward is at that moment."""

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__()
        for registry in ("_parameters", "_buffers", "_modules", "_non_persistent_buffers_set", "training"):
            self.__dict__[registry] = module.__dict__[registry]
        self.__dict__["_graph_module"] = module

    def __deepcopy__(self, memo: dict[int, Any]) -> nn.Module:
        return _plain(copy.deepcopy(self.__dict__["_graph_module"], memo))


def _plain(module: fx.GraphModule) -> nn.Module:
    forward = type(module).forward

    @functools.wraps(forward)
    def run(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        return forward(self.__dict__["_graph_module"], *args, **kwargs)

    return type(type(module).__name__, (_Plain,), {"forward": run})(module)


def is_function(value: Any) -> bool:
    """Return whether a value is a function, method or class, or one with some arguments given, and no object that can be called besides."""
    return inspect.isroutine(value) or isinstance(value, (type, functools.partial, functools.partialmethod))


def _told(value: Any) -> str:
    """Say what a value is, and what to hand over in its place."""
    if isinstance(value, (str, PurePath)) and str(value).endswith(".onnx"):
        return f"the ONNX file '{value}'. {_OF_ONNX}"
    if type(value).__module__.startswith("onnx"):
        return f"an ONNX model. {_OF_ONNX}"
    if isinstance(value, (str, PurePath)):
        return f"the path '{value}'. Build the module and load its weights; a file cannot be optimized further."
    if isinstance(value, (torch.jit.ScriptModule, torch.jit.ScriptFunction)):
        return f"a TorchScript object ({type(value).__name__}). Give the module that it was made from."
    if isinstance(value, torch.export.ExportedProgram):
        return "an ExportedProgram. Give the module that it was exported from, or its .module()."
    if isinstance(value, Mapping) and all(isinstance(item, Tensor) for item in value.values()):
        return "a mapping of names to tensors (a state_dict?). Build the module and call its load_state_dict."
    if isinstance(value, type):
        return f"the class {value.__name__}. Give an object of it: {value.__name__}(…)."
    if is_function(value):
        return f"a function ({type(value).__name__}). Put it into the forward of a torch.nn.Module."
    return f"an object of the class {type(value).__name__}. Give the module itself."
