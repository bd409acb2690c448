"""Does `optimize` deliver the fastest of what is there? `python -m benchmarks.winner [--quick]`.

ResNet-50 (random weights, 224², batch 1) and ResNet-20 (32²). Their own answers are the labels, so that accuracy is 100 % and speed
alone decides. After each run every artifact is timed again by `laconic.bench`, side by side with the delivered one, in processes of its own: none may be
faster with an interval that says so. Wanted on a processor with AMX: ResNet-50 at least 6.5 times PyTorch eager.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
import torch
from torch import nn

import laconic as lc
from laconic.deploy.artifact import Artifact
from laconic.measure.environment import environment
from laconic.tasks.data import ArrayDataset
from laconic.tasks.models import DataShape, build

CASES = {
    "ResNet-20, 32²": ("resnet20", DataShape("image", (3, 32, 32), 10), 64),
    "ResNet-50, 224²": ("resnet50", DataShape("image", (3, 224, 224), 1000), 16),
}


def task(name: str, shape: DataShape, n: int) -> lc.Task:
    model = build(name, shape)
    statistics(model, shape)
    x = np.random.default_rng(0).standard_normal((n, *shape.shape)).astype(np.float32)
    with torch.no_grad():
        labels = torch.cat([model(torch.from_numpy(part)).argmax(1) for part in np.split(x, n // 8)])
    data = ArrayDataset(x, labels.numpy())
    return lc.Task(model, None, data, name=name, batch_size=8)


def statistics(model: nn.Module, shape: DataShape) -> None:
    """Batch-norm statistics of random images, so that activations keep their size through fifty layers."""
    model.train()
    with torch.no_grad():
        for _ in range(10):
            model(torch.randn(8, *shape.shape))
    model.eval()


def run(title: str, rounds: int, runtimes: tuple[str, ...] | None) -> None:
    with tempfile.TemporaryDirectory() as folder:
        result = lc.optimize(
            task(*CASES[title]),
            out=Path(folder) / "run",
            space=lc.SearchSpace(runtimes),
            options=lc.Options(rounds=rounds, turn_seconds=0.3),
        )
        print(f"{title}: {result.verdict}")
        for record in result.data["candidates"]:
            ratio, latency = (record["measured"].get(name) for name in ("speedup", "latency_ms"))
            told = (
                f"{ratio['value']:.2f} [{ratio['low']:.2f}, {ratio['high']:.2f}], {latency['value']:.3f} ms"
                if ratio
                else record["reasons"][0]["text"]
            )
            print(f"  {record['title']}: {told}")
        if result.best is None:
            return
        faster = []
        for record in result.data["candidates"]:
            if "latency_ms" not in record["measured"] or record["key"] == result.data["best"]:
                continue
            other = Artifact.open(result.folder / record["artifact"])
            again = lc.bench(other, result.best, rounds=rounds, turn_seconds=0.3).timings[1].speedup
            assert again is not None
            print(f"  again, {record['title']} against the delivered: {again.value:.2f} [{again.low:.2f}, {again.high:.2f}]")
            if again.low is not None and again.low > 1:
                faster.append(record["title"])
        print(f"  delivered is the fastest: {'yes' if not faster else f'NO, faster: {faster}'}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--quick", action="store_true", help="leave torch.compile out: it compiles for minutes")
    arguments = parser.parse_args()
    instructions = environment()["instructions"]
    print("amx_bf16" if instructions.get("amx_bf16") else "this processor has no AMX: the figure of 6.5 times cannot be checked here")
    runtimes = ("onnxruntime", "openvino", "torchscript", "torch") if arguments.quick else None
    for title in CASES:
        run(title, arguments.rounds, runtimes)


if __name__ == "__main__":
    main()
