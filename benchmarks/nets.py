"""Small nets written by hand, one for each way of building that no other row of the table has.

Shapes: B batch, C channels, H W, T frames, L length, D features. Images are (B, 3, 32, 32), series (B, 6, L), videos (B, 3, T, H, W), token ids (B, L).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

CLASSES = 10


def conv_bn(inputs: int, outputs: int, kernel: int = 3, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """Convolution with batch norm and ReLU; keeps H and W at stride 1."""
    conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))


def head(channels: int, classes: int = CLASSES) -> nn.Sequential:
    """The mean over H and W, then a linear layer."""
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes))


class UNet(nn.Module):
    """Segmentation: down, up by transposed convolutions, skips concatenated; (B, 3, H, W) to (B, classes, H, W)."""

    def __init__(self, width: int = 8, classes: int = 4) -> None:
        super().__init__()
        wide, wider = 2 * width, 4 * width
        self.down1 = nn.Sequential(conv_bn(3, width), conv_bn(width, width))
        self.down2 = nn.Sequential(conv_bn(width, wide), conv_bn(wide, wide))
        self.bottom = nn.Sequential(conv_bn(wide, wider), conv_bn(wider, wider))
        self.rise2 = nn.ConvTranspose2d(wider, wide, 2, stride=2)
        self.up2 = nn.Sequential(conv_bn(2 * wide, wide), conv_bn(wide, wide))
        self.rise1 = nn.ConvTranspose2d(wide, width, 2, stride=2)
        self.up1 = nn.Sequential(conv_bn(2 * width, width), conv_bn(width, width))
        self.out = nn.Conv2d(width, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        one = self.down1(x)
        two = self.down2(F.max_pool2d(one, 2))
        x = self.bottom(F.max_pool2d(two, 2))
        x = self.up2(torch.cat([two, self.rise2(x)], 1))
        x = self.up1(torch.cat([one, self.rise1(x)], 1))
        return self.out(x)


class DenseLayer(nn.Module):
    """Bottleneck of a DenseNet: its `growth` channels are appended to its input's."""

    def __init__(self, inputs: int, growth: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = nn.BatchNorm2d(inputs), nn.Conv2d(inputs, 4 * growth, 1, bias=False)
        self.norm2, self.conv2 = nn.BatchNorm2d(4 * growth), nn.Conv2d(4 * growth, growth, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        new = self.conv2(F.relu(self.norm2(self.conv1(F.relu(self.norm1(x))))))
        return torch.cat([x, new], 1)


class DenseNet(nn.Module):
    """Two dense blocks with a transition that halves the channels."""

    def __init__(self, growth: int = 8, layers: int = 3) -> None:
        super().__init__()
        start = 2 * growth
        first = start + layers * growth
        last = first // 2 + layers * growth
        self.stem = nn.Conv2d(3, start, 3, padding=1, bias=False)
        self.block1 = nn.Sequential(*[DenseLayer(start + i * growth, growth) for i in range(layers)])
        self.transition = nn.Sequential(
            nn.BatchNorm2d(first), nn.ReLU(inplace=True), nn.Conv2d(first, first // 2, 1, bias=False), nn.AvgPool2d(2)
        )
        self.block2 = nn.Sequential(*[DenseLayer(first // 2 + i * growth, growth) for i in range(layers)])
        self.norm = nn.BatchNorm2d(last)
        self.head = head(last)

    def forward(self, x: Tensor) -> Tensor:
        x = self.block2(self.transition(self.block1(self.stem(x))))
        return self.head(F.relu(self.norm(x)))


def shuffled(x: Tensor, groups: int) -> Tensor:
    """Channels of the groups interleaved, as ShuffleNet does it."""
    b, c, h, w = x.shape
    return x.view(b, groups, c // groups, h, w).transpose(1, 2).contiguous().view(b, c, h, w)


class ShuffleUnit(nn.Module):
    """ShuffleNetV2's unit: half of the channels pass by; with stride 2 both branches see all of them."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        half = outputs // 2
        self.stride = stride
        self.beside = nn.Identity() if stride == 1 else nn.Sequential(self.depthwise(inputs, stride), conv_bn(inputs, half, 1))
        self.branch = nn.Sequential(conv_bn(half if stride == 1 else inputs, half, 1), self.depthwise(half, stride), conv_bn(half, half, 1))

    @staticmethod
    def depthwise(channels: int, stride: int) -> nn.Sequential:
        return nn.Sequential(nn.Conv2d(channels, channels, 3, stride, 1, groups=channels, bias=False), nn.BatchNorm2d(channels))

    def forward(self, x: Tensor) -> Tensor:
        left, right = x.chunk(2, 1) if self.stride == 1 else (x, x)
        return shuffled(torch.cat([self.beside(left), self.branch(right)], 1), 2)


class ShuffleNetV2(nn.Module):
    """Channel split, and channel shuffle through view and transpose."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(conv_bn(3, 16, stride=2), nn.MaxPool2d(3, 2, 1))
        self.stages = nn.Sequential(ShuffleUnit(16, 32, 2), ShuffleUnit(32, 32, 1), ShuffleUnit(32, 64, 2), ShuffleUnit(64, 64, 1))
        self.last, self.head = conv_bn(64, 96, 1), head(96)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.last(self.stages(self.stem(x))))


class InceptionBlock(nn.Module):
    """Four branches, concatenated: 1x1, 3x3, 5x5 as 1x5 and 5x1, and pooling."""

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.one = conv_bn(inputs, width, 1)
        self.three = nn.Sequential(conv_bn(inputs, width // 2, 1), conv_bn(width // 2, width))
        self.five = nn.Sequential(
            conv_bn(inputs, width // 2, 1),
            nn.Conv2d(width // 2, width // 2, (1, 5), padding=(0, 2), bias=False),
            nn.Conv2d(width // 2, width, (5, 1), padding=(2, 0), bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
        )
        self.pool = nn.Sequential(nn.AvgPool2d(3, 1, 1, count_include_pad=False), conv_bn(inputs, width, 1))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.one(x), self.three(x), self.five(x), self.pool(x)], 1)


class Inception(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_bn(3, 16, stride=2)
        self.blocks = nn.Sequential(InceptionBlock(16, 8), nn.MaxPool2d(3, 2, ceil_mode=True), InceptionBlock(32, 16))
        self.drop, self.head = nn.Dropout(0.2), head(64)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.drop(self.blocks(self.stem(x))))


class Bottleneck(nn.Module):
    """1x1, 3x3 in groups, 1x1, added to the input or to its projection."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1, groups: int = 8) -> None:
        super().__init__()
        half = outputs // 2
        self.body = nn.Sequential(conv_bn(inputs, half, 1), conv_bn(half, half, 3, stride, groups), *conv_bn(half, outputs, 1)[:2])
        plain = stride == 1 and inputs == outputs
        self.short = nn.Identity() if plain else conv_bn(inputs, outputs, 1, stride)[:2]

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.body(x) + self.short(x))


class ResNeXt(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_bn(3, 16)
        self.blocks = nn.Sequential(Bottleneck(16, 32), Bottleneck(32, 32), Bottleneck(32, 64, 2), Bottleneck(64, 64))
        self.head = head(64)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(self.stem(x)))


class SqueezeBlock(nn.Module):
    """Basic residual block whose channels are weighted by squeeze and excitation."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.body = nn.Sequential(conv_bn(inputs, outputs, 3, stride), *conv_bn(outputs, outputs)[:2])
        self.squeeze, self.excite = nn.Linear(outputs, outputs // 4), nn.Linear(outputs // 4, outputs)
        plain = stride == 1 and inputs == outputs
        self.short = nn.Identity() if plain else conv_bn(inputs, outputs, 1, stride)[:2]

    def forward(self, x: Tensor) -> Tensor:
        y = self.body(x)
        scale = torch.sigmoid(self.excite(F.relu(self.squeeze(y.mean((2, 3))))))
        return F.relu(y * scale[:, :, None, None] + self.short(x))


class SEResNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_bn(3, 16)
        self.blocks = nn.Sequential(SqueezeBlock(16, 16), SqueezeBlock(16, 32, 2), SqueezeBlock(32, 64, 2))
        self.head = head(64)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(self.stem(x)))


class VGG(nn.Module):
    """Convolutions with bias and batch norm, pooling, and a classifier of three layers on the flattened map."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        inputs = 3
        for width, depth in ((16, 1), (32, 1), (64, 2)):
            for _ in range(depth):
                layers += [nn.Conv2d(inputs, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
                inputs = width
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(
            nn.Linear(64 * 4 * 4, 64), nn.ReLU(), nn.Dropout(), nn.Linear(64, 64), nn.ReLU(), nn.Dropout(), nn.Linear(64, CLASSES)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(torch.flatten(self.features(x), 1))


class PreActivation(nn.Module):
    """Norm and ReLU before each convolution; the projection, where there is one, sees the activated input."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.norm1, self.conv1 = nn.BatchNorm2d(inputs), nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.norm2, self.conv2 = nn.BatchNorm2d(outputs), nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.short = None if stride == 1 and inputs == outputs else nn.Conv2d(inputs, outputs, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        active = F.relu(self.norm1(x))
        y = F.relu(self.norm2(self.conv1(active)))
        y = self.conv2(F.dropout(y, 0.1, self.training))
        return y + (x if self.short is None else self.short(active))


class WideResNet(nn.Module):
    def __init__(self, wide: int = 2) -> None:
        super().__init__()
        one, two, three = 8 * wide, 16 * wide, 32 * wide
        self.stem = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.blocks = nn.Sequential(
            PreActivation(8, one), PreActivation(one, one), PreActivation(one, two, 2), PreActivation(two, three, 2)
        )
        self.norm, self.head = nn.BatchNorm2d(three), head(three)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.norm(self.blocks(self.stem(x)))))


class EDSR(nn.Module):
    """Super-resolution by pixel shuffle, without norms; (B, 3, H, W) to (B, 3, 2H, 2W)."""

    def __init__(self, width: int = 16, blocks: int = 3) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, padding=1)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Conv2d(width, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, width, 3, padding=1)) for _ in range(blocks)
        )
        self.tail = nn.Sequential(nn.Conv2d(width, 4 * width, 3, padding=1), nn.PixelShuffle(2), nn.Conv2d(width, 3, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        x = start = self.stem(x)
        for block in self.blocks:
            x = x + 0.1 * block(x)
        return self.tail(x + start)


class CausalBlock(nn.Module):
    """Two dilated convolutions that see the past alone, weight-normed as in the paper's code, added to the input."""

    def __init__(self, inputs: int, outputs: int, dilation: int) -> None:
        super().__init__()
        self.past = 2 * dilation
        self.conv1 = nn.utils.parametrizations.weight_norm(nn.Conv1d(inputs, outputs, 3, dilation=dilation))
        self.conv2 = nn.utils.parametrizations.weight_norm(nn.Conv1d(outputs, outputs, 3, dilation=dilation))
        self.short = nn.Conv1d(inputs, outputs, 1) if inputs != outputs else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.conv1(F.pad(x, (self.past, 0))))
        y = F.relu(self.conv2(F.pad(y, (self.past, 0))))
        return F.relu(y + self.short(x))


class TCN(nn.Module):
    """Temporal convolutional net; answers from the last time step."""

    def __init__(self, channels: int = 6, width: int = 24, classes: int = 4) -> None:
        super().__init__()
        self.blocks = nn.Sequential(CausalBlock(channels, width, 1), CausalBlock(width, width, 2), CausalBlock(width, width, 4))
        self.out = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.blocks(x)[:, :, -1])


class VideoNet(nn.Module):
    """3-D convolutions over (B, 3, T, H, W)."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv3d(3, width, 3, padding=1, bias=False),
            nn.BatchNorm3d(width),
            nn.ReLU(inplace=True),
            nn.MaxPool3d((1, 2, 2)),
            nn.Conv3d(width, 2 * width, (3, 1, 1), padding=(1, 0, 0)),
            nn.Conv3d(2 * width, 2 * width, (1, 3, 3), padding=(0, 1, 1), bias=False),
            nn.BatchNorm3d(2 * width),
            nn.ReLU(inplace=True),
            nn.AdaptiveAvgPool3d(1),
        )
        self.out = nn.Linear(2 * width, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.features(x).flatten(1))


class LSTMTagger(nn.Module):
    """Two bidirectional layers; token ids (B, L) to (B, L, tags)."""

    def __init__(self, vocabulary: int = 120, width: int = 32, tags: int = 7) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width)
        self.lstm = nn.LSTM(width, width, num_layers=2, batch_first=True, bidirectional=True, dropout=0.1)
        self.out = nn.Linear(2 * width, tags)

    def forward(self, input_ids: Tensor) -> Tensor:
        states, _ = self.lstm(self.embedding(input_ids))
        return self.out(states)


class GRUAttention(nn.Module):
    """The states of a GRU, averaged by learned weights; padding has none."""

    def __init__(self, vocabulary: int = 120, width: int = 32, classes: int = 4) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width, padding_idx=0)
        self.gru = nn.GRU(width, width, batch_first=True, bidirectional=True)
        self.score = nn.Sequential(nn.Linear(2 * width, width), nn.Tanh(), nn.Linear(width, 1))
        self.out = nn.Linear(2 * width, classes)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        states, _ = self.gru(self.embedding(input_ids))
        scores = self.score(states).squeeze(-1).masked_fill(attention_mask == 0, float("-inf"))
        weights = torch.softmax(scores, 1)
        return self.out(torch.bmm(weights.unsqueeze(1), states).squeeze(1))


class NormedNet(nn.Module):
    """A residual net with another norm than batch norm: `norm` makes one for a number of channels."""

    def __init__(self, norm: Callable[[int], nn.Module]) -> None:
        super().__init__()

        def unit(inputs: int, outputs: int, stride: int) -> nn.Sequential:
            return nn.Sequential(nn.Conv2d(inputs, outputs, 3, stride, 1), norm(outputs), nn.SiLU())

        self.stem, self.same, self.down = unit(3, 16, 1), unit(16, 16, 1), unit(16, 32, 2)
        self.head = head(32)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.head(self.down(x + self.same(x)))


class MixerBlock(nn.Module):
    """An MLP over the patches, then one over the channels; (B, L, D)."""

    def __init__(self, patches: int, width: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.tokens = nn.Sequential(nn.Linear(patches, 2 * patches), nn.GELU(), nn.Linear(2 * patches, patches))
        self.channels = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.tokens(self.norm1(x).transpose(1, 2)).transpose(1, 2)
        return x + self.channels(self.norm2(x))


class Mixer(nn.Module):
    """MLP-Mixer with 8x8 patches."""

    def __init__(self, width: int = 32, depth: int = 2) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, 8, stride=8)
        self.blocks = nn.Sequential(*[MixerBlock(16, width) for _ in range(depth)])
        self.norm, self.out = nn.LayerNorm(width), nn.Linear(width, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        return self.out(self.norm(self.blocks(x)).mean(1))
