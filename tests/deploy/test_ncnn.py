"""ncnn files: graphs as text, integers where its kernels read them, two files that belong together."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import laconic as lc
from laconic.core.errors import CorruptFile, ExportError
from laconic.deploy.ncnn.int8 import Rounded, put_in
from laconic.deploy.ncnn.param import Graph, squeezed
from laconic.deploy.parity import parity
from laconic.deploy.runtime import runtime
from tests.deploy.test_executorch import DATA, rounded
from tests.quantization.nets import Residual

PARAM = """7767517
5 5
Input                    in0                      0 1 in0
Convolution              conv_0                   1 1 in0 1 0=2 1=1 5=1 6=4
ReLU                     relu                     1 1 1 2
InnerProduct             fc                       1 1 2 out0 0=2 1=0 2=4
"""


@pytest.fixture
def param(tmp_path: Path) -> Path:
    file = tmp_path / "m.param"
    file.write_text(PARAM)
    return file


def test_a_graph_is_written_as_it_was_read(param: Path) -> None:
    graph = Graph.read(param)
    assert graph.text().split() == PARAM.replace("5 5", "4 4").split()  # layers and blobs, counted
    with pytest.raises(ValueError, match="is not the graph of ncnn"):
        Graph.read(Path(__file__))


def test_blobs_that_kept_their_batch_lose_it(param: Path) -> None:
    taken = squeezed(
        Graph.read(param), 'ex.input("in0", ncnn.Mat(in0.numpy(), batch_index=0).clone())\nout.append(torch.from_numpy(out0.numpy()))'
    )
    lines = [line.split() for line in taken.text().splitlines()[2:]]
    assert [line[0] for line in lines] == ["Input", "Convolution", "ReLU", "InnerProduct", "Squeeze"]
    assert lines[-1][4:] == ["out0_batch", "out0", "-23303=1,0"]
    kept = squeezed(Graph.read(param), "out0.numpy(batch_index=0)")
    assert [layer.kind for layer in kept.layers][:2] == ["Input", "ExpandDims"]
    assert kept.layers[2].inputs == ("in0_batch",)


def test_integers_stand_where_the_kernels_read_them(param: Path) -> None:
    """The layout by hand, after ncnn's Convolution::load_model and ModelBin::load: tag, codes to a multiple of four bytes, bias, inverse steps."""
    conv, bias, fc = np.array([1, 2, 3, 4], "<f4"), np.array([5, 6], "<f4"), np.array([1, -2, 3, -4], "<f4")
    weights = bytes(4) + conv.tobytes() + bias.tobytes() + bytes(4) + fc.tobytes()
    one = Rounded("conv", conv.reshape(2, 2, 1, 1), np.array([25, 50, 75, 100], np.int8), np.array([0.04, 0.04]), 0.5, 2)
    two = Rounded("fc", fc.reshape(2, 2), np.array([1, -2, 3, -4], np.int8), np.array([1.0, 0.5]), 0.25, 0)
    text, content = put_in(param, weights, [two, one])
    tag = bytes([0x38, 0x4B, 0x0D, 0x00])
    expected = tag + bytes([25, 50, 75, 100]) + bias.tobytes() + np.array([25, 25, 2], "<f4").tobytes()
    expected += tag + bytes([1, 254, 3, 252]) + np.array([1, 2, 4], "<f4").tobytes()
    assert content == expected
    assert [layer.option(8) for layer in (Graph.read(_written(param, text))).layers] == [0, 2, 0, 2]


def test_integers_without_a_place_are_refused(param: Path) -> None:
    gone = Rounded("head", np.ones((2, 2), np.float32), np.ones((2, 2), np.int8), np.ones(2), 1.0, 0)
    with pytest.raises(ExportError, match="changed the weights of head"):
        put_in(param, bytes(100), [gone])


def _written(file: Path, text: str) -> Path:
    file.write_text(text)
    return file


def usable() -> None:
    if why := runtime("ncnn").available():
        pytest.skip(why)


@pytest.mark.slow
def test_an_int8_file_answers_as_its_rounded_program(tmp_path: Path) -> None:
    usable()
    program = rounded(Residual(), "ncnn")
    artifact = lc.export(program, tmp_path / "a" / "model.param", threads=1)
    assert artifact.numerics == "int8"
    with torch.no_grad():
        wanted = [leaf.numpy() for leaf in program.graph_module(DATA)]
    assert parity(artifact.session.run([DATA.numpy()]), wanted)["sqnr_db"] > 25
    # two files that belong together: they are copied, measured, packed and checked as one
    beside = tmp_path / "a" / "model.bin"
    assert artifact.size_bytes == artifact.file.stat().st_size + beside.stat().st_size
    copy = artifact.save(tmp_path / "b" / "net.param")
    assert (copy.with_suffix(".bin")).read_bytes() == beside.read_bytes()
    packed = artifact.save(tmp_path / "net.lac")
    restored = lc.Artifact.open(packed)
    assert parity(restored.session.run([DATA.numpy()]), wanted)["sqnr_db"] > 25
    beside.write_bytes(beside.read_bytes()[:-4] + bytes(4))
    with pytest.raises(CorruptFile, match="is not the file that was exported"):
        lc.Artifact.open(tmp_path / "a")


class Sorts(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.sort(1).values


@pytest.mark.slow
def test_an_operator_without_a_layer_is_named(tmp_path: Path) -> None:
    usable()
    with pytest.raises(ExportError, match=r"the model cannot be lowered to ncnn: .*([Ss]ort|TopK)"):
        lc.export(lc.capture(Sorts(), (torch.randn(2, 6),)), tmp_path / "model.param")
    assert not (tmp_path / "model.param").exists()
