from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

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


@pytest.mark.parametrize(
    ("part", "before", "now", "told"),
    [
        ("data", {"train": "a", "valid": "b"}, {"train": "a", "valid": "c"}, r"the data has changed \(valid\)"),
        ("data", {"valid": "b"}, {"valid": "b", "test": "c"}, r"the data has changed \(test\)"),
        ("code", {"loss": "a", "model": "b"}, {"loss": "c", "model": "d"}, r"the code of the task has changed \(loss, model\)"),
        ("model", "a", "b", "the model's parameters have changed. What"),
    ],
)
def test_the_same_run_with_other_content_is_refused_by_name(tmp_path: Path, part: str, before: Any, now: Any, told: str) -> None:
    RunStore(tmp_path, {**MANIFEST, part: before}).close()
    with pytest.raises(BadInput, match=f"holds this run as it began, but since then {told}"):
        RunStore(tmp_path, {**MANIFEST, part: now})
    with pytest.raises(BadInput, match="holds another run: its task is"):
        RunStore(tmp_path, {**MANIFEST, part: now, "task": "other"})


STRANGERS: dict[str, Callable[[Path], object]] = {
    "a file": lambda folder: (folder / "thesis.tex").write_text("all of it"),
    "a hidden file": lambda folder: (folder / ".writing-thesis.tex").write_text("all of it"),
    "a folder": lambda folder: (folder / "src").mkdir(),
    "a hidden folder": lambda folder: (folder / ".writing-me").mkdir(),
    "another lock": lambda folder: (folder / "lock").write_text("apt"),
    "a lock of a folder": lambda folder: (folder / "lock").mkdir(),
    "a lock that is a link": lambda folder: (folder / "lock").symlink_to(folder.parent / "precious"),
    "a lock that is a dead link": lambda folder: (folder / "lock").symlink_to(folder.parent / "nowhere"),
    "a lock that is a hard link": lambda folder: (folder / "lock").hardlink_to(folder.parent / "precious"),
    "a lock that is a pipe": lambda folder: os.mkfifo(folder / "lock"),
    "another manifest": lambda folder: (folder / "run.json").write_text('{"scripts": {}}'),
    "another format": lambda folder: (folder / "run.json").write_text('{"format": "a", "run": 3}'),
    "another run": lambda folder: (folder / "run.json").write_text('{"format": 1, "run": {"task": "other"}}'),
}


@pytest.mark.parametrize(("kind", "run"), [*((kind, False) for kind in STRANGERS), *((kind, True) for kind in STRANGERS if "lock" in kind)])
def test_a_strangers_folder_is_left_as_it_was(kind: str, run: bool, tmp_path: Path) -> None:
    """Nothing is made, changed or deleted before it was looked at: leftovers of a kill are swept in a run's own folder only."""
    (tmp_path / "precious").write_text("do not touch")
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / ".writing-abc.onnx").write_text("half")
    STRANGERS[kind](folder)
    if run:
        (folder / "run.json").write_text(json.dumps({"format": 2, "run": MANIFEST}))

    def state() -> dict[str, object]:
        return {
            item.relative_to(tmp_path).as_posix(): (
                item.lstat().st_mode,
                item.lstat().st_mtime_ns,
                item.read_text() if item.is_file() else "",
            )
            for item in tmp_path.rglob("*")
        }

    before = state()
    with pytest.raises((BadInput, CorruptFile), match="Choose a new folder with --out"):
        RunStore(folder, MANIFEST)
    assert state() == before


def test_what_is_no_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("mine")
    with pytest.raises(BadInput, match="is not a folder"):
        RunStore(tmp_path / "out", MANIFEST)
    with pytest.raises(LaconicError, match="cannot use the run folder"):
        RunStore(tmp_path / "out" / "run", MANIFEST)


def test_a_run_killed_before_it_had_a_manifest_goes_on(tmp_path: Path) -> None:
    (tmp_path / "lock").write_text("process 12 on host")
    (tmp_path / ".writing-a8_x.json").write_text("{")
    RunStore(tmp_path, MANIFEST).close()
    assert sorted(item.name for item in tmp_path.iterdir()) == ["lock", "run.json"]


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
