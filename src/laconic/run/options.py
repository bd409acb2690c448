"""How evidence is gathered."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from laconic.core.errors import BadInput
from laconic.core.fields import check_types
from laconic.measure.cost import Price
from laconic.measure.energy import Metering


@dataclass(frozen=True)
class Options:
    """How evidence is gathered.

    Args:
        batch: examples per call when latency is measured.
        rounds: turns that each of those compared has, at the most; each yields one median, and the interval comes from these.
        turn_seconds: how long a turn is, at the least.
        early_stop: end a candidate's rounds as soon as it is clear that it is rejected or behind the best so far, see `measure.sequential`; and do not try
            what cannot become the fastest any more, see `search.racing`.
        candidate_timeout_s: a candidate that needs longer to build, or to load and answer the valid data, has failed.
        memory_limit_bytes: a process that uses more is ended; None: four fifths of what the machine, or the control group, has free when it starts.
        seed: of every random choice.
        by_step: measure the beginnings of the chosen recipe too, so that the report tells what each step gave; they are not offered.
        wait_quiet: wait, a bounded while, until other work on the machine is little before anything is timed.
        price: of the machine, by the hour or by the kilowatt-hour; a mapping of its options too. None: money is unknown.
        metering: how energy is measured, where a budget asks for it; likewise.

    Raises:
        BadInput: every option that makes no sense.
    """

    batch: int = 1
    rounds: int = 15
    turn_seconds: float = 0.05
    early_stop: bool = True
    candidate_timeout_s: float = 900.0
    memory_limit_bytes: int | None = None
    seed: int = 0
    by_step: bool = False
    wait_quiet: bool = False
    price: Price | None = None
    metering: Metering = field(default_factory=Metering)

    def __post_init__(self) -> None:
        check_types(self, "the options make no sense:")
        for name, kind in (("price", Price), ("metering", Metering)):
            if isinstance(given := getattr(self, name), Mapping):
                try:
                    object.__setattr__(self, name, kind(**given))
                except TypeError as error:
                    raise BadInput(f"the options make no sense: {name}: {error}") from error
        least = {"batch": 1, "rounds": 1, "turn_seconds": 0.0, "candidate_timeout_s": 1e-3, "memory_limit_bytes": 1, "seed": 0}
        mistakes = [
            f"{name}: {value} must be {low:g} or more"
            for name, low in least.items()
            if (value := getattr(self, name)) is not None and value < low
        ]
        if mistakes:
            raise BadInput("the options make no sense:\n" + "\n".join(f"  {m}" for m in mistakes))
