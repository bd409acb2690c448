"""Losses, augmentations and metrics that another package brings: they act wherever their names are given."""

import importlib
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import laconic as lc
from laconic.core.errors import BadInput
from laconic.distill import losses
from laconic.studies.variants import chosen
from laconic.tasks import metrics
from laconic.train import augment
from laconic.train.augment import Augmenter

ROWS = """
from laconic.distill.losses import HintLoss, Soft
from laconic.tasks.metrics import MetricSpec
from laconic.train.augment import Augmentation

soft = Soft(lambda student, teacher, target, temperature: (student - teacher).abs().mean(), "here", classes=1)
hint = HintLoss(lambda student, teacher: (student - teacher).abs().mean(), "here")
shift = Augmentation(lambda x, strength: x + 10 * strength, "10 · strength", "here", kinds=("image", "series"))
homeless = Augmentation(lambda x, strength: x, "nothing", "here")
largest = MetricSpec("largest", "max", 1.0, "", lambda logits, target: float(logits.max()))
number = 3
"""


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator:  # type: ignore[type-arg]
    """A function that installs a package `bringer` with these entry points, `group: name = attribute`."""
    caches = (losses._from_outside, augment._from_outside, metrics._from_outside)

    def install(*entries: str) -> None:
        info = tmp_path / "bringer-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: bringer\nVersion: 1.0\n", encoding="utf-8")
        lines = [f"[{group}]\n{rest.replace('= ', '= bringer_of_rows:')}" for group, rest in (entry.split(": ") for entry in entries)]
        (info / "entry_points.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
        (tmp_path / "bringer_of_rows.py").write_text(ROWS, encoding="utf-8")
        monkeypatch.syspath_prepend(tmp_path)
        importlib.invalidate_caches()
        for cache in caches:
            cache.cache_clear()

    yield install
    monkeypatch.undo()
    for cache in caches:
        cache.cache_clear()


@pytest.mark.parametrize("plan", [{"distill": 1.0, "soft": "absolute"}, {"hints": (lc.Hint("near", "0"),)}], ids=["soft", "hint"])
def test_a_loss_of_another_package_teaches(install, plan: dict) -> None:  # type: ignore[no-untyped-def, type-arg]
    install("laconic.losses: absolute = soft\nnear = hint")
    torch.manual_seed(0)
    student, teacher = (torch.nn.Sequential(torch.nn.Linear(4, 3)) for _ in range(2))
    x = torch.randn(8, 4)
    taught = lc.teach(student, teacher, lc.FitPlan(**plan), loss=lambda outputs, target: outputs.sum() * 0, example=x)
    gap = float((student(x) - teacher(x)).abs().mean().detach())
    assert float(taught.loss(taught.module(x), torch.zeros(8)).detach()) == pytest.approx(gap, rel=1e-6)


@pytest.mark.parametrize("shape", [(2, 3, 4, 4), (2, 3, 9)], ids=["image", "series"])
def test_an_augmentation_of_another_package_acts_on_its_kinds(install, shape: tuple[int, ...]) -> None:  # type: ignore[no-untyped-def]
    install("laconic.augmentations: shift = shift")
    x = torch.randn(shape)
    torch.testing.assert_close(Augmenter([lc.Scaled("shift", 0.5)])(x)[0], x + 5)
    assert "shift" in [variant.name for variant in chosen("augment", None, x)]
    with pytest.raises(BadInput, match="'shift' is no augmentation of data of the kind 'text'"):
        Augmenter([lc.Scaled("shift")])(torch.ones(2, 5, dtype=torch.int64))


def test_a_metric_of_another_package_scores(install) -> None:  # type: ignore[no-untyped-def]
    install("laconic.metrics: largest = largest")
    assert metrics.resolve("largest").score(torch.tensor([[1.0, 7.0]]), torch.tensor([0])) == 7.0


@pytest.mark.parametrize(
    ("entry", "call", "message"),
    [
        ("laconic.losses: cosine = hint", losses.soft_losses, "the package bringer adds 'cosine'"),
        ("laconic.losses: mine = number", losses.hint_losses, "'mine' in the group laconic.losses is a int"),
        ("laconic.augmentations: flip = shift", augment.augmentations, "the package bringer adds 'flip'"),
        ("laconic.augmentations: mine = homeless", augment.augmentations, "'mine' in the group laconic.augmentations must be"),
        ("laconic.metrics: f1 = largest", metrics.named_metrics, "the package bringer adds 'f1'"),
        ("laconic.metrics: mine = number", metrics.named_metrics, "'mine' in the group laconic.metrics is a int"),
    ],
)
def test_what_is_taken_or_no_such_row_is_refused(install, entry: str, call, message: str) -> None:  # type: ignore[no-untyped-def]
    install(entry)
    with pytest.raises(BadInput, match=message):
        call()
