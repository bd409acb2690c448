"""What a step may use of its surroundings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from laconic.core.progress import Progress, silent
from laconic.core.target import Target
from laconic.core.task import Task


@dataclass(frozen=True)
class Context:
    """What a step may use: it is given what trains, prices and teaches, and never imports a training loop, a runtime or a clock.

    Attributes:
        task: model, data, loss, metric; of a task with a part, what `Task.of_part` makes of it.
        fit: `laconic.fit`.
        target: where the result will run.
        seed: of random choices.
        progress: shows long work.
        scratch: a folder for what a step wants to keep.
        placement: the rules by which the target's runtime computes in integers, a name in `quantization.placement.TARGETS`; empty: the runtime's name.
        price: the milliseconds of a layer on the target.
        teacher: the program before all steps, from which a changed one recovers; None: each step's own input.
    """

    task: Task | None = None
    fit: Callable[..., Any] | None = None
    target: Target = field(default_factory=Target)
    seed: int = 0
    progress: Progress = silent
    scratch: Path | None = None
    price: Callable[[Any], float] | None = None
    teacher: Any = None
    placement: str = ""

    def __post_init__(self) -> None:
        """Give steps the task of what is captured: where the task names a part, that part's."""
        if self.task is not None:
            object.__setattr__(self, "task", self.task.of_part())

    @property
    def rules(self) -> str:
        """The placement rules that hold for the target."""
        return self.placement or self.target.runtime
