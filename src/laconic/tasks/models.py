"""Reference nets. Each is made for the data's shape and number of classes, with random weights."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from laconic.core.errors import BadInput, nearest, need


@dataclass(frozen=True)
class DataShape:
    """What a net must fit: ``image`` (channels, height, width), ``series`` (channels, length) or ``text`` (length,) with a vocabulary."""

    kind: str
    shape: tuple[int, ...]
    classes: int
    vocabulary: int = 0


class LeNet5(nn.Module):
    """The LeNet-5 of the pruning literature (Han et al. 2015, table 4): 431 k parameters at 28²; images under 28² are padded so that something is left."""

    def __init__(self, data: DataShape) -> None:
        super().__init__()
        channels, height, width = data.shape
        padding = 0 if min(height, width) >= 28 else 2
        rows, columns = (((side - 4 + 2 * padding) // 2 - 4 + 2 * padding) // 2 for side in (height, width))
        self.conv1 = nn.Conv2d(channels, 20, 5, padding=padding)
        self.conv2 = nn.Conv2d(20, 50, 5, padding=padding)
        self.fc1 = nn.Linear(50 * rows * columns, 500)
        self.fc2 = nn.Linear(500, data.classes)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to logits (B, classes)."""
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        return self.fc2(F.relu(self.fc1(x.flatten(1))))


def lenet300(data: DataShape) -> nn.Module:
    """Build LeNet-300-100: two hidden layers (LeCun et al. 1998)."""
    inputs = int(torch.tensor(data.shape).prod())
    return nn.Sequential(nn.Flatten(), nn.Linear(inputs, 300), nn.ReLU(), nn.Linear(300, 100), nn.ReLU(), nn.Linear(100, data.classes))


class BasicBlock(nn.Module):
    """Two 3×3 convolutions and a shortcut; a 1×1 convolution on the shortcut where the shape changes."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, C', H/stride, W/stride)."""
        out = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(out)) + self.shortcut(x))


class CifarResNet(nn.Module):
    """ResNet of depth 6n+2 for small images: three stages of n blocks with 16, 32 and 64 channels (He et al. 2016, section 4.2), times `width`."""

    def __init__(self, data: DataShape, depth: int, width: float = 1.0) -> None:
        super().__init__()
        blocks = (depth - 2) // 6
        first, second, third = (max(1, round(width * channels)) for channels in (16, 32, 64))
        self.conv1 = nn.Conv2d(data.shape[0], first, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(first)

        def stage(inputs: int, outputs: int, stride: int) -> nn.Sequential:
            return nn.Sequential(BasicBlock(inputs, outputs, stride), *(BasicBlock(outputs, outputs, 1) for _ in range(blocks - 1)))

        self.layer1, self.layer2, self.layer3 = stage(first, first, 1), stage(first, second, 2), stage(second, third, 2)
        self.fc = nn.Linear(third, data.classes)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to logits (B, classes)."""
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.fc(x.mean((2, 3)))


class Bottleneck(nn.Module):
    """1×1, 3×3, 1×1 convolutions and a shortcut; the stride is on the 3×3, as everybody trains it today."""

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        outputs = 4 * width
        self.conv1, self.bn1 = nn.Conv2d(inputs, width, 1, bias=False), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = nn.Conv2d(width, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width)
        self.conv3, self.bn3 = nn.Conv2d(width, outputs, 1, bias=False), nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU()
        self.downsample: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, 4·width, H/stride, W/stride)."""
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.relu(self.bn2(self.conv2(out)))
        return self.relu(self.bn3(self.conv3(out)) + self.downsample(x))


class ResNet50(nn.Module):
    """ResNet-50 for large images (He et al. 2016, table 1): 25.6 M parameters and 4.09 G multiply-adds at 224² with 1,000 classes."""

    def __init__(self, data: DataShape) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(data.shape[0], 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64)
        self.relu, self.maxpool = nn.ReLU(), nn.MaxPool2d(3, 2, 1)

        def stage(inputs: int, width: int, blocks: int, stride: int) -> nn.Sequential:
            return nn.Sequential(Bottleneck(inputs, width, stride), *(Bottleneck(4 * width, width, 1) for _ in range(blocks - 1)))

        self.layer1, self.layer2 = stage(64, 64, 3, 1), stage(256, 128, 4, 2)
        self.layer3, self.layer4 = stage(512, 256, 6, 2), stage(1024, 512, 3, 2)
        self.avgpool, self.fc = nn.AdaptiveAvgPool2d(1), nn.Linear(2048, data.classes)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to logits (B, classes)."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(self.avgpool(x).flatten(1))


def _conv_bn(inputs: int, outputs: int, kernel: int, stride: int, groups: int = 1, act: type[nn.Module] | None = nn.ReLU6) -> nn.Sequential:
    rows: list[nn.Module] = [nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False), nn.BatchNorm2d(outputs)]
    return nn.Sequential(*rows, *([act()] if act else []))


