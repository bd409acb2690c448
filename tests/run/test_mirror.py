"""A run's folder at a URL: against fsspec's own memory, and a real server that speaks S3 (moto's), where there is one."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import fsspec
import pytest
from typer.testing import CliRunner

import laconic as lc
from laconic.cli import app
from laconic.core.errors import LaconicError, Locked, MissingExtra
from laconic.core.lease import Holder
from laconic.run import mirror as mirror_module
from laconic.run.mirror import Mirror, folder_of
from tests.run import tiny


@pytest.fixture
def url(request: pytest.FixtureRequest) -> Iterator[str]:
    """A place of its own in the memory of this process."""
    place = f"memory://{request.node.name}/run"
    yield place
    fs, root = fsspec.url_to_fs(place)
    if fs.exists(root):
        fs.rm(root, recursive=True)


def written(folder: Path, **files: str) -> None:
    """Write files one after the other, each later than the one before."""
    for n, (name, text) in enumerate(files.items()):
        path = folder / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        os.utime(path, (1000 + n, 1000 + n))


def test_what_is_put_is_fetched_elsewhere_and_each_thing_once(tmp_path: Path, url: str) -> None:
    first, second = Mirror(url, tmp_path / "a"), Mirror(url, tmp_path / "b")
    written(tmp_path / "a", candidates__one__artifact__model="weights", candidates__one__check="{}")
    assert first.push() == ["candidates/one/artifact/model", "candidates/one/check"]
    assert first.push() == []
    assert second.fetch() == ["candidates/one/artifact/model", "candidates/one/check"]
    assert (tmp_path / "b/candidates/one/artifact/model").read_text() == "weights"
    assert second.fetch() == second.push() == []
    written(tmp_path / "b", candidates__one__check='{"a": 1}')
    assert second.push() == ["candidates/one/check"]
    assert first.fetch() == ["candidates/one/check"]


def test_a_record_is_put_after_what_it_speaks_of(tmp_path: Path, url: str) -> None:
    """In the order in which things were finished, not in that of their names."""
    written(tmp_path, z_artifact="1", a_record="2")
    assert Mirror(url, tmp_path).push() == ["z_artifact", "a_record"]


def test_what_is_of_one_machine_or_made_anew_stays_here(tmp_path: Path, url: str) -> None:
    names = ("lock", "models/key.lock", "models/key.lease", "models/turn", "models/.writing-abc.json", "examples/valid/0.npz", "run.json")
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    assert Mirror(url, tmp_path).push() == ["run.json"]


def test_one_that_leads_out_of_the_folder_is_not_fetched(tmp_path: Path, url: str) -> None:
    fs, root = fsspec.url_to_fs(url)
    fs.store[f"{root}/../../out.txt"] = fs.store.get("x") or _file(fs, "memory://plain")
    assert Mirror(url, tmp_path / "deep" / "run").fetch() == []


def _file(fs: Any, path: str) -> Any:
    fs.pipe_file(path, b"x")
    return fs.store[fs._strip_protocol(path)]


def test_two_processes_do_not_work_there_at_once(tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One of this machine lives or not; one elsewhere renews its lease, or is gone after a while."""
    monkeypatch.setattr(mirror_module, "STALE_S", 0.3)
    monkeypatch.setattr(mirror_module, "_POLL_S", 0.02)
    fs, root = fsspec.url_to_fs(url)

    def leave(holder: Holder, beat: int = 1) -> None:
        fs.pipe_file(f"{root}/lease.json", json.dumps({"holder": asdict(holder), "beat": beat}).encode())

    place = Mirror(url, tmp_path)
    leave(Holder.here())
    with pytest.raises(Locked, match=f"is in use by process {os.getpid()} on {socket.gethostname()}"), place.held():
        pass
    leave(Holder(os.getpid(), 1, socket.gethostname()))  # the number is another process's by now
    with place.held():
        assert json.loads(fs.cat_file(f"{root}/lease.json"))["holder"]["pid"] == os.getpid()
    assert not fs.exists(f"{root}/lease.json")
    leave(Holder(1, 1, "elsewhere"))
    with place.held():
        pass
    leave(Holder(1, 1, "elsewhere"))
    beats = iter(range(2, 99))
    lease = Mirror.lease

    def renewed(self: Mirror) -> Any:
        leave(Holder(1, 1, "elsewhere"), next(beats))
        return lease(self)

    monkeypatch.setattr(Mirror, "lease", renewed)
    with pytest.raises(Locked, match="is in use by process 1 on elsewhere"), place.held():
        pass


