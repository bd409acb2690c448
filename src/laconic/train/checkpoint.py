"""Checkpoints of training: one file per epoch's end, written whole; tensors in safetensors, the rest in its header; nothing is pickled."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from laconic.core.errors import BadInput, CorruptFile
from laconic.core.files import write_whole
from laconic.core.reading import reads

FILE = "checkpoint.safetensors"


def save(folder: Path, model: nn.Module, optimizer: Optimizer, facts: Mapping[str, Any], more: Mapping[str, Tensor]) -> None:
    """Write model, optimizer state, random state, `facts` (plain values) and `more` tensors."""
    from safetensors.torch import save as serialized

    tensors = {f"model.{name}": value.detach().contiguous().clone() for name, value in model.state_dict().items()}
    state = optimizer.state_dict()["state"]
    tensors |= {f"optimizer.{index}.{name}": value.detach().contiguous().clone() for index, name, value in _tensors(state)}
    tensors |= {"random.cpu": torch.get_rng_state()} | {f"more.{name}": value.contiguous().clone() for name, value in more.items()}
    plain = {str(index): {name: value for name, value in item.items() if not isinstance(value, Tensor)} for index, item in state.items()}
    groups = [{name: value for name, value in group.items() if isinstance(value, (bool, int, float))} for group in optimizer.param_groups]
    header = {"facts": json.dumps(facts), "optimizer": json.dumps(plain), "groups": json.dumps(groups)}
    # to memory first: the package's own writer does not tell a full disk as Python does
    write_whole(folder / FILE, serialized(tensors, header))


@reads("a checkpoint of this training", "Delete it to train from the start.")
def load(folder: Path, model: nn.Module, optimizer: Optimizer) -> tuple[dict[str, Any], dict[str, Tensor]] | None:
    """Put a checkpoint's state back and return its facts and further tensors; None where there is none.

    Raises:
        CorruptFile: the file is not a whole checkpoint.
        BadInput: it is of another model.
    """
    path = folder / FILE
    if not path.exists():
        return None
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
            header = file.metadata()
        facts, plain, groups = (json.loads(header[name]) for name in ("facts", "optimizer", "groups"))
        state = _state(plain, tensors)
        random = tensors["random.cpu"]
    except (SafetensorError, LookupError, TypeError, ValueError, AttributeError, RecursionError, OSError) as error:
        raise CorruptFile(f"{path} is not a whole checkpoint ({str(error)[:200]}). Delete it to train from the start.") from error
    try:
        model.load_state_dict({name.removeprefix("model."): value for name, value in tensors.items() if name.startswith("model.")})
        present = optimizer.state_dict()["param_groups"]
        optimizer.load_state_dict({"state": state, "param_groups": [{**now, **then} for now, then in zip(present, groups, strict=True)]})
        torch.set_rng_state(random)
    except (RuntimeError, ValueError, TypeError, KeyError) as error:
        raise BadInput(f"{path} is a checkpoint of another model ({str(error).splitlines()[0][:200]}). Choose another folder.") from error
    return facts, {name.removeprefix("more."): value for name, value in tensors.items() if name.startswith("more.")}


def _state(plain: Mapping[str, Mapping[str, Any]], tensors: Mapping[str, Tensor]) -> dict[int, dict[str, Any]]:
    """Return the optimizer's state: plain values, and tensors by their names in the file."""
    state: dict[int, dict[str, Any]] = {int(index): dict(values) for index, values in plain.items()}
    for key, value in tensors.items():
        if key.startswith("optimizer."):
            _, index, name = key.split(".", 2)
            state.setdefault(int(index), {})[name] = value
    return state


def _tensors(state: Mapping[int, Mapping[str, Any]]) -> Iterator[tuple[int, str, Tensor]]:
    for index, item in state.items():
        for name, value in item.items():
            if isinstance(value, Tensor):
                yield index, name, value
