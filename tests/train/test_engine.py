from __future__ import annotations

import copy
import dataclasses
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import laconic as lc
from laconic.core.errors import BadInput, CorruptFile, TrainingStopped
from laconic.core.plan import FitPlan, Scaled
from laconic.core.progress import Silent
from laconic.tasks.data import ArrayDataset
from laconic.train import checkpoint
from laconic.train.augment import Mix
from laconic.train.engine import FitRecord, fit

RNG = np.random.default_rng(0)
X = RNG.standard_normal((96, 6)).astype(np.float32)
DATA = ArrayDataset(X, (X[:, 0] > 0).astype(np.int64))
PLAN = FitPlan(epochs=3, optimizer="sgd", lr=0.1, batch_size=16)


def net(dropout: float = 0.3) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(dropout), nn.Linear(8, 2))


def accuracy(outputs: Tensor, target: Tensor) -> float:
    return float((outputs.argmax(1) == target).float().mean())


def trained(plan: FitPlan = PLAN, model: nn.Module | None = None, **more: Any) -> tuple[nn.Module, FitRecord]:
    model = net() if model is None else model
    return model, fit(model, plan, train=DATA, loss=F.cross_entropy, **more)


def same(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(value, b.state_dict()[name]) for name, value in a.state_dict().items())


def test_it_equals_a_plain_loop() -> None:
    """The slow twin: the same order of examples, the same random numbers, PyTorch's own scheduler."""
    model, twin = net(), net()
    trained(dataclasses.replace(PLAN, schedule="constant", weight_decay=0.01), model)
    torch.manual_seed(0)
    decay = [p for p in twin.parameters() if p.dim() > 1], [p for p in twin.parameters() if p.dim() == 1]
    optimizer = torch.optim.SGD([{"params": decay[0], "weight_decay": 0.01}, {"params": decay[1]}], lr=0.1, momentum=0.9)
    for epoch in range(3):
        order = torch.randperm(96, generator=_order(epoch)).tolist()
        twin.train()
        for start in range(0, 96, 16):
            rows = [DATA[i] for i in order[start : start + 16]]
            loss = F.cross_entropy(twin(torch.stack([x for x, _ in rows])), torch.stack([y for _, y in rows]))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    assert same(model, twin)


def _order(epoch: int) -> torch.Generator:
    """`RandomSampler` takes the loader's generator after the loader has drawn its base seed from it."""
    generator = torch.Generator().manual_seed(epoch)
    torch.empty((), dtype=torch.int64).random_(generator=generator)
    return generator


def test_the_record_tells_each_epoch() -> None:
    model, record = trained(valid=DATA, score=accuracy)
    assert [epoch.epoch for epoch in record.epochs] == [1, 2, 3]
    assert record.epochs[-1].loss < record.epochs[0].loss
    assert record.epochs[-1].lr == pytest.approx(0.05 * (1 + np.cos(np.pi * 17 / 18)))  # the last step comes before the schedule's end
    with torch.no_grad():
        assert record.epochs[-1].metric == pytest.approx(accuracy(model(torch.from_numpy(X)), DATA.target))
    assert not model.training


def test_the_same_seed_trains_the_same_and_gives_the_random_state_back() -> None:
    before = torch.get_rng_state()
    first, _ = trained()
    torch.manual_seed(99)
    again, _ = trained()
    assert same(first, again)
    torch.set_rng_state(before)
    trained()
    net()
    torch.manual_seed(0)
    assert torch.equal(torch.get_rng_state(), before)


