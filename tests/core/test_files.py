from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from laconic.core.errors import CorruptFile, LaconicError
from laconic.core.files import read_json, sha256, write_json, write_whole


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
