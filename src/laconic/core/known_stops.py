"""What is known to stop a capture: objects in a model's inputs and outputs, and calls in its forward, each with the mend."""

from __future__ import annotations

import traceback
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from laconic.core.errors import BadInput

# By the full name of a class (or of one that it derives from), so that no package is imported: what it is, and what to do.
_CLASSES = {
    "torch.nn.utils.rnn.PackedSequence": (
        "a packed sequence, whose shape depends on the data",
        "Pad instead of packing: a tensor (B, L, …) and a mask beside it, with which forward takes what counts (the last step by gather, a mean by a product)",
    ),
    "transformers.cache_utils.Cache": (
        "a cache of keys and values, which no graph holds",
        "Capture the model without it: model.config.use_cache = False, and no past_key_values among the inputs",
    ),
    "transformers.tokenization_utils_base.BatchEncoding": (
        "a tokenizer's result",
        "Give its tensors: dict(encoding), of a tokenizer called with return_tensors='pt'",
    ),
}
_LAYOUTS = {
    torch.sparse_coo: ("sparse", "to_dense()"),
    torch.sparse_csr: ("sparse", "to_dense()"),
    torch.sparse_csc: ("sparse", "to_dense()"),
    torch.sparse_bsr: ("sparse", "to_dense()"),
    torch.sparse_bsc: ("sparse", "to_dense()"),
}
# A function of PyTorch that reads values where it could be told, and what to tell it.
_FUNCTIONS = {
    "_detect_is_causal_mask": "nn.Transformer compares the values of a mask to see whether it is causal. Say which it is where the mask is given: "
    "tgt_is_causal=True beside tgt_mask, is_causal beside the mask of an encoder; False for a mask that is not.",
}
# What the line that stopped a capture, or its message, contains, and the mend.
LINES = (
    ("past_key_values", "set model.config.use_cache = False: a graph holds no cache of keys and values."),
    ("uninitialized parameter", "lazy layers know their sizes after a first call: model(example), then capture."),
    ("support for cuda", "forward asks for a CUDA device, and there is none. Take the device of an input: x.to(other.device)."),
    (".numpy()", "forward leaves PyTorch for NumPy, where nothing is traced. Use PyTorch's operators."),
)


def check_example(example: Any) -> None:
    """Refuse inputs that are known to be none of a graph.

    Raises:
        BadInput: names the place, what it is, and the mend.
    """
    for path, value in pytree.tree_flatten_with_path(example, is_leaf=lambda item: _known(item) is not None)[0]:
        place = f"the input {pytree.keystr(path)}" if path else "the example"
        if (known := _known(value)) is not None:
            raise BadInput(f"{place} is {known[0]}. {known[1]}.")
        if isinstance(value, Tensor) and (value.layout in _LAYOUTS or value.is_nested or value.is_quantized):
            what, mend = _layout(value)
            raise BadInput(f"{place} is a {what} tensor, which no runtime takes. Give a plain one: .{mend}.")


def check_answer(answer: Any) -> None:
    """Refuse what forward returns where something in it is known to be none of a graph.

    Raises:
        BadInput: names the place, what it is, and the mend.
    """
    for path, value in pytree.tree_flatten_with_path(answer, is_leaf=lambda item: _known(item) is not None)[0]:
        if (known := _known(value)) is not None:
            raise BadInput(f"the output{pytree.keystr(path)} is {known[0]}. {known[1]}.")


def met(error: BaseException | None) -> str | None:
    """Return the mend where a frame of what was raised is, or has at hand, something that is known to stop a capture; None where nothing was."""
    for frame, _ in traceback.walk_tb(None if error is None else error.__traceback__):
        if frame.f_code.co_name in _FUNCTIONS:
            return _FUNCTIONS[frame.f_code.co_name]
        for value in frame.f_locals.values():
            if (known := _known(value)) is not None:
                return f"forward makes or takes {known[0]}. {known[1]}."
    return None


def _known(value: Any) -> tuple[str, str] | None:
    names = (f"{base.__module__}.{base.__qualname__}" for base in type(value).__mro__)
    return next((_CLASSES[name] for name in names if name in _CLASSES), None)


def _layout(value: Tensor) -> tuple[str, str]:
    if value.is_nested:
        return "nested", "to_padded_tensor(0.0), with a mask beside it"
    return ("quantized", "dequantize()") if value.is_quantized else _LAYOUTS[value.layout]
