"""ncnn files: graphs as text, integers where its kernels read them, two files that belong together."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import laconic as lc
from laconic.core.errors import BadInput, CorruptFile, ExportError
from laconic.deploy.ncnn.int8 import Rounded, halves, put_in
from laconic.deploy.ncnn.param import Graph, squeezed, with_axes
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


@pytest.mark.parametrize(("dim", "axis"), [("1", "0"), ("2", "1"), ("-1", "-1")])
def test_an_axis_that_stands_alone_is_read_from_the_script(param: Path, dim: str, axis: str) -> None:
    text = PARAM.replace("ReLU                     relu                     1 1 1 2", "Reduction mean 1 1 1 2 0=3 1=0 -23303=0 4=0 5=1")
    graph = Graph.read(_written(param, text))
    given = with_axes(graph, f"v_0 = torch.mean(v_9, dim=(2,3), keepdim=False)\nv_1 = torch.mean(v_0, dim={dim}, keepdim=False)")
    assert given.layers[2].options == ("0=3", "1=0", f"-23303=1,{axis}", "4=0", "5=1")
    assert with_axes(graph, "nothing is told") == graph


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


def test_integers_find_their_place_among_weights_in_16_bits(param: Path) -> None:
    conv, bias, fc = np.array([1, 2, 3e-6, 4], "<f4"), np.array([5, 6], "<f4"), np.array([1, -2, 3, -4], "<f4")
    half = bytes([0x47, 0x6B, 0x30, 0x01])  # as ModelBin::load knows it
    weights = half + np.array([1, 2, 0, 4], "<f2").tobytes() + bias.tobytes() + half + fc.astype("<f2").tobytes()
    one = Rounded("conv", conv.reshape(2, 2, 1, 1), np.array([25, 50, 0, 100], np.int8), np.array([0.04, 0.04]), 0.5, 2)
    _, content = put_in(param, weights, [one])
    expected = bytes([0x38, 0x4B, 0x0D, 0x00, 25, 50, 0, 100]) + bias.tobytes() + np.array([25, 25, 2], "<f4").tobytes()
    assert content == expected + half + fc.astype("<f2").tobytes()


def test_16_bits_are_those_of_the_converter() -> None:
    near = np.random.default_rng(0).standard_normal(1000).astype(np.float32)
    assert (halves(near) == near.astype(np.float16)).all()
    # a tie, where NumPy takes the even one; and what is subnormal, by both signs: as pnnx 20261020 wrote them
    odd = np.array([0xBD10D000, 0xB86B71C8, 0x386B71C8, 0x38800000], np.uint32).view(np.float32)
    assert halves(odd).view(np.uint16).tolist() == [0xA887, 0x8000, 0, 0x0400]


class Wide(nn.Module):
    """A convolution and a linear layer with a weight each that 16 bits hold or not."""

    def __init__(self, largest: float = 1.0) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 16, 3, bias=False), nn.Linear(16 * 36, 64)
        with torch.no_grad():
            self.conv.weight[0, 0, 0, 0] = largest

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.conv(x).relu().flatten(1))


@pytest.mark.slow
def test_weights_in_16_bits_are_half_of_the_file_and_near_the_program(tmp_path: Path) -> None:
    usable()
    torch.manual_seed(0)
    program = lc.capture(Wide().eval(), (DATA[:2],))
    plain = lc.export(program, tmp_path / "a" / "model.param", threads=1)
    half = lc.export(program, tmp_path / "b" / "model.param", precision="fp16-weights", threads=1)
    assert (half.format, half.numerics) == ("ncnn-fp16", "fp16-weights")
    assert 0.5 < half.size_bytes / plain.size_bytes < 0.52
    with torch.no_grad():
        wanted = [leaf.numpy() for leaf in program.graph_module(DATA)]
    assert 1e-6 < parity(half.session.run([DATA.numpy()]), wanted)["max_rel"] < 1e-3
    assert lc.Artifact.open(tmp_path / "b").format == "ncnn-fp16"
    with pytest.raises(BadInput, match="ncnn in fp32 reads ncnn files; .* is ncnn-fp16"):
        half.with_target(precision="fp32")


def test_weights_that_16_bits_do_not_hold_are_named(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"'conv\.weight' holds 7e\+04, and floats of 16 bits end at 65504"):
        lc.export(lc.capture(Wide(7e4).eval(), (DATA[:2],)), tmp_path / "model.param", precision="fp16-weights")


@pytest.mark.slow
def test_an_int8_file_keeps_its_other_weights_in_16_bits(tmp_path: Path) -> None:
    usable()
    program = rounded(Wide(), "ncnn")
    plain, half = (lc.export(program, tmp_path / name / "model.param", precision=name, threads=1) for name in ("fp32", "fp16-weights"))
    assert half.numerics == "int8 with fp16-weights"
    assert half.size_bytes <= plain.size_bytes
    assert parity(half.session.run([DATA.numpy()]), plain.session.run([DATA.numpy()]))["sqnr_db"] > 40
