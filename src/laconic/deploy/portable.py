"""An artifact as it travels: its folder, read from the card alone, on a machine that has what the model file needs and no PyTorch."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from laconic.core.errors import BadInput, CorruptFile
from laconic.core.files import read_json, sha256
from laconic.core.machine_record import measurement_from_plain
from laconic.core.reading import reads
from laconic.core.records import Measurement
from laconic.core.spec import TensorSpec
from laconic.core.target import Target
from laconic.deploy.runtime import runtime

CARD, SCRIPT = "artifact.json", "run.py"  # beside the model file


@dataclass(frozen=True)
class Portable:
    """What runs and times a model file needs to be known of it.

    Attributes:
        file: the model file.
        beside: further files that it reads, as weights of their own.
        target: how it is run.
        inputs: its flat inputs.
        size_bytes: of the file and those beside.
        sha256: as the card has it, checked against the files.
        numerics: what it computes with, as its card says: `int8`, `fp32`, …
        arena: bytes of static memory for one example by precision, as the card has them.
        trusted: whoever made it may run code here; see `Artifact.check_trusted`.
    """

    file: Path
    beside: tuple[Path, ...]
    target: Target
    inputs: tuple[TensorSpec, ...]
    size_bytes: int
    sha256: str
    numerics: str
    trusted: bool = False
    packed: Path | None = None
    arena: Mapping[str, Measurement] = field(default_factory=dict)

    @classmethod
    @reads("an artifact", "Export it again.")
    def of(cls, folder: Path, *, trust: bool = False) -> Portable:
        """Read an artifact's folder.

        Raises:
            BadInput: there is no card in it.
            CorruptFile: the card is not one, or the files are not those that it names.
        """
        card = Path(folder) / CARD
        if not card.exists():
            raise BadInput(
                f"{folder} is not an artifact's folder: it has no {CARD}. Give the folder that `laconic optimize` or `export` wrote."
            )
        told = read_json(card)
        file = card.parent / str(told["file"])
        if file.parent != card.parent or file.name in (CARD, SCRIPT):
            raise CorruptFile(f"{card} names the file '{told['file']}', which is not a model file beside it")
        if not file.is_file():
            raise CorruptFile(f"{file} is missing, and {card} says that it is there. Export the artifact again.")
        others = sorted(path for path in card.parent.iterdir() if path.is_file() and path.name not in (CARD, SCRIPT, file.name))
        beside = next((parts for parts in ((), tuple(others)) if _digest((file, *parts)) == told["sha256"]), None)
        if beside is None:
            raise CorruptFile(f"{file} is not the file that was exported: its SHA-256 is another. Export it again.")
        target, inputs = Target(**told["target" if "target" in told else "settings"]), tuple(_spec(item) for item in told["inputs"])
        size = sum(path.stat().st_size for path in (file, *beside))
        numerics = str(told.get("numerics") or target.precision)
        return cls(file, beside, target, inputs, size, str(told["sha256"]), numerics, trust, arena=arena_of(told))

    @property
    def ram(self) -> Measurement:
        """Bytes of static memory for one example, as its graph needs them in its precision; unknown, and why."""
        return ram_of(self.arena, self.target.precision)

    @property
    def files(self) -> tuple[Path, ...]:
        """What must travel: the card, the model file, and what lies beside it."""
        return (self.file.parent / CARD, self.file, *self.beside)

    def with_target(self, **changes: Any) -> Portable:
        """Return the same file run otherwise; None changes nothing.

        Raises:
            BadInput: the runtime reads another format.
        """
        target = replace(self.target, **{name: value for name, value in changes.items() if value is not None})
        before, after = (runtime(one.runtime).format_in(one.precision) for one in (self.target, target))
        if before != after:
            raise BadInput(f"{target.runtime} in {target.precision} reads {after} files; {self.file} is {before}")
        return replace(self, target=target)

    def refusal(self) -> str | None:
        """Return why it is not run here: a file that is code and not trusted, a runtime or device that is not here; None where it is."""
        one = runtime(self.target.runtime)
        if one.runs_code and not self.trusted:
            return f"{one.runs_code}. If you made it or trust who did, say so with --trust"
        why = one.available(self.target.precision, self.target.device)
        return None if why is None else f"{self.target.runtime} with {self.target.precision} on {self.target.device} cannot run: {why}"


def ram_of(arena: Mapping[str, Measurement], precision: str) -> Measurement:
    """Return bytes of static memory in a precision; unknown where a card does not say."""
    return arena.get(precision) or Measurement.missing("B", "unknown: the graph is not known, only its file; an artifact's card tells it")


def arena_of(card: Mapping[str, Any]) -> dict[str, Measurement]:
    """Read what a card tells of static memory, by precision; nothing of an older card.

    Raises:
        ValueError: it is no figure.
    """
    told = card.get("arena") or {}
    return {str(precision)[:20]: measurement_from_plain(told, precision) for precision in told}


def _digest(parts: tuple[Path, ...]) -> str:
    """As artifacts have it: of one file its SHA-256, of several that of theirs."""
    digests = [sha256(part) for part in parts]
    return digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()


def _spec(told: Mapping[str, Any]) -> TensorSpec:
    name, shape = told["name"], tuple(told["shape"])
    if not isinstance(name, str) or not all(isinstance(size, str) or (type(size) is int and size >= 0) for size in shape):
        raise ValueError(f"no tensor: {name!r} of the shape {shape!r}")
    return TensorSpec(name, shape, np.dtype(told["dtype"]).name)
