"""Files are the same from run to run, and tell nothing of the machine that wrote them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from laconic.core.capture import capture
from laconic.core.target import Target
from laconic.deploy.runtime import runtime
from tests.core.models import ConvNet
from tests.deploy.formats import WRITABLE

NAMES = [name for name, _ in WRITABLE.values()]
ELSEWHERE = "import sys; from pathlib import Path; from tests.deploy.test_same_bytes import write; write(Path(sys.argv[1]))"


def write(folder: Path) -> Path:
    torch.manual_seed(0)
    program = capture(ConvNet(), torch.randn(2, 1, 12, 12))
    folder.mkdir()
    for name, save in WRITABLE.values():
        save(program, folder / name, name)
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("same")
    subprocess.run([sys.executable, "-c", ELSEWHERE, folder / "there"], check=True, cwd=Path(__file__).parents[2])
    write(folder / "before")  # what a process scripted before leaves no trace
    return write(folder / "here"), folder / "there"


@pytest.mark.parametrize("name", NAMES)
def test_another_process_writes_the_same_bytes(folders: tuple[Path, Path], name: str) -> None:
    here, there = ((folder / name).read_bytes() for folder in folders)
    assert here == there


@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_told_of_the_machine(folders: tuple[Path, Path], name: str) -> None:
    content = (folders[0] / name).read_bytes()
    for word in (str(folders[0].parent), str(Path(__file__).parents[2]), str(Path(torch.__file__).parent), "stack_trace", ".debug_pkl"):
        assert word.encode() not in content, word


def test_torchscript_answers_as_before(folders: tuple[Path, Path]) -> None:
    torch.manual_seed(0)
    net, x = ConvNet().eval(), torch.randn(3, 1, 12, 12)
    (answer,) = runtime("torchscript").load(folders[0] / "model.ts", Target("torchscript", threads=1)).run([x.numpy()])
    assert torch.allclose(torch.from_numpy(answer), net(x), atol=1e-6)


def test_the_exporters_table_is_made_once_and_given_back(
    folders: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torch.onnx._internal.exporter import _registration

    registry = _registration.ONNXRegistry
    before = vars(registry)["from_torchlib"]
    monkeypatch.setattr(_registration.onnxscript_apis, "get_torchlib_ops", lambda: pytest.fail("it was made anew"))
    assert (write(tmp_path / "again") / NAMES[0]).read_bytes() == (folders[0] / NAMES[0]).read_bytes()
    assert vars(registry)["from_torchlib"] is before
    with pytest.raises(pytest.fail.Exception):
        registry.from_torchlib()
