"""A study that several drivers share: on a real PostgreSQL that the test starts, and in a journal file."""

from __future__ import annotations

import dataclasses
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

import laconic as lc
from laconic.core.errors import LaconicError
from laconic.run.record import Record
from laconic.search import study as study_module
from laconic.search.space import SearchSpace
from laconic.search.study import Settings, SharedStudy
from laconic.search.study_place import hidden, storage_at
from laconic.search.terms import distributions_of, every_label
from laconic.search.tune import Tuner
from tests.run import tiny
from tests.search.test_propose import TRAINABLE, around
from tests.search.test_tune import SPACE, by_share, measured

optuna = pytest.importorskip("optuna", reason="needs the extra search")
BINARIES = [
    Path(found).parent
    for found in (*sorted(map(str, Path("/usr/lib/postgresql").glob("*/bin/initdb")), reverse=True), shutil.which("initdb"))
    if found
]
BUDGET = lc.Budget(max_drop=0.5).filled("accuracy", True)
FACTS = {"task": "digits", "data": {"train": "a", "valid": "b"}}
RECIPE = lc.Recipe((), lc.Target("onnxruntime", threads=1))
OTHER = lc.Recipe((), lc.Target("openvino", threads=1))
PLAIN = Settings({}, {})


@pytest.fixture(scope="module")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server of this machine's own, by a user that is not root, on a port of the loopback."""
    pytest.importorskip("psycopg", reason="needs the extra postgres")
    if not BINARIES:
        pytest.skip("needs PostgreSQL's server programs (Debian: postgresql)")
    import pwd

    place = Path("/tmp") / f"laconic-pg-{os.getpid()}"
    place.mkdir()
    as_user: list[str] = []
    if os.geteuid() == 0:
        try:
            user = pwd.getpwnam("postgres")
        except KeyError:
            shutil.rmtree(place)
            pytest.skip("PostgreSQL does not run as root, and there is no user postgres")
        os.chown(place, user.pw_uid, user.pw_gid)
        as_user = ["setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups"]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    quick = ["-c", "fsync=off", "-c", "full_page_writes=off", "-k", str(place), "-h", "127.0.0.1", "-p", str(port)]
    with (place.parent / f"{place.name}.log").open("wb") as log:
        try:
            init = [
                str(BINARIES[0] / "initdb"),
                "-D",
                str(place / "data"),
                "-U",
                "laconic",
                "--auth=trust",
                "-N",
                "--locale=C",
                "-E",
                "UTF8",
            ]
            subprocess.run([*as_user, *init], check=True, stdout=log, stderr=log, cwd="/")
            server = subprocess.Popen(
                [*as_user, str(BINARIES[0] / "postgres"), "-D", str(place / "data"), *quick], stdout=log, stderr=log, cwd="/"
            )
            try:
                until = time.monotonic() + 60
                ready = [str(BINARIES[0] / "pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(port)]
                while subprocess.run(ready, check=False).returncode != 0:
                    assert server.poll() is None, Path(log.name).read_text()
                    assert time.monotonic() < until
                    time.sleep(0.1)
                yield f"postgresql://laconic:secret@127.0.0.1:{port}/postgres"
            finally:
                server.terminate()
                server.wait()
        finally:
            shutil.rmtree(place, ignore_errors=True)
            Path(log.name).unlink()


@pytest.fixture(params=["postgres", "journal"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(request.getfixturevalue("postgres")) if request.param == "postgres" else str(tmp_path / "study.log")


@pytest.fixture
def driver(request: pytest.FixtureRequest, place: str, tmp_path: Path) -> Iterator[Callable[..., SharedStudy]]:
    """Makes drivers of one study, all in this process, that take each other for other processes."""
    made: list[SharedStudy] = []

    def one(facts: Any = FACTS, name: str = request.node.name, **holder: Any) -> SharedStudy:
        study = SharedStudy(place, name)
        study._me = dataclasses.replace(study._me, thread=len(made), **holder)
        made.append(study)
        study.join(facts, BUDGET, tmp_path / f"run{len(made)}")
        return study

    yield one
    for study in made:
        study.close()


def record(recipe: lc.Recipe, drop: float = 0.0) -> Record:
    return measured(recipe, lambda _: (2.0, drop))


def test_a_candidate_is_claimed_once_and_its_record_is_told(driver: Callable[..., SharedStudy]) -> None:
    one, two = driver(), driver()
    assert one.claim(RECIPE, PLAIN)
    assert one.claim(RECIPE, PLAIN), "it stays this driver's"
    assert not two.claim(RECIPE, PLAIN)
    assert two.elsewhere() == {RECIPE.key}
    assert one.elsewhere() == set()
    assert two.claim(OTHER, PLAIN)
    assert two.result(RECIPE.key) is None
    one.tell(RECIPE.key, record(RECIPE, drop=5.0))
    told = two.result(RECIPE.key)
    assert told is not None
    assert told.record == record(RECIPE, drop=5.0)
    assert told.by == f"process {os.getpid()} on {socket.gethostname()}"
    assert not two.claim(RECIPE, PLAIN)
    assert two.elsewhere() == set()
    assert [known.record.key for known in two.news()] == [RECIPE.key]


def test_what_is_told_stands_in_the_study_as_optuna_has_it(driver: Callable[..., SharedStudy], place: str) -> None:
    """Values, constraints and settings: read with Optuna alone, as its dashboard does."""
    one = driver()
    params = {"target": "onnxruntime fp32", "pruning": "prune", "prune.macs": 0.5}
    distributions = distributions_of(params, SPACE, *every_label(SPACE))
    assert distributions is not None
    held, broke, crashed = (lc.Recipe((lc.Prune(macs=share),), RECIPE.deploy) for share in (0.5, 0.4, 0.3))
    for recipe in (held, broke, crashed):
        assert one.claim(recipe, Settings(params, distributions, proposal=recipe is held))
    one.tell(held.key, record(held))
    one.tell(broke.key, record(broke, drop=5.0))
    one.tell(crashed.key, Record.of(crashed, baseline="base").failed("crash", "it crashed"))
    storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(place)) if "://" not in place else one._storage
    trials = optuna.load_study(storage=storage, study_name=one.name).get_trials()
    assert [trial.state.name for trial in trials] == ["COMPLETE", "COMPLETE", "FAIL"]
    assert [trial.params for trial in trials] == [params] * 3
    assert trials[0].value == BUDGET.order(record(held))
    assert trials[0].constraints["budget"] <= 0 < trials[1].constraints["budget"]
    assert trials[2].user_attrs["why"] == "it crashed"
    assert one.proposed() == 1


def test_two_that_claim_at_the_same_moment_do_not_both_have_it(driver: Callable[..., SharedStudy]) -> None:
    drivers = [driver() for _ in range(4)]
    recipes = [lc.Recipe((lc.Prune(macs=share / 10),), RECIPE.deploy) for share in range(1, 6)]
    had: list[str] = []
    begin = threading.Barrier(len(drivers))

    def claims(study: SharedStudy) -> None:
        begin.wait()
        had.extend(recipe.key for recipe in recipes if study.claim(recipe, PLAIN))

    threads = [threading.Thread(target=claims, args=(study,)) for study in drivers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(had) == sorted(recipe.key for recipe in recipes)


def test_what_a_driver_left_behind_is_reaped(driver: Callable[..., SharedStudy], monkeypatch: pytest.MonkeyPatch) -> None:
    """Of this machine, once its process is gone; of another, once it has been silent for a while."""
    now = 0.0
    monkeypatch.setattr(study_module, "time", SimpleNamespace(monotonic=lambda: now, sleep=time.sleep))
    gone, away, here = driver(started=1), driver(host="elsewhere"), driver()
    assert gone.claim(RECIPE, PLAIN)
    assert away.claim(OTHER, PLAIN)
    assert here.claim(RECIPE, PLAIN)
    assert not here.claim(OTHER, PLAIN)
    now = study_module.STALE_S - 1
    away._say(1)
    assert not here.claim(OTHER, PLAIN), "it has said that it lives"
    now += study_module.STALE_S - 1
    assert not here.claim(OTHER, PLAIN), "not yet for so long"
    now += 2
    assert here.claim(OTHER, PLAIN)
    away.tell(OTHER.key, record(OTHER))
    assert here.result(OTHER.key) is None, "it was taken for gone; whoever has it now tells"
    here.tell(OTHER.key, record(OTHER, drop=1.0))
    assert [known.record for known in away.news()] == [record(OTHER, drop=1.0)]


@pytest.mark.parametrize("cause", ["given up", "closed", "killed", "the time is over"])
def test_what_was_not_measured_is_anybodys_again(driver: Callable[..., SharedStudy], cause: str) -> None:
    one, two = driver(), driver()
    assert one.claim(RECIPE, PLAIN)
    if cause == "given up":
        one.give_up()
    elif cause == "closed":
        one.close()
    elif cause == "killed":
        one.tell(RECIPE.key, Record.of(RECIPE, baseline="base").failed("killed", "something ended it"))
    else:
        one.tell(RECIPE.key, Record.of(RECIPE, baseline="base").not_tried("the time limit was reached"))
    assert two.claim(RECIPE, PLAIN)


@pytest.mark.parametrize(
    ("facts", "said"),
    [
        ({**FACTS, "task": "mnist"}, r"cannot be joined: its task is 'digits', this driver's is 'mnist'"),
        ({**FACTS, "data": {"train": "a", "valid": "c"}}, r"its data \(valid\) is 'b', this driver's is 'c'"),
    ],
)
def test_what_must_match_is_checked(driver: Callable[..., SharedStudy], facts: Any, said: str) -> None:
    driver()
    with pytest.raises(lc.BadInput, match=said + ".*choose another name with --study-name"):
        driver(facts)


def test_what_becomes_known_later_must_match_too(driver: Callable[..., SharedStudy]) -> None:
    one, two = driver(), driver()
    one.agree({"trained model": "a"})
    one.agree({"trained model": "a"})
    with pytest.raises(lc.BadInput, match="its trained model is 'a', this driver's is 'b'"):
        two.agree({"trained model": "b"})


def test_somebody_elses_study_is_left_alone(driver: Callable[..., SharedStudy], place: str, request: pytest.FixtureRequest) -> None:
    one = driver(name="made")
    other = optuna.create_study(storage=one._storage, study_name="theirs")
    other.add_trial(optuna.trial.create_trial(value=1.0))
    with pytest.raises(lc.BadInput, match="the study 'theirs' in .* is not one of laconic's"):
        driver(name="theirs")


def test_a_sampler_learns_from_what_others_told_and_proposes_nothing_that_they_compute(driver: Callable[..., SharedStudy]) -> None:
    here = around(task=dataclasses.replace(TRAINABLE, batch_size=4))
    space = SearchSpace(("onnxruntime",), ("fp32",), threads=1, levers=("prune",))
    tuners = [Tuner(here, space, [], 0), Tuner(here, space, [], 0)]
    first = tuners[0].propose()
    assert first is not None
    assert first == tuners[1].upcoming(1)[0], "the same seed"
    params = tuners[0].params(first)
    assert params is not None
    assert params["pruning"] == "prune"
    tuners[1].forget()
    second = tuners[1].upcoming(1)[0]
    assert second.key != first.key
    before = len(tuners[1]._study.get_trials())
    tuners[1].hear(measured(first, by_share), params)
    tuners[1].hear(measured(first, by_share), params)
    heard = tuners[1]._study.get_trials()[before:]
    assert [trial.params["prune.macs"] for trial in heard] == [params["prune.macs"]]
    tuners[1].hear(measured(OTHER, by_share), {"target": "elsewhere fp32"})
    assert len(tuners[1]._study.get_trials()) == before + 1, "what is none of its own choices is nothing to the sampler"


def test_files_are_fetched_as_they_were_told(driver: Callable[..., SharedStudy], tmp_path: Path) -> None:
    one, two = driver(), driver()
    made, to = tmp_path / "run1" / "candidates" / RECIPE.key, tmp_path / "run2"
    (made / "artifact").mkdir(parents=True)
    (made / "artifact" / "model.onnx").write_bytes(b"model")
    (made / "check.json").write_text("{}")
    assert one.claim(RECIPE, PLAIN)
    one.tell(RECIPE.key, record(RECIPE))
    assert two.fetch(record(RECIPE), to)
    assert (to / "candidates" / RECIPE.key / "artifact" / "model.onnx").read_bytes() == b"model"
    assert (to / "candidates" / RECIPE.key / "check.json").read_text() == "{}"
    shutil.rmtree(to)
    (made / "artifact" / "model.onnx").write_bytes(b"other")
    assert not two.fetch(record(RECIPE), to)
    assert not to.exists()
    assert not two.fetch(record(OTHER), to)


def test_a_place_that_cannot_be_used_is_told_without_its_password(tmp_path: Path) -> None:
    assert hidden("postgresql://me:p%40ss@host:5432/base") == "postgresql://me:***@host:5432/base"
    pytest.importorskip("psycopg", reason="needs the extra postgres")
    with pytest.raises(lc.BadInput, match=r"--study postgresql://me:\*\*\*@127.0.0.1:1/base: OperationalError") as caught:
        SharedStudy("postgresql://me:secret@127.0.0.1:1/base", "name")
    assert "secret" not in str(caught.value)
    with pytest.raises(lc.BadInput, match="study name 'a': there is no study without a place"):
        lc.optimize("digits", study_name="a")


def test_a_server_that_goes_away_is_told_with_the_next_move(driver: Callable[..., SharedStudy], monkeypatch: pytest.MonkeyPatch) -> None:
    one = driver()

    def broken(*_: Any, **__: Any) -> None:
        raise optuna.exceptions.StorageInternalError("down")

    monkeypatch.setattr(one._study, "get_trials", broken)
    with pytest.raises(
        LaconicError, match="cannot be reached any more: StorageInternalError: down. What was finished is in .*run1; the same command"
    ):
        one.claim(RECIPE, PLAIN)


PRUNED = [
    lc.Recipe((lc.Prune(macs=share, recovery={"epochs": 30, "lr": 1e-3, "batch_size": 4}),), RECIPE.deploy)
    for share in (0.8, 0.65, 0.5, 0.35)
]
CHOSEN = lc.Options(rounds=3, turn_seconds=0.01, candidate_timeout_s=300)


def optimize(folder: Path, place: str) -> dict[str, Any]:
    """The smallest file wins, so that the winner does not hang on times."""
    torch.manual_seed(0)
    task = tiny.task(nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10)))
    budget = lc.Budget(max_drop=100.0, objective="size")
    return dict(lc.optimize(task, budget, out=folder, recipes=PRUNED, options=CHOSEN, study=place).data)


@pytest.mark.slow
def test_two_drivers_share_the_candidates_and_one_is_killed_in_the_middle_of_one(postgres: str, tmp_path: Path) -> None:
    """What the killed one had told is not computed again; what it was at is computed by the other, which comes to the same winner."""
    code = f"from pathlib import Path; from tests.search.test_study import optimize; optimize(Path({str(tmp_path / 'a')!r}), {postgres!r})"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    first = subprocess.Popen([sys.executable, "-c", code], env=environment, stdout=subprocess.DEVNULL)

    def trials() -> list[Any]:
        try:
            study = optuna.load_study(storage=storage, study_name="tiny")
        except KeyError:
            return []
        return [trial for trial in study.get_trials() if trial.user_attrs["holder"]["pid"] == first.pid]

    def kill() -> None:
        """Kill it while it is at a candidate, once it has told of one."""
        while first.poll() is None:
            states = {trial.state.name for trial in trials()}
            if states >= {"COMPLETE", "RUNNING"}:
                first.kill()
            time.sleep(0.02)

    storage, end = storage_at(postgres, postgres)
    try:
        while first.poll() is None and not trials():
            time.sleep(0.1)
        killing = threading.Thread(target=kill)
        killing.start()
        data = optimize(tmp_path / "b", postgres)
        killing.join()
        found = optuna.load_study(storage=storage, study_name="tiny").get_trials()
    finally:
        first.kill()
        first.wait()
        end()
    assert first.returncode == -9
    told = [trial.user_attrs["key"] for trial in found if "record" in trial.user_attrs]
    assert sorted(told) == sorted(recipe.key for recipe in PRUNED), "each was computed, and none twice"
    left = [trial for trial in found if "record" not in trial.user_attrs]
    assert [trial.user_attrs["void"] for trial in left] == [f"process {first.pid} on {socket.gethostname()} is gone"]
    assert {trial.state.name for trial in left} == {"FAIL"}
    assert data["best"] == PRUNED[-1].key
    assert [record["status"] for record in data["candidates"]] == ["passed"] * len(PRUNED)
    by_first = {
        trial.user_attrs["key"] for trial in found if "record" in trial.user_attrs and trial.user_attrs["holder"]["pid"] == first.pid
    }
    noted = {record["key"] for record in data["candidates"] if any("a driver of the study" in note for note in record["notes"])}
    assert noted == by_first != set()
    assert sum(data["study"]["candidates"].values()) == len(PRUNED)
    assert "secret" not in (tmp_path / "b" / "result.json").read_text()
    assert (tmp_path / "b" / "candidates" / data["best"] / "artifact").is_dir()
