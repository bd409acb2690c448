"""Augmentations of pictures, by kornia. Each keeps the size.

Pictures come normalized by any mean and deviation. What is bound to a range of brightness (color, RandAugment) therefore moves each channel to [0, 1] by its
least and greatest value in the batch, and back. What moves pixels fills the rim with the picture's mirror image: a dark rim stays dark, and a
texture goes on.

Shapes: B batch, C channels, H, W.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from types import ModuleType

import torch
from torch import Tensor

from laconic.core.errors import BadInput, need
from laconic.train.augment.row import MIXUP, Augmentation, Mix, beta, uniform

_MIRROR = "reflection"


def crop(x: Tensor, strength: float) -> Tensor:
    """Widen the picture by its mirror image and cut the old size out at a random place."""
    height, width = x.shape[2:]
    rim = [min(math.ceil(strength * size / 8), size - 1) for size in (height, width)]
    cut = _part("augmentation").RandomCrop((height, width), padding=(rim[1], rim[0], rim[1], rim[0]), padding_mode="reflect")
    return cut(x)


def flip(x: Tensor, strength: float) -> Tensor:
    """Exchange left and right."""
    return _part("augmentation").RandomHorizontalFlip(p=min(1.0, strength / 2))(x)


def flip_vertical(x: Tensor, strength: float) -> Tensor:
    """Exchange top and bottom."""
    return _part("augmentation").RandomVerticalFlip(p=min(1.0, strength / 2))(x)


def rotation(x: Tensor, strength: float) -> Tensor:
    """Rotate about the center."""
    most = min(15 * strength, 180.0)
    return _part("geometry").rotate(x, uniform((len(x),), -most, most, x), padding_mode=_MIRROR)


def scale(x: Tensor, strength: float) -> Tensor:
    """Zoom in or out about the center."""
    most = math.log(1 + 0.2 * strength)
    factor = uniform((len(x), 1), -most, most, x).exp()
    return _part("geometry").scale(x, factor, padding_mode=_MIRROR)


def erasing(x: Tensor, strength: float) -> Tensor:
    """Put the channels' means in place of one rectangle of 2 to 33 % of the area."""
    draw = _part("augmentation").RandomErasing(scale=(0.02, 0.33), ratio=(0.3, 3.3), value=0.0, p=min(1.0, strength / 2))
    keep = draw(torch.ones_like(x[:, :1]))
    return torch.where(keep > 0, x, x.mean((0, 2, 3), keepdim=True))


def brightness(x: Tensor, strength: float) -> Tensor:
    """Multiply by a factor."""
    return _unit(x, lambda y: _brighten(y, _factor(y, strength)))


def contrast(x: Tensor, strength: float) -> Tensor:
    """Pull toward the mean brightness of the picture, or push away from it."""
    return _unit(x, lambda y: _contrast(y, _factor(y, strength)))


def saturation(x: Tensor, strength: float) -> Tensor:
    """Pull toward gray, or push away from it."""
    _three(x, "saturation")
    return _unit(x, lambda y: _saturate(y, _factor(y, strength)))


def hue(x: Tensor, strength: float) -> Tensor:
    """Rotate the circle of colors."""
    _three(x, "hue")
    most = min(0.1 * strength, 0.5) * 2 * math.pi
    return _unit(x, lambda y: _part("enhance").adjust_hue(y, uniform((len(y),), -most, most, y)))


def color(x: Tensor, strength: float) -> Tensor:
    """Change brightness, contrast, saturation and hue in random order; the first two where there are not 3 channels."""
    changes = (brightness, contrast, saturation, hue) if x.shape[1] == 3 else (brightness, contrast)
    for index in torch.randperm(len(changes)).tolist():
        x = changes[index](x, strength)
    return x


def randaugment(x: Tensor, strength: float) -> Tensor:
    """Apply two operations drawn anew for each picture, all of one magnitude and a random sign."""
    level = min(0.3 * strength, 1.0)
    return _unit(x, lambda y: _random_operation(_random_operation(y, level), level))


