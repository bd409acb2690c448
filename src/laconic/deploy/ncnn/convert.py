"""The process that runs pnnx, ncnn's converter, on one ONNX file; see `write` for the other side. It imports neither torch nor a runtime but ncnn's."""

from __future__ import annotations

import re
import subprocess
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from laconic.core.errors import CorruptFile, ExportError
from laconic.deploy.child import Channel, answer_requests
from laconic.deploy.ncnn.param import Graph, squeezed, with_axes
from laconic.deploy.ncnn.runtime import NcnnSession, opened

_KINDS = {"float32": "f32", "int64": "i64", "int32": "i32", "bool": "u8"}
# How pnnx says that it left an operator in the graph for which ncnn has no layer.
_FOREIGN = re.compile(r"^ignore (\S+) \S+ param", re.M)


def convert(request: dict[str, Any], _: Channel) -> dict[str, Any]:
    """Turn `source` into `model.param` and `model.bin` beside it, and run them on the arrays `asked`.

    Raises:
        ExportError: an operator that ncnn has no layer for, by name; a shape that it cannot hold; what the converter said.
    """
    folder = Path(request["source"]).parent
    param, weights, python = folder / "model.param", folder / "model.bin", folder / "model_ncnn.py"
    shapes = [f"inputshape{end}={_shapes(request['inputs'], place)}" for place, end in enumerate(("", "2"))]
    command = [
        str(_converter()), request["source"], *shapes[: 1 + (shapes[0][10:] != shapes[1][11:])], f"fp16={int(request['half'])}", f"ncnnparam={param}",
        f"ncnnbin={weights}", f"ncnnpy={python}", *(f"pnnx{kind}={folder / 'pnnx'}.{kind}" for kind in ("param", "bin", "py", "onnx")),
    ]  # fmt: skip
    done = subprocess.run(command, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace")
    if done.returncode or not param.exists():
        raise ExportError(f"pnnx ended with code {done.returncode}: {_last(done.stdout + done.stderr)}")
    if foreign := sorted(set(_FOREIGN.findall(done.stdout + done.stderr))):
        raise ExportError(f"ncnn has no layer for {', '.join(foreign[:6])}")
    graph = with_axes(Graph.read(param), (folder / "pnnx.py").read_text(encoding="utf-8"))
    param.write_text(squeezed(graph, python.read_text(encoding="utf-8")).text(), encoding="utf-8")
    try:
        session = NcnnSession(opened(param, 1))
    except CorruptFile as error:
        raise ExportError(f"ncnn does not load what pnnx wrote: {_last(done.stderr) or error}") from error
    with np.load(request["asked"], allow_pickle=False) as asked:
        answers = session.run([asked[str(index)] for index in range(len(asked.files))])
    np.savez(request["answers"], **{str(index): array for index, array in enumerate(answers)})  # type: ignore[arg-type]
    return {}


def _shapes(inputs: list[tuple[list[list[int]], str]], place: int) -> str:
    return ",".join(f"[{','.join(map(str, sizes[place]))}]{_kind(kind)}" for sizes, kind in inputs)


def _kind(dtype: str) -> str:
    if dtype not in _KINDS:
        raise ExportError(f"ncnn takes inputs of {', '.join(_KINDS)}, not of {dtype}")
    return _KINDS[dtype]


def _converter() -> Path:
    """Return the program inside the package pnnx, whose Python part would import torch."""
    found = find_spec("pnnx")
    if found is None or found.origin is None:
        raise ExportError("the package pnnx is not installed: pip install 'laconic[ncnn]'")
    folder = Path(found.origin).parent
    return next((path for name in ("pnnx", "pnnx.exe") if (path := folder / name).exists()), folder / "pnnx")


def _last(text: str) -> str:
    """Return what a converter said last, without colors and the chatter of its parts."""
    plain = re.sub(r"\x1b\[[\d;]*m", "", text).splitlines()
    lines = [
        line.strip() for line in plain if line.strip() and not line.startswith("####") and not re.search(r" \.\.\. |EarlyWarning", line)
    ]
    return "; ".join(lines[-3:])[:400]


if __name__ == "__main__":
    answer_requests(convert)
