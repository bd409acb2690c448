from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

import laconic as lc
from laconic.core.errors import BadInput
from laconic.core.target import Target
from laconic.core.task import calibration_subset
from laconic.deploy.export import parity, write_onnx
from laconic.deploy.runtime import runtime
from laconic.pruning.unstructured.schedules import SCHEDULES
from laconic.run.runner import apply
from tests.pruning.unstructured import nets

FAST = {"epochs": 1, "lr": 0.01, "batch_size": 12}
ALL = 8 * 9 + 16 * 8 * 9 + 16 * 4 + 12 * 16 + 3 * 12


def zeros(program: lc.Program) -> dict[str, int]:
    return {name: int((p == 0).sum()) for name, p in program.named_parameters() if p.dim() > 1}


@pytest.fixture(scope="module")
def program() -> lc.Program:
    return nets.program()


@pytest.fixture(scope="module")
def sparse(program: lc.Program) -> lc.Program:
    return lc.sparsify(program, lc.Sparsify(sparsity=0.8, recovery=FAST), nets.context())[0]  # type: ignore[no-any-return, operator]


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_each_schedule_reaches_the_sparsity_and_tells_it(schedule: str, program: lc.Program) -> None:
    config = lc.Sparsify(sparsity=0.8, schedule=schedule, recovery={**FAST, "epochs": 3})
    found, outcome = lc.sparsify(program, config, nets.context())
    total = sum(zeros(found).values())
    assert total == pytest.approx(0.8 * ALL, abs=6)
    assert outcome.changed["sparsity"] == pytest.approx(total / ALL)
    assert {row["name"]: row["zeros"] for row in outcome.changed["layers"]} == zeros(found)
    assert outcome.changed["schedule"] == schedule
    assert len(outcome.changed["epochs"]) == 3
    assert zeros(program) == dict.fromkeys(zeros(program), 0)
    assert {node.target for node in found.graph.nodes} == {node.target for node in program.graph.nodes}


def test_where_few_weights_stay_layers_still_compete_for_them(program: lc.Program) -> None:
    found, _ = lc.sparsify(program, lc.Sparsify(0.99, recovery={"epochs": 0}), nets.context())
    assert sum(zeros(found).values()) >= ALL - round(0.01 * ALL)  # what leads nowhere goes too
    assert [lc.Sparsify(sparsity, floor=floor).least() for sparsity, floor in ((0.5, None), (0.99, None), (0.9, 0.05))] == pytest.approx(
        [0.01, 0.001, 0.05]
    )


@pytest.mark.parametrize("criterion", ["first_order", "curvature", "movement", "wanda", "obs", "random"])
@pytest.mark.parametrize("pattern", ["unstructured", "2:4", "1x4"])
def test_each_criterion_makes_each_pattern(criterion: str, pattern: str, program: lc.Program) -> None:
    found, outcome = lc.sparsify(
        program, lc.Sparsify(criterion=criterion, pattern=pattern, floor=0.0, recovery={"epochs": 0}), nets.context()
    )
    assert outcome.changed["sparsity"] == pytest.approx(0.5 if pattern == "2:4" else 0.9, abs=0.06)
    kernel = found.get_parameter("conv.weight").movedim(1, -1) != 0
    if pattern != "unstructured":
        groups = kernel.unflatten(-1, (-1, 4)).sum(-1)
        assert set(groups.unique().tolist()) <= ({2} if pattern == "2:4" else {0, 4})
        assert {item.name for item in outcome.skipped} == {"stem.weight", "depthwise.weight"}


def test_obs_changes_what_stays_so_that_the_layer_errs_less_than_by_magnitude(program: lc.Program) -> None:
    frozen, net, seen = ("stem", "conv", "depthwise", "head"), nets.net(), []
    net.hidden.register_forward_hook(lambda module, args, output: seen.append(args[0]))
    with torch.no_grad():
        net(torch.from_numpy(nets.X))
    errors = {}
    for criterion in ("magnitude", "obs"):
        config = lc.Sparsify(0.5, criterion=criterion, freeze=frozen, recovery={"epochs": 0})
        found, outcome = lc.sparsify(program, config, nets.context())
        errors[criterion] = float((seen[0] @ (found.get_parameter("hidden.weight") - net.hidden.weight).detach().T).square().sum())
    assert errors["obs"] < 0.8 * errors["magnitude"]
    assert outcome.changed["sparsity"] == 0.5
    assert not any("magnitude there" in note for note in outcome.notes)