def _stride(data: DataShape) -> int:
    """Return the stride of the first layers: small images keep their size there."""
    return 2 if data.shape[1] >= 64 else 1


def mobilenet_v1(data: DataShape) -> nn.Module:
    """Build MobileNet (Howard et al. 2017, table 1): depthwise-separable convolutions throughout."""
    first = _stride(data)
    rows = [(64, 1), (128, first), (128, 1), (256, 2), (256, 1), (512, 2), *[(512, 1)] * 5, (1024, 2), (1024, 1)]
    layers: list[nn.Module] = [_conv_bn(data.shape[0], 32, 3, first, act=nn.ReLU)]
    inputs = 32
    for outputs, stride in rows:
        layers += [_conv_bn(inputs, inputs, 3, stride, groups=inputs, act=nn.ReLU), _conv_bn(inputs, outputs, 1, 1, act=nn.ReLU)]
        inputs = outputs
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, data.classes))


class InvertedResidual(nn.Module):
    """Expand, depthwise, project; with a shortcut where shapes agree (Sandler et al. 2018, fig. 3b)."""

    def __init__(self, inputs: int, outputs: int, stride: int, expand: int) -> None:
        super().__init__()
        hidden = inputs * expand
        rows = [_conv_bn(inputs, hidden, 1, 1)] if expand != 1 else []
        self.conv = nn.Sequential(*rows, _conv_bn(hidden, hidden, 3, stride, groups=hidden), _conv_bn(hidden, outputs, 1, 1, act=None))
        self.shortcut = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, C', H/stride, W/stride)."""
        out = self.conv(x)
        return x + out if self.shortcut else out


def mobilenet_v2(data: DataShape) -> nn.Module:
    """Build MobileNetV2 (Sandler et al. 2018, table 2)."""
    first = _stride(data)
    rows = [(1, 16, 1, 1), (6, 24, 2, first), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)]
    layers: list[nn.Module] = [_conv_bn(data.shape[0], 32, 3, first)]
    inputs = 32
    for expand, outputs, repeats, stride in rows:
        for index in range(repeats):
            layers.append(InvertedResidual(inputs, outputs, stride if index == 0 else 1, expand))
            inputs = outputs
    head = [_conv_bn(inputs, 1280, 1, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.2), nn.Linear(1280, data.classes)]
    return nn.Sequential(*layers, *head)


class Recurrent(nn.Module):
    """A recurrent classifier: over a series' steps or over embedded words; the mean over the steps (padding left out) is classified."""

    def __init__(self, data: DataShape, cell: type[nn.LSTM] | type[nn.GRU], hidden: int = 64, layers: int = 1) -> None:
        super().__init__()
        self.embedding = nn.Embedding(data.vocabulary, hidden, padding_idx=0) if data.kind == "text" else None
        width = hidden if data.kind == "text" else data.shape[0]
        self.cell = cell(width, hidden, layers, batch_first=True, bidirectional=True)
        self.fc = nn.Linear(2 * hidden, data.classes)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Map series (B, C, L), or ids (B, L) with their mask (B, L), to logits (B, classes)."""
        x = input_ids.transpose(1, 2) if self.embedding is None else self.embedding(input_ids)
        steps = self.cell(x)[0]
        if attention_mask is None:
            return self.fc(steps.mean(1))
        mask = attention_mask.unsqueeze(-1).to(steps.dtype)
        return self.fc((steps * mask).sum(1) / mask.sum(1).clamp(min=1))


class Cnn1d(nn.Module):
    """The fully convolutional net for series (Wang et al. 2017, fig. 1b), also over embedded words."""

    def __init__(self, data: DataShape, width: int = 64) -> None:
        super().__init__()
        self.embedding = nn.Embedding(data.vocabulary, width, padding_idx=0) if data.kind == "text" else None
        inputs = width if data.kind == "text" else data.shape[0]
        rows: list[nn.Module] = []
        for source, outputs, kernel in ((inputs, width, 7), (width, 2 * width, 5), (2 * width, width, 3)):
            rows += [nn.Conv1d(source, outputs, kernel, padding=kernel // 2, bias=False), nn.BatchNorm1d(outputs), nn.ReLU()]
        self.body = nn.Sequential(*rows)
        self.fc = nn.Linear(width, data.classes)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Map series (B, C, L), or ids (B, L) with their mask (B, L), to logits (B, classes)."""
        x = input_ids if self.embedding is None else self.embedding(input_ids).transpose(1, 2)
        return self.fc(self.body(x).amax(2) if self.embedding is not None else self.body(x).mean(2))


