"""The commands of archives."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from laconic.cli.app import app
from laconic.cli.options import JsonOption
from laconic.cli.output import guarded, say, show

if TYPE_CHECKING:
    from laconic.storage.pack import Packed


@app.command()
def pack(
    model: Annotated[
        Path, typer.Argument(metavar="MODEL", help="A model file (.onnx, .pt2, .ts, .xla, .safetensors), or an artifact's folder.")
    ],
    out: Annotated[Path | None, typer.Option("--out", "-o", help="The archive. [default: beside MODEL, ending in .lac]")] = None,
    fast: Annotated[
        bool, typer.Option("--fast", help="Leave out the codings that are slow to read: sparse and shared weights take some percent more.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Pack a model file into the smallest archive from which it comes back byte by byte, and say what each tensor takes.

    Example: laconic pack model.onnx -o model.lac
    """

    def work() -> Packed:
        import laconic as lc
        from laconic.deploy.artifact import Artifact

        if not model.is_dir():
            return lc.pack(model, out, fast=fast)
        artifact = Artifact.open(model)
        return lc.pack(artifact.file, out, fast=fast, settings=artifact.settings)

    result = guarded(work)

    def table() -> Any:
        from laconic.core.records import to_json
        from laconic.report.listings import packed

        return packed(to_json(result))

    show(result, as_json, table)


@app.command()
def unpack(
    archive: Annotated[Path, typer.Argument(metavar="ARCHIVE", help="An archive (.lac).")],
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", "-o", help="The model file; or a folder, for an artifact as it is run. [default: beside ARCHIVE, with its own ending]"
        ),
    ] = None,
    most_bytes: Annotated[
        int | None,
        typer.Option("--max-bytes", min=1, help="Refuse an archive that unpacks to more. [default: 500 times its size, at least 256 MiB]"),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Restore the model file of an archive, byte by byte; or into a folder (OUT without ending) the artifact that was packed.

    Example: laconic unpack model.lac -o model.onnx
    """

    def work() -> Path:
        import laconic as lc
        from laconic.deploy.artifact import Artifact

        if out is None or not (out.is_dir() or not out.suffix):
            return lc.unpack(archive, out, most_bytes=most_bytes)
        if most_bytes is not None:
            raise lc.BadInput(f"--max-bytes: of a model file; {out} is a folder. Unpack the model file alone, with its ending.")
        return Artifact.open(archive).save(out)

    made = guarded(work)
    if as_json:
        show({"folder" if made.is_dir() else "file": str(made)}, as_json, str)
    else:
        say(f"{'Artifact' if made.is_dir() else 'Model'}: {made}", as_json)
