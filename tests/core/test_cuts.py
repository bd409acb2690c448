"""Where capture stopped, and what it offers."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import laconic as lc
from laconic.core import cuts


class Loop(nn.Module):
    """Halves what is too large, as often as it takes."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.full((4,), 0.5))

    def forward(self, x: Tensor) -> Tensor:
        while x.abs().max().item() > 1:
            x = x * self.scale
        return x


class Nested(nn.Module):
    """A stem, a body that holds a block with a loop between two layers, a large layer that is called twice, and one that forward does not call."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 4))
        self.body = nn.ModuleDict({"first": nn.Linear(4, 4), "loop": Loop(), "last": nn.Linear(4, 10)})
        self.twice, self.never = nn.Linear(4, 4), nn.Linear(4, 30)

    def forward(self, x: Tensor) -> Tensor:
        x = self.body["first"](self.twice(self.twice(self.stem(x))))
        return self.body["last"](self.body["loop"](x))


def test_the_message_names_operator_and_module_and_offers_parts_largest_first() -> None:
    with pytest.raises(lc.CaptureError) as caught:
        lc.capture(Nested(), torch.randn(3, 4))
    told = str(caught.value)
    assert "in the module 'body.loop'" in told
    assert "item" in told
    assert "Task(part='stem') (38 % of the parameters), or Task(part='body.last') (13 % of the parameters) can be captured" in told
    for part in ("twice", "never", "body.loop"):
        assert f"part='{part}'" not in told


class Deep(nn.Module):
    """A wrapper around a whole that stops: its parts are found inside."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = Nested()

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x)


def test_parts_are_found_inside_of_what_stops() -> None:
    with pytest.raises(lc.CaptureError, match=r"in the module 'inner\.body\.loop'.*Task\(part='inner\.stem'\)"):
        lc.capture(Deep(), torch.randn(3, 4))


class Packed(nn.Module):
    """Packs its sequences, for which there is a mend."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.rnn = nn.Linear(4, 4), nn.LSTM(4, 4, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        packed = nn.utils.rnn.pack_padded_sequence(self.stem(x), x.new_full((len(x),), 3, dtype=torch.long), batch_first=True)
        return self.rnn(packed)[1][0]


def test_where_a_mend_is_known_no_part_is_offered() -> None:
    with pytest.raises(lc.CaptureError) as caught:
        lc.capture(Packed(), torch.randn(3, 5, 4))
    assert "mask" in str(caught.value)
    assert "Task(part=" not in str(caught.value)


def test_no_module_is_tried_after_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuts, "SECONDS", 0.0)
    with pytest.raises(lc.CaptureError) as caught:
        lc.capture(Nested(), torch.randn(3, 4))
    assert "Task(part=" not in str(caught.value)
