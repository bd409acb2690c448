from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

import laconic as lc

X = torch.randn(40, 6)
DATA = TensorDataset(X, X[:, :3].argmax(1))
NET = nn.Linear(6, 3).eval()


def needs_an_argument(x: torch.Tensor) -> torch.Tensor:
    return x


class Session:
    """Can be called, as the sessions of runtimes and artifacts can, and makes no module."""

    def __call__(self, *inputs: torch.Tensor, **named: torch.Tensor) -> torch.Tensor:
        raise AssertionError("it was called")


def quantized() -> Any:
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.ao.quantization.quantize_dynamic(nn.Sequential(nn.Linear(6, 3)), {nn.Linear})


def traced() -> Any:
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.jit.trace(NET, X[:2])


NO_MODULES: dict[str, tuple[Callable[[], Any], str]] = {
    "path": (lambda: "net.pt", "the path 'net.pt'"),
    "folder": (lambda: Path("models"), "the path 'models'"),
    "state_dict": (NET.state_dict, "state_dict"),
    "number": (lambda: 3, "class int"),
    "none": (lambda: None, "class NoneType"),
    "function": (lambda: needs_an_argument, "a function"),
    "session": (Session, "class Session"),
    "traced": (traced, "TorchScript"),
    "exported": (lambda: torch.export.export(NET, (X[:2],)), "ExportedProgram"),
    "quantized": (quantized, "quantized by PyTorch"),
}
WAYS: dict[str, Callable[[Any], Any]] = {
    "task": lambda model: lc.Task(model, None, DATA).build(),
    "optimize": lambda model: lc.optimize(lc.Task(model, None, DATA)),
    "capture": lambda model: lc.capture(model, X[:4]),
    "fit": lambda model: lc.fit(model, lc.FitPlan(), lc.Task(NET, DATA, DATA, loss=nn.functional.cross_entropy)),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", NO_MODULES)
def test_one_sentence_says_that_a_module_is_wanted_and_what_was_given(name: str, way: str) -> None:
    make, words = NO_MODULES[name]
    with pytest.raises(lc.BadInput, match=f"(?s)wants a torch.nn.Module.*{words}"):
        WAYS[way](make())


def test_a_baseline_that_is_no_module_and_a_program_that_is_none(tmp_path: Path) -> None:
    artifact = lc.export(lc.capture(NET, X[:4]), tmp_path / "model.onnx")
    with pytest.raises(lc.BadInput, match=r"wants a torch\.nn\.Module.*state_dict"):
        lc.bench(artifact, baseline=NET.state_dict())  # type: ignore[arg-type]
    with pytest.raises(lc.BadInput, match="bench takes an artifact.*Linear"):
        lc.bench(NET)  # type: ignore[arg-type]
    with pytest.raises(lc.BadInput, match=r"export takes a Program.*Linear.*laconic\.capture"):
        lc.export(NET, tmp_path / "other.onnx")  # type: ignore[arg-type]


def test_wrappers_are_looked_through_and_factories_called() -> None:
    expected = NET(X[:4])
    for model in (nn.DataParallel(NET), torch.compile(NET, backend="eager")):
        assert torch.equal(lc.capture(model, X[:4])(X[:4]), expected)
    assert lc.Task(lambda: NET, None, DATA).build() is NET
    with pytest.raises(lc.BadInput, match=r"wants a torch\.nn\.Module; it was given a mapping"):
        lc.Task(lambda: NET.state_dict(), None, DATA).build()  # type: ignore[arg-type, return-value]


def test_an_error_inside_a_factory_is_its_own() -> None:
    def broken() -> nn.Module:
        raise TypeError("mine")

    with pytest.raises(TypeError, match="mine"):
        lc.Task(broken, None, DATA).build()


def test_a_graph_module_is_captured_as_its_code_runs_and_copies_keep_their_own_weights() -> None:
    traced_net = torch.fx.symbolic_trace(nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)))
    with torch.no_grad():
        wanted = traced_net(X)
    program = lc.capture(traced_net, X[:2])
    assert torch.allclose(program(X), wanted)
    assert (program.inputs[0].name, set(program.state_dict())) == ("input", set(traced_net.state_dict()))
    task = lc.Task(traced_net, None, DATA)
    twin = copy.deepcopy(task.build())
    with torch.no_grad():
        next(twin.parameters()).zero_()
        assert not torch.allclose(twin(X), wanted)
        assert torch.equal(task.build()(X), wanted)
