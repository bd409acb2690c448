"""What every runtime must do. A new one is tested by its line in the table: `laconic.deploy.runtime.TABLE`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import laconic as lc
from laconic.core.errors import BadInput
from laconic.core.target import Target
from laconic.deploy import runtime as runtimes
from laconic.deploy.export import parity, write_model
from laconic.deploy.runtime import TABLE, devices, matrix, names, runtime
from laconic.run.gate import TOLERANCES
from laconic.tasks.models import DataShape, build
from tests.core.models import ConvNet


class TwoInputs(nn.Module):
    """Two named inputs, one of whole numbers with a length of its own; two outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.head = nn.Embedding(20, 8), nn.Linear(8, 3)

    def forward(self, ids: torch.Tensor, scale: torch.Tensor) -> dict[str, torch.Tensor]:
        hidden = self.embedding(ids) * scale[:, None, :]
        return {"logits": self.head(hidden.mean(1)), "hidden": hidden}


def images(n: int) -> list[np.ndarray]:
    return [np.random.default_rng(n).standard_normal((n, 1, 8, 8)).astype(np.float32)]


def series(n: int) -> list[np.ndarray]:
    return [np.random.default_rng(n).standard_normal((n, 5, 3)).astype(np.float32)]


def pairs(n: int) -> list[np.ndarray]:
    rng = np.random.default_rng(n)
    return [rng.integers(0, 20, (n, 5 + n)), rng.standard_normal((n, 8)).astype(np.float32)]


MODELS: dict[str, tuple[Callable[[], nn.Module], Callable[[int], list[np.ndarray]], Any]] = {
    "conv": (ConvNet, images, None),
    "gru": (lambda: build("gru", DataShape("series", (5, 3), 3)), series, None),
    "two-inputs": (TwoInputs, pairs, {"ids": {1: "length"}}),
}


@pytest.fixture(scope="module")
def programs() -> dict[str, lc.Program]:
    torch.manual_seed(0)
    return {
        name: lc.capture(make().eval(), tuple(torch.from_numpy(a) for a in example(3)), dynamic=dynamic)
        for name, (make, example, dynamic) in MODELS.items()
    }


@pytest.fixture(scope="module")
def files(programs: dict[str, lc.Program], tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Path]:
    made: dict[tuple[str, str], Path] = {}

    def file(model: str, kind: str) -> Path:
        if (model, kind) not in made:
            made[model, kind] = write_model(programs[model], tmp_path_factory.mktemp("model"), kind)
        return made[model, kind]

    return file


def usable(name: str, precision: str = "fp32", device: str = "cpu") -> None:
    why = runtime(name).available(precision, device)
    if why is not None:
        pytest.skip(f"{name} {precision} on {device}: {why}")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")
@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("name", TABLE)
def test_it_answers_as_the_program_does_at_any_size(name: str, model: str, programs: dict[str, lc.Program], files: Any) -> None:
    usable(name)
    session = runtime(name).load(files(model, runtime(name).format), Target(name, threads=1))
    for size in (3, 1, 7):
        arrays = MODELS[model][1](size)
        with torch.no_grad():
            expected = [leaf.numpy() for leaf in programs[model].graph_module(*(torch.from_numpy(a) for a in arrays))]
        found = parity(session.run(arrays), expected)
        assert found["n"] == sum(array.size for array in expected)
        assert found["max_rel"] < 1e-5, (size, found)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")
@pytest.mark.parametrize("name", TABLE)
def test_bf16_is_near_the_program(name: str, programs: dict[str, lc.Program], files: Any) -> None:
    """Where PyTorch would only emulate it, it is not offered, but it computes the same."""
    why = runtime(name).available("bf16")
    if why is not None and "emulate" not in why:
        pytest.skip(f"{name} bf16: {why}")
    session = runtime(name).load(files("conv", runtime(name).format), Target(name, "bf16"))
    with torch.no_grad():
        expected = [leaf.numpy() for leaf in programs["conv"].graph_module(torch.from_numpy(images(4)[0]))]
    found = parity(session.run(images(4)), expected)
    assert 0 < found["max_rel"] < 0.1


