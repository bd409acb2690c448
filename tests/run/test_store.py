from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from laconic.core.errors import BadInput, CorruptFile, LaconicError, Locked
from laconic.run.store import RunStore, read_result

MANIFEST = {"task": "digits", "budget": {"max_drop": 0.5}}


def test_a_result_is_computed_once(tmp_path: Path) -> None:
    calls = []
    for _ in range(2):
        with RunStore(tmp_path / "run", MANIFEST) as store:
            assert store.once("a.json", lambda: calls.append(1) or {"x": 1}) == {"x": 1}
    assert calls == [1]


def test_the_same_run_is_continued_and_another_refused(tmp_path: Path) -> None:
    with RunStore(tmp_path, MANIFEST) as store:
        assert not store.resumed
        store.write("candidates/a/check.json", {})
    with RunStore(tmp_path, MANIFEST) as store:
        assert store.resumed
    with pytest.raises(BadInput, match="holds another run: its task is 'digits', this one's is 'mnist'"):
        RunStore(tmp_path, {**MANIFEST, "task": "mnist"})


def test_a_folder_with_other_things_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(BadInput, match=r"holds no run \(it has thesis.tex\)"):
        RunStore(tmp_path, MANIFEST)


def test_two_processes_on_one_folder(tmp_path: Path) -> None:
    code = f"import time\nfrom laconic.run.store import RunStore\ns = RunStore({str(tmp_path)!r}, {MANIFEST!r})\nprint('in', flush=True)\ntime.sleep(60)"
    other = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    try:
        assert other.stdout is not None
        assert other.stdout.readline() == "in\n"
        with pytest.raises(Locked, match=f"in use by process {other.pid} on "):
            RunStore(tmp_path, MANIFEST)
    finally:
        other.kill()
        other.wait()
        assert other.stdout is not None
        other.stdout.close()
    RunStore(tmp_path, MANIFEST).close()


def test_leftovers_of_a_kill_are_swept(tmp_path: Path) -> None:
    RunStore(tmp_path, MANIFEST).close()
    (tmp_path / ".writing-x.json").write_text("half")
    RunStore(tmp_path, MANIFEST).close()
    assert not (tmp_path / ".writing-x.json").exists()


@pytest.mark.parametrize(
    ("content", "words"), [("{", "not whole JSON"), ("[1]", "not a run's manifest"), ('{"format": 99, "run": {}}', "run format 99")]
)
def test_a_broken_or_newer_manifest(tmp_path: Path, content: str, words: str) -> None:
    (tmp_path / "run.json").write_text(content)
    with pytest.raises(CorruptFile, match=words):
        RunStore(tmp_path, MANIFEST)


def test_a_refused_folder_is_not_left_locked(tmp_path: Path) -> None:
    RunStore(tmp_path, MANIFEST).close()
    with pytest.raises(BadInput):
        RunStore(tmp_path, {"task": "other"})
    RunStore(tmp_path, MANIFEST).close()


def test_results_of_unfinished_and_absent_runs(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="holds no run"):
        read_result(tmp_path)
    with RunStore(tmp_path, MANIFEST) as store:
        with pytest.raises(BadInput, match="not finished"):
            read_result(tmp_path)
        store.write("result.json", {"format": 1})
        assert read_result(tmp_path) == {"format": 1}
        store.write("result.json", [1])
        with pytest.raises(CorruptFile, match="not a result"):
            read_result(tmp_path)


def as_nobody(code: str) -> subprocess.CompletedProcess[str]:
    """Run code without the superuser's right to write anywhere."""
    drop = "import os\nif os.getuid() == 0:\n    os.setgid(65534); os.setuid(65534)\n"
    return subprocess.run(
        [sys.executable, "-c", "import laconic.run.store, laconic.core.records\n" + drop + textwrap.dedent(code)],
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_read_only_folder_is_told_by_name(tmp_path: Path) -> None:
    folder = tmp_path / "locked"
    folder.mkdir()
    folder.chmod(0o555)
    done = as_nobody(f"laconic.run.store.RunStore({str(folder / 'run')!r}, {{}})")
    assert "cannot use the run folder" in done.stderr
    assert "Permission denied" in done.stderr


@pytest.fixture
def small_disk(tmp_path: Path) -> Path:
    """A disk of 64 KiB, where this machine lets us mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if (
        os.getuid() != 0
        or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", folder], capture_output=True, check=False).returncode
    ):
        pytest.skip("a small tmpfs cannot be mounted here (needs root)")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_a_full_disk_keeps_what_was_finished(small_disk: Path) -> None:
    with RunStore(small_disk / "run", MANIFEST) as store:
        store.write("first.json", {"x": 1})
        with pytest.raises(LaconicError, match=r"cannot write .*second\.json: No space left on device"):
            store.write("second.json", {"x": "y" * 200_000})
        assert store.read("first.json") == {"x": 1}
        assert not store.has("second.json")
