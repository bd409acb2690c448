"""The process in which a user's code is met for the first time, the model trained, and models built: the other side of `trial.Trial` and `build.Builder`."""

from __future__ import annotations

import contextlib
import faulthandler
import traceback
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from laconic.core.errors import NAMED, LaconicError, WorkerFailed
from laconic.core.program import Program
from laconic.core.reading import own_frame, told
from laconic.core.task import Task
from laconic.deploy.child import Channel, answer_requests
from laconic.run import base, sharing
from laconic.run.examples import read_logits, write_examples
from laconic.run.isolation import NotIsolated, import_like, unpacked
from laconic.run.relay import Sender
from laconic.run.sizing import write_table
from laconic.run.stepwise import build_model
from laconic.tasks import metrics

Request = Mapping[str, Any]


class Server:
    """Does what is asked, for the task that was sent or for the one that a request names."""

    def __init__(self) -> None:
        self._sent: Task | None = None
        self._loaded: tuple[object, Task] | None = None
        # what may meet the user's code for the first time
        self._first: Mapping[str, Callable[[Request, Channel], dict[str, Any]]] = {
            "data": self._read,
            "capture": self._capture,
            "train": self._train,
            "score": self._score,
        }

    def answer(self, request: dict[str, Any], channel: Channel) -> dict[str, Any]:
        """Answer one request; of a model that was built there is no more to tell than that it is done."""
        import_like(request["paths"])
        if channel.payload and request["op"] == "check":
            try:
                self._sent = unpacked(channel.payload)
            except NotIsolated as error:
                return {"mistakes": "", "other": str(error)}
        if request["op"] == "task":
            self._sent = unpacked(channel.payload)
        elif request["op"] == "check":
            with _told_where_it_hangs(request["limit_s"]):
                return self._tried(request)
        elif request["op"] in self._first:
            return _named(lambda: self._first[request["op"]](request, channel))
        elif request["op"] == "sizes":
            write_table(request, self._task(request), Sender(channel.send))
        else:
            build_model(request, self._task(request), Sender(channel.send))
        return {}

    def _read(self, request: Request, channel: Channel) -> dict[str, Any]:
        task, sender = self._given(request), Sender(channel.send)
        data = getattr(task, request["name"])
        write_examples(task, data, Program.load(request["source"]), Path(request["folder"]), told=lambda index: sender.alive())
        return {}

    def _capture(self, request: Request, channel: Channel) -> dict[str, Any]:
        return {"notes": base.capture_to(self._given(request), request["file"], request["state"], request["weights"])}

    def _train(self, request: Request, channel: Channel) -> dict[str, Any]:
        return {"epochs": base.train(self._given(request), Path(request["checkpoint"]), Sender(channel.send), Path(request["state"]))}

    def _score(self, request: Request, channel: Channel) -> dict[str, Any]:
        task = self._given(request)
        program, data = Program.load(request["source"]), getattr(task, request["name"])
        logits = read_logits(task, program, Path(request["answers"]), data)
        metrics.of(task).score(logits, write_examples(task, data, program, Path(request["folder"])).target)
        return {}

    def _tried(self, request: Request) -> dict[str, str]:
        """Return what is wrong with a task, and what else it raised.

        Raises:
            WorkerFailed: its code left; with the place.
        """
        from laconic.tasks.check import check_task

        try:
            check_task(self._given(request))
        except LaconicError as error:
            return {"mistakes": str(error), "other": ""}
        except MemoryError:
            raise
        except Exception as error:  # noqa: BLE001 - whatever it is, it is the task's, and harmless: it is met where the task is loaded
            return {"mistakes": "", "other": f"{type(error).__name__}: {error}"}
        except BaseException as error:
            raise _left(error) from error
        return {"mistakes": "", "other": ""}

    def _given(self, request: Request) -> Task:
        task = self._task(request)
        assert task is not None
        return task

    def _task(self, request: Request) -> Task | None:
        if request["task"] is None:
            return self._sent
        key = (request["task"], request["data"], request["seed"])
        if self._loaded is None or self._loaded[0] != key:
            from laconic.tasks.catalog import load

            self._loaded = key, load(request["task"], data=request["data"], seed=request["seed"])
        return self._loaded[1]


def _named(work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Return an answer, or the name and text of the error to be raised in its place where it was asked for.

    Raises:
        WorkerFailed: the user's code left.
    """
    try:
        return work()
    except (MemoryError, WorkerFailed):
        raise
    except LaconicError as error:
        kind = next(kind.__name__ for kind in type(error).__mro__ if kind.__name__ in NAMED)
        return {"raised": kind, "text": str(error)}
    except Exception as error:  # noqa: BLE001 - the user's own
        return {"raised": "BadInput", "text": f"the task's own code raised {told(error)}{_place(error) if own_frame(error) else ''}"}
    except BaseException as error:
        raise _left(error) from error


def _left(error: BaseException) -> WorkerFailed:
    return WorkerFailed(f"it raised {type(error).__name__}: {error}{_place(error)}", "crash")


@contextlib.contextmanager
def _told_where_it_hangs(limit_s: float) -> Iterator[None]:
    """Write down where this process is, shortly before it is ended for want of an answer."""
    faulthandler.dump_traceback_later(0.9 * limit_s)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()


def _place(error: BaseException) -> str:
    """Return where something was raised: in the code of the user's, or in the last line of all."""
    frames = traceback.extract_tb(error.__traceback__)
    frame = own_frame(error) or (frames[-1] if frames else None)
    return f" ({frame.filename}, line {frame.lineno}, in {frame.name})" if frame is not None else ""


if __name__ == "__main__":
    faulthandler.enable()  # a crash says where
    sharing.forget()
    answer_requests(Server().answer)
