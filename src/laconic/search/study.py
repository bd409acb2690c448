"""One Optuna study that several drivers share, each with its own machine and run's folder: who computes which candidate, and what became of it.

A candidate is claimed before it is computed: a trial appears in the study, at once with the candidate's key and its holder (process, when that started,
machine). The storage numbers trials one after the other, so of two drivers that claim a key at the same moment the lower number has it and the other gives way.
A trial that runs and whose holder is gone (on this machine: no such process; on another: it has not said for a minute that it lives) is reaped: it fails, and
its candidate is anybody's again. What was measured is told with the whole record, so that others need not compute it.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from laconic.core.errors import BadInput, LaconicError, need
from laconic.core.files import sha256, write_whole
from laconic.core.lease import Holder
from laconic.core.records import to_json
from laconic.deploy.runtime import packages
from laconic.measure.environment import environment
from laconic.run.recipe import Recipe
from laconic.run.record import Record
from laconic.search.study_place import hidden, line, sql_errors, storage_at

if TYPE_CHECKING:
    import optuna
    from optuna.distributions import BaseDistribution

    from laconic.search.budget import Budget

RENEWED_S = 15.0  # how often a driver says that it lives
STALE_S = 60.0  # for so long one of another machine says nothing before it counts as gone
POLL_S = 0.5  # between two looks at what others still compute
_JOINED_S = 10.0  # so long whoever created the study has to say what it is of
_OF, _KEY, _HOLDER, _RECORD, _PROPOSAL = "laconic", "key", "holder", "record", "proposal"  # names of attributes
_MEASURED = ("passed", "rejected")


@dataclass(frozen=True)
class Settings:
    """What a candidate is in the terms of the study: parameters by name, their distributions, and whether a sampler proposed it."""

    params: Mapping[str, Any]
    distributions: Mapping[str, BaseDistribution]
    proposal: bool = False


@dataclass(frozen=True)
class Told:
    """What a driver told of a candidate: its record, the parameters of its trial, the driver in words, and the folder of its run."""

    record: Record
    params: Mapping[str, Any]
    by: str
    folder: Path
    files: Mapping[str, str]


class NoStudy:
    """The run is on its own: every candidate is its own to compute."""

    shared = False

    def result(self, key: str) -> Told | None:
        """Return None: nobody else computed it; see `SharedStudy`."""
        return None

    def claim(self, recipe: Recipe, settings: Settings) -> bool:
        """Return True: it is this run's to compute; see `SharedStudy`."""
        return True

    def tell(self, key: str, record: Record) -> None:
        """Do nothing; see `SharedStudy`."""

    def give_up(self, key: str | None = None) -> None:
        """Do nothing; see `SharedStudy`."""

    def news(self) -> list[Told]:
        """Return nothing; see `SharedStudy`."""
        return []

    def elsewhere(self) -> set[str]:
        """Return nothing; see `SharedStudy`."""
        return set()

    def proposed(self) -> int:
        """Return 0: nobody else proposes; see `SharedStudy`."""
        return 0

    def fetch(self, record: Record, folder: Path) -> bool:
        """Return False: nobody else has it; see `SharedStudy`."""
        return False

    def facts(self) -> dict[str, Any] | None:
        """Return None: there is none to tell of; see `SharedStudy`."""
        return None

    def close(self) -> None:
        """Do nothing; see `SharedStudy`."""


