"""Records, schedules and errors."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from laconic.core import schedule
from laconic.core.errors import BadInput, MissingExtra, need
from laconic.core.records import Measurement, Outcome, Skipped, to_json
from laconic.core.task import default_logits, split_batch

SCHEDULES = {
    "constant": schedule.constant(0.3),
    "linear": schedule.linear(0.1, 1.0),
    "cosine": schedule.cosine(1.0, 0.1),
    "polynomial": schedule.polynomial(0.1, 0.9, 3),
    "exponential": schedule.exponential(1.0, 0.1),
    "step": schedule.step(1.0, 0.5, at=(0.3, 0.6)),
    "warmup": schedule.warmup(schedule.cosine(1.0, 0.1), 0.2),
}


@pytest.mark.parametrize("name", SCHEDULES)
@given(progress=st.floats(-2, 3))
def test_schedules_stay_within_their_ends(name: str, progress: float) -> None:
    assert 0.0 <= SCHEDULES[name](progress) <= 1.0 + 1e-12


@pytest.mark.parametrize("name", sorted(set(SCHEDULES) - {"warmup"}))
def test_schedules_hold_their_last_value_past_the_end(name: str) -> None:
    assert SCHEDULES[name](2.0) == SCHEDULES[name](1.0)


def test_cosine_equals_pytorchs() -> None:
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=0.4)
    theirs = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 10, eta_min=0.1)
    ours = schedule.cosine(0.4, 0.1)
    for step in range(11):
        assert math.isclose(ours(step / 10), theirs.get_last_lr()[0], rel_tol=1e-9)
        optimizer.step()
        theirs.step()


def test_records_round_trip_and_say_what_was_not_measured() -> None:
    found = Measurement(1.5, "x", n=3, low=1.25, high=1.75, device="cpu")
    assert Measurement.from_json({**to_json(found), "later": 1}) == found
    assert str(found) == "1.5 [1.25, 1.75] x"
    assert str(Measurement.missing("J", "no counter")) == "not measured: no counter"


def test_to_json_takes_what_records_hold() -> None:
    outcome = Outcome("step", {"a": np.float32(0.5), "b": np.arange(2), "c": math.inf}, (Skipped("x", "why"),))
    assert to_json(outcome) == {
        "step": "step",
        "changed": {"a": 0.5, "b": [0, 1], "c": None},
        "skipped": [{"name": "x", "reason": "why"}],
        "notes": [],
        "title": "",
        "section": "",
        "bits": None,
    }


def test_a_missing_package_names_the_extra() -> None:
    with pytest.raises(MissingExtra, match=r"'no_such_package'.*pip install 'laconic\[hf\]'"):
        need("no_such_package", "hf")


def test_batches_are_split_by_position_or_name() -> None:
    assert split_batch((1, 2)) == (1, 2)
    assert split_batch({"ids": 1, "labels": 2}) == ({"ids": 1}, 2)
    with pytest.raises(BadInput, match="tuple of 3"):
        split_batch((1, 2, 3))
    with pytest.raises(BadInput, match=r"keys \['ids'\]"):
        split_batch({"ids": 1})


def test_logits_are_found() -> None:
    x = torch.ones(1)
    for output in (x, {"logits": x, "a": 0}, {"first": x}, (x, 1), [(x,)]):
        assert default_logits(output) is x
    with pytest.raises(BadInput, match="which part"):
        default_logits(3)
