"""An artifact: the file that ships, and beside it its target, its lineage and a script that runs it without Laconic."""

from __future__ import annotations

import atexit
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch

from laconic.core import packed, structure
from laconic.core.arena import arenas
from laconic.core.errors import BadInput, CorruptFile, need
from laconic.core.fields import typed
from laconic.core.files import read_json, sha256, weights_beside, write_json, write_whole
from laconic.core.graph import without_unused
from laconic.core.program import Interface, Program, TensorSpec, as_program
from laconic.core.reading import reads
from laconic.core.records import Measurement, to_json
from laconic.core.target import Target
from laconic.deploy.answer import answer, interface_of
from laconic.deploy.export import FORMATS, check_shippable, write_model
from laconic.deploy.ncnn.param import MAGIC
from laconic.deploy.numerics import of_file
from laconic.deploy.onnx_file import check_claims
from laconic.deploy.portable import arena_of, ram_of
from laconic.deploy.runtime import Session, default_for, runtime
from laconic.deploy.script import script
from laconic.deploy.xla.file import about

FORMAT = 2  # 1 called the target settings
CARD = "artifact.json"
SCRIPT = "run.py"
# The first format of a model file by its ending. A bare one is run with the first runtime that reads it until somebody says otherwise.
SUFFIXES: dict[str, str] = {}
for _kind, (_name, _) in FORMATS.items():
    SUFFIXES.setdefault(Path(_name).suffix, _kind)

# How files begin that are neither ONNX nor zip archives.
_HEADS: dict[str, Callable[[bytes], bool]] = {".pte": lambda head: head[4:6] == b"ET", ".param": lambda head: head[:7] == MAGIC.encode()}


