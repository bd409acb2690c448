"""Processes that train leave room for others."""

from __future__ import annotations

import os

import pytest
import torch

from laconic.run import sharing


def test_what_the_user_set_stays_and_what_was_set_here_goes_no_further(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_WAIT_POLICY", "active")
    given = sharing.environment()
    assert "OMP_WAIT_POLICY" not in given
    assert "MALLOC_TRIM_THRESHOLD_" in given
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    sharing.forget()
    assert not given.keys() & os.environ.keys()
    assert os.environ["OMP_WAIT_POLICY"] == "active"


@pytest.mark.parametrize(("share", "passive"), [(0.0, False), (0.5, True), (None, False)])
def test_threads_sleep_while_they_wait_where_others_need_the_cores(
    monkeypatch: pytest.MonkeyPatch, share: float | None, passive: bool
) -> None:
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    monkeypatch.setattr(sharing, "others_share", lambda seconds: share)
    assert (sharing.environment().get("OMP_WAIT_POLICY") == "passive") is passive


@pytest.mark.parametrize(("share", "taken"), [(0.0, 2), (0.6, 1), (None, 2)])
def test_training_takes_the_threads_that_find_a_core(monkeypatch: pytest.MonkeyPatch, share: float | None, taken: int) -> None:
    monkeypatch.setattr(sharing, "others_share", lambda seconds: share)
    monkeypatch.setattr(sharing, "cores", lambda: 2)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with sharing.free_threads():
            assert torch.get_num_threads() == taken
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
