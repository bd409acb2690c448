from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from laconic.core.capture import capture
from laconic.core.program import Program
from laconic.run import source


def test_a_small_source_is_read_once_and_given_out_as_copies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = capture(nn.Linear(4, 2), torch.randn(2, 4)).save(tmp_path / "program.pt2")
    expected, load, read = Program.load(path).fingerprint(), Program.load, list[Path]()
    monkeypatch.setattr(Program, "load", staticmethod(lambda given: (read.append(given), load(given))[1]))
    first = source.read_source(path)
    with torch.no_grad():
        first.get_parameter("weight").zero_()
    first.graph.erase_node(first.graph.output_node())
    assert source.read_source(path).fingerprint() == expected
    assert len(read) == 1
    capture(nn.Linear(4, 3), torch.randn(2, 4)).save(path)
    assert source.read_source(path).outputs[0].shape == ("batch", 3)
    monkeypatch.setattr(source, "KEPT_BYTES", 0)
    source.read_source(path)
    assert len(read) == 3