@dataclass(frozen=True)
class Artifact:
    """A model file that ships, with what is known of it.

    Attributes:
        file: the model file.
        target: how it is run.
        inputs: its flat inputs; empty where a bare file does not say.
        outputs: its flat outputs.
        lineage: where it came from: recipe, digests, outcomes of the steps.
        size_bytes: of the model file (and its weights, where they lie in a second file).
        sha256: of the model file.
        input_structure: how its inputs are nested in a call (see `core.structure`); None where a bare file does not say.
        output_structure: likewise its answer.
        packed: the archive that ships in place of the file, from which it was restored here; None where the file itself ships. A process that runs it restores
            it too, within its cold start.
        arena: bytes of static memory for one example by precision (`core.arena`); empty where a bare file or an older card does not say.
        trusted: whether whoever made it is trusted: it was exported by this process, or opened with `trust=True`. Of no matter where files are data.
    """

    file: Path
    target: Target
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    size_bytes: int
    sha256: str
    lineage: Mapping[str, Any] = field(default_factory=dict)
    input_structure: structure.Spec | None = None
    output_structure: structure.Spec | None = None
    packed: Path | None = field(default=None, kw_only=True)
    arena: Mapping[str, Measurement] = field(default_factory=dict, compare=False, kw_only=True)
    trusted: bool = field(default=True, compare=False, kw_only=True)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Answer as the model did: inputs by place or by name (or one mapping of names), NumPy arrays or PyTorch tensors, and answers of the same kind.

        The first call loads the file into its runtime. PyTorch's runtimes compute with the threads of this process (`torch.set_num_threads`), the others with
        those of the target.

        Raises:
            BadInput: inputs that the file does not take; a runtime that cannot run here; a file that is code (`check_trusted`).
        """
        return answer(self.session, interface_of(self.inputs, self.outputs, self.input_structure, self.output_structure), args, kwargs)

    @cached_property
    def session(self) -> Session:
        """The file, loaded into its runtime, for flat lists of arrays."""
        self.check_trusted()
        one = runtime(self.target.runtime)
        why = one.available(self.target.precision, self.target.device)
        if why is not None:
            raise BadInput(f"{self.target.runtime} in {self.target.precision} on {self.target.device} cannot run here: {why}")
        threads = torch.get_num_threads()
        try:
            return one.load(self.file, self.target)
        finally:
            torch.set_num_threads(threads)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "session"}

    @property
    def folder(self) -> Path:
        """The folder that holds it."""
        return self.file.parent

    @property
    def format(self) -> str:
        """Of the model file, a name in `export.FORMATS`."""
        return _format(self.file, self.target)

    @property
    def numerics(self) -> str:
        """What it computes with, as its file shows: ``int8`` where it rounds to integers, else the precision of its target."""
        return of_file(self.file, self.target.precision)

    @property
    def ram(self) -> Measurement:
        """Bytes of static memory for one example, as its graph needs them in its precision; unknown, and why."""
        return ram_of(self.arena, self.target.precision)

    @property
    def settings(self) -> dict[str, Any]:
        """How it is run and called, in plain values, as an archive keeps it: neither what its file tells, nor where it came from."""
        target = {name: value for name, value in asdict(self.target).items() if value is not None}
        nesting = {"input_structure": self.input_structure, "output_structure": self.output_structure}
        specs = {} if self.format in _SPECS else {"inputs": self.inputs, "outputs": self.outputs}
        return dict(to_json({"target": target, **{name: value for name, value in nesting.items() if value is not None}, **specs}))

    @classmethod
    @reads("an artifact", "Export it again.")
    def open(cls, path: str | Path, *, trust: bool = False) -> Artifact:
        """Open an artifact's folder, its model file or an archive of it (`.lac`), without running it. A model file without a card is opened with defaults.

        An archive is restored into a folder of its own, which is deleted when this process ends.

        Args:
            path: the folder or the file.
            trust: whoever made it may run code here; see `check_trusted`.

        Raises:
            BadInput: there is none, or it is of no known kind.
            CorruptFile: the file is not what its card says, or not a model file at all.
        """
        return replace(cls._open(Path(path)), trusted=trust)

    @classmethod
    def _open(cls, path: Path) -> Artifact:
        if path.is_dir():
            if not (path / CARD).exists():
                raise BadInput(
                    f"{path} is not an artifact's folder: it has no {CARD}. Give the folder that `laconic optimize` printed, or a model file."
                )
            return _open_card(path / CARD)
        if not path.is_file():
            raise BadInput(f"there is no artifact {path}")
        if path.suffix in packed.TABLE:
            return _open_packed(path)
        if path.suffix not in SUFFIXES:
            raise BadInput(f"{path} is not a model file that Laconic runs; it runs {', '.join((*SUFFIXES, *packed.TABLE))}")
        card = path.parent / CARD
        if card.exists() and read_json(card).get("file") == path.name:
            return _open_card(card)
        return _open_bare(path)

    @staticmethod
    def load(path: str | Path, *, trust: bool = False) -> Artifact:
        """Open an artifact as `open` does and load it into its runtime at once, ready to be called."""
        artifact = Artifact.open(path, trust=trust)
        _ = artifact.session
        return artifact

    def check_trusted(self) -> None:
        """Refuse to run a file that is code, and of which nobody said that it may.

        Raises:
            BadInput: says why, and how to say so.
        """
        one = runtime(self.target.runtime)
        if one.runs_code and not self.trusted:
            raise BadInput(
                f"{self.file} is not run: {one.runs_code}. If you made it or trust who did, say so with --trust (in Python trust=True); from others ask for "
                "ONNX or .pt2, which Laconic opens without running code of theirs."
            )

    def with_target(self, **changes: Any) -> Artifact:
        """Return the same file run otherwise: in another runtime of its format, precision, number of threads; None changes nothing.

        Raises:
            BadInput: the runtime reads another format.
        """
        target = replace(self.target, **{name: value for name, value in changes.items() if value is not None})
        wanted = runtime(target.runtime).format_in(target.precision)
        if wanted != self.format:
            raise BadInput(f"{target.runtime} in {target.precision} reads {wanted} files; {self.file} is {self.format}")
        return replace(self, target=target)

    def save(self, path: str | Path) -> Path:
        """Copy the model file (and its external weights, if any) to `path`; it appears whole. A path that ends in `.lac` gets the file in the fewest bytes.

        A path without ending becomes a folder, with the card and the script that runs the file.

        Raises:
            BadInput: another ending than the file's, or a folder that holds something else.
        """
        path = Path(path)
        if path.is_dir() or not path.suffix:
            if path.is_dir() and any(path.iterdir()) and not (path / CARD).exists():
                raise BadInput(f"{path} is not empty and holds no artifact; nothing in it was changed. Choose a new folder.")
            interface = interface_of(self.inputs, self.outputs, self.input_structure, self.output_structure)
            return pack(self.file, interface, path, self.target, self.lineage, self.arena).folder
        if path.suffix in packed.TABLE:
            packed.TABLE[path.suffix].pack(self.file, path, self.settings)
            return path
        if path.suffix != self.file.suffix:
            raise BadInput(f"the artifact is {self.file.suffix}, not {path.suffix}: save it as {path.with_suffix(self.file.suffix)}")
        _copy_weights(self.file, path)
        return write_whole(path, lambda aside: shutil.copyfile(self.file, aside))


def save_artifact(program: Program, folder: str | Path, target: Target, lineage: Mapping[str, Any]) -> Artifact:
    """Lower a program to the format of the target's runtime and write the artifact's folder."""
    folder = Path(folder)
    file = write_model(program, folder, runtime(target.runtime).format_in(target.precision))
    return _finish(file, program.interface, target, lineage, arenas(program))


def pack(
    file: Path,
    interface: Interface,
    folder: Path,
    target: Target,
    lineage: Mapping[str, Any],
    arena: Mapping[str, Measurement] = MappingProxyType({}),
) -> Artifact:
    """Write the artifact's folder around a model file that exists; where the disk allows it the file is linked, not copied."""
    _copy_weights(file, folder / file.name)
    write_whole(folder / file.name, lambda aside: _link(file, aside))
    return _finish(folder / file.name, interface, target, lineage, arena)


