"""The coupling analysis: which architectures can be pruned and whether that is the masked program, how long it takes beside its peer, and how that grows.

Commands of `benchmarks.pruning`, which says what each prints.
"""

from __future__ import annotations

import copy
import gc
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import laconic as lc
from benchmarks import architectures
from laconic.core.errors import LaconicError
from laconic.core.target import Target
from laconic.deploy.export import parity, write_onnx
from laconic.deploy.runtime import runtime
from laconic.pruning.proof import prove, random_choice
from laconic.pruning.surgery import remove
from laconic.run import gate
from laconic.tasks.models import DataShape, build

DOCS = Path(__file__).parents[1] / "docs"
BOTH = ("onnxruntime", "openvino")


# Coverage ---------------------------------------------------------------------------------------------------------------------------------


def covered(name: str, folder: Path) -> tuple[str, bool]:
    """A row of the table, and whether all holds."""
    found = architectures.ARCHITECTURES[name]
    model = architectures.settled(found.make(), found.inputs)
    cells: dict[str, str] = {}
    try:
        program = lc.capture(model, found.inputs(2), dynamic=found.dynamic)
        if len(program.outputs[0].shape) == 3 and isinstance(found.inputs(2), dict):
            model, name = _headed(model, found.inputs(2)), f"{name}, head added"
            program = lc.capture(model, found.inputs(2), dynamic=found.dynamic)
        coupling = lc.couple(program)
        free, total = coupling.prunable()
        cells["prunable"] = f"{100 * free / total:.1f}"
        cells["groups"] = str(len(coupling.groups))
        leaves = program.flatten_inputs(found.inputs(3))
        moved = []
        for share in (0.7, 0.3):
            keep = random_choice(coupling, share, seed=1)
            pruned = remove(coupling, keep)
            proof = prove(coupling, keep, pruned, [leaves])
            cells[f"{share}"] = f"{proof.difference:.0e}"
            moved += proof.moved.values()
        cells["moved"] = f"{min(moved):.0e}"
        _trains(pruned, leaves)
        file = folder / "pruned.onnx"
        write_onnx(pruned, file, file.name)
        with torch.no_grad():
            expected = [leaf.numpy() for leaf in pruned.graph_module(*leaves)]
        for kind in BOTH:
            got = runtime(kind).load(file, Target(kind)).run([leaf.numpy() for leaf in leaves])
            evidence, reason = gate.parity(parity(got, expected), "fp32")
            cells[kind] = f"{evidence['max_rel']:.0e}"
            if reason is not None:
                raise LaconicError(f"{kind}: {reason.text}")
    except (LaconicError, RuntimeError, ValueError, TypeError, IndexError, KeyError, AssertionError) as error:
        cells["reason"] = architectures.told(error)
    shown = [cells.get(key, "–") for key in ("prunable", "groups", "0.7", "0.3", "moved", *BOTH)]
    return f"| {name} | {' | '.join(shown)} | {'no: ' + cells['reason'] if 'reason' in cells else 'yes'} |", "reason" not in cells


