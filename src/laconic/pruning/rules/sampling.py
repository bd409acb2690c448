"""Rules of operators that read maps at computed positions: grids, and regions of interest as torchvision's operators have them."""

from __future__ import annotations

from typing import Any

from laconic.core.operators import argument
from laconic.pruning.rules.table import Node, broadcast, freeze_all, keep_whole, no_rule, position_of, rule
from laconic.pruning.trace import Dim, Tracer, Value, where


def _read(t: Tracer, node: Node) -> Dim:
    """Return the channels of the first input, x (B, C, …); its positions are kept whole, and so is all that the other inputs have."""
    value = t.value(node.args[0])
    for dim in value[2:]:
        keep_whole(t, dim, node)
    for other in node.all_input_nodes[1:]:
        freeze_all(t, other, f"positions that are read in {where(node)}")
    return value[1]


@rule("grid_sampler", "grid_sampler_2d", "grid_sampler_3d")
def grid_sampler(t: Tracer, node: Node) -> Value:
    """Couple maps (B, C, …) read at a grid (B, …, 2 or 3)."""
    return (t.value(node.args[0])[0], _read(t, node), *t.blank(node)[2:])


@rule("affine_grid_generator")
def affine_grid(t: Tracer, node: Node) -> Value:
    """Make a grid from matrices; of the sizes that it is given, the channels are read by nobody."""
    freeze_all(t, node.args[0], f"a grid is made of it in {where(node)}")
    return t.blank(node)


@rule("roi_align", "roi_pool")
def regions(t: Tracer, node: Node) -> Any:
    """Couple maps (B, C, H, W) read at K regions: (K, C, h, w), and where the largest numbers were."""
    channels, several = _read(t, node), node.meta["val"]
    items = range(len(several)) if isinstance(several, (tuple, list)) else [None]
    shown = [(blank[0], channels, *blank[2:]) for blank in (t.blank(node, item) for item in items)]
    return shown if isinstance(several, (tuple, list)) else shown[0]


@rule("deform_conv2d")
def deformable(t: Tracer, node: Node) -> Value:
    """Couple a convolution whose positions are moved: x (B, I, H, W), weight (O, I, h, w), offsets and masks, bias (O); in one group."""
    groups = [argument(node, position_of(node, name)) for name in ("groups", "n_weight_grps")]
    x, weight = node.args[:2]
    if any(count not in (None, 1) for count in groups) or argument(node, position_of(node, "offset_groups", "n_offset_grps")) not in (
        None,
        1,
    ):
        return no_rule(t, node)
    value = t.value(x)
    for dim in value[2:]:
        keep_whole(t, dim, node)
    for name in ("offset", "mask"):
        if t.is_tensor(moved := argument(node, position_of(node, name))):
            freeze_all(t, moved, f"positions that are read in {where(node)}")
    t.consume(weight, 1, x, 1, node)
    out = t.make(weight, 0)
    t.tie(argument(node, position_of(node, "bias")), 0, out, "bias", node)
    t.fix(weight, (2, 3), "kernel", node)
    return (value[0], out, *t.blank(node)[2:])


@rule("meshgrid")
def meshgrid(t: Tracer, node: Node) -> list[Value]:
    """Couple coordinates: each line becomes one dimension of every output; with ``xy`` the first two change places."""
    lines = [value[0] if value else t.blank(node, 0)[0] for value in (t.value(line) for line in node.args[0])]
    if argument(node, 1) == "xy" and len(lines) > 1:
        lines[:2] = lines[1::-1]
    return [tuple(lines)] * len(lines)


@rule("broadcast_tensors")
def broadcast_tensors(t: Tracer, node: Node) -> list[Value]:
    """Let all meet, and give each the shape of the whole."""
    return [broadcast(t, [t.value(source) for source in node.args[0]], node)] * len(node.args[0])
