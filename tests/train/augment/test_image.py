from __future__ import annotations

import kornia
import pytest
import torch

from laconic.core.errors import BadInput, MissingExtra
from laconic.train.augment.image import OPERATIONS, rotation
from laconic.train.augment.row import mixup, uniform
from tests.reference import augment as twin
from tests.train.augment.data import augment, batch

GEOMETRY = ("crop", "flip", "flip_vertical", "rotation", "scale")


@pytest.mark.parametrize(("name", "axis"), [("flip", 3), ("flip_vertical", 2)])
def test_a_flip_of_strength_2_turns_all_and_back(name: str, axis: int) -> None:
    x = batch("image")
    once, _ = augment(x, name, 2.0)
    assert torch.equal(once, x.flip(axis))
    assert torch.equal(augment(once, name, 2.0)[0], x)


@pytest.mark.parametrize("strength", [0.4, 1.0])
@pytest.mark.parametrize("name", ["flip", "flip_vertical", "erasing"])
def test_half_of_the_pictures_times_strength_change(name: str, strength: float) -> None:
    x = torch.randn(2000, 1, 6, 6)
    changed = (augment(x, name, strength)[0] != x).flatten(1).any(1).float().mean()
    assert changed == pytest.approx(strength / 2, abs=0.05)  # four deviations of 2000 draws


def test_a_crop_is_a_window_of_the_mirrored_picture() -> None:
    x = torch.arange(16 * 16.0).view(1, 1, 16, 16).repeat(40, 1, 1, 1)
    wide = torch.nn.functional.pad(x[:1], (2, 2, 2, 2), mode="reflect")[0, 0]  # 1/8 of 16
    windows = {tuple(wide[top : top + 16, left : left + 16].flatten().tolist()) for top in range(5) for left in range(5)}
    seen = {tuple(picture.flatten().tolist()) for picture in augment(x, "crop")[0]}
    assert seen <= windows
    assert len(seen) > 10


@pytest.mark.parametrize("name", GEOMETRY)
def test_moving_pixels_invents_no_brightness(name: str) -> None:
    x = batch("image")
    moved, _ = augment(x, name, 3.0)
    assert moved.min() >= x.min() - 1e-5
    assert moved.max() <= x.max() + 1e-5
    dark = torch.full((2, 1, 9, 9), -0.4)
    dark[:, :, 3:6, 3:6] = 2.0
    assert torch.allclose(augment(dark, name)[0][:, :, 0, :3], torch.tensor(-0.4), atol=1e-5)


def test_a_rotation_is_kornias_by_the_angles_drawn() -> None:
    x = batch("image")
    torch.manual_seed(4)
    ours = rotation(x, 2.0)
    torch.manual_seed(4)
    angles = uniform((len(x),), -30, 30, x)
    assert torch.equal(ours, kornia.geometry.rotate(x, angles, padding_mode="reflection"))
    assert angles.abs().max() > 15


def test_a_scale_keeps_the_centre_and_its_factor_is_bounded() -> None:
    row = torch.linspace(-1, 1, 31)
    out = augment(row.expand(50, 1, 31, 31).clone(), "scale")[0]
    slope = (out[:, 0, 15, 18] - out[:, 0, 15, 12]) / (row[18] - row[12])
    assert torch.allclose(out[:, 0, 15, 15], torch.zeros(50), atol=1e-5)
    assert slope.min() >= 1 / 1.2 - 1e-4
    assert slope.max() <= 1.2 + 1e-4
    assert slope.min() < 0.95
    assert slope.max() > 1.05