def test_what_fails_there_is_told_with_the_place_and_the_folder_here(tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    place = Mirror(url, tmp_path)
    written(tmp_path, a="1")

    def full(*_: Any, **__: Any) -> None:
        raise OSError("quota exceeded")

    monkeypatch.setattr(place._fs, "makedirs", full)
    with pytest.raises(
        LaconicError, match="cannot write memory:.*OSError: quota exceeded. What was finished is in .*the same command goes on"
    ):
        place.push()


def test_a_url_that_nobody_knows_is_refused_before_any_work() -> None:
    with pytest.raises(lc.BadInput, match="Protocol not known: nosuch"):
        lc.optimize("digits", out="nosuch://bucket/run")


def test_a_missing_package_is_told_by_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: Any, **__: Any) -> None:
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr(fsspec, "url_to_fs", missing)
    with pytest.raises(MissingExtra, match=r"Install s3fs to access S3. For S3: pip install 'laconic\[s3\]'"):
        Mirror("s3://bucket/run")


def test_each_url_has_its_folder() -> None:
    assert folder_of("s3://a/run") == folder_of("s3://a/run") != folder_of("s3://b/run")
    assert folder_of("s3://a/run").name.startswith("run-")


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A bucket on a server in a process of its own."""
    for name in ("s3fs", "moto", "flask"):
        pytest.importorskip(name, reason="needs s3fs and moto's server")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = subprocess.Popen([sys.executable, "-m", "moto.server", "-p", str(port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    for name, value in (("AWS_ACCESS_KEY_ID", "a"), ("AWS_SECRET_ACCESS_KEY", "b"), ("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")):
        monkeypatch.setenv(name, value)
    import s3fs

    try:
        until = time.monotonic() + 60
        while True:
            try:
                s3fs.S3FileSystem(skip_instance_cache=True).mkdir("bucket")
                break
            except OSError:
                assert time.monotonic() < until
                time.sleep(0.2)
        yield "s3://bucket"
    finally:
        server.kill()
        server.wait()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of botocore
def test_a_run_on_s3_goes_on_on_another_machine(bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second machine has nothing but the URL: it computes nothing again and comes to the same."""
    recipes = [lc.Recipe((), lc.Target("onnxruntime", threads=1)), lc.Recipe((), lc.Target("torchscript", threads=1))]

    def optimize(place: Path, chosen: list[lc.Recipe]) -> lc.Result:
        monkeypatch.chdir(place)
        chosen_options = lc.Options(rounds=5, turn_seconds=0.01)
        return lc.optimize(tiny.task(), lc.Budget(max_drop=50.0), out=f"{bucket}/run", recipes=chosen, options=chosen_options)

    one, other = tmp_path / "one", tmp_path / "other"
    for place in (one, other):
        place.mkdir()
    first = optimize(one, recipes)
    assert first.folder.resolve().parent.parent == one
    folder = other / first.folder
    second = optimize(other, recipes)
    assert second.data == first.data
    assert (folder / "report.html").read_bytes() == (one / first.folder / "report.html").read_bytes()
    artifact = second.data["candidates"][1]["artifact"]
    assert sorted(p.name for p in (folder / artifact).iterdir()) == sorted(p.name for p in (one / first.folder / artifact).iterdir())
    reader = tmp_path / "reader"
    reader.mkdir()
    monkeypatch.chdir(reader)
    assert_read(f"{bucket}/run", first)


def assert_read(url: str, run: lc.Result) -> None:
    """A third machine reads the run at its URL: only what it asks for is fetched."""
    listed = CliRunner().invoke(app, ["runs", url.rpartition("/")[0], "--json"])
    assert [(row["folder"], row["state"]) for row in json.loads(listed.stdout)] == [(url, "finished")]
    told = CliRunner().invoke(app, ["report", url, "--json"])
    folder = folder_of(url)
    assert json.loads(told.stdout)["report"] == str(folder / "report.html")
    assert sorted(path.name for path in folder.iterdir()) == ["report.html", "result.json", "run.json"]
    picked = lc.pick(url, {"max_drop": 60.0})
    assert picked.best is not None
    assert picked.best.folder == folder / "candidates" / picked.data["best"] / "artifact"
    opened = lc.Result.open(url)
    assert opened.data == run.data
    assert opened.best is not None
    with pytest.raises(lc.BadInput, match="nothing holds no run. `laconic optimize TASK --out .* makes one there"):
        lc.pick(f"{url}/nothing")
