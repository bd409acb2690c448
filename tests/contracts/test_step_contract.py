"""What every recipe step must do. A new step is tested by one line in `EXAMPLES`."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import laconic as lc
from laconic.core.folding import FoldBatchNorm
from laconic.core.step import STAGES
from laconic.core.target import Target
from laconic.deploy.export import parity, write_model
from laconic.deploy.runtime import runtime
from laconic.run.recipe import Recipe, parse
from laconic.run.runner import STEPS, TABLE, apply
from laconic.tasks.data import ArrayDataset
from laconic.train.insert import InsertBatchNorm, InsertDropout, InsertStochasticDepth
from tests.core.models import ConvNet

# step -> a config with options other than the defaults, as far as it has any
EXAMPLES: dict[str, Any] = {
    "fold_batch_norm": FoldBatchNorm(),
    "fit": lc.Fit(lc.FitPlan(epochs=2, lr=0.01, batch_size=8, optimizer="sgd")),
    "insert_dropout": InsertDropout(("stem",), 0.2),
    "insert_stochastic_depth": InsertStochasticDepth((), 0.3, "uniform"),
    "insert_batch_norm": InsertBatchNorm(("stem",), 16),
    "drop_blocks": lc.DropBlocks(keep=1),
    "low_rank": lc.LowRank(rank=0.5, multiple=2, methods=("spatial", "output"), examples=16, freeze=("head",)),
    "separable": lc.Separable(multiplier=2, examples=16, only=("layers",)),
    "student": lc.Student("tests.core.models:ConvNet"),
    "prune": lc.Prune(params=0.5, criterion="taylor", examples=16, floor=0.2, recovery={"epochs": 1, "batch_size": 8}),
    "sparsify": lc.Sparsify(
        0.6, pattern="2x1", criterion="first_order", schedule="one_shot", examples=16, recovery={"epochs": 1, "batch_size": 8}
    ),
    "smooth_norms": lc.SmoothNorms(alpha=0.4, examples=16, batch_size=4),
    "quantize": lc.Quantize(target="onnxruntime", observer="mse", examples=16, smooth=None, keep=("stem",)),
    "quantize_mixed": lc.Mixed(target="openvino", examples=16, float_operators=1),
    "share_weights": lc.ShareWeights(bits=3, start="density", layers=(("head", 4),), recovery={"epochs": 1, "batch_size": 8}),
    "rate_distortion": lc.RateDistortion(bits_per_weight=1.5, bits=4, examples=16, recovery={"epochs": 1, "batch_size": 8}),
    "qat": lc.Qat(target="onnxruntime", examples=16, recovery={"epochs": 1, "batch_size": 8, "distill": 0.25}),
}
RNG = np.random.default_rng(0)
DATA = ArrayDataset(RNG.standard_normal((32, 1, 8, 8)).astype(np.float32), np.arange(32) % 3)


@pytest.fixture
def program() -> lc.Program:
    torch.manual_seed(0)
    return lc.capture(ConvNet().eval(), torch.randn(2, 1, 8, 8))


@pytest.fixture
def context(tmp_path: Path) -> lc.Context:
    return lc.Context(task=lc.Task(ConvNet(), DATA, DATA, loss=F.cross_entropy), fit=lc.fit, scratch=tmp_path)


def test_every_step_has_an_example() -> None:
    assert set(EXAMPLES) == set(TABLE)
    assert all(STEPS.name_of(config) == name for name, config in EXAMPLES.items())


@pytest.mark.parametrize("name", EXAMPLES)
class TestStep:
    def test_its_config_is_frozen_and_has_defaults(self, name: str) -> None:
        config = STEPS.config(name)
        assert dataclasses.is_dataclass(config)
        assert config.__dataclass_params__.frozen  # type: ignore[attr-defined]
        assert config() == config()
        assert config.__doc__

    def test_its_facts_say_where_it_stands_and_what_it_is_called(self, name: str, program: lc.Program, context: lc.Context) -> None:
        config = EXAMPLES[name]
        assert config.stage in STAGES
        assert config.words().split()[0].lower() == name.split("_")[0]
        _, (outcome,) = apply(program, [config], context)
        assert (outcome.title, outcome.section, outcome.bits) == (config.words(), config.section, config.integer_bits())

    def test_it_trains_if_it_says_so(self, name: str, program: lc.Program, context: lc.Context) -> None:
        calls = []

        def fit(*args: Any, **more: Any) -> Any:
            calls.append(args)
            return lc.fit(*args, **more)

        apply(program, [EXAMPLES[name]], dataclasses.replace(context, fit=fit))
        assert bool(calls) is EXAMPLES[name].trains

    def test_it_survives_a_recipe_file(self, name: str) -> None:
        recipe = Recipe((EXAMPLES[name],))
        assert parse(recipe.to_plain()).recipe == recipe

    def test_it_leaves_the_given_program_alone(self, name: str, program: lc.Program, context: lc.Context) -> None:
        before = program.fingerprint()
        found, (outcome,) = apply(program, [EXAMPLES[name]], context)
        assert program.fingerprint() == before
        assert found is not program
        assert outcome.step == name
        assert not found.training

    def test_the_same_seed_gives_the_same_program(self, name: str, program: lc.Program, context: lc.Context) -> None:
        first, again = (apply(program, [EXAMPLES[name]], context)[0] for _ in range(2))
        assert first.fingerprint() == again.fingerprint()

    def test_its_program_trains_saves_and_ships(self, name: str, program: lc.Program, context: lc.Context, tmp_path: Path) -> None:
        found, (outcome,) = apply(program, [EXAMPLES[name]], context)
        assert lc.Program.load(found.save(tmp_path / "program.pt2")).fingerprint() == found.fingerprint()
        assert found.inputs == program.inputs
        x = RNG.standard_normal((5, 1, 8, 8)).astype(np.float32)
        with torch.no_grad():
            expected = found(torch.from_numpy(x)).numpy()
        file = write_model(found, tmp_path, "onnx")
        found_parity = parity(runtime("onnxruntime").load(file, Target("onnxruntime", threads=1)).run([x]), [expected])
        # after rounding, another order of a sum may move a value to the next code
        assert found_parity["sqnr_db"] > 25 if outcome.rounds else found_parity["max_rel"] < 1e-5
        lc.fit(found, lc.FitPlan(epochs=1, batch_size=8), train=DATA, loss=F.cross_entropy)
        assert all(bool(p.isfinite().all()) for p in found.parameters())
