"""A run followed at the URL where another machine mirrors it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import fsspec
import pytest

from laconic.core.errors import BadInput
from laconic.core.lease import Holder
from laconic.core.progress import silent
from laconic.report import watching
from laconic.run.following import Afar, following
from laconic.run.live import Live
from laconic.run.mirror import STALE_S, Mirror, folder_of
from laconic.run.store import RESULT, SO_FAR, RunStore
from tests.report.results import named


@pytest.fixture
def url(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A place of its own in the memory of this process, seen from a folder of its own."""
    monkeypatch.chdir(tmp_path)
    place = f"memory://{request.node.name}/run"
    yield place
    fs, root = fsspec.url_to_fs(place)
    if fs.exists(root):
        fs.rm(root, recursive=True)


class Elsewhere:
    """A run on another machine: a folder, its mirror, and what it says as it goes."""

    def __init__(self, url: str, folder: Path) -> None:
        self.mirror = Mirror(url, folder)
        self.store = RunStore(folder, {"task": "t"})
        self.live = Live(silent, self.store)
        self.live.start("candidates", 3)

    def tell(self) -> None:
        """One candidate is known."""
        self.store.write(SO_FAR, named("searched"))
        self.live.advance(candidate="a", status="passed", best="a, 2.00×", total=3)
        self.mirror.push()

    def end(self) -> None:
        """There is a result."""
        self.store.write(RESULT, named("met"))
        self.live.end()
        self.store.close()


def test_a_run_of_another_machine_is_drawn_until_it_ends(url: str, tmp_path: Path) -> None:
    folder = following(url)[0]
    with Mirror(url, tmp_path / "there").held() as mirror:
        there = Elsewhere(url, mirror.folder)
        mirror.push()
        kinds, seen = [watching.state(url).kind], []

        def sleep(_: float) -> None:
            seen.append((folder / watching.PAGE).read_text(encoding="utf-8"))
            raise KeyboardInterrupt

        there.tell()
        with pytest.raises(KeyboardInterrupt):
            watching.watch(url, every_s=1, sleep=sleep)
        there.end()
        kinds.append(watching.state(url).kind)
    done = watching.watch(url)
    assert kinds == ["running", "running"]
    assert "1 of 3 candidates are known; the best so far: a, 2.00×." in seen[0]
    assert (done["kind"], done["page"]) == ("finished", str(folder / watching.PAGE))
    assert done["result"]["verdict"] == named("met")["verdict"]
    fs, root = fsspec.url_to_fs(url)
    assert sorted(path.rpartition("/")[2] for path in fs.find(root)) == [RESULT, "run.json"]
    assert sorted(path.name for path in folder.iterdir()) == [RESULT, "run.json", watching.PAGE]


def test_one_whose_lease_stands_still_has_ended(url: str, tmp_path: Path) -> None:
    there = Elsewhere(url, tmp_path / "there")
    there.tell()
    now = 0.0
    fs, root = fsspec.url_to_fs(url)

    def beat(number: int) -> None:
        fs.pipe(f"{root}/lease.json", json.dumps({"holder": asdict(Holder(1, 1, "elsewhere")), "beat": number}).encode())

    beat(1)
    look = Afar(Mirror(url, tmp_path / "here"), clock=lambda: now).look
    assert look()
    now = STALE_S - 1
    assert look()
    beat(2)
    now = STALE_S + 1
    assert look()
    now = 2 * STALE_S + 2
    assert not look()
    there.store.close()


def test_where_this_machine_works_for_the_url_its_folder_is_looked_at(url: str) -> None:
    there = Elsewhere(url, folder_of(url))
    assert following(url)[0] == folder_of(url)
    assert following(url)[1]()
    assert watching.state(url).kind == "running"
    there.store.close()


def test_a_place_without_a_run_is_refused(url: str) -> None:
    with pytest.raises(BadInput, match=f"{url} holds no run. `laconic optimize TASK --out {url}` makes one there"):
        watching.state(url)
