"""ncnn's graphs: text, a layer a line (Tencent/ncnn, docs/developer-guide/param-and-model-file-structure.md)."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path

MAGIC = "7767517"


@dataclass(frozen=True)
class Layer:
    """A line: what it is, its name, the blobs that it reads and makes, and its numbered options as they are written."""

    kind: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    options: tuple[str, ...] = ()

    def text(self) -> str:
        """Return the line."""
        counts = (str(len(self.inputs)), str(len(self.outputs)))
        return " ".join((f"{self.kind:24}", f"{self.name:24}", *counts, *self.inputs, *self.outputs, *self.options))

    def with_option(self, number: int, value: int) -> Layer:
        """Return the layer with one more option."""
        return replace(self, options=(*self.options, f"{number}={value}"))

    def option(self, number: int) -> int:
        """Return an option that is a whole number; 0 where it is not written."""
        found = [text.partition("=")[2] for text in self.options if text.startswith(f"{number}=")]
        return int(found[0]) if found else 0


@dataclass(frozen=True)
class Graph:
    """The layers, in the order in which they run."""

    layers: tuple[Layer, ...]

    @classmethod
    def read(cls, path: Path) -> Graph:
        """Read a file.

        Raises:
            ValueError: it is none.
        """
        lines = path.read_text(encoding="utf-8").splitlines()
        if not lines or lines[0].strip() != MAGIC:
            raise ValueError(f"{path} is not the graph of ncnn")
        return cls(tuple(_layer(line.split()) for line in lines[2:] if line.strip()))

    def text(self) -> str:
        """Return the file's content."""
        blobs = {name for layer in self.layers for name in layer.outputs}
        return "\n".join([MAGIC, f"{len(self.layers)} {len(blobs)}", *(layer.text() for layer in self.layers)]) + "\n"


def _layer(words: list[str]) -> Layer:
    kind, name, reads, makes, *rest = words
    last = int(reads) + int(makes)
    return Layer(kind, name, tuple(rest[: int(reads)]), tuple(rest[int(reads) : last]), tuple(rest[last:]))


def with_axes(graph: Graph, script: str) -> Graph:
    """Return a graph of which no reduction has an empty list of axes, as pnnx writes for an axis that stands alone and in no list.

    Args:
        graph: as pnnx wrote it.
        script: the model in Python that pnnx wrote beside it, which tells these axes in their order; its first one, the batch, is none of an example's.
    """
    empty = [layer for layer in graph.layers if layer.kind == "Reduction" and _NO_AXES in layer.options]
    axes = [int(axis) for axis in _ALONE.findall(script)]
    if len(empty) != len(axes):
        return graph
    told = {layer.name: f"-23303=1,{axis - (axis > 0)}" for layer, axis in zip(empty, axes, strict=True)}
    layers = [
        replace(layer, options=tuple(told[layer.name] if text == _NO_AXES else text for text in layer.options))
        if layer.name in told
        else layer
        for layer in graph.layers
    ]
    return Graph(tuple(layers))


def squeezed(graph: Graph, script: str) -> Graph:
    """Return a graph of which no input and no output has a batch, so that whoever runs it need not know which of them had.

    Args:
        graph: as pnnx wrote it.
        script: the Python that pnnx wrote beside it, which tells `batch_index=0` of a blob without its batch.
    """
    given = {blob for layer in graph.layers if layer.kind == "Input" for blob in layer.outputs}
    made = {blob for layer in graph.layers for blob in layer.outputs if re.fullmatch(r"out\d+", blob)}
    kept = {blob for blob in given if not re.search(rf'input\("{blob}".*batch_index=0', script)}
    ends = {blob for blob in made if not re.search(rf"\b{blob}\.numpy\(batch_index=0", script)}
    layers: list[Layer] = []
    for layer in graph.layers:
        reads = tuple(_batched(blob) if blob in kept | ends else blob for blob in layer.inputs)
        makes = tuple(_batched(blob) if blob in ends else blob for blob in layer.outputs)
        layers.append(replace(layer, inputs=reads, outputs=makes))
        layers += [Layer("ExpandDims", f"batch_{blob}", (blob,), (_batched(blob),), (_FIRST,)) for blob in layer.outputs if blob in kept]
        layers += [Layer("Squeeze", f"batch_{blob}", (_batched(blob),), (blob,), (_FIRST,)) for blob in layer.outputs if blob in ends]
    return Graph(tuple(layers))


_NO_AXES, _FIRST = "-23303=0", "-23303=1,0"  # the option `axes`: none, and the first one
_ALONE = re.compile(r"= torch\.(?:mean|sum|prod|amax|amin|logsumexp)\(\w+, dim=(-?\d+)\b")


def _batched(blob: str) -> str:
    return f"{blob}_batch"
