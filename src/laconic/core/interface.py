"""How a program is called: its flat inputs and outputs, their nesting, and what its graph does not carry."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from torch import Tensor, nn

from laconic.core import structure
from laconic.core.capture_limits import CaptureLimits
from laconic.core.errors import BadInput
from laconic.core.example import Sample
from laconic.core.spec import TensorSpec as TensorSpec


@dataclass(frozen=True)
class Interface:
    """How a program is called, and what else its graph does not tell.

    Attributes:
        inputs: the flat inputs, in order.
        outputs: the flat outputs, in order.
        input_structure: their nesting, and how many were positional at capture.
        output_structure: their nesting.
        notes: for the reader.
        samples: how to make example inputs.
        limits: of what was captured.
        frozen: paths of the module's parts that stay in evaluation mode when it trains.
        sparse: names of parameters whose zeros stay zero in every training.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    input_structure: structure.Spec  # kind "dict": parameter name -> nesting
    output_structure: structure.Spec
    notes: tuple[str, ...] = field(default=())
    samples: tuple[Sample, ...] = field(default=())  # how to make example inputs
    limits: CaptureLimits = field(default_factory=CaptureLimits)
    frozen: tuple[str, ...] = ()
    sparse: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return plain values, for the extra file inside a `.pt2`."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Interface:
        """Read back what `to_json` wrote.

        Raises:
            ValueError: names, sizes, types or nestings that are none.
        """

        def specs(items: Iterable[Mapping[str, Any]]) -> tuple[TensorSpec, ...]:
            return tuple(TensorSpec.from_json(item) for item in items)

        return cls(
            specs(data["inputs"]),
            specs(data["outputs"]),
            structure.checked(data["input_structure"]),
            structure.checked(data["output_structure"]),
            tuple(map(str, data["notes"])),
            tuple(Sample.from_json(item) for item in data.get("samples", ())),
            CaptureLimits.from_json(data.get("limits", {})),
            tuple(map(str, data.get("frozen", ()))),
            tuple(map(str, data.get("sparse", ()))),
        )

    @property
    def fixed_batch(self) -> int | None:
        """The number of examples in every call, where the batch is fixed: the first size of the first input; None where it is dynamic."""
        size = self.inputs[0].shape[0] if self.inputs and self.inputs[0].shape else None
        return size if isinstance(size, int) and not any("batch" in spec.shape for spec in self.inputs) else None

    def loading(self, batch_size: int) -> dict[str, Any]:
        """Return arguments of a `DataLoader` whose batches the program takes: of this size, or whole ones of the fixed size."""
        fixed = self.fixed_batch
        return {"batch_size": batch_size} if fixed is None else {"batch_size": fixed, "drop_last": True}

    def bind(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[Tensor]:
        """Return flat tensors from a call's arguments; positional and keyword arguments are interchangeable.

        Raises:
            BadInput: an argument is missing, unknown, or nested otherwise than at capture; another number of examples than a fixed batch has.
        """
        leaves = self._leaves(args, kwargs)
        fixed = self.fixed_batch
        if fixed is not None and leaves[0].dim() and leaves[0].shape[0] != fixed:
            raise BadInput(
                f"the program takes exactly {fixed} example{'s' * (fixed != 1)} in a call, since it was captured with dynamic_batch=False; "
                f"{leaves[0].shape[0]} were given. Set batch_size={fixed}, or capture a model that takes any number."
            )
        return leaves

    def _leaves(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[Tensor]:
        names: list[str] = self.input_structure["keys"]
        if (
            len(args) == 1
            and not kwargs
            and len(names) == 1
            and isinstance(args[0], Tensor)
            and self.input_structure["items"][0]["kind"] == "tensor"
        ):
            return [args[0]]
        if len(args) > len(names):
            raise BadInput(f"the model takes {len(names)} inputs ({', '.join(names)}); {len(args)} were given")
        given = dict(zip(names, args, strict=False)) | dict(kwargs)
        unknown = [name for name in given if name not in names]
        if unknown:
            raise BadInput(f"the model has no input '{unknown[0]}'; it was captured with {', '.join(names)}")
        leaves: list[Tensor] = []
        for name, spec in zip(names, self.input_structure["items"], strict=True):
            if name not in given and spec["kind"] == "const":
                continue
            if name not in given:
                raise BadInput(f"input '{name}' is missing; the model was captured with {', '.join(names)}")
            leaves.extend(structure.flatten(spec, given[name], name))
        return leaves


def signature(interface: Interface) -> inspect.Signature:
    """Return how a program is called: its inputs by name.

    An input that was a constant at capture has its value as default, unless a tensor stands behind it. Names that are no Python identifiers, as a file may
    have them, give `(*args, **kwargs)`.
    """
    either = inspect.Parameter.POSITIONAL_OR_KEYWORD
    names, specs = interface.input_structure["keys"], interface.input_structure["items"]
    last = max((place for place, spec in enumerate(specs) if spec["kind"] != "const"), default=-1)
    defaults = [spec["value"] if place > last else inspect.Parameter.empty for place, spec in enumerate(specs)]
    try:
        return inspect.Signature([inspect.Parameter(name, either, default=default) for name, default in zip(names, defaults, strict=True)])
    except ValueError:
        return _ANY


_ANY = inspect.Signature(
    [inspect.Parameter("args", inspect.Parameter.VAR_POSITIONAL), inspect.Parameter("kwargs", inspect.Parameter.VAR_KEYWORD)]
)


def argument_names(model: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[str]:
    """Return the names under which the arguments of this call are known: those of `forward`, numbered for `*args`."""
    signature = inspect.signature(model.forward)
    try:
        bound = signature.bind(*args, **kwargs)
    except TypeError as error:
        raise BadInput(f"{type(model).__name__}.forward{signature} cannot be called with this example: {error}") from error
    positional = []
    for name, value in bound.arguments.items():
        kind = signature.parameters[name].kind
        positional += [f"{name}_{i}" for i in range(len(value))] if kind is inspect.Parameter.VAR_POSITIONAL else [name]
    return [*positional[: len(args)], *kwargs]


def as_call(inputs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return positional and keyword arguments from the form in which inputs are written everywhere in Laconic.

    A mapping holds keyword arguments, a tuple or list positional ones; anything else is the one positional argument. A model whose
    forward takes a mapping is given it in a tuple: `({"pixels": x},)`.
    """
    if isinstance(inputs, Mapping):
        return (), dict(inputs)
    if isinstance(inputs, (tuple, list)):
        return tuple(inputs), {}
    return (inputs,), {}