@typed("program")
def export(
    program: Program, path: str | Path, *, runtime: str | None = None, precision: str = "fp32", threads: int | None = None
) -> Artifact:
    """Write a program as a model file of the kind that `path` ends in (.onnx, .pt2, .ts, .pte, .param, .xla), with its card and its script beside it.

    Parameters that no output depends on, such as those of an auxiliary head in evaluation, are left out.

    Raises:
        BadInput: another ending; no program; one that changes its own buffers, or that is not in float32.
        ExportError: an operator cannot be lowered; names it.
    """
    check_shippable(as_program(program, "export"))
    path = Path(path)
    if path.suffix not in SUFFIXES:
        raise BadInput(f"{path}: a model file ends in {', '.join(SUFFIXES)}")
    target = Target(runtime or default_for(SUFFIXES[path.suffix]), precision, threads)
    shipped, write = without_unused(program), FORMATS[_format(path, target)][1]
    write_whole(path, lambda aside: write(shipped, aside, path.name))
    return _finish(path, program.interface, target, {"program": program.fingerprint()}, arenas(shipped))


def _format(file: Path, target: Target) -> str:
    """Return the format of a file: that of its target's precision where files of that ending differ by it."""
    own = runtime(target.runtime).format_in(target.precision)
    return own if Path(FORMATS[own][0]).suffix == file.suffix else SUFFIXES[file.suffix]


def _finish(file: Path, interface: Interface, target: Target, lineage: Mapping[str, Any], arena: Mapping[str, Measurement]) -> Artifact:
    nesting = (interface.input_structure, interface.output_structure)
    artifact = Artifact(file, target, interface.inputs, interface.outputs, _size(file), _digest(file), dict(lineage), *nesting, arena=arena)
    write_whole(file.parent / SCRIPT, script(file.name, target, interface.inputs, interface.outputs))
    card = {
        "format": FORMAT,
        "file": file.name,
        "sha256": artifact.sha256,
        "size_bytes": artifact.size_bytes,
        "target": asdict(target),
        "numerics": artifact.numerics,
        "inputs": artifact.inputs,
        "outputs": artifact.outputs,
        "input_structure": interface.input_structure,
        "output_structure": interface.output_structure,
        "arena": arena,
        "lineage": to_json(lineage),
    }
    write_json(file.parent / CARD, card)
    return artifact


def _open_card(card: Path) -> Artifact:
    told = read_json(card)
    if not isinstance(told, dict) or not {"format", "file", "sha256"} <= set(told) or not {"target", "settings"} & set(told):
        raise CorruptFile(f"{card} is not an artifact's card. Export the artifact again.")
    if told["format"] > FORMAT:
        raise CorruptFile(f"{card} has format {told['format']}; this Laconic reads up to {FORMAT}. Install a newer Laconic.")
    file = card.parent / told["file"]
    if file.parent != card.parent or file.suffix not in SUFFIXES:
        raise CorruptFile(f"{card} names the file '{told['file']}', which is not a model file beside it")
    if not file.exists():
        raise CorruptFile(f"{file} is missing, and {card} says that it is there. Export the artifact again.")
    check_kind(file)
    digest = _digest(file)
    if digest != told["sha256"]:
        raise CorruptFile(
            f"{file} is not the file that was exported (its SHA-256 begins with {digest[:12]}, not {told['sha256'][:12]}). Export it again."
        )
    inputs, outputs = _specs(told["inputs"]), _specs(told["outputs"])
    target = Target(**told["target" if "target" in told else "settings"])
    nesting = (_nesting(card, told, "input_structure", inputs), _nesting(card, told, "output_structure", outputs))
    return Artifact(file, target, inputs, outputs, told["size_bytes"], digest, told["lineage"], *nesting, arena=arena_of(told))


def _nesting(card: Path, told: Mapping[str, Any], key: str, specs: Sequence[TensorSpec]) -> structure.Spec | None:
    """Return how inputs or outputs are nested, checked against their number; None where an older card does not say."""
    spec = told.get(key)
    try:
        if spec is None or len(list(structure.places(spec, ""))) == len(specs):
            return spec
    except (KeyError, TypeError, AttributeError, RecursionError):
        pass
    raise CorruptFile(f"{card} does not nest its {key.partition('_')[0]}s as the file has them. Export the artifact again.")


