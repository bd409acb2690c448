"""ExecuTorch files: pairs as XNNPACK takes them, and int8 files that answer as their rounded program does."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import laconic as lc
from laconic.core.errors import BadInput
from laconic.core.target import Target
from laconic.deploy import qdq
from laconic.deploy.executorch.placed import qd, signed
from laconic.deploy.executorch.write import write_pte
from laconic.deploy.parity import parity
from laconic.deploy.runtime import runtime
from laconic.tasks.data import ArrayDataset
from tests.quantization.nets import Residual

DATA = torch.randn(32, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def rounded(net: nn.Module, target: str) -> lc.Program:
    torch.manual_seed(0)
    data = ArrayDataset(DATA.numpy(), np.zeros(len(DATA), np.int64))
    task = lc.Task(net.eval(), data, data)
    return lc.quantize(lc.capture(net, (DATA[:2],)), lc.Quantize(target=target), task)[0]


@pytest.fixture(scope="module")
def residual() -> lc.Program:
    return rounded(Residual(), "executorch")


def test_signed_codes_stand_for_the_same_numbers(residual: lc.Program) -> None:
    before = qdq.lower(residual)
    after = signed(qdq.lower(residual))
    with torch.no_grad():
        torch.testing.assert_close(after.graph_module(DATA), before.graph_module(DATA), rtol=0, atol=0)
    pairs = [node for node in after.graph.nodes if node.target in (qd.quantize_per_tensor.default, qd.dequantize_per_tensor.default)]
    assert pairs
    assert all(node.args[-1] == torch.int8 and -128 <= node.args[2] <= 127 for node in pairs)
    assert any(node.args[-1] == torch.uint8 for node in before.graph.nodes if node.target is qd.quantize_per_tensor.default)


def test_each_reader_has_a_dequantize_of_its_own(residual: lc.Program) -> None:
    nodes = [node for node in signed(qdq.lower(residual)).graph.nodes if node.target is qd.dequantize_per_tensor.default]
    assert nodes
    assert all(len(node.users) == 1 for node in nodes)


def test_an_unknown_backend_is_told_with_the_nearest(residual: lc.Program, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="'vulcan' is not a backend of ExecuTorch. Did you mean 'vulkan'"):
        write_pte(residual, tmp_path / "m.pte", "m.pte", backend="vulcan")


@pytest.mark.slow
def test_an_int8_file_answers_as_its_rounded_program(residual: lc.Program, tmp_path: Path) -> None:
    if why := runtime("executorch").available():
        pytest.skip(why)
    artifact = lc.export(residual, tmp_path / "model.pte", threads=1)
    assert artifact.numerics == "int8"
    assert b"XnnpackBackend" in artifact.file.read_bytes()
    with torch.no_grad():
        wanted = [leaf.numpy() for leaf in residual.graph_module(DATA)]
    given = runtime("executorch").load(artifact.file, Target("executorch", threads=1)).run([DATA.numpy()])  # in pieces: a file takes 16
    assert parity(given, wanted)["sqnr_db"] > 25
