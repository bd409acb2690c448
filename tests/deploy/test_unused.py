from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import laconic as lc
from laconic.core.graph import unused_parameters
from laconic.core.target import Target
from laconic.deploy.artifact import save_artifact
from laconic.deploy.runtime import default_for, runtime
from tests.deploy.formats import WRITABLE


class WithAuxiliaryHead(nn.Module):
    """As Inception, GoogLeNet and DeepLab have one: it answers in training alone, or its answer is dropped in evaluation."""

    def __init__(self, computed: bool) -> None:
        super().__init__()
        self.stem, self.norm, self.head = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 3)
        self.aux = nn.Sequential(nn.Linear(4, 2000), nn.ReLU(), nn.Linear(2000, 3))
        self.computed = computed

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        hidden = self.norm(self.stem(x)).mean((2, 3))
        if self.training:
            return self.head(hidden), self.aux(hidden)
        if self.computed:
            self.aux(hidden)
        return self.head(hidden)


@pytest.fixture(scope="module", params=[False, True], ids=["not computed", "computed and dropped"])
def program(request: pytest.FixtureRequest) -> lc.Program:
    torch.manual_seed(0)
    return lc.capture(WithAuxiliaryHead(request.param), torch.randn(2, 1, 8, 8))


def test_what_reaches_no_output_is_counted_apart(program: lc.Program) -> None:
    counts = lc.count(program)
    assert set(unused_parameters(program)) == {name for name, _ in program.named_parameters() if name.startswith("aux.")}
    assert (counts.params, counts.unused_params) == (4 * 9 + 4 + 8 + 15, 5 * 2000 + 3 * 2001)
    assert counts.macs == 6 * 6 * 4 * 9 + 4 * 3


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("kind", WRITABLE)
def test_no_file_holds_it(program: lc.Program, kind: str, training: bool, tmp_path: Path) -> None:
    x = torch.randn(3, 1, 8, 8)
    with torch.no_grad():
        expected = program.eval()(x)
    found = save_artifact(program.train(training), tmp_path, Target(default_for(kind)), {})
    program.eval()
    assert found.size_bytes < 4 * lc.count(program).unused_params
    assert "aux.0.weight" in program.state_dict()
    answer = runtime(found.target.runtime).load(found.file, found.target).run([x.numpy()])[0]
    assert np.allclose(answer, expected.numpy(), atol=1e-5)