# option -> another value, and what else the plan and the call then need
CHANGES: dict[str, tuple[Any, dict[str, Any], dict[str, Any]]] = {
    "epochs": (2, {}, {}),
    "optimizer": ("adam", {}, {}),
    "lr": (0.05, {}, {}),
    "schedule": ("constant", {}, {}),
    "cycles": (2, {}, {}),
    "weight_decay": (0.1, {}, {}),
    "momentum": (0.5, {}, {}),
    "batch_size": (32, {}, {}),
    "accumulate": (2, {}, {}),
    "grad_clip": (0.01, {}, {}),
    "gradients": ("centralize", {}, {}),
    "sam": (0.1, {}, {}),
    "average": ("ema", {}, {}),
    "ema_decay": (0.3, {"average": "ema"}, {}),
    "precision": ("bf16", {}, {}),
    "warmup": (0.5, {}, {}),
    "patience": (1, {"lr": 3.0, "epochs": 6}, {"valid": DATA, "score": accuracy}),
    "label_smoothing": (0.2, {}, {}),
    "augment": ((Scaled("jitter"),), {}, {"series": True}),
    "regularize": ((Scaled("l1", 0.1),), {}, {}),
    "channels_last": (True, {}, {"images": True}),
    "seed": (1, {}, {}),
}
TAUGHT = {"distill", "temperature", "soft", "hints"}  # tests/run/test_training.py tries these


def test_every_option_is_tried_below() -> None:
    assert set(CHANGES) | TAUGHT == {field.name for field in dataclasses.fields(FitPlan)}


@pytest.mark.parametrize("option", CHANGES)
def test_an_option_changes_the_outcome(option: str) -> None:
    value, base, more = CHANGES[option]
    plan = dataclasses.replace(PLAN, **base)
    call = {key: item for key, item in more.items() if key not in ("series", "images")}
    kind = next((key for key in ("series", "images") if key in more), "rows")
    plain, _ = shaped(kind, plan, **call)
    model, record = shaped(kind, dataclasses.replace(plan, **{option: value}), **call)
    assert all(np.isfinite(epoch.loss) for epoch in record.epochs)
    assert next(model.parameters()).dtype == torch.float32
    if option == "channels_last":  # another order of sums
        assert all(torch.allclose(v, plain.state_dict()[name], atol=1e-3) for name, v in model.state_dict().items())
        assert all(v.is_contiguous() for v in model.state_dict().values())
    assert not same(model, plain)


def shaped(kind: str, plan: FitPlan, **more: Any) -> tuple[nn.Module, FitRecord]:
    """Training on rows of numbers, or on the same as series or pictures."""
    if kind == "rows":
        return trained(plan, **more)
    torch.manual_seed(0)
    if kind == "series":
        data = ArrayDataset(np.tile(X[:, None, :], (1, 2, 2)), DATA.target.numpy())
        model: nn.Module = nn.Sequential(nn.Conv1d(2, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(40, 2))
    else:
        data = ArrayDataset(np.tile(X[:, None, None, :], (1, 3, 6, 1)), DATA.target.numpy())
        model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.Flatten(), nn.Linear(32, 2))
    return model, fit(model, plan, train=data, loss=F.cross_entropy, **more)


def test_accumulated_batches_equal_one_large_batch() -> None:
    small, large = net(dropout=0.0), net(dropout=0.0)
    for model in (small, large):
        model[1] = nn.Identity()  # batch-norm looks at each batch by itself
    trained(dataclasses.replace(PLAN, accumulate=2), small)
    trained(dataclasses.replace(PLAN, batch_size=32), large)
    assert all(torch.allclose(value, large.state_dict()[name], atol=1e-6) for name, value in small.state_dict().items())


def test_label_smoothing_equals_pytorchs() -> None:
    smooth, twin = net(), net()
    trained(dataclasses.replace(PLAN, label_smoothing=0.2), smooth)
    fit(twin, PLAN, train=DATA, loss=lambda out, y: F.cross_entropy(out, y, label_smoothing=0.2))
    assert all(torch.allclose(value, twin.state_dict()[name], atol=1e-6) for name, value in smooth.state_dict().items())