def test_what_obs_cannot_see_falls_by_magnitude_and_is_told(program: lc.Program) -> None:
    _, outcome = lc.sparsify(program, lc.Sparsify(0.5, criterion="obs", recovery={"epochs": 0}), nets.context())
    assert "'obs' cannot look at the inputs of 1 of 5 layers (depthwise.weight): magnitude there" in outcome.notes


def test_wanda_is_weight_times_input_compared_within_each_output(program: lc.Program) -> None:
    found, _ = lc.sparsify(program, lc.Sparsify(0.5, criterion="wanda", recovery={"epochs": 0}, examples=48), nets.context())
    seen: list[torch.Tensor] = []
    net = nets.net()
    net.hidden.register_forward_hook(lambda module, args, output: seen.append(args[0]))
    with torch.no_grad():
        net(torch.from_numpy(nets.X))
    scores = net.hidden.weight.abs() * seen[0].square().sum(0).sqrt()
    for row, left in zip(scores, found.get_parameter("hidden.weight") != 0, strict=True):
        assert set(left.nonzero().flatten().tolist()) == set(row.topk(8).indices.tolist())


@pytest.mark.parametrize("criterion", ["first_order", "curvature"])
def test_gradients_of_one_batch_say_what_a_weight_matters(criterion: str, program: lc.Program) -> None:
    """By the gradient times the weight; where squared gradients are a mean over one batch alone, curvature ranks alike."""
    config = lc.Sparsify(0.5, criterion=criterion, allocation="uniform", recovery={"epochs": 0}, examples=32)
    found, _ = lc.sparsify(program, config, nets.context())
    net = nets.net()
    rows = [calibration_subset(nets.DATA, 32, 0)[i] for i in range(32)]
    x, y = torch.stack([row[0] for row in rows]), torch.stack([row[1] for row in rows])
    torch.nn.functional.cross_entropy(net(x), y).backward()
    scores = (net.hidden.weight * net.hidden.weight.grad).abs().detach()
    kept = found.get_parameter("hidden.weight") != 0
    assert float(scores[kept].min()) >= float(scores[~kept].max()) * (1 - 1e-4)


@pytest.mark.parametrize(("name", "value"), [("threshold", 0.1), ("deviations", 0.8)])
def test_thresholds_are_absolute_or_in_deviations_of_the_layer(name: str, value: float, program: lc.Program) -> None:
    found, outcome = lc.sparsify(program, lc.Sparsify(**{name: value}, recovery={"epochs": 0}), nets.context())  # type: ignore[arg-type]
    for key, p in program.named_parameters():
        if p.dim() > 1:
            edge = value * (float(p.detach().std()) if name == "deviations" else 1.0)
            assert torch.equal(found.get_parameter(key) == 0, p.abs() < edge)
    assert (outcome.changed["asked"], outcome.changed["amount"]) == (name, value)


def test_rewinding_brings_the_given_weights_back(program: lc.Program) -> None:
    """With a rate of next to nothing the last round stays at what it was rewound to."""
    config = lc.Sparsify(
        0.5, schedule="iterative", rounds=2, rewind=0.0, recovery={**FAST, "epochs": 3, "lr": 1e-12, "optimizer": "sgd", "distill": 0.0}
    )
    found, _ = lc.sparsify(program, config, nets.context())
    for name, p in found.named_parameters():
        given = program.get_parameter(name)
        torch.testing.assert_close(p, torch.where(p == 0, 0.0, given) if p.dim() > 1 else given)


def test_first_head_and_frozen_layers_stay_dense(program: lc.Program) -> None:
    found, outcome = lc.sparsify(program, lc.Sparsify(first=False, head=False, freeze=("hidden",), recovery={"epochs": 0}), nets.context())
    assert {name for name, n in zeros(found).items() if n} == {"conv.weight", "depthwise.weight"}
    assert {item.name: item.reason for item in outcome.skipped} == {
        "stem.weight": "it is the first layer",
        "head.weight": "it is the head",
        "hidden.weight": "it is in freeze",
    }


def test_zeros_of_an_earlier_step_stay_where_another_one_is_not_looked_for(program: lc.Program) -> None:
    rest = ("stem", "depthwise", "hidden", "head")
    first, _ = lc.sparsify(program, lc.Sparsify(0.9, freeze=rest, recovery={"epochs": 0}), nets.context())
    found, _ = lc.sparsify(first, lc.Sparsify(0.5, freeze=("conv",), recovery=FAST), nets.context())
    assert torch.equal(found.get_parameter("conv.weight") == 0, first.get_parameter("conv.weight") == 0)
    assert found.interface.sparse == ("conv.weight", *(f"{path}.weight" for path in rest))