def bert(data: DataShape) -> nn.Module:
    """Build a small BERT classifier of `transformers`, from its configuration: 2 layers, 128 hidden, 2 heads (BERT-tiny of Turc et al. 2019)."""
    transformers = need("transformers", "hf")
    config = transformers.BertConfig(
        vocab_size=data.vocabulary,
        hidden_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=512,
        max_position_embeddings=max(64, data.shape[0]),
        num_labels=data.classes,
    )
    return transformers.BertForSequenceClassification(config)


# name -> kinds of data, the function that makes the net
MODELS: dict[str, tuple[tuple[str, ...], Callable[[DataShape], nn.Module]]] = {
    "lenet5": (("image",), LeNet5),
    "lenet300": (("image",), lenet300),
    "resnet8": (("image",), lambda data: CifarResNet(data, 8)),
    "resnet20": (("image",), lambda data: CifarResNet(data, 20)),
    "resnet56": (("image",), lambda data: CifarResNet(data, 56)),
    "resnet50": (("image",), ResNet50),
    "mobilenet_v1": (("image",), mobilenet_v1),
    "mobilenet_v2": (("image",), mobilenet_v2),
    "lstm": (("series", "text"), lambda data: Recurrent(data, nn.LSTM)),
    "gru": (("series", "text"), lambda data: Recurrent(data, nn.GRU)),
    "cnn1d": (("series", "text"), Cnn1d),
    "bert": (("text",), bert),
}
# Nets whose widths can be multiplied: `resnet20x0.5` has half the channels of resnet20 in every layer.
WIDE: dict[str, Callable[[DataShape, float], nn.Module]] = {
    "resnet8": lambda data, width: CifarResNet(data, 8, width),
    "resnet20": lambda data, width: CifarResNet(data, 20, width),
    "resnet56": lambda data, width: CifarResNet(data, 56, width),
    "lstm": lambda data, width: Recurrent(data, nn.LSTM, max(1, round(64 * width))),
    "gru": lambda data, width: Recurrent(data, nn.GRU, max(1, round(64 * width))),
    "cnn1d": lambda data, width: Cnn1d(data, max(1, round(64 * width))),
}


def models_for(kind: str) -> list[str]:
    """List the nets that take this kind of data."""
    return [name for name, (kinds, _) in MODELS.items() if kind in kinds]


def check_name(name: str, kind: str) -> None:
    """Check that there is such a net for this kind of data.

    Raises:
        BadInput: there is none of this name, it takes another kind of data, or its width cannot be multiplied.
    """
    plain, width = _width_of(name)
    fitting = models_for(kind)
    if plain not in fitting:
        why = "takes another kind of data" if plain in MODELS else "is not a reference net"
        raise BadInput(f"'{name}' {why}." + nearest(plain, fitting))
    if width is not None and (plain not in WIDE or not width > 0):
        raise BadInput(f"'{name}': the width of {', '.join(sorted(set(WIDE) & set(fitting)))} can be multiplied by a number above 0")


def _width_of(name: str) -> tuple[str, float | None]:
    match = re.fullmatch(r"(.+)x(\d+(?:\.\d+)?)", name)
    return (name, None) if match is None else (match[1], float(match[2]))


def build(name: str, data: DataShape, seed: int = 0) -> nn.Module:
    """Build a reference net with random weights that depend on the seed alone.

    Args:
        name: of `MODELS`; of `WIDE` also with a multiple of its width behind it: ``resnet20x0.5``.
        data: what the net must fit.
        seed: of the weights.

    Raises:
        BadInput: see `check_name`.
    """
    check_name(name, data.kind)
    plain, width = _width_of(name)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made: Any = MODELS[plain][1](data) if width is None else WIDE[plain](data, width)
    assert isinstance(made, nn.Module)
    return made
