"""A whole model with an artifact in the place of one of its modules: put together in memory, and delivered as a folder.

The rest of a model is Python, and Python cannot be shipped as data. So the folder holds the part's model file, the weights of the rest (tensors in a
safetensors file, nothing that runs), and a script; the code of the rest is the user's own, which builds the model where it is used. Nothing is unpickled.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from laconic.core import structure
from laconic.core.errors import BadInput, CorruptFile, need
from laconic.core.files import read_json, sha256, write_json, write_whole
from laconic.core.interface import as_call
from laconic.core.part import Part
from laconic.deploy.artifact import Artifact

CARD = "whole.json"
REST = "rest.safetensors"
SCRIPT = "whole.py"
FORMAT = 1


class PlacedPart(nn.Module):
    """A module that an artifact answers for: tensors in and out as of the module in whose place it stands, without gradient."""

    def __init__(self, artifact: Artifact) -> None:
        super().__init__()
        self._artifact = artifact

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Answer a call."""
        return self._artifact(*args, **kwargs)


def place(model: nn.Module, part: str, artifact: Artifact | str | Path) -> nn.Module:
    """Return the model, in evaluation mode, with an artifact in the place of one of its modules.

    Args:
        model: the whole; it stays as it is, and what is returned shares its other weights.
        part: dotted path of the module.
        artifact: of the part, or its folder.

    Raises:
        BadInput: the model has no such module.
    """
    one = artifact if isinstance(artifact, Artifact) else Artifact.open(artifact)
    shared: dict[int, Any] = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    return copy.deepcopy(model, {**shared, id(Part(model, part).module): PlacedPart(one)}).eval()


def write_state(model: nn.Module, file: Path, without: str | None = None) -> Path:
    """Write a module's tensors as safetensors; the file appears whole.

    Args:
        model: whose state.
        file: where.
        without: the path of a part whose tensors are left out.
    """
    tensors = {name: value.detach().cpu().contiguous().clone() for name, value in _state(model, without).items()}
    save = need("safetensors.torch").save
    return write_whole(file, save(tensors))


def read_state(model: nn.Module, file: Path, without: str | None = None) -> None:
    """Read into a module what `write_state` wrote of one like it.

    Raises:
        CorruptFile: the file is not whole.
        BadInput: the module has other tensors than the one that was written; names them.
    """
    try:
        tensors = need("safetensors.torch").load_file(file)
    except (need("safetensors").SafetensorError, OSError) as error:
        raise CorruptFile(f"{file} is not a whole file of weights ({error}). Deliver the artifact again.") from error
    own = _state(model, without)
    wrong = sorted({*tensors} ^ {*own}) or [name for name, value in tensors.items() if value.shape != own[name].shape]
    if wrong:
        raise BadInput(
            f"{file} is of another model: '{wrong[0]}' is not the same in both. Build the model as it was built when the artifact was made."
        )
    with torch.no_grad():
        for name, value in tensors.items():
            own[name].copy_(value)


def _state(model: nn.Module, without: str | None) -> dict[str, Tensor]:
    state = model.state_dict(keep_vars=True)
    return {name: value for name, value in state.items() if isinstance(value, Tensor) and not (without and name.startswith(f"{without}."))}


def deliver(artifact: Artifact, model: nn.Module, part: str, inputs: Any, factory: str | None) -> Path:
    """Write beside an artifact what runs the whole model with it: the weights of the rest, a card and a script.

    Args:
        artifact: of the part.
        model: the whole, with the weights that the rest is to have.
        part: the module's path.
        inputs: of the whole, of which nesting, shapes and types are kept, no values.
        factory: ``module:attribute`` that makes the model or the task, where that is known; it is shown to readers and never imported unasked.

    Returns:
        The script.
    """
    weights = write_state(model, artifact.folder / REST, part)
    leaves: list[Tensor] = []
    nesting = structure.describe(inputs, leaves)
    card = {
        "format": FORMAT,
        "part": part,
        "factory": factory,
        "rest": {"sha256": sha256(weights), "size_bytes": weights.stat().st_size},
        "inputs": {"nesting": nesting, "tensors": [[list(leaf.shape), str(leaf.dtype).removeprefix("torch.")] for leaf in leaves]},
    }
    write_json(artifact.folder / CARD, card)
    return write_whole(artifact.folder / SCRIPT, _SCRIPT)


def restore(folder: Path, model: nn.Module) -> nn.Module:
    """Return a model like the one that `deliver` was given, with the weights of the rest and the artifact of the folder in place.

    Raises:
        BadInput: the folder is not of a part, or the model is another one.
        CorruptFile: the weights are not those that were delivered.
    """
    card = _card(folder)
    if sha256(folder / REST) != card["rest"]["sha256"]:
        raise CorruptFile(f"{folder / REST} is not the file that was delivered. Deliver the artifact again.")
    read_state(model, folder / REST, card["part"])
    return place(model, card["part"], folder)


def example(folder: Path, arrays: str | Path | None = None) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return positional and keyword arguments for the whole model: ones in the shapes that it was given, or the arrays of an npz file.

    Args:
        folder: of `deliver`.
        arrays: under the names of the inputs (dotted where they are nested), or in their order.
    """
    told = _card(folder)["inputs"]
    if arrays is None:
        leaves = [torch.ones(shape, dtype=getattr(torch, kind)) for shape, kind in told["tensors"]]
    else:
        with np.load(arrays, allow_pickle=False) as archive:
            names = list(structure.places(told["nesting"], ""))
            chosen = names if set(names) <= set(archive.files) else archive.files
            leaves = [torch.from_numpy(archive[name]) for name in chosen]
    return as_call(structure.build(told["nesting"], iter(leaves)))


def size_of_rest(model: nn.Module, part: str) -> int:
    """Return the bytes of the tensors of a model outside of one of its modules."""
    return sum(value.nbytes for value in _state(model, part).values())


def _card(folder: Path) -> dict[str, Any]:
    if not (folder / CARD).exists():
        raise BadInput(
            f"{folder} has no {CARD}: it holds no part of a model that was delivered with its rest. Open it with laconic.Artifact.open."
        )
    return dict(read_json(folder / CARD))


_SCRIPT = '''\
"""Runs the whole model with this folder's artifact in place: python whole.py MODULE:ATTRIBUTE [INPUTS.npz].

MODULE:ATTRIBUTE is your code, which makes the model (or its task); it is imported and run. whole.json says what made it here.
"""
import sys
from pathlib import Path
import laconic
from laconic.deploy.whole import example
if len(sys.argv) < 2:
    sys.exit(__doc__)
folder = Path(__file__).resolve().parent
args, kwargs = example(folder, *sys.argv[2:3])
print(laconic.load_whole(folder, sys.argv[1])(*args, **kwargs))
'''
