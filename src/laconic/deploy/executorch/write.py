"""Write `.pte` files: the parent's side. The converter's import is heavy and it changes global state, so it works in a process of its own."""

from __future__ import annotations

import tempfile
from pathlib import Path

from laconic.core.errors import BadInput, ExportError, WorkerFailed, nearest
from laconic.core.program import Program
from laconic.deploy.child import Child
from laconic.deploy.hold import command

TIMEOUT_S = 900.0
# name -> module and class of its partitioner, and the name under which the runtime has it. Not among them: Qualcomm's and OpenVINO's, which are made for one
# device's specification, and of which OpenVINO's import asks for the address of an analytics service (executorch 1.5.1).
BACKENDS = {
    "xnnpack": ("executorch.backends.xnnpack.partition.xnnpack_partitioner", "XnnpackPartitioner", "XnnpackBackend"),
    "vulkan": ("executorch.backends.vulkan.partitioner.vulkan_partitioner", "VulkanPartitioner", "VulkanBackend"),
}
# A file keeps memory for its largest inputs: so many examples, and so long where another size is dynamic.
MOST_EXAMPLES, MOST_LENGTH = 16, 512


def write_pte(program: Program, path: Path, name: str, *, backend: str = "xnnpack") -> None:
    """Write an ExecuTorch file for at most `MOST_EXAMPLES` examples a call.

    Args:
        program: in eval mode.
        path: of the file.
        name: that it will have in the end.
        backend: a name in `BACKENDS`; what it does not take runs in ExecuTorch's portable kernels.

    Raises:
        BadInput: an unknown backend.
        ExportError: an operator cannot be lowered, or the package lacks the backend's converter; says which.
    """
    if backend not in BACKENDS:
        raise BadInput(f"'{backend}' is not a backend of ExecuTorch." + nearest(backend, BACKENDS))
    with tempfile.TemporaryDirectory(prefix="laconic-executorch-") as folder:
        source = program.save(Path(folder) / "program.pt2")
        child = Child(command("laconic.deploy.executorch.convert"), timeout_s=TIMEOUT_S)
        try:
            child.ask({"source": str(source), "to": str(path), "backend": backend})
        except WorkerFailed as error:
            raise ExportError(f"the model cannot be lowered to ExecuTorch: {error}") from error
        finally:
            child.close()
