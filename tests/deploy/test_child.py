from __future__ import annotations

import contextlib
import itertools
import os
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

from laconic.core.errors import WorkerFailed
from laconic.core.memory import available_bytes, memory_of
from laconic.deploy import child as child_module
from laconic.deploy.child import Child

SCRIPT = """
import os, signal, sys, time
from laconic.core.errors import BadInput
from laconic.deploy.child import answer_requests

def handle(request, channel):
    print("noise on standard output")
    what = request["what"]
    if what == "echo": return {"said": request["text"]}
    if what == "payload": return {"size": len(channel.payload), "sum": sum(channel.payload[:1000])}
    if what == "events":
        for n in range(3): channel.send({"n": n})
        return {}
    if what == "events for ever":
        while True: channel.send(0)
    if what == "sys.exit": sys.exit("that was all")
    if what == "assert": assert False, "not so"
    if what == "exit": print("last words", file=sys.stderr); os._exit(3)
    if what == "segfault": os.kill(os.getpid(), signal.SIGSEGV)
    if what == "killed": os.kill(os.getpid(), signal.SIGKILL)
    if what == "leaves another":
        if os.fork() == 0: os.setsid(); time.sleep(15); os._exit(0)
        os._exit(4)
    if what == "warns":
        import warnings
        warnings.simplefilter("always")
        for _ in range(2): warnings.warn("mind the gap")
        warnings.warn_explicit("of a library", UserWarning, warnings.__file__, 1)
        return {}
    if what == "slow": time.sleep(0.6); return {}
    if what == "burn":
        if os.fork() == 0:
            until = time.monotonic() + request["seconds"]
            while time.monotonic() < until: pass
            os._exit(0)
        until = time.monotonic() + request["seconds"]
        while time.monotonic() < until: pass
        os.wait()
        return {"pid": os.getpid()}
    if what == "hang": time.sleep(3600)
    if what == "bad": raise BadInput("not like this")
    if what == "bug": return {}["missing"]
    if what == "memory": raise MemoryError("too much")
    if what == "eat":
        hoard = []
        while True:
            hoard.append(bytearray(50_000_000)); time.sleep(0.05)
    if what == "child":
        import subprocess
        return {"pid": subprocess.Popen(["sleep", "3600"]).pid}

answer_requests(handle)
"""


@pytest.fixture
def child(tmp_path: Path) -> Iterator[Child]:
    (tmp_path / "child.py").write_text(SCRIPT)
    found = Child([sys.executable, str(tmp_path / "child.py")], timeout_s=10, memory_limit_bytes=400_000_000)
    yield found
    found.close()


def test_it_answers_whatever_is_printed_meanwhile(child: Child) -> None:
    for text in ("one", "zwei\n", "x" * 2_000_000):
        assert child.ask({"what": "echo", "text": text}) == {"said": text}
    assert child.memory()["rss_bytes"] > 1_000_000


@pytest.mark.parametrize(
    ("what", "kind", "said"),
    [
        ("exit", "crash", "it ended with code 3; its last lines:\n.*last words"),
        ("segfault", "crash", "killed by SIGSEGV"),
        ("killed", "killed", "killed by SIGKILL( by another process| .out of memory, if nobody else did it.)"),
        ("leaves another", "crash", "it ended with code 4"),
        ("events for ever", "timeout", "no answer within 1 s; it was ended"),
        ("hang", "timeout", "no answer within 1 s; it was ended"),
        ("eat", "memory", r"it used 0\.\d\d GB of memory; 0.40 GB are allowed"),
    ],
)
def test_it_tells_how_it_died(child: Child, what: str, kind: str, said: str) -> None:
    child.ask({"what": "echo", "text": "it runs"})
    child.timeout_s = 1 if kind == "timeout" else 10
    with pytest.raises(WorkerFailed, match=f"(?s){said}") as caught:
        child.ask({"what": what})
    assert caught.value.kind == kind
    assert not child.alive
    with pytest.raises(WorkerFailed) as again:
        child.ask({"what": "echo", "text": "still there?"})
    assert again.value.kind == kind
    assert child.killed is (kind == "killed")


@pytest.mark.parametrize(
    ("what", "kind", "said"),
    [
        ("sys.exit", "error", "SystemExit: that was all"),
        ("assert", "error", "AssertionError: not so"),
        ("bad", "error", "^not like this$"),
        ("bug", "error", "KeyError: 'missing'"),
        ("memory", "memory", "out of memory: too much"),
    ],
)
def test_an_error_is_told_and_it_goes_on(child: Child, what: str, kind: str, said: str) -> None:
    with pytest.raises(WorkerFailed, match=said) as caught:
        child.ask({"what": what})
    assert caught.value.kind == kind
    assert child.ask({"what": "echo", "text": "fine"}) == {"said": "fine"}