def test_patience_delivers_the_best_epoch() -> None:
    scores = iter([0.1, 0.7, 0.6, 0.5, 0.9])
    seen: list[dict[str, Tensor]] = []
    model = net()

    def score(outputs: Tensor, target: Tensor) -> float:
        seen.append(copy.deepcopy(model.state_dict()))
        return next(scores)

    _, record = trained(dataclasses.replace(PLAN, epochs=5, patience=2), model, valid=DATA, score=score)
    assert [epoch.metric for epoch in record.epochs] == [0.1, 0.7, 0.6, 0.5]
    assert all(torch.equal(value, seen[1][name]) for name, value in model.state_dict().items())


def test_patience_without_a_metric_is_refused() -> None:
    with pytest.raises(BadInput, match="give fit `valid` and `score`"):
        trained(dataclasses.replace(PLAN, patience=1))


def test_the_rate_falls_on_a_plateau() -> None:
    scores = iter([0.5, 0.4, 0.4, 0.4, 0.4])
    plan = dataclasses.replace(PLAN, epochs=5, schedule="plateau", lr=0.1)
    _, record = trained(plan, valid=DATA, score=lambda outputs, target: next(scores))
    assert [epoch.lr for epoch in record.epochs] == pytest.approx([0.1, 0.1, 0.1, 0.1, 0.03])


def test_the_plateau_knows_the_direction_of_the_metric() -> None:
    scores = iter([0.5, 0.4, 0.3, 0.2, 0.1])
    plan = dataclasses.replace(PLAN, epochs=5, schedule="plateau", lr=0.1)
    _, record = trained(plan, valid=DATA, score=lambda outputs, target: next(scores), direction="min")
    assert {epoch.lr for epoch in record.epochs} == {0.1}


def test_mixed_examples_learn_both_targets() -> None:
    """The loss of a mixed batch is that of both targets, in the shares in which they are mixed."""
    losses: list[tuple[Tensor, Tensor]] = []

    class Fixed:
        def __call__(self, inputs: Tensor) -> tuple[Tensor, Mix]:
            return inputs, Mix(torch.arange(len(inputs)).flip(0), 0.75)

    def loss(outputs: Tensor, target: Tensor) -> Tensor:
        losses.append((outputs.detach().clone(), target))
        return F.cross_entropy(outputs, target)

    _, record = fit_once(loss, augment=Fixed())
    outputs, target = losses[0]
    expected = 0.75 * F.cross_entropy(outputs, target) + 0.25 * F.cross_entropy(outputs, target.flip(0))
    assert record.epochs[0].loss == pytest.approx(float(expected), rel=1e-6)


def fit_once(loss: Any, **more: Any) -> tuple[nn.Module, FitRecord]:
    model = net()
    return model, fit(model, dataclasses.replace(PLAN, epochs=1, batch_size=96), train=DATA, loss=loss, **more)


def test_weights_that_break_after_the_last_loss_are_told() -> None:
    def broken(model: nn.Module, progress: float) -> None:
        if progress == 1:
            with torch.no_grad():
                model[0].weight[0, 0] = float("inf")  # type: ignore[operator, index]

    with pytest.raises(TrainingStopped, match=r"0\.weight holds values that are no numbers after epoch 3"):
        trained(hooks=(broken,))


def test_one_example_through_a_batch_norm_is_told() -> None:
    with pytest.raises(BadInput, match="set batch_size to 2 or more"):
        trained(dataclasses.replace(PLAN, batch_size=1))


class Stop(Exception):
    pass


RESUMED: dict[str, dict[str, Any]] = {
    "sgd": {"optimizer": "sgd"},
    "adamw": {"optimizer": "adamw"},
    "rmsprop": {"optimizer": "rmsprop"},
    "schedule_free": {"optimizer": "schedule_free"},
    "ema": {"average": "ema", "ema_decay": 0.5},
    "swa": {"average": "swa"},
    "l1": {"regularize": (Scaled("l1", 0.1),)},
}


