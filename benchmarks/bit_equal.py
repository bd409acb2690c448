"""A captured Program trains bit-equal to its module and runs no slower: `python -m benchmarks.bit_equal`.

Twenty SGD steps from the same weights on the same batches, dropout 0; then the time of a forward pass and of a training step, program against module,
taking turns in one process (both are PyTorch eager on the same kernels). Wanted: every parameter and buffer equal to the last bit, ratios at most 1.02.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

import laconic as lc
from laconic.core.task import default_logits
from laconic.measure.stats import ratio_of_rounds
from laconic.tasks.models import DataShape, build

STEPS, ROUNDS = 20, 25


def bert() -> nn.Module:
    """Six layers, 384 hidden: the size of MiniLM-L6."""
    import transformers

    config = transformers.BertConfig(
        num_hidden_layers=6,
        hidden_size=384,
        num_attention_heads=12,
        intermediate_size=1536,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    return transformers.BertForSequenceClassification(config)


def images(n: int, seed: int) -> tuple[Any, torch.Tensor]:
    draw = torch.Generator().manual_seed(seed)
    return {"x": torch.randn(n, 3, 224, 224, generator=draw)}, torch.randint(0, 1000, (n,), generator=draw)


def sentences(n: int, seed: int) -> tuple[Any, torch.Tensor]:
    draw = torch.Generator().manual_seed(seed)
    ids = torch.randint(1, 30_000, (n, 64), generator=draw)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}, torch.randint(0, 2, (n,), generator=draw)


CASES: dict[str, tuple[Callable[[], nn.Module], Callable[[int, int], tuple[Any, torch.Tensor]], int]] = {
    "ResNet-50, 224²": (lambda: build("resnet50", DataShape("image", (3, 224, 224), 1000)), images, 4),
    "BERT, 6 layers, length 64": (bert, sentences, 8),
}


def step(model: nn.Module, optimizer: torch.optim.Optimizer, batch: tuple[Any, torch.Tensor]) -> None:
    optimizer.zero_grad()
    F.cross_entropy(default_logits(model(**batch[0])), batch[1]).backward()
    optimizer.step()


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def compare(name: str) -> None:
    make, data, size = CASES[name]
    torch.manual_seed(0)
    module = make().eval()
    program = lc.capture(copy.deepcopy(module), data(2, 0)[0])
    models: list[nn.Module] = [module, program]
    optimizers = [torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9) for model in models]
    for model in models:
        model.train()
    times: list[list[list[float]]] = [[], []]
    for index in range(STEPS):
        batch = data(size, index)
        for which in (0, 1) if index % 2 else (1, 0):
            times[which].append([seconds(lambda which=which, batch=batch: step(models[which], optimizers[which], batch))])  # type: ignore[misc]
    state, twin = module.state_dict(), program.state_dict()
    differing = [key for key in state if not torch.equal(state[key], twin[key])]
    print(f"{name}: {STEPS} SGD steps, {len(state)} tensors, {len(differing)} differ {differing[:3] or ''}")
    train = ratio_of_rounds(times[1][2:], times[0][2:])
    print(
        f"  time of a training step, program / module: {train.value:.3f} [{train.low:.3f}, {train.high:.3f}], {train.n} rounds, batch {size}"
    )
    for model in models:
        model.eval()
    inputs = data(1, 99)[0]
    times = [[], []]
    with torch.inference_mode():
        for index in range(ROUNDS + 2):
            for which in (0, 1) if index % 2 else (1, 0):
                times[which].append([seconds(lambda which=which: models[which](**inputs)) for _ in range(5)])  # type: ignore[misc]
    forward = ratio_of_rounds(times[1][2:], times[0][2:])
    print(
        f"  time of a forward pass, program / module: {forward.value:.3f} [{forward.low:.3f}, {forward.high:.3f}], {forward.n} rounds, batch 1"
    )


def main() -> None:
    for name in CASES:
        compare(name)


if __name__ == "__main__":
    main()
