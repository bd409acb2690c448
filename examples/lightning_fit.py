"""A Program in PyTorch Lightning: trained, pruned and taught by what it was, then with int8 rounding in place.

Run it from the root of a clone: `python -m examples.lightning_fit`.

Beware of the mode. Lightning trains a module in the mode in which it finds it and sets none: a Program comes out of `capture`, `prune` and every other step in
evaluation mode, in which dropout does not act and batch-norms keep their statistics. Call `.train()` before `trainer.fit`, and `.eval()` before answers count.
"""

import copy
import warnings
from collections.abc import Callable
from pathlib import Path

import lightning
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import laconic as lc
from laconic.quantization.qat import Schedule, prepare


def net() -> nn.Module:
    first = nn.Sequential(nn.Conv2d(1, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2))
    second = nn.Sequential(nn.Conv2d(16, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32), nn.ReLU(), nn.AdaptiveAvgPool2d(1))
    return nn.Sequential(*first, *second, nn.Flatten(), nn.Linear(32, 10))


class Fit(lightning.LightningModule):
    """What Lightning wants to know: the module, its loss, its optimizer; `after_step(module, progress)` is called behind each step."""

    def __init__(self, module: nn.Module, loss: Callable[..., Tensor] = F.cross_entropy, after_step: Callable[..., None] | None = None):
        super().__init__()
        self.module, self.loss, self.after_step = module, loss, after_step

    def training_step(self, batch: list[Tensor], index: int) -> Tensor:
        return self.loss(self.module(batch[0]), batch[1])

    def validation_step(self, batch: list[Tensor], index: int) -> None:
        self.log("accuracy", (self.module(batch[0]).argmax(1) == batch[1]).float().mean())

    def on_train_batch_end(self, *unused: object) -> None:
        if self.after_step is not None:
            self.after_step(self.module, self.global_step / self.trainer.estimated_stepping_batches)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.module.parameters(), 3e-3)


def fit(module: Fit, train: TensorDataset, valid: TensorDataset, epochs: int) -> float:
    """Train with Lightning; returns the accuracy on `valid`."""
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = lightning.Trainer(max_epochs=epochs, accelerator="cpu", **quiet)
    module.module.train()  # see above
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*does not have many workers.*")
        trainer.fit(module, DataLoader(train, 64, shuffle=True), DataLoader(valid, 256))
    module.module.eval()
    return float(trainer.callback_metrics["accuracy"])


def main(folder: Path = Path("out"), epochs: int = 6) -> dict[str, float]:
    """Train, prune, quantize; writes `digits.onnx` and returns the accuracy after each."""
    lightning.seed_everything(0, verbose=False)
    digits = load_digits()
    x, y = torch.tensor(digits.images, dtype=torch.float32).unsqueeze(1) / 16, torch.tensor(digits.target)
    train, valid = TensorDataset(x[:1400], y[:1400]), TensorDataset(x[1400:], y[1400:])

    program = lc.capture(net(), x[:2])
    found = {"trained": fit(Fit(program), train, valid, epochs)}

    task = lc.Task(program, train, valid, loss=F.cross_entropy, metric="accuracy")  # for batch-norms and ranges: its train data
    small, _ = lc.prune(program, lc.Prune(macs=0.5, recovery={"epochs": 0}), lc.Context(task))  # Lightning trains what is left
    taught = lc.teach(small, copy.deepcopy(program), lc.FitPlan(distill=0.5), loss=F.cross_entropy)
    found["pruned"] = fit(Fit(taught.module, taught.loss), train, valid, epochs)  # `small` is trained inside

    rounded, _ = prepare(small, lc.Qat(target="onnxruntime"), task)
    found["int8"] = fit(Fit(rounded, after_step=Schedule()), train, valid, epochs // 2)

    artifact = lc.export(rounded, folder / "digits.onnx")
    print(found, artifact.numerics, f"{artifact.size_bytes} bytes")
    return found


if __name__ == "__main__":
    main()