class SharedStudy(NoStudy):
    """A study in a database, or in a journal file of Optuna's.

    Args:
        place: ``postgresql://USER@HOST/DATABASE`` (any URL that SQLAlchemy knows), or the path of a journal file.
        name: of the study; it is created where there is none of that name.

    Raises:
        BadInput: the place cannot be used; says why.
        MissingExtra: a package is not installed.
    """

    shared = True

    def __init__(self, place: str, name: str) -> None:
        package = need("optuna", "search")
        package.logging.set_verbosity(package.logging.WARNING)
        self.place, self.name = hidden(place), name
        self._storage, self._end = storage_at(place, self.place)
        self._study: optuna.study.Study
        self._me = replace(Holder.here(), thread=0)
        self._budget: Budget
        self._folder = Path()
        self._mine: dict[str, int] = {}  # numbers of trials that run, by the key of their candidate
        self._beats: dict[str, tuple[int, float]] = {}  # of other drivers: how often they said that they live, and since when that stands
        self._over = threading.Event()
        self._renewing: threading.Thread | None = None

    def join(self, facts: Mapping[str, Any], budget: Budget, folder: Path) -> None:
        """Become one of its drivers.

        Args:
            facts: what must be the same for all of them, by name.
            budget: by which candidates are ordered.
            folder: of this driver's run.

        Raises:
            BadInput: the study is of something else; says of what.
        """
        self._budget, self._folder = budget, folder.resolve()
        with self._reached():
            created = self._opened()
            if created:
                self._study.set_user_attr(_OF, to_json(facts))
            self.agree(facts)
        self._say(0)
        self._renewing = threading.Thread(target=self._renew, daemon=True)
        self._renewing.start()

    def _opened(self) -> bool:
        """Open the study; returns whether it was created."""
        import optuna

        sampler = optuna.samplers.RandomSampler()  # nothing is asked of it
        try:
            self._study = optuna.create_study(storage=self._storage, study_name=self.name, sampler=sampler)
            return True
        except optuna.exceptions.DuplicatedStudyError:
            self._study = optuna.load_study(storage=self._storage, study_name=self.name, sampler=sampler)
            return False

    def agree(self, facts: Mapping[str, Any]) -> None:
        """Hold facts of this driver against what the study is of; what it does not know yet it knows from now on.

        Raises:
            BadInput: they differ, or the study is not Laconic's.
        """
        until = time.monotonic() + _JOINED_S
        while (known := self._study.user_attrs.get(_OF)) is None:
            if self._study.get_trials(deepcopy=False):
                raise BadInput(f"the study '{self.name}' in {self.place} is not one of laconic's. Choose another name with --study-name.")
            if time.monotonic() > until:  # whoever created it was ended before
                known = {}
                break
            time.sleep(POLL_S)
        facts = to_json(facts)
        for name in facts:
            if name in known and known[name] != facts[name]:
                raise BadInput(
                    f"the study '{self.name}' in {self.place} cannot be joined: its {_told(name, known[name], facts[name])}. What several drivers find "
                    "can be compared only where this is the same; choose another name with --study-name for a study of its own."
                )
        if not set(facts) <= set(known):
            self._study.set_user_attr(_OF, {**known, **facts})

    # Candidates ---------------------------------------------------------------------------------------------------------------------

    def result(self, key: str) -> Told | None:
        """Return what was told of a candidate; None where nothing was yet."""
        return next((_read(trial) for trial in self._valid() if trial.user_attrs[_KEY] == key and _RECORD in trial.user_attrs), None)

    def claim(self, recipe: Recipe, settings: Settings) -> bool:
        """Return whether this driver is to compute a candidate: nobody else computes it, or has."""
        import optuna

        with self._reached():
            if (first := self._first(recipe.key)) is None:
                attributes = {_KEY: recipe.key, "title": recipe.title, _HOLDER: asdict(self._me), "folder": str(self._folder)}
                trial = optuna.trial.create_trial(
                    state=optuna.trial.TrialState.RUNNING,
                    params=dict(settings.params),
                    distributions=dict(settings.distributions),
                    user_attrs={**attributes, _PROPOSAL: settings.proposal},
                )
                self._study.add_trial(trial)
                first = self._first(recipe.key)
            mine = [t for t in self._running() if self._is_mine(t) and t.user_attrs[_KEY] == recipe.key]
            for trial in mine:
                if first is not None and trial.number != first.number:
                    self._void(trial, "another driver was before")
            if first is None or not any(trial.number == first.number for trial in mine):
                return False
            self._mine[recipe.key] = first.number
            return True

    def tell(self, key: str, record: Record) -> None:
        """Let the others know what became of a claimed candidate; of one that was not measured for a cause of this moment, that it is anybody's again."""
        import optuna

        if record.status not in (*_MEASURED, "failed") or (record.status == "failed" and record.reasons[-1].rule == "killed"):
            return self.give_up(key)
        value, short = self._budget.order(record), self._budget.shortfall(record)
        measured = record.status in _MEASURED and value < float("inf")
        with self._reached():
            number = self._mine.pop(key, None)
            running = next((trial for trial in self._running() if trial.number == number), None)
            if running is None:  # it was taken for gone: another driver has it, and makes the same
                return
            trial = optuna.trial.Trial(self._study, running._trial_id)
            with contextlib.suppress(optuna.exceptions.UpdateFinishedTrialError):
                trial.set_user_attr("status", record.status)
                trial.set_user_attr("why", "; ".join(reason.text for reason in record.reasons))
                for name in ("drop", "speedup"):
                    trial.set_user_attr(name, record.value(name))
                trial.set_user_attr("files", self._files(key))
                trial.set_constraint("budget", short)
                trial.set_user_attr(_RECORD, to_json(record))
                state = optuna.trial.TrialState.COMPLETE if measured else optuna.trial.TrialState.FAIL
                self._study.tell(trial, value if measured else None, state=state, skip_if_finished=True)
        return None

    def give_up(self, key: str | None = None) -> None:
        """Let others compute a candidate that this driver claimed; all of them where none is named."""
        keys = [key] if key is not None else [*self._mine]
        with self._reached():
            for one in keys:
                number = self._mine.pop(one, None)
                for trial in self._running():
                    if trial.number == number:
                        self._void(trial, "given up")

    def news(self) -> list[Told]:
        """Return all that was told, in the order in which it was claimed."""
        return [_read(trial) for trial in self._valid() if _RECORD in trial.user_attrs]

    def elsewhere(self) -> set[str]:
        """Return the keys of candidates that other drivers compute now."""
        return {trial.user_attrs[_KEY] for trial in self._valid() if not trial.state.is_finished() and not self._is_mine(trial)}

    def proposed(self) -> int:
        """Return how many of a sampler's proposals were claimed by anybody."""
        return sum(bool(trial.user_attrs.get(_PROPOSAL)) for trial in self._valid())

    def _valid(self) -> list[optuna.trial.FrozenTrial]:
        """Return the trials that hold their candidate, the first of each key: those that run and whose holder lives, and those of which a record was told."""
        with self._reached():
            self._reap()
            found: dict[str, optuna.trial.FrozenTrial] = {}
            for trial in self._trials():
                if not trial.state.is_finished() or _RECORD in trial.user_attrs:
                    found.setdefault(trial.user_attrs[_KEY], trial)
            return [*found.values()]

    def _first(self, key: str) -> optuna.trial.FrozenTrial | None:
        return next((trial for trial in self._valid() if trial.user_attrs[_KEY] == key), None)

    def _trials(self) -> list[optuna.trial.FrozenTrial]:
        """Return the trials that are Laconic's, by number: somebody may have added others."""
        return [trial for trial in self._study.get_trials(deepcopy=False) if _KEY in trial.user_attrs and _HOLDER in trial.user_attrs]

    def _running(self) -> list[optuna.trial.FrozenTrial]:
        return [trial for trial in self._trials() if not trial.state.is_finished()]

    def _is_mine(self, trial: optuna.trial.FrozenTrial) -> bool:
        return bool(trial.user_attrs[_HOLDER] == asdict(self._me))

    def _void(self, trial: optuna.trial.FrozenTrial, why: str) -> None:
        """Let a trial that runs fail without a record: its candidate is anybody's again."""
        import optuna

        with contextlib.suppress(optuna.exceptions.UpdateFinishedTrialError):
            optuna.trial.Trial(self._study, trial._trial_id).set_user_attr("void", why)
        self._study.tell(trial.number, state=optuna.trial.TrialState.FAIL, skip_if_finished=True)

    # Files --------------------------------------------------------------------------------------------------------------------------

    def _files(self, key: str) -> dict[str, str]:
        """Return the SHA-256 of what there is of a candidate in this run's folder."""
        place = self._folder / "candidates" / key
        return {path.relative_to(place).as_posix(): sha256(path) for path in sorted(place.rglob("*")) if path.is_file()}

    def fetch(self, record: Record, folder: Path) -> bool:
        """Copy what another driver made of a candidate into a run's folder, where its folder is seen here; returns whether it is as it was told."""
        told = self.result(record.key)
        if told is None or "check.json" not in told.files:
            return False
        place, to = told.folder / "candidates" / record.key, folder / "candidates" / record.key
        last = ("timing.json", "check.json")  # what says that the rest is whole
        names = sorted(told.files, key=lambda name: last.index(name) if name in last else -1)
        try:
            contents = {name: (place / name).read_bytes() for name in names if ".." not in Path(name).parts}
            if any(sha256(place / name) != told.files[name] for name in contents):
                return False
        except (OSError, LaconicError):
            return False
        for name, content in contents.items():
            write_whole(to / name, content)
        return True

    def facts(self) -> dict[str, Any]:
        """Return what is told of the study: place, name, and how many candidates each driver computed."""
        counts: dict[str, int] = {}
        for told in self.news():
            counts[told.by] = counts.get(told.by, 0) + 1
        return {"place": self.place, "name": self.name, "candidates": counts, "by": _words(asdict(self._me))}

    # Who lives ----------------------------------------------------------------------------------------------------------------------

    def _reap(self) -> None:
        """Void what runs in the name of drivers that are gone."""
        running = [trial for trial in self._running() if not self._is_mine(trial)]
        for trial in running:
            holder = Holder(**trial.user_attrs[_HOLDER])
            if holder.gone() or (holder.host != self._me.host and self._silent(holder)):
                self._void(trial, f"{_words(asdict(holder))} is gone")

    def _silent(self, holder: Holder) -> bool:
        """Return whether a driver of another machine has not said for a while that it lives, by the clock of this one."""
        name = _beat(holder)
        beat, now = int(self._study.user_attrs.get(name, -1)), time.monotonic()
        if name not in self._beats or self._beats[name][0] != beat:
            self._beats[name] = (beat, now)
        return now > self._beats[name][1] + STALE_S

    def _say(self, beat: int) -> None:
        with self._reached():
            self._study.set_user_attr(_beat(self._me), beat)

    def _renew(self) -> None:
        beat = 0
        while not self._over.wait(RENEWED_S):
            beat += 1
            with contextlib.suppress(Exception):
                self._say(beat)

    def close(self) -> None:
        """Leave the study: what was claimed and not computed is anybody's again."""
        self._over.set()
        if self._renewing is not None:
            self._renewing.join()
            self._renewing = None
            with contextlib.suppress(LaconicError):
                self.give_up()
        self._end()

    @contextlib.contextmanager
    def _reached(self) -> Iterator[None]:
        """Tell in one line what the storage cannot do."""
        import optuna

        known: tuple[type[Exception], ...] = (optuna.exceptions.StorageInternalError, OSError, *sql_errors())
        try:
            yield
        except known as error:
            told = f"the study '{self.name}' in {self.place} cannot be reached any more: {line(error)}"
            raise LaconicError(f"{told}. What was finished is in {self._folder}; the same command goes on with it.") from error


def this_machine() -> dict[str, Any]:
    """Return what must be the same on the machines of all drivers, so that their times can be compared: processor, cores, versions."""
    here = environment(None, packages())
    return {name: here[name] for name in ("processor", "instructions", "cores", "gpu", "versions")}


# Words ------------------------------------------------------------------------------------------------------------------------------


def _read(trial: optuna.trial.FrozenTrial) -> Told:
    known = trial.user_attrs
    return Told(Record.from_json(known[_RECORD]), trial.params, _words(known[_HOLDER]), Path(known["folder"]), known.get("files", {}))


def _words(holder: Mapping[str, Any]) -> str:
    return f"process {holder['pid']} on {holder['host']}"


def _beat(holder: Holder) -> str:
    return f"lives: {holder.host} {holder.pid} {holder.started}"


def _told(name: str, known: Any, mine: Any) -> str:
    """Return how a fact differs: of facts that have parts, the first part."""
    if isinstance(known, dict) and isinstance(mine, dict):
        part = next(part for part in {**known, **mine} if known.get(part) != mine.get(part))
        return _told(f"{name} ({part})" if name else part, known.get(part), mine.get(part))
    return f"{name} is {known!r}, this driver's is {mine!r}"
