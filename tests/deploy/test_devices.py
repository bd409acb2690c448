"""Devices by the names that runtimes give them. What is not here is played: other builds of ONNX Runtime, an OpenVINO that sees a GPU and an NPU."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import laconic as lc
from laconic.core.errors import BadInput
from laconic.core.target import Target
from laconic.deploy import ort, ov
from laconic.deploy import runtime as runtimes
from laconic.deploy.artifact import save_artifact
from laconic.deploy.runtime import baseline_device, devices, runtime, unavailable
from laconic.run.recipe import parse
from laconic.search.given import check_devices

X = np.arange(8, dtype=np.float32).reshape(2, 4)


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> lc.Artifact:
    program = lc.capture(nn.Linear(4, 3).eval(), torch.from_numpy(X))
    return save_artifact(program, tmp_path_factory.mktemp("devices"), Target(threads=1), {})


class FakeOrt:
    """A build of ONNX Runtime with these providers, of which sessions take those that work."""

    def __init__(self, real: Any, there: list[str], working: list[str]) -> None:
        self.real, self.there, self.working, self.asked = real, there, working, []

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)

    def get_available_providers(self) -> list[str]:
        return [*self.there, "CPUExecutionProvider"]

    def InferenceSession(self, file: str, options: Any, providers: list[Any]) -> Any:
        self.asked = [*providers, options.enable_mem_pattern]
        taken = [name for name, _ in providers if name in self.working]
        real = self.real.InferenceSession(file, options, providers=["CPUExecutionProvider"])
        return SimpleNamespace(get_providers=lambda: [*taken, "CPUExecutionProvider"], get_inputs=real.get_inputs, run=real.run)


@pytest.mark.parametrize(
    ("device", "there", "asked"),
    [
        ("cuda", "CUDAExecutionProvider", [("CUDAExecutionProvider", {}), True]),
        ("tensorrt", "TensorrtExecutionProvider", [("TensorrtExecutionProvider", {}), ("CUDAExecutionProvider", {}), True]),
        ("directml", "DmlExecutionProvider", [("DmlExecutionProvider", {}), False]),
        ("coreml", "CoreMLExecutionProvider", [("CoreMLExecutionProvider", {}), True]),
        ("qnn", "QNNExecutionProvider", [("QNNExecutionProvider", {"backend_type": "htp"}), True]),
        ("rocm", "MIGraphXExecutionProvider", [("MIGraphXExecutionProvider", {}), True]),
        ("rocm", "ROCMExecutionProvider", [("ROCMExecutionProvider", {}), True]),
    ],
)
def test_a_short_name_stands_for_a_provider(
    device: str, there: str, asked: list[Any], artifact: lc.Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = FakeOrt(ort.need("onnxruntime"), [there], [there])
    monkeypatch.setattr(ort, "need", lambda name: fake)
    one = runtime("onnxruntime")
    assert one.available("fp32", device) is None
    target = Target("onnxruntime", "fp32", 1, device)
    session = one.load(artifact.file, target)
    assert fake.asked == asked
    np.testing.assert_allclose(session.run([X])[0], artifact.session.run([X])[0])
    assert there in one.start_script(target)


def test_a_provider_that_onnx_runtime_drops_without_a_word_is_an_error(artifact: lc.Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeOrt(ort.need("onnxruntime"), ["CUDAExecutionProvider"], [])
    monkeypatch.setattr(ort, "need", lambda name: fake)
    with pytest.raises(BadInput, match=r"with CUDAExecutionProvider but with CPUExecutionProvider.*cuDNN 9"):
        runtime("onnxruntime").load(artifact.file, Target("onnxruntime", "fp32", 1, "cuda"))


def test_a_provider_that_is_not_here_is_told_with_those_that_are_and_how_to_get_it() -> None:
    why = runtime("onnxruntime").available("fp32", "tensorrt") or ""
    assert "no TensorrtExecutionProvider; it has" in why
    assert "CPUExecutionProvider" in why
    assert "pip install onnxruntime-gpu" in why


class FakeCore:
    """OpenVINO that sees more devices, and computes for them on the processor."""

    def __init__(self, real: Any) -> None:
        self.real, self.available_devices, self.compiled = real, ["CPU", "GPU.0", "GPU.1", "NPU"], []
        self.read_model = real.read_model

    def get_property(self, device: str, name: str) -> Any:
        return {"OPTIMIZATION_CAPABILITIES": ["FP32", "FP16"], "FULL_DEVICE_NAME": f"Made {device}"}[name]

    def compile_model(self, model: Any, device: str, told: dict[str, Any]) -> Any:
        shape = None if isinstance(model, str) else str(model.inputs[0].partial_shape)
        self.compiled.append((device, told, shape))
        return self.real.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})


def test_openvino_runs_on_what_it_sees(artifact: lc.Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeCore(ov._core())
    monkeypatch.setattr(ov, "_core", lambda: fake)
    one, expected = runtime("openvino"), artifact.session.run([X])[0]
    assert one.seen() == ["CPU (Made CPU)", "GPU.0 (Made GPU.0)", "GPU.1 (Made GPU.1)", "NPU (Made NPU)"]
    assert one.available("fp32", "openvino:GPU") is None
    assert "does not compute in bf16" in (one.available("bf16", "openvino:GPU") or "")
    gpu = one.load(artifact.file, Target("openvino", "fp32", 1, "openvino:GPU"))
    assert fake.compiled == [("GPU", {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}, None)]
    np.testing.assert_allclose(gpu.run([X])[0], expected, rtol=1e-5)
    npu = one.load(artifact.file, Target("openvino", "fp32", 1, "openvino:NPU"))
    for rows in (2, 2, 1):  # an NPU has no dynamic shapes: compiled for each size that comes, once
        np.testing.assert_allclose(npu.run([X[:rows]])[0], expected[:rows], rtol=1e-5)
    latency = {"PERFORMANCE_HINT": "LATENCY"}
    assert fake.compiled[1:] == [("NPU", latency, "[2,4]"), ("NPU", latency, "[1,4]")]
    assert "model.reshape" in one.start_script(Target("openvino", device="openvino:NPU"))


def test_what_openvino_does_not_see_is_told_with_how_to_get_it() -> None:
    if (why := runtime("openvino").available("fp32", "openvino:GPU")) is not None:
        assert "OpenVINO sees CPU" in why
        assert "intel-opencl-icd" in why
    assert runtime("openvino").available("fp32", "cuda") == "Laconic runs OpenVINO on cpu and openvino:GPU and openvino:NPU only"


def test_every_device_is_known_once_and_asked_of_who_has_it() -> None:
    known = devices()
    assert known[0] == "cpu"
    assert {"cuda", "tensorrt", "directml", "coreml", "qnn", "rocm", "openvino:GPU", "openvino:NPU"} <= set(known)
    assert len(set(known)) == len(known)
    assert unavailable("cpu") is None
    if (why := unavailable("qnn")) is not None:
        assert why.startswith("ONNX Runtime: ")
        assert "OpenVINO" not in why


def test_a_device_that_is_not_here_is_refused_at_once(artifact: lc.Artifact) -> None:
    if unavailable("openvino:NPU") is None:
        pytest.skip("it is here")
    with pytest.raises(BadInput, match=r"the device 'openvino:NPU' cannot be used: OpenVINO: .*OpenVINO sees CPU"):
        check_devices(None, "openvino:NPU")
    with pytest.raises(BadInput, match=r"on qnn: this build of onnxruntime has no QNNExecutionProvider"):
        lc.bench(artifact, device="qnn")
    with pytest.raises(BadInput, match=r"'cudo' is not a device. Did you mean 'cuda'"):
        lc.bench(artifact, device="cudo")


def test_recipes_and_searches_know_the_same_devices() -> None:
    assert parse({"deploy": {"runtime": "openvino", "device": "openvino:GPU"}}, "here").recipe.deploy.device == "openvino:GPU"
    assert lc.SearchSpace(device="tensorrt").device == "tensorrt"
    for wrong in (lambda: parse({"deploy": {"device": "openvino:TPU"}}, "here"), lambda: lc.SearchSpace(device="openvino:TPU")):
        with pytest.raises(BadInput, match=r"openvino:TPU'.*Did you mean"):
            wrong()


def test_the_baseline_runs_on_the_device_or_on_what_pytorch_has(monkeypatch: pytest.MonkeyPatch) -> None:
    assert baseline_device("cpu") == "cpu"
    assert baseline_device("cuda") == "cuda"
    here: dict[str, str | None] = {"cuda": "none here"}
    one = runtime(runtimes.BASELINE)
    monkeypatch.setattr(type(one), "available", lambda self, precision, device: here[device])
    assert baseline_device("tensorrt") == "cpu"
    with monkeypatch.context() as context:  # a build of PyTorch without CUDA beside one of ONNX Runtime with it
        context.setattr(runtimes, "unavailable", lambda device: None)
        assert baseline_device("cuda") == "cpu"
    here["cuda"] = None
    assert baseline_device("tensorrt") == "cuda"


def test_the_benchmark_of_gpus_tells_why_it_cannot_and_runs_what_there_is(
    artifact: lc.Artifact, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    from benchmarks import gpu

    able, _ = gpu.branches()
    if not able:
        assert gpu.main([]) == 0
        told = capsys.readouterr().out
        assert "no device beside the processor is at hand: nothing was measured" in told
        for name in runtimes.names():
            for device in runtime(name).devices[1:]:
                assert f"{name} fp32 on {device}: not measured: " in told
    # its way of measuring, with the processor as the device and a small net
    monkeypatch.setattr(gpu, "SHAPE", SimpleNamespace(shape=(4,)))
    program = lc.capture(nn.Linear(4, 3).eval(), torch.from_numpy(X))
    gpu.measure(program, [("onnxruntime", "fp32", "cpu"), ("openvino", "fp32", "cpu")], tmp_path, rounds=3)
    told = capsys.readouterr().out
    assert "openvino fp32 on cpu: parity" in told
    assert "× onnxruntime fp32 on cpu" in told