def _open_packed(archive: Path) -> Artifact:
    folder = Path(tempfile.mkdtemp(prefix="laconic-restored-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    file, told = packed.TABLE[archive.suffix].restore(archive, folder)
    if file.suffix not in SUFFIXES:
        raise BadInput(
            f"{archive} holds a {file.suffix} file, which Laconic does not run; it runs {', '.join(SUFFIXES)}. Unpack it: laconic unpack {archive}"
        )
    bare = _open_bare(file)
    inputs, outputs = (_specs(told[key]) if key in told else getattr(bare, key) for key in ("inputs", "outputs"))
    nesting = [_nesting(archive, told, key, specs) for key, specs in (("input_structure", inputs), ("output_structure", outputs))]
    target = Target(**told["target"]) if "target" in told else bare.target
    size = archive.stat().st_size
    about = replace(bare, target=target, inputs=inputs, outputs=outputs, size_bytes=size, packed=archive)
    return replace(about, input_structure=nesting[0], output_structure=nesting[1])


def _specs(told: Sequence[Mapping[str, Any]]) -> tuple[TensorSpec, ...]:
    return tuple(TensorSpec(item["name"], tuple(item["shape"]), item["dtype"]) for item in told)


def _open_bare(file: Path) -> Artifact:
    check_kind(file)
    kind = SUFFIXES[file.suffix]
    inputs, outputs = _SPECS[kind](file) if kind in _SPECS else ((), ())
    return Artifact(file, Target(default_for(kind)), inputs, outputs, _size(file), _digest(file))


def check_kind(file: Path) -> None:
    """Refuse a file that is not what its ending says.

    Raises:
        CorruptFile: empty, truncated, a pickle, or another kind of file.
    """
    with file.open("rb") as handle:
        head = handle.read(8)
    zipped = head[:4] == b"PK\x03\x04"
    if not head or head[:1] == b"\x80" or (zipped and file.suffix == ".onnx"):
        what = "empty" if not head else "a pickle or another archive, not a model file"
        raise CorruptFile(f"{file} is {what}. It is not opened; export the model again.")
    if file.suffix == ".onnx":
        _onnx_specs(file)
    elif not (_HEADS[file.suffix](head) if file.suffix in _HEADS else zipped):
        raise CorruptFile(f"{file} is not a {file.suffix} file. Export the model again.")


def _onnx_specs(file: Path) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    onnx = need("onnx")
    try:
        model = onnx.load(str(file), load_external_data=False)
        check_claims(model)
        onnx.checker.check_model(str(file) if _external(file) else model)
    except (onnx.checker.ValidationError, ValueError, need("google.protobuf.message").DecodeError) as error:
        raise CorruptFile(f"{file} is not a whole ONNX file ({str(error).splitlines()[0][:200]}). Export it again.") from error
    constants = {item.name for item in model.graph.initializer}
    inputs = tuple(_spec(onnx, value) for value in model.graph.input if value.name not in constants)
    return inputs, tuple(_spec(onnx, value) for value in model.graph.output)


def _spec(onnx: Any, value: Any) -> TensorSpec:
    kind = value.type.tensor_type
    dims = tuple(dim.dim_value if dim.HasField("dim_value") else dim.dim_param or "batch" for dim in kind.shape.dim)
    return TensorSpec(value.name, dims, str(onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type)))


def _pt2_specs(file: Path) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    program = Program.load(file)
    return program.inputs, program.outputs


# Formats whose files tell their inputs and outputs.
_SPECS: dict[str, Callable[[Path], tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]]] = {
    "onnx": _onnx_specs,
    "pt2": _pt2_specs,
    "xla": lambda file: about(file)[:2],
}


def _external(file: Path) -> list[Path]:
    """Return the second file, in which ONNX keeps large weights and ncnn all of them, if there is one."""
    beside = weights_beside(file)
    return [beside] if beside is not None and beside.exists() else []


def _copy_weights(file: Path, to: Path) -> None:
    """Copy the external weights of a model file, if any, beside where it will be; another model that is there is not left with weights that are not its own.

    They are not linked: ONNX refuses external weights with more than one link.
    """
    for source in _external(file):
        if not (to.exists() and to.samefile(file)):
            to.unlink(missing_ok=True)
            target = (
                weights_beside(to) if file.suffix == ".param" else to.parent / source.name
            )  # an ONNX file tells the name of its weights
            assert target is not None
            write_whole(target, lambda aside, source=source: shutil.copyfile(source, aside))  # type: ignore[misc]


def _digest(file: Path) -> str:
    """Return the SHA-256 of the model file; where it has external weights, of both digests."""
    digests = [sha256(part) for part in (file, *_external(file))]
    return digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()


def _size(file: Path) -> int:
    return sum(item.stat().st_size for item in (file, *_external(file)))


def _link(source: Path, aside: Path) -> None:
    aside.unlink()
    try:
        os.link(source, aside)
    except OSError:
        shutil.copyfile(source, aside)
