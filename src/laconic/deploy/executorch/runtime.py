"""ExecuTorch. Its Python binding takes tensors, so a worker imports torch; of executorch only the compiled part is loaded."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from laconic.core.errors import CorruptFile, need
from laconic.core.target import Target
from laconic.deploy.runtime import Runtime, Session, cores, installed

# The compiled part alone: the package's own door imports the converter, which takes seconds.
BINDING = "executorch.extension.pybindings._C"
METHOD = "forward"


class ExecuTorch(Runtime):
    """XNNPACK's kernels where they fit, ExecuTorch's portable ones elsewhere."""

    name = "executorch"
    title = "ExecuTorch"
    package = "executorch"
    format = "executorch"
    precisions = ("fp32",)
    quantizes = "executorch"
    promise = "low"
    aside = "it is for phones and boards, where this machine's times say little; --try executorch tries it"

    def available(self, precision: str = "fp32", device: str = "cpu") -> str | None:
        """See `Runtime.available`."""
        return self.lacking(precision, device, "executorch") or _unfit()

    def load(self, file: Path, target: Target) -> Session:
        """See `Runtime.load`."""
        binding = need(BINDING, "executorch")
        binding._unsafe_reset_threadpool(target.threads or cores())
        try:
            program = binding._load_program(str(file), program_verification=binding.Verification.InternalConsistency)
            return _Session(program.load_method(METHOD), program)
        except RuntimeError as error:
            raise CorruptFile(f"{file} is not a whole ExecuTorch file ({str(error).splitlines()[0][:200]}). Export it again.") from error

    def start_script(self, target: Target) -> str:
        """See `Runtime.start_script`."""
        return f"""\
import torch
from executorch.extension.pybindings import _C as executorch
executorch._unsafe_reset_threadpool({target.threads or cores()})
program = executorch._load_program(file)
method = program.load_method({METHOD!r})
outputs = [t.numpy() for t in method([torch.from_numpy(i) for i in inputs])]  # at most as many examples as the file was written for
"""


@cache
def _unfit() -> str | None:
    """Return why the package that is installed does not run beside this PyTorch; None if it does."""
    try:
        binding = need(BINDING, "executorch")
    except ImportError as error:
        told = str(error.__cause__ or error).splitlines()[0][:200]
        return f"executorch {installed('executorch')} does not load beside torch {torch.__version__}: {told}"
    return None if binding._is_available("XnnpackBackend") else "this build of executorch has no XNNPACK"


class _Session(Session):
    """Files are written for a largest number of examples; more of them are run in pieces."""

    def __init__(self, method: Any, program: Any) -> None:
        self._method, self._program = method, program  # the program owns the memory
        sizes = method.method_meta().input_tensor_meta(0).sizes()
        self._most = sizes[0] if sizes else 1

    def run(self, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        tensors = [torch.from_numpy(np.ascontiguousarray(array)) for array in inputs]
        count = tensors[0].shape[0] if tensors[0].dim() else 1
        if count <= self._most:
            return self._run(tensors)
        pieces = [self._run([tensor[start : start + self._most] for tensor in tensors]) for start in range(0, count, self._most)]
        return [np.concatenate(parts) for parts in zip(*pieces, strict=True)]

    def _run(self, tensors: list[torch.Tensor]) -> list[np.ndarray]:
        return [output.numpy() for output in self._method(tensors)]
