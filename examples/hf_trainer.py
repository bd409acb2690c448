"""A Program in Hugging Face's `Trainer`: a small text model, pruned and taught by what it was, then with int8 rounding in place.

Run it from the root of a clone: `python -m examples.hf_trainer`.

The Trainer finds the columns of the data by the names of the Program's inputs. A Program answers without a loss, so say which: `compute_loss_func`, and
`label_names=["labels"]`, by which the Trainer knows what is no input. It sets training and evaluation mode itself, and ends in training mode: call `.eval()`.
"""

import copy
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import Dataset
from transformers import DistilBertConfig, DistilBertForSequenceClassification, Trainer, TrainerCallback, TrainingArguments

import laconic as lc
from laconic.quantization.qat import Schedule, prepare


class Sentences(Dataset[dict[str, Tensor]]):
    """Sentences of 12 made-up words; the label is whether words of the first half of the vocabulary are the more frequent."""

    def __init__(self, n: int, seed: int) -> None:
        self.words = torch.randint(1, 41, (n, 12), generator=torch.Generator().manual_seed(seed))
        self.labels = ((self.words <= 20).sum(1) > 6).long()

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"input_ids": self.words[index], "attention_mask": torch.ones(12, dtype=torch.long), "labels": self.labels[index]}


def loss(outputs: Any, labels: Tensor, num_items_in_batch: Any = None) -> Tensor:
    return F.cross_entropy(outputs.logits, labels)


class After(TrainerCallback):
    """Calls `after_step(module, progress)` behind each step."""

    def __init__(self, after_step: Callable[..., None]) -> None:
        self.after_step = after_step

    def on_step_end(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        self.after_step(more["model"], state.global_step / state.max_steps)


def fit(module: nn.Module, train: Sentences, valid: Sentences, epochs: int, loss: Callable[..., Tensor] = loss, after: Any = ()) -> float:
    """Train with the Trainer; returns the accuracy on `valid`."""
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder,
            num_train_epochs=epochs,
            per_device_train_batch_size=32,
            per_device_eval_batch_size=256,
            learning_rate=4e-3,
            label_names=["labels"],
            report_to=[],
            use_cpu=True,
            save_strategy="no",
            disable_tqdm=True,
            logging_strategy="no",
        )
        trainer = Trainer(
            module,
            arguments,
            train_dataset=train,
            eval_dataset=valid,
            compute_loss_func=loss,
            compute_metrics=lambda p: {"accuracy": float((p.predictions.argmax(-1) == p.label_ids).mean())},
            callbacks=list(after),
        )
        trainer.train()
        found = trainer.evaluate()["eval_accuracy"]
    module.eval()
    return float(found)


def main(folder: Path = Path("out"), epochs: int = 4) -> dict[str, float]:
    """Train, prune, quantize; writes `sentences.onnx` and returns the accuracy after each."""
    torch.manual_seed(0)
    config = DistilBertConfig(vocab_size=41, dim=32, hidden_dim=64, n_layers=1, n_heads=4, max_position_embeddings=16)
    train, valid = Sentences(800, 0), Sentences(256, 1)
    example = {name: torch.stack([train[0][name], train[1][name]]) for name in ("input_ids", "attention_mask")}

    program = lc.capture(DistilBertForSequenceClassification(config).eval(), example)
    found = {"trained": fit(program, train, valid, epochs)}

    small, _ = lc.prune(program, lc.Prune(macs=0.6, recovery={"epochs": 0}))  # the Trainer trains what is left
    teacher, plan = copy.deepcopy(program), lc.FitPlan(distill=0.5)
    taught = lc.teach(small, teacher, plan, loss=loss, logits=lambda outputs: outputs.logits)
    found["pruned"] = fit(
        taught.module, train, valid, epochs, lambda outputs, labels, num_items_in_batch=None: taught.loss(outputs, labels)
    )

    task = lc.Task(small, train, valid, loss=loss, split=lambda batch: ({name: batch[name] for name in example}, batch["labels"]))
    rounded, _ = prepare(small, lc.Qat(target="onnxruntime"), task)
    found["int8"] = fit(rounded, train, valid, max(1, epochs // 2), after=[After(Schedule())])

    artifact = lc.export(rounded, folder / "sentences.onnx")
    print(found, artifact.numerics, f"{artifact.size_bytes} bytes")
    return found


if __name__ == "__main__":
    main()