def test_averages_over_other_masks_have_the_last_ones_zeros(program: lc.Program) -> None:
    found, _ = lc.sparsify(program, lc.Sparsify(0.8, recovery={**FAST, "average": "ema"}), nets.context())
    assert sum(zeros(found).values()) == pytest.approx(0.8 * ALL, abs=6)


# What comes after --------------------------------------------------------------------------------------------------------------------------

LATER: dict[str, Any] = {
    "fit": lc.Fit(lc.FitPlan(epochs=1, lr=0.01, batch_size=12)),
    "schedule_free": lc.Fit(lc.FitPlan(epochs=1, lr=0.01, batch_size=12, optimizer="schedule_free")),
    "fold_batch_norm": lc.FoldBatchNorm(),
    "static": lc.Quantize(target="onnxruntime", examples=16),
    "adaptive": lc.Quantize(target="openvino", mode="weights", rounding="adaptive", examples=16),
    "qat": lc.Qat(target="onnxruntime", examples=16, recovery=FAST),
}


@pytest.mark.parametrize("step", LATER.values(), ids=LATER)
def test_zeros_stay_zeros_in_later_steps(step: Any, sparse: lc.Program) -> None:
    found, _ = apply(sparse, [step], nets.context())
    for name in sparse.interface.sparse:
        before, after = sparse.get_parameter(name), found.get_parameter(name)
        assert bool((after[before == 0] == 0).all())
        assert found.interface.sparse == sparse.interface.sparse


def test_structured_pruning_and_its_recovery_keep_the_zeros_of_what_is_left(sparse: lc.Program) -> None:
    cut, trained = (apply(sparse, [lc.Prune(params=0.6, recovery={**FAST, "epochs": n})], nets.context())[0] for n in (0, 1))
    assert cut.get_parameter("hidden.weight").numel() < sparse.get_parameter("hidden.weight").numel()
    for name in sparse.interface.sparse:
        before, after = cut.get_parameter(name), trained.get_parameter(name)
        assert bool((before == 0).any())
        assert torch.equal(before == 0, after == 0)


def test_a_saved_program_knows_of_its_zeros(sparse: lc.Program, tmp_path: Path) -> None:
    found = lc.Program.load(sparse.save(tmp_path / "sparse.pt2"))
    assert found.interface.sparse == sparse.interface.sparse
    lc.fit(found, lc.FitPlan(epochs=1, lr=0.01, batch_size=12), nets.task())
    assert zeros(found) == zeros(sparse)


@pytest.mark.parametrize("target", ["onnxruntime", "openvino"])
def test_zeros_are_in_the_files_that_ship(target: str, sparse: lc.Program, tmp_path: Path) -> None:
    """Zeros of an int8 file are codes of zero; both files run as the program does."""
    rounded, _ = lc.quantize(sparse, lc.Quantize(target=target, examples=16), nets.context())  # type: ignore[operator]
    for name, found in (("float", sparse), ("int8", rounded)):
        file = tmp_path / f"{name}.onnx"
        write_onnx(found, file, file.name)
        stored = [numpy_helper.to_array(item) for item in onnx.load(file).graph.initializer]
        weights = {array.size: int((array == 0).sum()) for array in stored if array.ndim > 1 and array.dtype in (np.float32, np.int8)}
        expected = {sparse.get_parameter(key).numel(): n for key, n in zeros(sparse).items()}
        assert all(weights[size] >= n for size, n in expected.items())
        x = nets.X[:5]
        with torch.no_grad():
            answer = found(torch.from_numpy(x)).numpy()
        agreed = parity(runtime(target).load(file, Target(target, threads=1)).run([x]), [answer])
        assert agreed["sqnr_db"] > 25 if name == "int8" else agreed["max_rel"] < 1e-5