class _Text(nn.Module):
    """A linear head on the mean of the hidden states, which else are the output and fix the width."""

    def __init__(self, model: nn.Module, width: int) -> None:
        super().__init__()
        self.model, self.head = model, nn.Linear(width, 3)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Ids and mask (B, L) to (B, 3)."""
        return self.head(_first(self.model(input_ids=input_ids, attention_mask=attention_mask)).mean(1))  # type: ignore[no-any-return]


class _Vision(_Text):
    """The same for pictures."""

    def forward(self, pixel_values: Tensor) -> Tensor:  # type: ignore[override]
        """Pixels (B, C, H, W) to (B, 3)."""
        return self.head(_first(self.model(pixel_values=pixel_values)).mean(1))  # type: ignore[no-any-return]


def _headed(model: nn.Module, inputs: dict[str, Tensor]) -> nn.Module:
    """The model with a head, where its inputs are text or pictures; else as it is."""
    kind = {("attention_mask", "input_ids"): _Text, ("pixel_values",): _Vision}.get(tuple(sorted(inputs)))
    with torch.no_grad():
        found = _first(model(**inputs))
    return model if kind is None or found.dim() != 3 else kind(model, found.shape[-1]).eval()


def _trains(pruned: lc.Program, leaves: tuple[Tensor, ...]) -> None:
    """One step of SGD moves every parameter that has a gradient."""
    program = copy.deepcopy(pruned).train()
    outputs = [leaf for leaf in program.graph_module(*leaves) if leaf.is_floating_point()]
    total = torch.stack([leaf.square().mean() for leaf in outputs]).sum()
    total.backward()  # type: ignore[no-untyped-call]
    gradients = [p.grad for p in program.parameters() if p.grad is not None]
    assert gradients, "no parameter has a gradient"
    assert all(bool(g.isfinite().all()) for g in gradients), "a gradient is not finite"
    torch.optim.SGD(program.parameters(), 1e-3).step()


def coverage(names: list[str]) -> None:
    """Print the rows; all of them are written to the docs."""
    rows, held = [], 0
    for name in names or architectures.ARCHITECTURES:
        with tempfile.TemporaryDirectory() as folder:
            row, good = covered(name, Path(folder))
        rows.append(row)
        held += good
        print(row, flush=True)
    print(f"{held} of {len(rows)} hold")
    if names:
        return
    head = [
        "# Pruned architectures\n",
        "Random components of every group removed, 70 % and then 30 % kept: the pruned program against the one whose slices are masked (largest difference,"
        " relative to the largest output; 1e-4 is allowed), as it is and with perturbed parameters, at the captured batch size and others (and lengths)."
        " *Moved* is by how much the cut in a group moves the output with perturbed parameters, in the group where it does least: where that is no more than"
        " the difference, the proof says nothing. At 30 % it also trains a step, is exported and answers alike in both runtimes. Where hidden states are the"
        " output, which fixes the width, a linear head on their mean was added.",
        f"Written by `python -m benchmarks.pruning coverage`. **{held} of {len(rows)} hold.**\n",
        "| architecture | output channels that can go, % | groups | 70 % kept | 30 % kept | moved | ONNX Runtime | OpenVINO | holds |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | --- |",
    ]
    (DOCS / "pruned.md").write_text("\n".join([*head, *rows]) + "\n", encoding="utf-8")


# Analysis ---------------------------------------------------------------------------------------------------------------------------------


def large(name: str) -> tuple[nn.Module, Any]:
    """A full-size net with random weights, and an input of two examples."""
    import transformers

    torch.manual_seed(0)
    pixels = lambda size: {"pixel_values": torch.randn(2, 3, size, size)}  # noqa: E731
    if name == "resnet50":
        return build("resnet50", DataShape("image", (3, 224, 224), 1000)).eval(), torch.randn(2, 3, 224, 224)
    if name == "efficientnet-b7":
        config = transformers.EfficientNetConfig(width_coefficient=2.0, depth_coefficient=3.1, image_size=224, hidden_dim=2560)
        return transformers.EfficientNetForImageClassification(config).eval(), pixels(224)
    if name == "swin":
        return transformers.SwinForImageClassification(transformers.SwinConfig()).eval(), pixels(224)
    net = transformers.BertForSequenceClassification(transformers.BertConfig()).eval()
    ids = torch.randint(5, 30_000, (2, 64))
    return net, {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


LARGE = ("resnet50", "efficientnet-b7", "swin", "bert")


def analysis(names: list[str]) -> None:
    """Print milliseconds and ratios to the peer, interleaved: group building alone, and the whole way from the module.

    Alone: ours from the captured program to the groups, the peer's from its traced graph to its groups. Whole: capture included, tracing included.
    """
    for name in names or LARGE:
        net, inputs = large(name)
        ours, theirs = _Ours(net, inputs), _Theirs(net, inputs)
        work: dict[str, Callable[[], Any]] = {
            "ours": ours.groups,
            "peer": theirs.groups,
            "ours, whole": ours.whole,
            "peer, whole": theirs.whole,
        }
        times: dict[str, list[float]] = {key: [] for key in work}
        said = ""
        for turn in range(9):
            for key, call in work.items():
                if "whole" in key and turn >= 3:
                    continue
                gc.collect()  # what one leaves behind is not cleared away in the other's time
                try:
                    with warnings.catch_warnings():
                        warnings.simplefilter("ignore")
                        if key == "peer":
                            theirs.prepare()
                        start = time.perf_counter()
                        call()
                except Exception as error:  # noqa: BLE001 - whatever stops the peer is its result
                    said = f"; Torch-Pruning: {type(error).__name__}: {str(error)[:80]}"
                    continue
                times[key].append(1e3 * (time.perf_counter() - start))
        print(f"{name}: groups alone {_beside(times['ours'], times['peer'])}", end="; ")
        print(f"whole way from the module {_beside(times['ours, whole'], times['peer, whole'])}{said}", flush=True)


def _beside(ours: list[float], peer: list[float]) -> str:
    own = float(np.median(ours))
    if not peer:
        return f"ours {own:.1f} ms, Torch-Pruning failed"
    return f"ours {own:.1f} ms, Torch-Pruning {np.median(peer):.1f} ms: {np.median(peer) / own:.2f} times as fast"


class _Ours:
    """Capture, and what follows it."""

    def __init__(self, net: nn.Module, inputs: Any) -> None:
        self.net, self.inputs = net, inputs
        self.program = lc.capture(net, inputs)

    def groups(self) -> int:
        """From the captured program."""
        return len(lc.couple(self.program).groups)

    def whole(self) -> int:
        """From the module."""
        return len(lc.couple(lc.capture(self.net, self.inputs)).groups)


class _Theirs:
    """Torch-Pruning's tracing, and what follows it; the groups of all convolutions and linear layers."""

    def __init__(self, net: nn.Module, inputs: Any) -> None:
        self.net, self.inputs = net, inputs
        self.graph: Any = None

    def traced(self) -> Any:
        """The graph of dependencies."""
        import torch_pruning as tp

        return tp.DependencyGraph().build_dependency(self.net, example_inputs=self.inputs, output_transform=_first)

    def prepare(self) -> None:
        """Trace, once."""
        self.graph = self.graph or self.traced()

    def groups(self) -> int:
        """From the traced graph."""
        return self._count(self.graph)

    def whole(self) -> int:
        """From the module."""
        return self._count(self.traced())

    def _count(self, graph: Any) -> int:
        return len(list(graph.get_all_groups(root_module_types=[nn.modules.conv._ConvNd, nn.Linear])))


