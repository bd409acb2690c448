"""An artifact is called as its model was, in every runtime, and its script runs a user's data without Laconic."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import laconic as lc
from laconic.core.errors import BadInput, CorruptFile
from laconic.core.target import Target
from laconic.deploy.artifact import Artifact, save_artifact
from laconic.deploy.runtime import runtime


class Answer(NamedTuple):
    logits: Tensor
    inner: Tensor


class Pair(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(10, 4), nn.Linear(4, 3)

    def forward(self, words: Tensor, weights: Tensor) -> Answer:
        inner = (self.embed(words) * weights[..., None]).mean(1)
        return Answer(self.head(inner), inner)


WORDS, WEIGHTS = torch.tensor([[1, 2, 3, 4, 5], [6, 7, 8, 9, 0], [1, 1, 1, 1, 1]]), torch.rand(3, 5)


@pytest.fixture(scope="module")
def program() -> lc.Program:
    return lc.capture(Pair(), (WORDS, WEIGHTS), dynamic={"words": {1: "length"}, "weights": {1: "length"}})


@pytest.fixture(scope="module")
def artifact(program: lc.Program, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return save_artifact(program, tmp_path_factory.mktemp("pair") / "artifact", Target("onnxruntime", threads=1), {})


@pytest.mark.parametrize("name", ["onnxruntime", "openvino", "torch", "torchscript"])
def test_it_answers_as_the_program(name: str, program: lc.Program, tmp_path: Path) -> None:
    if (why := runtime(name).available()) is not None:
        pytest.skip(why)
    threads = torch.get_num_threads()
    saved = save_artifact(program, tmp_path, Target(name, threads=1), {})
    found = Artifact.load(saved.folder, trust=True)
    assert found == saved
    assert torch.get_num_threads() == threads
    with torch.no_grad():
        expected, other = program(WORDS, WEIGHTS), program(WORDS[:1], WEIGHTS[:1])
    first, second = found(WORDS, weights=WEIGHTS), found(WORDS[:1].numpy(), WEIGHTS[:1].numpy())
    assert isinstance(first.logits, Tensor)
    assert isinstance(second.logits, np.ndarray)
    # behind a second call: the first answer is the caller's own
    torch.testing.assert_close(dict(first), dict(expected), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(torch.from_numpy(second.inner), other.inner, rtol=1e-5, atol=1e-6)


def test_inputs_go_by_place_by_name_or_as_one_mapping(artifact: Artifact) -> None:
    words, weights = WORDS.numpy(), WEIGHTS.numpy()
    ways = [artifact(words, weights), artifact(weights=weights, words=words), artifact({"words": words, "weights": weights})]
    assert all(np.array_equal(way.logits, ways[0].logits) for way in ways)


def test_other_widths_of_a_number_are_cast(artifact: Artifact) -> None:
    wide = artifact(WORDS.int(), WEIGHTS.double())
    assert torch.equal(wide.logits, artifact(WORDS, WEIGHTS).logits)
    assert artifact(WORDS, WEIGHTS.bfloat16()).logits.dtype == torch.float32


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ((WORDS,), "input 'weights' is missing"),
        ((WORDS, WEIGHTS, WEIGHTS), "takes 2 inputs"),
        ((WORDS.float(), WEIGHTS), "'words' takes int64; float32 was given"),
        ((WORDS, WEIGHTS[0]), r"'weights' has the shape \(batch, length\); \(5,\) was given. One example alone lacks the first dimension"),
        ((WORDS, {"a": WEIGHTS}), "'weights' must be a tensor"),
    ],
    ids=["missing", "too many", "kind", "shape", "nesting"],
)
def test_what_it_does_not_take_is_named(artifact: Artifact, args: tuple[Any, ...], said: str) -> None:
    with pytest.raises(BadInput, match=said):
        artifact(*args)


def test_a_bare_file_is_called_by_its_own_names(artifact: Artifact, program: lc.Program, tmp_path: Path) -> None:
    found = Artifact.load(artifact.save(tmp_path / "bare.onnx"))(words=WORDS, weights=WEIGHTS)
    assert torch.equal(next(iter(found.values())), artifact(WORDS, WEIGHTS).logits)
    script = Artifact.load(lc.export(program, tmp_path / "a" / "m.ts").save(tmp_path / "bare.ts"), trust=True)
    torch.testing.assert_close(script(WORDS, WEIGHTS)[0], found["logits"] if "logits" in found else next(iter(found.values())))
    with pytest.raises(BadInput, match="give them by place"):
        script(words=WORDS)


def test_a_loaded_one_can_be_sent_to_another_process(artifact: Artifact) -> None:
    artifact(WORDS, WEIGHTS)
    twin = pickle.loads(pickle.dumps(artifact))
    assert torch.equal(twin(WORDS, WEIGHTS).logits, artifact(WORDS, WEIGHTS).logits)


def test_a_runtime_that_cannot_run_here_says_so(artifact: Artifact) -> None:
    with pytest.raises(BadInput, match=r"onnxruntime in bf16 on cpu cannot run here: .*no switch"):
        artifact.with_target(precision="bf16")(WORDS, WEIGHTS)


@pytest.mark.parametrize("lie", [{"kind": "dict"}, {"kind": "dict", "keys": ["x"], "items": [{"kind": "tensor"}]}, 7, []])
def test_a_card_that_lies_about_nesting_is_refused(artifact: Artifact, tmp_path: Path, lie: Any) -> None:
    for item in artifact.folder.iterdir():
        (tmp_path / item.name).write_bytes(item.read_bytes())
    card = json.loads((tmp_path / "artifact.json").read_text())
    (tmp_path / "artifact.json").write_text(json.dumps({**card, "input_structure": lie}))
    with pytest.raises(CorruptFile, match="does not nest its inputs as the file has them"):
        Artifact.open(tmp_path)


def script(artifact: Artifact, *args: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, artifact.folder / "run.py", *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd="/")


def test_the_script_reads_an_npz_and_names_what_it_wants(artifact: Artifact, tmp_path: Path) -> None:
    np.savez(tmp_path / "in.npz", weights=WEIGHTS.double().numpy(), words=WORDS.numpy())
    done = script(artifact, tmp_path / "in.npz", tmp_path / "out.npz")
    assert done.returncode == 0, done.stderr
    assert "(3, 3) float32" in done.stdout
    found, expected = np.load(tmp_path / "out.npz"), artifact(WORDS.numpy(), WEIGHTS.numpy())
    assert list(found) == [spec.name for spec in artifact.outputs]
    np.testing.assert_allclose(found[artifact.outputs[0].name], expected.logits, rtol=1e-6)
    np.savez(tmp_path / "less.npz", words=WORDS.numpy())
    assert "has no array 'weights'; it has ['words']" in script(artifact, tmp_path / "less.npz").stderr
    told = script(artifact, "--help").stderr
    assert "DATA.npz | DATA.csv" in told
    assert "('words', ['batch', 'length'], 'int64')" in told
    (tmp_path / "in.csv").write_text("1,2\n")
    assert "a CSV holds one input" in script(artifact, tmp_path / "in.csv").stderr


def test_the_script_reads_a_csv_with_an_example_in_each_line(tmp_path: Path) -> None:
    program = lc.capture(nn.Sequential(nn.Flatten(), nn.Linear(6, 2)), torch.rand(2, 3, 2))
    artifact = save_artifact(program, tmp_path / 'it\'s """ \\N{DASH}', Target("onnxruntime", threads=1), {})
    rows = np.arange(24.0).reshape(4, 3, 2) / 24
    (tmp_path / "in.csv").write_text("a,b,c,d,e,f\n" + "\n".join(",".join(map(str, row.ravel())) for row in rows) + "\n")
    done = script(artifact, tmp_path / "in.csv", tmp_path / "out.npz")
    assert done.returncode == 0, done.stderr
    found = np.load(tmp_path / "out.npz")[artifact.outputs[0].name]
    np.testing.assert_allclose(found, artifact(rows), rtol=1e-6)
    (tmp_path / "in.csv").write_text("1,2\n")
    assert "has 2 numbers; an example of 'input' has the shape [3, 2]" in script(artifact, tmp_path / "in.csv").stderr
