from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from laconic.core.errors import CorruptFile, LaconicError
from laconic.core.files import read_json, sha256, write_json, write_whole
from laconic.deploy.export import FORMATS


def test_a_failed_write_leaves_the_old_file_and_no_rubbish(tmp_path: Path) -> None:
    path = write_whole(tmp_path / "a.txt", "old")

    def broken(aside: Path) -> None:
        aside.write_text("half")
        raise RuntimeError("boom")

    with pytest.raises(RuntimeError, match="boom"):
        write_whole(path, broken)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_kill_in_the_middle_leaves_the_old_file(tmp_path: Path) -> None:
    path = write_whole(tmp_path / "a.txt", "old")
    code = (
        "import os, signal, sys\nfrom pathlib import Path\nfrom laconic.core.files import write_whole\n"
        "def write(aside):\n    aside.write_text('half')\n    os.kill(os.getpid(), signal.SIGKILL)\n"
        "write_whole(Path(sys.argv[1]), write)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], check=False)
    assert done.returncode == -9
    assert path.read_text() == "old"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_full_disk_is_told_with_the_files_name(tmp_path: Path) -> None:
    def full(aside: Path) -> None:
        with Path("/dev/full").open("w") as device:
            device.write("x" * 100_000)

    with pytest.raises(LaconicError, match=r"cannot write .*a\.txt: No space left on device"):
        write_whole(tmp_path / "a.txt", full)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(LaconicError, match="cannot write"):
        write_whole(tmp_path / "file" / "a.txt", "x")


def test_json_round_trip_and_half_a_file(tmp_path: Path) -> None:
    path = write_json(tmp_path / "a.json", {"x": (1, float("nan"))})
    assert read_json(path) == {"x": [1, None]}
    path.write_text(path.read_text()[:5])
    with pytest.raises(CorruptFile, match=r"a\.json is not whole JSON"):
        read_json(path)


def test_sha256_is_the_systems(tmp_path: Path) -> None:
    path = write_whole(tmp_path / "a.bin", os.urandom(3_000_000))
    assert sha256(path) == subprocess.run(["sha256sum", path], capture_output=True, text=True, check=True).stdout.split()[0]


@pytest.mark.parametrize("text", ["[" * 100_000, "1" * 10_000, '{"a": 1e', "\udcff"], ids=["deep", "digits", "half", "bytes"])
def test_json_that_python_cannot_hold_is_refused_by_name(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(CorruptFile, match=r"a\.json is not whole JSON"):
        read_json(tmp_path / "a.json")


WRITERS = """
import resource, sys, torch
from pathlib import Path
from laconic.core.capture import capture
from laconic.core.errors import LaconicError
from laconic.core.files import write_json, write_whole
from laconic.deploy.export import FORMATS, write_model
from laconic.train import checkpoint

net = torch.nn.Linear(64, 64)
program, folder = capture(net, torch.randn(2, 64)), Path(sys.argv[1])
writers = {kind: lambda kind=kind: write_model(program, folder, kind) for kind in FORMATS}
writers["checkpoint"] = lambda: checkpoint.save(folder, net, torch.optim.Adam(net.parameters()), {}, {})
writers["json"] = lambda: write_json(folder / "a.json", list(range(5000)))
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
for name, write in writers.items():
    try:
        write()
    except LaconicError as error:
        print(name, str(error).startswith("cannot write "), "File too large" in str(error), sorted(folder.iterdir()))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no limits of files there")
def test_no_writer_ends_the_process_where_the_disk_is_full(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", WRITERS, tmp_path], check=True, capture_output=True, text=True)
    assert done.stdout.splitlines() == [f"{name} True True []" for name in (*FORMATS, "checkpoint", "json")]