def _first(out: Any) -> Any:
    return out if isinstance(out, Tensor) else out[0]


def growth(names: list[str]) -> None:
    """Print seconds by ids, and draw them."""
    points = []
    for width in (16, 64, 256, 1024, 4096, 16_384):
        layers = [m for _ in range(30) for m in (nn.Conv2d(width, width, 1, groups=width), nn.BatchNorm2d(width), nn.ReLU())]
        blocks = nn.Sequential(nn.Conv2d(3, width, 1), *layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 2))
        program = lc.capture(_Doubled(blocks).eval(), torch.randn(2, 3, 4, 4))
        lc.couple(program)
        times = []
        for _ in range(5):
            start = time.perf_counter()
            coupling = lc.couple(program)
            len(coupling.groups)
            times.append(time.perf_counter() - start)
        ids = sum(len(found) for dims in coupling.tensors.values() for found in dims if found is not None)
        points.append((ids, float(np.median(times))))
        print(f"{ids:9,d} ids in {len(program.graph.nodes)} nodes: {1e3 * points[-1][1]:.1f} ms", flush=True)
    (DOCS / "coupling.svg").write_text(_drawn(points), encoding="utf-8")


class _Doubled(nn.Module):
    """A net and a residual sum of its two halves' inputs, so that components are joined."""

    def __init__(self, net: nn.Sequential) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        """x (B, 3, H, W) to (B, 2)."""
        found = self.net[0](x)
        for index in range(1, len(self.net) - 3, 3):
            found = found + self.net[index + 2](self.net[index + 1](self.net[index](found)))
        return self.net[-1](self.net[-2](self.net[-3](found)))  # type: ignore[no-any-return]


def _drawn(points: list[tuple[int, float]]) -> str:
    """Both axes logarithmic; the dashed line is proportional."""
    x0, x1, y0, y1 = 3.0, 6.3, 0.0, 3.5  # powers of ten: ids, milliseconds

    def place(ids: float, ms: float) -> tuple[float, float]:
        return 60 + 400 * (np.log10(ids) - x0) / (x1 - x0), 250 - 220 * (np.log10(ms) - y0) / (y1 - y0)

    marks = [place(ids, 1e3 * s) for ids, s in points]
    last = points[-1]
    line = [place(ids, 1e3 * last[1] * ids / last[0]) for ids in (points[2][0], last[0])]
    path = " ".join(f"{x:.0f},{y:.0f}" for x, y in marks)
    text = [f'<text x="{place(10**p, 1)[0]:.0f}" y="268" text-anchor="middle">10^{p}</text>' for p in (3, 4, 5, 6)]
    text += [f'<text x="52" y="{place(1e3, 10**p)[1] + 4:.0f}" text-anchor="end">{10**p}</text>' for p in (0, 1, 2, 3)]
    dots = "".join(f'<circle cx="{x:.0f}" cy="{y:.0f}" r="3.5" fill="#2a6f97"/>' for x, y in marks)
    dashed = " ".join(f"{x:.0f},{y:.0f}" for x, y in line)
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 480 300" font-family="sans-serif" font-size="12" fill="#333">'
        '<rect width="480" height="300" fill="#fff"/>'
        f'<polyline points="{path}" fill="none" stroke="#2a6f97" stroke-width="2"/>{dots}'
        f'<polyline points="{dashed}" fill="none" stroke="#999" stroke-dasharray="4 4"/>{"".join(text)}'
        '<text x="260" y="290" text-anchor="middle">ids (dashed: proportional)</text>'
        '<text x="16" y="140" text-anchor="middle" transform="rotate(-90 16 140)">milliseconds</text></svg>\n'
    )
