"""Maps that are read at computed positions. torchvision cannot be installed here, so its operators stand as custom ones with the same names and schemas."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.pruning.families.common import AB, between, conv
from tests.pruning.nets import Net, case, image

STAND_IN = "standing_in_for_torchvision"


@torch.library.custom_op(f"{STAND_IN}::roi_align", mutates_args=())
def roi_align(
    input: Tensor,
    rois: Tensor,
    spatial_scale: float,
    pooled_height: int,
    pooled_width: int,
    sampling_ratio: int,
    aligned: bool,
) -> Tensor:
    """Read maps (B, C, H, W) at K boxes (number of the map, x1, y1, x2, y2), by the nearest points of a grid: (K, C, h, w)."""
    k, c = len(rois), input.shape[1]
    steps = [(torch.arange(n) + 0.5) / n for n in (pooled_height, pooled_width)]
    x1, y1, x2, y2 = (rois[:, 1:].T * spatial_scale)[:, :, None]
    ys, xs = y1 + (y2 - y1) * steps[0], x1 + (x2 - x1) * steps[1]
    rows, columns = ys.long().clamp(0, input.shape[2] - 1), xs.long().clamp(0, input.shape[3] - 1)
    picked = input[rois[:, 0].long()].gather(2, rows[:, None, :, None].expand(k, c, pooled_height, input.shape[3]))
    return picked.gather(3, columns[:, None, None, :].expand(k, c, pooled_height, pooled_width))


@roi_align.register_fake
def _(input, rois, spatial_scale, pooled_height, pooled_width, sampling_ratio, aligned):  # type: ignore[no-untyped-def]
    return input.new_empty(rois.shape[0], input.shape[1], pooled_height, pooled_width)


@torch.library.custom_op(f"{STAND_IN}::deform_conv2d", mutates_args=())
def deform_conv2d(
    input: Tensor,
    weight: Tensor,
    offset: Tensor,
    mask: Tensor,
    bias: Tensor,
    stride_h: int,
    stride_w: int,
    pad_h: int,
    pad_w: int,
    dilation_h: int,
    dilation_w: int,
    groups: int,
    offset_groups: int,
    use_mask: bool,
) -> Tensor:
    """Move the whole map instead of each tap: what becomes of channels is the same."""
    return F.conv2d(input * offset.mean((1, 2, 3), keepdim=True), weight, bias, (stride_h, stride_w), (pad_h, pad_w))


@deform_conv2d.register_fake
def _(input, weight, offset, mask, bias, stride_h, stride_w, pad_h, pad_w, *rest):  # type: ignore[no-untyped-def]
    return F.conv2d(input, weight, bias, (stride_h, stride_w), (pad_h, pad_w))


def warped(n: int = 6) -> Net:
    """Maps read at a turned grid (a spatial transformer)."""

    def middle(m: Net, x: Tensor) -> Tensor:
        turn = m.turn.expand(x.shape[0], 2, 3)
        return F.grid_sample(x, F.affine_grid(turn, [x.shape[0], 1, 4, 5], align_corners=False), align_corners=False)

    return between(middle, n, turn=torch.tensor([[[0.8, 0.3, 0.1], [-0.3, 0.9, 0.0]]]))


def flowing(n: int = 6) -> Net:
    """Maps read where a layer says, as optical flow does; coordinates are made by meshgrid."""

    def forward(m: Net, x: Tensor) -> Tensor:
        y, x0 = torch.meshgrid(torch.linspace(-1, 1, 6), torch.linspace(-1, 1, 6), indexing="ij")
        grid = torch.stack([x0, y], -1)[None] + m.flow(x).permute(0, 2, 3, 1).tanh()
        return m.b(F.grid_sample(m.a(x), grid, align_corners=True))

    return Net(forward, a=conv(3, n), b=conv(n, 2), flow=conv(3, 2))


def regions(n: int = 6) -> Net:
    boxes = torch.tensor([[0.0, 0, 0, 3, 3], [1, 1, 2, 5, 6], [0, 2, 2, 4, 5]])
    return Net(lambda m, x: m.b(roi_align(m.a(x), m.boxes, 1.0, 2, 2, 2, True)).mean(0), a=conv(3, n), b=conv(n, 2), boxes=boxes)


def deformed(n: int = 6, k: int = 4) -> Net:
    def forward(m: Net, x: Tensor) -> Tensor:
        y = m.a(x)
        moved = deform_conv2d(y, m.d.weight, m.move(x), x.new_zeros(1, 1), m.d.bias, 1, 1, 1, 1, 1, 1, 1, 1, False)
        return m.b(moved)

    return Net(forward, a=conv(3, n), d=conv(n, k, 3, padding=1), move=conv(3, 18), b=conv(k, 2))


def coordinates(n: int = 6) -> Net:
    """Where a pixel is, from two learned lines that meshgrid crosses."""

    def middle(m: Net, x: Tensor) -> Tensor:
        y, x0 = torch.meshgrid(m.rows, m.columns, indexing="xy")
        return x * (y * x0).mT

    return between(middle, n, rows=nn.Parameter(torch.randn(6)), columns=nn.Parameter(torch.randn(6)))


CASES = {
    "grid_sampler": case(warped, image, AB),
    "grid_sampler, flow": case(flowing, image, AB),
    "roi_align": case(regions, image, AB),
    "deformable convolution": case(deformed, image, "6 a.w:0 a.b:0 d.w:1", "4 d.w:0 d.b:0 b.w:1"),
    "meshgrid": case(coordinates, image, AB),
    "max pool with places": case(
        lambda n=6: between(lambda m, x: F.max_unpool2d(*F.max_pool2d(x, 2, return_indices=True), 2), n), image, AB
    ),
}
