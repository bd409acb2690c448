"""Who builds what will be needed soon, while the run checks and times what is built: several processes here, or on other machines.

The run itself goes through its candidates one after the other, in their order, and each decision is made from what came before in that order. A crew only
makes model files a little earlier than they are asked for: into folders named by digests of their steps, where the run finds them. So the records of a run are
those of a run without a crew, times aside. While something is timed, the crew stands still.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from laconic.core.errors import WorkerFailed
from laconic.core.files import alone
from laconic.deploy.runtime import runtime
from laconic.run.recipe import Recipe
from laconic.run.stepwise import DONE, beginnings_of, is_made

UNSENDABLE = "unsendable"  # kind of failure of a member that cannot have the task; the run then builds by itself
_POLL_S = 0.2
Name = tuple[str, str]  # of a model file: the key of its steps, and its format


class Member(Protocol):
    """Builds one model file at a time."""

    deadline: float | None

    def file(self, recipe: Recipe, kind: str) -> Path:
        """Return the model file of a recipe in a format, built if it is not there; raises WorkerFailed."""

    def pause(self) -> None:
        """Use no processor time of this machine until `resume`."""

    def resume(self) -> None:
        """Go on."""

    def kill(self) -> None:
        """Let a build that goes on in another thread fail now, and build nothing more."""

    def close(self) -> None:
        """End the processes."""


@dataclass
class _Job:
    """A model file that somebody builds or has built; why it failed, if it did."""

    recipe: Recipe
    running: bool = True
    failed: Exception | None = None


class NoCrew:
    """Nobody builds ahead: the run builds what it needs when it needs it."""

    def expect(self, recipes: Iterable[Recipe], deadline: float | None) -> None:
        """Do nothing; see `Crew`."""

    def built(self, recipe: Recipe, kind: str) -> bool:
        """Return False: nobody has; see `Crew`."""
        return False

    def paused(self) -> AbstractContextManager[None]:
        """Return a context in which nobody builds; see `Crew`."""
        return contextlib.nullcontext()

    def close(self) -> None:
        """Do nothing; see `Crew`."""


class Crew(NoCrew):
    """Members in threads of their own.

    Args:
        members: make a member each, in the thread that uses it: a process ends with the thread that started it.
        models: the folder of models.
        turn: file that is locked while something is timed, by whoever does so.
        gate: held while something is timed; a member starts processes under it.
        told: hears what went wrong with the crew itself.
    """

    def __init__(
        self, members: Sequence[Callable[[], Member]], models: Path, turn: Path, gate: threading.RLock, told: Callable[[str], None]
    ) -> None:
        self._models, self._turn, self._gate, self._told = models, turn, gate, told
        self._changed = threading.Condition()
        self._order: list[Recipe] = []
        self._jobs: dict[Name, _Job] = {}
        self._members: list[Member] = []
        self._deadline: float | None = None
        self._over, self._depth = False, 0
        self._threads = [threading.Thread(target=self._work, args=(make,), daemon=True) for make in members]
        for thread in self._threads:
            thread.start()

    # The run's side -----------------------------------------------------------------------------------------------------------------

    def expect(self, recipes: Iterable[Recipe], deadline: float | None) -> None:
        """Say what will be needed, the next first, in place of what was said before.

        Args:
            recipes: whose models are not known to be there.
            deadline: of `time.monotonic`; what is built later is ended.
        """
        ordered = list(recipes)
        with self._changed:
            self._order, self._deadline = ordered, deadline
            self._changed.notify_all()

    def built(self, recipe: Recipe, kind: str) -> bool:
        """Wait until the crew has built a model file that it builds, or that trains; returns whether it has. False: the caller is to build it.

        Raises:
            WorkerFailed: it could not be built; asked again, it is tried again.
        """
        name = _name(recipe, kind)
        with self._changed:
            if name not in self._jobs:
                if not any(config.trained() for config in recipe.steps) or kind != _kind(recipe):
                    self._order = [one for one in self._order if _name(one) != name]
                    return False
                self._order.insert(0, recipe)
                self._changed.notify_all()
            while self._lives() and ((job := self._jobs.get(name)) is None or job.running):
                self._changed.wait(_POLL_S)
            job = self._jobs.pop(name, None)
        if job is None or job.running or getattr(job.failed, "kind", "") == UNSENDABLE:
            return False
        if job.failed is not None:
            raise job.failed
        return True

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Let nobody of the crew compute on this machine meanwhile, for something is timed. To be called by the run's own thread; may be nested."""
        if self._depth:
            yield
            return
        with self._gate, alone(self._turn):
            self._depth += 1
            for member in [*self._members]:
                member.pause()
            try:
                yield
            finally:
                for member in [*self._members]:
                    member.resume()
                self._depth -= 1

    def close(self) -> None:
        """End all members and their threads; what they were building is built by the next run that needs it."""
        with self._changed:
            self._over = True
            self._changed.notify_all()
        for member in [*self._members]:
            member.kill()
        for thread in self._threads:
            thread.join()

    # The members' side --------------------------------------------------------------------------------------------------------------

    def _lives(self) -> bool:
        return any(thread.is_alive() for thread in self._threads)

    def _work(self, make: Callable[[], Member]) -> None:
        member = make()
        self._members.append(member)
        try:
            while (job := self._next()) is not None:
                member.deadline = self._deadline
                self._do(member, job)
        finally:
            self._members.remove(member)
            member.close()

    def _do(self, member: Member, job: _Job) -> None:
        failed: Exception | None = None
        try:
            member.file(job.recipe, _kind(job.recipe))
        except WorkerFailed as error:
            failed = error
            if error.kind == UNSENDABLE and not self._over:
                self._told(f"nothing is built ahead: {error}")
                self._over = True
        except Exception as error:  # noqa: BLE001 - it is the candidate's, and raised where this one has its turn
            failed = error
        with self._changed:
            job.running, job.failed = False, failed
            self._changed.notify_all()

    def _next(self) -> _Job | None:
        """Return what to build next, as soon as there is something; None in the end."""
        with self._changed:
            while not self._over:
                making = {key for job in self._jobs.values() if job.running for key in self._makes(job.recipe)}
                for recipe in self._order:
                    name = _name(recipe)
                    if name in self._jobs or self._is_there(name) or making & self._makes(recipe):
                        continue
                    self._order = [one for one in self._order if _name(one) != name]
                    self._jobs[name] = _Job(recipe)
                    return self._jobs[name]
                self._changed.wait(_POLL_S)
        return None

    def _is_there(self, name: Name) -> bool:
        return (self._models / name[0] / name[1] / DONE).exists()

    def _makes(self, recipe: Recipe) -> set[str]:
        """Return the keys of the steps whose programs come into being with a recipe's: another one that needs them would only wait."""
        keys = [one.steps_key or "base" for one in (*beginnings_of(recipe), recipe)]
        return {key for key in keys if not is_made(self._models / key)}


def _kind(recipe: Recipe) -> str:
    return runtime(recipe.deploy.runtime).format_in(recipe.deploy.precision)


def _name(recipe: Recipe, kind: str | None = None) -> Name:
    return recipe.steps_key or "base", kind or _kind(recipe)