# What makes no sense -----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"sparsity": 1.0}, "sparsity: 1.0 is the share of zeros; it lies between 0 and 1"),
        ({"sparsity": 0.5, "threshold": 0.1}, "one of sparsity, threshold, deviations says how much goes"),
        ({"deviations": -1.0}, "deviations: -1.0 must be more than 0"),
        ({"criterion": "magnitud"}, "criterion: 'magnitud'. Did you mean 'magnitude'"),
        ({"allocation": "globally"}, "allocation: 'globally'. Did you mean 'global'"),
        ({"schedule": "rigel"}, "schedule: 'rigel'. Did you mean 'rigl'"),
        ({"pattern": "4:2"}, "pattern: '4:2' is none"),
        ({"pattern": "2:4", "sparsity": 0.9}, "pattern: '2:4' says itself that 0.5 of the weights go"),
        ({"pattern": "2:4", "schedule": "rigl"}, "schedule: 'rigl' does not go with the pattern '2:4'"),
        ({"threshold": 0.1, "pattern": "1x4"}, "threshold is of single weights' magnitude"),
        ({"criterion": "wanda", "allocation": "global"}, "scores by 'wanda' of different layers do not compare"),
        ({"criterion": "obs", "schedule": "gradual"}, "'obs' looks at inputs, which 'gradual' does not"),
        ({"criterion": "movement", "schedule": "surgery"}, "'surgery' scores dense weights"),
        ({"rewind": 0.1}, "rewind goes with the schedule 'iterative'"),
        ({"rounds": 0}, "rounds, examples and updates must be 1 or more"),
        ({"until": 0.0}, "until: 0.0 must lie above 0"),
        ({"sparsity": 0.99, "floor": 0.02}, "floor: 0.02 of each layer stay, and of all weights together 0.01"),
        ({"recovery": {"epoch": 1}}, "recovery.epoch: is no option of FitPlan"),
    ],
    ids=str,
)
def test_options_that_make_no_sense_are_told(options: dict[str, Any], said: str) -> None:
    with pytest.raises(BadInput, match="the weight pruning makes no sense") as caught:
        lc.Sparsify(**options)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "sparsify to 90 % zeros"),
        ({"pattern": "2:4"}, "sparsify to 2:4"),
        ({"sparsity": 0.75, "pattern": "16x1"}, "sparsify to 75 % zeros in blocks of 16x1"),
        ({"deviations": 1.5}, "sparsify below 1.5 σ"),
    ],
    ids=str,
)
def test_it_says_how_much_goes_and_where(options: dict[str, Any], words: str) -> None:
    assert lc.Sparsify(**options).words() == words


def test_nothing_to_do_and_patience_are_told(program: lc.Program) -> None:
    with pytest.raises(BadInput, match="no weight can become sparse: its 1 input channels are no multiple of 32; its 8"):
        lc.sparsify(program, lc.Sparsify(pattern="16:32", recovery={"epochs": 0}), nets.context())
    with pytest.raises(BadInput, match="patience: the best epoch's weights have other zeros"):
        lc.sparsify(program, lc.Sparsify(recovery={**FAST, "patience": 1}), nets.context())
    with pytest.raises(BadInput, match="the step 'sparsify' trains"):
        lc.sparsify(program, lc.Sparsify())


# In a loop of one's own ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("schedule", ["one_shot", "gradual", "surgery", "rigl", "set"])
def test_a_hook_makes_a_plain_module_sparse(schedule: str) -> None:
    net = nets.net()
    hook = lc.mask_hook(net, lc.Sparsify(0.8, schedule=schedule, updates=8))
    net.train()
    optimizer = torch.optim.Adam(net.parameters(), 1e-3)
    for step in range(16):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(net(torch.from_numpy(nets.X)), nets.DATA.target).backward()
        optimizer.step()
        hook(net, (step + 1) / 16)
    total = sum(int((p == 0).sum()) for p in net.parameters() if p.dim() > 1)
    assert total == pytest.approx(0.8 * ALL, abs=6)
    assert all(bool((net.get_parameter(name)[~kept] == 0).all()) for name, kept in hook.masks.kept.items())


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"schedule": "iterative"}, "'iterative' takes several trainings"),
        ({"criterion": "wanda"}, "'wanda' looks at data before the training"),
    ],
    ids=str,
)
def test_what_a_hook_cannot_do_is_told(options: dict[str, Any], said: str) -> None:
    with pytest.raises(BadInput, match=said):
        lc.mask_hook(nets.net(), lc.Sparsify(**options))


def test_patience_goes_with_masks_that_stay_only(program: lc.Program) -> None:
    with pytest.raises(BadInput, match="with the schedule 'rigl'"):
        lc.sparsify(program, lc.Sparsify(schedule="rigl", recovery={**FAST, "patience": 1}), nets.context())