@pytest.mark.parametrize("options", RESUMED.values(), ids=RESUMED)
@pytest.mark.parametrize("step", [3, 9, 17])
def test_interrupted_and_continued_is_bit_equal(options: dict[str, Any], step: int, tmp_path: Path) -> None:
    plan = dataclasses.replace(PLAN, lr=0.01, **options)
    whole, expected = trained(plan)
    seen = []

    def interrupt(model: nn.Module, progress: float) -> None:
        seen.append(progress)
        if len(seen) == step:
            raise Stop

    with pytest.raises(Stop):
        trained(plan, checkpoint=tmp_path, hooks=[interrupt])
    model, record = trained(plan, checkpoint=tmp_path)
    assert same(model, whole)
    assert [(e.epoch, e.loss, e.lr) for e in record.epochs] == [(e.epoch, e.loss, e.lr) for e in expected.epochs]
    again, unchanged = trained(plan, checkpoint=tmp_path)
    assert same(again, whole)
    assert unchanged == record


def test_a_loss_that_is_not_a_number_stops_and_keeps_the_checkpoint(tmp_path: Path) -> None:
    count = iter(range(1000))

    def loss(outputs: Tensor, target: Tensor) -> Tensor:
        return F.cross_entropy(outputs, target) * (float("nan") if next(count) == 8 else 1.0)

    with pytest.raises(TrainingStopped, match="the loss is nan at epoch 2, step 3 of 6"):
        fit(net(), PLAN, train=DATA, loss=loss, checkpoint=tmp_path)
    model, record = trained(checkpoint=tmp_path)
    assert same(model, trained()[0])
    assert len(record.epochs) == 3


def test_a_broken_checkpoint_is_refused(tmp_path: Path) -> None:
    trained(checkpoint=tmp_path)
    file = tmp_path / checkpoint.FILE
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CorruptFile, match="not a whole checkpoint"):
        trained(checkpoint=tmp_path)
    file.write_bytes(whole)
    with pytest.raises(BadInput, match="a checkpoint of another model"):
        trained(model=nn.Linear(6, 2), checkpoint=tmp_path)


def test_empty_data_is_refused() -> None:
    with pytest.raises(BadInput, match="the training data is empty"):
        fit(net(), PLAN, train=DATA.take([]), loss=F.cross_entropy)


def test_a_last_batch_of_one_is_left_out() -> None:
    seen: list[int] = []

    def loss(outputs: Tensor, target: Tensor) -> Tensor:
        seen.append(len(target))
        return F.cross_entropy(outputs, target)

    fit(net(), dataclasses.replace(PLAN, epochs=1), train=DATA.take(range(33)), loss=loss)
    assert seen == [16, 16]


def test_a_program_trains_as_its_module_does() -> None:
    module = net(dropout=0.0).eval()
    program = lc.capture(copy.deepcopy(module), torch.from_numpy(X[:4]))
    trained(model=module)
    trained(model=program)
    assert same(program, module)


def test_classes_without_an_example_are_told() -> None:
    """Thirteen answers of the model, two classes in the data."""
    wide = nn.Sequential(nn.Linear(6, 13))
    lines: list[str] = []

    class Hearing(Silent):
        def log(self, text: str) -> None:
            lines.append(text)

    record = fit(wide, PLAN, train=DATA, loss=F.cross_entropy, progress=Hearing())
    told = "11 of 13 classes have no example in the training data and cannot be learned: 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, …"
    assert record.notes == (told,)
    assert lines == [told]


def test_nothing_is_said_where_all_classes_are_there_or_none_is_meant() -> None:
    assert trained()[1].notes == ()
    plain = nn.Linear(6, 1)
    values = ArrayDataset(X, X[:, 0].copy())
    coded = ArrayDataset(X, np.arange(96))  # numbers that a loss of one's own makes classes of
    assert fit(nn.Linear(6, 2), PLAN, train=coded, loss=lambda out, y: F.cross_entropy(out, y % 2)).notes == ()
    assert fit(plain, PLAN, train=values, loss=lambda out, y: F.mse_loss(out[:, 0], y)).notes == ()