def test_erasing_puts_the_means_in_one_rectangle() -> None:
    x = batch("image", size=20)
    out, _ = augment(x, "erasing", 2.0)
    for old, new in zip(x, out, strict=True):
        gone = (old != new).any(0)
        rows, columns = gone.nonzero(as_tuple=True)
        box = new[:, rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
        assert torch.allclose(box, x.mean((0, 2, 3))[:, None, None].expand_as(box))
        assert 0.01 < gone.float().mean() < 0.4


@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation", "hue", "color", "randaugment"])
def test_colours_do_not_depend_on_the_normalization(name: str) -> None:
    x = torch.rand(8, 3, 7, 7)
    mean, deviation = torch.tensor([0.5, 0.4, 0.3]).view(3, 1, 1), torch.tensor([0.2, 0.25, 0.3]).view(3, 1, 1)
    plain = augment(x, name)[0]
    normalized = augment((x - mean) / deviation, name)[0] * deviation + mean
    # equalize and posterize round to 256 steps; a pixel on the edge of one may fall either way
    assert ((plain - normalized).abs() < 1e-4).float().mean() > 0.99
    assert plain.min() >= x.min() - 1e-5
    assert plain.max() <= x.max() + 1e-5


@pytest.mark.parametrize("name", ["saturation", "hue"])
def test_grey_stays_grey(name: str) -> None:
    x = torch.rand(4, 1, 5, 5).repeat(1, 3, 1, 1)
    assert torch.allclose(augment(x, name, 3.0)[0], x, atol=1e-5)


@pytest.mark.parametrize("name", ["saturation", "hue"])
def test_true_colours_need_three_channels(name: str) -> None:
    with pytest.raises(BadInput, match=f"'{name}' is for pictures of 3 channels .* these have 1"):
        augment(batch("image", channels=1), name)


@pytest.mark.parametrize("name", OPERATIONS)
def test_an_operation_of_randaugment_grows_with_its_magnitude(name: str) -> None:
    x = torch.rand(3, 3, 12, 12)
    x[0, 0, 0, :2] = torch.tensor([0.0, 1.0])
    small, large = ((OPERATIONS[name](x, torch.full((3,), m)).clamp(0, 1) - x).abs().mean() for m in (0.0, 1.0))
    assert large >= small
    if name in ("autocontrast", "equalize"):
        assert small > 0
    else:
        assert small < 1 / 255
        assert (large > 0.01) == (name != "identity")


@pytest.mark.parametrize(("name", "magnitude", "argument"), [("solarize", 0.41, 0.59), ("posterize", 0.5, torch.tensor([6, 6, 6]))])
def test_what_is_not_kornias_equals_kornias(name: str, magnitude: float, argument: object) -> None:
    x = torch.randint(0, 256, (3, 3, 9, 9)) / 255  # no value lies at the threshold itself, which kornia inverts too
    ours = OPERATIONS[name](x, torch.full((3,), magnitude))
    assert torch.allclose(ours, getattr(kornia.enhance, name)(x, argument), atol=1e-6)


@pytest.mark.parametrize("name", ["mixup", "cutmix"])
def test_the_label_rule_is_what_was_mixed(name: str) -> None:
    x = batch("image")
    for seed in range(8):
        mixed, mix = augment(x, name, seed=seed)
        assert mix is not None
        order = mix.order.tolist()
        if name == "mixup":
            assert mix.share >= 0.5
            assert mixed.numpy() == pytest.approx(twin.mixture(x.numpy(), order, mix.share), abs=1e-6)
            continue
        for example in range(len(x)):
            own = twin.own_part(mixed.numpy(), x.numpy(), order, example)
            assert own == pytest.approx(1.0 if order[example] == example else mix.share)


def test_a_share_is_beta_distributed() -> None:
    shares = torch.tensor([mixup(torch.zeros(2, 1), 5.0)[1].share for _ in range(400)])
    # max(λ, 1 − λ) of the uniform Beta(1, 1) is uniform on [1/2, 1]
    assert shares.mean() == pytest.approx(0.75, abs=0.03)
    assert shares.std() == pytest.approx(0.5 / 12**0.5, abs=0.02)


def test_without_kornia_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "kornia.augmentation", None)
    with pytest.raises(MissingExtra, match=r"laconic\[augment\]"):
        augment(batch("image"), "flip")
