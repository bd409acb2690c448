"""ncnn. This file imports nothing but numpy and ncnn, so that a worker's cold start and memory are the runtime's own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar

import numpy as np

from laconic.core.errors import CorruptFile, need
from laconic.core.files import weights_beside
from laconic.core.target import Target
from laconic.deploy.runtime import Runtime, Session, cores, installed


class Ncnn(Runtime):
    """Its graphs know no batch: examples are run one by one."""

    name = "ncnn"
    title = "ncnn"
    package = "ncnn"
    format = "ncnn"
    precisions = ("fp32", "fp16-weights")
    formats: ClassVar[Mapping[str, str]] = MappingProxyType({"fp16-weights": "ncnn-fp16"})
    quantizes = "ncnn"
    promise = "low"
    aside = "it is for phones and boards, where this machine's times say little; --try ncnn tries it"

    def available(self, precision: str = "fp32", device: str = "cpu") -> str | None:
        """See `Runtime.available`."""
        return self.lacking(precision, device, "ncnn", "pnnx") or _unfit()

    def load(self, file: Path, target: Target) -> Session:
        """See `Runtime.load`."""
        return NcnnSession(opened(file, target.threads or cores()))

    def start_script(self, target: Target) -> str:
        """See `Runtime.start_script`."""
        return f"""\
import ncnn
net = ncnn.Net()
net.opt.num_threads = {target.threads or cores()}
net.opt.use_fp16_packed = net.opt.use_fp16_storage = net.opt.use_fp16_arithmetic = net.opt.use_bf16_storage = False
net.load_param(file)
net.load_model(str(Path(file).with_suffix(".bin")))
answers = []
for example in zip(*inputs):  # its graphs know no batch
    extractor = net.create_extractor()
    for i, array in enumerate(example):
        array = np.ascontiguousarray(array, np.int32 if array.dtype.kind in "iub" else np.float32)
        extractor.input(f"in{{i}}", ncnn.Mat(array).clone())
    answers.append([np.array(extractor.extract(f"out{{i}}")[1]) for i in range(len(net.output_names()))])
outputs = [np.stack(rows) for rows in zip(*answers)]
"""


def opened(file: Path, threads: int) -> Any:
    """Return a loaded `ncnn.Net`.

    Raises:
        CorruptFile: the graph or its weights are not whole, or a layer is none of this ncnn's.
    """
    net = need("ncnn", "ncnn").Net()
    net.opt.num_threads = threads
    net.opt.use_vulkan_compute = False
    # said explicitly: ncnn stores activations in 16 bits where it can, unless it is told not to
    net.opt.use_fp16_packed = net.opt.use_fp16_storage = net.opt.use_fp16_arithmetic = net.opt.use_bf16_storage = False
    weights = weights_beside(file)
    if file.stat().st_size == 0 or weights is None or not weights.exists():
        raise CorruptFile(f"{file} is empty, or its weights {weights and weights.name} are missing. Export it again.")
    if net.load_param(str(file)) != 0 or net.load_model(str(weights)) != 0:
        raise CorruptFile(f"{file} and {weights.name} are not a whole ncnn model. Export it again.")
    return net


@cache
def _unfit() -> str | None:
    """Return why the package that is installed does not load; None if it does."""
    try:
        need("ncnn", "ncnn")
    except ImportError as error:
        return f"ncnn {installed('ncnn')} does not load: {str(error.__cause__ or error).splitlines()[0][:200]}"
    return None


class NcnnSession(Session):
    """A loaded net."""

    def __init__(self, net: Any) -> None:
        self._net, self._mat = net, need("ncnn", "ncnn").Mat
        self._outputs = [f"out{index}" for index in range(len(net.output_names()))]

    def run(self, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        """See `Session.run`."""
        answers = [self._one(example) for example in zip(*map(_plain, inputs), strict=True)]
        return [np.stack(rows) for rows in zip(*answers, strict=True)]

    def _one(self, example: Sequence[np.ndarray]) -> list[np.ndarray]:
        extractor = self._net.create_extractor()
        for index, array in enumerate(example):
            extractor.input(f"in{index}", self._mat(array).clone())
        return [np.array(extractor.extract(name)[1]) for name in self._outputs]


def _plain(array: np.ndarray) -> np.ndarray:
    """Return numbers as ncnn takes them: floats or whole numbers of 32 bits."""
    return np.ascontiguousarray(array, np.int32 if array.dtype.kind in "iub" else np.float32)