def ends(pid: int) -> bool:
    """Whether a process is gone within a few seconds."""
    deadline = time.monotonic() + 5
    while memory_of(pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not memory_of(pid)


def test_what_it_started_ends_with_it(child: Child) -> None:
    grandchild = child.ask({"what": "child"})["pid"]
    assert memory_of(grandchild)
    child.close()
    assert ends(grandchild)


def test_closed_twice_it_closes_nothing_of_others(child: Child) -> None:
    child.close()
    theirs = os.pipe()
    child.close()
    os.write(theirs[1], b"x")
    assert os.read(theirs[0], 1) == b"x"
    for descriptor in theirs:
        os.close(descriptor)


def test_a_request_brings_bytes_and_hears_events(child: Child) -> None:
    assert child.ask({"what": "payload"}, payload=b"\x01" * 5_000_000) == {"size": 5_000_000, "sum": 1000}
    heard: list[dict[str, int]] = []
    assert child.ask({"what": "events"}, on_event=heard.append) == {}
    assert heard == [{"n": 0}, {"n": 1}, {"n": 2}]
    assert child.ask({"what": "payload"}) == {"size": 0, "sum": 0}


def test_a_process_that_reads_nothing_is_held_to_its_time(tmp_path: Path) -> None:
    child = Child([sys.executable, "-c", "import time; time.sleep(3600)"], timeout_s=1)
    with pytest.raises(WorkerFailed, match="no answer within 1 s"):
        child.ask({"what": "payload"}, payload=b"\x01" * 5_000_000)
    child.close()


def test_time_in_which_others_had_the_cores_does_not_count(child: Child, monkeypatch: pytest.MonkeyPatch) -> None:
    child.ask({"what": "echo", "text": "it runs"})
    child.timeout_s, waited = 0.3, itertools.count(0.0, 5.0)
    monkeypatch.setattr(child_module, "waited_s", lambda pid: next(waited))
    assert child.ask({"what": "slow"}) == {}
    with pytest.raises(WorkerFailed, match="no answer within 0.3 s"):  # three times its limit more, and no longer
        child.ask({"what": "hang"})


def test_a_process_that_had_the_cores_waited_for_none() -> None:
    assert 0 <= child_module.waited_s(os.getpid()) < 3600
    assert child_module.waited_s(2**22 + 1) == 0


def test_without_another_limit_the_memory_that_is_free_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child_module, "available_bytes", lambda: 1000)
    for given, limit in ((None, 800), (77, 77)):
        one = Child(["sleep", "1"], timeout_s=1, memory_limit_bytes=given)
        assert one.memory_limit_bytes == limit
        one.close()


GROUPS = {
    "v2": {
        "proc/self/cgroup": "0::/one/two\n",
        "sys/fs/cgroup/one/memory.max": "1000\n",
        "sys/fs/cgroup/one/memory.current": "900\n",
        "sys/fs/cgroup/one/memory.stat": "anon 5\ninactive_file 50\n",
        "sys/fs/cgroup/one/two/memory.max": "max\n",
        "sys/fs/cgroup/one/two/memory.current": "1\n",
    },
    "v1": {
        "proc/self/cgroup": "3:cpu:/x\n2:memory:/not/here\n",
        "sys/fs/cgroup/memory/memory.limit_in_bytes": "300\n",
        "sys/fs/cgroup/memory/memory.usage_in_bytes": "150\n",
    },
    "none": {"proc/self/cgroup": "0::/\n"},
    "not Linux": {},
}


@pytest.mark.parametrize(("name", "free"), [("v2", 150), ("v1", 150), ("none", 2048), ("not Linux", None)])
def test_memory_that_is_free_is_that_of_the_tightest_group(name: str, free: int | None, tmp_path: Path) -> None:
    files = {**GROUPS[name], **({} if name == "not Linux" else {"proc/meminfo": "MemTotal: 9 kB\nMemAvailable: 2 kB\n"})}
    for path, text in files.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    assert available_bytes(tmp_path) == free


def test_memory_of_nobody_is_empty() -> None:
    assert memory_of(2**22 + 1) == {}


@pytest.mark.skipif(sys.version_info < (3, 11), reason="Python cannot leave the folder out")
def test_an_empty_entry_of_the_search_path_is_not_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "colorsys.py").write_text("open('ran', 'w')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(["", *os.environ.get("PYTHONPATH", "").split(os.pathsep)]))
    child = Child([sys.executable, "-P", "-c", "import colorsys"], timeout_s=30)
    try:
        with pytest.raises(WorkerFailed):
            child.ask({})
    finally:
        child.close()
    assert not (tmp_path / "ran").exists()


def test_a_users_warnings_are_told_here_once(child: Child) -> None:
    """Those of libraries are not, and who warns again says nothing new."""
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        for _ in range(2):
            child.ask({"what": "warns"})
    assert [(str(one.message), one.category, Path(one.filename).name) for one in told] == [("mind the gap", UserWarning, "child.py")]


def spent_s(group: int) -> float:
    """Processor time of all processes of a group, from the kernel's own count."""
    ticks = 0
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            told = path.read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
            ticks += int(told[11]) + int(told[12]) if int(told[2]) == group else 0
    return ticks / os.sysconf("SC_CLK_TCK")


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
def test_who_is_paused_and_what_it_started_use_no_processor_time_and_lose_none_of_their_limit(child: Child) -> None:
    child.ask({"what": "echo", "text": "it runs"})
    child.timeout_s = 1.5
    answers: list[dict[str, int]] = []
    asked = threading.Thread(target=lambda: answers.append(child.ask({"what": "burn", "seconds": 1.0})))
    pid, begun = child._process.pid, spent_s(child._process.pid)
    asked.start()
    while spent_s(pid) < begun + 0.05:
        time.sleep(0.01)
    child.pause()
    before = spent_s(pid)
    time.sleep(1.0)
    assert spent_s(pid) == before
    child.resume()
    asked.join(20)
    assert answers == [{"pid": pid}]  # after more than its limit, of which it was paused for a second


def test_a_paused_one_is_ended_like_any_other(child: Child) -> None:
    started = child.ask({"what": "child"})["pid"]
    child.pause()
    child.close()
    assert not child.alive
    assert ends(started)