@pytest.mark.slow
@pytest.mark.parametrize(("name", "precision"), [(name, precision) for name in TABLE for precision in runtime(name).formats])
def test_a_precision_with_a_format_of_its_own_is_near_the_program(
    name: str, precision: str, programs: dict[str, lc.Program], files: Any
) -> None:
    usable(name, precision)
    found = runtime(name)
    session = found.load(files("conv", found.format_in(precision)), Target(name, precision))
    with torch.no_grad():
        expected = [leaf.numpy() for leaf in programs["conv"].graph_module(torch.from_numpy(images(4)[0]))]
    difference = parity(session.run(images(4)), expected)["max_rel"]
    # rounding to 16 bits moves a weight by up to 5e-4 of itself, another order of sums in fp32 an output by 1e-6
    assert 1e-5 < difference < (TOLERANCES[precision].max_rel or 0)
    assert found.format_in("fp32") == found.format != found.format_in(precision)


@pytest.mark.parametrize("name", TABLE)
def test_a_file_that_is_not_whole_is_refused(name: str, files: Any, tmp_path: Path) -> None:
    usable(name)
    whole = files("conv", runtime(name).format)
    for label, content in (("half", whole.read_bytes()[: whole.stat().st_size // 2]), ("empty", b"")):
        broken = tmp_path / f"{label}{whole.suffix}"
        broken.write_bytes(content)
        with pytest.raises(Exception, match=r"(?i)broken|corrupt|whole|protobuf|read|parse|convert|empty|Failed"):
            runtime(name).load(broken, Target(name))


@pytest.mark.parametrize("name", TABLE)
def test_it_says_why_it_cannot(name: str) -> None:
    found = runtime(name)
    assert found.name == name
    assert found.devices[0] == "cpu"
    assert set(found.unproven) <= set(found.devices)
    for device in devices():
        for precision in found.precisions:
            why = found.available(precision, device)
            assert why is None or len(why) > 10
            assert why is not None or device in found.devices
    if not torch.cuda.is_available():
        assert found.available("fp32", "cuda") is not None


@pytest.mark.parametrize(("name", "package"), [("xla", "jax"), ("executorch", "executorch"), ("ncnn", "ncnn"), ("ncnn", "pnnx")])
def test_a_package_that_is_missing_is_named_with_its_extra(name: str, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtimes, "installed", lambda asked: None if asked == package else "1.0")
    assert runtime(name).available() == f"the package {package} is not installed: pip install 'laconic[{name}]'"


def test_what_its_class_does_not_have_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtimes, "installed", lambda asked: "1.0")
    one = runtime("ncnn")
    assert one.lacking("fp32", "cpu", "ncnn") is None
    assert one.lacking("bf16", "cpu", "ncnn") == "ncnn computes in fp32 and fp16-weights, not in bf16"
    assert one.lacking("fp32", "cuda", "ncnn") == "Laconic runs ncnn on cpu only"


def test_the_matrix_tells_every_combination() -> None:
    rows = matrix()
    cells = [(row["runtime"], row["precision"], row["device"]) for row in rows]
    assert len(set(cells)) == len(cells)
    ready = {row["device"] for row in rows if row["ready"]}
    expected = {(name, p, d) for name in names() for p in runtime(name).precisions for d in {*runtime(name).devices, *ready}}
    assert set(cells) == expected
    assert all(row["ready"] == (not row["why"]) for row in rows)
    assert {row["runtime"] for row in rows if row["ready"]} >= {"torch", "onnxruntime", "openvino"}


def test_an_unknown_runtime_is_told_with_the_nearest() -> None:
    with pytest.raises(BadInput, match="'onnxruntim' is not a runtime. Did you mean 'onnxruntime'"):
        runtime("onnxruntim")
