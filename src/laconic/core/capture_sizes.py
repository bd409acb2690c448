"""Does a captured graph answer as its module where dynamic dimensions have other sizes than the example's?

A forward that makes a Python number of a size (``int(min(512, x.size(0)))``) is captured with the number of the example, without a word from `torch.export`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from torch import Tensor

from laconic.core.alike import alike
from laconic.core.axes import dynamic_sizes, resize
from laconic.core.interface import TensorSpec

Flat = Callable[[Sequence[Tensor]], Sequence[Tensor]]

_LIMIT = 1e-3  # of the largest number of an output, as for the parity of fp32
_BATCHES = (3, 5)


def wrong_sizes(module: Flat, graph: Flat, specs: Sequence[TensorSpec], leaves: Sequence[Tensor]) -> str | None:
    """Return the sizes for which the graph answers otherwise than the module; None where there are none, or the module itself takes no others.

    Args:
        module: from flat inputs to flat outputs, in eval mode. It must leave nothing behind in itself; one that answers otherwise each time is not judged.
        graph: likewise.
        specs: of the inputs, with the names of their dynamic dimensions.
        leaves: the example, flat.
    """
    for sizes in _others(dynamic_sizes(specs, leaves)):
        given = resize(specs, leaves, sizes)
        expected = _answer(module, given)
        if expected is None:
            continue
        if alike(expected, _answer(graph, given) or (), _LIMIT):
            return None
        repeats = alike(expected, _answer(module, given) or (), _LIMIT)
        # else it is not the sizes that make the difference: autocast, for one, is left out of the graph
        holds = alike(_answer(module, leaves) or (), _answer(graph, leaves) or (), _LIMIT)
        return " and ".join(f"{name} {size}" for name, size in sizes.items()) if repeats and holds else None
    return None


def _others(now: Mapping[str, int]) -> Iterator[dict[str, int]]:
    """Yield other sizes: of all dynamic dimensions at once, then of the batch alone, which a module may take where it takes no other lengths."""
    if not now:
        return
    batch = {name: next(n for n in _BATCHES if n != size) for name, size in now.items() if name == "batch"}
    yield {name: batch.get(name, size + 1) for name, size in now.items()}
    if batch and len(now) > 1:
        yield batch


@torch.no_grad()
def _answer(run: Flat, leaves: Sequence[Tensor]) -> Sequence[Tensor] | None:
    """Return what it answers; None where it refuses."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        try:
            return list(run([leaf.clone() for leaf in leaves]))
        except Exception:  # noqa: BLE001 - a forward of somebody else's, with sizes that it may not take
            return None
