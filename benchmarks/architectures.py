"""Which architectures can be captured, exported and run, and do their answers agree: `python -m benchmarks.architectures`.

Every model is made from its configuration with random weights, small enough for a minute each but with every kind of layer that the full one has; captured with
batch 2 and compared with batch 3. Writes the table docs/architectures.md; `--only NAME …` prints the rows of some.
"""

from __future__ import annotations

import argparse
import re
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import laconic as lc
from laconic.core.errors import LaconicError
from laconic.deploy.export import parity, write_model
from laconic.deploy.runtime import Settings, runtime
from laconic.run import gate
from laconic.tasks.models import DataShape, build

DOCS = Path(__file__).parents[1] / "docs" / "architectures.md"
RUNTIMES = ("onnxruntime", "openvino")
Inputs = Any


@dataclass(frozen=True)
class Architecture:
    """How a model is made and called; `dynamic` names further dynamic dimensions."""

    kind: str
    make: Callable[[], nn.Module]
    inputs: Callable[[int], Inputs]
    dynamic: dict[str, dict[int, str]] | None = None


@dataclass(frozen=True)
class Row:
    """What came of it: parameters, seconds, relative difference by runtime; `reason` where it failed."""

    name: str
    kind: str
    params: int
    capture_s: float
    export_s: float
    differences: dict[str, float]
    reason: str = ""


def pixels(size: int, channels: int = 3) -> Callable[[int], Inputs]:
    return lambda n: {"pixel_values": torch.randn(n, channels, size, size, generator=torch.Generator().manual_seed(n))}


def tokens(length: int = 24, mask: bool = True, vocabulary: int = 120) -> Callable[[int], Inputs]:
    def inputs(n: int) -> Inputs:
        ids = torch.randint(1, vocabulary, (n, length), generator=torch.Generator().manual_seed(n))
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids)} if mask else {"input_ids": ids}

    return inputs


LENGTH = {"input_ids": {1: "length"}, "attention_mask": {1: "length"}}


def reference(name: str, shape: DataShape) -> Architecture:
    if shape.kind == "text":
        return Architecture("reference net", lambda: build(name, shape), tokens(shape.shape[0]))
    return Architecture(
        "reference net", lambda: build(name, shape), lambda n: torch.randn(n, *shape.shape, generator=torch.Generator().manual_seed(n))
    )


