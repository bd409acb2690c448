"""A run's folder at a URL (S3 or whatever fsspec knows): the work is done in a folder here, and what is finished is mirrored there.

At the start, what is there and not here is fetched, so that a run goes on on another machine. Files are put one by one, each whole, in the order in which they
were finished: what a record speaks of is there before the record. Nothing is put while something is timed. Who works there is told by a lease at the URL, since
no lock of the system reaches that far: a small file that its holder writes anew now and then.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path, PurePosixPath
from typing import Any

from laconic.core.errors import BadInput, LaconicError, Locked, MissingExtra
from laconic.core.files import write_whole
from laconic.core.lease import Holder
from laconic.core.progress import Progress, silent
from laconic.run.store import LIVE, MANIFEST, RESULT, SO_FAR

LEASE = "lease.json"
RENEWED_S = 15.0  # how often whoever works there says so
STALE_S = 60.0  # for so long the lease of another machine stands still before it counts as left behind
_POLL_S = 1.0
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
# What is of one machine, or made anew where it is missing: locks, leases, files that are being written, batches of data.
_OURS = re.compile(r"lock|.*\.lock|.*\.lease|turn|\.writing-.*")
_ANEW = "examples"
_PASSING = (LIVE, SO_FAR)  # there while a run goes on, for those who watch it


def is_url(place: Any) -> bool:
    """Return whether a place is a URL and no folder.

    >>> is_url("s3://bucket/run"), is_url("runs/1"), is_url(None)
    (True, False, False)
    """
    return isinstance(place, str) and _URL.match(place) is not None


def folder_of(url: str) -> Path:
    """Return the folder here in which the work for a URL is done: always the same one."""
    name = re.sub(r"[^A-Za-z0-9_.-]+", "-", url.rstrip("/").rpartition("/")[2]) or "run"
    return Path("laconic-runs") / f"{name}-{hashlib.sha256(url.encode()).hexdigest()[:8]}"


def read_here(place: str | Path, artifact: str | None = None) -> Path:
    """Return a run's folder here: the one that was given; of a URL, one with what the run says of itself, which is read from there.

    Args:
        place: a folder or a URL.
        artifact: the key of a candidate whose artifact is wanted too.

    Raises:
        BadInput: the URL holds no run.
        LaconicError: it cannot be read.
    """
    if not is_url(place):
        return Path(place)
    mirror, files = Mirror(str(place)), f"candidates/{artifact}/artifact/"
    mirror.fetch(lambda name: name in (MANIFEST, RESULT) or (artifact is not None and name.startswith(files)))
    if mirror.runs() != [mirror.url]:
        raise BadInput(
            f"{place} holds no run. `laconic optimize TASK --out {place}` makes one there; `laconic runs URL` lists those of a place."
        )
    return mirror.folder


class Mirror:
    """A folder here and its copy at a URL.

    Args:
        url: of the copy.
        folder: here; None: `folder_of` the URL.
        progress: hears of what is fetched.

    Raises:
        BadInput: fsspec knows no such URL.
        MissingExtra: it needs a package that is not installed.
    """

    def __init__(self, url: str, folder: Path | None = None, progress: Progress = silent) -> None:
        import fsspec

        try:
            self._fs, root = fsspec.url_to_fs(url)
        except ImportError as error:
            raise MissingExtra(f"{url} needs a package that is not installed: {error}. For S3: pip install 'laconic[s3]'") from error
        except ValueError as error:
            raise BadInput(f"{url}: {error}. Give a folder, or a URL that fsspec knows, such as s3://bucket/run.") from error
        self.url, self.folder = url, folder or folder_of(url)
        self._root, self._progress = str(root).rstrip("/"), progress
        self._there: dict[str, tuple[int, int]] = {}  # size and time of change of what was fetched or put
        self._beat, self._one = 0, threading.Lock()

    @contextlib.contextmanager
    def held(self) -> Iterator[Mirror]:
        """Work there: fetch what is there, and put what is finished in the end, however that comes.

        Raises:
            Locked: another process works there.
            LaconicError: the URL cannot be read or written.
        """
        self._take()
        over = threading.Event()
        renewing = threading.Thread(target=self._renew, args=(over,), daemon=True)
        renewing.start()
        try:
            self.fetch(lambda name: name not in _PASSING)
            try:
                yield self
            finally:
                self.push()
                self._take_away()
        finally:
            over.set()
            renewing.join()
            with self._told("give back"):
                self._fs.rm_file(self._at(LEASE))

    def fetch(self, wanted: Callable[[str], bool] = lambda name: True) -> list[str]:
        """Fetch what is there, wanted by its name, and not here, or not of its size; returns the names."""
        fetched = []
        with self._told("read"):
            for name, size in sorted((name, size) for name, size in self._listed().items() if wanted(name)):
                file = self.folder / name
                if not file.is_file() or file.stat().st_size != size:
                    write_whole(file, lambda aside, name=name: self._fs.get_file(self._at(name), str(aside)))  # type: ignore[misc]
                    fetched.append(name)
                self._there[name] = _state(file)
        if fetched:
            self._progress.log(f"{len(fetched)} files were fetched from {self.url}")
        return fetched

    def fetch_now(self, name: str) -> None:
        """Fetch a file that changes as the run goes on; take it away here where it is not there any more."""
        with self._told("read"):
            try:
                write_whole(self.folder / name, self._fs.cat_file(self._at(name)))
            except FileNotFoundError:
                (self.folder / name).unlink(missing_ok=True)

    def push(self) -> list[str]:
        """Put what is finished here and not there, in the order in which it was finished; returns the names."""
        new = [(state[1], name, state) for name, state in self._here() if self._there.get(name) != state]
        with self._told("write"):
            for _, name, state in sorted(new):
                self._put(name)
                self._there[name] = state
        return [name for _, name, _ in sorted(new)]

    def _take_away(self) -> None:
        """Take away there what a run with a result has no more."""
        with self._told("write"):
            for name in _PASSING:
                if not (self.folder / name).exists() and self._fs.exists(self._at(name)):
                    self._fs.rm_file(self._at(name))

    # Files --------------------------------------------------------------------------------------------------------------------------

    def _here(self) -> Iterator[tuple[str, tuple[int, int]]]:
        for path in self.folder.rglob("*") if self.folder.is_dir() else ():
            name = path.relative_to(self.folder)
            if path.is_file() and not path.is_symlink() and not _OURS.fullmatch(name.name) and name.parts[0] != _ANEW:
                with contextlib.suppress(FileNotFoundError):
                    yield name.as_posix(), _state(path)

    def _listed(self) -> dict[str, int]:
        """Return the sizes of the files there, by name."""
        self._fs.invalidate_cache()
        if not self._fs.exists(self._root):
            return {}
        found = self._fs.find(self._root, detail=True)
        names = {str(PurePosixPath(path).relative_to(PurePosixPath(self._root))): int(facts["size"]) for path, facts in found.items()}
        return {name: size for name, size in names.items() if name != LEASE and ".." not in PurePosixPath(name).parts}

    def _put(self, name: str, data: bytes | None = None) -> None:
        """Put a file there, whole: it appears when it is committed."""
        at = self._at(name)
        with self._one:
            self._fs.makedirs(at.rpartition("/")[0], exist_ok=True)
            to = self._fs.open(at, mode="wb", autocommit=False)
            with to:
                if data is not None:
                    to.write(data)
                else:
                    with (self.folder / name).open("rb") as of:
                        shutil.copyfileobj(of, to, 1 << 20)
            to.commit()

    def runs(self) -> list[str]:
        """Return the URLs of the runs there: of itself, where it is one, else of those one level below."""
        with self._told("read"):
            names = self._listed()
        if MANIFEST in names:
            return [self.url]
        return [
            f"{self.url.rstrip('/')}/{name.partition('/')[0]}"
            for name in sorted(names)
            if name.count("/") == 1 and name.endswith(f"/{MANIFEST}")
        ]

    def _at(self, name: str) -> str:
        return f"{self._root}/{name}"

    @contextlib.contextmanager
    def _told(self, what: str) -> Iterator[None]:
        """Tell what cannot be done at the URL, in one line."""
        try:
            yield
        except LaconicError:
            raise
        except Exception as error:
            told = f"cannot {what} {self.url}: {type(error).__name__}: {error}."
            raise LaconicError(f"{told} What was finished is in {self.folder}; the same command goes on with it.") from error

    # Who works there ----------------------------------------------------------------------------------------------------------------

    def _take(self) -> None:
        """Write the lease, unless another one works there: a process of this machine that lives, or one elsewhere that renews it."""
        with self._told("read"):
            known, since = self.lease(), time.monotonic()
            if known is not None and known[0].host == Holder.here().host and not known[0].gone():
                self._refuse(known[0])
            if known is not None and known[0].host != Holder.here().host:
                self._progress.log(f"{self.url}: waiting to see whether process {known[0].pid} on {known[0].host} still works there")
                while time.monotonic() < since + STALE_S and (now := self.lease()) is not None:
                    if now != known:
                        self._refuse(now[0])
                    time.sleep(_POLL_S)
        with self._told("write"):
            self._say()

    def _refuse(self, other: Holder) -> None:
        raise Locked(f"{self.url} is in use by process {other.pid} on {other.host}. Wait for it, or choose another place with --out.")

    def lease(self) -> tuple[Holder, int] | None:
        """Return who works there, and how often he has said so; None where nobody does."""
        try:
            self._fs.invalidate_cache()
            known = json.loads(self._fs.cat_file(self._at(LEASE)))
            return Holder(**known["holder"]), int(known["beat"])
        except (FileNotFoundError, ValueError, TypeError, KeyError):
            return None

    def _say(self) -> None:
        self._beat += 1
        self._put(LEASE, json.dumps({"holder": asdict(Holder.here()), "beat": self._beat}).encode())

    def _renew(self, over: threading.Event) -> None:
        while not over.wait(RENEWED_S):
            with contextlib.suppress(Exception):
                self._say()


def _state(path: Path) -> tuple[int, int]:
    told = path.stat()
    return told.st_size, told.st_mtime_ns
