"""From a plan to a rounded graph: weights by their grids, activations by what was observed."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import fx

from laconic.core.fake_quant import Quantizer, insert
from laconic.core.graph import get_tensor
from laconic.core.program import Program
from laconic.quantization.observers import Observer
from laconic.quantization.placement import Plan, Site, WeightSite
from laconic.quantization.scheme import WEIGHT_INT8, Scheme, activation_scheme, grid, weight_grid

Grids = dict[fx.Node, Quantizer]


def activation_grids(plan: Plan, observers: Mapping[fx.Node, Observer]) -> Grids:
    """Return the grid of each family of activations that was seen."""
    result: Grids = {}
    for family, observer in observers.items():
        if observer.lowest > observer.highest:
            continue  # nothing was seen: not a float, or never computed
        # OpenVINO (2026.4) loses the negatives of signed codes in a concatenation
        symmetric = plan.symmetric and not (family in plan.joined and observer.lowest < 0)
        codes = activation_scheme(symmetric, observer.lowest, observer.highest, plan.signed)
        low, high = observer.finish(codes)
        result[family] = grid(torch.tensor(low), torch.tensor(high), codes)
    return result


def weight_grids(program: Program, sites: list[WeightSite], scheme: Scheme) -> list[Quantizer]:
    """Return the grid of each weight, along its own axis (one for all where the scheme has none); embeddings keep 8 bits around 0 and have no groups."""
    result = []
    for site in sites:
        grouped = scheme.group if site.axis == 0 and not site.embedding else 0
        # around 0 always: ONNX Runtime (1.32) fuses a look-up with zero points of its own into a product that it then refuses
        codes = WEIGHT_INT8 if site.embedding else scheme
        wanted = Scheme(codes.low, codes.high, codes.symmetric, None if scheme.axis is None else site.axis, grouped)
        result.append(weight_grid(get_tensor(program, site.source), wanted))
    return result


def round_weights(program: Program, sites: list[WeightSite], grids: list[Quantizer]) -> list[fx.Node]:
    """Put a node between each weight and its readers; returns the nodes that round."""
    made = []
    for site, quantizer in zip(sites, grids, strict=True):
        suffix = "" if site.axis == 0 else "_columns"
        node = insert(program.graph_module, site.source, quantizer, site.name.replace(".", "_") + suffix)
        for reader, position in site.readers:
            argument = reader.args[position]
            reader.update_arg(
                position, [node if item is site.source else item for item in argument] if isinstance(argument, (list, tuple)) else node
            )
        made.append(node)
    return made


def round_activations(program: Program, sites: list[Site], grids: Grids) -> dict[fx.Node, Site]:
    """Put a node between each activation and its readers; returns the nodes with their sites."""
    made = {}
    for site in sites:
        quantizer = grids.get(site.family)
        if quantizer is None:
            continue
        node = insert(program.graph_module, site.source, quantizer, site.source.name)
        for reader in site.readers:
            reader.replace_input_with(site.source, node)
        made[node] = site
    return made
