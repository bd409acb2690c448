from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import pytest

from laconic.core.errors import BadInput, LaconicError
from laconic.core.folding import FoldBatchNorm
from laconic.core.plan import FitPlan
from laconic.core.target import Target
from laconic.pruning.structured import Prune
from laconic.quantization.mixed import Mixed
from laconic.quantization.options import Quantize
from laconic.quantization.qat import Qat
from laconic.run.recipe import Recipe, parse, read_recipe
from laconic.run.runner import STEPS
from laconic.run.stepwise import claim, made_by
from laconic.train.step import Fit


def test_yaml_round_trip(tmp_path: Path) -> None:
    recipe = Recipe((FoldBatchNorm(), Fit(FitPlan(epochs=2, lr=0.01))), Target("openvino", "bf16", 2))
    path = tmp_path / "recipe.yaml"
    path.write_text(recipe.to_yaml(task="digits", budget={"max_drop": 0.5}))
    found = read_recipe(path)
    assert found.recipe == recipe
    assert (found.task, found.budget) == ("digits", {"max_drop": 0.5})
    assert "- fold_batch_norm\n" in path.read_text()


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"], ids=["plain", "with the mark that Windows writes"])
def test_a_recipe_is_utf8_whatever_the_locale(mark: bytes, tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_bytes(mark + "task: größe\nsteps: [fold_batch_norm]\n".encode())
    assert read_recipe(tmp_path / "recipe.yaml").task == "größe"


def test_all_mistakes_at_once_with_place_and_nearest_name() -> None:
    data = {
        "version": 7,
        "stepz": [],
        "steps": ["fold_batchnorm", {"fit": {"plan": {"epochs": "many", "rate": 1}}}, {"fold_batch_norm": {"a": 1}}, 3],
        "deploy": {"runtime": "onxruntime", "precision": "fp8", "threads": 0},
        "task": 5,
    }
    with pytest.raises(BadInput) as caught:
        parse(data, "r.yaml")
    text = str(caught.value)
    assert text.startswith("r.yaml has 11 mistakes:")
    for words in (
        "stepz: unknown entry. Did you mean 'steps'?",
        "version: 7",
        "steps[0]: 'fold_batchnorm' is not a step. Did you mean 'fold_batch_norm'?",
        "steps[1].fit.plan.epochs: 'many'",
        "steps[1].fit.plan.rate: unknown option.",
        "steps[2].fold_batch_norm.a: unknown option. The step has none.",
        "steps[3]: 3 is not a step.",
        "deploy.runtime: 'onxruntime' is not a runtime. Did you mean 'onnxruntime'?",
        "deploy.precision: 'fp8'",
        "deploy.threads: 0",
        "task: 5",
    ):
        assert words in text


@pytest.mark.parametrize(
    ("content", "words"), [("steps: [", "is not YAML"), ("- a", "a recipe is a mapping"), ("steps: 3", "must be a list")]
)
def test_files_that_are_no_recipe(tmp_path: Path, content: str, words: str) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(content)
    with pytest.raises(BadInput, match=words):
        read_recipe(path)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no recipe file"):
        read_recipe(tmp_path / "r.yaml")


def test_yaml_runs_no_code(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(f"steps: !!python/object/apply:os.system ['touch {tmp_path}/mark']")
    with pytest.raises(BadInput, match="is not YAML"):
        read_recipe(path)
    assert not (tmp_path / "mark").exists()


def test_keys_tell_recipes_apart() -> None:
    recipes = [
        Recipe(),
        Recipe((FoldBatchNorm(),)),
        Recipe((Fit(FitPlan(epochs=2)),)),
        Recipe((Fit(FitPlan(epochs=3)),)),
        Recipe((), Target("openvino", "bf16")),
        Recipe((), Target("openvino", "bf16", threads=1)),
        Recipe((), Target("torch.compile", "fp32", device="cuda")),
    ]
    assert len({recipe.key for recipe in recipes}) == len(recipes)
    assert re.fullmatch("[0-9a-f]{16}", recipes[1].steps_key)
    assert Recipe((), Target("torch.compile", "fp32", device="cuda")).key == "torch-compile-fp32-cuda"


@pytest.mark.parametrize(
    ("step", "words", "numbers"),
    [
        (Prune(macs=0.5), "prune to 50 % of MACs", "fp32"),
        (Prune(params=0.125), "prune to 12.5 % of parameters", "fp32"),
        (Prune(latency=0.3, allocation="latency"), "prune to 30 % of layer time", "fp32"),
        (Prune(keep={"conv1": 12, "conv2": 24}), "prune 2 groups to 36 components", "fp32"),
        (Quantize(), "quantize static", "int8"),
        (Quantize(mode="weights", bits=4), "quantize weights int4", "int4"),
        (Mixed(), "quantize mixed", "int8"),
        (Qat(), "qat", "int8"),
        (FoldBatchNorm(), "fold batch norm", "fp32"),
    ],
)
def test_a_title_says_what_each_step_is_about_and_what_it_computes_with(step: object, words: str, numbers: str) -> None:
    recipe = Recipe((step,), Target("openvino"))
    assert recipe.title == f"{words} · OpenVINO · {numbers}"
    assert recipe.key.startswith(f"openvino-{numbers}-")


def test_integers_beside_bf16_are_both_named() -> None:
    recipe = Recipe((Prune(macs=0.5), Quantize()), Target("openvino", "bf16"))
    assert recipe.title.endswith("OpenVINO · int8 with bf16")
    assert recipe.key.startswith("openvino-int8-bf16-")


@dataclass(frozen=True)
class NotAStep:
    """No row in the table."""


def test_only_registered_configs_are_steps() -> None:
    with pytest.raises(BadInput, match="NotAStep is not the config of a step"):
        STEPS.name_of(NotAStep())


def test_pruning_by_time_is_for_the_runtime_that_was_timed() -> None:
    def keys(step: Prune) -> set[str]:
        return {Recipe((step,), Target(runtime)).steps_key for runtime in ("onnxruntime", "openvino")}

    assert len(keys(Prune(macs=0.5))) == 1
    assert len(keys(Prune(latency=0.5, allocation="latency"))) == 2


def test_models_made_by_other_steps_with_the_same_key_are_not_reused(tmp_path: Path) -> None:
    mine, other = Recipe((Prune(macs=0.5),)), Recipe((Prune(macs=0.4),))
    claim(tmp_path / mine.steps_key, mine)
    claim(tmp_path / mine.steps_key, mine)
    assert made_by(tmp_path / mine.steps_key, mine)
    assert not made_by(tmp_path / mine.steps_key, other)
    assert not made_by(tmp_path / other.steps_key, other)
    with pytest.raises(LaconicError, match="were made by other steps with the same key"):
        claim(tmp_path / mine.steps_key, other)