class Hidden(nn.Module):
    """The hidden states alone, where a model also returns a cache that is no tensor."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return self.model(input_ids=input_ids, attention_mask=attention_mask, use_cache=False)[0]  # type: ignore[no-any-return]


def hugging(kind: str, config: str, model: str, inputs: Callable[[int], Inputs], *, hidden: bool = False, **options: Any) -> Architecture:
    def make() -> nn.Module:
        import transformers

        torch.manual_seed(0)
        made = getattr(transformers, model)(getattr(transformers, config)(**options))
        return Hidden(made) if hidden else made

    return Architecture(kind, make, inputs)


def text(config: str, model: str, *, hidden: bool = False, **options: Any) -> Architecture:
    small = {
        "vocab_size": 120,
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 128,
        "max_position_embeddings": 64,
    }
    return hugging("text", config, model, tokens(), hidden=hidden, **{**small, **options})


def vision(config: str, model: str, size: int = 64, **options: Any) -> Architecture:
    return hugging("vision", config, model, pixels(size), **options)


SMALL_VIT = {
    "image_size": 64,
    "patch_size": 16,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 128,
}
IMAGE, LARGE = DataShape("image", (3, 32, 32), 10), DataShape("image", (3, 96, 96), 10)
SERIES, WORDS = DataShape("series", (6, 40), 4), DataShape("text", (24,), 3, 120)

ARCHITECTURES: dict[str, Architecture] = {
    "LeNet-5": reference("lenet5", DataShape("image", (1, 28, 28), 10)),
    "LeNet-300-100": reference("lenet300", DataShape("image", (1, 28, 28), 10)),
    "ResNet-8": reference("resnet8", IMAGE),
    "ResNet-20": reference("resnet20", IMAGE),
    "ResNet-56": reference("resnet56", IMAGE),
    "ResNet-50": reference("resnet50", LARGE),
    "MobileNetV1": reference("mobilenet_v1", IMAGE),
    "MobileNetV2": reference("mobilenet_v2", IMAGE),
    "LSTM (series)": reference("lstm", SERIES),
    "GRU (series)": reference("gru", SERIES),
    "1-D CNN (series)": reference("cnn1d", SERIES),
    "LSTM (text)": reference("lstm", WORDS),
    "BERT classifier": reference("bert", WORDS),
    "ViT": vision("ViTConfig", "ViTForImageClassification", **SMALL_VIT),
    "DeiT": vision("DeiTConfig", "DeiTForImageClassification", **SMALL_VIT),
    "BEiT": vision("BeitConfig", "BeitForImageClassification", **SMALL_VIT),
    "DINOv2": vision("Dinov2Config", "Dinov2ForImageClassification", **{**SMALL_VIT, "mlp_ratio": 2}),
    "Swin": vision("SwinConfig", "SwinForImageClassification", image_size=64, embed_dim=24, depths=[2, 2], num_heads=[2, 4], window_size=4),
    "SwinV2": vision(
        "Swinv2Config", "Swinv2ForImageClassification", image_size=64, embed_dim=24, depths=[2, 2], num_heads=[2, 4], window_size=4
    ),
    "ConvNeXt": vision("ConvNextConfig", "ConvNextForImageClassification", hidden_sizes=[16, 32, 48, 64], depths=[1, 1, 2, 1]),
    "ConvNeXtV2": vision("ConvNextV2Config", "ConvNextV2ForImageClassification", hidden_sizes=[16, 32, 48, 64], depths=[1, 1, 2, 1]),
    "ResNet (transformers)": vision(
        "ResNetConfig", "ResNetForImageClassification", embedding_size=16, hidden_sizes=[32, 64], depths=[2, 2]
    ),
    "RegNet": vision(
        "RegNetConfig", "RegNetForImageClassification", embedding_size=16, hidden_sizes=[32, 64], depths=[1, 2], groups_width=16
    ),
    "EfficientNet": vision(
        "EfficientNetConfig", "EfficientNetForImageClassification", width_coefficient=0.5, depth_coefficient=0.5, hidden_dim=1280 // 2
    ),
    "MobileNetV1 (transformers)": vision("MobileNetV1Config", "MobileNetV1ForImageClassification", depth_multiplier=0.25),
    "MobileNetV2 (transformers)": vision("MobileNetV2Config", "MobileNetV2ForImageClassification", depth_multiplier=0.35),
    "MobileViT": vision("MobileViTConfig", "MobileViTForImageClassification", image_size=64, hidden_sizes=[48, 64, 80]),
    "PoolFormer": vision("PoolFormerConfig", "PoolFormerForImageClassification", hidden_sizes=[16, 32, 48, 64], depths=[1, 1, 1, 1]),
    "LeViT": vision(
        "LevitConfig",
        "LevitForImageClassification",
        image_size=64,
        hidden_sizes=[32, 48, 64],
        num_attention_heads=[2, 3, 4],
        depths=[1, 1, 1],
    ),
    "SegFormer": vision("SegformerConfig", "SegformerForImageClassification", hidden_sizes=[16, 32, 40, 64], depths=[1, 1, 1, 1]),
    "PVT": vision("PvtConfig", "PvtForImageClassification", image_size=64, hidden_sizes=[16, 32, 40, 64], depths=[1, 1, 1, 1]),
    "CvT": vision("CvtConfig", "CvtForImageClassification", embed_dim=[16, 32, 48], num_heads=[1, 2, 3], depth=[1, 2, 3]),
    "BERT": text("BertConfig", "BertForSequenceClassification"),
    "DistilBERT": hugging(
        "text",
        "DistilBertConfig",
        "DistilBertForSequenceClassification",
        tokens(),
        vocab_size=120,
        dim=64,
        n_layers=2,
        n_heads=4,
        hidden_dim=128,
    ),
    "RoBERTa": text("RobertaConfig", "RobertaForSequenceClassification"),
    "ALBERT": text("AlbertConfig", "AlbertForSequenceClassification", embedding_size=32),
    "ELECTRA": text("ElectraConfig", "ElectraForSequenceClassification", embedding_size=32),
    "MPNet": text("MPNetConfig", "MPNetForSequenceClassification"),
    "DeBERTa-v2": text("DebertaV2Config", "DebertaV2ForSequenceClassification", relative_attention=True, pos_att_type=["p2c", "c2p"]),
    "MobileBERT": text("MobileBertConfig", "MobileBertForSequenceClassification", intra_bottleneck_size=32, embedding_size=32),
    "SqueezeBERT": text("SqueezeBertConfig", "SqueezeBertForSequenceClassification", embedding_size=64),
    "Longformer": text("LongformerConfig", "LongformerForSequenceClassification", attention_window=8),
    "GPT-2": hugging(
        "text", "GPT2Config", "GPT2Model", tokens(), hidden=True, vocab_size=120, n_embd=64, n_layer=2, n_head=4, n_positions=64
    ),
    "T5 encoder": hugging(
        "text",
        "T5Config",
        "T5EncoderModel",
        tokens(),
        hidden=False,
        vocab_size=120,
        d_model=64,
        d_kv=16,
        d_ff=128,
        num_layers=2,
        num_heads=4,
    ),
    "Llama (grouped queries)": text("LlamaConfig", "LlamaModel", hidden=True, num_key_value_heads=2),
    "Qwen2": text("Qwen2Config", "Qwen2Model", hidden=True, num_key_value_heads=2),
    "OPT": hugging(
        "text",
        "OPTConfig",
        "OPTModel",
        tokens(),
        hidden=True,
        vocab_size=120,
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        ffn_dim=128,
        word_embed_proj_dim=64,
        max_position_embeddings=64,
    ),
}


def settled(model: nn.Module, inputs: Callable[[int], Inputs]) -> nn.Module:
    """Batch-norm statistics of the inputs: with those of a new model, activations vanish on the way and every output equals the last bias."""
    model.train()
    with torch.no_grad():
        for seed in range(5):
            batch = inputs(8 + seed)
            model(**batch) if isinstance(batch, dict) else model(batch)
    return model.eval()


def check(name: str, folder: Path) -> Row:
    """Capture, export, run in every runtime at another batch size, and put the outputs before the gate."""
    found = ARCHITECTURES[name]
    model = settled(found.make(), found.inputs)
    params = sum(p.numel() for p in model.parameters())
    start = time.perf_counter()
    differences: dict[str, float] = {}
    captured = exported = 0.0
    try:
        program = lc.capture(model, found.inputs(2), dynamic=found.dynamic)
        captured = time.perf_counter() - start
        file = write_model(program, folder, "onnx")
        exported = time.perf_counter() - start - captured
        inputs = found.inputs(3)
        with torch.no_grad():
            outputs = model(**inputs) if isinstance(inputs, dict) else model(inputs)
            expected = [leaf.numpy() for leaf in program.graph_module(*program.flatten_inputs(inputs))]
            answer = program.call(inputs)
            first, twin = (np.asarray(found if isinstance(found, Tensor) else found[0]) for found in (answer, outputs))
        differences["program"] = parity([first], [twin])["max_rel"]
        for kind in RUNTIMES:
            session = runtime(kind).load(file, Settings(kind))
            evidence, reason = gate.parity(parity(session.run([leaf.numpy() for leaf in program.flatten_inputs(inputs)]), expected), "fp32")
            differences[kind] = evidence["max_rel"]
            if reason is not None:
                return Row(name, found.kind, params, captured, exported, differences, f"{kind}: {reason.text}")
    except (LaconicError, RuntimeError, ValueError, TypeError) as error:
        return Row(name, found.kind, params, captured, exported, differences, told(error))
    return Row(name, found.kind, params, captured, exported, differences)


def told(error: BaseException) -> str:
    """The reason in one line, without the paths of this machine."""
    text = " ".join(str(error).split())
    text = re.sub(r"/\S*/site-packages/", "", text)
    text = re.sub(r"Exception from \S+ |Check '\w+' failed at \S+ ", "", text)
    return text if len(text) <= 400 else f"{text[:250]} … {text[-150:]}"


def line(row: Row) -> str:
    """One line of the table; seconds are left out, because they change from machine to machine."""
    shown = [f"{row.differences[kind]:.0e}" if kind in row.differences else "–" for kind in ("program", *RUNTIMES)]
    return f"| {row.name} | {row.kind} | {row.params:,} | {' | '.join(shown)} | {'yes' if not row.reason else 'no: ' + row.reason} |"


def table(rows: list[Row]) -> Iterator[str]:
    passed = sum(not row.reason for row in rows)
    yield "# Architectures\n"
    yield "Captured, exported to ONNX, run in ONNX Runtime and OpenVINO with another batch size, held to the gate's parity rule."
    yield f"Written by `python -m benchmarks.architectures`; CI makes some of the rows again. **{passed} of {len(rows)} hold.**\n"
    yield "Differences are relative to the largest output: of the captured program to the module, and of each runtime to the program.\n"
    yield "| architecture | kind | parameters | program | ONNX Runtime | OpenVINO | holds |"
    yield "| --- | --- | ---: | ---: | ---: | ---: | --- |"
    yield from (line(row) for row in rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="*", choices=list(ARCHITECTURES), help="print these rows and write nothing")
    only = parser.parse_args().only
    rows = []
    for name in only or ARCHITECTURES:
        with tempfile.TemporaryDirectory() as folder:
            row = check(name, Path(folder))
        rows.append(row)
        print(f"{line(row)}  capture {row.capture_s:.1f} s, export {row.export_s:.1f} s", flush=True)
    passed = sum(not row.reason for row in rows)
    print(f"{passed} of {len(rows)} hold")
    if not only:
        DOCS.write_text("\n".join(table(rows)) + "\n")
        print(f"wrote {DOCS}")


if __name__ == "__main__":
    main()