def cutmix(x: Tensor, strength: float) -> tuple[Tensor, Mix]:
    """Put one rectangle of another picture in each picture's place (Yun et al. 2019, section 3.1); the share is the area that is left of its own."""
    height, width = x.shape[2:]
    side = math.sqrt(1 - beta(strength))
    top, bottom = _stretch(height, side)
    left, right = _stretch(width, side)
    order = torch.randperm(len(x)).to(x.device)
    mixed = x.clone()
    mixed[..., top:bottom, left:right] = x[order][..., top:bottom, left:right]
    return mixed, Mix(order, 1 - (bottom - top) * (right - left) / (height * width))


def _stretch(size: int, part: float) -> tuple[int, int]:
    """Return begin and end of a stretch with its center anywhere; what hangs over the edge is cut off."""
    begin = int(torch.randint(size, ())) - round(part * size) // 2
    return max(begin, 0), max(0, min(begin + round(part * size), size))


def _part(name: str) -> ModuleType:
    return need(f"kornia.{name}", "augment")


def _unit(x: Tensor, change: Callable[[Tensor], Tensor]) -> Tensor:
    """Change a batch whose channels were each moved to [0, 1]."""
    low, high = x.amin((0, 2, 3), keepdim=True), x.amax((0, 2, 3), keepdim=True)
    span = torch.where(high > low, high - low, torch.ones_like(low))
    return change((x - low) / span) * span + low


def _factor(x: Tensor, strength: float) -> Tensor:
    most = 0.4 * strength
    return uniform((len(x),), max(0.0, 1 - most), 1 + most, x)


def _three(x: Tensor, name: str) -> None:
    if x.shape[1] != 3:
        raise BadInput(
            f"the augmentation '{name}' is for pictures of 3 channels (red, green, blue); these have {x.shape[1]}. Use brightness or contrast."
        )


# The enhancements of Pillow, as functions (batch, factor of each picture); factor 1 changes nothing.


def _brighten(x: Tensor, factor: Tensor) -> Tensor:
    return _part("enhance").adjust_brightness_accumulative(x, factor)


def _contrast(x: Tensor, factor: Tensor) -> Tensor:
    mean = x.mean((1, 2, 3), keepdim=True)
    return torch.lerp(mean.expand_as(x), x, factor[:, None, None, None]).clamp(0, 1)


def _saturate(x: Tensor, factor: Tensor) -> Tensor:
    return _part("enhance").adjust_saturation_with_gray_subtraction(x, factor) if x.shape[1] == 3 else x


def _sharpen(x: Tensor, factor: Tensor) -> Tensor:
    return _part("enhance").sharpness(x, factor) if min(x.shape[2:]) >= 3 else x


def _stretch_contrast(x: Tensor) -> Tensor:
    low, high = x.amin((2, 3), keepdim=True), x.amax((2, 3), keepdim=True)
    return torch.where(high > low, (x - low) / (high - low).clamp(min=1e-12), x)


def _shear(x: Tensor, amount: Tensor) -> Tensor:
    return _part("geometry").shear(x, amount, padding_mode=_MIRROR)


def _translate(x: Tensor, amount: Tensor) -> Tensor:
    return _part("geometry").translate(x, amount, padding_mode=_MIRROR)


def _along(axis: str, amount: Tensor) -> Tensor:
    """Return (B, 2): the amount on the axis x or y, 0 on the other."""
    return torch.stack([amount * (axis == "x"), amount * (axis == "y")], 1)


