from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from laconic.core.capture import capture
from laconic.core.errors import BadInput, TrainingStopped
from laconic.core.plan import FitPlan, Hint
from laconic.core.program import Program
from laconic.distill.distillation import DistillationModule, Exchange, teach
from laconic.distill.losses import HINTS, SOFT
from laconic.distill.watch import Tap, watch
from tests.core.models import ConvNet, Tied

X = torch.randn(6, 1, 12, 12, generator=torch.Generator().manual_seed(3))
Y = torch.arange(6) % 3


class Net(nn.Module):
    """A convolutional net of any width, with a batch-norm and dropout."""

    def __init__(self, width: int = 4, classes: int = 3, stride: int = 1) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, width, 3, stride, padding=1)
        self.bn = nn.BatchNorm2d(width)
        self.drop = nn.Dropout(0.1)
        self.head = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.drop(self.bn(self.stem(x)).relu()).mean((2, 3)))


def as_it_is(net: nn.Module) -> nn.Module:
    return net


def as_program(net: nn.Module) -> nn.Module:
    return capture(net, X[:2])


FORMS = pytest.mark.parametrize("form", [as_it_is, as_program], ids=["module", "program"])
Form = Callable[[nn.Module], nn.Module]


def train(distillation: Any, steps: int = 1, target: Any = Y) -> float:
    distillation.module.train()
    optimizer = torch.optim.SGD(distillation.module.parameters(), lr=0.1)
    for _ in range(steps):
        loss = distillation.loss(distillation.module(X), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return float(loss.detach())


@FORMS
class TestBothForms:
    def test_gradient_reaches_student_and_projector_and_not_the_teacher(self, form: Form) -> None:
        student, teacher = form(Net(4)), form(Net(6))
        before = copy.deepcopy(teacher.state_dict())
        plan = FitPlan(distill=0.5, hints=(Hint("features", "bn"), Hint("attention_transfer", "stem", weight=2.0)))
        distillation = teach(student, teacher, plan, loss=F.cross_entropy, example=X[:2])
        names = dict(distillation.module.named_parameters())
        ours = {f"student.{name}" for name, _ in student.named_parameters()}
        assert set(names) == ours | {"projectors.hint0_teacher0.project.weight", "projectors.hint0_teacher0.project.bias"}
        assert not {id(p) for p in teacher.parameters()} & {id(p) for p in names.values()}
        train(distillation)
        assert all(p.grad is not None and bool(p.grad.any()) for name, p in names.items() if name != "student.stem.bias")
        assert all(p.grad is None for p in teacher.parameters())
        after = teacher.state_dict()
        assert all(torch.equal(after[name], before[name]) for name in before)

    def test_the_loss_is_the_sum_of_its_parts(self, form: Form) -> None:
        student, teacher = form(Net().eval()), form(Net().eval())
        hints = (Hint("similarity", "stem", weight=0.5), Hint("cosine", "head", "head", weight=3.0))
        plan = FitPlan(distill=0.25, temperature=3.0, soft="mse_logits", hints=hints)
        distillation = teach(student, teacher, plan, loss=F.cross_entropy, example=X[:2])
        distillation.module.train()
        student.eval()  # so that it can be asked a second time
        found = distillation.loss(distillation.module(X), Y)
        wanted = 0.75 * F.cross_entropy(student(X), Y) + 0.25 * SOFT["mse_logits"].loss(student(X), teacher(X), Y, 3.0)
        for hint in hints:
            taps = [Tap(hint.student)]
            values = []
            for model in (student, teacher):
                with watch(model, taps).recording() as seen:
                    model(X)
                values.append(seen[taps[0]])
            wanted = wanted + hint.weight * HINTS[hint.loss].loss(*values)
        torch.testing.assert_close(found, wanted)

    def test_in_evaluation_it_is_the_student_and_the_tasks_loss(self, form: Form) -> None:
        student = form(Net().eval())
        distillation = teach(
            student, form(Net()), FitPlan(distill=0.5, hints=(Hint("features", "bn"),)), loss=F.cross_entropy, example=X[:2]
        )
        distillation.module.eval()
        assert torch.equal(distillation.module(X), student(X))
        assert torch.equal(distillation.loss(distillation.module(X), Y), F.cross_entropy(student(X), Y))

    def test_what_is_tapped_is_what_training_computes(self, form: Form) -> None:
        student = form(Net())
        distillation = teach(student, form(Net()), FitPlan(hints=(Hint("features", "bn"),)), loss=F.cross_entropy, example=X[:2])
        counter = student.state_dict()["bn.num_batches_tracked"].clone()
        distillation.module.train()
        outputs = distillation.module(X)
        value = outputs.hints[0][0][0]
        assert isinstance(outputs, Exchange)
        # normalized with this batch's own statistics, which the program's mode arguments say
        torch.testing.assert_close(value.mean((0, 2, 3)), torch.zeros(4), atol=1e-5, rtol=0)
        assert student.state_dict()["bn.num_batches_tracked"] == counter + 1
        distillation.module.eval()
        assert torch.equal(distillation.module(X), student(X))

    def test_building_a_lesson_changes_nothing(self, form: Form) -> None:
        student, teacher = form(Net()), form(Net())
        before = [(model.training, copy.deepcopy(model.state_dict())) for model in (student, teacher)]
        state = torch.get_rng_state()
        teach(student, teacher, FitPlan(distill=0.5, hints=(Hint("features", "bn"),)), loss=F.cross_entropy, example=X[:2])
        assert torch.equal(torch.get_rng_state(), state)
        for model, (training, tensors) in zip((student, teacher), before, strict=True):
            assert model.training == training
            assert all(torch.equal(value, tensors[name]) for name, value in model.state_dict().items())

    def test_a_student_teaches_itself_from_a_copy(self, form: Form) -> None:
        student = form(Net().eval())
        distillation = teach(student, student, FitPlan(distill=1.0), loss=F.cross_entropy, example=X[:2])
        distillation.module.train()
        student.eval()
        assert float(distillation.loss(distillation.module(X), Y).detach()) == pytest.approx(0, abs=1e-6)
        train(distillation, steps=3)
        student.eval()
        assert float(distillation.loss(distillation.module(X), Y).detach()) > 0

    def test_an_unknown_path_names_the_nearest(self, form: Form) -> None:
        nets = form(Net()), form(Net())
        with pytest.raises(BadInput, match=r"the student has no module path 'sten'\. Did you mean 'stem'"):
            teach(*nets, FitPlan(hints=(Hint("features", "sten", "bn"),)), loss=F.cross_entropy, example=X[:2])
        with pytest.raises(BadInput, match=r"no teacher has the module path 'hed'\. Did you mean 'head'"):
            teach(*nets, FitPlan(hints=(Hint("features", "bn", "hed"),)), loss=F.cross_entropy, example=X[:2])

    def test_a_copy_of_the_module_learns_by_itself(self, form: Form) -> None:
        distillation = teach(form(Net()), form(Net(6)), FitPlan(hints=(Hint("features", "bn"),)), loss=F.cross_entropy, example=X[:2])
        train(distillation)
        twin = copy.deepcopy(distillation.module)
        for parameter in twin.parameters():
            parameter.data.zero_()
        twin.train()
        assert not bool(twin(X).hints[0][0][0].any())
        distillation.module.train()
        assert bool(distillation.module(X).hints[0][0][0].any())


def test_weights_of_hints_and_of_the_task() -> None:
    student, teacher = Net().eval(), Net().eval()
    alone = teach(student, teacher, FitPlan(hints=(Hint("features", "stem", weight=0.0),)), loss=F.cross_entropy, example=X[:2])
    alone.module.train()
    student.eval()
    assert torch.equal(alone.loss(alone.module(X), Y), F.cross_entropy(student(X), Y))
    only = teach(student, teacher, FitPlan(distill=1.0), loss=None, example=X[:2])  # type: ignore[arg-type]
    only.module.train()
    student.eval()
    torch.testing.assert_close(only.loss(only.module(X), Y), SOFT["soft_targets"].loss(student(X), teacher(X), None, 2.0))


WEIGHTS = pytest.mark.parametrize(("distill", "smooth"), [(0.5, 0.2), (0.25, 0.4), (0.0, 0.2), (1.0, 0.3), (0.7, 0.0)])


@WEIGHTS
def test_label_smoothing_is_of_the_tasks_loss_alone(distill: float, smooth: float) -> None:
    """Weights (1 - d)(1 - s) of the labels, (1 - d) s of the even distribution, d of the teacher; those of hints stay."""
    student, teacher = Net().eval(), Net().eval()
    hint = Hint("similarity", "stem", weight=3.0)
    plan = FitPlan(distill=distill, label_smoothing=smooth, hints=(hint,))
    distillation = teach(student, teacher, plan, loss=F.cross_entropy, example=X[:2])
    distillation.module.train()
    student.eval()
    out = student(X)
    parts = {
        "labels": ((1 - distill) * (1 - smooth), F.cross_entropy(out, Y)),
        "even": ((1 - distill) * smooth, -F.log_softmax(out, 1).mean()),
        "teacher": (distill, SOFT["soft_targets"].loss(out, teacher(X), None, 2.0)),
        "hint": (3.0, HINTS["similarity"].loss(student.stem(X), teacher.stem(X))),
    }
    wanted = torch.stack([weight * value for weight, value in parts.values()]).sum()
    torch.testing.assert_close(distillation.loss(distillation.module(X), Y), wanted)


def test_several_teachers_count_alike() -> None:
    student, teachers = Net().eval(), [Net().eval(), Net(6).eval()]
    plan = FitPlan(distill=1.0, hints=(Hint("similarity", "stem"),))
    distillation = teach(student, teachers, plan, loss=F.cross_entropy, example=X[:2])
    distillation.module.train()
    student.eval()
    found = distillation.loss(distillation.module(X), Y)
    soft = [SOFT["soft_targets"].loss(student(X), teacher(X), None, 2.0) for teacher in teachers]
    hint = [HINTS["similarity"].loss(student.stem(X), teacher.stem(X)) for teacher in teachers]
    torch.testing.assert_close(found, (soft[0] + soft[1]) / 2 + (hint[0] + hint[1]) / 2)


def test_a_hint_asks_those_teachers_that_have_its_path() -> None:
    other = nn.Sequential(nn.Flatten(), nn.Linear(144, 3)).eval()
    plan = FitPlan(distill=0.5, hints=(Hint("similarity", "stem"), Hint("similarity", "head", "1")))
    distillation = teach(Net(), [Net(), other], plan, loss=F.cross_entropy, example=X[:2])
    distillation.module.train()
    assert [len(pairs) for pairs in distillation.module(X).hints] == [1, 1]
    assert isinstance(distillation.module, DistillationModule)


def test_projectors_depend_on_the_seed_alone() -> None:
    def weight(seed: int) -> Tensor:
        plan = FitPlan(hints=(Hint("features", "bn"),), seed=seed)
        distillation = teach(Net(4), Net(6), plan, loss=F.cross_entropy, example=X[:2])
        return distillation.module.state_dict()["projectors.hint0_teacher0.project.weight"]

    assert torch.equal(weight(0), weight(0))
    assert not torch.equal(weight(0), weight(1))


def test_maps_of_other_size_are_pooled() -> None:
    distillation = teach(Net(4), Net(6, stride=2), FitPlan(hints=(Hint("features", "bn"),)), loss=F.cross_entropy, example=X[:2])
    distillation.module.train()
    ours, theirs = distillation.module(X).hints[0][0]
    assert ours.shape == theirs.shape == (6, 6, 6, 6)
    with pytest.raises(BadInput, match=r"between 'bn' \(2, 4, 5, 5\) of the student and 'bn' \(2, 4, 9, 9\).*no maps of which one pools"):
        teach(
            Net(4, stride=5),
            Net(4, stride=3),
            FitPlan(hints=(Hint("features", "bn"),)),
            loss=F.cross_entropy,
            example=torch.randn(2, 1, 25, 25),
        )


@pytest.mark.parametrize(
    ("hint", "message"),
    [
        (
            Hint("hidden", "bn"),
            r"'hidden' between 'bn' \(2, 4, 12, 12\) of the student and 'bn' \(2, 4, 12, 12\) of the teacher needs values of 3",
        ),
        (Hint("features", "bn", "head"), "values of equally many dimensions"),
    ],
)
def test_values_that_do_not_go_together(hint: Hint, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        teach(Net(), Net(), FitPlan(hints=(hint,)), loss=F.cross_entropy, example=X[:2])


def test_other_classes_are_told_with_both_numbers() -> None:
    with pytest.raises(BadInput, match=r"the student answers \(2, 3\) \(examples, classes\) and teacher 0 \(2, 5\)"):
        teach(Net(), Net(classes=5), FitPlan(distill=0.5), loss=F.cross_entropy, example=X[:2])
    distillation = teach(
        Net(), Net(classes=5), FitPlan(distill=0.5), loss=F.cross_entropy
    )  # without an example it is found at the first batch
    with pytest.raises(BadInput, match=r"\(6, 3\) \(examples, classes\) and teacher 0 \(6, 5\)"):
        train(distillation)
    teach(Net(), Net(classes=5), FitPlan(hints=(Hint("features", "bn"),)), loss=F.cross_entropy, example=X[:2])


def test_one_class_has_no_soft_targets() -> None:
    with pytest.raises(BadInput, match="Use soft='mse_logits'"):
        teach(Net(classes=1), Net(classes=1), FitPlan(distill=0.5), loss=F.mse_loss, example=X[:2])
    teach(Net(classes=1), Net(classes=1), FitPlan(distill=0.5, soft="mse_logits"), loss=F.mse_loss, example=X[:2])


def test_a_teacher_that_is_not_finite() -> None:
    teacher = Net()
    teacher.head.weight.data.fill_(float("nan"))
    with pytest.raises(BadInput, match="answers of teacher 0 to the example are not finite"):
        teach(Net(), teacher, FitPlan(distill=0.5), loss=F.cross_entropy, example=X[:2])
    with pytest.raises(TrainingStopped, match="answers of teacher 0 are not finite"):
        train(teach(Net(), teacher, FitPlan(distill=0.5), loss=F.cross_entropy))


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        (FitPlan(soft="soft_target"), "soft: 'soft_target' is not a loss. Did you mean 'soft_targets'"),
        (FitPlan(hints=(Hint("feature", "bn"),)), "hints: 'feature' is not a loss. Did you mean 'features'"),
        (FitPlan(hints=(Hint("features", "bn", weight=-1.0),)), "the weight -1.0"),
        (FitPlan(distill=1.5), "distill: 1.5 must lie between 0 and 1"),
        (FitPlan(distill=0.5, temperature=0.0), "temperature: 0.0 must be more than 0"),
    ],
)
def test_plans_that_make_no_sense(plan: FitPlan, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        teach(Net(), Net(), plan, loss=F.cross_entropy, example=X[:2])


def test_what_a_lesson_needs() -> None:
    with pytest.raises(BadInput, match="there is no teacher"):
        teach(Net(), (), FitPlan(distill=0.5), loss=F.cross_entropy)
    with pytest.raises(BadInput, match="hints need an example"):
        teach(Net(), Net(), FitPlan(hints=(Hint("features", "bn"),)), loss=F.cross_entropy)
    with pytest.raises(BadInput, match="hints need the teacher itself"):
        teach(Net(), Net(), FitPlan(hints=(Hint("features", "bn"),)), loss=F.cross_entropy, cached=True)
    assert isinstance(
        teach(as_program(Net()), Net(), FitPlan(hints=(Hint("features", "bn"),)), loss=F.cross_entropy).module, DistillationModule
    )


def test_half_precision_is_compared_in_full() -> None:
    distillation = teach(
        Net(4), Net(6), FitPlan(distill=0.5, hints=(Hint("features", "bn"), Hint("rkd_angle", "stem"))), loss=F.cross_entropy, example=X[:2]
    )
    distillation.module.train()
    with torch.autocast("cpu", torch.bfloat16):
        outputs = distillation.module(X)
        loss = distillation.loss(outputs, Y)
    assert all(value.dtype == torch.float32 for pairs in outputs.hints for pair in pairs for value in pair)
    loss.backward()
    assert loss.dtype == torch.float32
    assert bool(loss.isfinite())


def test_a_program_whose_norms_are_frozen_or_that_moved_is_tapped_as_it_is_now() -> None:
    student = capture(Net(), X[:2])
    distillation = teach(student, Net(), FitPlan(hints=(Hint("features", "bn"),)), loss=F.cross_entropy)
    train(distillation)
    student.freeze_batch_norm()
    distillation.module.to(torch.float64)
    distillation.module.train()
    x = X.double()
    with watch(student, [Tap("bn")]).recording() as seen:
        student(x)
    values = distillation.module._watch
    with values.recording() as again:
        student(x)
    state = student.state_dict()
    inner = F.conv2d(x, state["stem.weight"], state["stem.bias"], padding=1)
    wanted = F.batch_norm(inner, state["bn.running_mean"], state["bn.running_var"], state["bn.weight"], state["bn.bias"])
    torch.testing.assert_close(seen[Tap("bn")], wanted)
    torch.testing.assert_close(again[Tap("bn")], wanted)


def test_hooks_are_there_only_while_they_listen() -> None:
    student = Net()
    distillation = teach(student, Net(), FitPlan(hints=(Hint("features", "bn"),)), loss=F.cross_entropy, example=X[:2])
    assert not student.bn._forward_hooks
    train(distillation)
    assert not student.bn._forward_hooks


def test_a_student_that_changes_outputs_for_logits() -> None:
    class Answers(Net):
        def forward(self, x: Tensor) -> Any:
            return {"extra": x, "logits": super().forward(x)}

    distillation = teach(Answers(), Net(), FitPlan(distill=0.5), loss=lambda out, y: F.cross_entropy(out["logits"], y), example=X[:2])
    assert train(distillation) > 0
    third = teach(
        Answers(), Net(), FitPlan(distill=0.5), loss=lambda out, y: F.cross_entropy(out["logits"], y), logits=lambda out: out, example=None
    )
    with pytest.raises(AttributeError):
        train(third)


@pytest.mark.parametrize("kind", ["attention", "values"])
def test_attention_inside_a_program_is_that_of_the_eager_model(kind: Any) -> None:
    transformers = pytest.importorskip("transformers", reason="needs the hf extra")
    options = {"vocab_size": 30, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    torch.manual_seed(0)
    eager = transformers.BertModel(transformers.BertConfig(**options, attn_implementation="eager")).eval()
    fused = transformers.BertModel(transformers.BertConfig(**options)).eval()
    fused.load_state_dict(eager.state_dict())
    inputs = {"input_ids": torch.arange(14).view(2, 7), "attention_mask": torch.tensor([[1] * 7, [1] * 4 + [0] * 3])}
    path = "encoder.layer.0.attention.self"
    tap = Tap(path, kind)
    found = []
    for model in (capture(fused, inputs), capture(eager, inputs), eager):
        if kind == "values" and not isinstance(model, Program):
            continue
        with watch(model, [tap]).recording() as seen, torch.no_grad():
            model(**inputs)
        found.append(seen[tap])
    assert found[0].shape == ((2, 2, 7, 7) if kind == "attention" else (2, 2, 7, 8))
    for other in found[1:]:
        torch.testing.assert_close(found[0], other)
    with (
        pytest.raises(BadInput, match="no attention is computed in 'pooler'"),
        watch(capture(fused, inputs), [Tap("pooler", "attention")]).recording(),
    ):
        pass


def test_a_module_that_returns_no_attention_is_told() -> None:
    with pytest.raises(BadInput, match=r"the module 'embed' returns no attention map"):
        teach(Tied(), Tied(), FitPlan(hints=(Hint("attention_maps", "embed"),)), loss=F.cross_entropy, example=torch.arange(6).view(2, 3))


def test_a_deep_student_of_another_net() -> None:
    """Student and teacher of other architectures, one a program, over a few steps: the loss falls."""
    teacher = ConvNet()
    student = capture(Net(classes=10), X[:2])
    distillation = teach(
        student, teacher, FitPlan(distill=1.0, hints=(Hint("similarity", "bn", "layers.0.bn", weight=0.1),)), loss=F.cross_entropy
    )
    first = train(distillation)
    assert train(distillation, steps=30) < first


class Deep(nn.Module):
    """Alike residual blocks of linear layers under one list."""

    def __init__(self, names: tuple[str, ...] = ("0", "1", "2")) -> None:
        super().__init__()
        self.blocks = nn.ModuleDict({name: nn.Linear(12, 12) for name in names})
        self.head = nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = x.mean(1)  # (B, L, D)
        for block in self.blocks.values():
            x = x + block(x).tanh()
        return self.head(x.mean(1))


@FORMS
def test_a_pattern_stands_for_each_path_that_both_have(form: Form) -> None:
    student, teacher = form(Deep(("0", "2", "own"))), form(Deep())
    every = teach(student, teacher, FitPlan(hints=(Hint("hidden", "blocks.*", weight=0.5),)), loss=F.cross_entropy, example=X[:2])
    named = FitPlan(hints=tuple(Hint("hidden", f"blocks.{i}", weight=0.5) for i in (0, 2)))  # 1 was dropped, own is no block of the teacher
    alone = teach(student, teacher, named, loss=F.cross_entropy, example=X[:2])
    every.module.train()
    alone.module.train()
    assert torch.equal(every.loss(every.module(X), Y), alone.loss(alone.module(X), Y))
    assert not torch.equal(every.loss(every.module(X), Y), F.cross_entropy(student(X), Y))


def test_the_teachers_pattern_has_the_students_names() -> None:
    teacher = nn.Sequential()
    teacher.add_module("inner", Deep())
    hints = (Hint("hidden", "blocks.*", "inner.blocks.*"),)
    found = teach(Deep(("1", "2")), teacher, FitPlan(hints=hints), loss=F.cross_entropy, example=X[:2])
    assert [(hint.student, hint.teacher) for hint, _ in found.module.hints] == [(f"blocks.{i}", f"inner.blocks.{i}") for i in (1, 2)]


@pytest.mark.parametrize(
    ("hint", "message"),
    [
        (Hint("hidden", "block.*"), r"no module path of student and teacher is like 'block\.\*'"),
        (Hint("hidden", "blocks.*.*"), r"no module path of student and teacher is like"),
        (
            Hint("hidden", "blocks.*", "blocks.0"),
            r"'blocks\.\*' of the student and 'blocks\.0' of the teacher must have '\*' equally often",
        ),
    ],
)
def test_patterns_that_stand_for_nothing(hint: Hint, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        teach(Deep(), Deep(), FitPlan(hints=(hint,)), loss=F.cross_entropy, example=X[:2])