@pytest.mark.parametrize(
    ("options", "told"), [({}, ()), ({"average": "ema"}, ("ema",)), ({"optimizer": "schedule_free"}, ("schedule_free",))]
)
def test_means_of_weights_lose_zeros_and_say_so(options: dict[str, Any], told: tuple[str, ...]) -> None:
    plan = dataclasses.replace(PLAN, regularize=(Scaled("l1", 0.1), Scaled("l2", 0.1)), **options)
    _, record = trained(plan)
    assert record.notes == tuple(
        f"{name} delivers means of weights: of the exact zeros that l1 makes, few are left in them" for name in told
    )


class Telling:
    def __init__(self) -> None:
        self.started: list[tuple[str, int]] = []
        self.steps = 0
        self.facts: dict[str, Any] = {}
        self.last: dict[str, Any] = {}

    def start(self, name: str, total: int) -> None:
        self.started.append((name, total))

    def advance(self, n: int = 1, **facts: Any) -> None:
        self.steps += n
        self.last = facts

    def finish(self, **facts: Any) -> None:
        self.facts = facts

    def log(self, text: str) -> None:
        raise AssertionError(text)


def test_progress_counts_every_step_and_ends_with_the_metric() -> None:
    telling = Telling()
    _, record = trained(valid=DATA, score=accuracy, progress=telling)
    assert telling.started == [("training", 18)]
    assert telling.steps == 18
    assert telling.last["metric"] == record.epochs[-2].metric
    assert telling.facts == {"metric": record.epochs[-1].metric}


KINDS = ("module", "program", "kept answers", "hints")
SCRIPT = """
import dataclasses, os, sys, torch
import laconic as lc
from pathlib import Path
from tests.train.test_engine import DATA, KINDS, PLAN, X, net, F
folder = Path(sys.argv[2])
for kind in KINDS:
    model = net(dropout=0.0)
    model[1] = torch.nn.Identity()
    if kind == "program":
        model = lc.capture(model.eval(), torch.from_numpy(X[:4]))
    plan, teacher = dataclasses.replace(PLAN, batch_size=int(sys.argv[1])), None
    if kind in ("kept answers", "hints"):
        torch.manual_seed(1)
        teacher = torch.nn.Sequential(torch.nn.Linear(6, 16), torch.nn.ReLU(), torch.nn.Linear(16, 2)).eval()
        plan = dataclasses.replace(plan, distill=0.5, hints=(lc.Hint("features", "0", "0"),) if kind == "hints" else ())
    lc.fit(model, plan, train=DATA, loss=F.cross_entropy, teacher=teacher, kept=folder / f"kept for {kind}")
    if os.environ.get("RANK", "0") == "0":
        torch.save(model.state_dict(), folder / kind)
if torch.distributed.is_initialized():
    torch.distributed.destroy_process_group()  # else its threads may still run while the process ends, which aborts it
"""


@pytest.fixture(scope="module")
def by_processes(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """What one process trained, of each kind, and two with half the batch."""
    folder = tmp_path_factory.mktemp("processes")
    (folder / "train.py").write_text(SCRIPT)
    root = Path(__file__).parents[2]
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", str(folder / "train.py"), "16"]
    for argv, name in (([sys.executable, str(folder / "train.py"), "32"], "one"), (launch, "two")):
        (folder / name).mkdir()
        done = subprocess.run(
            [*argv, str(folder / name)],
            cwd=root,
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(root)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
    return folder / "one", folder / "two"


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_two_processes_equal_one_with_the_doubled_batch(kind: str, by_processes: tuple[Path, Path]) -> None:
    """Gradients are averaged over processes in another order of additions: equal to 1e-5."""
    one, two = (torch.load(folder / kind, weights_only=True) for folder in by_processes)
    assert all(torch.allclose(one[name], two[name], atol=1e-5) for name in one)