# (batch in [0, 1], signed magnitude of each picture in [-1, 1]) -> batch. The list is that of Cubuk et al. 2020, section 3, the ranges are
# torchvision's. Half of them have no sign: what they do grows with the magnitude alone.
OPERATIONS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "identity": lambda x, m: x,
    "autocontrast": lambda x, m: _stretch_contrast(x),
    "equalize": lambda x, m: _part("enhance").equalize(x),
    "rotate": lambda x, m: _part("geometry").rotate(x, 30 * m, padding_mode=_MIRROR),
    "solarize": lambda x, m: torch.where(x > (1 - m.abs())[:, None, None, None], 1 - x, x),
    "posterize": lambda x, m: _posterize(x, 8 - (4 * m.abs()).round()),
    "color": lambda x, m: _saturate(x, 1 + 0.9 * m),
    "contrast": lambda x, m: _contrast(x, 1 + 0.9 * m),
    "brightness": lambda x, m: _brighten(x, 1 + 0.9 * m),
    "sharpness": lambda x, m: _sharpen(x, 1 + 0.9 * m),
    "shear_x": lambda x, m: _shear(x, _along("x", 0.3 * m)),
    "shear_y": lambda x, m: _shear(x, _along("y", 0.3 * m)),
    "translate_x": lambda x, m: _translate(x, _along("x", 0.45 * x.shape[3] * m)),
    "translate_y": lambda x, m: _translate(x, _along("y", 0.45 * x.shape[2] * m)),
}


def _posterize(x: Tensor, bits: Tensor) -> Tensor:
    step = (2.0 ** (8 - bits))[:, None, None, None]
    return ((x * 255).round() / step).floor() * step / 255


def _random_operation(x: Tensor, level: float) -> Tensor:
    sign = 2 * (uniform((len(x),), 0, 1, x) < 0.5).to(x) - 1
    drawn = torch.randint(len(OPERATIONS), (len(x),))
    out = x.clone()
    for index, operation in enumerate(OPERATIONS.values()):
        rows = (drawn == index).nonzero()[:, 0].to(x.device)
        if len(rows):
            out[rows] = operation(x[rows], level * sign[rows]).clamp(0, 1)
    return out


_COLOR = "Howard 2013, with the 40 % and 36° of common ImageNet recipes"

IMAGE: dict[str, Augmentation] = {
    "crop": Augmentation(
        crop, "the rim is 1/8 · strength of the size, rounded up: 4 pixels of 32", "He et al. 2016, section 4.2, with a mirrored rim"
    ),
    "flip": Augmentation(flip, "half of the pictures · strength (all from 2 on)", "Krizhevsky et al. 2012, section 4.1"),
    "flip_vertical": Augmentation(flip_vertical, "half of the pictures · strength (all from 2 on)", "kornia, RandomVerticalFlip"),
    "rotation": Augmentation(rotation, "up to 15° · strength either way", "Simard et al. 2003, section 2"),
    "scale": Augmentation(scale, "a factor from 1 / (1 + 0.2 · strength) to 1 + 0.2 · strength", "Simard et al. 2003, section 2"),
    "brightness": Augmentation(brightness, "a factor from 1 − 0.4 · strength to 1 + 0.4 · strength", _COLOR),
    "contrast": Augmentation(contrast, "a factor from 1 − 0.4 · strength to 1 + 0.4 · strength", _COLOR),
    "saturation": Augmentation(saturation, "a factor from 1 − 0.4 · strength to 1 + 0.4 · strength; 3 channels", _COLOR),
    "hue": Augmentation(hue, "up to 36° · strength either way; 3 channels", _COLOR),
    "color": Augmentation(color, "that of brightness, contrast, saturation and hue", _COLOR),
    "erasing": Augmentation(
        erasing, "half of the pictures · strength (all from 2 on)", "Zhong et al. 2020, algorithm 1, with the mean as filling"
    ),
    "randaugment": Augmentation(randaugment, "two operations of magnitude 9 of 30 · strength", "Cubuk et al. 2020, section 3"),
    "mixup": MIXUP,
    "cutmix": Augmentation(cutmix, "Beta(strength, strength) is the law of the share", "Yun et al. 2019, section 3.1", mixes=True),
}
